"""Hosts that share no disk keep their bytes in an object store; the peer here is moto's S3 server on loopback."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from storage import InstanceFiles
from storage.backup import Wanted, make_backup
from storage.backup_manifest import verify
from storage.errors import BytesMissing, StorageBusy, StorageError, StorageFull
from storage.files import open_files
from storage.keys import KeyFile, add_key, make_current
from storage.object_store import ObjectStore
from storage.restore import Place, restore
from tests.storage.test_backup import NOON, WANTED, arrive, place

boto3 = pytest.importorskip("boto3")
moto_server = pytest.importorskip("moto.server")

UID = "1.2.826.0.1.3680043.9.7777.1"


@pytest.fixture(scope="module")
def s3_server():
    """A server of the test's own, and the environment that leads to it."""
    server = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in keys.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="images")
        yield keys
    server.stop()


@pytest.fixture
def address(s3_server, request) -> str:
    return f"s3://images/{abs(hash(request.node.nodeid))}/node"


@pytest.fixture
def remote(address, tmp_path) -> InstanceFiles:
    return open_files(tmp_path / "host", address, tmp_path / "nowhere", None)


def keep(files: InstanceFiles, data: bytes) -> str:
    temporary = files.new_temporary()
    temporary.write_bytes(data)
    location = files.keep(temporary, UID, 0)
    assert not temporary.exists()
    return location


@pytest.mark.requirement("SRS-STO-351")
def test_what_one_host_keeps_another_reads(remote, address, tmp_path):
    """They share the store and nothing else."""
    other = open_files(tmp_path / "other", address, tmp_path / "nowhere", None)
    location = keep(remote, b"image" * 1000)
    assert other.read(location) == b"image" * 1000
    assert other.size(location) == 5000
    with other.local(location) as path:
        assert path.read_bytes() == b"image" * 1000
        # A decoder in a process of its own is given the path.
        script = "import sys; print(len(open(sys.argv[1], 'rb').read()))"
        counted = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
        assert counted.stdout.strip() == "5000"
    assert other.write_object(UID, b"report") == remote.write_object(UID, b"report")
    assert not (tmp_path / "nowhere").exists()
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


@pytest.mark.requirement("SRS-STO-351")
def test_retention_and_the_search_for_orphans_work_there_too(remote):
    """A file that no row names is found by its location, once it is old enough."""
    location, report = keep(remote, b"image"), remote.write_object(UID, b"report")
    now = datetime.now(UTC)
    assert list(remote.locations(-60, now)) == [location]
    assert list(remote.locations(3600, now)) == []
    remote.delete(location)
    remote.delete(location)
    assert not remote.exists(location)
    assert remote.exists(report)
    with pytest.raises(BytesMissing, match=location):
        remote.read(location)


@pytest.mark.requirement("SRS-STO-352")
def test_a_store_that_is_gone_is_waited_for_and_leaves_no_file(remote, tmp_path, monkeypatch):
    """The modality is told to send again; no job fails for good because of a network."""
    location = keep(remote, b"image")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    gone = open_files(tmp_path / "host", remote.store.address, tmp_path, None)
    for action in (
        lambda: keep(gone, b"image"),
        lambda: gone.read(location),
        lambda: gone.exists(location),
        lambda: gone.write_object(UID, b"report"),
    ):
        with pytest.raises(StorageBusy, match="s3://images"):
            action()
    assert [file for file in (tmp_path / "host").rglob("*") if file.is_file()] == []


@pytest.mark.requirement("SRS-STO-352")
@pytest.mark.parametrize(
    ("code", "expected"),
    [("QuotaExceeded", StorageFull), ("XMinioStorageFull", StorageFull), ("SlowDown", StorageBusy)],
)
def test_what_the_store_answers_is_told_by_kind(remote, monkeypatch, code, expected):
    """Full is 0xA700 and an alarm; busy passes."""
    from botocore.exceptions import ClientError

    class Refuses:
        def put_file(self, *arguments: object) -> None:
            raise OSError("refused") from ClientError({"Error": {"Code": code, "Message": "no"}}, "PutObject")

    monkeypatch.setattr(ObjectStore, "_system", lambda self: Refuses())
    temporary = remote.new_temporary()
    temporary.write_bytes(b"image")
    with pytest.raises(expected, match=code):
        remote.keep(temporary, UID, 0)
    assert not temporary.exists()


@pytest.mark.requirement("SRS-STO-352")
def test_an_address_without_a_bucket_is_refused(tmp_path):
    """At the start, with what was expected."""
    with pytest.raises(StorageError, match="expected s3://bucket/prefix"):
        open_files(tmp_path, "s3:///prefix", tmp_path, None)


@pytest.mark.requirement("SRS-STO-351")
def test_a_process_made_by_fork_reads_with_a_connection_of_its_own(remote):
    """The parent's client waits for a thread that a fork does not take along."""
    location = keep(remote, b"image")
    child = os.fork()
    if child == 0:
        os._exit(0 if remote.read(location) == b"image" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.requirement("SRS-STO-303")
def test_what_is_put_into_the_store_is_sealed_first(address, tmp_path):
    """Who runs the store reads nothing; a rotation wraps what lies there too."""
    add_key(tmp_path / "keys.json", now=NOON)
    files = open_files(tmp_path / "host", address, tmp_path, tmp_path / "keys.json")
    location = keep(files, b"Doe^Jane" * 100)
    with files.store.open(location) as stored:
        assert b"Doe^Jane" not in stored.read()
    new = add_key(tmp_path / "keys.json", now=NOON)
    make_current(tmp_path / "keys.json", new)
    assert [files.rewrap(found) for found in files.sealed_locations()] == [True]
    assert files.header(location).key_id == new
    assert files.read(location) == b"Doe^Jane" * 100
    assert KeyFile(tmp_path / "keys.json").current()[0] == new


@pytest.mark.requirement("SRS-STO-320")
@pytest.mark.parametrize("with_bytes", [False, True])
def test_a_backup_lists_what_lies_in_the_store_or_copies_it(sqlite_database, remote, tmp_path, with_bytes):
    """The store has means of its own to save its objects; who has none copies."""
    location = arrive(sqlite_database, remote, 1)
    wanted = Wanted(WANTED.release, WANTED.extras, with_bytes=with_bytes, address=remote.store.address)
    made = make_backup(sqlite_database, remote, tmp_path / "backups", wanted, now=NOON)
    assert verify(made.path) == ()
    assert (made.path / location).exists() == with_bytes
    assert bool(made.manifest.listed) != with_bytes
    if with_bytes:
        remote.delete(location)
    there = place(tmp_path)
    target = Place(there.data_dir, there.instances_dir, there.database_url, store=remote.store)
    assert restore(made.path, target, now=NOON).absent == ()
    assert remote.read(location) == b"pixels 1"
    assert not Path(there.instances_dir).exists()
