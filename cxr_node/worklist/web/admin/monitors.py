"""Charts of monitoring in words and numbers: for the page, for Health, for Prometheus and for the command line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cxr_node.findings.monitoring.histogram import LARGE_SHIFT
from cxr_node.findings.monitoring.watch import Watch
from storage.monitoring import Monitor

SHIFT = "shift-"
_WATCHED = {
    "score": "mean probability of studies",
    "flag": "flag rate of studies",
    "refused": "images excluded by their pixels",
    "not-analysed": "studies not analysed",
    "disagreement": "verdicts of readers that disagree",
}
_MOVED = {"up": "has risen", "down": "has fallen"}


@dataclass(frozen=True)
class Told:
    """One chart. `level` is 1 at the alarm, None where nothing can be said yet; `indices` by what is compared with."""

    monitor: Monitor
    watched: str
    cases: str
    level: float | None
    beside: str
    says: str
    is_learning: bool
    indices: Mapping[str, float]

    @property
    def is_alarm(self) -> bool:
        return bool(self.monitor.alarm)

    @property
    def model(self) -> str:
        """The model, or that the chart is of the node."""
        return f"{self.monitor.model} {self.monitor.model_version}".strip() or "the node"

    @property
    def label(self) -> str:
        return f"{self.monitor.model} {self.watched}".strip()

    @property
    def shown(self) -> str:
        return "–" if self.level is None else f"{self.level:.2f}"

    @property
    def sentence(self) -> str:
        """What Health says of an alarm."""
        since = "" if self.monitor.alarm_at is None else f", noticed on {self.monitor.alarm_at:%Y-%m-%d}"
        of = f" of {self.model}" if self.monitor.model else ""
        if self.monitor.name.startswith(SHIFT):
            return f"What comes in is not what it was{of}: {self.watched}{since}"
        return f"{self.watched[:1].upper()}{self.watched[1:]}{of} {_MOVED[self.monitor.alarm]}{since}"


def told(found: Sequence[Monitor]) -> list[Told]:
    """Return every chart, those of models first."""
    return [_shift(item) if item.name.startswith(SHIFT) else _sums(item) for item in found]


def _sums(item: Monitor) -> Told:
    watch = Watch.from_json(item.state.get("watch", {}))
    is_learning = watch.chart is None
    if is_learning:
        says, cases = f"learns: {len(watch.learned)} so far", str(len(watch.learned))
    else:
        says = _MOVED[item.alarm] if item.alarm else "as usual"
        cases = str(watch.sums.cases)
    return Told(
        item,
        _WATCHED.get(item.name, item.name),
        cases,
        None if is_learning else watch.level,
        "–",
        says,
        is_learning,
        {},
    )


def _shift(item: Monitor) -> Told:
    site, package = item.state.get("site"), item.state.get("package")
    indices = {
        name: float(found["index"])
        for name, found in (("site", site), ("package", package))
        if found is not None and found["index"] is not None
    }
    if not item.state.get("has_reference"):
        beside = "no reference: not compared"
    else:
        beside = "–" if "package" not in indices else f"{indices['package']:.3f}"
    level = None
    if site is not None and "site" in indices:
        level = indices["site"] / max(LARGE_SHIFT, float(site["chance"]))
    return Told(
        item,
        f"shift of {item.name.removeprefix(SHIFT).replace('-', ' ')}",
        str(item.state.get("images", 0)),
        level,
        beside,
        "learns" if site is None else str(site["word"]),
        site is None,
        indices,
    )
