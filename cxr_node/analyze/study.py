"""One study: what is known of it, and what came of its images."""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from sqlalchemy.engine import Connection

from cxr_node.analyze.acceptance import Profile
from cxr_node.analyze.analyzer import Analyzed
from cxr_node.analyze.prepare import KnownScores
from cxr_node.analyze.record import to_json
from cxr_node.clock import utc_now
from cxr_node.errors import UnreadableDataset
from cxr_node.findings import Exclusion, ImageAnalysis, ImageReference, StudyOutcome
from cxr_node.findings.priority import rank_of
from cxr_node.imaging import are_of_one_patient, is_image
from cxr_node.reporting import BUILDERS, Device, Material
from storage import Database, InstanceFiles, deliveries, instances, manifests, orders, results, studies
from storage.errors import BytesAltered, BytesMissing
from storage.instances import Instance
from storage.jobs import Job
from storage.manifests import Awaited
from storage.monitoring import ImageMeasures
from storage.results import Prediction, Result
from storage.studies import Study

TWO_PATIENTS = Exclusion(
    "two-patients", "images of more than one patient carry this Study Instance UID", "(0010,0020) Patient ID"
)


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
    awaited: Awaited = field(default_factory=Awaited)


def load_study(database: Database, files: InstanceFiles, job: Job) -> OpenStudy | None:
    """Read what storage knows of the job's study; None when it knows nothing. An order that was here before the study
    raises it now, whether or not the stage of orders runs."""
    with database.read() as connection:
        study = studies.get(connection, job.key)
        if study is None:
            return None
        is_below = orders.ordered(connection, study, rank_of) is not None
    if is_below:
        with database.begin() as connection:
            orders.apply(connection, job.key, rank=rank_of, now=utc_now())
    with database.read() as connection:
        study = studies.get(connection, job.key)
        if study is None:
            return None
        # A PACS that sends the whole study sends our result card too, which is an image and none of the study's.
        own = results.object_uids(connection, job.key)
        kept = [
            item
            for item in instances.of_study(connection, job.key)
            if is_image(item.sop_class_uid) and item.sop_instance_uid not in own
        ]
        known: dict[int, dict[str, dict[str, float]]] = {}
        for prediction in results.predictions_of_study(connection, job.key):
            by_digest = known.setdefault(prediction.instance_id, {}).setdefault(prediction.model_digest, {})
            by_digest[prediction.finding] = prediction.score
        current = results.current(connection, job.key)
        was_flagged = any(result.flagged for result in results.revisions(connection, job.key))
        sent = _last_delivered(connection, job.key)
        awaited = manifests.awaited(connection, job.key)
    held = [item for item in kept if files.exists(item.location)]
    return OpenStudy(
        job=job,
        study=study,
        images=tuple(item for item in held if item.variant == 0),
        conflicts=tuple(item for item in kept if item.variant > 0),
        known=known,
        current=current,
        predecessors={kind: pydicom.dcmread(BytesIO(files.read(location))) for kind, location in sent.items()},
        was_flagged=was_flagged,
        awaited=awaited,
    )


@contextlib.contextmanager
def lent(files: InstanceFiles, location: str) -> Iterator[Path]:
    """Lend the path of an instance.

    Raises
    ------
    UnreadableDataset
        The bytes are gone, or were altered: this image has no result, the others of its study have.
    """
    try:
        with files.local(location) as path:
            yield path
    except (BytesMissing, BytesAltered) as error:
        raise UnreadableDataset(str(error)) from error


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
    is_mixed: bool = False  # images of more than one patient
    measures: tuple[ImageMeasures, ...] = ()


def conclude(
    opened: OpenStudy,
    analyzed: Sequence[Analyzed],
    *,
    device: Device,
    content_time: datetime,
    kinds: Collection[str] = ("sr",),
    profile: Profile = "triage",
    heat_maps: Mapping[str, np.ndarray] | None = None,
    radiographs: Mapping[str, np.ndarray] | None = None,
    manifest_wait_s: float = 0.0,
) -> Conclusion | None:
    """Put the images of a study together; None where nothing changed since the current result.

    The report is always made, for it is the record; of the other objects those in `kinds`.

    Images of two patients under one Study Instance UID are not analysed, and get no report: it would carry one
    patient's scores under the other's name. Announced images that did not come within `manifest_wait_s` are told of.
    """
    headers = {item.prepared.image.sop_instance_uid: item.prepared.header for item in analyzed}
    readable = {uid: header for uid, header in headers.items() if header is not None}
    mixed = not are_of_one_patient(readable.values())
    images = tuple(_of_two_patients(item.analysis) if mixed else item.analysis for item in analyzed)
    missing = _missing(opened, content_time, manifest_wait_s)
    outcome = StudyOutcome(opened.study.study_instance_uid, images, missing)
    notes = [
        f"{item.sop_instance_uid}: another object came under this SOP Instance UID; it is kept apart and not analysed"
        for item in opened.conflicts
    ]
    if not images:
        notes.append("the study holds no image")
    notes += missing
    record = to_json(outcome, [score for item in analyzed for score in item.shadow], notes)
    if opened.current is not None and opened.current.outcome == record:
        return None
    objects: dict[str, Dataset] = {}
    reported = replace(outcome, images=tuple(image for image in images if image.image.sop_instance_uid in readable))
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
            radiographs=radiographs or {},
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
    # Of two patients nothing is kept: age and sex would be of one, the picture of the other.
    measures = () if mixed else _measures(opened, analyzed, content_time)
    return Conclusion(outcome, record, objects, {} if mixed else readable, predictions, content_time, mixed, measures)


def _measures(opened: OpenStudy, analyzed: Sequence[Analyzed], at: datetime) -> tuple[ImageMeasures, ...]:
    """Return what was measured of each image whose pixels were looked at now."""
    return tuple(
        ImageMeasures(
            instance_id=instance.id,
            created_at=at,
            exclusion=item.prepared.exclusion.reason if item.prepared.exclusion is not None else "",
            **vars(item.prepared.measures),
        )
        for instance, item in zip(opened.images, analyzed, strict=True)
        if item.prepared.measures is not None
    )


def _of_two_patients(analysis: ImageAnalysis) -> ImageAnalysis:
    return ImageAnalysis(analysis.image, exclusion=TWO_PATIENTS)


def _missing(opened: OpenStudy, at: datetime, wait_s: float) -> tuple[str, ...]:
    """Say which announced images did not come, once they are no longer waited for."""
    awaited = opened.awaited
    until = awaited.until(opened.study.last_received_at, wait_s)
    if not awaited.missing or until is None or until > at:
        return ()
    return (f"{awaited.missing} of {awaited.announced} images that the sender announced did not arrive",)
