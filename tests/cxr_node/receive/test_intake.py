"""The intake alone: file in, status out, over a real storage."""

import os
import sqlite3
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)

from cxr_node.imaging import read_header
from cxr_node.receive.intake import Accepted, Intake, Requested
from cxr_node.receive.records import Sender
from cxr_node.receive.sameness import is_same
from cxr_node.receive.statuses import Answer
from storage import Database, Doorbell, InstanceFiles, audit, instances, jobs, studies
from storage.errors import StorageBusy, StorageFull
from tests.builders import in_transfer_syntax, make_pixels, make_radiograph_dataset, to_part_10
from tests.databases import migrated

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
QUIET_PERIOD_S = 60.0
UIDS = {"SOPInstanceUID": "1.2.3.1", "StudyInstanceUID": "1.2.3.2", "SeriesInstanceUID": "1.2.3.3"}


class Desk:
    """An intake with its storage, and what a test asks of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = migrated(f"sqlite:///{root / 'db'}")
        self.files = InstanceFiles(root / "instances")
        self.doorbell = Doorbell(root / "run")
        self.intake = self.make_intake()

    def make_intake(self, **parts) -> Intake:
        return Intake(
            parts.get("database", self.database),
            parts.get("files", self.files),
            self.doorbell,
            quiet_period_s=QUIET_PERIOD_S,
            min_free_bytes=0,
        )

    def accept(self, dataset: Dataset, *, intake: Intake | None = None, calling: str = "CR_ROOM_1") -> Answer:
        requested = Requested(
            str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), str(dataset.file_meta.TransferSyntaxUID)
        )
        return self.accept_bytes(to_part_10(dataset), requested, intake=intake, calling=calling).answer

    def accept_bytes(
        self, data: bytes, requested: Requested, *, intake: Intake | None = None, calling: str = "CR_ROOM_1"
    ) -> Accepted:
        path = self.files.new_temporary()
        path.write_bytes(data)
        sender = Sender(calling, "CXR_NODE", "192.0.2.1", "a1")
        accepted = (intake or self.intake).accept(path, requested, sender, now=lambda: NOON)
        assert not path.exists()
        return accepted

    def stored(self, uid: str = UIDS["SOPInstanceUID"]) -> list:
        with self.database.read() as connection:
            return instances.by_sop_instance_uid(connection, uid)

    def study(self):
        with self.database.read() as connection:
            return studies.get(connection, UIDS["StudyInstanceUID"])

    def all_files(self) -> list[Path]:
        return [path for path in (self.root / "instances").rglob("*") if path.is_file()]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.requirement("SRS-RCV-003")
def test_success_leaves_bytes_row_study_and_job(desk):
    """Everything that a restart needs to go on, in one transaction."""
    bell = desk.doorbell.listen("worklist")
    dataset = make_radiograph_dataset(**UIDS, RequestedProcedurePriority="HIGH")
    assert desk.accept(dataset) == Answer(0x0000)
    (row,) = desk.stored()
    assert (row.variant, row.received_at, row.calling_ae_title, row.association_id) == (0, NOON, "CR_ROOM_1", "a1")
    assert desk.files.read(row.location) == to_part_10(dataset)
    assert row.size == len(to_part_10(dataset))
    study = desk.study()
    assert (study.images, study.status, study.ordered_priority, study.priority_rank) == (1, "pending", "HIGH", 3)
    with desk.database.begin() as connection:
        assert jobs.claim(connection, ["analyze"], owner="t", now=NOON) == []
        due = NOON + timedelta(seconds=QUIET_PERIOD_S)
        (job,) = jobs.claim(connection, ["analyze"], owner="t", now=due)
    assert (job.key, job.priority, job.run_at) == (UIDS["StudyInstanceUID"], 3, due)
    assert bell.wait(30)
    bell.close()


@pytest.mark.requirement("SRS-RCV-009")
def test_hasten_makes_waiting_studies_due(desk):
    """The end of the association is the end of the study, as far as anybody can tell."""
    bell = desk.doorbell.listen("analyze")
    desk.accept(make_radiograph_dataset(**UIDS))
    desk.intake.hasten({UIDS["StudyInstanceUID"]}, now=lambda: NOON)
    assert bell.wait(30)
    bell.close()
    with desk.database.begin() as connection:
        assert len(jobs.claim(connection, ["analyze"], owner="t", now=NOON)) == 1


@pytest.mark.requirement("SRS-RCV-005")
@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        JPEGLSLossless,
    ],
)
def test_a_resend_in_another_transfer_syntax_is_the_same_object(desk, syntax):
    """A PACS sends in what was negotiated today; private attributes and ambiguous VRs look different in each."""
    attributes = {**UIDS, "SmallestImagePixelValue": 0, "ImageType": ["ORIGINAL", "PRIMARY"]}

    def dataset():
        made = make_radiograph_dataset(**attributes)
        made.private_block(0x0019, "MAKER", create=True).add_new(1, "LO", "private")
        return made

    assert desk.accept(dataset()).status == 0x0000
    assert desk.accept(in_transfer_syntax(dataset(), syntax)).status == 0x0000
    assert len(desk.stored()) == 1
    assert desk.study().conflicts == 0
    assert len(desk.all_files()) == 1


@pytest.mark.requirement("SRS-RCV-005")
@pytest.mark.parametrize(
    ("changes", "syntax"),
    [
        ({"PatientID": "P2"}, ExplicitVRLittleEndian),
        ({"PatientID": "P2"}, ImplicitVRLittleEndian),
        ({"PatientID": "P2"}, JPEG2000),
        ({"PhotometricInterpretation": "MONOCHROME1"}, ImplicitVRLittleEndian),
        ({"pixels": make_pixels()[::-1].copy()}, ExplicitVRLittleEndian),
        ({"pixels": make_pixels()[::-1].copy()}, ImplicitVRLittleEndian),
        ({"pixels": make_pixels()[::-1].copy()}, ExplicitVRBigEndian),
        ({"pixels": make_pixels()[::-1].copy()}, DeflatedExplicitVRLittleEndian),
        ({"StudyDescription": "added"}, ExplicitVRLittleEndian),
    ],
)
def test_a_different_object_under_a_known_uid_is_kept_apart_and_reported(desk, changes, syntax):
    """Dropping it with Success would lose a picture; overwriting would change what a result was made from."""
    desk.accept(make_radiograph_dataset(make_pixels(), **UIDS))
    other = in_transfer_syntax(make_radiograph_dataset(**{"pixels": make_pixels(), **UIDS, **changes}), syntax)
    assert desk.accept(other, calling="OTHER") == Answer(0x0000)
    first, second = desk.stored()
    assert (first.variant, second.variant, second.calling_ae_title) == (0, 1, "OTHER")
    assert desk.files.read(second.location) == to_part_10(other)
    assert (desk.study().conflicts, desk.study().images) == (1, 1)
    with desk.database.read() as connection:
        (event,) = audit.events(connection, study_instance_uid=UIDS["StudyInstanceUID"])
    assert (event.event, event.actor) == ("conflicting_instance", "OTHER")
    assert desk.accept(other).status == 0x0000
    assert len(desk.stored()) == 2


@pytest.mark.requirement("SRS-RCV-005")
def test_an_object_whose_syntax_cannot_be_told_is_compared_by_its_pixels(tmp_path):
    """Found by the fuzzer: a Transfer Syntax UID of two values ended the comparison with an error of the library."""
    stored, sent = tmp_path / "stored.dcm", tmp_path / "sent.dcm"
    stored.write_bytes(to_part_10(make_radiograph_dataset(make_pixels(), **UIDS)))
    for pixels, expected in ((make_pixels(), True), (make_pixels()[::-1].copy(), False)):
        data = to_part_10(make_radiograph_dataset(pixels, **UIDS))
        odd = data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\\1\0", 1)
        assert odd != data
        sent.write_bytes(odd + b"\0\0")
        assert is_same(read_header(sent), sent, stored, has_same_syntax=True) is expected


@pytest.mark.requirement("SRS-RCV-005")
def test_many_associations_that_send_one_instance_make_one_row(desk):
    """Two PACS nodes that forward the same study at once."""
    data = to_part_10(make_radiograph_dataset(**UIDS))
    requested = Requested("1.2.840.10008.5.1.4.1.1.1.1", UIDS["SOPInstanceUID"], ExplicitVRLittleEndian)
    barrier, answers = threading.Barrier(6), []

    def send():
        barrier.wait()
        answers.append(desk.accept_bytes(data, requested).answer.status)

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [0x0000] * 6
    assert len(desk.stored()) == 1
    assert len(desk.all_files()) == 1


@pytest.mark.requirement("SRS-RCV-006")
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 0xC000),
        (b"\0" * 132 + b"DICM", 0xC002),
        (os.urandom(1000), 0xC000),
        (to_part_10(make_radiograph_dataset(**UIDS))[:-5], 0xC000),
        (to_part_10(make_radiograph_dataset(**UIDS))[:500], 0xC000),
    ],
)
def test_bytes_that_are_no_whole_dataset_are_answered_cannot_understand(desk, data, status):
    """Success would let the sender delete the only copy."""
    requested = Requested("1.2.840.10008.5.1.4.1.1.1.1", UIDS["SOPInstanceUID"], ExplicitVRLittleEndian)
    assert desk.accept_bytes(data, requested).answer.status == status
    assert desk.stored() == []
    assert desk.all_files() == []


@pytest.mark.requirement("SRS-RCV-006")
@pytest.mark.parametrize("uid", ["1.02.003", "0.1", "1", "1." + "2" * 62])
def test_uids_that_are_common_and_harmless_are_kept(desk, uid):
    """Leading zeros are against PS3.5 9.1, and modalities that write them are in use."""
    assert desk.accept(make_radiograph_dataset(**{**UIDS, "SOPInstanceUID": uid})).status == 0x0000
    assert len(desk.stored(uid)) == 1


@pytest.mark.requirement("SRS-RCV-006")
def test_no_name_of_a_sender_reaches_the_file_system(desk):
    """A UID could hold a path, or a patient's name."""
    desk.accept(make_radiograph_dataset(**UIDS))
    (path,) = desk.all_files()
    assert not any(uid in str(path.relative_to(desk.root)) for uid in UIDS.values())


