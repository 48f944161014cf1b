"""A watched folder: what is taken, what is put aside, and that nothing is lost."""

import os
import threading
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian

from cxr_node.receive import watch as watch_module
from cxr_node.receive.intake import Accepted, Intake
from cxr_node.receive.statuses import OUT_OF_RESOURCES, Answer
from cxr_node.receive.watch import FULL_PAUSE_S, TROUBLE_PAUSE_S, WatchedFolder
from storage import Doorbell, InstanceFiles, instances, jobs
from tests.builders import make_radiograph_dataset, to_part_10
from tests.databases import migrated
from tests.system.conftest import wait_until

JPIP = "1.2.840.10008.1.2.4.94"


class Watched:
    """A folder, the node behind it, and a clock that a test turns."""

    def __init__(self, root: Path) -> None:
        self.path = root / "in"
        self.path.mkdir()
        self.database = migrated(f"sqlite:///{root / 'node.db'}")
        self.files = InstanceFiles(root / "files")
        self.intake = Intake(self.database, self.files, Doorbell(root / "run"), quiet_period_s=60.0, min_free_bytes=1.0)
        self.seconds = 100.0
        self.folder = self.make()

    def make(self, keep: bool = False) -> WatchedFolder:
        return WatchedFolder(
            self.path,
            self.intake,
            self.files,
            called_ae_title="CXR_NODE",
            settle_s=2.0,
            keep=keep,
            clock=lambda: self.seconds,
        )

    def look(self, after_s: float = 2.0) -> int:
        self.seconds += after_s
        return self.folder.look()

    def settle(self) -> int:
        """See the files, and see them again when they have settled."""
        return self.look() + self.look()

    def put(self, name: str, data: bytes) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def stored(self, dataset) -> list:
        with self.database.read() as connection:
            return instances.by_sop_instance_uid(connection, dataset.SOPInstanceUID)

    def left(self) -> list[str]:
        return sorted(str(path.relative_to(self.path)) for path in self.path.rglob("*") if path.is_file())


@pytest.fixture
def watched(tmp_path):
    found = Watched(tmp_path)
    yield found
    assert list((tmp_path / "files" / "incoming").iterdir()) == []
    found.database.dispose()


@pytest.mark.requirement("SRS-RCV-311")
def test_a_file_of_any_name_is_kept_byte_for_byte_and_removed(watched):
    """It is due at once, for nothing else is on its way, and the row says which way it came."""
    dataset = make_radiograph_dataset()
    data = to_part_10(dataset)
    watched.put("monday/IM000001", data)
    assert watched.settle() == 1
    (row,) = watched.stored(dataset)
    assert (row.calling_ae_title, row.called_ae_title, row.peer_address) == ("FOLDER", "CXR_NODE", "")
    assert watched.files.read(row.location) == data
    assert watched.left() == []
    with watched.database.read() as connection:
        job = jobs.get(connection, "analyze", dataset.StudyInstanceUID)
        assert (job.run_at - row.received_at).total_seconds() < 30


@pytest.mark.requirement("SRS-RCV-311")
def test_a_growing_file_is_left_until_it_has_settled(watched):
    """Half an image would be refused, and its second half lost."""
    data = to_part_10(make_radiograph_dataset())
    path = watched.put("a.dcm", data[:1000])
    assert watched.look(10) == 0
    path.write_bytes(data[:2000])
    assert watched.look(10) == 0
    path.write_bytes(data)
    assert watched.look(10) == 0
    assert watched.look(1.9) == 0
    assert watched.look(0.2) == 1
    assert watched.left() == []


@pytest.mark.requirement("SRS-RCV-311")
def test_hidden_unfinished_and_linked_files_are_not_touched(watched, tmp_path):
    """A link could lead anywhere; what is being written bears a name that says so."""
    data = to_part_10(make_radiograph_dataset())
    for name in (".hidden.dcm", "a.part", "b.TMP", ".sub/c.dcm"):
        watched.put(name, data)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "d.dcm").write_bytes(data)
    (watched.path / "link.dcm").symlink_to(outside / "d.dcm")
    (watched.path / "linked").symlink_to(outside)
    os.mkfifo(watched.path / "pipe")
    assert watched.settle() == 0
    assert (outside / "d.dcm").read_bytes() == data
    assert {".hidden.dcm", ".sub/c.dcm", "a.part", "b.TMP"} <= set(watched.left())


