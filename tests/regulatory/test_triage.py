"""Page 09: it follows the packages' figures, tells the harm beside the benefit, and never shows old simulations."""

import json
import shutil
from pathlib import Path

import pytest

from regulatory import triage as evidence
from regulatory.figures import Catalogue, Figure, Table, published
from regulatory.lock import ROOT
from regulatory.pages import PAGES, Page
from regulatory.render import render_page
from regulatory.sources import notification, triage

PAGE = next(page for page in PAGES if page.file == "09_triage_effectiveness.md")
MANIFEST = Path("cxr_node/packages/pneumonia-adult/manifest.json")


@pytest.fixture
def tree(tmp_path):
    """The committed manifests, evidence and texts that the page is made of."""
    for path in (
        *(ROOT / "cxr_node" / "packages").glob("*/manifest.json"),
        *(ROOT / "regulatory" / "text").glob("*.*"),
        ROOT / evidence.EVIDENCE,
        ROOT / notification.NOTIFY,
        ROOT / notification.SUSTAINED,
    ):
        to = tmp_path / path.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    return tmp_path


def figures(root: Path, source=triage) -> dict[str, Figure]:
    return {figure.id: figure for figure in source.gather(root).figures}


def table(root: Path, wanted: str, source=triage) -> Table:
    return next(item for item in source.gather(root).tables if item.id == wanted)


@pytest.mark.requirement("SRS-TRI-009")
def test_another_specificity_changes_the_waits_and_makes_the_simulations_not_run(tree):
    """A threshold moved without a new simulation must not keep the old one's figures."""
    before, simulated = figures(tree), table(tree, "triage.pneumonia-adult.simulated")
    assert "not run" not in str(simulated.rows)
    manifest = json.loads((tree / MANIFEST).read_text())
    manifest["figures"]["test"]["internal-test"]["specificity"]["value"] = 0.9
    (tree / MANIFEST).write_text(json.dumps(manifest))
    after = figures(tree)
    for key in ("specificity", "diseased", "missed", "missed-change"):
        name = f"triage.pneumonia-adult.{key}"
        assert before[name].shown != after[name].shown
    rows = table(tree, "triage.pneumonia-adult.simulated").rows
    assert all(cell == "not run: the evidence is of other figures" for row in rows for cell in row[1:])
    assert "not run" not in str(table(tree, "triage.pneumonia-paediatric.simulated").rows)


@pytest.mark.requirement("SRS-TRI-009")
def test_without_evidence_every_simulated_cell_reads_not_run(tree):
    """The formula is still there; what was not simulated is not left out in silence."""
    (tree / evidence.EVIDENCE).unlink()
    rows = table(tree, "triage.pneumonia-paediatric.simulated").rows
    assert {cell for row in rows for cell in row[1:]} == {"not run"}
    assert {row[3] for row in table(tree, "triage.check").rows} == {"not run"}
    assert figures(tree)["triage.simulation.studies"].shown == "not run"


@pytest.mark.requirement("SRS-TRI-009")
def test_the_committed_simulations_are_of_the_committed_packages():
    """Else the page would read not run in what is handed in."""
    found = json.loads((ROOT / evidence.EVIDENCE).read_text())
    assert found["assumes"]["max_wait_min"] == evidence.MAX_WAIT_MIN
    assert {item["package"] for item in found["packages"]} == {
        path.parent.name for path in (ROOT / "cxr_node" / "packages").glob("*/manifest.json")
    }
    tables = {item.id: item for item in triage.gather(ROOT).tables}
    for item in found["packages"]:
        assert "not run" not in str(tables[f"triage.{item['package']}.simulated"].rows)
        for scenario in item["scenarios"].values():
            # Who is missed pays in every scenario, and the page must have it to print.
            assert scenario["difference"]["missed"]["low"] > 0
            assert scenario["difference"]["diseased"]["high"] < 0


@pytest.mark.requirement("SRS-TRI-009")
def test_a_package_without_specificity_is_named_as_not_measured(tree):
    """A package that was tested on the diseased only has no waits to tell of."""
    manifest = json.loads((tree / MANIFEST).read_text())
    for item in manifest["figures"]["test"].values():
        item.pop("specificity", None)
    (tree / MANIFEST).write_text(json.dumps(manifest))
    found = figures(tree)
    assert found["triage.pneumonia-adult.set"].shown == "not measured"
    assert "pneumonia-adult" not in found["triage.packages"].value


@pytest.mark.requirement("SRS-TRI-008")
@pytest.mark.requirement("SRS-TRI-009")
def test_the_page_tells_of_the_negative_trial_and_of_the_harm_beside_the_benefit(tree):
    """A reviewer who reads one sentence about time saved must meet its price in the same paragraph."""
    catalogue = Catalogue(tree)
    for topic, source in (("published", published), ("triage", triage.gather), ("notification", notification.gather)):
        catalogue.add(topic, source(tree))
    for path in catalogue.problems:
        assert "settings.py" in path or "findings" in path or "regulatory/" in path, path  # code is not in the copy
    known = (
        Page(name, name, "x")
        for name in (
            "05_risk/hazards.md",
            "08_validation/report.md",
            "10_validation_plan.md",
        )
    )
    text = render_page(PAGE, catalogue, "0", (*PAGES, *known)).text
    assert "LungIMPACT" in text
    assert "53 days" in text
    for package in ("pneumonia-adult", "pneumonia-paediatric", "abnormal-adult"):
        paragraph = next(part for part in text.split("\n\n") if f"triage.{package}.diseased-change" in part)
        assert f"figure-triage.{package}.missed-change" in paragraph
        assert "whom the model misses" in paragraph
    assert "13.1 s" in text
    assert "29.3 s" in text


@pytest.mark.requirement("SRS-TRI-009")
def test_the_waits_of_the_page_are_those_of_the_simulation_within_its_interval():
    """Two ways to one figure: the formula at build, the simulation as recorded."""
    found = figures(ROOT)
    for item in json.loads((ROOT / evidence.EVIDENCE).read_text())["packages"]:
        simulated = item["scenarios"]["load-0.8-no-cap"]["triage"]
        for ours, theirs in (("diseased", "diseased"), ("non-diseased", "non_diseased"), ("flagged", "flagged")):
            value = found[f"triage.{item['package']}.{ours}"].value
            half = simulated[theirs]["high"] - simulated[theirs]["low"]
            assert abs(value - simulated[theirs]["value"]) < half


@pytest.mark.requirement("SRS-TRI-011")
def test_times_follow_the_committed_benchmarks_and_read_not_run_without_them(tree):
    """No benchmark, no figure; one that lacks a percentile says so."""
    path = tree / notification.NOTIFY
    record = json.loads(path.read_text())
    record["result"]["visible_s"] = {"p50": 1.25, "p95": 2.5, "p99": 3.75}
    record["result"]["committed_s"] = {"p50": 0.5}
    path.write_text(json.dumps(record))
    found = figures(tree, notification)
    assert found["notification.visible.p99"].shown == "3.750 s"
    assert found["notification.committed.p95"].shown == "not measured"
    assert "1.250 s" in str(table(tree, "notification.times", notification).rows)
    path.unlink()
    (tree / notification.SUSTAINED).unlink()
    found = figures(tree, notification)
    assert {figure.shown for figure in found.values()} == {"not run"}
    rows = table(tree, "notification.times", notification).rows
    assert all(cell in ("not run", "not measured") for row in rows for cell in row[2:])
