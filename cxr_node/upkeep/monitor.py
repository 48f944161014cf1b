"""Watches the models at work: what they say, what they are shown, what is refused, and whether readers agree.

Every turn takes up what came since the last one, holds it against what is usual at this site, and keeps where each
chart stands, so that a restart loses nothing. Charts of cumulative sums keep an alarm until somebody resets them; a
shift of the images is an alarm for as long as it is there. A package that is not active any more takes its charts with
it: its successor learns what is usual anew.

| chart | one case | alarm |
|---|---|---|
| `score` | a study's highest probability | the mean has moved |
| `flag` | whether the study is above the threshold | the flag rate has moved |
| `refused` | whether an image is excluded by its pixels | the share has moved |
| `not-analysed` | whether no image of a study was analysed | the share has moved |
| `disagreement` | whether a reader disagrees with a result | the share has moved |
| `shift-…` | an image: probability, age, sex, view, gray values | its histogram is not that of the site's beginning |
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from sqlalchemy.engine import Connection

from cxr_node.errors import PackageError
from cxr_node.findings.monitoring.histogram import Histogram, Shift, shift
from cxr_node.findings.monitoring.reference import MEASURES, PROBABILITY, Measures, Reference
from cxr_node.findings.monitoring.watch import Plan, Watch
from cxr_node.inference import ModelPackage, find_package, package_folders
from cxr_node.inference.package import reference_of
from cxr_node.log import get_logger
from cxr_node.settings import Settings
from storage import Database, audit, model_changes, monitoring
from storage.monitoring import Measured, Monitor, Seen

log = get_logger("upkeep")

# What was committed so lately may be followed by something older: a study with many images takes its time from its
# beginning to its commit. It is taken up in the next turn.
LAG = timedelta(minutes=2)
HISTORY = timedelta(days=28)  # a node that is upgraded learns from what it has
PAGE = 2000
WINDOW = timedelta(days=7)
LONGEST_WINDOW = timedelta(days=56)
WANTED = 200  # images of a window; a week that has fewer is filled up from the weeks before
READERS_BASELINE = 100  # verdicts are few

SHIFT = "shift-"
SCORE, FLAG, REFUSED, NOT_ANALYSED, DISAGREEMENT = "score", "flag", "refused", "not-analysed", "disagreement"

Read = Callable[[datetime, datetime], list[Seen]]


@dataclass(frozen=True)
class Chart:
    """A chart of cumulative sums: where its cases come from, and how it is set up. `package` is None for the node's."""

    name: str
    plan: Plan
    read: Read
    package: ModelPackage | None = None
    finding: str = ""
    value: Callable[[float], float] = float


def watch_models(database: Database, settings: Settings, *, now: datetime) -> list[Monitor]:
    """Take up what came since the last turn; return the charts on which an alarm was raised now."""
    if settings.upkeep.monitor_baseline == 0:
        return []
    with database.read() as connection:
        known = {_key(item): item for item in monitoring.listed(connection)}
        chosen = model_changes.effective(connection, settings.analyze.models, settings.analyze.shadow)
    packages = _packages(settings, [item.name for item in chosen.active])
    changed: list[Monitor] = []
    with database.read() as connection:
        for chart in _charts(connection, settings, packages):
            old = known.get(_chart_key(chart)) or _begun(chart.name, chart.package, chart.finding, now)
            changed.append(_turned(chart, old, now))
        for package in packages:
            changed += _shifts(connection, settings, package, known, now)
    raised = [item for item in changed if item.alarm and not (_key(item) in known and known[_key(item)].alarm)]
    with database.begin() as connection:
        monitoring.forget(connection, kept=[package.digest for package in packages])
        for item in changed:
            if known.get(_key(item)) != item:
                monitoring.save(connection, item)
        for item in raised:
            audit.record(connection, "monitor_alarm", actor="upkeep", now=now, detail=_told(item))
    for item in raised:
        log.warning("monitor_alarm", **_told(item))
    return raised


