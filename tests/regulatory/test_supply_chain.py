"""What the node is made of, and what is known of it: both say what they do not know."""

import json
import re
import tomllib
import warnings

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from cxr_node.inference.package import load_package
from regulatory import sbom, vulnerabilities
from regulatory.lock import LOCK, read_lock
from tests.conftest import ROOT


@pytest.mark.requirement("SRS-SUP-001")
def test_the_bill_of_materials_is_that_of_the_lock():
    """Made anew it has the same bytes: `python -m regulatory.sbom` after every change of the lock."""
    assert sbom.TARGET.read_text(encoding="utf-8") == sbom.text()


@pytest.mark.requirement("SRS-SUP-001")
def test_the_bill_is_valid_cyclonedx():
    """A site's tools read it by the schema."""
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom.text()) is None
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str('{"bomFormat": "CycloneDX"}') is not None


@pytest.mark.requirement("SRS-SUP-001")
def test_every_line_of_the_lock_every_web_file_and_every_model_is_in_the_bill():
    """Counted by another way than the bill is made: by the lock's own lines."""
    components = json.loads(sbom.text())["components"]
    found = {(item["name"], item.get("version", "")) for item in components}
    lines = re.findall(r"(?m)^([a-z0-9._-]+)==([^ ;\\]+)", LOCK.read_text())
    assert len(lines) > 100
    assert set(lines) <= found
    hashes = {
        entry["content"]
        for item in components
        for link in item.get("externalReferences", ())
        for entry in link["hashes"]
    }
    assert hashes == set(re.findall(r"sha256:([0-9a-f]{64})", LOCK.read_text()))
    assert {("htmx.org", "2.0.11"), ("idiomorph", "0.8.0")} <= found
    for folder in (ROOT / "cxr_node" / "packages").glob("*/"):
        package = load_package(folder)
        (entry,) = [item for item in components if item["name"] == package.manifest.name]
        assert entry["hashes"][0]["content"] == package.digest, "the digest that every report names"


@pytest.mark.requirement("SRS-SUP-001")
def test_who_needs_whom_is_in_the_bill():
    """A hole in a library is looked for in what stands on it."""
    needs = {item["ref"]: item["dependsOn"] for item in json.loads(sbom.text())["dependencies"]}
    (starlette,) = [ref for ref in needs if ref.startswith("pkg:pypi/starlette@")]
    (fastapi,) = [ref for ref in needs if ref.startswith("pkg:pypi/fastapi@")]
    (own,) = [ref for ref in needs if ref.startswith("pkg:pypi/cxr-node@")]
    assert starlette in needs[fastapi]
    assert fastapi in needs[own]


@pytest.mark.requirement("SRS-SUP-002")
def test_every_component_has_its_licence_or_the_reason_why_not():
    """A row that names nothing would outlive its component."""
    stated = tomllib.loads(sbom.LICENCES.read_text())
    names = [name for table in stated.values() for name in table]
    assert len(names) == len(set(names))
    assert set(names) == {item.name for item in read_lock()} | {"htmx.org", "idiomorph", "htmx-ext-sse"}


def told(*items):
    return json.dumps({"dependencies": list(items), "fixes": []})


FINE = {"name": "numpy", "version": "2.0", "vulns": []}
HOLE = {"id": "PYSEC-1", "aliases": ["CVE-2"], "fix_versions": ["3"], "description": "long"}
SKIPPED = {"name": "jinja2", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.requirement("SRS-SUP-003")
@pytest.mark.parametrize(
    ("output", "state", "found"),
    [
        (told(FINE), "complete", 0),
        (told(FINE | {"vulns": [HOLE]}), "complete", 1),
        (told(FINE, SKIPPED), "incomplete", 0),
        (told(SKIPPED), "not run", 0),
        (told(), "not run", 0),
        ("", "not run", 0),
        ("[]", "not run", 0),
    ],
)
def test_a_run_that_could_not_look_is_no_clean_one(output, state, found):
    """pip-audit says `No known vulnerabilities found` of packages that it could not ask for."""
    record = vulnerabilities.record_of(output, "ConnectionError", ["numpy"])
    assert (record["state"], len(record["found"])) == (state, found)
    assert record["state"] == "complete" or record["reason"]


@pytest.mark.requirement("SRS-SUP-003")
def test_the_sentence_tells_of_another_lock_and_of_a_run_that_was_none():
    """A record grows old without a test that fails by age: its text must say so."""
    record = {
        "tool": "pip-audit 2", "source": "pypi", "made_at": "2026-01-01T00:00:00", "lock_sha256": "a",
        "state": "complete", "audited": 3, "skipped": [], "found": [], "reason": "",
    }  # fmt: skip
    assert vulnerabilities.sentence(record, "a").startswith(
        "Known vulnerabilities: none found; 3 packages of this lock"
    )
    assert "ANOTHER LOCK" in vulnerabilities.sentence(record, "b")
    assert "NOT RUN" in vulnerabilities.sentence(record | {"state": "not run", "reason": "x"}, "a")
    hole = {"name": "numpy", "version": "2.0", "id": "PYSEC-1"}
    assert "numpy 2.0 PYSEC-1" in vulnerabilities.sentence(record | {"found": [hole]}, "a")


@pytest.mark.requirement("SRS-SUP-003")
def test_there_is_a_record_and_it_says_what_it_is_worth():
    """Also where nothing could be asked."""
    record = json.loads(vulnerabilities.TARGET.read_text())
    assert record["state"] in ("complete", "incomplete", "not run")
    worth = vulnerabilities.sentence(record, vulnerabilities.lock_sha256())
    if record["lock_sha256"] != vulnerabilities.lock_sha256():
        warnings.warn(f"regulatory/vulnerabilities.json: {worth}", stacklevel=1)
    assert record["audited"] or record["state"] == "not run"
