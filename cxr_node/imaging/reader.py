"""A DICOM image as a radiograph."""

from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from cxr_node.errors import UnreadablePixels
from cxr_node.imaging.decode import stored_values
from cxr_node.imaging.grayscale import to_grayscale
from cxr_node.imaging.radiograph import Radiograph


def radiograph_from_dataset(dataset: Dataset) -> Radiograph:
    """Decode and render; see `decode.stored_values` and `grayscale.to_grayscale` for what is raised."""
    return Radiograph(to_grayscale(stored_values(dataset), dataset))


def radiograph_from_dicom_file(path: Path) -> Radiograph:
    """Read a file and render it.

    Raises
    ------
    UnreadablePixels
        The file does not read to its end, or its pixels do not decode.
    """
    try:
        dataset = pydicom.dcmread(path, force=True)
    except (InvalidDicomError, EOFError, ValueError, KeyError, AttributeError, TypeError, OSError) as error:
        raise UnreadablePixels(f"the file does not read to its end ({type(error).__name__})") from error
    return radiograph_from_dataset(dataset)
