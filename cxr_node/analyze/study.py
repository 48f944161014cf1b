"""One study: what is known of it, what came of its images, and the rows that say so."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import BytesIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID
from sqlalchemy.engine import Connection

from cxr_node import metrics
from cxr_node.analyze.analyzer import Analyzed, KnownScores
from cxr_node.analyze.record import to_json
from cxr_node.clock import utc_now
from cxr_node.errors import StorageUnavailable
from cxr_node.findings import (
    Exclusion,
    ImageAnalysis,
    ImageReference,
    OrderedPriority,
    StudyOutcome,
    StudyStatus,
    effective_priority,
)
from cxr_node.findings.priority import parse_ordered, rank
from cxr_node.reporting import Device, build_sr, encode
from cxr_node.settings import Destination
from storage import Database, InstanceFiles, audit, deliveries, instances, jobs, results, studies
from storage.instances import Instance
from storage.jobs import Job
from storage.results import Prediction, Result
from storage.studies import Study

AI_PRIORITY = OrderedPriority.HIGH


@dataclass(frozen=True)
class OpenStudy:
    """A study as it stood when its job was claimed."""

    job: Job
    study: Study
    images: tuple[Instance, ...]
    conflicts: tuple[Instance, ...]
    known: Mapping[int, KnownScores]
    current: Result | None
    predecessor: Dataset | None


def is_image(sop_class_uid: str) -> bool:
    """Whether instances of the class hold an image; reports, key objects and presentation states do not."""
    return "Image Storage" in UID(sop_class_uid).name


def load_study(database: Database, files: InstanceFiles, job: Job) -> OpenStudy | None:
    """Read what storage knows of the job's study; None when it knows nothing."""
    with database.read() as connection:
        study = studies.get(connection, job.key)
        if study is None:
            return None
        kept = [item for item in instances.of_study(connection, job.key) if is_image(item.sop_class_uid)]
        known: dict[int, dict[str, dict[str, float]]] = {}
        for item in kept:
            for prediction in results.predictions(connection, item.id):
                by_digest = known.setdefault(item.id, {}).setdefault(prediction.model_digest, {})
                by_digest[prediction.finding] = prediction.score
        current = results.current(connection, job.key)
        location = _last_delivered(connection, job.key)
    held = [item for item in kept if files.path(item.location).exists()]
    return OpenStudy(
        job=job,
        study=study,
        images=tuple(item for item in held if item.variant == 0),
        conflicts=tuple(item for item in kept if item.variant > 0),
        known=known,
        current=current,
        predecessor=pydicom.dcmread(BytesIO(files.read(location))) if location else None,
    )


def _last_delivered(connection: Connection, study_instance_uid: str) -> str | None:
    """Return the location of the newest report that some destination has; only such a one can be a predecessor."""
    sent = [
        delivery
        for delivery in deliveries.of_study(connection, study_instance_uid)
        if delivery.kind == "sr" and delivery.state in ("DELIVERED", "COMMITTED")
    ]
    for delivery in sorted(sent, key=lambda item: -item.revision):
        for stored in results.objects(connection, delivery.result_id):
            if stored.sop_instance_uid == delivery.sop_instance_uid:
                return stored.location
    return None


def reference(instance: Instance) -> ImageReference:
    """Return the instance as evidence refers to it."""
    return ImageReference(instance.sop_instance_uid, instance.sop_class_uid, instance.series_instance_uid)


@dataclass(frozen=True)
class Conclusion:
    """What came of a study, and its report where there is one."""

    outcome: StudyOutcome
    record: dict[str, object]
    report: Dataset | None
    predictions: tuple[Prediction, ...]


def conclude(
    opened: OpenStudy, analyzed: Sequence[Analyzed], *, device: Device, content_time: datetime
) -> Conclusion | None:
    """Put the images of a study together; None where nothing changed since the current result.

    Images of two patients under one Study Instance UID are not analysed, and get no report: it would carry one
    patient's scores under the other's name.
    """
    headers = {item.prepared.image.sop_instance_uid: item.prepared.header for item in analyzed}
    readable = {uid: header for uid, header in headers.items() if header is not None}
    mixed = len({_patient(header) for header in readable.values()}) > 1
    images = tuple(_of_two_patients(item.analysis) if mixed else item.analysis for item in analyzed)
    outcome = StudyOutcome(opened.study.study_instance_uid, images)
    notes = [
        f"{item.sop_instance_uid}: another object came under this SOP Instance UID; it is kept apart and not analysed"
        for item in opened.conflicts
    ]
    if not images:
        notes.append("the study holds no image")
    record = to_json(outcome, [score for item in analyzed for score in item.shadow], notes)
    if opened.current is not None and opened.current.outcome == record:
        return None
    report = None
    reported = StudyOutcome(
        outcome.study_instance_uid, tuple(image for image in images if image.image.sop_instance_uid in readable)
    )
    if reported.images and not mixed:
        report = build_sr(
            reported,
            readable,
            device=device,
            revision=(opened.current.revision if opened.current else 0) + 1,
            predecessor=opened.predecessor,
            content_time=content_time,
        )
    predictions = tuple(
        Prediction(
            instance_id=instance.id,
            model=score.model,
            model_version=score.model_version,
            model_digest=score.model_digest,
            finding=score.finding,
            score=item.raw[score.model_digest][score.finding],
            probability=score.probability,
            created_at=content_time,
        )
        for instance, item in zip(opened.images, analyzed, strict=True)
        for score in (*item.analysis.scores, *item.shadow)
        if score.model_digest in item.raw
    )
    return Conclusion(outcome, record, report, predictions)


