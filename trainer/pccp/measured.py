"""Two packages on the same labelled cases: paired differences with intervals, and what they say of a limit."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from trainer import metrics
from trainer.cohorts import Case
from trainer.pccp.plan import Plan

_AGE_BANDS = ((0, 18), (18, 40), (40, 60), (60, 80), (80, 200))


class Answer(StrEnum):
    """What an interval says of a limit: all of it above, all of it below, or on both sides."""

    MET = "met"
    MISSED = "missed"
    OPEN = "open"


@dataclass(frozen=True)
class Pair:
    """The same n cases scored by both packages; probabilities are calibrated, flags at each one's own threshold."""

    cases: tuple[Case, ...]
    labels: np.ndarray  # (n,) 1 present, 0 absent
    old: np.ndarray  # (n,)
    new: np.ndarray
    old_flags: np.ndarray  # (n,) bool
    new_flags: np.ndarray

    @property
    def present(self) -> int:
        return int((self.labels == 1).sum())

    @property
    def absent(self) -> int:
        return int((self.labels == 0).sum())

    def chosen(self, keep: np.ndarray) -> "Pair":
        return Pair(
            tuple(case for case, kept in zip(self.cases, keep, strict=True) if kept),
            *(values[keep] for values in (self.labels, self.old, self.new, self.old_flags, self.new_flags)),
        )


@dataclass(frozen=True)
class Limit:
    """A limit and what was found: the figure of either package, NEW less OLD with its 95 % interval, and the answer.

    `n` counts the images that it rests on.
    """

    name: str
    margin: float
    old: float
    new: float
    difference: float
    low: float
    high: float
    n: int
    answer: Answer


def answer(low: float, high: float, margin: float) -> Answer:
    """Return what an interval of NEW less OLD says of a margin; one that could not be had leaves it open."""
    if low >= -margin:
        return Answer.MET
    return Answer.MISSED if high < -margin else Answer.OPEN


def limits(pair: Pair, plan: Plan) -> list[Limit]:
    """Return AUC, sensitivity and specificity of the whole set against the plan's margins."""
    return [
        auc_limit("auc", pair, plan.limits.auc),
        *_shares(pair, plan, "", plan.limits.sensitivity, plan.limits.specificity),
    ]


def subgroup_limits(pair: Pair, plan: Plan) -> tuple[list[Limit], list[str]]:
    """Return sensitivity and specificity in each group that has enough cases, and the groups that have not."""
    found: list[Limit] = []
    too_few: list[str] = []
    wanted = {"sensitivity": plan.subgroup_fewest_present, "specificity": plan.subgroup_fewest_absent}
    for name, mask in groups(pair.cases, plan.subgroups):
        part = pair.chosen(mask)
        has = {"sensitivity": part.present, "specificity": part.absent}
        shares = _shares(part, plan, f" in {name}", plan.limits.subgroup_sensitivity, plan.limits.subgroup_specificity)
        for figure, limit in zip(has, shares, strict=True):
            if has[figure] >= wanted[figure]:
                found.append(limit)
            else:
                too_few.append(f"{figure} in {name}: {has[figure]} images, {wanted[figure]} needed")
    told = {name.partition(" ")[0] for name, _ in groups(pair.cases, plan.subgroups)}
    too_few += [
        f"any group by {key}: the cases do not tell it, or all have the same"
        for key in plan.subgroups
        if key not in told
    ]
    return found, too_few


