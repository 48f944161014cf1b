"""Tries the node's monitoring on changes that are put in on purpose: `python -m regulatory.monitoring_trial`.

Cases are drawn, with a fixed seed, from the reference histograms that each released package carries: measured on real
images, so scores have the shape that this model gives, and inverted pictures the scores that it gave to inverted
pictures. What is tried is the node's own code. The record is regulatory/evidence/monitoring.json; it rests on no
measured time, and the same packages give the same record.

In control: how many cases pass between false alarms, with the mean known, and with the mean learned from as many cases
as a site gives it. Out of control: how many cases pass from the change to the alarm.
"""

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxr_node.findings.monitoring.cusum import Chart, design, design_share
from cxr_node.findings.monitoring.histogram import Histogram, shift
from cxr_node.findings.monitoring.reference import Reference, ScoreReference
from cxr_node.findings.monitoring.watch import Plan, Watch
from cxr_node.inference import BUILTIN, load_package
from cxr_node.inference.package import reference_of
from cxr_node.settings import Upkeep
from cxr_node.upkeep.monitor import READERS_BASELINE, WANTED

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = Path("regulatory") / "evidence" / "monitoring.json"
COMMAND = "python -m regulatory.monitoring_trial"
SEED = 1
REPEATS = 60  # sites, each with a baseline of its own
PATHS = 300  # runs with the mean known
LONGEST = 30_000  # cases of a run in control
BLOCK = 500  # cases drawn at once
GIVE_UP = 5_000  # cases after a change
STEP = 25  # images between two looks at a histogram

Draw = Callable[[np.random.Generator, int], np.ndarray]


@dataclass(frozen=True)
class Stream:
    """Values of one chart: as usual, and by name as they are after a change."""

    plan: Plan
    usual: Draw
    changed: Mapping[str, Draw]


def values_of(histogram: Histogram, low: float = 0.0, high: float = 1.0) -> Draw:
    """Return what draws values from a histogram of numbers: a bin by its count, and evenly inside it."""
    edges = np.array([low, *histogram.bins.edges, high])
    weights = np.array(histogram.counts, np.float64) / histogram.total

    def draw(rng: np.random.Generator, number: int) -> np.ndarray:
        bins = rng.choice(len(weights), number, p=weights)
        return edges[bins] + rng.random(number) * (edges[bins + 1] - edges[bins])

    return draw


def moved(draw: Draw, by: float) -> Draw:
    """Return the same with the logit moved: what a change of gray scale does to every score alike."""

    def drawn(rng: np.random.Generator, number: int) -> np.ndarray:
        inside = np.clip(draw(rng, number), 1e-6, 1 - 1e-6)
        return np.asarray(1 / (1 + np.exp(-(np.log(inside / (1 - inside)) + by))))

    return drawn


def mixed(usual: Draw, other: Draw, part: float) -> Draw:
    """Return a stream of which that part comes from elsewhere."""

    def drawn(rng: np.random.Generator, number: int) -> np.ndarray:
        return np.where(rng.random(number) < part, other(rng, number), usual(rng, number))

    return drawn


def flagged(draw: Draw, threshold: float) -> Draw:
    """Return 1 for what is at the threshold or above, else 0."""
    return lambda rng, number: (draw(rng, number) >= threshold).astype(np.float64)


def happens(share: float) -> Draw:
    """Return 1 with that probability, else 0."""
    return lambda rng, number: (rng.random(number) < share).astype(np.float64)


def learned(stream: Stream, rng: np.random.Generator, repeats: int) -> list[Watch]:
    """Return charts of so many sites, each after it has learned what is usual."""
    return [Watch().after(stream.usual(rng, stream.plan.baseline), stream.plan) for _ in range(repeats)]


def delays(
    watches: Sequence[Watch], stream: Stream, changed: Draw, rng: np.random.Generator, most: int = GIVE_UP
) -> list[int]:
    """Return for each site how many cases passed from the change to the alarm; -1 where there was none in time.

    Before the change each has seen 200 cases as usual; one that had a false alarm among them begins anew.
    """
    found = []
    for watch in watches:
        before = watch.after(stream.usual(rng, 200), stream.plan)
        if before.alarm:
            before = before.reset(learn_anew=False)
        passed = before.sums.cases
        delay = -1
        for begin in range(0, most, 250):
            before = before.after(changed(rng, min(250, most - begin)), stream.plan)
            if before.alarm:
                delay = before.alarm_after - passed
                break
        found.append(delay)
    return found


