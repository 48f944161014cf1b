"""Who may read what is put into a folder for another program."""

import os
import stat

import pytest

from cxr_node.settings import Destination

pytestmark = pytest.mark.requirement("SRS-TLS-034")


@pytest.mark.parametrize(
    ("folder_mode", "file_mode"), [(0o700, 0o600), (0o750, 0o640), (0o2770, 0o640), (0o755, 0o644), (0o711, 0o600)]
)
def test_a_file_is_as_readable_as_its_folder(node, tmp_path, folder_mode, file_mode):
    """The node keeps what it makes to itself; this is for another program, often another user's."""
    folder = tmp_path / "out"
    folder.mkdir()
    folder.chmod(folder_mode)
    os.umask(0o077)
    stored = node.stored(node.plan("out")[0])
    node.sender(Destination(name="out", kind="folder", path=str(folder))).send(stored)
    (made,) = folder.glob("*.dcm")
    assert stat.S_IMODE(made.stat().st_mode) == file_mode
