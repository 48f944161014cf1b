"""What the rows of an instance and its study take from a header, as text that any database takes."""

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from cxr_node.findings.priority import parse_ordered, rank
from storage.studies import PatientContext

# What the functions below and `intake` read: the rest of a header, a hundred attributes, is not converted to values.
READ = frozenset(
    tag_for_keyword(keyword)
    for keyword in (
        "SpecificCharacterSet",
        "SOPClassUID",
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "PatientName",
        "PatientID",
        "IssuerOfPatientID",
        "PatientBirthDate",
        "PatientSex",
        "PatientAge",
        "AccessionNumber",
        "StudyID",
        "StudyDate",
        "StudyTime",
        "StudyDescription",
        "ReferringPhysicianName",
        "Modality",
        "BodyPartExamined",
        "ViewPosition",
        "RequestedProcedurePriority",
        "RequestAttributesSequence",
    )
)

_LONGEST_TEXT = 1024  # sixteen times what any text of the context may hold


def uid_of(header: Dataset, keyword: str) -> str:
    """Return the UID without the padding that some senders take a space for."""
    return text_of(header, keyword).strip()


def text_of(dataset: Dataset, keyword: str) -> str:
    """Return the value as text that any database takes: no NUL, no lone surrogate, of bounded length."""
    try:
        value = dataset.get(keyword)
        parts = value if isinstance(value, MultiValue) else [value]
        text = "\\".join("" if part is None else str(part) for part in parts)
    except (ValueError, LookupError, TypeError, AttributeError, NotImplementedError):
        return ""  # a person name that its character set does not decode
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")[:_LONGEST_TEXT]


def names_priority(header: Dataset) -> bool:
    """Whether the images say which priority was ordered; where they do not, the default of every order counts."""
    return any(text.strip() for text in _priorities(header))


def _priorities(header: Dataset) -> list[str]:
    requests = header.get("RequestAttributesSequence")
    items = requests if isinstance(requests, Sequence) else ()
    return [text_of(item, "RequestedProcedurePriority") for item in (header, *items)]


def patient_context(header: Dataset) -> PatientContext:
    """Return what the worklist shows of a study, decoded with the dataset's character set, broken bytes replaced."""
    named = [text for text in _priorities(header) if text]
    ordered = max(named, key=lambda text: rank(parse_ordered(text)), default="")
    return PatientContext(
        patient_name=text_of(header, "PatientName"),
        patient_id=text_of(header, "PatientID"),
        issuer_of_patient_id=text_of(header, "IssuerOfPatientID"),
        birth_date=text_of(header, "PatientBirthDate"),
        sex=text_of(header, "PatientSex"),
        age=text_of(header, "PatientAge"),
        accession_number=text_of(header, "AccessionNumber"),
        study_id=text_of(header, "StudyID"),
        study_date=text_of(header, "StudyDate"),
        study_time=text_of(header, "StudyTime"),
        study_description=text_of(header, "StudyDescription"),
        referring_physician_name=text_of(header, "ReferringPhysicianName"),
        modality=text_of(header, "Modality"),
        body_part=text_of(header, "BodyPartExamined"),
        view=text_of(header, "ViewPosition"),
        ordered_priority=str(parse_ordered(ordered)),
    )
