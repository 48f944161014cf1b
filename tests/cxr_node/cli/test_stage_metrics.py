"""A stage that runs alone serves its own metrics."""

import socket
import subprocess
import sys
import urllib.request

import pytest

from tests.conftest import ROOT
from tests.system.conftest import free_port, wait_until


def asked(port: int) -> str:
    """What is served there; empty while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.mark.requirement("SRS-DEP-008")
def test_a_stage_on_a_host_of_its_own_is_watched_there(tmp_path):
    """The worklist's host sees only the counters of its own processes."""
    port, metrics_port = free_port(), free_port()
    config = tmp_path / "node.toml"
    config.write_text(
        f"[node]\ndata_dir = 'data'\nmetrics_port = {metrics_port}\n"
        f"[receive]\nport = {port}\nprocesses = 2\nmin_free_gb = 0.01\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "cxr_node", "--config", str(config), "receive"], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: "cxr_open_associations" in asked(metrics_port), 60, "metrics of both acceptors")
    finally:
        process.terminate()
        assert process.wait(60) == 0
    assert not list((tmp_path / "data" / "run").glob("metrics-*"))


@pytest.mark.requirement("SRS-DEP-008")
def test_a_taken_port_is_told(tmp_path):
    """An admin reads which key to change."""
    config = tmp_path / "node.toml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config.write_text(f"[node]\ndata_dir = 'data'\nmetrics_port = {taken.getsockname()[1]}\n")
        done = subprocess.run(
            [sys.executable, "-m", "cxr_node", "--config", str(config), "upkeep"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 2
    assert "node.metrics_port: cannot listen on 127.0.0.1" in done.stderr
