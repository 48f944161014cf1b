"""A dataset as the bytes of a Part 10 file: the same dataset is the same bytes. Source: DICOM PS3.10 7, PS3.5 7.1.2.

A report is some three hundred short texts in sequences of sequences. They are written here in less than half of the
library's time, byte for byte as it would write them (a test holds one against the other); every other element, and
every value that is not a plain text, is the library's.
"""

import struct
from io import BytesIO

from pydicom.charset import convert_encodings
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite, write_data_element, write_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian

# Of this product; made once with uuid4. The toolkit's own would change with its version, and the bytes with it.
IMPLEMENTATION_CLASS_UID = UID("2.25.158506762909921372008262936148567880096")
IMPLEMENTATION_VERSION_NAME = "CXR_NODE"

_UTF_8 = "ISO_IR 192"
_SHORT_TEXTS = frozenset({"CS", "DA", "DT", "LO", "LT", "SH", "ST", "TM", "UI"})
_LONG_TEXTS = frozenset({"UC", "UT"})
_LONGEST_SHORT = 0xFFFE
_ITEM = struct.pack("<HH", 0xFFFE, 0xE000)


class _Ambiguous(Exception):
    """What a VR is hangs on another attribute: the library knows on which. Source: PS3.6 6, note on "US or SS"."""


def encode(dataset: Dataset) -> bytes:
    """Return the file, Explicit VR Little Endian."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    dataset.file_meta = meta
    if dataset.get("SpecificCharacterSet") != _UTF_8:
        return encode_by_library(dataset)
    try:
        body = _encoded(dataset)
    except _Ambiguous:
        return encode_by_library(dataset)
    head = DicomBytesIO(b"\0" * 128 + b"DICM")
    head.seek(132)
    write_file_meta_info(head, meta, enforce_standard=True)
    return bytes(head.getvalue()) + body


def encode_by_library(dataset: Dataset) -> bytes:
    """Return the same, written by the library alone."""
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True, overwrite=False)
    return buffer.getvalue()


def _encoded(dataset: Dataset) -> bytes:
    parts: list[bytes] = []
    for tag in sorted(dataset.keys()):
        if tag.element == 0 and tag.group > 6:
            continue  # group lengths are retired: PS3.5 7.2
        element = dataset.get_item(tag)
        vr, value = str(element.VR), element.value
        if " or " in vr:
            raise _Ambiguous
        text = None
        if not element.is_raw:
            if vr == "SQ" and not element.is_undefined_length and all(_is_plain(item) for item in value):
                items = (_encoded(item) for item in value)
                data = b"".join(_ITEM + struct.pack("<L", len(item)) + item for item in items)
                parts.append(struct.pack("<HH2sHL", tag.group, tag.element, b"SQ", 0, len(data)) + data)
                continue
            text = _text(vr, value)
        if text is None:
            parts.append(_by_library(dataset, tag))
        elif vr in _SHORT_TEXTS:
            parts.append(struct.pack("<HH2sH", tag.group, tag.element, vr.encode(), len(text)) + text)
        else:
            parts.append(struct.pack("<HH2sHL", tag.group, tag.element, vr.encode(), 0, len(text)) + text)
    return b"".join(parts)


def _is_plain(item: Dataset) -> bool:
    """Whether an item made here is like those of a report: without a length or a character set of its own kind."""
    return not item.is_undefined_length_sequence_item and "SpecificCharacterSet" not in item


def _text(vr: str, value: object) -> bytes | None:
    """Return a text's bytes, padded; None where the library has to write it."""
    if type(value) not in (str, UID) or not (vr in _SHORT_TEXTS or vr in _LONG_TEXTS):
        return None
    text = str(value).encode("utf-8")
    if len(text) % 2:
        text += b"\0" if vr == "UI" else b" "
    return text if vr in _LONG_TEXTS or len(text) <= _LONGEST_SHORT else None


def _by_library(dataset: Dataset, tag: int) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_data_element(buffer, dataset[tag], convert_encodings(_UTF_8))
    return bytes(buffer.getvalue())
