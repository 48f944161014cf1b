"""The reference implementation from outside: what a PACS built on it sends is kept as it was sent."""

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from tests.builders import in_transfer_syntax, make_radiograph_dataset, to_part_10
from tests.cxr_node.receive.conftest import Receiver

pytestmark = [pytest.mark.peer("storescu", "echoscu", "dcmsend"), pytest.mark.requirement("SRS-RCV-001")]

# storescu's option for the transfer syntax that it proposes.
OPTIONS = {
    ImplicitVRLittleEndian: "-xi",
    ExplicitVRLittleEndian: "-xe",
    ExplicitVRBigEndian: "-xb",
    DeflatedExplicitVRLittleEndian: "-xd",
    RLELossless: "-xr",
    JPEGBaseline8Bit: "-xy",
    JPEGExtended12Bit: "-xx",
    JPEGLosslessSV1: "-xs",
    JPEGLSLossless: "-xt",
    JPEGLSNearLossless: "-xu",
    JPEG2000Lossless: "-xv",
    JPEG2000: "-xw",
}


def _run(
    program: str, receiver: Receiver, *options: str, files: tuple[Path, ...] = (), called: str = "CXR_NODE"
) -> subprocess.CompletedProcess[str]:
    titles = ["-aet", "CR_ROOM_1", "-aec", called]
    return subprocess.run(
        [program, "-v", *titles, *options, "127.0.0.1", str(receiver.port), *map(str, files)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
    )


def _bare(data: bytes) -> bytes:
    return data[144 + struct.unpack("<L", data[140:144])[0] :]


def test_storescu_stores_in_every_transfer_syntax_it_knows(receiver: Receiver, tmp_path: Path):
    """Compressed objects come as they lie in the archive: nobody decompresses for the node."""
    for syntax, option in OPTIONS.items():
        dataset = in_transfer_syntax(make_radiograph_dataset(kind="CR"), syntax)
        path = tmp_path / f"{syntax}.dcm"
        path.write_bytes(to_part_10(dataset))
        done = _run("storescu", receiver, option, files=(path,))
        assert done.returncode == 0, done.stdout + done.stderr
        (row,) = receiver.of(dataset.SOPInstanceUID)
        assert row.transfer_syntax_uid == syntax
        if syntax.is_encapsulated:
            assert _bare(receiver.files.read(row.location))[-4000:] == path.read_bytes()[-4000:]


def test_dcmsend_sends_a_folder_of_all_kinds(receiver: Receiver, tmp_path: Path):
    """One association for CR, DX and SC, uncompressed and compressed."""
    datasets = [
        make_radiograph_dataset(kind=kind, bits_stored=bits) for kind in ("CR", "DX", "SC") for bits in (8, 10, 16)
    ]
    datasets.append(in_transfer_syntax(make_radiograph_dataset(), JPEG2000Lossless))
    for number, dataset in enumerate(datasets):
        (tmp_path / f"{number}.dcm").write_bytes(to_part_10(dataset))
    done = _run("dcmsend", receiver, "+sd", files=(tmp_path,))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [len(receiver.of(dataset.SOPInstanceUID)) for dataset in datasets] == [1] * len(datasets)
    assert len({receiver.of(dataset.SOPInstanceUID)[0].association_id for dataset in datasets}) == 1


def test_a_small_pdu_is_honored(receiver: Receiver, tmp_path: Path):
    """storescu -pdu is what it receives; -pdu of the node limits what it sends."""
    dataset = make_radiograph_dataset()
    (tmp_path / "a.dcm").write_bytes(to_part_10(dataset))
    done = _run("storescu", receiver, "--max-send-pdu", "4096", "-xe", files=(tmp_path / "a.dcm",))
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = receiver.of(dataset.SOPInstanceUID)
    assert _bare(receiver.files.read(row.location)) == _bare(to_part_10(dataset))


@pytest.mark.requirement("SRS-RCV-004")
def test_the_reason_of_a_refusal_is_what_dcmtk_prints(start_receiver: Callable[..., Receiver]):
    """The administrator reads it there."""
    receiver = start_receiver(caller='[{ae_title = "PACS", hosts = ["127.0.0.0/8"]}]')
    assert "Calling AE Title Not Recognized" in _run("echoscu", receiver).stderr
    assert "Called AE Title Not Recognized" in _run("echoscu", receiver, called="WRONG").stderr


@pytest.mark.real_data
def test_real_objects_are_all_kept_with_their_pixels(receiver: Receiver, shared_data: Path):
    """Vendors' headers, private groups and compressions, each proposed as it lies in its file. Some of the files share
    a SOP Instance UID: those are kept too."""
    paths = sorted((shared_data / "dicom").glob("*.dcm"))
    done = _run("dcmsend", receiver, "--decompress-never", "--no-uid-checks", files=tuple(paths))
    assert done.returncode == 0, done.stdout + done.stderr
    stored = [pydicom.dcmread(path) for path in (receiver.root / "instances").rglob("*.dcm")]
    assert len(stored) == len(paths)
    pixels = {pydicom.dcmread(path).get("PixelData") for path in paths}
    # One file has a fragment of odd length, which dcmsend itself mends.
    assert len(pixels - {dataset.get("PixelData") for dataset in stored}) <= 1
