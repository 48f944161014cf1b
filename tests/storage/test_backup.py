"""A backup of a node that works on is one consistent moment, whole or not there, and comes back as it was."""

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage import Database, InstanceFiles, audit, deliveries, instances, jobs, results
from storage.backup import Wanted, make_backup, prune
from storage.backup_manifest import FILES, MANIFEST, backups, read_manifest, verify
from storage.errors import StorageError
from storage.keys import KeyFile, add_key
from storage.restore import Place, restore
from tests.storage.conftest import create_database, drop_database

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
WANTED = Wanted(release="test", extras={"node.toml": b"[node]\n", "packages/site/manifest.json": b"{}"})
PG_CLIENT = [pytest.mark.peer("pg_dump"), pytest.mark.peer("pg_restore")]


def arrive(database: Database, files: InstanceFiles, number: int) -> str:
    """Receive an instance as intake does: bytes, then row and job in one transaction."""
    temporary = files.new_temporary()
    temporary.write_bytes(f"pixels {number}".encode())
    uid = f"1.2.{number}"
    location = files.keep(temporary, uid, 0)
    with database.begin() as connection:
        instances.add(
            connection,
            sop_instance_uid=uid,
            series_instance_uid="1.2",
            study_instance_uid=f"1.9.{number}",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            variant=0,
            size=temporary.stat().st_size if temporary.exists() else len(f"pixels {number}"),
            location=location,
            calling_ae_title="CR_1",
            called_ae_title="CXR_NODE",
            peer_address="127.0.0.1",
            association_id="a",
            received_at=NOON,
        )
        jobs.schedule(connection, "analyze", f"1.9.{number}", run_at=NOON, now=NOON)
    return location


def report(database: Database, files: InstanceFiles, number: int) -> str:
    """Make a result with an object that was delivered."""
    location = files.write_object(f"2.25.{number}", f"report {number}".encode())
    with database.begin() as connection:
        made = results.add(
            connection, f"1.9.{number}", status="analysed", flagged=True, ai_priority="HIGH", outcome={}, now=NOON
        )
        results.add_object(
            connection, made.id, kind="sr", sop_class_uid="1.2", sop_instance_uid=f"2.25.{number}",
            location=location, now=NOON,
        )  # fmt: skip
        planned = deliveries.add(connection, made.id, kind="sr", destination="pacs", now=NOON)
        deliveries.set_state(connection, planned.id, deliveries.DELIVERED, now=NOON)
    return location


def place(folder: Path, url: str = "") -> Place:
    data = folder / "restored"
    return Place(data, data / "instances", url or f"sqlite:///{data / 'cxr-node.db'}")


def rows(database: Database, number: int) -> list[str]:
    with database.read() as connection:
        return [item.location for item in instances.by_sop_instance_uid(connection, f"1.2.{number}")]


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=[pytest.mark.peer("initdb"), *PG_CLIENT])], name="target"
)
def fixture_target(request, tmp_path):
    """A database with rows, and the address of an empty one of the same kind."""
    database = request.getfixturevalue(f"{request.param}_database")
    if request.param == "sqlite":
        yield database, ""
        return
    url = create_database(request.getfixturevalue("postgresql_server"))
    yield database, url
    drop_database(url)


@pytest.mark.requirement("SRS-STO-311")
def test_what_was_saved_comes_back_as_it_was(target, files, tmp_path):
    """The report that the PACS has keeps its UID and bytes; what was under way is taken up again."""
    database, url = target
    location, sent = arrive(database, files, 1), report(database, files, 1)
    with database.begin() as connection:
        assert jobs.claim(connection, ["analyze"], owner="dead:1:", now=NOON)
    made = make_backup(database, files, tmp_path / "backups", WANTED, now=NOON)
    assert verify(made.path) == ()
    done = restore(made.path, place(tmp_path, url), now=NOON)
    assert (done.released, done.absent) == (1, ())
    restored = Database(place(tmp_path, url).database_url)
    kept = InstanceFiles(tmp_path / "restored" / "instances")
    assert (kept.read(location), kept.read(sent)) == (b"pixels 1", b"report 1")
    assert (tmp_path / "restored" / "packages" / "site" / "manifest.json").read_bytes() == b"{}"
    with restored.begin() as connection:
        (job,) = jobs.claim(connection, ["analyze"], owner="new:1:", now=NOON)
        assert job.key == "1.9.1"
        (delivery,) = deliveries.of_study(connection, "1.9.1")
        assert delivery.state == deliveries.DELIVERED
        (stored,) = results.objects(connection, delivery.result_id)
        assert (stored.sop_instance_uid, stored.location) == ("2.25.1", sent)
        assert audit.newest(connection, "backup_restored")
    restored.dispose()


