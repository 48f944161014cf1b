"""The contract that every row of DESTINATIONS keeps."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydicom import dcmread

from cxr_node.deliver import DESTINATIONS
from cxr_node.errors import StorageUnavailable, Unreachable
from cxr_node.settings import Destination
from tests.cxr_node.deliver.conftest import dataset_of, free_port

pytestmark = pytest.mark.requirement("SRS-DLV-001")


@dataclass
class Kind:
    """A destination of one kind: up, gone, and what arrived there."""

    destination: Destination
    gone: Destination
    arrived: Callable[[], list[bytes]]


@pytest.fixture(params=sorted(DESTINATIONS))
def kind(request, tmp_path: Path) -> Kind:
    if request.param == "c-store":
        pacs = request.getfixturevalue("pacs")
        gone = pacs.destination("gone", port=free_port())
        return Kind(pacs.destination("here"), gone, lambda: [item.dataset for item in pacs.received])
    folder = tmp_path / "outbox"
    (tmp_path / "occupied").write_text("a file where a folder is expected")
    return Kind(
        Destination(name="here", kind="folder", path=str(folder)),
        Destination(name="gone", kind="folder", path=str(tmp_path / "occupied" / "outbox")),
        lambda: [dataset_of(path) for path in sorted(folder.glob("*"))],
    )


def test_each_kind_of_the_settings_has_a_destination():
    """A kind that node.toml accepts and nobody sends would lose reports in silence."""
    assert set(DESTINATIONS) == set(Destination.model_fields["kind"].annotation.__args__)


def test_what_arrives_is_the_stored_dataset_byte_for_byte(node, kind):
    """Whoever compares the archive with the node must find one report, not two that mean the same."""
    stored = node.stored(node.plan("here")[0])
    sent = node.sender(kind.destination).send(stored)
    assert kind.arrived() == [dataset_of(stored.path)]
    assert (sent.sop_instance_uid, sent.reason) == (stored.sop_instance_uid, "")


def test_sending_again_sends_the_same(node, kind):
    """A crash between the answer and the commit ends in a second attempt."""
    stored = node.stored(node.plan("here")[0])
    first, second = node.sender(kind.destination).send(stored), node.sender(kind.destination).send(stored)
    assert first == second
    assert set(kind.arrived()) == {dataset_of(stored.path)}


def test_a_destination_that_is_gone_is_unreachable_and_named(node, kind):
    """An administrator reads this sentence on the worklist."""
    stored = node.stored(node.plan("gone")[0])
    with pytest.raises(Unreachable, match=r"^gone: "):
        node.sender(kind.gone).send(stored)


def test_a_report_that_the_node_cannot_read_is_the_nodes_own_fault(node, kind):
    """The destination must not be blamed, nor given something made anew."""
    stored = replace(node.stored(node.plan("here")[0]), path=node.folder / "nowhere.dcm")
    with pytest.raises(StorageUnavailable):
        node.sender(kind.destination).send(stored)
    assert kind.arrived() == []


@pytest.mark.requirement("SRS-DLV-006")
def test_a_folder_shows_whole_files_only(node, tmp_path, monkeypatch):
    """A program that watches the folder takes what it sees."""
    folder = tmp_path / "outbox"
    seen: list[list[str]] = []
    rename = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append([path.name for path in folder.glob("*.dcm")])
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    stored = node.stored(node.plan("here")[0])
    node.sender(Destination(name="here", kind="folder", path=str(folder))).send(stored)
    assert seen == [[]]
    assert [path.name for path in folder.iterdir()] == [f"{stored.sop_instance_uid}.dcm"]
    assert dcmread(folder / f"{stored.sop_instance_uid}.dcm").SOPInstanceUID == stored.sop_instance_uid


@pytest.mark.requirement("SRS-DLV-006")
def test_a_folder_that_fills_up_keeps_no_half_file(node, tmp_path, monkeypatch):
    """No space is left on a share more often than on the node."""
    folder = tmp_path / "outbox"

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    stored = node.stored(node.plan("here")[0])
    monkeypatch.setattr("cxr_node.deliver.folder.os.fsync", full)
    with pytest.raises(Unreachable, match="No space left"):
        node.sender(Destination(name="here", kind="folder", path=str(folder))).send(stored)
    assert list(folder.iterdir()) == []
