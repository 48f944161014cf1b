"""A file read once: its header, and its radiograph where somebody wants it."""

import mmap
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from cxr_node.errors import UnreadableDataset, UnreadablePixels
from cxr_node.imaging.decode import decoded
from cxr_node.imaging.description import UNCONVERTIBLE, describe_module, name
from cxr_node.imaging.grayscale import to_grayscale
from cxr_node.imaging.header import PixelPlace, leave_out_unconvertible, read_whole_header
from cxr_node.imaging.radiograph import Radiograph

_IMAGE_MODULES = 0x0028  # the group of Image Pixel, Modality LUT, VOI LUT and Pixel Padding


@dataclass(frozen=True)
class OpenedImage:
    """A DICOM image whose header was read, and whose pixels were not.

    `header` is as `read_header` returns it. `described` is what tells how the pixels are decoded and rendered, as it
    was sent: a value there that contradicts its VR must not count as absent, as it does in a header.
    """

    path: Path
    header: Dataset
    described: Dataset
    place: PixelPlace | None

    def radiograph(self, target: tuple[int, int] | None = None) -> Radiograph:
        """Decode and render; see `radiograph_from_dataset`. The file must still be there.

        Raises
        ------
        UnreadablePixels
            The pixels are absent, contradict their description, are too large, or do not decode.
        OSError
            The file cannot be read: another try may succeed.
        """
        if self.place is None:
            raise UnreadablePixels(f"{name('PixelData')} is absent")
        description = describe_module(self.described)  # refuses what is too large before a byte of it is looked at
        if not self.place.is_whole:
            raise UnreadablePixels(f"{name('PixelData')} does not inflate to its end within 256 MiB")
        if not self.place.length:
            raise UnreadablePixels(f"{name('PixelData')} is empty")
        stored = decoded(self.described, description, self._data(self.place), self.place.vr, target)
        return Radiograph(to_grayscale(stored, self.described))

    def _data(self, place: PixelPlace) -> memoryview:
        """Return the bytes without a copy of them; the mapping lives as long as the view."""
        if place.inflated is not None:
            return memoryview(place.inflated)[place.start : place.start + place.length]
        with self.path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return memoryview(mapped)[place.start : place.start + place.length]


def open_image(path: Path) -> OpenedImage:
    """Read a file's header, with or without preamble and group 2, and find its pixels.

    Raises
    ------
    UnreadableDataset, OSError
        See `read_header`.
    """
    found = read_whole_header(path, keeps_pixels=True)
    try:
        described = found.header.group_dataset(_IMAGE_MODULES)
    except (*UNCONVERTIBLE, InvalidDicomError) as error:
        raise UnreadableDataset(f"the attributes of group 0028 do not read ({type(error).__name__})") from error
    described.file_meta = found.header.file_meta
    described.set_original_encoding(*found.header.original_encoding)
    leave_out_unconvertible(found.header)
    if not len(found.header):
        raise UnreadableDataset("expected a DICOM dataset, found no element")
    return OpenedImage(path, found.header, described, found.pixels)