def run_lengths(charts: Sequence[Chart], usual: Draw, rng: np.random.Generator, longest: int = LONGEST) -> np.ndarray:
    """Return (sites,) the cases until the first false alarm, `longest` where there was none; all sites at once."""
    mean, deviation, k, h = (
        np.array([getattr(chart, name) for chart in charts]) for name in ("mean", "deviation", "k", "h")
    )
    up, down = np.zeros(len(charts)), np.zeros(len(charts))
    ended = np.full(len(charts), longest)
    for begin in range(0, longest, BLOCK):
        number = min(BLOCK, longest - begin)
        z = (usual(rng, number * len(charts)).reshape(number, len(charts)) - mean) / deviation
        for case in range(number):
            up, down = np.maximum(0, up + z[case] - k), np.maximum(0, down - z[case] - k)
            over = np.maximum(up, down) > h
            if over.any():
                ended[over & (ended == longest)] = begin + case + 1
        if (ended < longest).all():
            break
    return ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Try everything and keep the record."""
    record = trial(repeats=REPEATS, paths=PATHS, longest=LONGEST)
    path = ROOT / EVIDENCE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    sys.stdout.write(f"{EVIDENCE}: {len(record['packages'])} packages, {record['repeats']} sites each\n")
    return 0


def trial(*, repeats: int, paths: int, longest: int, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Return the record for the released packages, or for those named."""
    upkeep = Upkeep()
    names = packages or sorted(folder.parent.name for folder in BUILTIN.glob("*/manifest.json"))
    record: dict[str, Any] = {
        "command": COMMAND,
        "seed": SEED,
        "repeats": repeats,
        "paths": paths,
        "longest": longest,
        "give_up": GIVE_UP,
        "baseline": upkeep.monitor_baseline,
        "arl0": upkeep.monitor_arl0,
        "window": WANTED,
        "packages": {},
        "node": _tried(node_streams(upkeep), repeats, paths, longest, SEED),
    }
    for number, name in enumerate(names):
        package = load_package(BUILTIN / name)
        reference = reference_of(package)
        if reference is None:
            record["packages"][name] = {"digest": package.digest, "reference": "none: not tried"}
            continue
        finding = package.manifest.findings[0]
        streams = model_streams(reference, finding, package.manifest.operating_points[finding].threshold, upkeep)
        record["packages"][name] = {
            "digest": package.digest,
            "reference": reference.source,
            "inverted": {"images": reference.inverted.images, "excluded": reference.inverted.excluded},
            "charts": _tried(streams, repeats, paths, longest, SEED + 1 + number),
            "shifts": shifts(reference, repeats, upkeep.monitor_baseline, SEED + 101 + number),
        }
    return record


def model_streams(reference: Reference, finding: str, threshold: float, upkeep: Upkeep) -> dict[str, Stream]:
    """Return the charts of a model, with what is put in."""
    score = reference.scores[finding]
    usual = values_of(score.histogram)
    inverted = values_of(_of_inverted(reference, finding).histogram)
    changes = {
        "every score up: logit + 0.5": moved(usual, 0.5),
        "every score up: logit + 1": moved(usual, 1.0),
        "every score down: logit - 0.5": moved(usual, -0.5),
        "every score down: logit - 1": moved(usual, -1.0),
        "all pictures inverted, were the gate blind": inverted,
        "a fifth of the pictures inverted, were the gate blind": mixed(usual, inverted, 0.2),
    }
    share = Plan("share", upkeep.monitor_baseline, upkeep.monitor_arl0)
    mean = Plan("mean", upkeep.monitor_baseline, upkeep.monitor_arl0)
    flags = {name: flagged(draw, threshold) for name, draw in changes.items()}
    return {
        "score": Stream(mean, usual, changes),
        "flag": Stream(share, flagged(usual, threshold), flags),
    }


def node_streams(upkeep: Upkeep) -> dict[str, Stream]:
    """Return the charts of the node itself. How often images are refused as usual is a site's: one in a hundred here.

    Every inverted picture of the three tune parts is excluded by its pixels (`inverted` of each package).
    """
    share = Plan("share", upkeep.monitor_baseline, upkeep.monitor_arl0)
    readers = Plan("share", min(READERS_BASELINE, upkeep.monitor_baseline), upkeep.monitor_arl0)
    return {
        "refused": Stream(
            share,
            happens(0.01),
            {f"{part} of the pictures inverted": happens(share) for part, share in _PARTS.items()},
        ),
        "not-analysed": Stream(
            share,
            happens(0.2),
            {"studies not analysed: 20 % become 40 %": happens(0.4), "20 % become 100 %": happens(1.0)},
        ),
        "disagreement": Stream(
            readers,
            happens(0.1),
            {"verdicts that disagree: 10 % become 25 %": happens(0.25), "10 % become 50 %": happens(0.5)},
        ),
    }


_PARTS = {"a twentieth": 0.05, "a fifth": 0.2, "all": 1.0}