@pytest.mark.requirement("SRS-RCV-312")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"Thumbs.db, or whatever else a person leaves", "no DICOM file, and no dataset with UIDs either"),
        (b"", "no DICOM file, and no dataset with UIDs either"),
        (to_part_10(make_radiograph_dataset())[:900], "the dataset does not read"),
        (to_part_10(make_radiograph_dataset(StudyInstanceUID=None)), "Study Instance UID is absent from the dataset"),
        (to_part_10(make_radiograph_dataset(SOPClassUID="1.2.3")), "the node takes no such SOP class"),
    ],
    ids=["text", "empty", "cut", "no study", "class"],
)
def test_what_nobody_can_take_is_put_aside_with_its_reason(watched, data, reason, caplog):
    """A person looks there; the reason names no patient, and the log no file name, which could."""
    watched.put("sub/DOE^JANE.dcm", data)
    assert watched.settle() == 1
    assert watched.left() == [".failed/sub/DOE^JANE.dcm", ".failed/sub/DOE^JANE.dcm.reason.txt"]
    assert (watched.path / ".failed/sub/DOE^JANE.dcm").read_bytes() == data
    text = (watched.path / ".failed/sub/DOE^JANE.dcm.reason.txt").read_text()
    assert reason in text
    assert "JANE" not in text
    assert "JANE" not in caplog.text
    watched.put("sub/DOE^JANE.dcm", data)
    assert watched.settle() == 1
    assert ".failed/sub/DOE^JANE-1.dcm" in watched.left()
    assert watched.settle() == 0


@pytest.mark.requirement("SRS-RCV-312")
def test_a_transfer_syntax_that_c_store_would_refuse_is_refused_here(watched):
    """Every way in takes the same objects."""
    dataset = make_radiograph_dataset()
    data = to_part_10(dataset)
    dataset.file_meta.TransferSyntaxUID = JPIP
    del dataset.PixelData
    watched.put("jpip", to_part_10(dataset))
    watched.put("ct", to_part_10(make_radiograph_dataset(SOPClassUID=CTImageStorage)))
    watched.put("dx", data)
    assert watched.settle() == 3
    assert watched.left() == [".failed/jpip", ".failed/jpip.reason.txt"]
    assert "transfer syntax" in (watched.path / ".failed/jpip.reason.txt").read_text()


@pytest.mark.requirement("SRS-RCV-311")
@pytest.mark.parametrize("is_implicit", [True, False])
def test_a_dataset_without_preamble_is_taken(watched, is_implicit, tmp_path):
    """Old exports write the dataset alone; its bytes are kept as they are behind a group 2 of ours."""
    dataset = make_radiograph_dataset()
    if is_implicit:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    whole = to_part_10(dataset)
    meta_end = 144 + int.from_bytes(whole[140:144], "little")
    watched.put("bare", whole[meta_end:])
    assert watched.settle() == 1
    (row,) = watched.stored(dataset)
    assert row.transfer_syntax_uid == dataset.file_meta.TransferSyntaxUID
    assert watched.files.read(row.location).endswith(whole[meta_end:])
    assert watched.files.read(row.location)[128:132] == b"DICM"


@pytest.mark.requirement("SRS-RCV-313")
def test_a_full_disk_leaves_files_where_they_are(watched, monkeypatch):
    """And they are taken when somebody has made room."""
    watched.put("a.dcm", to_part_10(make_radiograph_dataset()))
    watched.look()
    with monkeypatch.context() as full:
        full.setattr(InstanceFiles, "free_bytes", lambda _: 0)
        assert watched.look() == 0
        assert watched.look(1) == 0
    assert watched.left() == ["a.dcm"]
    assert watched.look(1) == 0, "a rest, so that a full disk is not asked every second"
    assert watched.look(FULL_PAUSE_S) == 1
    assert watched.left() == []


@pytest.mark.requirement("SRS-RCV-313")
def test_an_intake_out_of_resources_puts_nothing_aside(watched, monkeypatch):
    """A database that is locked says nothing about the file."""
    watched.put("a.dcm", to_part_10(make_radiograph_dataset()))
    watched.look()
    with monkeypatch.context() as broken:
        broken.setattr(Intake, "accept", lambda *_, **__: Accepted(Answer(OUT_OF_RESOURCES, "storage cannot")))
        assert watched.look() == 0
    assert watched.left() == ["a.dcm"]
    assert watched.look(FULL_PAUSE_S) == 1


@pytest.mark.requirement("SRS-RCV-313")
def test_a_kill_between_commit_and_removal_loses_and_doubles_nothing(watched, monkeypatch):
    """Killed there, the file is still in the folder: taken again it is known, and removed then."""
    dataset = make_radiograph_dataset()
    watched.put("a.dcm", to_part_10(dataset))
    watched.look()

    def die(*_) -> None:
        raise SystemExit

    with monkeypatch.context() as killed:
        killed.setattr(WatchedFolder, "_remove", die)
        with pytest.raises(SystemExit):
            watched.look()
    assert watched.left() == ["a.dcm"]
    assert len(watched.stored(dataset)) == 1
    watched.folder = watched.make()
    assert watched.settle() == 1
    assert watched.left() == []
    assert len(watched.stored(dataset)) == 1


