"""The record of a run, made by pytest itself."""

import json
import os
import subprocess
import sys

import pytest

from regulatory.evidence_record import Record, digest_of
from tests.conftest import ROOT

CONFTEST = "from tests.evidence import pytest_addoption, pytest_configure  # noqa: F401\n"
SETTINGS = "[pytest]\naddopts = -p no:cacheprovider\nmarkers =\n  requirement(identifier): one\n"
TESTS = """
import pytest

pytestmark = pytest.mark.requirement("SRS-AAA-001")


def test_good():
    pass


@pytest.mark.requirement("SRS-AAA-002")
@pytest.mark.parametrize("x", [1, 2, 3])
def test_sometimes(x):
    assert x != 2


@pytest.mark.requirement("SRS-AAA-003")
def test_skipped():
    pytest.skip("no peer")


@pytest.fixture
def broken():
    yield
    raise RuntimeError


@pytest.mark.requirement("SRS-AAA-004")
def test_fails_when_it_is_taken_down(broken):
    pass
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """What two runs of the same tests wrote, with one process and with two."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text(SETTINGS)
    (folder / "test_some.py").write_text(TESTS)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    # The plug-ins of the whole suite would take most of the time.
    environment |= {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    found = {}
    for processes in ("0", "2"):
        xdist = ["-p", "xdist", "-n", processes] if processes != "0" else []
        command = [sys.executable, "-m", "pytest", "-q", *xdist, "--evidence", f"{processes}.json", "."]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 1, done.stdout + done.stderr
        found[processes] = json.loads((folder / f"{processes}.json").read_text())
    return found


@pytest.mark.requirement("SRS-REG-042")
def test_a_run_counts_each_requirement_alike_in_one_process_and_in_several(recorded):
    """The suite runs in several; a record of the workers' own would be a third of it."""
    one, several = recorded["0"], recorded["2"]
    assert one["requirements"] == several["requirements"]
    assert (one["passed"], one["failed"], one["skipped"]) == (3, 2, 1)
    assert one["requirements"]["SRS-AAA-001"] | {"tests_sha256": "", "failing": []} == {
        "passed": 3,
        "failed": 2,
        "skipped": 1,
        "tests_sha256": "",
        "failing": [],
    }


@pytest.mark.requirement("SRS-REG-042")
def test_what_failed_is_named_without_its_parameters(recorded):
    """A teardown that fails counts too."""
    failing = ["test_some.py::test_fails_when_it_is_taken_down", "test_some.py::test_sometimes"]
    assert recorded["2"]["failing"] == failing
    assert recorded["2"]["requirements"]["SRS-AAA-002"]["failing"] == ["test_some.py::test_sometimes"]
    assert recorded["2"]["requirements"]["SRS-AAA-003"]["skipped"] == 1


@pytest.mark.requirement("SRS-REG-042")
def test_the_record_tells_which_tests_it_was_of(recorded):
    """By a digest of their names, so that it stays small."""
    assert recorded["0"]["requirements"]["SRS-AAA-002"]["tests_sha256"] == digest_of(["test_some.py::test_sometimes"])
    assert all(recorded["0"][key] for key in ("command", "measured_on", "run_on"))


@pytest.mark.requirement("SRS-REG-042")
def test_what_ends_with_its_process_keeps_its_requirements():
    """The process that hands out tests reports it then, and knows no marks."""
    record = Record()
    record.add("a.py::test_x", ["SRS-AAA-001"], "passed")
    record.add("a.py::test_x", [], "failed")
    assert record.document({})["requirements"]["SRS-AAA-001"]["failing"] == ["a.py::test_x"]
