"""Result objects: values in, DICOM datasets out. `BUILDERS` lists every kind of object that the node makes."""

from collections.abc import Callable

from pydicom.dataset import Dataset

from cxr_node.reporting.device import device_for
from cxr_node.reporting.encode import encode
from cxr_node.reporting.fallback import as_class
from cxr_node.reporting.sr import Device, build_sr
from cxr_node.reporting.text import render_text

BUILDERS: dict[str, Callable[..., Dataset]] = {"sr": build_sr}

__all__ = ["BUILDERS", "Device", "as_class", "build_sr", "device_for", "encode", "render_text"]
