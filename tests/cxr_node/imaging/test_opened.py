"""A file read once: the same header and picture as read twice, and hostile files refused before they cost anything."""

import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from cxr_node.errors import UnreadableDataset, UnreadablePixels
from cxr_node.imaging import (
    header as header_module,
)
from cxr_node.imaging import (
    implausible,
    preprocess,
    radiograph_from_dataset,
    radiograph_from_dicom_file,
    read_header,
)
from cxr_node.imaging.opened import open_image
from cxr_node.inference import BUILTIN, Engine, find_package, probability
from tests.benchmarks.drawn import draw
from tests.builders import make_radiograph_dataset

PIXELS = (np.add.outer(np.arange(48) * 40, np.arange(40) * 50)).astype(np.uint16)
PLAIN = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)


def _saved(path: Path, syntax: str = ExplicitVRLittleEndian, pixels: np.ndarray = PIXELS, **attributes) -> Path:
    dataset = make_radiograph_dataset(pixels, **attributes)
    if syntax in PLAIN:
        dataset.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()
    else:
        plugin = {JPEG2000Lossless: "pylibjpeg", JPEGLSLossless: "pyjpegls"}.get(syntax, "")
        dataset.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.requirement("SRS-IMG-301")
@pytest.mark.parametrize("syntax", [*PLAIN, JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_one_reading_gives_what_two_gave(tmp_path, syntax):
    """The header as it was read alone, the picture as the whole dataset gives it."""
    path = _saved(tmp_path / "image.dcm", syntax, WindowCenter=1000, WindowWidth=1500)
    found = open_image(path)
    assert found.header == read_header(path)
    assert np.array_equal(found.radiograph().grayscale, radiograph_from_dicom_file(path).grayscale)


@pytest.mark.requirement("SRS-IMG-301")
@pytest.mark.real_data
def test_one_reading_gives_what_two_gave_of_every_real_file(shared_data):
    """Whatever senders do."""
    files = sorted((shared_data / "dicom").glob("*.dcm"))
    assert files
    for path in files:
        found = open_image(path)
        assert found.header == read_header(path), path.name
        assert _seen(found.radiograph) == _seen(partial(radiograph_from_dicom_file, path)), path.name


def _seen(read) -> tuple:
    """The picture's bytes, or the sentence that says why there is none."""
    try:
        grayscale = read().grayscale
    except UnreadablePixels as error:
        return (str(error),)
    return grayscale.shape, grayscale.tobytes()


@pytest.mark.requirement("SRS-IMG-301")
def test_a_value_that_contradicts_its_vr_is_no_absent_one(tmp_path):
    """A window that does not read must not become no window: the model would see another picture."""
    path = _saved(tmp_path / "image.dcm", WindowCenter=1000, WindowWidth=1500)
    data = path.read_bytes()
    at = data.index(b"\x28\x00\x50\x10DS")
    length = int.from_bytes(data[at + 6 : at + 8], "little")
    path.write_bytes(data[: at + 8] + b"x" * length + data[at + 8 + length :])
    found = open_image(path)
    assert "WindowCenter" not in found.header
    with pytest.raises(UnreadablePixels, match=r"\(0028,1050\) Window Center is no number"):
        found.radiograph()


@pytest.mark.requirement("SRS-IMG-302")
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless])
def test_an_image_that_says_it_has_billions_of_pixels_is_refused_by_its_header(tmp_path, syntax, monkeypatch):
    """Before a byte of memory is taken for them."""
    path = _saved(tmp_path / "image.dcm", syntax)
    dataset = dcmread(path)
    dataset.Rows = dataset.Columns = 50_000
    dataset.save_as(path)
    found = open_image(path)
    monkeypatch.setattr("mmap.mmap", lambda *_, **__: pytest.fail("looked at the pixels"))
    with pytest.raises(UnreadablePixels, match="is 50000 x 50000, more than 40000000 pixels"):
        found.radiograph()


@pytest.mark.requirement("SRS-IMG-302")
def test_pixels_cut_short_are_refused(tmp_path):
    """What is missing would be black, or somebody else's memory."""
    path = _saved(tmp_path / "image.dcm")
    dataset = dcmread(path)
    dataset.PixelData = dataset.PixelData[:1000]
    dataset.save_as(path)
    with pytest.raises(UnreadablePixels, match="has 1000 bytes, expected 3840"):
        open_image(path).radiograph()
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(UnreadableDataset, match="ends after the dataset's last byte"):
        open_image(path)


@pytest.mark.requirement("SRS-IMG-302")
@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (24, (1).to_bytes(4, "big") * 2, "has 1 tiles of a JPEG 2000 codestream, expected 1920"),
        (24, (0).to_bytes(4, "big") * 2, "tiles do not cover"),
        (32, (2**31).to_bytes(4, "big") * 2, "tiles do not cover"),
        (43, b"\x02\x02", "a sample for every 2 x 2 pixels"),
        (16, (2**31).to_bytes(4, "big") * 2, "tiles do not cover"),
        (8, (2**32 - 1).to_bytes(4, "big") * 2, "tiles, expected at most 65535"),
    ],
)
def test_a_codestream_whose_tiles_make_no_image_is_refused(at, value, message):
    """A decoder makes a table of all tiles first: four thousand million of them in a file of a few hundred bytes."""
    dataset = make_radiograph_dataset(PIXELS)
    dataset.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    frame = bytearray(next(generate_frames(dataset.PixelData, number_of_frames=1)))
    frame[at : at + len(value)] = value
    dataset.PixelData = encapsulate([bytes(frame)])
    with pytest.raises(UnreadablePixels, match=message):
        radiograph_from_dataset(dataset)


