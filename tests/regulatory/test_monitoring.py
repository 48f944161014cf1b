"""Page 16: its limits are the code's, its delays the trial's, and without either it says so."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cxr_node.findings.monitoring.histogram import Bins, Histogram
from cxr_node.findings.monitoring.watch import Plan
from cxr_node.settings import Upkeep
from regulatory import monitoring_trial as trial
from regulatory.figures import Table
from regulatory.lock import ROOT
from regulatory.sources import monitoring

MANIFEST = Path("cxr_node/packages/pneumonia-adult/manifest.json")


@pytest.fixture
def tree(tmp_path):
    """What the page is made of, without weights."""
    for path in (
        *(ROOT / "cxr_node" / "packages").glob("*/manifest.json"),
        *(ROOT / "cxr_node" / "packages").glob("*/reference.json"),
        ROOT / trial.EVIDENCE,
    ):
        to = tmp_path / path.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    return tmp_path


def table(root: Path, wanted: str) -> Table:
    return next(item for item in monitoring.gather(root).tables if item.id == wanted)


@pytest.mark.requirement("SRS-MON-014")
def test_the_limits_are_those_that_a_node_runs_with():
    """A plan that promises another rate of false alarms than the code computes for is a false promise."""
    figures = {figure.id: figure for figure in monitoring.gather(ROOT).figures}
    keys = Upkeep()
    assert figures["monitoring.arl0"].value == keys.monitor_arl0
    assert figures["monitoring.baseline"].value == keys.monitor_baseline
    assert figures["monitoring.arl0"].shown == "10,000"


@pytest.mark.requirement("SRS-MON-014")
def test_the_trial_of_another_package_reads_not_run(tree):
    """A new model scores otherwise: the old one's delays say nothing of it."""
    assert "not run" not in str(table(tree, "monitoring.delays.pneumonia-adult").rows)
    manifest = json.loads((tree / MANIFEST).read_text())
    manifest["operating_points"]["pneumonia"]["threshold"] = 0.5
    (tree / MANIFEST).write_text(json.dumps(manifest))
    assert table(tree, "monitoring.delays.pneumonia-adult").rows[0][0] == "not run: the trial is of another package"
    assert "not run" in str(table(tree, "monitoring.false-alarms").rows[0])
    assert "not run" not in str(table(tree, "monitoring.delays.abnormal-adult").rows)


@pytest.mark.requirement("SRS-MON-014")
def test_without_the_trial_and_without_a_reference_the_page_says_so(tree):
    """Missing evidence never looks like a result."""
    (tree / trial.EVIDENCE).unlink()
    for name in ("monitoring.false-alarms", "monitoring.delays.node", "monitoring.delays.pneumonia-adult"):
        assert "not run" in str(table(tree, name).rows)
    figures = {figure.id: figure for figure in monitoring.gather(tree).figures}
    assert figures["monitoring.trial.repeats"].shown == "not run"
    (tree / MANIFEST.parent / "reference.json").unlink()
    row = table(tree, "monitoring.references").rows[0]
    assert row[:2] == ("pneumonia-adult", "no reference: not compared")


@pytest.mark.requirement("SRS-MON-014")
def test_the_recorded_trial_is_of_the_packages_and_limits_of_now():
    """The committed record is not that of yesterday's model; the command that makes it again is named in it."""
    record = json.loads((ROOT / trial.EVIDENCE).read_text())
    for package in monitoring.released(ROOT):
        assert record["packages"][package.name]["digest"] == monitoring._digest(package)
    assert (record["baseline"], record["arl0"]) == (Upkeep().monitor_baseline, Upkeep().monitor_arl0)
    assert record["command"] == "python -m regulatory.monitoring_trial"
    assert min(record["repeats"], record["paths"]) >= 50


@pytest.mark.requirement("SRS-MON-008")
def test_false_alarms_of_the_recorded_trial_are_those_asked_for():
    """With the mean known each chart keeps the rate it was set up for, within a fifth."""
    record = json.loads((ROOT / trial.EVIDENCE).read_text())
    charts = dict(record["node"])
    for name, package in record["packages"].items():
        charts |= {f"{name} {chart}": entry for chart, entry in package["charts"].items()}
    for name, entry in charts.items():
        known = entry["in_control"]["mean_known"]
        assert 0.8 * record["arl0"] <= known["mean"] <= 1.25 * record["arl0"], name


@pytest.mark.requirement("SRS-MON-008")
def test_delays_are_those_of_the_nodes_own_charts():
    """A share that goes from a tenth to all is found in a few cases; without a change nothing is, at this seed."""
    rng = np.random.default_rng(1)
    stream = trial.Stream(Plan("share", 200, 2000.0), trial.happens(0.1), {})
    watches = trial.learned(stream, rng, 6)
    assert all(watch.chart is not None for watch in watches)
    assert all(0 < delay <= 12 for delay in trial.delays(watches, stream, trial.happens(1.0), rng))
    assert trial.delays(watches, stream, stream.usual, rng, most=50).count(-1) >= 4


@pytest.mark.requirement("SRS-MON-008")
def test_what_is_drawn_has_the_shape_of_the_histogram_and_inversion_moves_it():
    """The trial rests on it."""
    rng = np.random.default_rng(2)
    histogram = Histogram(Bins(edges=(0.25, 0.5, 0.75)), (0, 10, 0, 30))
    values = trial.values_of(histogram)(rng, 4000)
    assert Histogram.of(histogram.bins, values).counts[0] == 0
    assert (values >= 0.75).mean() == pytest.approx(0.75, abs=0.03)
    up = trial.moved(trial.values_of(histogram), 1.0)(np.random.default_rng(2), 4000)
    assert (up > values).all()
    assert (trial.mixed(trial.happens(0.0), trial.happens(1.0), 0.2)(rng, 5000)).mean() == pytest.approx(0.2, abs=0.03)


@pytest.mark.requirement("SRS-MON-008")
def test_run_lengths_of_all_sites_at_once_are_those_of_one_after_the_other():
    """The fast way must count as the node does."""
    from cxr_node.findings.monitoring.cusum import Sums, design_share

    chart = design_share(30, 100, 200.0)
    values = (np.random.default_rng(3).random(4000) < 0.3).astype(float)
    [ended] = trial.run_lengths([chart], lambda rng, number: values[:number], np.random.default_rng(0), 500)
    sums, slow = Sums(), 500
    for number, value in enumerate(values[:500], 1):
        sums = sums.after(chart, value)
        if sums.side(chart):
            slow = number
            break
    assert ended == slow
