"""From the first association to the proof of the last delivery: what happened to a study, with how long each step took.

Read from the rows that the stages wrote. What was not written (a web transfer has no association, a completed job is
forgotten after a while) is left out, never guessed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy.engine import Connection

from cxr_node.worklist.listing import Entry
from cxr_node.worklist.web.present import Instant, shown, status_word
from storage import audit, deliveries, feedback, instances, jobs, journeys, results
from storage.audit import AuditEvent
from storage.deliveries import COMMITTED, DELIVERED, FAILED, Delivery
from storage.results import Result

_MOST_EVENTS = 500
_VERDICTS = {"agree": "agreed", "disagree": "disagreed", "unsure": "was unsure"}


@dataclass(frozen=True)
class Happening:
    """Something that happened; `detail` says with whom or why, empty where there is nothing to add."""

    at: datetime
    label: str
    detail: str = ""
    is_problem: bool = False


@dataclass(frozen=True)
class Step:
    """A line of the timeline. `after` is the time since the step before, `total` since the first; empty on the first
    line."""

    at: Instant
    label: str
    detail: str
    is_problem: bool
    after: str
    total: str


def timeline(connection: Connection, entry: Entry, zone: ZoneInfo, now: datetime) -> list[Step]:
    """Return what happened, in the order of time."""
    return _steps(sorted(_happenings(connection, entry), key=lambda item: item.at), zone, now)


def span(time: timedelta) -> str:
    """Return a duration for reading: tenths below ten seconds, whole units above."""
    seconds = max(0.0, time.total_seconds())
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole // 60 % 60:02d} min"
    return f"{whole // 86400} d {whole // 3600 % 24} h"


def _steps(happenings: Iterable[Happening], zone: ZoneInfo, now: datetime) -> list[Step]:
    found = list(happenings)
    steps = []
    for index, item in enumerate(found):
        local = item.at.astimezone(zone)
        is_today = local.date() == now.astimezone(zone).date()
        text = local.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S")
        steps.append(
            Step(
                at=Instant(item.at.isoformat(), text),
                label=item.label,
                detail=item.detail,
                is_problem=item.is_problem,
                after=span(item.at - found[index - 1].at) if index else "",
                total=span(item.at - found[0].at) if index else "",
            )
        )
    return steps


def _happenings(connection: Connection, entry: Entry) -> Iterator[Happening]:
    uid = entry.study.study_instance_uid
    yield from _arrival(connection, entry)
    yield from _analysis(connection, entry, results.revisions(connection, uid))
    for delivery in deliveries.of_study(connection, uid):
        yield from _delivery(delivery)
    for given in feedback.of_study(connection, uid):
        what = f" on {shown(given.finding)}" if given.finding else ""
        label = f"{shown(given.reader)} {_VERDICTS.get(given.verdict, given.verdict)}{what}"
        yield Happening(given.created_at, label, f"on revision {given.revision}")
    if entry.study.opened_at is not None:
        yield Happening(entry.study.opened_at, f"Opened by {shown(entry.study.opened_by) or 'a reader'}")
    for event in audit.events(connection, study_instance_uid=uid, limit=_MOST_EVENTS):
        yield from _event(event)


def _arrival(connection: Connection, entry: Entry) -> Iterator[Happening]:
    study = entry.study
    for item in journeys.associations_of(connection, study.study_instance_uid):
        who = f"{shown(item.calling_ae_title)} at {shown(item.peer_address)}"
        yield Happening(item.opened_at, "Association opened", who)
        yield Happening(item.closed_at, "Association closed", f"{who}{f', {item.outcome}' if item.outcome else ''}")
    received = [item.received_at for item in instances.of_study(connection, study.study_instance_uid)]
    first = min([study.first_received_at, *received])
    last = max([study.last_received_at, *received])
    yield Happening(first, "First image stored", f"sent by {shown(study.calling_ae_title)}")
    if last != first:
        yield Happening(last, "Last image stored", f"{study.images} images")


def _analysis(connection: Connection, entry: Entry, revisions: list[Result]) -> Iterator[Happening]:
    job = journeys.analysis_of(connection, entry.study.study_instance_uid)
    if job is not None:
        yield Happening(job.created_at, "Analysis queued")
        if job.state == jobs.SCHEDULED:
            tried = f"after {job.attempts} tries: {shown(job.reason)}" if job.attempts else ""
            yield Happening(job.run_at, "Analysis due", tried, bool(job.attempts))
        elif job.settled_at is not None and job.state == jobs.COMPLETED:
            yield Happening(job.settled_at, "Analysis done")
        elif job.settled_at is not None and job.state == jobs.FAILED:
            yield Happening(job.settled_at, "Analysis given up", shown(job.reason), True)
    for item in revisions:
        flagged = "flagged" if item.flagged else "not flagged"
        word = status_word(item.status)
        detail = f"{word}, {flagged}" if item.status == "analysed" else word
        yield Happening(item.created_at, f"Result, revision {item.revision}", detail, item.status == "failed")
    if entry.study.notified_at is not None:
        yield Happening(entry.study.notified_at, "First result visible on the worklist")


def _delivery(item: Delivery) -> Iterator[Happening]:
    what = f"{object_word(item.kind)} of revision {item.revision}"
    where = shown(item.destination)
    if item.delivered_at is not None:
        yield Happening(item.delivered_at, f"Delivered to {where}", what)
    if item.proof == deliveries.PROVED and item.proof_at is not None:
        how = {"storage-commitment": "storage commitment", "query": "read back"}.get(item.proof_method, "proved")
        yield Happening(item.proof_at, f"Held by {where}", f"{what}, {how}")
    if item.state == FAILED:
        yield Happening(item.updated_at, f"Delivery to {where} failed", f"{what}: {shown(item.reason)}", True)
    elif item.state not in (DELIVERED, COMMITTED) and item.delivered_at is None and item.attempts:
        yield Happening(item.updated_at, f"Delivery to {where} not there yet", f"{what}: {shown(item.reason)}", True)


def _event(event: AuditEvent) -> Iterator[Happening]:
    """Yield what no row of its own tells."""
    detail = event.detail or {}
    if event.event == "priority_ordered":
        words = f"{shown(str(detail.get('priority', '')))} {shown(str(detail.get('reason', '')))}".strip()
        yield Happening(event.created_at, "Priority ordered", words)
    elif event.event == "study_marked_read":
        yield Happening(event.created_at, "Marked as read")
    elif event.event == "study_reopened":
        yield Happening(event.created_at, "On the worklist again", "an image came after it had been read")
    elif event.event == "conflicting_instance":
        yield Happening(
            event.created_at, "Conflicting object kept apart", "it came under a known SOP Instance UID", True
        )
    elif event.event == "two_patients":
        yield Happening(event.created_at, "Images of more than one patient", "none of them is analysed", True)
    elif event.event == "instances_deleted":
        yield Happening(event.created_at, "Images deleted by retention")


OBJECT_WORDS = {
    "sr": "structured report",
    "sc": "result card",
    "gsps": "presentation state",
    "kos": "key object",
    "pdf": "PDF report",
    "feedback": "reader's feedback",
    "priority": "priority notice",
}


def object_word(kind: str) -> str:
    """Return what kind of object it is, in words; "feedback:7" is feedback."""
    name = kind.partition(":")[0]
    return OBJECT_WORDS.get(name, name.upper())