@pytest.mark.requirement("SRS-RCV-008")
@pytest.mark.parametrize("error", [StorageBusy("locked"), StorageFull("disk full"), OSError(5, "gone")])
@pytest.mark.parametrize("part", ["read", "begin"])
def test_a_database_that_cannot_is_answered_out_of_resources(desk, monkeypatch, error, part):
    """The sender tries again; a file that no row names would fill the disk."""
    if part == "read":  # what is stored is looked up where something came twice
        assert desk.accept(make_radiograph_dataset(**UIDS)).status == 0x0000
    before = (desk.all_files(), desk.stored())

    def fail(*_):
        raise error

    monkeypatch.setattr(desk.database, part, fail)
    answer = desk.accept(make_radiograph_dataset(**UIDS))
    monkeypatch.undo()
    assert answer.status == 0xA700
    assert (desk.all_files(), desk.stored()) == before


@pytest.mark.requirement("SRS-RCV-008")
def test_a_locked_database_is_answered_out_of_resources(desk, monkeypatch):
    """A real lock, held by another program."""
    monkeypatch.setattr("storage.database.BUSY_TIMEOUT_S", 0.2)
    database = Database(f"sqlite:///{desk.root / 'db'}")
    other = sqlite3.connect(desk.root / "db", isolation_level=None)
    with database.read() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 200")
    other.execute("BEGIN IMMEDIATE")
    try:
        assert desk.accept(make_radiograph_dataset(**UIDS), intake=desk.make_intake(database=database)).status == 0xA700
    finally:
        other.execute("ROLLBACK")
        other.close()
        database.dispose()
    assert desk.all_files() == []
    assert desk.accept(make_radiograph_dataset(**UIDS)).status == 0x0000


