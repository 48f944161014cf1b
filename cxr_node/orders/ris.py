"""The Modality Worklist of the RIS, asked by C-FIND what was ordered for a study.

By accession number, else by Study Instance UID, else by patient ID with modality and date: the first that brings an
answer of this study counts, and only where all its answers say the same. Whatever the RIS answers to a key that holds a
wildcard, only what equals the study's own values is of the study.

Source: DICOM PS3.4 K.4.1 and K.6.1; (0040,1003) Requested Procedure Priority, PS3.3 C.4.11.
"""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import ModalityWorklistInformationFind  # type: ignore[attr-defined]

from cxr_node.errors import RisRefused, RisUnavailable
from cxr_node.orders.priority import read_priority
from cxr_node.requestor import associate
from cxr_node.settings import Ris
from cxr_node.tls import Minimum, client_context
from storage.orders import MWL, Order, matches
from storage.studies import Study

MOST_ANSWERS = 100
_PENDING = (0xFF00, 0xFF01)
_OUT_OF_RESOURCES = 0xA700


@dataclass(frozen=True)
class Told:
    """What the RIS said of a study: its order, or that its answers differ; neither where it knows none."""

    order: Order | None = None
    is_ambiguous: bool = False


def keys_of(study: Study) -> list[Dataset]:
    """Return the identifiers to ask with, one after the other."""
    context = study.context
    found = []
    if _is_key(context.accession_number):
        found.append(_identifier(AccessionNumber=context.accession_number.strip()))
    found.append(_identifier(StudyInstanceUID=study.study_instance_uid))
    if _is_key(context.patient_id) and context.modality.strip() and context.study_date.strip():
        step = {"Modality": context.modality.strip(), "ScheduledProcedureStepStartDate": context.study_date.strip()}
        found.append(_identifier(step, PatientID=context.patient_id.strip()))
    return found


def conclude(study: Study, key: Dataset, answers: Sequence[Dataset]) -> Told | None:
    """Return what the answers to one identifier say of the study; None where none of them is of it."""
    if key.AccessionNumber or key.StudyInstanceUID:
        found = [order for order in map(_order, answers) if matches(order, study)]
        own = [order for order in found if order.study_instance_uid == study.study_instance_uid]
        found = own or found
        if not found:
            return None
        if len({order.priority for order in found}) > 1:
            return Told(is_ambiguous=True)
    else:
        found = [order for order in map(_order, answers) if _may_be(order, study)]
        if not found:
            return None
        if (
            len({(order.accession_number, order.requested_procedure_id, order.study_instance_uid) for order in found})
            > 1
        ):
            return Told(is_ambiguous=True)
    # Bound to the study: it is its order, whatever Study Instance UID the RIS had meant it to get.
    return Told(_bound(found[0], study))


def _may_be(order: Order, study: Study) -> bool:
    """Whether an answer by patient, modality and date is the study's: the same patient, and no other accession."""
    accession_number = study.context.accession_number.strip()
    return (
        order.patient_id == study.context.patient_id.strip()
        and matches(_bound(order, study), study)
        and ("" in (order.accession_number, accession_number) or order.accession_number == accession_number)
    )


def _bound(order: Order, study: Study) -> Order:
    return replace(order, study_instance_uid=study.study_instance_uid)


def _is_key(value: str) -> bool:
    """Whether C-FIND takes the value for one value: a backslash would make it a list."""
    return bool(value.strip()) and "\\" not in value


def _identifier(step: dict[str, str] | None = None, **keys: str) -> Dataset:
    """Return an identifier with the keys and every attribute that is wanted back."""
    identifier = Dataset()
    for keyword in (
        "AccessionNumber",
        "PatientID",
        "IssuerOfPatientID",
        "StudyInstanceUID",
        "RequestedProcedureID",
        "RequestedProcedurePriority",
        "PlacerOrderNumberImagingServiceRequest",
        "FillerOrderNumberImagingServiceRequest",
    ):
        setattr(identifier, keyword, keys.get(keyword, ""))
    item = Dataset()
    item.Modality = item.ScheduledProcedureStepStartDate = item.ScheduledProcedureStepID = ""
    for keyword, value in (step or {}).items():
        setattr(item, keyword, value)
    identifier.ScheduledProcedureStepSequence = [item]
    if not all(str(value).isascii() for value in (*keys.values(), *(step or {}).values())):
        identifier.SpecificCharacterSet = "ISO_IR 192"
    return identifier