def reset(
    database: Database, *, model: str, name: str, learn_anew: bool, reason: str, actor: str, now: datetime
) -> list[Monitor]:
    """Take alarms back, of all charts or of those of one model or name; return the charts that were reset.

    With `learn_anew` what is usual is learned from what comes from now on: after a new detector, say, that was looked
    into and found right. Else the sums begin at 0 against the same baseline.
    """
    done = []
    with database.begin() as connection:
        for item in monitoring.listed(connection):
            if (model and item.model != model) or not _is_named(name, item):
                continue
            state = item.state
            if item.name.startswith(SHIFT):
                state = {} if learn_anew else state
            else:
                watch = Watch.from_json(state.get("watch", {})).reset(learn_anew=learn_anew)
                state = {**state, "watch": watch.to_json(), **({"until": now.isoformat()} if learn_anew else {})}
            begun = now if learn_anew else item.started_at
            done.append(replace(item, alarm="", alarm_at=None, state=state, started_at=begun, updated_at=now))
            monitoring.save(connection, done[-1])
        charts = [f"{item.model} {item.name}".strip() for item in done]
        detail = {"charts": charts, "reason": reason, "learn_anew": learn_anew}
        audit.record(connection, "monitor_reset", actor=actor, now=now, detail=detail)
    return done


def _is_named(name: str, item: Monitor) -> bool:
    # The histograms of a model were learned from the same images: they are learned anew together.
    return not name or item.name == name or (name.startswith(SHIFT) and item.name.startswith(SHIFT))


def _packages(settings: Settings, names: Iterable[str]) -> list[ModelPackage]:
    found = []
    for name in names:
        try:
            found.append(find_package(name, package_folders(settings.data_dir)))
        except PackageError as error:
            log.warning("monitor_without_package", package=name, reason=str(error))
    return found


def _charts(connection: Connection, settings: Settings, packages: Sequence[ModelPackage]) -> Iterable[Chart]:
    upkeep = settings.upkeep
    share = Plan("share", upkeep.monitor_baseline, upkeep.monitor_arl0)
    for package in packages:
        for finding, point in package.manifest.operating_points.items():

            def read(since: datetime, until: datetime, of: str = package.digest, finding: str = finding) -> list[Seen]:
                return monitoring.scored(connection, of, finding, since=since, until=until, limit=PAGE)

            def flagged(probability: float, threshold: float = point.threshold) -> float:
                return float(probability >= threshold)

            yield Chart(SCORE, replace(share, kind="mean"), read, package, finding)
            yield Chart(FLAG, share, read, package, finding, flagged)
    readers = replace(share, baseline=min(READERS_BASELINE, upkeep.monitor_baseline))
    sources = (
        (REFUSED, monitoring.refused, share),
        (NOT_ANALYSED, monitoring.not_analysed, share),
        (DISAGREEMENT, monitoring.verdicts, readers),
    )
    for name, source, plan in sources:

        def rows(since: datetime, until: datetime, source: Callable[..., list[Seen]] = source) -> list[Seen]:
            return source(connection, since=since, until=until, limit=PAGE)

        yield Chart(name, plan, rows)


def _turned(chart: Chart, old: Monitor, now: datetime) -> Monitor:
    """Return the chart after all that came since its last turn."""
    watch = Watch.from_json(old.state.get("watch", {}))
    since = datetime.fromisoformat(old.state["until"]) if "until" in old.state else old.started_at
    until = max(since, now - LAG)
    while since < until:
        rows = chart.read(since, until)
        if len(rows) < PAGE:
            since = until
        else:
            # The images of a study bear one time: the last such group may not be whole.
            whole = [row for row in rows if row.at < rows[-1].at]
            rows, since = (whole, rows[-1].at) if whole else (rows, rows[-1].at + timedelta(microseconds=1))
        cases = _by_study(rows) if chart.package is not None else [row.value for row in rows]
        watch = watch.after([chart.value(case) for case in cases], chart.plan)
    state = {"until": since.isoformat(), "watch": watch.to_json()}
    at = old.alarm_at if watch.alarm and old.alarm else now if watch.alarm else None
    return replace(old, alarm=watch.alarm, alarm_at=at, state=state, updated_at=now)


def _by_study(rows: Sequence[Seen]) -> list[float]:
    """Return one value for each study and time: the highest of its images."""
    return [max(row.value for row in group) for _, group in groupby(rows, lambda row: (row.at, row.study_instance_uid))]