def shifts(reference: Reference, repeats: int, baseline: int, seed: int) -> dict[str, Any]:
    """Return how many images after a change a histogram is an alarm: the last `WANTED` images against the first ones,
    looked at every `STEP` images, and how often it is one without a change."""
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for name, ends, changes in (
        ("age", (0.0, 100.0), {"patients 10 years older": 10.0, "patients 20 years older": 20.0}),
        ("mean-gray", (0.05, 0.95), {"pictures darker by 0.05": -0.05, "pictures darker by 0.1": -0.1}),
        ("contrast", (0.0, 0.4), {"contrast lower by 0.05": -0.05}),
    ):
        histogram = reference.measures.get(name)
        if histogram is None or not histogram.total:
            found[name] = {"not_tried": "the cohort's tables do not tell it"}
            continue
        usual = values_of(histogram, *ends)
        was = [Histogram.of(histogram.bins, usual(rng, baseline)) for _ in range(repeats)]
        false = [shift(item, Histogram.of(histogram.bins, usual(rng, WANTED))).is_large for item in was]
        entry: dict[str, Any] = {"windows": repeats, "false_alarms": sum(false), "changes": {}}
        for told, by in changes.items():
            entry["changes"][told] = _summary([_until_shift(item, usual, by, rng) for item in was])
        found[name] = entry
    return found


def _until_shift(was: Histogram, usual: Draw, by: float, rng: np.random.Generator, most: int = 1000) -> int:
    window = usual(rng, WANTED)
    for number in range(STEP, most + 1, STEP):
        window = np.concatenate([window[STEP:], usual(rng, STEP) + by])
        if shift(was, Histogram.of(was.bins, np.maximum(window, 0.0))).is_large:
            return number
    return -1


def _of_inverted(reference: Reference, finding: str) -> ScoreReference:
    return reference.inverted.scores[finding]


def _tried(streams: Mapping[str, Stream], repeats: int, paths: int, longest: int, seed: int) -> dict[str, Any]:
    return {
        name: _chart_tried(stream, repeats, paths, longest, np.random.default_rng([seed, number]))
        for number, (name, stream) in enumerate(streams.items())
    }


def _chart_tried(stream: Stream, repeats: int, paths: int, longest: int, rng: np.random.Generator) -> dict[str, Any]:
    known = _known(stream, rng)
    watches = learned(stream, rng, repeats)
    charts = [watch.chart for watch in watches if watch.chart is not None]
    return {
        "baseline": stream.plan.baseline,
        "in_control": {
            "mean_known": _run_summary(run_lengths([known] * paths, stream.usual, rng, longest), longest),
            "mean_learned": _run_summary(run_lengths(charts, stream.usual, rng, longest), longest),
        },
        "changes": {name: _summary(delays(watches, stream, changed, rng)) for name, changed in stream.changed.items()},
    }


def _known(stream: Stream, rng: np.random.Generator) -> Chart:
    """Return the chart of a site that knows its mean: learned from very many cases."""
    many = stream.usual(rng, 20_000)
    if stream.plan.kind == "share":
        return design_share(int(many.sum()), len(many), stream.plan.arl0)
    # A thousand values are the shape of the distribution; all of them its mean and deviation.
    chart = design(np.sort(many)[10::20].tolist(), stream.plan.arl0)
    return Chart(float(many.mean()), float(many.std()), chart.k, chart.h, chart.arl0, len(many))


def _run_summary(ended: np.ndarray, longest: int) -> dict[str, Any]:
    """Return the mean run length with its 95 % interval, runs that were cut off allowed for: cases by alarms."""
    alarms, cases = int((ended < longest).sum()), int(ended.sum())
    if not alarms:
        return {"runs": len(ended), "alarms": 0, "cases": cases, "mean": None, "low": None, "high": None}
    mean, spread = cases / alarms, math.exp(1.96 / math.sqrt(alarms))
    return {
        "runs": len(ended),
        "alarms": alarms,
        "cases": cases,
        "mean": round(mean),
        "low": round(mean / spread),
        "high": round(mean * spread),
    }


def _summary(found: Sequence[int]) -> dict[str, Any]:
    """Return median and 90th percentile of delays, those never found counted as longest; None where that is one."""
    seen = sorted(delay if delay >= 0 else sys.maxsize for delay in found)

    def rank(share: float) -> int | None:
        value = seen[max(0, math.ceil(share * len(seen)) - 1)]
        return None if value == sys.maxsize else value

    return {"sites": len(seen), "found": sum(delay >= 0 for delay in found), "p50": rank(0.5), "p90": rank(0.9)}


if __name__ == "__main__":
    sys.exit(main())