def _patient(header: Dataset) -> tuple[str, str]:
    return str(header.get("PatientID") or "").strip(), str(header.get("IssuerOfPatientID") or "").strip()


def _of_two_patients(analysis: ImageAnalysis) -> ImageAnalysis:
    message = "images of more than one patient carry this Study Instance UID"
    return ImageAnalysis(analysis.image, exclusion=Exclusion("two-patients", message, "(0010,0020) Patient ID"))


def settlement(
    opened: OpenStudy,
    conclusion: Conclusion | None,
    *,
    files: InstanceFiles,
    destinations: Sequence[Destination],
    now: Callable[[], datetime],
) -> Callable[[Connection], None]:
    """Return the rows of the conclusion: result, report, priority, deliveries, audit, all or none.

    The report's bytes are made durable before the transaction that names them.
    """
    study = opened.study
    uid = study.study_instance_uid
    if conclusion is None:
        return lambda connection: _confirm(connection, study, opened, now())
    report = conclusion.report
    location = files.write_object(str(report.SOPInstanceUID), encode(report)) if report is not None else None
    outcome = conclusion.outcome
    ordered = parse_ordered(study.ordered_priority)
    proposed = AI_PRIORITY if outcome.flagged else None
    effective = effective_priority(ordered, proposed)

    def apply(connection: Connection) -> None:
        at = now()
        result = results.add(
            connection,
            uid,
            status=str(outcome.status),
            flagged=outcome.flagged,
            ai_priority=str(proposed or ""),
            outcome=conclusion.record,
            now=at,
        )
        expected = (opened.current.revision if opened.current else 0) + 1
        if result.revision != expected:
            raise StorageUnavailable(f"revision {result.revision} found, {expected} expected: analysed twice at once")
        for prediction in conclusion.predictions:
            results.add_prediction(connection, prediction)
        deliveries.supersede_older(connection, uid, result.revision, now=at)
        if report is not None and location is not None:
            results.add_object(
                connection,
                result.id,
                kind="sr",
                sop_class_uid=str(report.SOPClassUID),
                sop_instance_uid=str(report.SOPInstanceUID),
                location=location,
                now=at,
            )
            for destination in destinations:
                for kind in destination.objects:
                    delivery = deliveries.add(connection, result.id, kind=kind, destination=destination.name, now=at)
                    jobs.schedule(
                        connection,
                        "deliver",
                        str(delivery.id),
                        run_at=study.last_received_at + timedelta(seconds=destination.settle_s),
                        now=at,
                        priority=rank(effective),
                        payload={"destination": destination.name},
                    )
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
        audit.record(
            connection,
            "study_analysed",
            actor="analyze",
            now=at,
            study_instance_uid=uid,
            detail={"revision": result.revision, "status": str(outcome.status), "flagged": outcome.flagged},
        )
        metrics.NOTIFY_SECONDS.observe(max(0.0, (at - study.last_received_at).total_seconds()))

    return apply


def _confirm(connection: Connection, study: Study, opened: OpenStudy, at: datetime) -> None:
    """Nothing new: put the study back to the state of its current result."""
    current = opened.current
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


def mark_failed(connection: Connection, job: Job, reason: str) -> None:
    """The study could not be analysed: say so on the worklist, with its ordered priority unchanged."""

    at = utc_now()
    study = studies.get(connection, job.key)
    if study is None:
        return
    studies.set_outcome(
        connection,
        job.key,
        status=str(StudyStatus.FAILED),
        flagged=study.flagged,
        ai_priority=study.ai_priority,
        effective_priority=study.effective_priority,
        priority_rank=study.priority_rank,
        notified_at=study.notified_at or at,
        revision=study.revision,
    )
    audit.record(
        connection, "study_failed", actor="analyze", now=at, study_instance_uid=job.key, detail={"reason": reason}
    )