def _deflated(path: Path, head: bytes, zeros: int) -> Path:
    """A deflated file: a header, and Pixel Data of so many zeros that are never held at once."""
    meta = _saved(path, DeflatedExplicitVRLittleEndian).read_bytes()
    start = 144 + int.from_bytes(meta[140:144], "little")
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    with path.open("wb") as file:
        file.write(meta[:start] + deflater.compress(head))
        for _ in range(zeros >> 20):
            file.write(deflater.compress(bytes(1 << 20)))
        file.write(deflater.flush())
    return path


@pytest.mark.requirement("SRS-IMG-302")
def test_a_deflated_bomb_costs_a_bounded_inflation(tmp_path, monkeypatch):
    """A megabyte can hold a gigabyte; how much of it is inflated is stated, for header and pixels."""
    monkeypatch.setattr(header_module, "_LARGEST_INFLATED", 8 << 20)
    inflated = []
    real = zlib.decompressobj

    class Counting:
        def __init__(self, *arguments):
            self._real = real(*arguments)

        def decompress(self, *arguments):
            out = self._real.decompress(*arguments)
            inflated.append(len(out))
            return out

        def __getattr__(self, name):
            return getattr(self._real, name)

    monkeypatch.setattr(header_module.zlib, "decompressobj", Counting)
    whole = make_radiograph_dataset(PIXELS)
    whole.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    whole.save_as(tmp_path / "plain.dcm", enforce_file_format=True)
    data = (tmp_path / "plain.dcm").read_bytes()
    head = data[144 + int.from_bytes(data[140:144], "little") : data.index(b"\xe0\x7f\x10\x00")]
    bomb = _deflated(
        tmp_path / "bomb.dcm", head + b"\xe0\x7f\x10\x00OW\0\0" + (64 << 20).to_bytes(4, "little"), 64 << 20
    )
    found = open_image(bomb)
    assert found.header.PatientID == "P1"
    with pytest.raises(UnreadablePixels, match="does not inflate to its end within"):
        found.radiograph()
    assert sum(inflated) <= (8 << 20) + (2 << 20)
    inflated.clear()
    assert read_header(bomb).PatientID == "P1"
    assert sum(inflated) <= (8 << 20) + (2 << 20)


@pytest.mark.requirement("SRS-IMG-303")
def test_rounding_of_the_reversible_wavelet_is_taken_back():
    """Half a stored value for each halving: two gray levels of 255 in an image of 8 bits at a sixteenth."""
    pixels = np.random.default_rng(5).integers(60, 200, (1024, 1024)).astype(np.uint8)
    dataset = make_radiograph_dataset(pixels)
    dataset.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    full = radiograph_from_dataset(dataset).grayscale.mean()
    reduced = radiograph_from_dataset(dataset, (32, 32)).grayscale
    assert reduced.shape == (64, 64)
    assert abs(reduced.mean() - full) < 0.25 / 255


def _drawn_and_real(shared_data: Path):
    """Chests with their names: a drawn one of a detector's size, and real ones, in JPEG 2000."""
    yield "drawn", draw(2048, 1900)
    for name in ("RG1_J2KI", "canon_966_fixed_deid", "udacity_test1"):
        yield name, dcmread(shared_data / "dicom" / f"{name}.dcm")


@pytest.mark.requirement("SRS-IMG-303")
@pytest.mark.real_data
def test_a_lower_resolution_gives_nearly_the_same_probability_and_the_same_verdict(shared_data):
    """Stated tolerance: 0.01 of probability; the look at the pixels says the same for every package's resolution."""
    found = find_package("pneumonia-adult", [BUILTIN])
    spec = found.manifest.preprocess
    names, inputs, reduced_ones = [], [], 0
    for name, dataset in _drawn_and_real(shared_data):
        if not dataset.file_meta.TransferSyntaxUID.startswith(JPEG2000Lossless[:-1]):
            dataset.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
        full = radiograph_from_dataset(dataset)
        for side in (128, 224, 320):  # the packages' first sizes, none below 128
            reduced = radiograph_from_dataset(dataset, (side, side))
            assert str(implausible(reduced)) == str(implausible(full)), (name, side)
        names.append(name)
        inputs += [preprocess(full, spec), preprocess(reduced, spec)]
        reduced_ones += reduced.rows < full.rows
    assert reduced_ones >= 3
    scores = Engine(found).scores(np.stack(inputs))[:, 0].astype(float)
    values = [probability(found.manifest, found.manifest.findings[0], score) for score in scores]
    apart = {name: abs(values[2 * place] - values[2 * place + 1]) for place, name in enumerate(names)}
    assert max(apart.values()) <= 0.01, apart
