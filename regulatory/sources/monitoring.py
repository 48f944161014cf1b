"""The monitoring plan's figures: limits from the code, references from the packages, delays from the recorded trial.

The trial of a package counts only while it is of the bytes that lie there, and of the limits that the node runs with;
otherwise its figures read "not run".
"""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from cxr_node.findings.monitoring.cusum import SHIFT as CUSUM_SHIFT
from cxr_node.findings.monitoring.histogram import FEWEST, LARGE_SHIFT, SMALL_SHIFT
from cxr_node.findings.monitoring.reference import MEASURES, Reference
from cxr_node.findings.monitoring.site import FEWEST as FEWEST_LABELS
from cxr_node.findings.monitoring.site import HALF_WIDTH, cases_needed
from cxr_node.inference.package import REFERENCE
from cxr_node.settings import Upkeep
from cxr_node.upkeep.monitor import READERS_BASELINE, WANTED, WINDOW
from cxr_node.upkeep.stage import MONITOR_EVERY_S
from regulatory.figures import Drawing, Figure, Material, Table
from regulatory.monitoring_trial import COMMAND, EVIDENCE
from regulatory.sources.drawings import svg
from regulatory.sources.records import NOT_RUN, Released, read_json, released
from trainer.report.style import INK, look, single

_SOURCE = EVIDENCE.as_posix()
_CUSUM = "cxr_node/findings/monitoring/cusum.py"
_HISTOGRAM = "cxr_node/findings/monitoring/histogram.py"
_SITE = "cxr_node/findings/monitoring/site.py"
_MONITOR = "cxr_node/upkeep/monitor.py"
_SETTINGS = "cxr_node/settings.py"
NO_REFERENCE = "no reference: not compared"
NEVER = "not in time"

_CHARTS = {
    "score": ("highest probability of a study", "mean of a model's scores"),
    "flag": ("a study at the threshold or above", "flag rate of a model"),
    "refused": ("an image that its pixels exclude", "share of the images looked at"),
    "not-analysed": ("a study of which no image was analysed", "share of the studies"),
    "disagreement": ("a reader's verdict that disagrees", "share of the verdicts"),
}


def gather(root: Path) -> Material:
    """Return figures, tables and drawings of 16_monitoring_plan.md."""
    trial = read_json(root / EVIDENCE) if (root / EVIDENCE).is_file() else {}
    packages = released(root)
    references = {package.name: _reference(root, package) for package in packages}
    tables = [_charts(), _references(packages, references), _false_alarms(packages, trial), _delays_of_node(trial)]
    tables += [_delays(package, trial) for package in packages]
    tables.append(_shifts(packages, trial))
    drawings = [
        _drawing(package, reference) for package in packages if (reference := references[package.name]) is not None
    ]
    return Material((*_limits(), *_of_trial(trial)), tuple(tables), tuple(drawings))


def _limits() -> list[Figure]:
    keys = Upkeep()

    def constant(name: str, value: Any, shown: str, where: str, says: str) -> Figure:
        return Figure(f"monitoring.{name}", value, shown, where, says=says)

    return [
        constant(
            "arl0",
            keys.monitor_arl0,
            f"{keys.monitor_arl0:,.0f}",
            f"{_SETTINGS}:Upkeep",
            "cases between two false alarms of a chart, on average (upkeep.monitor_arl0)",
        ),
        constant(
            "baseline",
            keys.monitor_baseline,
            str(keys.monitor_baseline),
            f"{_SETTINGS}:Upkeep",
            "cases from which a chart learns what is usual at the site (upkeep.monitor_baseline)",
        ),
        constant(
            "readers-baseline",
            READERS_BASELINE,
            str(READERS_BASELINE),
            f"{_MONITOR}:READERS_BASELINE",
            "verdicts from which the chart of readers learns",
        ),
        constant(
            "shift",
            CUSUM_SHIFT,
            f"{CUSUM_SHIFT:g} standard deviations",
            f"{_CUSUM}:SHIFT",
            "change of a mean that the charts find soonest",
        ),
        constant(
            "every",
            MONITOR_EVERY_S,
            f"{MONITOR_EVERY_S / 60:g} minutes",
            "cxr_node/upkeep/stage.py:MONITOR_EVERY_S",
            "time between two turns of monitoring",
        ),
        constant("window", WINDOW.days, f"{WINDOW.days} days", f"{_MONITOR}:WINDOW", "images of a histogram"),
        constant("window-images", WANTED, str(WANTED), f"{_MONITOR}:WANTED", "images that a histogram is filled up to"),
        constant("fewest", FEWEST, str(FEWEST), f"{_HISTOGRAM}:FEWEST", "images below which no index is given"),
        constant("small", SMALL_SHIFT, f"{SMALL_SHIFT:g}", f"{_HISTOGRAM}:SMALL_SHIFT", "index of a moderate shift"),
        constant("large", LARGE_SHIFT, f"{LARGE_SHIFT:g}", f"{_HISTOGRAM}:LARGE_SHIFT", "index of a large shift"),
        constant(
            "labels-fewest",
            FEWEST_LABELS,
            str(FEWEST_LABELS),
            f"{_SITE}:FEWEST",
            "labelled cases of either class below which no threshold is proposed",
        ),
        constant(
            "labels-needed",
            cases_needed(0.9),
            str(cases_needed(0.9)),
            f"{_SITE}:cases_needed",
            f"labelled cases with the finding for a sensitivity of 0.9 known within {HALF_WIDTH * 100:g} points",
        ),
    ]


