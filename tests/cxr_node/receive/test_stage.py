"""The stage as a process: several acceptors on one port, flat memory, nothing of a patient in the log."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import DigitalXRayImageStorageForPresentation as DX

from cxr_node.errors import SettingsError
from cxr_node.receive import run_receive
from cxr_node.settings import load_settings
from storage.errors import StorageError
from tests.builders import make_radiograph_dataset
from tests.conftest import ROOT
from tests.cxr_node.receive import wire
from tests.system.conftest import free_port, wait_until


class Stage:
    """A running `cxr-node receive`."""

    def __init__(self, folder: Path, processes: int, more: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        config = folder / "node.toml"
        config.write_text(
            f'[node]\ndata_dir = "data"\n[receive]\nport = {self.port}\nprocesses = {processes}\n'
            f"min_free_gb = 0.1\n{more}"
        )
        self.log_path = folder / "log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cxr_node", "--config", str(config), "receive"], stderr=log, cwd=ROOT
            )
        wait_until(lambda: self.events("receive_ready"), 60, "receive ready")

    def events(self, name: str) -> list[dict[str, object]]:
        lines = self.log_path.read_text().splitlines()
        return [event for line in lines if line.endswith("}") and (event := json.loads(line))["event"] == name]

    def acceptors(self) -> list[int]:
        """The processes that listen: those below the supervising one, or it alone."""
        return [int(str(event["pid"])) for event in self.events("acceptor_started")] or [self.process.pid]

    def store(self, dataset: object) -> int:
        with wire.associate(self.port, DX) as connection:
            connection.sendall(b"".join(wire.store_pdus(dataset, maximum_length=131066)))  # type: ignore[arg-type]
            return int(wire.receive_status(connection))

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@pytest.fixture
def start_stage(tmp_path: Path) -> Iterator[Callable[[int], Stage]]:
    stages: list[Stage] = []

    def start(processes: int) -> Stage:
        stages.append(Stage(tmp_path, processes))
        return stages[-1]

    yield start
    for stage in stages:
        stage.stop()


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@pytest.mark.requirement("SRS-RCV-012")
def test_acceptors_share_a_port_come_back_and_leave_no_orphan(start_stage):
    """One that dies is started anew while the others accept; none outlives the stage, however it ends."""
    stage = start_stage(2)
    assert all(stage.store(make_radiograph_dataset()) == 0x0000 for _ in range(4))
    os.kill(stage.acceptors()[0], signal.SIGKILL)
    wait_until(lambda: len(stage.acceptors()) == 3, 10, "another acceptor")
    wait_until(lambda: stage.events("acceptor_died"), 5, "its death in the log")
    assert all(stage.store(make_radiograph_dataset()) == 0x0000 for _ in range(2))
    pids = stage.acceptors()
    stage.process.kill()
    stage.process.wait()
    wait_until(lambda: not any(map(_is_alive, pids)), 20, "the acceptors follow")


@pytest.mark.requirement("SRS-RCV-013")
def test_sigterm_ends_the_stage_in_time(start_stage):
    """With an association open that would rather stay."""
    stage = start_stage(1)
    with wire.associate(stage.port, DX):
        started = time.monotonic()
        stage.stop()
        assert time.monotonic() - started < 8
    assert stage.process.returncode == 0


@pytest.mark.requirement("SRS-RCV-014")
def test_memory_stays_flat_under_large_objects(start_stage):
    """30 MB objects over four associations at once; stock pynetdicom holds each several times."""
    stage = start_stage(1)
    assert stage.store(make_radiograph_dataset()) == 0x0000
    before = _peak_mb(stage.process.pid)
    datasets = [make_radiograph_dataset(np.zeros((3900, 3900), np.uint16)) for _ in range(4)]
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda own=dataset: statuses.append(stage.store(own))) for dataset in datasets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0x0000] * 4
    assert _peak_mb(stage.process.pid) - before < 25  # a buffer of 1 MiB each, and the interpreter's own


@pytest.mark.requirement("SRS-LOG-001")
def test_nothing_of_a_patient_reaches_the_log(start_stage):
    """Planted names, in objects that are kept, refused and in conflict."""
    stage = start_stage(1)
    planted = {"PatientName": "PLANTED^NAME", "PatientID": "PLANTED7", "StudyDescription": "PLANTED text"}
    dataset = make_radiograph_dataset(**planted)
    other = make_radiograph_dataset(**{**planted, "AccessionNumber": "PLANTED8"}, SOPInstanceUID=dataset.SOPInstanceUID)
    assert [stage.store(item) for item in (dataset, dataset, other)] == [0x0000] * 3
    assert stage.store(make_radiograph_dataset(**planted, StudyInstanceUID=None)) == 0xC002
    with wire.associate(stage.port, DX) as connection:
        pdus = wire.store_pdus(dataset, sop_instance_uid="1.2.PLANTED")
        connection.sendall(b"".join(pdus))
        assert wire.receive_status(connection) == 0xA900
    wait_until(lambda: len(stage.events("association_ended")) >= 5, 5, "the log written")
    log = stage.log_path.read_text()
    assert "conflicting_instance" in log
    assert "instance_refused" in log
    assert "PLANTED" not in log


@pytest.mark.requirement("SRS-RCV-012")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_taken_port_stops_the_start_with_a_sentence(tmp_path, processes):
    """Two nodes that share a port by mistake would share its callers."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        environment = {
            "CXR_NODE__NODE__DATA_DIR": str(tmp_path),
            "CXR_NODE__RECEIVE__PORT": str(taken.getsockname()[1]),
            "CXR_NODE__RECEIVE__PROCESSES": str(processes),
        }
        with pytest.raises(SettingsError, match="cannot listen on 127"):
            run_receive(load_settings(None, environment), threading.Event())


@pytest.mark.requirement("SRS-RCV-012")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_storage_that_cannot_be_opened_stops_the_start_with_a_sentence(tmp_path, processes):
    """Acceptors of their own processes must not be started over and over for what no restart mends."""
    environment = {
        "CXR_NODE__NODE__DATA_DIR": str(tmp_path),
        "CXR_NODE__NODE__DATABASE": "sqlite:////proc/nowhere/cxr-node.db",
        "CXR_NODE__RECEIVE__PORT": str(free_port()),
        "CXR_NODE__RECEIVE__PROCESSES": str(processes),
        "CXR_NODE__WORKLIST__DROP__ENABLED": "false",
    }
    with pytest.raises(StorageError, match="/proc/nowhere"):
        run_receive(load_settings(None, environment), threading.Event())


@pytest.mark.requirement("SRS-RCV-012")
def test_stow_rs_has_a_process_of_its_own_beside_several_acceptors(tmp_path):
    """It is watched over as they are, and comes back."""
    web_port = free_port()
    stage = Stage(tmp_path, 2, f"[receive.dicomweb]\nport = {web_port}\n")
    try:
        (started,) = stage.events("stow_started")
        pid = int(str(started["pid"]))
        with socket.create_connection(("127.0.0.1", web_port), timeout=10):
            pass
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(stage.events("stow_ready")) == 2, 60, "STOW-RS again")
        assert stage.events("stow_died")
        assert len(stage.acceptors()) == 2
    finally:
        stage.stop()
    assert stage.process.returncode == 0
    assert not _is_alive(pid)