def _shifts(
    connection: Connection,
    settings: Settings,
    package: ModelPackage,
    known: dict[tuple[str, str, str], Monitor],
    now: datetime,
) -> list[Monitor]:
    """Return the charts of histograms of a package: what it is shown, and what it says of each finding."""
    reference = reference_of(package)
    made = []
    for number, finding in enumerate(package.manifest.findings):
        names = ["probability", *(MEASURES if number == 0 else ())]
        old = {
            name: known.get((SHIFT + name, package.digest, finding)) or _begun(SHIFT + name, package, finding, now)
            for name in names
        }
        first = old["probability"]
        before = monitoring.measured(
            connection,
            package.digest,
            finding,
            since=first.started_at,
            until=now - LAG,
            limit=settings.upkeep.monitor_baseline,
            newest=False,
        )
        is_learned = len(before) >= settings.upkeep.monitor_baseline
        recent = _window(connection, package.digest, finding, after=before[-1].at, now=now) if is_learned else []
        for name, item in old.items():
            was = _counted(name, before) if is_learned else None
            made.append(_compared(item, name, was, _counted(name, recent), _of_release(reference, name, finding), now))
    return made


def _window(connection: Connection, digest: str, finding: str, *, after: datetime, now: datetime) -> list[Measured]:
    """Return the images of the last week, or as many as it takes, none of them of the baseline."""
    after += timedelta(microseconds=1)

    def since(span: timedelta, limit: int) -> list[Measured]:
        begin = max(after, now - span)
        return monitoring.measured(connection, digest, finding, since=begin, until=now - LAG, limit=limit, newest=True)

    found = since(WINDOW, PAGE)
    return found if len(found) >= WANTED else since(LONGEST_WINDOW, WANTED)


def _counted(name: str, rows: Sequence[Measured]) -> Histogram:
    if name == "probability":
        return Histogram.of(PROBABILITY, [row.probability for row in rows])
    return Histogram.of(MEASURES[name], [None if row.measures is None else _measures(row).of(name) for row in rows])


def _measures(row: Measured) -> Measures:
    found = row.measures
    assert found is not None
    return Measures(
        found.age_years, found.sex, found.view, found.modality, found.mean_gray, found.contrast, found.upright
    )


def _of_release(reference: Reference | None, name: str, finding: str) -> Histogram | None:
    if reference is None:
        return None
    return reference.scores[finding].histogram if name == "probability" else reference.measures.get(name)


def _compared(
    old: Monitor, name: str, was: Histogram | None, recent: Histogram, released: Histogram | None, now: datetime
) -> Monitor:
    site = None if was is None else shift(was, recent)
    # Bins of a package of another release may be others: then there is nothing to compare.
    package = shift(released, recent) if released is not None and released.bins == recent.bins else None
    alarm = "shift" if site is not None and site.is_large else ""
    state: dict[str, Any] = {
        "images": recent.total,
        "site": _shift_json(site),
        "package": _shift_json(package) if released is None or released.total else None,
        "has_reference": bool(released is not None and released.total),
    }
    at = old.alarm_at if alarm and old.alarm else now if alarm else None
    return replace(old, alarm=alarm, alarm_at=at, state=state, updated_at=now)


def _shift_json(found: Shift | None) -> dict[str, Any] | None:
    return None if found is None else {**vars(found), "word": found.word}


def _begun(name: str, package: ModelPackage | None, finding: str, now: datetime) -> Monitor:
    manifest = package.manifest if package is not None else None
    return Monitor(
        name=name,
        model_digest=package.digest if package is not None else "",
        finding=finding,
        model=manifest.name if manifest is not None else "",
        model_version=manifest.version if manifest is not None else "",
        alarm="",
        alarm_at=None,
        state={},
        started_at=now - HISTORY,
        updated_at=now,
    )


def _key(item: Monitor) -> tuple[str, str, str]:
    return item.name, item.model_digest, item.finding


def _chart_key(chart: Chart) -> tuple[str, str, str]:
    return chart.name, chart.package.digest if chart.package is not None else "", chart.finding


def _told(item: Monitor) -> dict[str, Any]:
    return {
        "chart": item.name,
        "model": item.model,
        "digest": item.model_digest,
        "finding": item.finding,
        "direction": item.alarm,
    }
