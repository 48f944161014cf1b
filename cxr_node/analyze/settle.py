"""What an analysis leaves behind: result, objects, notice, priority, deliveries and audit, in one transaction."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydicom.dataset import Dataset
from sqlalchemy.engine import Connection

from cxr_node import metrics
from cxr_node.analyze.record import from_json, to_json
from cxr_node.analyze.study import Conclusion, OpenStudy
from cxr_node.clock import utc_now
from cxr_node.errors import StorageUnavailable
from cxr_node.findings import OrderedPriority, StudyOutcome, StudyStatus, effective_priority
from cxr_node.findings.priority import parse_ordered, rank, rank_of
from cxr_node.reporting import Notice, encode, encode_notice, make_failure_notice, make_notice
from cxr_node.settings import PRIORITY, Destination
from storage import InstanceFiles, audit, deliveries, jobs, manifests, monitoring, orders, results, studies
from storage.faults import fault_point
from storage.jobs import Job
from storage.results import Result
from storage.studies import Study

AI_PRIORITY = OrderedPriority.HIGH

_WRITERS = ThreadPoolExecutor(2, thread_name_prefix="notice")


@dataclass(frozen=True)
class _Stored:
    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    location: str


@dataclass(frozen=True)
class Settlement:
    """The rows of a conclusion, all or none.

    The bytes of objects and notice are made durable before the transaction that names them; only where an order
    arrived between the two is the notice written anew inside it, so that it never speaks of less than was ordered.
    """

    opened: OpenStudy
    conclusion: Conclusion
    objects: tuple[_Stored, ...]
    notice: _Stored
    files: InstanceFiles
    destinations: Sequence[Destination]
    now: Callable[[], datetime]
    station_name: str
    wait_s: float

    def __call__(self, connection: Connection) -> None:
        fault_point("analyze.objects-written")
        at, opened, outcome = self.now(), self.opened, self.conclusion.outcome
        uid = opened.study.study_instance_uid
        study = studies.get_locked(connection, uid)  # an order that comes from here on comes after the notice
        if study is None:
            raise StorageUnavailable("the study of this outcome has no row")
        if _has_new_image(opened.current, outcome) and studies.reopen(connection, uid, at):
            orders.apply(connection, uid, rank=rank_of, now=at)  # what was ordered while nobody was to read it
            study = studies.get(connection, uid) or study
        proposed, effective = _priorities(study, outcome)
        result = results.add(
            connection,
            uid,
            status=str(outcome.status),
            flagged=outcome.flagged,
            ai_priority=str(proposed or ""),
            outcome=self.conclusion.record,
            now=at,
        )
        expected = _revision(opened.current)
        if result.revision != expected:
            raise StorageUnavailable(f"revision {result.revision} found, {expected} expected: analysed twice at once")
        for prediction in self.conclusion.predictions:
            results.add_prediction(connection, prediction)
        monitoring.add_measures(connection, self.conclusion.measures)
        deliveries.supersede_older(connection, uid, result.revision, now=at)
        notice = self.notice
        if _told(study) != _told(opened.study):
            notice = _write_notice(_notice(study, opened, self.conclusion, self.station_name), self.files)
        stored = (*self.objects, notice)
        _plan(connection, result, stored, study, self.destinations, wait_s=self.wait_s, priority=effective, at=at)
        studies.set_outcome(
            connection,
            uid,
            status=str(outcome.status),
            flagged=outcome.flagged,
            ai_priority=str(proposed or ""),
            effective_priority=str(effective),
            priority_rank=rank(effective),
            notified_at=at,
            revision=result.revision,
        )
        detail: dict[str, Any] = {
            "revision": result.revision,
            "status": str(outcome.status),
            "flagged": outcome.flagged,
        }
        audit.record(connection, "study_analysed", actor="analyze", now=at, study_instance_uid=uid, detail=detail)
        if self.conclusion.is_mixed:
            detail = {"revision": result.revision, "images": len(outcome.images)}
            audit.record(connection, "two_patients", actor="analyze", now=at, study_instance_uid=uid, detail=detail)
        if study.origin != studies.BACKFILL:
            metrics.NOTIFY_SECONDS.observe(max(0.0, (at - opened.study.last_received_at).total_seconds()))
        fault_point("analyze.before-commit")


def settlement(
    opened: OpenStudy,
    conclusion: Conclusion | None,
    *,
    files: InstanceFiles,
    destinations: Sequence[Destination],
    now: Callable[[], datetime],
    station_name: str = "",
    manifest_wait_s: float = 0.0,
) -> Callable[[Connection], None]:
    """Return what writes the rows; where nothing is new, what puts the study back to its current result."""
    if conclusion is None:
        return lambda connection: _confirm(connection, opened, destinations, manifest_wait_s, now())
    # The notice is written beside the objects: a disk takes two files in about the time of one.
    written = _WRITERS.submit(_write_notice, _notice(opened.study, opened, conclusion, station_name), files)
    try:
        objects = tuple(_store(conclusion.objects, files))
    finally:
        notice = written.result()
    return Settlement(
        opened,
        conclusion,
        objects=objects,
        notice=notice,
        files=files,
        destinations=destinations,
        now=now,
        station_name=station_name,
        wait_s=manifest_wait_s,
    )


def _has_new_image(current: Result | None, outcome: StudyOutcome) -> bool:
    """Whether the outcome is about an image that the last result was not: nobody who read the study has seen it."""
    known = {image["sop_instance_uid"] for image in current.outcome["images"]} if current is not None else set()
    return any(item.image.sop_instance_uid not in known for item in outcome.images)


def _revision(current: Result | None) -> int:
    return (current.revision if current else 0) + 1


def _priorities(study: Study, outcome: StudyOutcome) -> tuple[OrderedPriority | None, OrderedPriority]:
    """Return what the AI proposes, and what the study is read with.

    The effective priority is that of before, of the order or of an earlier revision, or above: a revision that takes
    the flag back lowers nothing. A study that was read, or that a back-catalogue run fetched, is not raised.
    """
    proposed = AI_PRIORITY if outcome.flagged else None
    before = effective_priority(parse_ordered(study.ordered_priority), parse_ordered(study.effective_priority))
    if study.read_at is not None or study.origin == studies.BACKFILL:
        return proposed, before
    return proposed, effective_priority(before, proposed)


def _told(study: Study) -> tuple[object, ...]:
    """What a notice says of the study's row."""
    return study.ordered_priority, study.effective_priority, study.read_at is None, study.origin


