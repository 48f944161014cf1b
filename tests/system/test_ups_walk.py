"""A foreign client walks the work items of a whole node, with datasets and messages of its own."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, generate_uid
from pynetdicom import AE, evt

from cxr_node.requestor import associate
from tests.builders import make_radiograph_dataset
from tests.system.conftest import Node, free_port, wait_until

pytestmark = pytest.mark.requirement("SRS-UPS-016")

PUSH, WATCH, PULL = (UID(f"1.2.840.10008.5.1.4.34.6.{number}") for number in (1, 2, 3))
EVENT, GLOBAL = UID("1.2.840.10008.5.1.4.34.6.4"), "1.2.840.10008.5.1.4.34.5"
CHANGE_STATE, REQUEST_CANCEL, SUBSCRIBE, UNSUBSCRIBE = 1, 2, 3, 4


class Reader:
    """A reading system: asks the node, and hears its events on a port of its own."""

    def __init__(self, port: int) -> None:
        self.node_port = port
        self.events: list[tuple[int, str, Dataset]] = []
        self._lock = threading.Lock()
        ae = AE(ae_title="READER")
        ae.add_supported_context(EVENT, scu_role=True, scp_role=True)
        self._server = ae.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._heard)]
        )
        self.port = self._server.server_address[1]

    def stop(self) -> None:
        self._server.shutdown()

    def _heard(self, event: Any) -> tuple[int, None]:
        with self._lock:
            told = event.event_information
            self.events.append((event.request.EventTypeID, str(event.request.AffectedSOPInstanceUID), told))
        return 0x0000, None

    def states(self, uid: str) -> list[str]:
        with self._lock:
            return [told[0x00741000].value for kind, about, told in self.events if (kind, about) == (1, uid)]

    def ask(self, sop_class: UID, call: Any, calling: str = "READER") -> Any:
        ae = AE(ae_title=calling)
        ae.add_requested_context(sop_class)
        link = associate(ae, "127.0.0.1", self.node_port, ae_title="CXR_WORKLIST")
        assert link.is_established
        try:
            return call(link)
        finally:
            link.release()

    def find(self, code: str, state: str = "") -> list[Dataset]:
        keys = Dataset()
        keys[0x00080018] = element(0x00080018, "UI", "")
        keys[0x0020000D] = element(0x0020000D, "UI", "")
        keys[0x00741000] = element(0x00741000, "CS", state)
        keys[0x00100010] = element(0x00100010, "PN", "")
        workitem = Dataset()
        workitem[0x00080100] = element(0x00080100, "SH", code)
        keys[0x00404018] = element(0x00404018, "SQ", Sequence([workitem]))
        answers = self.ask(PULL, lambda link: list(link.send_c_find(keys, PULL)))
        assert answers[-1][0].Status == 0x0000
        return [found for _, found in answers[:-1]]

    def action(self, number: int, uid: str, calling: str = "READER", **values: str) -> int:
        information = Dataset()
        for keyword, value in values.items():
            setattr(information, keyword, value)
        sop_class = PULL if number == CHANGE_STATE else WATCH
        answer = self.ask(
            sop_class,
            lambda link: link.send_n_action(information or None, number, PUSH, uid, meta_uid=sop_class),
            calling,
        )
        return int(answer[0].Status)

    def change(self, uid: str, state: str, lock: str, calling: str = "READER") -> int:
        return self.action(CHANGE_STATE, uid, calling, ProcedureStepState=state, TransactionUID=lock)

    def set(self, uid: str, dataset: Dataset) -> int:
        return int(self.ask(PULL, lambda link: link.send_n_set(dataset, PUSH, uid, meta_uid=PULL))[0].Status)

    def get(self, uid: str) -> Dataset:
        status, found = self.ask(PULL, lambda link: link.send_n_get([0x00741000, 0x00741216], PUSH, uid, meta_uid=PULL))
        assert status.Status == 0x0000
        return found


def element(tag: int, vr: str, value: Any) -> Any:
    """Return a data element."""
    dataset = Dataset()
    dataset.add_new(tag, vr, value)
    return dataset[tag]


def code_item(value: str, scheme: str, meaning: str) -> Dataset:
    """Return a code sequence item."""
    item = Dataset()
    item[0x00080100] = element(0x00080100, "SH", value)
    item[0x00080102] = element(0x00080102, "SH", scheme)
    item[0x00080104] = element(0x00080104, "LO", meaning)
    return item


def performed(lock: str) -> Dataset:
    """Return what a reader reports: a station, two times, what was done, and no output."""
    item = Dataset()
    item[0x00404028] = element(0x00404028, "SQ", Sequence([code_item("WS7", "99READ", "Workstation 7")]))
    item[0x00404050] = element(0x00404050, "DT", "20260302120000")
    item[0x00404051] = element(0x00404051, "DT", "20260302120500")
    item[0x00404019] = element(0x00404019, "SQ", Sequence([code_item("110005", "DCM", "Interpretation")]))
    item[0x00404033] = element(0x00404033, "SQ", Sequence())
    given = Dataset()
    given[0x00081195] = element(0x00081195, "UI", lock)
    given[0x00741216] = element(0x00741216, "SQ", Sequence([item]))
    return given


def send_study(node: Node) -> str:
    """C-STORE a radiograph; return its Study Instance UID."""
    dataset = make_radiograph_dataset()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = (generate_uid() for _ in range(3))
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    ae = AE(ae_title="CR_ROOM_1")
    ae.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    link = associate(ae, "127.0.0.1", node.port, ae_title="CXR_NODE")
    assert link.is_established
    assert link.send_c_store(dataset).Status == 0x0000
    link.release()
    return str(dataset.StudyInstanceUID)


def wait_for_port(port: int) -> None:
    """Wait until somebody listens there."""

    def is_open() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(is_open, 30, f"port {port}")


@pytest.fixture(scope="module")
def walk(tmp_path_factory) -> Iterator[tuple[Node, Reader]]:
    """A node and a reading system that it knows."""
    port = free_port()
    reader = Reader(port)
    peer = f'[[peer]]\nae_title = "READER"\nhost = "127.0.0.1"\nport = {reader.port}\n'
    node = Node(tmp_path_factory.mktemp("walk") / "node", extra=peer, dicom_port=port)
    try:
        node.start()
        wait_for_port(port)
        yield node, reader
    finally:
        node.stop()
        reader.stop()


def test_a_foreign_client_walks_a_reading_task_over_a_restart(walk):
    """Subscribe, see a study come and be analysed, claim, lose the node, go on, complete; every wrong step is named."""
    node, reader = walk
    assert reader.action(SUBSCRIBE, GLOBAL, ReceivingAE="READER", DeletionLock="TRUE") == 0x0000
    assert reader.action(SUBSCRIBE, GLOBAL, ReceivingAE="NOBODY", DeletionLock="FALSE") == 0xC308
    study = send_study(node)
    node.wait_for(study)
    [task] = [item for item in reader.find("110005", "SCHEDULED") if item.StudyInstanceUID == study]
    uid = str(task.SOPInstanceUID)
    wait_until(lambda: reader.states(uid), 20, "the study's arrival told")
    wait_until(lambda: reader.find("110004", "COMPLETED"), 20, "the analysis completed")
    [analysis] = [item for item in reader.find("110004", "COMPLETED") if item.StudyInstanceUID == study]
    about = str(analysis.SOPInstanceUID)
    wait_until(lambda: reader.states(about)[-1:] == ["COMPLETED"], 20, "the analysis told")
    assert reader.states(about) == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    output = reader.get(about)[0x00741216][0][0x00404033]
    assert output[0].StudyInstanceUID == study
    assert output[0].SeriesInstanceUID
    assert output[0].ReferencedSOPSequence[0].ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"

    lock, other = generate_uid(), generate_uid()
    assert reader.change(uid, "COMPLETED", lock) == 0xC310
    assert reader.change(uid, "SCHEDULED", lock) == 0xC303
    assert reader.change(generate_uid(), "IN PROGRESS", lock) == 0xC307
    assert reader.change(uid, "IN PROGRESS", lock) == 0x0000
    assert reader.change(uid, "IN PROGRESS", other, calling="SECOND") == 0xC301
    assert reader.change(uid, "IN PROGRESS", lock) == 0xC302
    claimed = node.study(study)["reading"]
    assert claimed == {"state": "IN PROGRESS", "performer": "READER"}
    assert reader.action(REQUEST_CANCEL, uid, calling="SECOND", ReasonForCancellation="later") == 0x0000
    wait_until(lambda: [kind for kind, item, _ in reader.events if (kind, item) == (2, uid)], 10, "cancel requested")

    node.stop()
    node.start()
    wait_for_port(node.dicom_port)
    assert reader.get(uid).ProcedureStepState == "IN PROGRESS"
    assert reader.set(uid, performed(other)) == 0xC301
    assert reader.change(uid, "COMPLETED", lock) == 0xC304
    assert reader.set(uid, performed(lock)) == 0x0000
    assert reader.change(uid, "COMPLETED", other) == 0xC301
    assert reader.change(uid, "COMPLETED", lock) == 0x0000
    assert reader.change(uid, "COMPLETED", lock) == 0xB306
    assert reader.change(uid, "CANCELED", lock) == 0xC300
    assert reader.set(uid, performed(lock)) == 0xC300
    assert reader.action(REQUEST_CANCEL, uid) == 0xC311
    assert "TransactionUID" not in reader.get(uid)
    wait_until(lambda: reader.states(uid)[-1:] == ["COMPLETED"], 20, "completion told")
    assert list(dict.fromkeys(reader.states(uid))) == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    assert node.study(study)["read_at"]
    assert study not in [one["study_instance_uid"] for one in node.studies()]
    told = [told.SCPStatus for kind, _, told in reader.events if kind == 4]
    assert told[-1] == "RESTARTED"


def test_a_foreign_client_gives_a_task_back(walk):
    """Claimed and canceled: final for the task, while the study stays on the list for everybody."""
    node, reader = walk
    study = send_study(node)
    found = wait_until(
        lambda: [item for item in reader.find("110005", "SCHEDULED") if item.StudyInstanceUID == study],
        20,
        "the reading task",
    )
    uid, lock = str(found[0].SOPInstanceUID), generate_uid()
    assert reader.change(uid, "CANCELED", lock) == 0xC310
    assert reader.change(uid, "IN PROGRESS", lock) == 0x0000
    assert reader.change(uid, "CANCELED", generate_uid()) == 0xC301
    assert reader.change(uid, "CANCELED", lock) == 0x0000
    assert reader.change(uid, "CANCELED", lock) == 0xB304
    assert reader.change(uid, "COMPLETED", lock) == 0xC300
    assert reader.action(REQUEST_CANCEL, uid) == 0xB304
    assert study in [one["study_instance_uid"] for one in node.studies()]
    assert reader.action(UNSUBSCRIBE, GLOBAL, ReceivingAE="READER") == 0x0000