def groups(cases: Sequence[Case], by: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each group's name and mask (n,); a key with a single value is the whole set again and left out."""
    for key in by:
        if key == "age":
            masks = {
                f"age {low} to {high - 1}" if high < 200 else f"age {low} and older": np.array(
                    [low <= case.age < high for case in cases], bool
                )
                for low, high in _AGE_BANDS
            }
        else:
            values = sorted({str(getattr(case, key)) for case in cases} - {""})
            masks = {
                f"{key} {value}": np.array([getattr(case, key) == value for case in cases], bool) for value in values
            }
        masks = {name: mask for name, mask in masks.items() if mask.any()}
        if len(masks) > 1:
            yield from masks.items()


def auc_limit(name: str, pair: Pair, margin: float) -> Limit:
    """Return the difference of AUC, paired. Source: DeLong, DeLong, Clarke-Pearson 1988."""
    old, new = metrics.auc(pair.labels, pair.old), metrics.auc(pair.labels, pair.new)
    if min(pair.present, pair.absent) < 2:
        return Limit(name, margin, old, new, math.nan, math.nan, math.nan, len(pair.labels), Answer.OPEN)
    found = metrics.delong_difference(pair.labels, pair.new, pair.old)
    return Limit(
        name,
        margin,
        old,
        new,
        found.value,
        found.low,
        found.high,
        len(pair.labels),
        answer(found.low, found.high, margin),
    )


def _shares(pair: Pair, plan: Plan, where: str, sensitivity: float, specificity: float) -> list[Limit]:
    present, absent = pair.labels == 1, pair.labels == 0
    return [
        _share_limit(f"sensitivity{where}", pair.chosen(present), True, sensitivity, plan),
        _share_limit(f"specificity{where}", pair.chosen(absent), False, specificity, plan),
    ]


def _share_limit(name: str, pair: Pair, flag: bool, margin: float, plan: Plan) -> Limit:
    """Return the difference of the shares of cases that each package called rightly."""
    old, new = pair.old_flags == flag, pair.new_flags == flag
    if not len(old):
        return Limit(name, margin, *(math.nan,) * 5, 0, Answer.OPEN)
    low, high = paired_interval(old, new, [case.patient for case in pair.cases], plan)
    difference = float(new.mean() - old.mean())
    return Limit(
        name,
        margin,
        float(old.mean()),
        float(new.mean()),
        difference,
        low,
        high,
        len(old),
        answer(low, high, margin),
    )


def paired_interval(old: np.ndarray, new: np.ndarray, patients: Sequence[str], plan: Plan) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two shares on the same images: the wider of two.

    Bonett & Price's adjusted Wald interval (J. Educ. Behav. Stat. 2012) stays open where no image changed, of which a
    bootstrap would make a certainty; a bootstrap that draws patients is wider where a patient has many images.
    """
    n = len(old)
    gained = (int((new & ~old).sum()) + 1) / (n + 2)
    lost = (int((old & ~new).sum()) + 1) / (n + 2)
    half = metrics.Z95 * math.sqrt((gained + lost - (gained - lost) ** 2) / (n + 2))
    change = new.astype(float) - old.astype(float)
    drawn = metrics.bootstrap(
        lambda _, values: float(values.mean()),
        change,
        change,
        patients,
        np.random.default_rng(plan.seed),
        plan.bootstrap,
    )
    return min(gained - lost - half, drawn.low), max(gained - lost + half, drawn.high)


@dataclass(frozen=True)
class Shift:
    """Learning, potential and retention of an update, as AUCs and their differences, with 95 % intervals.

    learning  = AUC of NEW on the current cases less that of OLD on them
    potential = AUC of OLD on the previous cases less that of OLD on the current ones
    retention = AUC of NEW on the previous cases

    `potential` and `retention` are None where no previous cases were given. Source: A. Burgon et al., Learning,
    Potential, and Retention, arXiv 2604.04878, with one previous set, so that retention has one term.
    """

    learning: metrics.Estimate
    potential: metrics.Estimate | None
    retention: metrics.Estimate | None


def shift(current: Pair, previous: Pair | None) -> Shift:
    """Return the three measures; current and previous cases are different images."""
    learned = auc_limit("", current, 1.0)
    learning = metrics.Estimate(learned.difference, learned.low, learned.high, learned.n)
    if previous is None:
        return Shift(learning, None, None)
    before, now = _auc(previous.labels, previous.old), _auc(current.labels, current.old)
    half = metrics.Z95 * math.hypot(before[1], now[1])
    gap = before[0] - now[0]
    return Shift(
        learning,
        metrics.Estimate(gap, gap - half, gap + half, len(previous.labels) + len(current.labels)),
        metrics.delong(previous.labels, previous.new),
    )


def _auc(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """Return an AUC and its standard error, by DeLong against a constant, whose AUC is one half without error."""
    against = metrics.delong_difference(labels, probabilities, np.zeros(len(labels)))
    return against.value + 0.5, (against.high - against.low) / 2 / metrics.Z95
