"""Valid inputs to start from, made by the program each time: nothing of a patient, nothing kept in a corpus."""

import struct
import zipfile
import zlib
from io import BytesIO
from typing import Any

import cv2
import jpeg_ls
import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom.dimse_messages import C_ECHO_RQ, C_FIND_RQ
from pynetdicom.dimse_primitives import C_ECHO, C_FIND
from pynetdicom.dsutils import encode
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import (
    DigitalXRayImageStorageForPresentation,
    ModalityWorklistInformationFind,
    UnifiedProcedureStepPull,
    Verification,
)

from tests.builders import in_transfer_syntax, make_radiograph_dataset, to_part_10
from tests.cxr_node.receive import wire

PIXELS = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint16) * 16


UIDS = {"SOPInstanceUID": "2.25.11", "StudyInstanceUID": "2.25.12", "SeriesInstanceUID": "2.25.13"}


def radiograph(**attributes: Any) -> Dataset:
    """A radiograph of few pixels whose bytes are the same each time."""
    return make_radiograph_dataset(PIXELS, **{**UIDS, **attributes})


def _rich_dataset() -> Dataset:
    """A radiograph with what hospitals put in: sequences, private elements, several character sets, long texts."""
    dataset = radiograph(SpecificCharacterSet=["", "ISO 2022 IR 87"])
    dataset.PatientName = "Yamada^Tarou=山田^太郎"
    dataset.StudyDescription = "Thorax pa"
    dataset.WindowCenter, dataset.WindowWidth = ["1024", "2048"], ["2048", "4096"]
    request = Dataset()
    request.RequestedProcedureID = "R1"
    request.RequestedProcedurePriority = "HIGH"
    dataset.RequestAttributesSequence = DicomSequence([request])
    view = Dataset()
    view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning = "R-10206", "SRT", "antero-posterior"
    dataset.ViewCodeSequence = DicomSequence([view])
    block = dataset.private_block(0x0009, "MAKER", create=True)
    block.add_new(0x01, "LO", "private")
    return dataset


def _encoded(syntax: str, frame: bytes) -> bytes:
    dataset = radiograph()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    return to_part_10(dataset)


def compressed_files() -> list[bytes]:
    """DICOM files whose pixels are JPEG 2000, JPEG-LS, RLE, and deflated whole."""
    rle = radiograph()
    rle.compress(RLELossless, generate_instance_uid=False)
    wavelet = cv2.imencode(".jp2", PIXELS)[1].tobytes()
    codestream = wavelet[wavelet.index(b"\xff\x4f\xff\x51") :]
    deflated = radiograph()
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return [
        _encoded(JPEG2000Lossless, codestream),
        _encoded(JPEGLSLossless, bytes(jpeg_ls.encode_array(PIXELS))),
        to_part_10(rle),
        to_part_10(deflated),
    ]


def files() -> list[bytes]:
    """DICOM files without compressed pixels, in three byte orders and with much or little in them."""
    implicit = radiograph()
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    big = in_transfer_syntax(radiograph(), ExplicitVRBigEndian)
    plain = to_part_10(radiograph(kind="CR"))
    return [to_part_10(_rich_dataset()), plain, to_part_10(implicit), to_part_10(big), plain[132:]]


def _p_data(message: object, context_id: int) -> bytes:
    units = []
    for primitive in message.encode_msg(context_id, 16382):  # type: ignore[attr-defined]
        unit = P_DATA_TF()
        unit.from_primitive(primitive)
        units.append(unit.encode())
    return b"".join(units)


def _echo() -> bytes:
    request = C_ECHO()
    request.MessageID, request.AffectedSOPClassUID = 1, Verification
    message = C_ECHO_RQ()
    message.primitive_to_message(request)
    return _p_data(message, 1)


def _find(sop_class: str, keys: Dataset) -> bytes:
    request = C_FIND()
    request.MessageID, request.AffectedSOPClassUID, request.Priority = 1, sop_class, 2
    request.Identifier = BytesIO(encode(keys, False, True) or b"")
    message = C_FIND_RQ()
    message.primitive_to_message(request)
    return _p_data(message, 1)


