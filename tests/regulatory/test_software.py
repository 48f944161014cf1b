"""The software file: components, problems, releases."""

import json
import tomllib

import pytest

from regulatory import trace
from regulatory.figures import BuildError
from regulatory.sources import software
from tests.conftest import ROOT
from tests.regulatory.trees import copied, edit, figure, table


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What the page is made of, but for the tests that the requirements count."""
    return software.gather(copied(tmp_path_factory.mktemp("copied")))


@pytest.mark.requirement("SRS-REG-046")
def test_every_component_has_reason_version_licence_and_a_word_on_anomalies(made):
    """A reviewer asks these four of each."""
    soup = tomllib.loads((ROOT / "regulatory" / "soup.toml").read_text())
    for group in software.GROUPS:
        rows = {row[0]: row for row in table(made, f"software.soup.{group}").rows}
        assert sorted(rows) == sorted(soup[group])
        for row in rows.values():
            assert all(row), row[0]
            assert row[1] != "not locked", row[0]


@pytest.mark.requirement("SRS-REG-046")
def test_anomalies_stand_beside_their_component_and_others_in_a_table_of_their_own(made):
    """One that was forgotten by both would be told nowhere."""
    rows = {row[0]: row[4] for group in software.GROUPS for row in table(made, f"software.soup.{group}").rows}
    assert "throw it away" in rows["pynetdicom"]
    assert rows["apscheduler"] == software.NONE_KNOWN
    anomalies = tomllib.loads((ROOT / "regulatory" / "anomalies.toml").read_text())["anomaly"]
    others = {row[1] for row in table(made, "software.anomalies.other").rows}
    for row in anomalies:
        assert row["what"] in rows.get(row["component"], "") or row["what"] in others, row["what"]


@pytest.mark.requirement("SRS-REG-046")
def test_an_anomaly_whose_code_is_gone_fails_the_build(tmp_path):
    """Its answer would be a claim."""
    root = copied(tmp_path)
    edit(root / "cxr_node" / "imaging" / "radiograph.py", "OpenCV raises its own error on nothing", "on nothing")
    with pytest.raises(BuildError, match=r"opencv-python-headless: cxr_node/imaging/radiograph\.py no longer says"):
        software.gather(root)


@pytest.mark.requirement("SRS-REG-046")
def test_another_version_in_the_lock_is_another_page(tmp_path):
    """What a site installs is what was assessed."""
    root = copied(tmp_path)
    before = table(software.gather(root), "software.soup.runtime")
    version = {row[0]: row[1] for row in before.rows}["hl7"]
    edit(root / "requirements.lock", f"hl7=={version}", "hl7==99.1")
    after = table(software.gather(root), "software.soup.runtime")
    assert {row[0]: row[1] for row in after.rows}["hl7"] == "99.1"


@pytest.mark.requirement("SRS-REG-046")
def test_components_that_others_bring_along_are_those_of_the_lock(made):
    """Together with those asked for by name they are all of it."""
    soup = tomllib.loads((ROOT / "regulatory" / "soup.toml").read_text())
    brought = {row[0] for row in table(made, "software.soup.transitive").rows}
    asked = set(soup["runtime"]) | set(soup["train"])
    assert len(brought | asked) == figure(made, "software.locked").value
    assert not brought & asked


@pytest.mark.requirement("SRS-REG-047")
def test_a_problem_names_hazards_that_there_are(tmp_path, made):
    """And its state."""
    assert all(len(row) == 6 and all(row) for row in table(made, "software.problems").rows)
    root = copied(tmp_path)
    edit(root / software.PROBLEMS, '"HAZ-01"', '"HAZ-99"')
    with pytest.raises(BuildError, match=r"PRB-001: found hazards \['HAZ-99'\]"):
        software.gather(root)


@pytest.mark.requirement("SRS-REG-047")
def test_a_version_without_a_release_record_fails_the_build(tmp_path):
    """Nobody hands out what nobody wrote down."""
    root = copied(tmp_path)
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    edit(root / "pyproject.toml", f'version = "{version}"', 'version = "77.0"')
    with pytest.raises(BuildError, match=r"no release 77\.0"):
        software.gather(root)


@pytest.mark.requirement("SRS-REG-047")
def test_the_release_record_says_what_its_evidence_says(tmp_path):
    """Without records: not run, by name."""
    root = copied(tmp_path)
    rows = {row[0]: row[1] for row in table(software.gather(root), "software.evidence").rows}
    assert rows["tests"] == trace.NOT_RUN
    assert rows["service"] == "not run"
    path = root / "regulatory" / "vulnerabilities.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"state": "not run", "reason": "no way out"}))
    rows = {row[0]: row[1] for row in table(software.gather(root), "software.evidence").rows}
    assert rows["vulnerabilities"] == "not run: no way out"
    path.write_text(json.dumps(record | {"state": "complete", "audited": 7, "found": []}))
    rows = {row[0]: row[1] for row in table(software.gather(root), "software.evidence").rows}
    assert rows["vulnerabilities"].startswith("complete: 7 components looked at, 0 ")
    releases = tomllib.loads((root / software.RELEASES).read_text())["release"]
    assert {name for row in releases for name in row["verified"]} <= set(rows)


@pytest.mark.requirement("SRS-REG-047")
def test_criteria_that_a_model_did_not_meet_are_counted(tmp_path):
    """A failed criterion that is dropped from a manifest would show here."""
    root = copied(tmp_path)
    path = root / "cxr_node" / "packages" / "pneumonia-paediatric" / "manifest.json"
    manifest = json.loads(path.read_text())
    for row in manifest["figures"]["criteria"]:
        row["passed"] = False
    path.write_text(json.dumps(manifest))
    rows = {row[0]: row[1] for row in table(software.gather(root), "software.evidence").rows}
    total = len(manifest["figures"]["criteria"])
    assert f"pneumonia-paediatric {manifest['version']}: 0 of {total} criteria met" in rows["models"]
