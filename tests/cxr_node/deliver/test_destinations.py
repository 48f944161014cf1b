"""The contract that every row of DESTINATIONS keeps."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydicom import dcmread

from cxr_node.deliver import DESTINATIONS
from cxr_node.deliver.hl7_template import load_template
from cxr_node.deliver.objects import StoredObject, notice_of
from cxr_node.deliver.ups import make_task
from cxr_node.errors import StorageUnavailable, Unreachable
from cxr_node.settings import PRIORITY, Destination
from tests.cxr_node.deliver.conftest import Node, Pacs, dataset_of, free_port
from tests.cxr_node.deliver.peers import (
    Hl7Peer,
    OrthancPeer,
    UpsPeer,
    WebPeer,
    hl7_serving,
    make_notice,
    plan_notice,
    stow_answer,
    stow_part,
    ups_serving,
    web_serving,
)

pytestmark = pytest.mark.requirement("SRS-DLV-001")

ORTHANC_ID = "0123abcd-0123abcd-0123abcd-0123abcd-0123abcd"


@dataclass
class Kind:
    """A destination of one kind: up, gone, what arrived there and what was to arrive."""

    destination: Destination
    gone: Destination
    arrived: Callable[[], list[object]]
    expected: Callable[[StoredObject], object] = lambda stored: dataset_of(stored.path)

    def plan(self, node: Node, name: str = "here") -> StoredObject:
        """Store what the destination takes, and return it on its way."""
        if PRIORITY in self.destination.sends:
            return node.stored(plan_notice(node, name, make_notice()))
        return node.stored(node.plan(name)[0])


def _web(kind: str, peer: WebPeer, arrived: Callable[[], list[object]], expected: object) -> Kind:
    here = Destination(name="here", kind=kind, url=peer.url, timeout_s=3)
    gone = Destination(name="gone", kind=kind, url=f"http://127.0.0.1:{free_port()}", timeout_s=3)
    return Kind(here, gone, arrived, expected)  # type: ignore[arg-type]


def _c_store(pacs: Pacs) -> Kind:
    gone = pacs.destination("gone", port=free_port())
    return Kind(pacs.destination("here"), gone, lambda: [item.dataset for item in pacs.received])


def _folder(tmp_path: Path, objects: tuple[str, ...]) -> Kind:
    folder = tmp_path / "outbox"
    (tmp_path / "occupied").write_text("a file where a folder is expected")
    read = dataset_of if objects == ("sr",) else Path.read_bytes
    return Kind(
        Destination(name="here", kind="folder", path=str(folder), objects=objects),
        Destination(name="gone", kind="folder", path=str(tmp_path / "occupied" / "outbox"), objects=objects),
        lambda: [read(path) for path in sorted(folder.glob("*"))],
        lambda stored: read(stored.path),
    )


@pytest.fixture(params=[*sorted(DESTINATIONS), "folder priority"])
def kind(request, tmp_path: Path) -> Iterator[Kind]:
    if request.param == "c-store":
        yield _c_store(request.getfixturevalue("pacs"))
    elif request.param.startswith("folder"):
        yield _folder(tmp_path, (PRIORITY,) if "priority" in request.param else ("sr",))
    elif request.param == "stow-rs":
        with web_serving(WebPeer(answer=stow_answer)) as peer:
            yield _web(
                "stow-rs",
                peer,
                lambda: [stow_part(item) for item in peer.posted()],
                lambda stored: stored.path.read_bytes(),
            )
    elif request.param == "webhook":
        with web_serving(WebPeer()) as peer:
            posted = lambda: [i.body for i in peer.posted() if i.headers["x-cxr-node-event"] == PRIORITY]  # noqa: E731
            yield _web("webhook", peer, posted, lambda stored: stored.path.read_bytes())
    elif request.param == "orthanc-label":
        orthanc = OrthancPeer(studies={"1.2.3": [(ORTHANC_ID, "P1")]})
        with web_serving(WebPeer(answer=orthanc)) as peer:
            yield _web("orthanc-label", peer, lambda: list(orthanc.labels), lambda stored: (ORTHANC_ID, "ai-priority"))
    elif request.param == "hl7-oru":
        with hl7_serving(Hl7Peer()) as ris:
            yield Kind(
                ris.destination("here"),
                ris.destination("gone", port=free_port()),
                lambda: list(ris.received),
                lambda stored: load_template(None).render(notice_of(stored)),
            )
    else:
        assert request.param == "ups", f"{request.param}: this test knows no peer for it"
        with ups_serving(UpsPeer()) as manager:
            yield Kind(
                manager.destination("here"),
                manager.destination("gone", port=free_port()),
                lambda: list(manager.tasks.values()),
                lambda stored: make_task(notice_of(stored), "UPS"),
            )


def test_each_kind_of_the_settings_has_a_destination():
    """A kind that node.toml accepts and nobody sends would lose reports in silence."""
    assert set(DESTINATIONS) == set(Destination.model_fields["kind"].annotation.__args__)


def test_what_arrives_is_what_was_stored(node, kind):
    """Whoever compares the archive with the node must find one report, not two that mean the same; and a message says
    what the stored notice says, nothing else."""
    stored = kind.plan(node)
    sent = node.sender(kind.destination).send(stored)
    assert kind.arrived() == [kind.expected(stored)]
    assert (sent.sop_instance_uid, sent.reason, sent.skipped) == (stored.sop_instance_uid, "", False)


def test_sending_again_sends_the_same(node, kind):
    """A crash between the answer and the commit ends in a second attempt."""
    stored = kind.plan(node)
    first, second = node.sender(kind.destination).send(stored), node.sender(kind.destination).send(stored)
    assert first == second
    arrived = kind.arrived()
    assert arrived
    assert all(item == kind.expected(stored) for item in arrived)


def test_a_destination_that_is_gone_is_unreachable_and_named(node, kind):
    """An administrator reads this sentence on the worklist."""
    stored = kind.plan(node, "gone")
    with pytest.raises(Unreachable, match=r"^gone: "):
        node.sender(kind.gone).send(stored)


def test_what_the_node_cannot_read_is_the_nodes_own_fault(node, kind):
    """The destination must not be blamed, nor given something made anew."""
    stored = replace(kind.plan(node), location="objects/00/nowhere.dcm")
    with pytest.raises(StorageUnavailable):
        node.sender(kind.destination).send(stored)
    assert kind.arrived() == []


@pytest.mark.requirement("SRS-DLV-201")
def test_a_test_says_nothing_where_all_is_well_and_leaves_nothing_behind(node, kind):
    """An administrator presses a button; the archive must not hold a test report after it."""
    assert node.sender(kind.destination).test() == ""
    assert kind.arrived() == []


@pytest.mark.requirement("SRS-DLV-201")
def test_a_test_says_in_one_sentence_what_is_wrong(node, kind):
    """One sentence, that names the destination: it stands in a table."""
    found = node.sender(kind.gone).test()
    assert found.startswith("gone: ")
    assert "\n" not in found


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