@pytest.mark.requirement("SRS-STO-312")
def test_a_backup_under_load_holds_every_instance_that_was_acknowledged_before_it_began(target, files, tmp_path):
    """And names none whose bytes it has not."""
    database, url = target
    for number in range(20):
        arrive(database, files, number)
    stop, acknowledged, errors = threading.Event(), [], []

    def sender(first: int) -> None:
        number = first
        try:
            while not stop.is_set():
                arrive(database, files, number)
                acknowledged.append(number)
                number += 2
        except Exception as error:  # noqa: BLE001  # told below
            errors.append(error)

    threads = [threading.Thread(target=sender, args=(first,)) for first in (1000, 1001)]
    for thread in threads:
        thread.start()
    try:
        made = []
        for number in range(2):
            before = list(acknowledged)
            made = make_backup(database, files, tmp_path / "backups", WANTED, now=NOON + timedelta(hours=number))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors
    assert verify(made.path) == ()
    assert made.manifest.lost == ()
    done = restore(made.path, place(tmp_path, url), now=NOON)
    assert done.absent == ()
    restored, kept = Database(place(tmp_path, url).database_url), InstanceFiles(tmp_path / "restored" / "instances")
    for number in [*range(20), *before]:
        (location,) = rows(restored, number)
        assert kept.read(location) == f"pixels {number}".encode()
    for number in acknowledged:
        for location in rows(restored, number):
            assert kept.exists(location)
    restored.dispose()


@pytest.mark.requirement("SRS-STO-313")
def test_a_kill_in_the_middle_leaves_the_earlier_backup_whole_and_is_cleared_up(sqlite_database, files, tmp_path):
    """A power cut at night must not cost yesterday's backup too."""
    folder, armed = tmp_path / "backups", tmp_path / "armed"
    armed.mkdir()
    arrive(sqlite_database, files, 1)
    first = make_backup(sqlite_database, files, folder, WANTED, now=NOON)
    arrive(sqlite_database, files, 2)
    script = (
        "import sys\nfrom datetime import datetime, UTC\nfrom pathlib import Path\n"
        "from storage import Database, InstanceFiles\nfrom storage.backup import Wanted, make_backup\n"
        "make_backup(Database(sys.argv[1]), InstanceFiles(Path(sys.argv[2])), Path(sys.argv[3]),"
        " Wanted(release='test', extras={}), now=datetime(2026, 3, 2, tzinfo=UTC))"
    )
    for point in ("backup.database-saved", "backup.written"):
        (armed / point).touch()
        environment = {**os.environ, "CXR_NODE_FAULT": f"{point}:kill", "CXR_NODE_FAULT_ARMED": str(armed)}
        given = [sqlite_database.url, str(tmp_path / "data"), str(folder)]
        ended = subprocess.run([sys.executable, "-c", script, *given], env=environment, timeout=120)
        assert ended.returncode == -signal.SIGKILL
        assert backups(folder) == [first.path]
        assert verify(first.path) == ()
    second = make_backup(sqlite_database, files, folder, WANTED, now=NOON + timedelta(days=1))
    assert sorted(path.name for path in folder.iterdir()) == [first.path.name, second.path.name]


