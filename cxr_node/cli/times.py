"""`cxr-node times`: how long it took from the last image of a study to its priority and to its result elsewhere."""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from cxr_node.cli.user import open_database
from cxr_node.clock import utc_now
from cxr_node.settings import PRIORITY, Settings
from cxr_node.worklist.figures import percentile
from cxr_node.worklist.web.feedback_api import aware
from storage.turnaround import Turnaround, turnarounds

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
ALL_MODELS = "all models"
NO_MODEL = "no model (excluded, or failed)"
STEPS = {
    "visible": "last image received to result visible on the worklist",
    "told": "last image received to notice of priority taken by a destination",
    "delivered": "last image received to result object taken by a destination",
}


@dataclass(frozen=True)
class Spread:
    """So many times, and what 50, 95 and 99 of 100 of them do not exceed, in seconds; None for none."""

    n: int
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None


def times(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print the spread of each step, for all models and for each; 1 where no study of that time has a result."""
    since, until = aware(arguments.since) or BEGINNING, aware(arguments.until) or utc_now()
    with open_database(settings) as database, database.read() as connection:
        found = list(turnarounds(connection, since, until, priority_kind=PRIORITY))
    known = [item for item in found if item is not None]
    table = spreads(known)
    if arguments.json:
        body = {
            "since": since.isoformat(),
            "until": until.isoformat(),
            "studies": len(known),
            "left_out": len(found) - len(known),
            "models": {model: {step: asdict(value) for step, value in steps.items()} for model, steps in table.items()},
        }
        print(json.dumps(body, ensure_ascii=False))
    else:
        for line in _lines(table, len(found) - len(known)):
            print(line)
    return 0 if known else 1


def spreads(found: Iterable[Turnaround]) -> dict[str, dict[str, Spread]]:
    """Return the spread of each step by model; a study that several models scored counts with each of them."""
    counts: dict[str, dict[str, Counter[int]]] = {}
    for item in found:
        ends = {"visible": item.visible_at, "told": item.told_at, "delivered": item.delivered_at}
        for model in (ALL_MODELS, *(item.models or (NO_MODEL,))):
            of_model = counts.setdefault(model, {step: Counter() for step in STEPS})
            for step, end in ends.items():
                if end is not None:
                    # A clock that was set back must not make a study negative.
                    of_model[step][max(0, round((end - item.last_image_at).total_seconds() * 1000))] += 1
    names = sorted(counts, key=lambda name: (name != ALL_MODELS, name))
    return {name: {step: _spread(counts[name][step]) for step in STEPS} for name in names}


def _spread(milliseconds: Mapping[int, int]) -> Spread:
    def at(share: float) -> float | None:
        value = percentile(milliseconds, share)
        return None if value is None else value / 1000

    return Spread(sum(milliseconds.values()), at(0.5), at(0.95), at(0.99))


def _lines(table: Mapping[str, Mapping[str, Spread]], left_out: int) -> Sequence[str]:
    if not table:
        return ["no study of that time has a result"]
    lines = []
    for model, steps in table.items():
        lines.append(model)
        for step, spread in steps.items():
            if spread.n:
                lines.append(
                    f"  {STEPS[step]}: p50 {spread.p50_s:.3f} s, p95 {spread.p95_s:.3f} s, p99 {spread.p99_s:.3f} s, "
                    f"n = {spread.n:,}"
                )
            else:
                lines.append(f"  {STEPS[step]}: none")
    if left_out:
        lines.append(f"{left_out:,} studies left out: their images are not on record any more")
    return lines
