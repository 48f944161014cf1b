"""A chart over its life: it learns what is usual from the first cases, then sums, and keeps an alarm until it is reset.

What is usual is learned at the site, not taken from the package: in most cohorts the finding is enriched, and a chart
held against a cohort's flag rate would raise an alarm in every hospital, in its first week.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cxr_node.findings.monitoring.cusum import Chart, Sums, design, design_share

Kind = Literal["mean", "share"]


@dataclass(frozen=True)
class Plan:
    """How a chart is set up: `baseline` cases to learn from, `arl0` cases between false alarms on average."""

    kind: Kind
    baseline: int
    arl0: float


@dataclass(frozen=True)
class Watch:
    """Where a chart stands. `learned` holds the first cases until there are enough; `alarm` is "up", "down" or empty.

    `alarm_after` is the number of cases after learning at which the alarm was raised.
    """

    learned: tuple[float, ...] = ()
    chart: Chart | None = None
    sums: Sums = field(default_factory=Sums)
    alarm: str = ""
    alarm_after: int = 0

    def after(self, values: Iterable[float], plan: Plan) -> "Watch":
        """Return where the chart stands after some more cases, in the order they came."""
        learned, chart, sums = list(self.learned), self.chart, self.sums
        alarm, alarm_after = self.alarm, self.alarm_after
        for value in values:
            if chart is None:
                learned.append(round(value, 6))
                if len(learned) >= plan.baseline:
                    chart, learned = _designed(learned, plan), []
                continue
            sums = sums.after(chart, value)
            if not alarm and (side := sums.side(chart)):
                alarm, alarm_after = side, sums.cases
        return Watch(tuple(learned), chart, sums, alarm, alarm_after)

    def reset(self, *, learn_anew: bool) -> "Watch":
        """Return the chart without alarm: its sums at 0, its baseline kept or to be learned anew."""
        return Watch() if learn_anew else replace(self, sums=Sums(), alarm="", alarm_after=0)

    @property
    def level(self) -> float:
        """How far the higher sum is towards the limit: 0 at rest, above 1 past it; 0 while learning."""
        return 0.0 if self.chart is None else max(self.sums.up, self.sums.down) / self.chart.h

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads back to an equal value."""
        return {
            "learned": list(self.learned),
            "chart": None if self.chart is None else vars(self.chart),
            "sums": vars(self.sums),
            "alarm": self.alarm,
            "alarm_after": self.alarm_after,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Watch":
        """Build from parsed JSON; an empty object is a chart that begins."""
        chart = value.get("chart")
        return cls(
            tuple(float(item) for item in value.get("learned", ())),
            None if chart is None else Chart(**chart),
            Sums(**value.get("sums", {})),
            str(value.get("alarm", "")),
            int(value.get("alarm_after", 0)),
        )


def _designed(learned: list[float], plan: Plan) -> Chart:
    if plan.kind == "share":
        return design_share(int(sum(learned)), len(learned), plan.arl0)
    return design(learned, plan.arl0)
