"""One study: what is known of it, what came of its images, and the rows that say so."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from io import BytesIO

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID
from sqlalchemy.engine import Connection

from cxr_node import metrics
from cxr_node.analyze.acceptance import Profile
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
from cxr_node.reporting import BUILDERS, Device, Material, Notice, encode, encode_notice, make_notice
from cxr_node.settings import PRIORITY, Destination
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
    predecessors: Mapping[str, Dataset]
    was_flagged: bool = False


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
        was_flagged = any(result.flagged for result in results.revisions(connection, job.key))
        sent = _last_delivered(connection, job.key)
    held = [item for item in kept if files.path(item.location).exists()]
    return OpenStudy(
        job=job,
        study=study,
        images=tuple(item for item in held if item.variant == 0),
        conflicts=tuple(item for item in kept if item.variant > 0),
        known=known,
        current=current,
        predecessors={kind: pydicom.dcmread(BytesIO(files.read(location))) for kind, location in sent.items()},
        was_flagged=was_flagged,
    )


def _last_delivered(connection: Connection, study_instance_uid: str) -> dict[str, str]:
    """Return by kind the location of the newest object that some destination has; only such a one is a predecessor."""
    sent = [
        delivery
        for delivery in deliveries.of_study(connection, study_instance_uid)
        if delivery.kind in BUILDERS and delivery.state in ("DELIVERED", "COMMITTED")
    ]
    found: dict[str, str] = {}
    for delivery in sorted(sent, key=lambda item: -item.revision):
        for stored in results.objects(connection, delivery.result_id):
            if stored.sop_instance_uid == delivery.sop_instance_uid:
                found.setdefault(delivery.kind, stored.location)
    return found


def reference(instance: Instance) -> ImageReference:
    """Return the instance as evidence refers to it."""
    return ImageReference(instance.sop_instance_uid, instance.sop_class_uid, instance.series_instance_uid)


@dataclass(frozen=True)
class Conclusion:
    """What came of a study, and the objects that tell of it, by kind; none where no report can be made."""

    outcome: StudyOutcome
    record: dict[str, object]
    objects: Mapping[str, Dataset]
    headers: Mapping[str, Dataset]
    predictions: tuple[Prediction, ...]
    content_time: datetime


def conclude(
    opened: OpenStudy,
    analyzed: Sequence[Analyzed],
    *,
    device: Device,
    content_time: datetime,
    kinds: Collection[str] = ("sr",),
    profile: Profile = "triage",
    heat_maps: Mapping[str, np.ndarray] | None = None,
) -> Conclusion | None:
    """Put the images of a study together; None where nothing changed since the current result.

    The report is always made, for it is the record; of the other objects those in `kinds`.

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
    objects: dict[str, Dataset] = {}
    reported = StudyOutcome(
        outcome.study_instance_uid, tuple(image for image in images if image.image.sop_instance_uid in readable)
    )
    if reported.images and not mixed:
        material = Material(
            outcome=reported,
            headers=readable,
            device=device,
            revision=(opened.current.revision if opened.current else 0) + 1,
            content_time=content_time,
            predecessors=opened.predecessors,
            profile=profile,
            was_flagged=opened.was_flagged,
            heat_maps=heat_maps or {},
        )
        for kind, build in BUILDERS.items():
            made = build(replace(material, made=dict(objects))) if kind == "sr" or kind in kinds else None
            if made is not None:
                objects[kind] = made
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
    return Conclusion(outcome, record, objects, {} if mixed else readable, predictions, content_time)


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
    station_name: str = "",
) -> Callable[[Connection], None]:
    """Return the rows of the conclusion: result, objects, notice, priority, deliveries, audit, all or none.

    The objects' bytes are made durable before the transaction that names them.
    """
    study = opened.study
    uid = study.study_instance_uid
    if conclusion is None:
        return lambda connection: _confirm(connection, study, opened, now())
    outcome = conclusion.outcome
    ordered = parse_ordered(study.ordered_priority)
    proposed = AI_PRIORITY if outcome.flagged else None
    # Also of an earlier revision: one that takes the flag back lowers nothing.
    effective = effective_priority(effective_priority(ordered, parse_ordered(study.effective_priority)), proposed)
    notice = make_notice(
        outcome,
        list(conclusion.headers.values()),
        revision=(opened.current.revision if opened.current else 0) + 1,
        created_at=conclusion.content_time,
        ordered=ordered,
        ai=proposed,
        effective=effective,
        report=conclusion.objects.get("sr"),
        station_name=station_name,
    )
    stored = _store(conclusion.objects, notice, files)

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
        for destination in destinations:
            for kind in destination.sends:
                if kind not in kinds:
                    continue
                delivery = deliveries.add(connection, result.id, kind=kind, destination=destination.name, now=at)
                jobs.schedule(
                    connection,
                    "deliver",
                    str(delivery.id),
                    run_at=at if kind == PRIORITY else study.last_received_at + timedelta(seconds=destination.settle_s),
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


@dataclass(frozen=True)
class _Stored:
    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    location: str


def _store(objects: Mapping[str, Dataset], notice: Notice, files: InstanceFiles) -> list[_Stored]:
    """Make the bytes durable; what fails later leaves files that no row names, which upkeep removes."""
    found = []
    for kind, made in objects.items():
        uid = str(made.SOPInstanceUID)
        found.append(_Stored(kind, str(made.SOPClassUID), uid, files.write_object(uid, encode(made))))
    found.append(_Stored(PRIORITY, "", notice.uid, files.write_object(notice.uid, encode_notice(notice))))
    return found


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
