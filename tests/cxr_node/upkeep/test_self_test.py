"""Do the models still say what they said when they were released?"""

import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from cxr_node.errors import PackageError
from cxr_node.inference import BUILTIN, load_package
from cxr_node.upkeep import self_test
from cxr_node.upkeep.self_test import Interrupted, difference, run_apart
from tests.system.conftest import put_made

pytestmark = pytest.mark.requirement("SRS-UPK-004")

RELEASED = sorted(folder.name for folder in BUILTIN.iterdir() if (folder / "manifest.json").is_file())


class FixedEngine:
    """Gives the scores that it was made with."""

    def __init__(self, scores: np.ndarray) -> None:
        self._scores = scores

    def scores(self, batch: np.ndarray) -> np.ndarray:
        assert batch.dtype == np.float32
        return self._scores


@pytest.fixture
def released():
    if not RELEASED:
        pytest.skip("no model package is released yet")
    return load_package(BUILTIN / RELEASED[0])


def golden_scores(package) -> np.ndarray:
    with np.load(package.path / "golden.npz") as stored:
        return stored["scores"]


def test_the_difference_is_the_largest_of_all_inputs_and_findings(released):
    scores = golden_scores(released)
    assert difference(released, FixedEngine(scores)) == 0
    shifted = scores.copy()
    shifted[-1, -1] += 0.25
    assert difference(released, FixedEngine(shifted)) == pytest.approx(0.25)


def test_a_package_without_golden_inputs_cannot_pass(released, tmp_path):
    """Nothing would be tested, and nobody would know."""
    from dataclasses import replace

    files = {name: value for name, value in released.manifest.files.items() if name != "golden.npz"}
    package = replace(released, manifest=replace(released.manifest, files=files))
    with pytest.raises(PackageError, match="expected golden inputs that the manifest lists, found none"):
        difference(package, FixedEngine(golden_scores(released)))


def test_released_packages_pass_in_a_process_of_their_own_and_an_altered_one_fails(tmp_path):
    """One damaged package must not hide the others' result; TensorFlow stays out of this process's job."""
    if not RELEASED:
        pytest.skip("no model package is released yet")
    name = RELEASED[-1]
    site = tmp_path / "packages"
    shutil.copytree(BUILTIN / name, site / "altered")
    weights = site / "altered" / "weights.npz"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    manifest = site / "altered" / "manifest.json"
    manifest.write_text(manifest.read_text("utf-8").replace(f'"{name}"', '"altered"', 1), "utf-8")
    put_made(tmp_path / "cache")  # a conversion takes long, and has tests of its own
    good, altered, absent = run_apart(
        [name, "altered", "absent"], (site, BUILTIN), tmp_path / "cache", threading.Event()
    )
    assert (good.passed, good.reason) == (True, "")
    assert good.difference is not None
    assert good.difference <= 1e-3
    assert good.digest == load_package(BUILTIN / name).digest
    assert "the file was altered" in altered.reason
    assert "no model package absent" in absent.reason


def test_a_process_that_dies_has_failed_every_package_it_did_not_report(tmp_path, monkeypatch):
    """A driver that crashes ends the process, not the stage."""
    monkeypatch.setattr(self_test.sys, "executable", "/bin/false")
    (tested,) = run_apart(["any"], (tmp_path,), None, threading.Event())
    assert "ended with status 1 before it reported" in tested.reason


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch) -> Path:
    """A program in place of Python that never ends by itself."""
    program = tmp_path / "sleeper"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(self_test.sys, "executable", str(program))
    return program


def test_a_process_that_hangs_is_ended(sleeper, tmp_path):
    """A hung GPU driver hangs for ever."""
    (tested,) = run_apart(["any"], (tmp_path,), None, threading.Event(), longest_s=0.5)
    assert "ended with status -9" in tested.reason


def test_a_node_that_stops_does_not_wait_for_it(sleeper, tmp_path):
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        run_apart(["any"], (tmp_path,), None, stop)
    assert time.monotonic() - started < 3


def test_a_signal_to_every_process_of_the_node_is_a_stop_and_no_failure(tmp_path, monkeypatch):
    """A terminal sends Ctrl-C to all at once; the audit trail must not hold a failed self-test for it."""
    program = tmp_path / "killed"
    program.write_text("#!/bin/sh\nkill -TERM $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(self_test.sys, "executable", str(program))
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(Interrupted):
        run_apart(["any"], (tmp_path,), None, stop)