def _notice(study: Study, opened: OpenStudy, conclusion: Conclusion, station_name: str) -> Notice:
    proposed, effective = _priorities(study, conclusion.outcome)
    return make_notice(
        conclusion.outcome,
        list(conclusion.headers.values()),
        revision=_revision(opened.current),
        created_at=conclusion.content_time,
        ordered=parse_ordered(study.ordered_priority),
        ai=proposed,
        effective=effective,
        report=conclusion.objects.get("sr"),
        station_name=station_name,
    )


def _store(objects: Mapping[str, Dataset], files: InstanceFiles) -> list[_Stored]:
    """Make the bytes durable; what fails later leaves files that no row names, which upkeep removes."""
    found = []
    for kind, made in objects.items():
        uid = str(made.SOPInstanceUID)
        found.append(_Stored(kind, str(made.SOPClassUID), uid, files.write_object(uid, encode(made))))
    return found


def _write_notice(notice: Notice, files: InstanceFiles) -> _Stored:
    return _Stored(PRIORITY, "", notice.uid, files.write_object(notice.uid, encode_notice(notice)))


def _plan(
    connection: Connection,
    result: Result,
    stored: Sequence[_Stored],
    study: Study,
    destinations: Sequence[Destination],
    *,
    wait_s: float,
    priority: OrderedPriority,
    at: datetime,
) -> None:
    """Add the objects and what is to be delivered of them. A priority is due at once, a report when the study has
    settled, or its manifests say so; of a study that a back-catalogue run fetched no priority is told."""
    uid = study.study_instance_uid
    awaited = manifests.awaited(connection, uid)
    for item in stored:
        results.add_object(
            connection,
            result.id,
            kind=item.kind,
            sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid,
            location=item.location,
            now=at,
        )
    kinds = {item.kind for item in stored}
    if study.origin == studies.BACKFILL:
        kinds.discard(PRIORITY)
    for destination in destinations:
        for kind in destination.sends:
            if kind not in kinds:
                continue
            delivery = deliveries.add(connection, result.id, kind=kind, destination=destination.name, now=at)
            run_at = (
                at
                if kind == PRIORITY
                else awaited.report_at(study.last_received_at, settle_s=destination.settle_s, wait_s=wait_s, now=at)
            )
            jobs.schedule(
                connection,
                manifests.DELIVER,
                str(delivery.id),
                run_at=run_at,
                now=at,
                priority=rank(priority),
                payload={"destination": destination.name},
            )
    _look_again(connection, study, awaited, wait_s, at)


