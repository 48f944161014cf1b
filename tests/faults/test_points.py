"""The table of fault points and the code agree, and no point does anything unless it is meant."""

import errno
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from storage import faults
from storage.errors import StorageBusy, StorageError
from storage.faults import FOLDER_VARIABLE, VARIABLE, InjectedFault, fault_point
from tests.conftest import ROOT
from tests.faults.faults import HOSTILE
from tests.faults.points import POINTS, rows

pytestmark = pytest.mark.requirement("SRS-FLT-010")


@pytest.fixture
def name_points(tmp_path):
    """Have this process learn of points, until the test ends."""

    def name(value: str, *, folder: Path | None = tmp_path) -> Path:
        environment = {VARIABLE: value} | ({FOLDER_VARIABLE: str(folder)} if folder is not None else {})
        faults.read_environment(environment)
        return tmp_path

    yield name
    faults.read_environment({})


def test_the_table_names_the_points_of_the_code_and_no_other():
    """What is not in the table was not tried, and what is not in the code cannot be."""
    found: list[str] = []
    for package in ("cxr_node", "storage"):
        for path in (ROOT / package).rglob("*.py"):
            found += re.findall(r'fault_point\("([^"]+)"\)', path.read_text(encoding="utf-8"))
    assert len(found) == len(set(found)), "a point that stands in two places is two points"
    assert set(found) == {point.name for point in POINTS}


def test_each_row_of_the_table_says_what_happens_and_what_holds_and_names_its_test():
    """The table of faults survived is made of these sentences."""
    for row in (*rows(), *map(asdict, HOSTILE)):
        assert all(row.values()), row
        path, _, name = row["test"].split(" ")[0].partition("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        assert f"def {name.partition('[')[0]}(" in text if name else "POINTS" in text, row


def test_a_point_does_nothing_unless_variable_and_file_both_name_it(name_points):
    """Neither alone may stop a node with patients."""
    fault_point("a.b")
    folder = name_points("a.b:error")
    fault_point("a.b")
    (folder / "a.b").touch()
    (folder / "other").touch()
    fault_point("other")
    with pytest.raises(InjectedFault):
        fault_point("a.b")
    name_points("a.b:error", folder=None)
    fault_point("a.b")


def test_a_fault_begins_at_the_passage_that_is_named_and_ends_with_its_file(name_points):
    """A disk is full for a while, and then it is not."""
    folder = name_points("a.b:full@3,c.d:busy")
    (folder / "a.b").touch()
    (folder / "c.d").touch()
    fault_point("a.b")
    fault_point("a.b")
    for _ in range(2):
        with pytest.raises(OSError, match=r"a\.b") as caught:
            fault_point("a.b")
        assert caught.value.errno == errno.ENOSPC
    with pytest.raises(StorageBusy):
        fault_point("c.d")
    (folder / "a.b").unlink()
    fault_point("a.b")


def test_a_kill_happens_once(tmp_path):
    """The process that is started in its place meets the point unarmed."""
    (tmp_path / "a.b").touch()
    command = [sys.executable, "-c", "from storage.faults import fault_point; fault_point('a.b'); print('alive')"]
    environment = {**os.environ, VARIABLE: "a.b:kill", FOLDER_VARIABLE: str(tmp_path)}
    first = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True)
    second = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True)
    assert (first.returncode, first.stdout) == (-9, b"")
    assert (second.returncode, second.stdout) == (0, b"alive\n")


@pytest.mark.parametrize("value", ["a.b", "a.b:die", "a.b:kill@x", ":kill"])
def test_a_variable_that_is_no_list_of_faults_is_an_error_that_says_what_was_found(name_points, value):
    """A test that arms nothing by a slip would pass."""
    with pytest.raises(StorageError, match=re.escape(repr(value))):
        name_points(value)


def test_a_stage_that_was_told_of_points_says_so_in_its_log(tmp_path):
    """Somebody who finds the variable on a machine with patients finds out at once."""
    (tmp_path / "node.toml").write_text("")
    command = [sys.executable, "-m", "cxr_node", "--config", str(tmp_path / "node.toml"), "orders"]
    environment = {**os.environ, VARIABLE: "orders.kept:error"}
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, b"")
        said = next(json.loads(line) for line in lines if b"fault_points_named" in line)
    finally:
        process.kill()
        process.communicate()
    assert (said["level"], said["points"]) == ("critical", ["orders.kept"])