def _order(answer: Dataset) -> Order:
    accession, study = _text(answer, "AccessionNumber"), _text(answer, "StudyInstanceUID")
    procedure, written = _text(answer, "RequestedProcedureID"), _text(answer, "RequestedProcedurePriority")
    placer = _text(answer, "PlacerOrderNumberImagingServiceRequest")
    return Order(
        source=MWL,
        order_key="/".join((study or accession or placer or _text(answer, "PatientID"), procedure)),
        accession_number=accession,
        patient_id=_text(answer, "PatientID"),
        issuer_of_patient_id=_text(answer, "IssuerOfPatientID"),
        study_instance_uid=study,
        placer_order_number=placer,
        filler_order_number=_text(answer, "FillerOrderNumberImagingServiceRequest"),
        requested_procedure_id=procedure,
        priority=read_priority(written),
        priority_text=written,
    )


def _text(dataset: Dataset, keyword: str) -> str:
    try:
        value = dataset.get(keyword)
    except (ValueError, LookupError, TypeError, AttributeError, NotImplementedError):
        return ""
    return "" if value is None else str(value).strip(" \0")[:256]


class RisWorklist:
    """The SCU. `tls_files` are certificate, key and ca of node.toml, resolved; absent where not given."""

    def __init__(
        self, ris: Ris, *, calling_ae_title: str, tls_files: dict[str, Path], tls_minimum: Minimum = "1.2"
    ) -> None:
        self._ris = ris
        self._calling_ae_title = calling_ae_title
        self._tls_files, self._tls_minimum = tls_files, tls_minimum

    @property
    def _where(self) -> str:
        return f"worklist of the RIS, {self._ris.ae_title} at {self._ris.host}:{self._ris.port}"

    def ask(self, study: Study) -> Told:
        """Return what the RIS knows of the study.

        Raises
        ------
        RisUnavailable
            No association or no whole answer; it may pass.
        RisRefused
            It takes no Modality Worklist query, or not this one.
        """
        association = self._associate()
        try:
            for key in keys_of(study):
                told = conclude(study, key, self._find(association, key))
                if told is not None:
                    return told
            return Told()
        finally:
            if association.is_established:
                association.acse_timeout = min(self._ris.timeout_s, 5.0)
                association.release()

    def _associate(self) -> Any:
        ae = AE(ae_title=self._calling_ae_title)
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = self._ris.timeout_s
        ae.add_requested_context(ModalityWorklistInformationFind)
        tls = (self._tls_context(), self._ris.host) if self._ris.tls.enabled else None
        try:
            association = associate(ae, self._ris.host, self._ris.port, ae_title=self._ris.ae_title, tls_args=tls)
        except OSError as error:
            raise RisUnavailable(f"{self._where}: {error.strerror or type(error).__name__}") from error
        if association.is_established:
            return association
        if association.is_rejected:
            answer: Any = association.acceptor.primitive
            raise RisUnavailable(
                f"{self._where} rejects the association of {self._calling_ae_title} "
                f"({answer.result_str}, {answer.source_str}, {answer.reason_str})"
            )
        if association.rejected_contexts:
            raise RisRefused(f"{self._where} takes no Modality Worklist query: enable this SOP class there")
        raise RisUnavailable(f"{self._where}: no connection within {self._ris.timeout_s:g} s, or it was closed")

    def _find(self, association: Any, key: Dataset) -> list[Dataset]:
        answers: list[Dataset] = []
        for status, identifier in association.send_c_find(key, ModalityWorklistInformationFind):
            if not status or "Status" not in status:
                raise RisUnavailable(f"{self._where} did not answer the query within {self._ris.timeout_s:g} s")
            if status.Status in _PENDING:
                if identifier is not None and len(answers) < MOST_ANSWERS:
                    answers.append(identifier)
                continue
            if status.Status == _OUT_OF_RESOURCES:
                raise RisUnavailable(f"{self._where} is out of resources (0x{status.Status:04X})")
            if status.Status != 0x0000:
                raise RisRefused(f"{self._where} refused the query with status 0x{status.Status:04X}")
        return answers

    def _tls_context(self) -> ssl.SSLContext:
        try:
            return client_context(self._tls_files, minimum=self._tls_minimum)
        except OSError as error:  # ssl.SSLError is one
            raise RisUnavailable(f"orders.ris.tls: {error.strerror or type(error).__name__}") from error
