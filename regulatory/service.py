"""`python -m regulatory.service`: what the service was seen to hold, as service.md, from measured figures alone.

The figures are those of `regulatory/evidence/NAME.json`, which `python -m tests.benchmarks.record NAME` writes; the
faults are the tables that the tests in tests/faults run by. A figure that is not there reads "not run".
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from regulatory import held
from regulatory.lock import ROOT

EVIDENCE = ROOT / "regulatory" / "evidence"
TARGET = ROOT / "regulatory" / "service.md"
NOT_RUN = "**not run**"


@dataclass(frozen=True)
class Measured:
    """One benchmark. `says` tells what was done; `rows` names where in its result the tables are."""

    name: str
    title: str
    says: str
    rows: tuple[str, ...] = ("rows",)


SECTIONS: tuple[tuple[str, tuple[Measured, ...]], ...] = (
    (
        "Beside peers",
        (
            Measured(
                "intake", "Intake", "C-STORE of 15 MB raw and 2.5 MB JPEG 2000 objects, receivers in turn in one run"
            ),
            Measured(
                "intake_memory",
                "Memory and idle cost of the intake",
                "64 associations with 30 MB each; 100 associations that say nothing",
                ("rows", "idle"),
            ),
        ),
    ),
    (
        "Load held",
        (
            Measured("large_study", "A study of 10,000 images", "small images over one association, by tenths"),
            Measured(
                "sustained", "The whole way", "studies over the wire into a node; latency until the priority is visible"
            ),
            Measured("analysis", "Analysis", "one stage fed from a full queue"),
            Measured("decode", "Decoding", "a frame to a model's input, by transfer syntax"),
            Measured("inference", "Inference", "each engine and size of batch, with the difference to the SavedModel"),
            Measured("start", "Start", "a process' start until it answers"),
            Measured("stored", "Cost by what is stored", "the same work with more and more studies in the database"),
            Measured("worklist", "Worklist", "pages and API over HTTP with 1,000 and 100,000 studies"),
            Measured("notify", "Notice", "C-STORE answered until the priority is visible, one study at a time"),
            Measured("audit_chain", "Audit trail", "cost of an entry and of sealing, time of a verification"),
        ),
    ),
    (
        "Inputs tried",
        (Measured("fuzz", "Hostile input", "inputs made from valid ones by changes that know the structure"),),
    ),
    ("Endurance", (Measured("soak", "Soak", "mixed load with broken senders and knocking strangers"),)),
    (
        "Scaling",
        (
            Measured("queue", "The queue", "jobs through both databases"),
            Measured("scale", "Workers", "the same work with more workers"),
            Measured("capacity", "Queueing model", "workers and transactions for a number of studies a day"),
        ),
    ),
)


def render(evidence: Path = EVIDENCE) -> str:
    """Return service.md."""
    return "\n".join(_lines(evidence)).rstrip() + "\n"


def _lines(evidence: Path) -> Iterator[str]:
    yield "# What the service was seen to hold"
    yield ""
    yield "> Made by `python -m regulatory.service` from `regulatory/evidence` and `tests/faults`. Do not edit."
    yield ""
    yield "Machines are noisy: figures are medians where a benchmark repeats, ratios within one run say more than"
    yield "seconds, and senders, peers and node share the cores of the machine that is named."
    for heading, measured in SECTIONS:
        yield from ("", f"## {heading}")
        for item in measured:
            yield from _section(item, evidence / f"{item.name}.json")
    yield from _faults()


def _section(item: Measured, path: Path) -> Iterator[str]:
    yield from ("", f"### {item.title}", "", f"{item.says[0].upper()}{item.says[1:]}.")
    yield ""
    if not path.is_file():
        yield f"{NOT_RUN}: `python -m tests.benchmarks.record {item.name}`"
        return
    kept = json.loads(path.read_text("utf-8"))
    changed = ", with changes not yet committed" if kept["changed_since"] else ""
    yield f"`{kept['command']}`, {kept['measured_on']}, commit {kept['commit']}{changed}; {kept['machine']}."
    scalars = {
        key: value
        for key, value in kept["result"].items()
        if key not in ("benchmark", "machine") and isinstance(value, str | int | float)
    }
    if scalars:
        yield from ("", "; ".join(f"{_words(key)} {_shown(value)}" for key, value in scalars.items()) + ".")
    for name in item.rows:
        rows = [_flat(row) for row in kept["result"].get(name, [])]
        for kind in dict.fromkeys(row.get("what", "") for row in rows):  # one table for rows that tell the same
            yield ""
            yield from _table([row for row in rows if row.get("what", "") == kind])


def _faults() -> Iterator[str]:
    yield from ("", "## Faults survived", "")
    yield "Each row is a test of `make test`; after each: nothing acknowledged is lost, one current result for each"
    yield "study, no duplicate in the PACS, no process down. Kill -9 happens at the point named, not after a time."
    from tests.faults import faults, points

    others = [asdict(fault) for fault in faults.FAULTS]
    for title, rows in (("Kill -9", [row for row in points.rows() if row not in others]), ("Other faults", others)):
        yield from ("", f"### {title}", "")
        yield from _table(rows)
    yield from ("", "### Strangers, hostile bytes, damaged files", "")
    yield "Each row is a test of the part that meets it, not of a whole node, and holds what it says and no more."
    yield ""
    yield from _table([asdict(fault) for fault in faults.HOSTILE])


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            if all(isinstance(inner, int | float | str) for inner in value.values()) and len(value) <= 4:
                found |= {f"{key} {inner}": number for inner, number in value.items()}
            else:
                found[key] = ", ".join(f"{name} {_shown(number)}" for name, number in value.items())
        elif isinstance(value, list):
            found[key] = len(value)
        else:
            found[key] = value
    return found


def _table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    yield f"| {' | '.join(_words(name) for name in names)} |"
    yield "|" + "---|" * len(names)
    for row in rows:
        yield f"| {' | '.join(_shown(row.get(name, '')) for name in names)} |"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "\\|")


def main() -> int:
    """Write service.md, and its short version into the README."""
    TARGET.write_text(render(), "utf-8")
    held.README.write_text(held.written(held.README.read_text("utf-8"), EVIDENCE), "utf-8")
    sys.stdout.write(f"{TARGET.relative_to(ROOT)}: {len(TARGET.read_text('utf-8').splitlines())} lines\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
