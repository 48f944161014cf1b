"""A source that speaks DIMSE: C-FIND and C-MOVE, Study Root. Source: DICOM PS3.4 C.4.1, C.4.2, C.6.2."""

import contextlib
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
)

from cxr_node.errors import SourceRefused, SourceUnavailable
from cxr_node.fetch.query import Fetched, Found, Query, found_of, modalities_of, number_of
from cxr_node.fetch.statuses import PENDING, SOME_FAILED, SUCCESS, find_error, move_error
from cxr_node.requestor import associate
from cxr_node.settings import Source
from cxr_node.tls import Minimum, client_context

FIND = StudyRootQueryRetrieveInformationModelFind
MOVE = StudyRootQueryRetrieveInformationModelMove
_CALLED_UNKNOWN, _CALLING_UNKNOWN = (1, 7), (1, 3)  # source and reason of A-ASSOCIATE-RJ, PS3.8 table 9-21


class DimseSource:
    """Finds by C-FIND, fetches by C-MOVE to the node's own AE.

    Parameters
    ----------
    own_ae_title, own_port : the node's Storage SCP, the move destination
    tls_files : certificate, key, ca of `source.tls`, those that are set
    """

    def __init__(
        self,
        source: Source,
        *,
        own_ae_title: str,
        own_port: int,
        tls_files: Mapping[str, Path],
        tls_minimum: Minimum = "1.2",
    ) -> None:
        self._source = source
        self._own_ae_title, self._own_port = own_ae_title.strip(), own_port
        self._tls_files, self._tls_minimum = dict(tls_files), tls_minimum

    @property
    def _where(self) -> str:
        return f"{self._source.name}: {self._source.ae_title.strip()} at {self._source.host}:{self._source.port}"

    def find(self, query: Query) -> Iterator[Found]:
        """Yield the studies, each once, a query for each day; see `query.Source`."""
        seen: set[str] = set()
        with self._association(FIND) as association:
            for day in query.days():
                for answer in self._ask(association, _study_keys(query, f"{day:%Y%m%d}")):
                    found = found_of(answer)
                    if found is None or found.study_instance_uid in seen:
                        continue
                    if self._is_wanted(association, found, answer, query.modalities):
                        seen.add(found.study_instance_uid)
                        yield found

    def _is_wanted(self, association: Association, found: Found, answer: Dataset, modalities: tuple[str, ...]) -> bool:
        """Whether the study holds a wanted modality. The key is optional: who does not know it is asked for series."""
        if not modalities:
            return True
        held = modalities_of(answer)
        if held is None:
            keys = Dataset()
            keys.QueryRetrieveLevel = "SERIES"
            keys.StudyInstanceUID = found.study_instance_uid
            keys.SeriesInstanceUID = ""
            keys.Modality = ""
            held = {str(item.get("Modality", "") or "").strip() for item in self._ask(association, keys)}
        return bool(held & set(modalities))

    def _ask(self, association: Association, keys: Dataset) -> list[Dataset]:
        """Return every answer of one C-FIND, read to its end before the association is used again."""
        answers: list[Dataset] = []
        try:
            for status, answer in association.send_c_find(keys, FIND):
                if "Status" not in status:
                    raise SourceUnavailable(f"{self._where} broke off during C-FIND, or did not answer in time")
                if status.Status in PENDING:
                    if answer is not None:
                        answers.append(answer)
                elif status.Status != SUCCESS:
                    raise find_error(self._where, status.Status)
        except (RuntimeError, ValueError) as error:  # the association ended before
            raise SourceUnavailable(f"{self._where} broke off during C-FIND") from error
        return answers

    def fetch(self, study_instance_uid: str) -> Fetched:
        """C-MOVE the study to the node; see `query.Source`."""
        keys = Dataset()
        keys.QueryRetrieveLevel = "STUDY"
        keys.StudyInstanceUID = study_instance_uid
        last = Dataset()
        uids: tuple[str, ...] = ()
        with self._association(MOVE) as association:
            try:
                for status, answer in association.send_c_move(keys, self._own_ae_title, MOVE):
                    last = status
                    if answer is not None and "FailedSOPInstanceUIDList" in answer:
                        uids = _as_tuple(answer.FailedSOPInstanceUIDList)
            except (RuntimeError, ValueError) as error:
                raise SourceUnavailable(f"{self._where} broke off during C-MOVE") from error
        if "Status" not in last or last.Status in PENDING:
            raise SourceUnavailable(f"{self._where} broke off during C-MOVE, or did not answer in time")
        done = last.get("NumberOfCompletedSuboperations")
        warned = number_of(last, "NumberOfWarningSuboperations")
        failed = number_of(last, "NumberOfFailedSuboperations") or len(uids)
        sent = None if done is None else int(done) + warned
        if last.Status == SUCCESS and not failed:
            return Fetched(sent)
        if last.Status in (SUCCESS, SOME_FAILED) or (failed and sent):
            of = f"{failed} of {(sent or 0) + failed} instances"
            return Fetched(sent, failed, f"{self._where} could not send {of} (0x{last.Status:04X})", uids)
        if last.Status & 0xF000 == 0xC000:  # of this study, not of the source
            return Fetched(sent, failed, f"{self._where} could not process C-MOVE (0x{last.Status:04X})", uids)
        raise move_error(self._where, last.Status, self._own_ae_title, self._own_port)

    @contextlib.contextmanager
    def _association(self, sop_class_uid: str) -> Iterator[Association]:
        ae = AE(ae_title=self._own_ae_title)
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = self._source.timeout_s
        ae.add_requested_context(sop_class_uid)
        try:
            association = associate(
                ae,
                self._source.host,
                self._source.port,
                ae_title=self._source.ae_title,
                tls_args=(self._tls_context(), self._source.host) if self._source.tls.enabled else None,
            )
        except OSError as error:
            raise SourceUnavailable(f"{self._where}: {error.strerror or type(error).__name__}") from error
        if not association.is_established:
            raise self._trouble(association, sop_class_uid)
        try:
            yield association
        except BaseException:
            association.abort()  # in the middle of an operation, which a release must not interrupt
            raise
        if association.is_established:
            association.acse_timeout = min(5.0, self._source.timeout_s)
            association.release()

    def _tls_context(self) -> ssl.SSLContext:
        try:
            return client_context(self._tls_files, minimum=self._tls_minimum)
        except OSError as error:
            raise SourceRefused(f"{self._source.name}: its TLS files cannot be used: {error.strerror}") from error

    def _trouble(self, association: Association, sop_class_uid: str) -> SourceUnavailable | SourceRefused:
        """Say why there is no association."""
        if association.is_rejected:
            answer: Any = association.acceptor.primitive
            cause = (answer.result_source, answer.diagnostic)
            if cause == _CALLED_UNKNOWN:
                return SourceRefused(f"{self._where} does not go by that AE title: correct ae_title in node.toml")
            if cause == _CALLING_UNKNOWN:
                return SourceRefused(
                    f"{self._where} does not know the calling AE title {self._own_ae_title}: add it to that system's "
                    "list of known AEs"
                )
            return SourceUnavailable(f"{self._where} takes no association now ({answer.reason_str})")
        if association.rejected_contexts:
            service = "C-FIND" if sop_class_uid == FIND else "C-MOVE"
            return SourceRefused(f"{self._where} offers no {service} of the Study Root model: enable it there")
        return SourceUnavailable(f"{self._where} does not answer: check host, port and TLS")


def _study_keys(query: Query, dates: str) -> Dataset:
    keys = Dataset()
    keys.QueryRetrieveLevel = "STUDY"
    keys.StudyInstanceUID = ""
    keys.StudyDate = dates
    keys.PatientID = query.patient_id
    # One value can be matched by the source; of several, its answers are looked through here.
    keys.ModalitiesInStudy = query.modalities[0] if len(query.modalities) == 1 else ""
    keys.NumberOfStudyRelatedInstances = ""
    return keys


def _as_tuple(value: Any) -> tuple[str, ...]:
    return (str(value),) if isinstance(value, str) else tuple(str(item) for item in value or ())
