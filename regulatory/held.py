"""The README's short table of load, faults, inputs, ratios and scaling, from the same records as service.md."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from regulatory.lock import ROOT

README = ROOT / "README.md"
BEGIN, END = "<!-- held: made by `python -m regulatory.service` -->", "<!-- /held -->"
NOT_RUN = "not run"
NODE = "cxr-node, 1 process"
PEERS = ("Orthanc, synced", "storescp --fork", "storescp --fork, tuned")

_ASKED = ("web", "API", "UPS")  # steps of `stored` that readers ask for, not a study's own way

Row = tuple[str, str, str]  # what, seen, command
Kept = dict[str, Any]


def short(evidence: Path) -> str:
    """Return the table between the marks, with them."""
    lines = [BEGIN, "", "| what | seen | made by |", "|---|---|---|"]
    lines += [f"| {what} | {seen} | `{command}` |" for what, seen, command in _rows(evidence)]
    return "\n".join([*lines, "", END])


def written(text: str, evidence: Path) -> str:
    """Return the README with the table of today.

    Raises
    ------
    ValueError
        The marks are not there.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{README.name}: expected the marks {BEGIN!r} and {END!r}, found not both")
    return before + short(evidence) + after


def _rows(evidence: Path) -> Iterator[Row]:
    for name, says in _SAYS.items():
        path = evidence / f"{name}.json"
        if not path.is_file():
            for what in says:
                yield what, NOT_RUN, f"python -m tests.benchmarks.record {name}"
            continue
        kept = json.loads(path.read_text("utf-8"))
        for what, told in says.items():
            yield what, told(kept["result"]), kept["command"]
    yield "kill -9 at a durable step; other faults", _faults(), "pytest tests/faults"
    yield "strangers, hostile bytes, damaged files", _hostile(), "make test"


def _faults() -> str:
    from tests.faults import faults, points

    return f"{len(points.POINTS)} points; {len(faults.FAULTS)} faults: nothing acknowledged lost, none done twice"


def _hostile() -> str:
    from tests.faults.faults import HOSTILE

    return f"{len(HOSTILE)} cases, each met as its row says, by the part that meets it"


def _intake(kept: Kept) -> str:
    rows = {(row["objects"], row["associations"], row["receiver"]): row for row in kept["rows"]}
    counts = sorted({associations for _, associations, _ in rows})
    found = []
    for objects, title in (("raw", "15 MB raw"), ("j2k", "2.5 MB JPEG 2000")):
        ratios = [
            f"{peer} {' / '.join(_number(rows[objects, count, peer]['cxr_node_is_faster_by']) for count in counts)}"
            for peer in PEERS
            if (objects, counts[0], peer) in rows
        ]
        rates = " / ".join(_number(rows[objects, count, NODE]["instances_per_s"]) for count in counts)
        found.append(f"{title}: {rates} a second; times as fast as {', '.join(ratios)}")
    return f"at {' / '.join(map(str, counts))} associations. " + ". ".join(found)


def _memory(kept: Kept) -> str:
    loaded = [row for row in kept["rows"] if row["receiver"].startswith("cxr-node")]
    idle = [row for row in kept["idle"] if row["receiver"].startswith("cxr-node")]
    parts = [f"{row['receiver'].removeprefix('cxr-node, ')} {row['peak_rss_mb']:.0f} MB" for row in loaded]
    worst = max(row["percent_of_a_core"] for row in idle)
    return f"{', '.join(parts)}; idle {_number(worst)} % of a core"


def _each(kept: Kept, label: str, say: Callable[[Kept], str]) -> str:
    return "; ".join(f"{row[label]} {say(row)}" for row in kept["rows"])


def _latency(kept: Kept) -> str:
    return _each(
        kept, "syntax", lambda row: f"p50 {_number(row['visible_p50_s'])} s, p95 {_number(row['visible_p95_s'])} s"
    )


