"""A running node whose bytes lie sealed in an object store, is saved while it runs, and comes back from the backup."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from cxr_node.cli.phantom import phantom_dataset
from storage.backup_manifest import backups, verify
from storage.keys import add_key
from tests.conftest import ROOT
from tests.system.conftest import Node, wait_until

boto3 = pytest.importorskip("boto3")
moto_server = pytest.importorskip("moto.server")

NAME = b"PHANTOM-NAME"


@pytest.fixture
def bucket(monkeypatch):
    """A bucket of moto's server, and the environment that leads there."""
    server = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="images")
    yield client
    server.stop()


def stored(bucket) -> dict[str, bytes]:
    found = bucket.list_objects_v2(Bucket="images").get("Contents", [])
    return {item["Key"]: bucket.get_object(Bucket="images", Key=item["Key"])["Body"].read() for item in found}


def command(node: Node, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cxr_node", "--config", str(node.config), *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=150,
    )


def drawn(folder: Path, number: int) -> Path:
    dataset = phantom_dataset(
        datetime.now(UTC), np.random.default_rng(number), opacity=1.0, accession_number=f"A{number}"
    )
    dataset.PatientName = NAME.decode()
    path = folder / f"{number}.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def send(node: Node, path: Path) -> str:
    sent = command(node, "send", str(path), "--to", f"CXR_NODE@127.0.0.1:{node.port}", "--calling", "CR_ROOM_1")
    assert sent.returncode == 0, sent.stdout + sent.stderr
    return str(dcmread(path, stop_before_pixels=True).StudyInstanceUID)


@pytest.mark.requirement("SRS-STO-308")
@pytest.mark.timeout(900)
def test_a_node_works_with_sealed_bytes_in_an_object_store_and_comes_back_from_its_backup(
    bucket, tmp_path, monkeypatch
):
    """From the modality to the report, nothing readable lies on the node's disk or in the store; and what was
    acknowledged before the backup began is known to the node that is put back."""
    add_key(tmp_path / "keys.json", now=datetime.now(UTC))
    reports = tmp_path / "reports"
    node = Node(
        tmp_path / "node",
        destinations=[{"name": "folder", "kind": "folder", "path": str(reports), "settle_s": 0.1}],
    )
    monkeypatch.setenv("CXR_NODE__NODE__INSTANCES", "s3://images/site")
    monkeypatch.setenv("CXR_NODE__NODE__ENCRYPTION_KEY_FILE", str(tmp_path / "keys.json"))
    again = None
    try:
        node.start()
        first = send(node, drawn(tmp_path, 1))
        node.wait_for(first)
        (report,) = wait_until(lambda: list(reports.rglob("*.dcm")), 30, "the report is delivered")
        held = stored(bucket)
        assert len(held) >= 2
        assert all(key.endswith(".sealed") for key in held)
        assert not any(NAME in data or b"DICM" in data for data in held.values())
        data = tmp_path / "node" / "data"
        assert list((data / "incoming").iterdir()) == []
        assert not [file for file in data.rglob("*.dcm*") if file.is_file()]

        rotated = command(node, "keys", "new"), command(node, "keys", "rotate")
        assert [done.returncode for done in rotated] == [0, 0], rotated
        second = send(node, drawn(tmp_path, 2))
        saved = command(node, "backup", str(tmp_path / "backups"), "--with-bytes")
        assert saved.returncode == 0, saved.stdout + saved.stderr
        (backup,) = backups(tmp_path / "backups")
        assert verify(backup) == ()
        node.wait_for(second)
        node.stop()

        monkeypatch.setenv("CXR_NODE__NODE__INSTANCES", "s3://images/restored")
        again = Node(
            tmp_path / "again",
            destinations=[{"name": "folder", "kind": "folder", "path": str(tmp_path / "resent"), "settle_s": 0.1}],
        )
        again.folder.mkdir()
        again.config.write_text(f'[node]\ndata_dir = "data"\n[receive]\nport = {again.port}\n')
        restored = command(again, "restore", str(tmp_path / "backups"))
        assert restored.returncode == 0, restored.stdout + restored.stderr
        again.start()
        again.wait_for(first)
        again.wait_for(second)  # it was acknowledged before the backup began, and analysed after
        checked = command(again, "keys", "list")
        assert "MISSING" not in checked.stdout
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert dcmread(report).SOPInstanceUID not in {
            dcmread(path).SOPInstanceUID for path in (tmp_path / "resent").rglob("*.dcm")
        }, "what was delivered before is not sent again"
        assert json.loads((backup / "manifest.json").read_text())["keys"]
    finally:
        node.stop()
        if again is not None:
            again.stop()
