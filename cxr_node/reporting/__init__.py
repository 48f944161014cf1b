"""Result objects: values in, DICOM datasets out. `BUILDERS` lists every kind of object that the node makes."""

from collections.abc import Callable

from pydicom.dataset import Dataset

from cxr_node.reporting.context import TOLD_OF_EXCLUDED
from cxr_node.reporting.device import device_for
from cxr_node.reporting.encapsulated_pdf import build_pdf
from cxr_node.reporting.encode import encode
from cxr_node.reporting.fallback import as_class
from cxr_node.reporting.feedback import Assessment, build_feedback, findings_of
from cxr_node.reporting.key_object import build_kos
from cxr_node.reporting.material import Device, Material
from cxr_node.reporting.notice import Notice, encode_notice, make_failure_notice, make_notice, read_notice
from cxr_node.reporting.presentation_state import build_gsps
from cxr_node.reporting.secondary_capture import build_sc
from cxr_node.reporting.sr import build_sr
from cxr_node.reporting.text import render_text

# In the order they are built: a later one may refer to an earlier. None where a study gives no cause for the object.
BUILDERS: dict[str, Callable[[Material], Dataset | None]] = {
    "sc": build_sc,
    "sr": build_sr,
    "gsps": build_gsps,
    "kos": build_kos,
    "pdf": build_pdf,
}

__all__ = [
    "BUILDERS",
    "TOLD_OF_EXCLUDED",
    "Assessment",
    "Device",
    "Material",
    "Notice",
    "as_class",
    "build_feedback",
    "build_sr",
    "device_for",
    "encode",
    "encode_notice",
    "findings_of",
    "make_failure_notice",
    "make_notice",
    "read_notice",
    "render_text",
]