def _look_again(connection: Connection, study: Study, awaited: manifests.Awaited, wait_s: float, at: datetime) -> None:
    """Have the study looked at once more when announced images are no longer waited for: its report will say so."""
    until = awaited.until(study.last_received_at, wait_s)
    if until is not None and until > at:
        jobs.schedule(connection, "analyze", study.study_instance_uid, run_at=until, now=at, keep_sooner=True)


def _confirm(
    connection: Connection, opened: OpenStudy, destinations: Sequence[Destination], wait_s: float, at: datetime
) -> None:
    """Nothing new: put the study back to the state of its current result, and let its reports go when they may."""
    study, current = opened.study, opened.current
    assert current is not None
    studies.set_outcome(
        connection,
        study.study_instance_uid,
        status=current.status,
        flagged=current.flagged,
        ai_priority=current.ai_priority,
        effective_priority=study.effective_priority,
        priority_rank=rank(parse_ordered(study.effective_priority)),
        notified_at=study.notified_at or at,
        revision=current.revision,
    )
    awaited = manifests.replan(
        connection,
        study.study_instance_uid,
        settle_s={destination.name: destination.settle_s for destination in destinations},
        wait_s=wait_s,
        immediate=PRIORITY,
        now=at,
    )
    _look_again(connection, study, awaited, wait_s, at)


@dataclass(frozen=True)
class GivenUp:
    """Called where the analysis of a study failed for good: says so on the worklist and to whom priorities are told,
    with the priority unchanged, for silence would look like normal.

    It is a revision of its own that keeps what the last one found. Reports of that one are as good as before and are
    delivered; only its notice is superseded.
    """

    files: InstanceFiles
    destinations: Sequence[Destination]
    station_name: str = ""
    now: Callable[[], datetime] = utc_now

    def __call__(self, connection: Connection, job: Job, reason: str) -> None:
        at = self.now()
        study = studies.get(connection, job.key)
        if study is None:
            return
        current = results.current(connection, job.key)
        # Which image it was is not known; better read twice than not at all.
        if studies.reopen(connection, job.key, at):
            orders.apply(connection, job.key, rank=rank_of, now=at)
            study = studies.get(connection, job.key) or study
        result = self._result(connection, study, current, reason, at)
        studies.set_outcome(
            connection,
            job.key,
            status=str(StudyStatus.FAILED),
            flagged=study.flagged,
            ai_priority=study.ai_priority,
            effective_priority=study.effective_priority,
            priority_rank=study.priority_rank,
            notified_at=study.notified_at or at,
            revision=result.revision,
        )
        detail = {"reason": reason, "revision": result.revision}
        audit.record(connection, "study_failed", actor="analyze", now=at, study_instance_uid=job.key, detail=detail)

    def _result(
        self, connection: Connection, study: Study, current: Result | None, reason: str, at: datetime
    ) -> Result:
        uid = study.study_instance_uid
        known: dict[str, Any] = current.outcome if current is not None else to_json(StudyOutcome(uid, ()))
        note = f"the analysis was given up: {reason}"
        if current is not None and current.status == StudyStatus.FAILED:
            if note in known["notes"]:
                return current  # it failed as it did before, and that was told
            known = {**known, "notes": known["notes"][:-1]}
        result = results.add(
            connection,
            uid,
            status=str(StudyStatus.FAILED),
            flagged=study.flagged,
            ai_priority=study.ai_priority,
            outcome={**known, "notes": [*known["notes"], note]},
            now=at,
        )
        notice = make_failure_notice(
            from_json(uid, known),
            vars(study.context),
            flagged=study.flagged,
            revision=result.revision,
            created_at=at,
            ordered=parse_ordered(study.ordered_priority),
            ai=parse_ordered(study.ai_priority) if study.ai_priority else None,
            effective=parse_ordered(study.effective_priority),
            station_name=self.station_name,
        )
        deliveries.supersede_older(connection, uid, result.revision, now=at, kind=PRIORITY)
        stored = [_write_notice(notice, self.files)]
        effective = parse_ordered(study.effective_priority)
        _plan(connection, result, stored, study, self.destinations, wait_s=0.0, priority=effective, at=at)
        return result