def _of_trial(trial: Mapping[str, Any]) -> list[Figure]:
    return [
        Figure(
            f"monitoring.trial.{key}",
            trial.get(key),
            f"{trial[key]:,}" if key in trial else NOT_RUN,
            _SOURCE,
            f"/{key}" if key in trial else "",
            COMMAND,
            says,
        )
        for key, says in (
            ("repeats", "sites of the trial, each with a baseline of its own"),
            ("paths", "runs of the trial with the mean known"),
            ("longest", "cases after which a run in control was cut off"),
            ("give_up", "cases after a change within which an alarm counts as in time"),
        )
    ]


def _reference(root: Path, package: Released) -> Reference | None:
    path = root / "cxr_node" / "packages" / package.name / REFERENCE
    if REFERENCE not in package.manifest.get("files", {}) or not path.is_file():
        return None
    return Reference.from_json(json.loads(path.read_text("utf-8")))


def _digest(package: Released) -> str:
    return hashlib.sha256((package.root / package.manifest_path).read_bytes()).hexdigest()


def _tried(package: Released, trial: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Return what the trial says of a package, or why that does not count."""
    if not trial:
        return {}, NOT_RUN
    keys = Upkeep()
    if (trial["baseline"], trial["arl0"]) != (keys.monitor_baseline, keys.monitor_arl0):
        return {}, f"{NOT_RUN}: the trial is of other limits"
    found = trial["packages"].get(package.name, {})
    if found.get("digest") != _digest(package):
        return {}, f"{NOT_RUN}: the trial is of another package"
    return found, ""


def _charts() -> Table:
    return Table(
        "monitoring.charts",
        "Charts of cumulative sums",
        ("chart", "one case", "what is watched"),
        tuple((name, *told) for name, told in _CHARTS.items()),
        f"{_MONITOR}:Chart",
    )


def _references(packages: tuple[Released, ...], references: Mapping[str, Reference | None]) -> Table:
    rows = []
    for package in packages:
        reference = references[package.name]
        if reference is None:
            rows.append((package.name, NO_REFERENCE, "–", "–", "–", "–"))
            continue
        for finding, score in reference.scores.items():
            told = [name for name in MEASURES if name in reference.measures and reference.measures[name].total]
            rows.append(
                (
                    package.name,
                    f"{reference.source}; {sum(reference.excluded.values())} excluded by their pixels",
                    f"{finding}: {score.mean:.3f} ({score.deviation:.3f})",
                    f"{score.flagged} of {score.of}",
                    ", ".join(told),
                    f"{reference.inverted.excluded} of {reference.inverted.images}",
                )
            )
    return Table(
        "monitoring.references",
        "What the packages carry",
        (
            "package",
            "images",
            "mean probability (SD)",
            "flagged",
            "histograms beside that of the probability",
            "excluded, same images inverted",
        ),
        tuple(rows),
        "cxr_node/packages/pneumonia-adult/reference.json",
        "",
        "cxr-train reference PACKAGE --data DIR",
    )


def _false_alarms(packages: tuple[Released, ...], trial: Mapping[str, Any]) -> Table:
    rows: list[tuple[str, ...]] = []
    for package in packages:
        found, why = _tried(package, trial)
        for chart in ("score", "flag"):
            entry = found.get("charts", {}).get(chart)
            rows.append((package.name, chart, *_in_control(entry, why or NO_REFERENCE)))
    why = "" if trial else NOT_RUN
    for chart in ("refused", "not-analysed", "disagreement"):
        rows.append(("the node", chart, *_in_control(trial.get("node", {}).get(chart), why)))
    return Table(
        "monitoring.false-alarms",
        "In control: mean number of cases between false alarms, with 95 % interval",
        ("of", "chart", "asked for", "mean known", "mean learned at the site"),
        tuple(rows),
        _SOURCE,
        "/packages",
        COMMAND,
        (2, 3, 4),
    )


def _in_control(entry: Mapping[str, Any] | None, why: str) -> tuple[str, str, str]:
    asked = f"{Upkeep().monitor_arl0:,.0f}"
    if entry is None:
        return asked, why, why

    def told(found: Mapping[str, Any]) -> str:
        if found["mean"] is None:
            return f"no alarm in {found['cases']:,} cases"
        return f"{found['mean']:,} ({found['low']:,} to {found['high']:,}); {found['alarms']} of {found['runs']} runs"

    return asked, told(entry["in_control"]["mean_known"]), told(entry["in_control"]["mean_learned"])


def _delays_of_node(trial: Mapping[str, Any]) -> Table:
    rows = [
        (chart, change, *_delay(found))
        for chart, entry in trial.get("node", {}).items()
        for change, found in entry["changes"].items()
    ]
    return Table(
        "monitoring.delays.node",
        "Cases from a change to the alarm, charts of the node",
        ("chart", "change", "half of the sites", "nine of ten sites", "found in time"),
        tuple(rows) or ((NOT_RUN, "–", "–", "–", "–"),),
        _SOURCE,
        "/node" if rows else "",
        COMMAND,
        (2, 3, 4),
    )


def _delays(package: Released, trial: Mapping[str, Any]) -> Table:
    found, why = _tried(package, trial)
    charts = found.get("charts", {})
    rows = [
        (change, *_delay(charts["score"]["changes"][change]), *_delay(charts["flag"]["changes"][change]))
        for change in charts.get("score", {}).get("changes", {})
    ]
    return Table(
        f"monitoring.delays.{package.name}",
        f"{package.name}: studies from a change to the alarm",
        (
            "change",
            "score: half of the sites",
            "nine of ten",
            "found in time",
            "flag: half of the sites",
            "nine of ten",
            "found in time",
        ),
        tuple(rows) or ((why or NO_REFERENCE, "–", "–", "–", "–", "–", "–"),),
        _SOURCE,
        f"/packages/{package.name}/charts" if rows else "",
        COMMAND,
        (1, 2, 3, 4, 5, 6),
    )


def _delay(found: Mapping[str, Any]) -> tuple[str, str, str]:
    def told(value: int | None) -> str:
        return NEVER if value is None else f"{value:,}"

    return told(found["p50"]), told(found["p90"]), f"{found['found']} of {found['sites']}"


def _shifts(packages: tuple[Released, ...], trial: Mapping[str, Any]) -> Table:
    rows: list[tuple[str, ...]] = []
    for package in packages:
        found, why = _tried(package, trial)
        if "shifts" not in found:
            rows.append((package.name, why or NO_REFERENCE, "–", "–", "–", "–"))
            continue
        for measure, entry in found["shifts"].items():
            if "not_tried" in entry:
                rows.append((package.name, f"{measure}: not measured, {entry['not_tried']}", "–", "–", "–", "–"))
                continue
            false = f"{entry['false_alarms']} of {entry['windows']}"
            for change, delay in entry["changes"].items():
                p50, p90, number = _delay(delay)
                rows.append((package.name, change, p50, p90, number, false))
    return Table(
        "monitoring.shifts",
        "Images from a change to the alarm of a histogram",
        ("images like those of", "change", "half of the sites", "nine of ten", "found in time", "false without change"),
        tuple(rows),
        _SOURCE,
        "/packages",
        COMMAND,
        (2, 3, 4, 5),
    )


def _drawing(package: Released, reference: Reference) -> Drawing:
    finding = next(iter(reference.scores))
    score = reference.scores[finding]
    threshold = float(package.manifest["operating_points"][finding]["threshold"])
    return Drawing(
        f"monitoring.{package.name}.reference",
        f"{package.name}: probabilities of {finding} on its tune part, and of the same images inverted",
        "Two outlines of shares over the calibrated probability: solid the images as they are, dashed the same images "
        "with black and white exchanged; a dotted upright line is the threshold.",
        _outlines(
            f"{package.name}, n = {score.of}",
            tuple(score.histogram.bins.edges),
            score.histogram.counts,
            reference.inverted.scores[finding].histogram.counts,
            threshold,
        ),
        f"cxr_node/packages/{package.name}/{REFERENCE}",
        f"cxr-train reference cxr_node/packages/{package.name} --data DIR",
    )


@lru_cache
def _outlines(
    title: str, edges: tuple[float, ...], counts: tuple[int, ...], inverted: tuple[int, ...], threshold: float
) -> str:
    with look():
        figure, axes = single()
        for values, label, dashes in ((counts, "as they are", "solid"), (inverted, "inverted", "dashed")):
            total = sum(values)
            axes.stairs(
                [value / total for value in values],
                (0.0, *edges, 1.0),
                label=f"{label}, {total} images",
                color=INK,
                linestyle=dashes,
                linewidth=1.4,
            )
        axes.axvline(threshold, color=INK, linestyle="dotted", label=f"threshold {threshold:.3f}")
        axes.set_xlabel("calibrated probability")
        axes.set_ylabel("share of the images")
        axes.set_xlim(0, 1)
        axes.legend(loc="upper center", frameon=False)
        axes.set_title(title)
    return svg(figure)
