"""Result objects: values in, DICOM datasets out. `BUILDERS` lists every kind of object that the node makes."""

from collections.abc import Callable

from pydicom.dataset import Dataset

from cxr_node.reporting.device import device_for
from cxr_node.reporting.encode import encode
from cxr_node.reporting.fallback import as_class
from cxr_node.reporting.material import Device, Material
from cxr_node.reporting.notice import Notice, encode_notice, make_notice, read_notice
from cxr_node.reporting.sr import build_sr
from cxr_node.reporting.text import render_text

# In the order they are built: a later one may refer to an earlier. None where a study gives no cause for the object.
BUILDERS: dict[str, Callable[[Material], Dataset | None]] = {"sr": build_sr}

__all__ = [
    "BUILDERS",
    "Device",
    "Material",
    "Notice",
    "as_class",
    "build_sr",
    "device_for",
    "encode",
    "encode_notice",
    "make_notice",
    "read_notice",
    "render_text",
]