@pytest.mark.requirement("SRS-RCV-008")
def test_after_a_commit_of_unknown_end_the_file_stays_if_the_row_is_there(desk, monkeypatch):
    """A server lost during COMMIT may have done it: a row must not name a file that is gone."""
    begin = desk.database.begin

    class Lost:
        def __init__(self):
            self.inner = begin()

        def __enter__(self):
            return self.inner.__enter__()

        def __exit__(self, *details):
            self.inner.__exit__(*details)
            raise StorageBusy("connection lost during commit")

    monkeypatch.setattr(desk.database, "begin", Lost)
    dataset = make_radiograph_dataset(**UIDS)
    assert desk.accept(dataset).status == 0xA700
    monkeypatch.undo()
    (row,) = desk.stored()
    assert desk.files.read(row.location) == to_part_10(dataset)
    assert desk.accept(dataset).status == 0x0000
    assert len(desk.stored()) == 1


@pytest.mark.requirement("SRS-RCV-008")
def test_a_disk_that_is_full_at_fsync_is_answered_out_of_resources(desk, monkeypatch):
    """Some file systems tell only then."""

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("storage.files.os.fsync", full)
    assert desk.accept(make_radiograph_dataset(**UIDS)).status == 0xA700
    assert desk.all_files() == []


@pytest.mark.requirement("SRS-RCV-007")
@pytest.mark.parametrize(
    ("charset", "raw", "expected"),
    [
        ("ISO_IR 100", "Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
        ("ISO_IR 192", "Łukasz^Żak".encode(), "Łukasz^Żak"),
        ("ISO_IR 144", "Иванов^Иван".encode("iso8859-5"), "Иванов^Иван"),
        ("ISO 2022 IR 100", "Müller^J".encode("latin-1"), "Müller^J"),
        ("ISO_IR 192", b"M\xfcller^J", "M�ller^J"),
        ("", "Müller^J".encode("cp1252"), "Müller^J"),
        ("nonsense", b"DOE^JANE", "DOE^JANE"),
        ("ISO_IR 192", b"DOE\0^JANE", "DOE^JANE"),
    ],
)
def test_names_are_decoded_with_the_dataset_character_set_or_mended(desk, charset, raw, expected):
    """A wrong byte must neither stop the intake nor the database."""
    raw += b" " * (len(raw) % 2)
    placeholder = b"PLACEHOLDER^PLACEHOLDER^X"[: len(raw)].decode()
    data = to_part_10(make_radiograph_dataset(**UIDS, SpecificCharacterSet=charset, PatientName=placeholder))
    requested = Requested("1.2.840.10008.5.1.4.1.1.1.1", UIDS["SOPInstanceUID"], ExplicitVRLittleEndian)
    assert desk.accept_bytes(data.replace(placeholder.encode(), raw), requested).answer.status == 0x0000
    assert desk.study().context.patient_name == expected


@pytest.mark.requirement("SRS-RCV-007")
def test_the_highest_ordered_priority_counts(desk):
    """Several requests, one study; what is no defined term is none."""
    items = []
    for value in ("ROUTINE", "high", "whenever"):
        item = Dataset()
        item.RequestedProcedurePriority = value
        items.append(item)
    desk.accept(make_radiograph_dataset(**UIDS, RequestAttributesSequence=items))
    assert desk.study().ordered_priority == "HIGH"


@pytest.mark.requirement("SRS-RCV-006")
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_mangled_dataset_gets_past_a_status(desk, data):
    """Kept or refused, never an exception, and never a file without a row or a row without its file."""
    whole = bytearray(to_part_10(make_radiograph_dataset(np.zeros((4, 4), np.uint8), **UIDS)))
    for _ in range(data.draw(st.integers(0, 6))):
        whole[data.draw(st.integers(132, len(whole) - 1))] = data.draw(st.integers(0, 255))
    del whole[data.draw(st.integers(132, len(whole))) :]
    requested = Requested("1.2.840.10008.5.1.4.1.1.1.1", UIDS["SOPInstanceUID"], ExplicitVRLittleEndian)
    answer = desk.accept_bytes(bytes(whole), requested).answer
    assert answer.status in (0x0000, 0xA900, 0xC000, 0xC001, 0xC002)
    assert len(answer.comment) <= 64
    assert len(desk.all_files()) == len(desk.stored())


@pytest.mark.requirement("SRS-RCV-006")
def test_an_error_comment_fits_its_vr():
    """(0000,0902) is LO: 64 characters."""
    with pytest.raises(ValueError, match="64"):
        Answer(0xC000, "x" * 65)
