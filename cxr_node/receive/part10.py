"""What a DICOM file says of itself, for the ways in that have no C-STORE request beside the dataset."""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cxr_node.errors import UnreadableDataset
from cxr_node.imaging import read_header
from cxr_node.receive.contexts import STORAGE_CLASSES, TRANSFER_SYNTAXES
from cxr_node.receive.intake import UID_FORM, Requested
from cxr_node.receive.statuses import (
    CANNOT_UNDERSTAND,
    CLASS_NOT_SUPPORTED,
    SYNTAX_NOT_SUPPORTED,
    Answer,
)

_PREAMBLE = 128
_LONGEST_UID = 64


@dataclass(frozen=True)
class Described:
    """A file's UIDs as far as they read, and the refusal where the node takes no such object."""

    requested: Requested
    study_instance_uid: str = ""
    refusal: Answer | None = None


def is_part_10(path: Path) -> bool:
    """Whether the file has preamble and prefix. Source: PS3.10 7.1."""
    with path.open("rb") as file:
        return file.read(_PREAMBLE + 4)[_PREAMBLE:] == b"DICM"


def describe(path: Path) -> Described:
    """Read what a C-STORE request and its presentation context would have said, from a Part 10 file.

    The UIDs are those of the dataset: group 2 only repeats them, and tools that write new UIDs forget it there.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    nothing = Requested("", "", "")
    if not is_part_10(path):
        return Described(nothing, refusal=Answer(CANNOT_UNDERSTAND, "no DICOM file: preamble or prefix DICM is absent"))
    try:
        header = read_header(path)
    except UnreadableDataset:
        return Described(nothing, refusal=Answer(CANNOT_UNDERSTAND, "the dataset does not read"))
    syntax = str(header.file_meta.get("TransferSyntaxUID", "") or "").strip()
    requested = Requested(_uid(header, "SOPClassUID"), _uid(header, "SOPInstanceUID"), syntax)
    refusal = None
    if not syntax:
        refusal = Answer(CANNOT_UNDERSTAND, "Transfer Syntax UID is absent from group 2")
    elif syntax not in TRANSFER_SYNTAXES:
        refusal = Answer(SYNTAX_NOT_SUPPORTED, "the node takes no such transfer syntax")
    elif requested.sop_class_uid and requested.sop_class_uid not in STORAGE_CLASSES:
        refusal = Answer(CLASS_NOT_SUPPORTED, "the node takes no such SOP class")
    return Described(requested, _uid(header, "StudyInstanceUID"), refusal)


def write_part_10_head(path: Path, file: BinaryIO) -> bool:
    """Write preamble and group 2 for a file that begins with its dataset; False where it is no dataset with UIDs.

    Its bytes follow as they are. Nobody says how they are encoded: uncompressed, explicit VR or implicit, as they read.
    """
    try:
        header = read_header(path)
    except UnreadableDataset:
        return False
    if not (_uid(header, "SOPClassUID") and _uid(header, "SOPInstanceUID") and _uid(header, "StudyInstanceUID")):
        return False
    is_implicit, is_little = header.original_encoding
    explicit = ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(_uid(header, "SOPClassUID"))
    meta.MediaStorageSOPInstanceUID = UID(_uid(header, "SOPInstanceUID"))
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit
    file.write(b"\0" * _PREAMBLE + b"DICM")
    write_file_meta_info(DicomIO(file), meta, enforce_standard=True)
    return True


def has_uid_form(text: str) -> bool:
    """Whether the text is a UID and nothing else, which a log or an answer may repeat."""
    return len(text) <= _LONGEST_UID and UID_FORM.fullmatch(text) is not None


def _uid(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    return "" if value is None else str(value).strip()
