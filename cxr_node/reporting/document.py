"""What every result object begins with: patient and study of the images, a series of its own, and who made it.

Each kind has its own series in the study, the same one for every revision, so nothing that changes between revisions
(a date, say) stands at its level. Source: DICOM PS3.3 C.7.1 to C.7.5, C.12.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo

from pydicom.dataset import Dataset

from cxr_node.findings import ImageAnalysis
from cxr_node.imaging import are_of_one_patient
from cxr_node.reporting.context import copy_context, text_of
from cxr_node.reporting.material import Device, Material
from cxr_node.reporting.uids import analysis_key, derived_uid


@dataclass(frozen=True)
class Series:
    """Where objects of a kind stand in the study; numbers far from those of modalities."""

    modality: str
    number: int
    description: str  # at most 64 characters; says what it is before anything is opened


SERIES = {
    "sr": Series("SR", 9001, "AI triage result, preliminary, not reviewed"),
    "sc": Series("OT", 9002, "AI triage card, preliminary, not reviewed"),
    "gsps": Series("PR", 9003, "AI triage regions (research), preliminary, not reviewed"),
    "kos": Series("KO", 9004, "AI triage key images, preliminary, not reviewed"),
    "pdf": Series("DOC", 9005, "AI triage report, preliminary, not reviewed"),
    "feedback": Series("SR", 9006, "Reader's assessment of the AI triage result"),
}


def local_time(at: datetime, source: Dataset, time_zone: tzinfo | None) -> datetime:
    """Return the time as the object writes it.

    Where the images state (0008,0201) Timezone Offset From UTC the object carries it on, and it holds for every time
    in there; elsewhere times are of `time_zone`, the system's where None.
    """
    offset = str(text_of(source, "TimezoneOffsetFromUTC"))
    if not offset:
        return at.astimezone(time_zone)
    minutes = int(offset[1:3]) * 60 + int(offset[3:5])
    return at.astimezone(timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes)))


def begin_object(
    kind: str,
    sop_class_uid: str,
    source: Dataset,
    device: Device,
    study_instance_uid: str,
    *,
    key: str,
    local: datetime,
) -> Dataset:
    """Return a dataset with patient, study, series, equipment and identity; `key` tells it from every other object."""
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    copy_context(made, source)
    made.StudyInstanceUID = study_instance_uid
    series = SERIES[kind]
    made.SOPClassUID = sop_class_uid
    made.SOPInstanceUID = derived_uid(kind, sop_class_uid, key)
    made.InstanceCreationDate = local.strftime("%Y%m%d")
    made.InstanceCreationTime = local.strftime("%H%M%S")
    made.Modality = series.modality
    made.SeriesInstanceUID = derived_uid(f"{kind}-series", study_instance_uid, device.observer_uid)
    made.SeriesNumber = series.number
    made.SeriesDescription = series.description
    made.Manufacturer = device.manufacturer
    made.ManufacturerModelName = device.model
    made.DeviceSerialNumber = device.serial_number
    made.SoftwareVersions = device.software_version
    made.StationName = device.name[:16]
    return made


def begin(material: Material, kind: str, sop_class_uid: str) -> Dataset:
    """Return the beginning of an object about the material's study.

    Raises
    ------
    ValueError
        No image, images of more than one patient, or an image without its header.
    """
    check_material(material)
    outcome, source = material.outcome, first_header(material)
    local = local_time(material.content_time, source, material.time_zone)
    made = begin_object(
        kind,
        sop_class_uid,
        source,
        material.device,
        outcome.study_instance_uid,
        key=analysis_key(outcome, material.revision),
        local=local,
    )
    made.InstanceNumber = material.revision
    return made


def first_header(material: Material) -> Dataset:
    """Return the header that patient and study are taken from: the first of those that say most of who it is."""
    headers = [material.headers[item.image.sop_instance_uid] for item in material.outcome.images]
    return max(
        headers, key=lambda header: (bool(text_of(header, "PatientID")), bool(text_of(header, "IssuerOfPatientID")))
    )


def local_of(material: Material) -> datetime:
    """Return the content time as the material's objects write it."""
    return local_time(material.content_time, first_header(material), material.time_zone)


def check_material(material: Material) -> None:
    """Raise ValueError where no document can be made: no image, one without its header, more than one patient."""
    outcome, headers = material.outcome, material.headers
    if not outcome.images:
        raise ValueError("a report needs at least one image as evidence")
    missing = [item for item in outcome.images if item.image.sop_instance_uid not in headers]
    if missing:
        raise ValueError(f"{len(missing)} images of the outcome have no header")
    if not are_of_one_patient(headers.values()):
        raise ValueError("the images are of more than one patient: a report is about one")


def flagged_images(material: Material) -> list[ImageAnalysis]:
    """Return the images that crossed an operating point, the highest probability first."""
    found = [item for item in material.outcome.images if any(score.flagged for score in item.scores)]
    return sorted(found, key=lambda item: -max(score.probability for score in item.scores if score.flagged))


def instance_reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    """Return an item of the SOP Instance Reference macro. Source: PS3.3 10.8."""
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item


def image_evidence(images: Sequence[ImageAnalysis]) -> list[tuple[str, str, str]]:
    """Return the images as `evidence` takes them."""
    return [(item.image.series_instance_uid, item.image.sop_class_uid, item.image.sop_instance_uid) for item in images]


def evidence(study_instance_uid: str, instances: Sequence[tuple[str, str, str]]) -> list[Dataset]:
    """Return the item of one study; `instances` are (series instance, SOP class, SOP instance) UIDs."""
    by_series: dict[str, list[Dataset]] = {}
    for series_instance_uid, sop_class_uid, sop_instance_uid in instances:
        by_series.setdefault(series_instance_uid, []).append(instance_reference(sop_class_uid, sop_instance_uid))
    study = Dataset()
    study.StudyInstanceUID = study_instance_uid
    study.ReferencedSeriesSequence = []
    for series_instance_uid, references in by_series.items():
        series = Dataset()
        series.SeriesInstanceUID = series_instance_uid
        series.ReferencedSOPSequence = references
        study.ReferencedSeriesSequence.append(series)
    return [study]


def reference_to(document: Dataset) -> list[Dataset]:
    """Return the evidence item that names one document, a predecessor say."""
    return evidence(
        str(document.StudyInstanceUID),
        [(str(document.SeriesInstanceUID), str(document.SOPClassUID), str(document.SOPInstanceUID))],
    )
