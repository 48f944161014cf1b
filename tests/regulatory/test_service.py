"""What the regulatory file says of load, faults and inputs is what was measured."""

import importlib.util
import json

import pytest

from regulatory import held, service
from tests.benchmarks import record
from tests.conftest import ROOT

# Of the benchmarks; other evidence stands beside it.
RECORDS = [
    path
    for path in sorted((ROOT / "regulatory" / "evidence").glob("*.json"))
    if "machine" in json.loads(path.read_text("utf-8"))
]


@pytest.mark.requirement("SRS-REG-002")
def test_the_tables_are_those_of_the_evidence():
    """A figure that somebody typed, or left standing after a new measurement, shows."""
    assert service.TARGET.read_text("utf-8") == service.render()
    text = held.README.read_text("utf-8")
    assert text == held.written(text, service.EVIDENCE)


@pytest.mark.requirement("SRS-REG-002")
def test_each_benchmark_is_a_program_and_each_record_belongs_to_one():
    """The command beside a figure can be run."""
    names = {item.name for _, measured in service.SECTIONS for item in measured}
    for name in names - {"fuzz"}:
        assert importlib.util.find_spec(f"tests.benchmarks.{name}") is not None, name
    assert {path.stem for path in RECORDS} <= names
    assert set(held.names()) <= names == set(record.ALL)


@pytest.mark.requirement("SRS-REG-002")
def test_what_was_not_measured_reads_not_run(tmp_path):
    """Silence would look like a pass."""
    text = service.render(tmp_path)
    assert text.count(service.NOT_RUN) == sum(len(measured) for _, measured in service.SECTIONS)
    assert held.short(tmp_path).count(f"| {held.NOT_RUN} |") >= len(held.names())


@pytest.mark.requirement("SRS-REG-002")
@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_names_command_day_commit_and_machine(path):
    """Somebody else has to be able to measure it again."""
    kept = json.loads(path.read_text("utf-8"))
    assert kept["command"].startswith("python -m tests.")
    assert all(kept[key] for key in ("measured_on", "commit", "machine"))