def storage_streams() -> list[bytes]:
    """What a sender says from its A-ASSOCIATE-RQ to its A-RELEASE-RQ."""
    store = b"".join(wire.store_pdus(radiograph(), maximum_length=2048))
    return [
        wire.association_request(DigitalXRayImageStorageForPresentation) + store + wire.RELEASE_RQ,
        wire.association_request(Verification) + _echo() + wire.RELEASE_RQ,
        wire.association_request(DigitalXRayImageStorageForPresentation) + store[: len(store) // 2] + wire.ABORT,
    ]


def worklist_keys() -> list[Dataset]:
    """Identifiers as worklists ask with."""
    procedure = Dataset()
    procedure.Modality = "DX"
    procedure.ScheduledProcedureStepStartDate = "20260101-20260131"
    modality = Dataset()
    modality.PatientName = "SMITH*"
    modality.ScheduledProcedureStepSequence = DicomSequence([procedure])
    unified = Dataset()
    unified.ProcedureStepState = "SCHEDULED"
    unified.ScheduledProcedureStepPriority = ""
    unified.ScheduledProcedureStepStartDateTime = "20260101-"
    unified.InputInformationSequence = DicomSequence([Dataset()])
    return [modality, unified]


def worklist_streams() -> list[bytes]:
    """Associations with the worklist SCP."""
    modality, unified = worklist_keys()
    called = {"called": "CXR_WORKLIST"}
    return [
        wire.association_request(Verification, **called) + _echo() + wire.RELEASE_RQ,
        wire.association_request(ModalityWorklistInformationFind, **called)
        + _find(ModalityWorklistInformationFind, modality)
        + wire.RELEASE_RQ,
        wire.association_request(UnifiedProcedureStepPull, **called)
        + _find(UnifiedProcedureStepPull, unified)
        + wire.RELEASE_RQ,
    ]


def orders() -> list[bytes]:
    """HL7 orders."""
    return [
        b"MSH|^~\\&|RIS|H|CXR|H|20260101120000||ORM^O01|1|P|2.3\rPID|1||P1^^^H||Doe^Jane\rPV1|1|E\r"
        b"ORC|NW|A1^RIS|F1||SC||^^^20260101120000^^S\rOBR|1|A1^RIS|F1|CXR^Chest^L||20260101\r",
        b"MSH|^~\\&|RIS|H|CXR|H|20260101120000||OMI^O23|2|P|2.5.1||||||UNICODE UTF-8\rPID|1||P2\rORC|NW|A2|F2\r"
        b"TQ1|1||||||20260101||A\rOBR|1|A2|F2|CXR\rIPC|A2|R2|1.2.3.4|S2|DX\r",
    ]


def bodies() -> list[bytes]:
    """A multipart/related body, boundary `b`, with two parts."""
    file = files()[1]
    part = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n"
    return [part + part + b"--b--\r\n"]


def pictures() -> list[bytes]:
    """A PNG of 16 bits, a gray and a color JPEG."""
    color = np.dstack([PIXELS >> 4, PIXELS >> 5, PIXELS >> 6]).astype(np.uint8)
    return [
        cv2.imencode(".png", PIXELS)[1].tobytes(),
        cv2.imencode(".jpg", (PIXELS >> 4).astype(np.uint8))[1].tobytes(),
        cv2.imencode(".jpg", color)[1].tobytes(),
    ]


def archives() -> list[bytes]:
    """Zips, one of them with a name that climbs and one with a bomb."""
    found = []
    for name, content in (("a.dcm", files()[1]), ("../../b.png", pictures()[0]), ("bomb.dcm", bytes(1 << 20))):
        buffer = BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, content)
            archive.writestr("folder/c.jpg", pictures()[1])
        found.append(buffer.getvalue())
    return found


def png_of(rows: int, columns: int) -> bytes:
    """The head of a PNG that says it is that large."""
    head = b"IHDR" + struct.pack(">IIBBBBB", columns, rows, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