@pytest.mark.requirement("SRS-STO-314")
@pytest.mark.parametrize("what", ["instances", "database.sqlite3", "node.toml", FILES, "cut", "gone"])
def test_a_backup_that_was_altered_does_not_verify_and_is_not_put_back(sqlite_database, files, tmp_path, what):
    """Found out before the day it is needed, and never mistaken for whole."""
    location = arrive(sqlite_database, files, 1)
    made = make_backup(sqlite_database, files, tmp_path / "backups", WANTED, now=NOON)
    victim = made.path / (location if what in ("instances", "cut", "gone") else what)
    data = victim.read_bytes()
    victim.unlink()  # a hard link of the node's own file, which must stay as it is
    if what != "gone":
        victim.write_bytes(data[:-1] if what == "cut" else data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    assert verify(made.path) != ()
    with pytest.raises(StorageError, match="does not verify"):
        restore(made.path, place(tmp_path), now=NOON)
    assert not (tmp_path / "restored").exists()
    assert files.read(location) == b"pixels 1"


@pytest.mark.requirement("SRS-STO-315")
def test_nothing_is_put_back_over_what_is_there(sqlite_database, files, tmp_path):
    """A restore into the wrong folder must not mix two nodes."""
    arrive(sqlite_database, files, 1)
    made = make_backup(sqlite_database, files, tmp_path / "backups", WANTED, now=NOON)
    there = place(tmp_path)
    there.data_dir.mkdir()
    (there.data_dir / "something").touch()
    with pytest.raises(StorageError, match="not empty"):
        restore(made.path, there, now=NOON)
    assert [path.name for path in there.data_dir.iterdir()] == ["something"]


@pytest.mark.requirement("SRS-STO-315")
def test_a_backup_of_a_newer_release_is_refused_with_a_sentence(sqlite_database, files, tmp_path):
    """Its tables hold what this release would drop or misread."""
    made = make_backup(sqlite_database, files, tmp_path / "backups", WANTED, now=NOON)
    told = json.loads((made.path / MANIFEST).read_text())
    (made.path / MANIFEST).write_text(json.dumps({**told, "revision": "9999"}))
    with pytest.raises(StorageError, match="newer release"):
        restore(made.path, place(tmp_path), now=NOON)


@pytest.mark.requirement("SRS-STO-316")
def test_what_did_not_change_is_saved_again_without_space(sqlite_database, files, tmp_path):
    """Seven backups of a terabyte need about one."""
    location = arrive(sqlite_database, files, 1)
    first = make_backup(sqlite_database, files, tmp_path / "backups", WANTED, now=NOON)
    arrive(sqlite_database, files, 2)
    second = make_backup(sqlite_database, files, tmp_path / "backups", WANTED, now=NOON + timedelta(days=1))
    assert (first.linked, second.linked) == (1, 2)
    assert (first.path / location).samefile(second.path / location)
    assert verify(second.path) == ()


@pytest.mark.requirement("SRS-STO-316")
def test_on_another_disk_what_did_not_change_is_linked_to_the_backup_before(
    sqlite_database, files, tmp_path, monkeypatch
):
    """A disk of its own is where backups belong; copying all of it every night would take the night."""
    location = arrive(sqlite_database, files, 1)
    link = os.link

    def other_disk(source, target):
        if str(source).startswith(str(tmp_path / "data")):
            raise OSError(18, "Invalid cross-device link")
        link(source, target)

    monkeypatch.setattr(os, "link", other_disk)
    first = make_backup(sqlite_database, files, tmp_path / "backups", WANTED, now=NOON)
    arrive(sqlite_database, files, 2)
    second = make_backup(sqlite_database, files, tmp_path / "backups", WANTED, now=NOON + timedelta(days=1))
    assert (first.linked, second.linked) == (0, 1)
    assert (first.path / location).samefile(second.path / location)
    assert not (first.path / location).samefile(files.path(location))
    assert verify(second.path) == ()


@pytest.mark.requirement("SRS-STO-317")
def test_old_backups_go_only_after_the_newest_was_read_whole(sqlite_database, files, tmp_path):
    """Seven broken ones are none."""
    folder = tmp_path / "backups"
    location = arrive(sqlite_database, files, 1)
    made = [
        make_backup(sqlite_database, files, folder, WANTED, now=NOON + timedelta(days=day)).path for day in range(4)
    ]
    victim = made[-1] / location
    victim.unlink()
    victim.write_bytes(b"pixels X")
    with pytest.raises(StorageError, match="does not verify"):
        prune(folder, 2)
    assert backups(folder) == made
    victim.write_bytes(b"pixels 1")
    assert prune(folder, 2) == [path.name for path in made[:2]]
    assert backups(folder) == made[2:]
    assert verify(made[-1]) == ()


@pytest.mark.requirement("SRS-STO-318")
def test_bytes_that_are_gone_are_told_and_those_that_retention_took_are_not_claimed(
    sqlite_database, files, tmp_path, monkeypatch
):
    """A row without bytes is said aloud; one deleted while the backup was made is deleted in the restored node."""
    lost, deleted = arrive(sqlite_database, files, 1), arrive(sqlite_database, files, 2)
    files.delete(lost)
    open_store = type(files.store).path

    def retention_comes_between(self, location):
        if location == deleted:
            with sqlite_database.begin() as connection:
                held = instances.by_sop_instance_uid(connection, "1.2.2")
                instances.mark_deleted(connection, [item.id for item in held], now=NOON)
            open_store(self, location).unlink(missing_ok=True)
        return open_store(self, location)

    monkeypatch.setattr(type(files.store), "path", retention_comes_between)
    made = make_backup(sqlite_database, files, tmp_path / "backups", WANTED, now=NOON)
    monkeypatch.undo()
    assert (made.manifest.lost, made.manifest.deleted) == ((lost,), (deleted,))
    done = restore(made.path, place(tmp_path), now=NOON)
    assert done.absent == (lost,)
    restored = Database(place(tmp_path).database_url)
    assert (rows(restored, 1), rows(restored, 2)) == ([lost], [])
    restored.dispose()


@pytest.mark.requirement("SRS-STO-319")
def test_sealed_bytes_are_saved_sealed_and_the_manifest_names_their_key(sqlite_database, tmp_path):
    """The key file lies elsewhere, and must."""
    key_id = add_key(tmp_path / "keys.json", now=NOON)
    files = InstanceFiles(tmp_path / "data", keys=KeyFile(tmp_path / "keys.json"))
    location = arrive(sqlite_database, files, 1)
    made = make_backup(sqlite_database, files, tmp_path / "backups", WANTED, now=NOON)
    assert read_manifest(made.path).keys == (key_id,)
    assert b"pixels" not in (made.path / location).read_bytes()
    assert not any("key" in path.name for path in made.path.rglob("*"))
    restore(made.path, place(tmp_path), now=NOON)
    kept = InstanceFiles(tmp_path / "restored" / "instances", keys=KeyFile(tmp_path / "keys.json"))
    assert kept.read(location) == b"pixels 1"
