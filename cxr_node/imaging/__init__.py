"""From bytes to a radiograph to a model's input. Knows DICOM pixels; knows no settings, network or storage."""

from cxr_node.imaging.grayscale import to_grayscale
from cxr_node.imaging.header import read_header
from cxr_node.imaging.patient import are_of_one_patient
from cxr_node.imaging.pictures import is_picture
from cxr_node.imaging.plausibility import implausible
from cxr_node.imaging.preprocess import PreprocessSpec, preprocess
from cxr_node.imaging.radiograph import Radiograph, radiograph_from_picture, radiograph_from_picture_file
from cxr_node.imaging.reader import radiograph_from_dataset, radiograph_from_dicom_file
from cxr_node.imaging.sop_classes import is_image

__all__ = [
    "PreprocessSpec",
    "Radiograph",
    "are_of_one_patient",
    "implausible",
    "is_image",
    "is_picture",
    "preprocess",
    "radiograph_from_dataset",
    "radiograph_from_dicom_file",
    "radiograph_from_picture",
    "radiograph_from_picture_file",
    "read_header",
    "to_grayscale",
]
