"""What a reader says of a result: a row, a DICOM object that tells of it, and its way to the destinations."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from io import BytesIO, StringIO

import pydicom
from pydicom.dataset import Dataset
from sqlalchemy.engine import Connection

from cxr_node import __version__
from cxr_node.worklist.services import Services
from storage import Database, Doorbell, audit, deliveries, feedback, jobs, results, studies
from storage.deliveries import COMMITTED, DELIVERED, FEEDBACK
from storage.faults import fault_point
from storage.feedback import Exported, Feedback
from storage.results import Result

_PAGE = 1000


class UnknownStudy(Exception):
    """No image of the study was ever received."""


class NotAssessable(Exception):
    """There is no result of that revision, or none with a report that a verdict could refer to."""


@dataclass(frozen=True)
class Verdict:
    """What the reader said; `revision` is of the result they saw, None for the current one."""

    verdict: str
    reader: str
    role: str
    finding: str = ""
    comment: str = ""
    revision: int | None = None


def record(services: Services, study_instance_uid: str, said: Verdict) -> Feedback:
    """Keep the verdict with its document, plan the deliveries, and write the audit event: all or none.

    A verdict on a result as a whole is on its finding, where the report states exactly one. Feedback is due at once,
    and no newer revision supersedes it.

    Raises
    ------
    UnknownStudy, NotAssessable
    """
    from cxr_node.reporting import Assessment, build_feedback, device_for, encode, findings_of

    with services.database.read() as connection:
        report, result = _report(services, connection, study_instance_uid, said.revision)
        standing = results.conclusive(connection, study_instance_uid)
        stated = findings_of(report)
        finding = said.finding or (next(iter(stated)) if len(stated) == 1 else "")
        last = feedback.last_of(connection, study_instance_uid, reader=said.reader, finding=finding)
        before = _location(connection, last) if last is not None else ""
    at = services.now()
    node = services.settings.node
    made = build_feedback(
        Assessment(said.verdict, finding, said.comment, said.reader),  # type: ignore[arg-type]
        report,
        device=device_for(node.station_name, __version__, services.settings.data_dir),
        content_time=at,
        predecessor=_read(services, before) if before else None,
    )
    sop_instance_uid = str(made.SOPInstanceUID)
    location = services.files.write_object(sop_instance_uid, encode(made))
    fault_point("worklist.feedback-written")
    with services.database.begin() as connection:
        row = feedback.add(
            connection,
            result.id,
            verdict=said.verdict,
            reader=said.reader,
            finding=finding,
            observation_uid=stated.get(finding, ""),
            comment=said.comment,
            sop_instance_uid=sop_instance_uid,
            now=at,
        )
        if standing is not None and standing.id == result.id:
            studies.set_verdict(connection, study_instance_uid, said.verdict)
        kind = f"{FEEDBACK}:{row.id}"
        results.add_object(
            connection,
            result.id,
            kind=kind,
            sop_class_uid=str(made.SOPClassUID),
            sop_instance_uid=sop_instance_uid,
            location=location,
            now=at,
        )
        for destination in services.settings.destination:
            if FEEDBACK in destination.sends:
                delivery = deliveries.add(connection, result.id, kind=kind, destination=destination.name, now=at)
                payload = {"destination": destination.name}
                jobs.schedule(connection, "deliver", str(delivery.id), run_at=at, now=at, payload=payload)
        audit.record(
            connection,
            "feedback_given",
            actor=said.reader,
            now=at,
            study_instance_uid=study_instance_uid,
            detail={
                "role": said.role,
                "revision": result.revision,
                "finding": finding,
                "verdict": said.verdict,
                "sop_instance_uid": sop_instance_uid,
            },
        )
    fault_point("worklist.feedback-kept")
    Doorbell(services.settings.data_dir / "run", services.database).ring("deliver")
    return row


def _report(
    services: Services, connection: Connection, study_instance_uid: str, revision: int | None
) -> tuple[Dataset, Result]:
    """Return the report that the verdict is on, as a destination has it, and its result."""
    if studies.get(connection, study_instance_uid) is None:
        raise UnknownStudy
    if revision is None:
        result = results.conclusive(connection, study_instance_uid)
    else:
        known = results.revisions(connection, study_instance_uid)
        result = next((item for item in known if item.revision == revision), None)
    if result is None:
        raise NotAssessable("the study has no result yet" if revision is None else f"there is no revision {revision}")
    reports = [item for item in results.objects(connection, result.id) if item.kind == "sr"]
    if not reports:
        raise NotAssessable("the result has no report that a verdict could refer to")
    sent = {
        item.sop_instance_uid
        for item in deliveries.of_study(connection, study_instance_uid)
        if item.result_id == result.id and item.kind == "sr" and item.state in (DELIVERED, COMMITTED)
    }
    # A report may have gone out in another SR class, under a UID of its own: that is the one that is known out there.
    chosen = next((item for item in reports if item.sop_instance_uid in sent), reports[0])
    return _read(services, chosen.location), result


def _location(connection: Connection, given: Feedback) -> str:
    objects = results.objects(connection, given.result_id)
    return next((item.location for item in objects if item.sop_instance_uid == given.sop_instance_uid), "")


def _read(services: Services, location: str) -> Dataset:
    return pydicom.dcmread(BytesIO(services.files.read(location)))


COLUMNS = (
    "created_at",
    "study_instance_uid",
    "revision",
    "status",
    "flagged",
    "models",
    "finding",
    "verdict",
    "reader",
    "comment",
    "observation_uid",
    "sop_instance_uid",
)


@dataclass(frozen=True)
class _Line:
    """In the order of COLUMNS."""

    created_at: str
    study_instance_uid: str
    revision: int
    status: str
    flagged: str
    models: str
    finding: str
    verdict: str
    reader: str
    comment: str
    observation_uid: str
    sop_instance_uid: str


def export_csv(database: Database, since: datetime | None = None) -> Iterator[str]:
    """Yield every verdict as CSV (RFC 4180), oldest first, the header line in front; times are ISO 8601, UTC."""
    yield csv_line(COLUMNS)
    after = 0
    while True:
        with database.read() as connection:
            page = feedback.export(connection, since=since, after=after, limit=_PAGE)
        for item in page:
            yield csv_line(astuple(_of(item)))
        if len(page) < _PAGE:
            return
        after = page[-1].feedback.id


def _of(item: Exported) -> _Line:
    given = item.feedback
    scores = item.outcome.get("findings") or []
    return _Line(
        created_at=given.created_at.isoformat(),
        study_instance_uid=given.study_instance_uid,
        revision=given.revision,
        status=item.status,
        flagged="true" if item.flagged else "false",
        models="; ".join(sorted({f"{score['model']} {score['model_version']}" for score in scores})),
        finding=given.finding,
        verdict=given.verdict,
        reader=given.reader,
        comment=given.comment,
        observation_uid=given.observation_uid,
        sop_instance_uid=given.sop_instance_uid,
    )


def csv_line(values: Sequence[object]) -> str:
    """Return a line of CSV that no spreadsheet runs."""
    buffer = StringIO()
    csv.writer(buffer).writerow([_harmless(value) for value in values])
    return buffer.getvalue()


def _harmless(value: object) -> object:
    """A spreadsheet runs what begins like a formula; a quote in front makes it text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
