"""Page 15: the plan as written, and the trial as recorded."""

import json
import shutil

import pytest

from regulatory.figures import Catalogue, published
from regulatory.lock import ROOT
from regulatory.pages import PAGES, Page
from regulatory.render import render_page
from regulatory.sources import pccp
from trainer.pccp import PlanError, load_plan
from trainer.pccp.changes import release

pytestmark = pytest.mark.requirement("SRS-PCP-008")

PAGE = next(page for page in PAGES if page.file == "15_pccp.md")


@pytest.fixture
def tree(tmp_path):
    """The plan, the trial, the manifests and the texts."""
    for path in (
        *(ROOT / "cxr_node" / "packages").glob("*/manifest.json"),
        *(ROOT / "regulatory" / "text").glob("*.*"),
        ROOT / pccp.PLAN,
        ROOT / pccp.TRIAL,
    ):
        to = tmp_path / path.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    return tmp_path


def rows(root, wanted):
    return next(item for item in pccp.gather(root).tables if item.id == wanted).rows


def test_a_margin_changed_in_the_plan_changes_the_page(tree):
    """The limit that a reviewer reads is the one that the program applies."""
    path = tree / pccp.PLAN
    path.write_text(path.read_text().replace("\nsensitivity = 0.03\n", "\nsensitivity = 0.01\n"))
    assert ("sensitivity", "0.01", "all cases") in {row[:3] for row in rows(tree, "pccp.limits")}
    assert load_plan(path).limits.sensitivity == 0.01
    assert ("sensitivity", "0.03", "all cases") in {row[:3] for row in rows(ROOT, "pccp.limits")}


def test_a_plan_that_is_none_fails_and_is_not_shown(tree):
    """A page of a broken plan would be a page of no plan."""
    (tree / pccp.PLAN).write_text("[plan]\nversion = '1'\n")
    with pytest.raises(PlanError, match="expected the key"):
        pccp.gather(tree)


def test_every_package_under_the_plan_is_released_in_the_version_submitted_or_a_later_one(tree):
    """A plan that names a version nobody has compares with nothing."""
    found = {row[0]: row for row in rows(ROOT, "pccp.packages")}
    assert {"pneumonia-adult", "pneumonia-paediatric"} <= set(found)
    for name, row in found.items():
        assert release(row[1]) <= release(row[2]), name
    path = tree / "cxr_node" / "packages" / "pneumonia-adult" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "version": "9.9.9"}))
    assert "9.9.9" in {row[2] for row in rows(tree, "pccp.packages")}


def test_the_trial_says_no_as_well_as_yes():
    """A program that was only ever seen to agree has not been tried."""
    found = json.loads((ROOT / pccp.TRIAL).read_text())
    verdicts = {item["name"]: item["verdict"] for item in found["trials"]}
    assert verdicts["stale-threshold"] == "refused"
    assert verdicts["another-purpose"] == "new submission needed"
    assert verdicts["changed-weights"] == "new submission needed"
    assert "inside the plan" in verdicts.values()
    version = load_plan(ROOT / pccp.PLAN).version
    for item in found["trials"]:
        assert item["plan"] == version
        assert item["old"]["name"] == "pneumonia-paediatric"


def test_without_a_trial_the_page_reads_not_run(tree):
    """And nothing of the page is missing."""
    (tree / pccp.TRIAL).unlink()
    assert rows(tree, "pccp.trials") == (("not run",) * 7,)
    assert rows(tree, "pccp.trial-limits") == (("not run",) * 7,)
    shown = {figure.id: figure.shown for figure in pccp.gather(tree).figures}
    assert shown["pccp.trial.images"] == "not run"
    assert shown["pccp.limits.auc"] == "0.02"


def test_the_page_has_the_three_parts_that_fda_names(tree):
    """Description of Modifications, Modification Protocol, Impact Assessment, in this order."""
    catalogue = Catalogue(tree)
    catalogue.add("published", published(tree))
    catalogue.add("pccp", pccp.gather(tree))
    names = (
        "06_data/reference_standard.md",
        "08_validation/protocol.md",
        "16_monitoring_plan.md",
    )
    text = render_page(PAGE, catalogue, "0", (*PAGES, *(Page(name, name, "x") for name in names))).text
    places = [
        text.index(f"## {number}. {title}")
        for number, title in (
            (1, "Description of Modifications"),
            (2, "Modification Protocol"),
            (3, "Impact Assessment"),
        )
    ]
    assert places == sorted(places)
    for change in load_plan(ROOT / pccp.PLAN).changes:
        assert change.reason in text
