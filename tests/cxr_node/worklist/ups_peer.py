"""Peers of the UPS SCP on the wire: one that asks, and one that is told."""

import threading
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    UnifiedProcedureStepEvent,
    UnifiedProcedureStepPull,
    UnifiedProcedureStepPush,
    UnifiedProcedureStepWatch,
)

from cxr_node.requestor import associate

PULL, PUSH, WATCH = UnifiedProcedureStepPull, UnifiedProcedureStepPush, UnifiedProcedureStepWatch
CHANGE_STATE, REQUEST_CANCEL, SUBSCRIBE, UNSUBSCRIBE, SUSPEND = 1, 2, 3, 4, 5
GLOBAL, FILTERED = "1.2.840.10008.5.1.4.34.5", "1.2.840.10008.5.1.4.34.5.1"


def make(**values: Any) -> Dataset:
    """Return a dataset; a list of datasets becomes a sequence."""
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, DicomSequence(value) if isinstance(value, list) else value)
    return dataset


def code(value: str, meaning: str, scheme: str = "DCM") -> Dataset:
    """Return a code item."""
    return make(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def make_work_item(**changes: Any) -> Dataset:
    """Return what a RIS creates: every attribute of types 1 and 2. A change to None leaves the attribute out."""
    values: dict[str, Any] = {
        "TransactionUID": "",
        "ScheduledProcedureStepPriority": "MEDIUM",
        "ProcedureStepLabel": "Second reading",
        "WorklistLabel": "Chest",
        "ScheduledProcessingParametersSequence": [],
        "ScheduledStationNameCodeSequence": [],
        "ScheduledStationClassCodeSequence": [],
        "ScheduledStationGeographicLocationCodeSequence": [],
        "ScheduledProcedureStepStartDateTime": "20260302120000",
        "ScheduledWorkitemCodeSequence": [code("110005", "Interpretation")],
        "CommentsOnTheScheduledProcedureStep": "",
        "InputReadinessState": "READY",
        "InputInformationSequence": [],
        "PatientName": "Yamada^Tarou=山田^太郎",
        "PatientID": "P77",
        "PatientBirthDate": "19600101",
        "PatientSex": "M",
        "AdmissionID": "",
        "IssuerOfAdmissionIDSequence": [],
        "AdmittingDiagnosesDescription": "",
        "AdmittingDiagnosesCodeSequence": [],
        "ReferencedRequestSequence": [make(StudyInstanceUID="1.9.9", AccessionNumber="A9")],
        "ProcedureStepState": "SCHEDULED",
        "ProcedureStepProgressInformationSequence": [],
        "UnifiedProcedureStepPerformedProcedureSequence": [],
        "SpecificCharacterSet": "ISO_IR 192",
    }
    values.update(changes)
    return make(**{keyword: value for keyword, value in values.items() if value is not None})


def make_performed(**changes: Any) -> Dataset:
    """Return the attributes that a performer sets before COMPLETED. A change to None leaves the attribute out."""
    values: dict[str, Any] = {
        "PerformedStationNameCodeSequence": [code("WS1", "Workstation 1", "99HOSPITAL")],
        "PerformedProcedureStepStartDateTime": "20260302121000",
        "PerformedProcedureStepEndDateTime": "20260302121500",
        "PerformedWorkitemCodeSequence": [code("110005", "Interpretation")],
        "OutputInformationSequence": [],
    }
    values.update(changes)
    item = make(**{keyword: value for keyword, value in values.items() if value is not None})
    return make(UnifiedProcedureStepPerformedProcedureSequence=[item])


@dataclass
class Client:
    """An SCU of one AE title; every call is an association of its own."""

    port: int
    ae_title: str = "RIS"
    called: str = "CXR_WORKLIST"

    def _run(self, sop_class: str, call: Any) -> Any:
        ae = AE(ae_title=self.ae_title)
        ae.add_requested_context(sop_class)
        association = associate(ae, "127.0.0.1", self.port, ae_title=self.called)
        assert association.is_established
        try:
            return call(association)
        finally:
            association.release()

    def create(self, dataset: Dataset, uid: str | None) -> int:
        return int(self._run(PUSH, lambda link: link.send_n_create(dataset, PUSH, uid))[0].Status)

    def get(self, uid: str, tags: list[int] | None = None) -> tuple[int, Dataset | None]:
        status, found = self._run(PULL, lambda link: link.send_n_get(tags or [], PUSH, uid, meta_uid=PULL))
        return int(status.Status), found

    def set(self, uid: str, dataset: Dataset, lock: str | None = None) -> int:
        if lock is not None:
            dataset.TransactionUID = lock
        return int(self._run(PULL, lambda link: link.send_n_set(dataset, PUSH, uid, meta_uid=PULL))[0].Status)

    def act(self, action: int, uid: str, dataset: Dataset | None, sop_class: str = WATCH) -> int:
        if not dataset:
            dataset = None  # pynetdicom would announce a dataset and send none
        answer = self._run(sop_class, lambda link: link.send_n_action(dataset, action, PUSH, uid, meta_uid=sop_class))
        return int(answer[0].Status)

    def change(self, uid: str, state: str, lock: str = "") -> int:
        information = make(ProcedureStepState=state)
        if lock:
            information.TransactionUID = lock
        return self.act(CHANGE_STATE, uid, information, PULL)

    def cancel(self, uid: str, **values: Any) -> int:
        return self.act(REQUEST_CANCEL, uid, make(**values))

    def subscribe(self, uid: str, receiver: str, lock: str = "FALSE", **keys: Any) -> int:
        return self.act(SUBSCRIBE, uid, make(ReceivingAE=receiver, DeletionLock=lock, **keys))

    def unsubscribe(self, uid: str, receiver: str) -> int:
        return self.act(UNSUBSCRIBE, uid, make(ReceivingAE=receiver))

    def suspend(self, uid: str, receiver: str) -> int:
        return self.act(SUSPEND, uid, make(ReceivingAE=receiver))

    def find(self, **keys: Any) -> list[Dataset]:
        asked = make(SOPInstanceUID="", ProcedureStepState="", StudyInstanceUID="")
        asked.update(make(**keys))
        answers = self._run(PULL, lambda link: list(link.send_c_find(asked, PULL)))
        assert answers[-1][0].Status == 0x0000
        return [item for _, item in answers[:-1]]


@dataclass
class Receiver:
    """An SCU of UPS Event, as an SCP of its own: keeps what it is told, in order."""

    ae_title: str = "RIS"
    status: int = 0x0000
    events: list[tuple[int, str, Dataset]] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)
    port: int = 0
    _server: Any = None

    def start(self, port: int = 0) -> "Receiver":
        ae = AE(ae_title=self.ae_title)
        ae.add_supported_context(UnifiedProcedureStepEvent, scu_role=True, scp_role=True)
        self._server = ae.start_server(
            ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._report)]
        )
        self.port = self._server.server_address[1]
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _report(self, event: Any) -> tuple[int, None]:
        request = event.request
        self.events.append((int(request.EventTypeID), str(request.AffectedSOPInstanceUID), event.event_information))
        self.arrived.set()
        return self.status, None

    def states(self, uid: str) -> list[str]:
        """Return the states that were reported of a work item, in order."""
        return [found.ProcedureStepState for kind, about, found in self.events if (kind, about) == (1, uid)]
