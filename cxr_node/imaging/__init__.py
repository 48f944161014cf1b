"""From bytes to a radiograph to a model's input. Knows DICOM pixels; knows no settings, network or storage.

What looks at pixels is loaded when it is first asked for: intake reads headers, and needs no NumPy and no OpenCV.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cxr_node.imaging.header import read_header
from cxr_node.imaging.sop_classes import is_image

if TYPE_CHECKING:
    from cxr_node.imaging.grayscale import to_grayscale
    from cxr_node.imaging.patient import are_of_one_patient
    from cxr_node.imaging.pictures import is_picture
    from cxr_node.imaging.plausibility import implausible, look_at
    from cxr_node.imaging.preprocess import PreprocessSpec, preprocess
    from cxr_node.imaging.radiograph import Radiograph, radiograph_from_picture, radiograph_from_picture_file
    from cxr_node.imaging.reader import radiograph_from_dataset, radiograph_from_dicom_file

# `preprocess` is a function of a module of the same name. Whoever loads that module first would have the module here
# instead: import it from this package only, as the test of this says.
_MODULES = {
    "PreprocessSpec": "preprocess",
    "Radiograph": "radiograph",
    "are_of_one_patient": "patient",
    "implausible": "plausibility",
    "is_picture": "pictures",
    "look_at": "plausibility",
    "preprocess": "preprocess",
    "radiograph_from_dataset": "reader",
    "radiograph_from_dicom_file": "reader",
    "radiograph_from_picture": "radiograph",
    "radiograph_from_picture_file": "radiograph",
    "to_grayscale": "grayscale",
}

__all__ = [
    "PreprocessSpec",
    "Radiograph",
    "are_of_one_patient",
    "implausible",
    "is_image",
    "is_picture",
    "look_at",
    "preprocess",
    "radiograph_from_dataset",
    "radiograph_from_dicom_file",
    "radiograph_from_picture",
    "radiograph_from_picture_file",
    "read_header",
    "to_grayscale",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # All at once: whoever asked for the class would else leave the module `preprocess` in place of the function.
    for each, module in _MODULES.items():
        globals()[each] = getattr(importlib.import_module(f"{__name__}.{module}"), each)
    return globals()[name]