@pytest.mark.requirement("SRS-RCV-313")
def test_a_file_that_takes_the_place_of_one_taken_is_not_removed_for_it(watched, monkeypatch):
    """Somebody writes the next image under the same name while the first is made durable."""
    first, second = make_radiograph_dataset(), make_radiograph_dataset()
    path = watched.put("a.dcm", to_part_10(first))
    watched.look()
    accept = Intake.accept

    def overwritten(*arguments, **options) -> Accepted:
        accepted = accept(*arguments, **options)
        path.write_bytes(to_part_10(second))
        os.utime(path, ns=(1, 1))
        return accepted

    with monkeypatch.context() as busy:
        busy.setattr(Intake, "accept", overwritten)
        watched.look()
    assert watched.left() == ["a.dcm"]
    assert watched.settle() == 1
    assert len(watched.stored(first)) == len(watched.stored(second)) == 1


@pytest.mark.requirement("SRS-RCV-311")
def test_with_keep_what_was_taken_is_moved(watched):
    """Under its own name, or one beside it where that is taken."""
    watched.folder = watched.make(keep=True)
    for _ in range(2):
        watched.put("a/x.dcm", to_part_10(make_radiograph_dataset()))
        assert watched.settle() == 1
    assert watched.left() == [".done/a/x-1.dcm", ".done/a/x.dcm"]
    assert watched.settle() == 0


@pytest.mark.requirement("SRS-RCV-313")
def test_a_file_that_cannot_be_read_is_told_of_once_and_tried_again(watched, monkeypatch):
    """Permissions are mended by a person; until then the other files are taken."""
    told: list[str] = []
    monkeypatch.setattr(watch_module.log, "warning", lambda event, **_: told.append(event), raising=False)
    path, other = watched.put("a.dcm", to_part_10(make_radiograph_dataset())), make_radiograph_dataset()
    watched.put("b.dcm", to_part_10(other))
    real = os.open

    def refuse(name, *arguments, **options):
        if str(name) == str(path):
            raise PermissionError(13, "Permission denied")
        return real(name, *arguments, **options)

    with monkeypatch.context() as denied:
        denied.setattr(os, "open", refuse)
        assert watched.settle() == 1
        for _ in range(3):
            assert watched.look(TROUBLE_PAUSE_S + 3) == 0
    assert told == ["watch_file_unreadable"]
    assert watched.left() == ["a.dcm"]
    assert watched.look(TROUBLE_PAUSE_S + 3) == 1


@pytest.mark.requirement("SRS-RCV-311")
def test_a_folder_that_is_missing_is_told_of_once_and_waited_for(watched, monkeypatch):
    """A share that is not mounted must not end the listener beside it."""
    told: list[str] = []
    monkeypatch.setattr(watch_module.log, "error", lambda event, **_: told.append(event), raising=False)
    watched.path.rmdir()
    assert watched.settle() == 0
    assert told == ["watch_folder_missing"]
    watched.path.mkdir()
    watched.put("a.dcm", to_part_10(make_radiograph_dataset()))
    assert watched.settle() == 1


@pytest.mark.requirement("SRS-RCV-311")
def test_thousands_of_files_are_looked_through_in_a_moment(watched, monkeypatch):
    """A look at an unchanged folder opens none of them."""
    for number in range(3000):
        (watched.path / f"{number}.part").touch()
        (watched.path / f"{number}.dcm").write_bytes(b"x")
    watched.look()
    monkeypatch.setattr(os, "open", lambda *_, **__: pytest.fail("opened a file that has not settled"))
    assert watched.look(0.5) == 0


@pytest.mark.requirement("SRS-RCV-311")
def test_the_thread_takes_what_is_put_there_and_ends(watched, monkeypatch):
    """As the stage runs it."""
    monkeypatch.setattr(watch_module, "POLL_S", 0.02)
    folder = WatchedFolder(
        watched.path, watched.intake, watched.files, called_ae_title="CXR_NODE", settle_s=0.05, keep=False
    )
    folder.start()
    try:
        dataset = make_radiograph_dataset()
        watched.put("a.dcm", to_part_10(dataset))
        wait_until(lambda: not watched.left(), 10, "the file taken")
        assert len(watched.stored(dataset)) == 1
    finally:
        folder.close()
    assert not any(thread.name == "receive-watch" for thread in threading.enumerate())
