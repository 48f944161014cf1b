"""Time to notification as benchmarks measured it; a benchmark that was not run reads so."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from regulatory.figures import Figure, Material, Table
from regulatory.sources.records import NOT_RUN, read_json
from trainer.report.words import mapping, number

NOTIFY = Path("regulatory") / "evidence" / "notify.json"
SUSTAINED = Path("regulatory") / "evidence" / "sustained.json"
NOTIFY_COMMAND = "python -m tests.benchmarks.record notify"
SUSTAINED_COMMAND = "python -m tests.benchmarks.record sustained"
NOT_MEASURED = "not measured"
_SYNTAX = {"raw": "uncompressed", "j2k": "JPEG 2000"}


def gather(root: Path) -> Material:
    """Return the figures and the table of times of 09_triage_effectiveness.md."""
    notify, sustained = (read_json(root / path) if (root / path).is_file() else {} for path in (NOTIFY, SUSTAINED))
    return Material(
        figures=(*_notify(notify), *_sustained(sustained)),
        tables=(_table(notify, sustained),),
    )


def _seconds(value: Any, missing: str) -> str:
    found = number(value)
    return missing if found is None else f"{found:.3f} s"


def _notify(record: Mapping[str, Any]) -> Iterator[Figure]:
    result = mapping(record.get("result"))
    missing = NOT_MEASURED if record else NOT_RUN
    for key, says in (
        ("visible_s", "from the last image received to the priority visible to a worklist query"),
        ("committed_s", "from the last image received to the result committed in the database"),
        ("delivered_s", "from the last image received to the report taken by a PACS that is told at once"),
    ):
        for quantile in ("p50", "p95", "p99"):
            value = mapping(result.get(key)).get(quantile)
            yield Figure(
                f"notification.{key.removesuffix('_s')}.{quantile}",
                value,
                _seconds(value, missing),
                NOTIFY.as_posix(),
                f"/result/{key}/{quantile}",
                NOTIFY_COMMAND,
                f"{quantile} of the time {says}",
            )
    for key, says in (("studies", "studies of that run"), ("rate", "studies sent a second in that run")):
        value = result.get(key)
        shown = NOT_RUN if value is None else f"{value:g}"
        yield Figure(f"notification.{key}", value, shown, NOTIFY.as_posix(), f"/result/{key}", NOTIFY_COMMAND, says)
    for key, says in (("measured_on", "day of that run"), ("machine", "machine of that run")):
        value = record.get(key)
        yield Figure(
            f"notification.{key.replace('_', '-')}",
            value,
            str(value or NOT_RUN),
            NOTIFY.as_posix(),
            f"/{key}",
            NOTIFY_COMMAND,
            says,
        )


def _sustained(record: Mapping[str, Any]) -> Iterator[Figure]:
    rows = {row["syntax"]: row for row in mapping(record.get("result")).get("rows", ())}
    for place, (syntax, title) in enumerate(_SYNTAX.items()):
        row = rows.get(syntax, {})
        for quantile in ("p50", "p95"):
            value = row.get(f"visible_{quantile}_s")
            yield Figure(
                f"notification.sustained.{syntax}.{quantile}",
                value,
                _seconds(value, NOT_MEASURED if record else NOT_RUN),
                SUSTAINED.as_posix(),
                f"/result/rows/{place}/visible_{quantile}_s",
                SUSTAINED_COMMAND,
                f"{quantile} from the last image received to the result visible, {title} radiographs of full size",
            )


def _table(notify: Mapping[str, Any], sustained: Mapping[str, Any]) -> Table:
    rows = []
    result = mapping(notify.get("result"))
    missing = NOT_MEASURED if notify else NOT_RUN
    for key, says in (
        ("visible_s", "priority visible to a worklist query"),
        ("committed_s", "result committed in the database"),
        ("delivered_s", "report taken by a PACS, told at once"),
    ):
        found = mapping(result.get(key))
        rows.append(
            (
                says,
                "drawn radiographs, one after another",
                str(result.get("studies", missing)),
                *(_seconds(found.get(quantile), missing) for quantile in ("p50", "p95", "p99")),
            )
        )
    result = mapping(sustained.get("result"))
    by_syntax = {row["syntax"]: row for row in result.get("rows", ())}
    for syntax, title in _SYNTAX.items():
        row = by_syntax.get(syntax, {})
        missing = NOT_MEASURED if sustained else NOT_RUN
        rows.append(
            (
                "result visible",
                f"{title}, full size, steady",
                str(result.get("studies", missing)),
                *(_seconds(row.get(f"visible_{quantile}_s"), missing) for quantile in ("p50", "p95", "p99")),
            )
        )
    return Table(
        "notification.times",
        "Time from the last image received, by benchmark; nothing here is from a hospital",
        ("to", "images", "studies", "p50", "p95", "p99"),
        tuple(rows),
        f"{NOTIFY.as_posix()}, {SUSTAINED.as_posix()}",
        "/result",
        f"{NOTIFY_COMMAND}; {SUSTAINED_COMMAND}",
        (2, 3, 4, 5),
    )