def _start(kept: Kept) -> str:
    rows = {row["until"]: row for row in kept["rows"]}
    ready, echo = rows["ready"], rows["C-ECHO"]
    return (
        f"ready {_number(ready['warm_median_s'])} s, C-ECHO answered {_number(echo['warm_median_s'])} s;"
        f" the very first start, which converts the models, {_number(ready['cold_s'])} s"
    )


def _stored(kept: Kept) -> str:
    sizes = [key for key in kept["rows"][0] if key != "step"]
    groups = {
        "a study from intake to result": [row for row in kept["rows"] if not row["step"].startswith(_ASKED)],
        "pages, API and UPS": [row for row in kept["rows"] if row["step"].startswith(_ASKED)],
    }
    parts = []
    for title, rows in groups.items():
        first, last = (sum(row[size]["p50_ms"] for row in rows) for size in (sizes[0], sizes[-1]))
        parts.append(f"{title} {_number(first)} ms and {_number(last)} ms, x {last / first:.2f}")
    return f"with {int(sizes[0]):,} and {int(sizes[-1]):,} stored: {'; '.join(parts)}"


def _large(kept: Kept) -> str:
    first, last = kept["rows"][0], kept["rows"][-1]
    return (
        f"{last['images']:,} images in one study: {_number(first['images_per_s'])} a second in the first tenth,"
        f" {_number(last['images_per_s'])} in the last; {last['rss_mb']:.0f} MB"
    )


def _fuzz(kept: Kept) -> str:
    inputs, defects = (sum(row["inputs"] for row in kept["rows"]), sum(len(row["defects"]) for row in kept["rows"]))
    return f"{inputs:,} inputs into {len(kept['rows'])} ways in: {defects} crashes, hangs or leaks"


def _soak(kept: Kept) -> str:
    flat = "flat" if all(row["flat"] for row in kept["rows"]) else "NOT flat"
    return (
        f"{kept['minutes']:g} minutes, {kept['acknowledged']} studies: {kept['missing']} missing,"
        f" {kept['deaths']} processes died; memory, descriptors and threads {flat}"
    )


def _scale(kept: Kept) -> str:
    parts = []
    for mix, title in (("waiting", "waiting work"), ("analysis", "analysis, a core each of the two there are")):
        rows = [row for row in kept["rows"] if row["what"] == mix]
        parts.append(
            f"{title}: "
            + ", ".join(f"{row['processes']} processes {_number(row['of_linear'])} of linear" for row in rows[1:])
        )
    return "; ".join(parts)


def _capacity(kept: Kept) -> str:
    workers = ", ".join(f"{row['stage']} {row['workers']}" for row in kept["rows"] if row["what"] == "workers")
    return f"{kept['plan']['studies_a_day']:,.0f} studies a day by the queueing model: workers {workers}"


_SAYS: dict[str, dict[str, Callable[[Kept], str]]] = {
    "intake": {"intake, all durable before Success": _intake},
    "intake_memory": {"64 associations of 30 MB; 100 idle ones": _memory},
    "sustained": {
        "last byte answered to priority visible, 2 studies a second": _latency,
        "whole node with its senders on the same cores": lambda kept: _each(
            kept, "syntax", lambda row: f"{_number(row['sustained_per_s'])} studies a second"
        ),
    },
    "analysis": {
        "analysis, fed from a full queue": lambda kept: (
            _each(kept, "syntax", lambda row: f"{_number(row['studies_per_s'])}") + " studies a second"
        )
    },
    "start": {"start": _start},
    "stored": {"cost of a study by what is stored": _stored},
    "large_study": {"a large study": _large},
    "fuzz": {"hostile input": _fuzz},
    "soak": {"endurance": _soak},
    "scale": {"more processes": _scale},
    "capacity": {"a national programme": _capacity},
}


def _number(value: float) -> str:
    return f"{value:.3g}"


def names() -> Sequence[str]:
    """Return the records that the table is made from."""
    return list(_SAYS)
