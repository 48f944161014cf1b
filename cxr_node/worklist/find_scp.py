"""C-FIND of both worklists: Unified Procedure Step (Pull, Watch, Query) and Modality Worklist.

Source: DICOM PS3.4 C.4.1, CC.2.8, K.4.1.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import tzinfo as TimeZone
from typing import Any

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    ModalityWorklistInformationFind,
    UnifiedProcedureStepPull,
    UnifiedProcedureStepQuery,
    UnifiedProcedureStepWatch,
)
from sqlalchemy.exc import SQLAlchemyError

from cxr_node import metrics
from cxr_node.log import get_logger
from cxr_node.settings import Settings
from cxr_node.worklist import mwl
from cxr_node.worklist.items import Work, build
from cxr_node.worklist.matching import answer, has_unsupported_keys, matches, repair_text, values_of, zone_of
from cxr_node.worklist.services import Services
from cxr_node.worklist.ups_tasks import MOST_UIDS
from storage import instances, studies, work_items
from storage.errors import StorageError
from storage.studies import Study
from storage.work_items import READING, SCHEDULED, Mark, WorkItem

log = get_logger("worklist")

# PS3.4 C.4.1.1.4 and CC.2.8.4
SUCCESS = 0x0000
PENDING = 0xFF00
PENDING_WITHOUT_OPTIONAL_KEYS = 0xFF01
CANCELLED = 0xFE00
OUT_OF_RESOURCES = 0xA700
IDENTIFIER_DOES_NOT_MATCH = 0xA900

MOST_WAITING_RESPONSES = 64
_POLL_S = 0.002

MODELS = (UnifiedProcedureStepPull, UnifiedProcedureStepWatch, UnifiedProcedureStepQuery)

# What a dataset that a stranger encoded may raise while it is read.
UNREADABLE = (
    BytesLengthException,
    EOFError,
    ValueError,
    NotImplementedError,
    KeyError,
    AttributeError,
    TypeError,
    LookupError,
)


class FindScp:
    """Answers queries with the list as it is at that moment, in reading order."""

    def __init__(self, settings: Settings, services: Services) -> None:
        self._settings = settings
        self._services = services

    def find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        """Handle C-FIND."""
        is_mwl = event.request.AffectedSOPClassUID == ModalityWorklistInformationFind
        service = "mwl" if is_mwl else "ups"
        count = 0
        try:
            identifier = event.identifier
            repair_text(identifier)
            asked_zone = zone_of(identifier)
            for status, found in self._answers(identifier, is_mwl, asked_zone):
                if event.is_cancelled:
                    metrics.QUERIES.labels(service, f"{CANCELLED:04X}").inc()
                    yield CANCELLED, None
                    return
                count += 1
                if not _room(event.assoc):
                    return
                if asked_zone is not None:
                    found.TimezoneOffsetFromUTC = identifier.TimezoneOffsetFromUTC
                yield status, found
        except (StorageError, SQLAlchemyError) as error:
            yield failed(service, OUT_OF_RESOURCES, error), None
            return
        except UNREADABLE as error:
            yield failed(service, IDENTIFIER_DOES_NOT_MATCH, error), None
            return
        metrics.QUERIES.labels(service, f"{SUCCESS:04X}").inc()
        self._services.audit.record(f"{service}_queried", actor=actor_of(event), matches=count)
        log.info("worklist_queried", service=service, matches=count)

    def _answers(self, identifier: Dataset, is_mwl: bool, asked_zone: TimeZone | None) -> Iterator[tuple[int, Dataset]]:
        zone = asked_zone or self._services.zone
        if is_mwl:
            yield from self._modality_worklist(identifier, zone)
            return
        for found, lacks_keys in self._services.ups.tasks.find(identifier, now=self._services.now(), zone=zone):
            yield PENDING_WITHOUT_OPTIONAL_KEYS if lacks_keys else PENDING, answer(identifier, found, zone)

    def _modality_worklist(self, identifier: Dataset, zone: TimeZone) -> Iterator[tuple[int, Dataset]]:
        wanted = set(identifier.keys())
        status = PENDING_WITHOUT_OPTIONAL_KEYS if has_unsupported_keys(identifier, mwl.ATTRIBUTES) else PENDING
        for study, row in self._readings(values_of(identifier, "StudyInstanceUID")):
            work = self._work(study, row, zone)
            item = build(mwl.ATTRIBUTES, work, wanted)
            if not matches(identifier, item, zone):
                continue
            if "InputInformationSequence" in identifier:
                item = build(mwl.ATTRIBUTES, self._with_images(work), wanted)
            yield status, answer(identifier, item, zone)

    def _readings(self, uids: list[str]) -> Iterator[tuple[Study, Mark | WorkItem | None]]:
        """Yield the studies on the list with their reading tasks; those of `uids` are looked up, not walked to."""
        services, since = self._services, self._services.ups.tasks.since(self._services.now())
        if 0 < len(uids) <= MOST_UIDS:
            with services.database.read() as connection:
                named = [studies.get(connection, uid) for uid in dict.fromkeys(uids)]
                rows = {uid: work_items.reading(connection, uid) for uid in uids}
            for study in named:
                if study is not None and studies.is_listed(study, since):
                    yield study, rows[study.study_instance_uid]
            return
        with services.database.read() as connection:
            claimed = {
                mark.study_instance_uid: mark for mark in work_items.acted_on(connection, since=since, kinds=[READING])
            }
        for study in services.listing.walk():
            yield study, claimed.get(study.study_instance_uid)

    def _work(self, study: Study, row: Mark | WorkItem | None, zone: TimeZone) -> Work:
        worklist = self._settings.worklist
        state = row.state if row is not None else SCHEDULED
        changed_at = row.acted_at if row is not None else None
        return Work(study, worklist.max_wait_min, zone, worklist.dicom_ae_title, state=state, changed_at=changed_at)

    def _with_images(self, work: Work) -> Work:
        with self._services.database.read() as connection:
            return replace(work, images=instances.of_study(connection, work.study.study_instance_uid))


def _room(association: Any) -> bool:
    """Wait while the peer does not take what it asked for, and return whether it is still there.

    The library queues every response at once; a long list for a slow reader would stand in memory whole.
    """
    queue = association.dul.to_provider_queue
    while queue.qsize() >= MOST_WAITING_RESPONSES:
        if not (association.is_established and association.dul.is_alive()):
            return False
        time.sleep(_POLL_S)
    return True


def actor_of(event: Any) -> str:
    """Return who asks, for the audit trail."""
    requestor = event.assoc.requestor
    return f"{requestor.ae_title.strip()}@{requestor.address}"


def failed(service: str, status: int, error: Exception) -> int:
    """Count and log a request that could not be answered, without what it holds; return the status."""
    metrics.QUERIES.labels(service, f"{status:04X}").inc()
    log.error("worklist_query_failed", service=service, status=f"{status:04X}", error_type=type(error).__name__)
    return status
