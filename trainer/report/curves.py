"""Curves of a set: learning, ROC, precision-recall, decision. Each takes JSON and returns a figure, or None."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from trainer.report.style import AMBER, BLUE, GREEN, INK, MUTED, SKY, VERMILLION, several, single
from trainer.report.words import decimal, estimate, mapping, number, percent, rows_of, value_of

_UNIT_SQUARE: dict[str, Any] = {"xlim": (-0.01, 1.01), "ylim": (-0.01, 1.02), "aspect": "equal"}


def _mark_operating_point(axis: Any, x: float, y: float, label: str) -> None:
    axis.plot(x, y, "o", color=VERMILLION, markersize=9, markeredgecolor="white", label=label)


def learning_curves(log: Any) -> Figure | None:
    """Draw loss and tune AUC over epochs from a training log's rows."""
    rows = [row for row in rows_of(log) if number(mapping(row).get("epoch")) is not None]
    if not rows:
        return None
    figure, axes = several(1, 2, 9.2, 3.8)
    left, right = axes[0]
    for key, label, color, dash in (("loss", "train", BLUE, "-"), ("tune_loss", "tune", VERMILLION, "--")):
        points = _points(rows, key)
        if points:
            left.plot(*zip(*points, strict=True), dash, color=color, label=label, marker="o", markersize=3)
    left.set(title="Loss", xlabel="Epoch", ylabel="Loss (cross-entropy)")
    if left.lines:
        left.legend()
    points = _points(rows, "tune_auc")
    if points:
        right.plot(*zip(*points, strict=True), color=GREEN, marker="o", markersize=3)
        best = max(points, key=lambda point: point[1])
        right.plot(*best, "o", color=INK, markersize=7, fillstyle="none")
        right.set_title(f"Tune part: best {best[1]:.3f}, epoch {best[0]:.0f}")
    else:
        right.set_title("Tune part")
        right.text(0.5, 0.5, "not measured", ha="center", va="center", transform=right.transAxes, color=MUTED)
    right.set(xlabel="Epoch", ylabel="AUC")
    for axis in (left, right):
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure


def roc(item: Mapping[str, Any]) -> Figure | None:
    """Draw the ROC curve with the AUC's interval and the operating point."""
    points = _pairs(item.get("roc"))
    if not points:
        return None
    figure, axis = single(5.2, 5.0)
    axis.plot([0, 1], [0, 1], "--", color=MUTED, linewidth=1, label="chance, 0.5")
    axis.plot(*zip(*points, strict=True), color=BLUE, label=f"AUC {estimate(item.get('auc'))}")
    caught, spared = value_of(item.get("sensitivity")), value_of(item.get("specificity"))
    if caught is not None and spared is not None:
        _mark_operating_point(
            axis, 1 - spared, caught, f"operating point: sensitivity {caught:.3f}, specificity {spared:.3f}"
        )
    axis.set(
        title="ROC curve",
        xlabel="False positive rate (1 − specificity)",
        ylabel="Sensitivity",
        **_UNIT_SQUARE,
    )
    axis.legend(loc="lower right", fontsize=8.5)
    return figure


def precision_recall(item: Mapping[str, Any]) -> Figure | None:
    """Draw precision over recall, with the base rate that guessing reaches."""
    points = _pairs(item.get("precision_recall"))
    if not points:
        return None
    figure, axis = single(5.2, 5.0)
    base = number(item.get("base_rate"))
    if base is not None:
        axis.axhline(base, linestyle="--", color=MUTED, linewidth=1, label=f"base rate {percent(base)}")
    axis.plot(
        *zip(*points, strict=True), color=BLUE, label=f"average precision {estimate(item.get('average_precision'))}"
    )
    recall, precision = value_of(item.get("sensitivity")), value_of(item.get("precision"))
    if recall is not None and precision is not None:
        _mark_operating_point(
            axis, recall, precision, f"operating point: recall {recall:.3f}, precision {precision:.3f}"
        )
    axis.set(
        title="Precision and recall",
        xlabel="Recall (sensitivity)",
        ylabel="Precision (positive predictive value)",
        **_UNIT_SQUARE,
    )
    # Where the base rate is low the curve lies low too, and the space above it is free.
    axis.legend(loc="lower left" if base is None or base > 0.35 else "upper right", fontsize=8.5)
    return figure


def decision_curve(item: Mapping[str, Any]) -> Figure | None:
    """Draw net benefit over the threshold probability: of the model, of flagging everyone, of flagging nobody."""
    rows = [
        (threshold, number(mapping(row).get("model")), number(mapping(row).get("all")))
        for row in rows_of(item.get("decision_curve"))
        if (threshold := number(mapping(row).get("threshold"))) is not None
    ]
    model = [(x, y) for x, y, _ in rows if y is not None]
    everyone = [(x, y) for x, _, y in rows if y is not None]
    if not model:
        return None
    figure, axis = single()
    axis.axhline(0, color=INK, linewidth=1.2, label="flag nobody")
    if everyone:
        axis.plot(*zip(*everyone, strict=True), "--", color=AMBER, label="flag everyone")
    axis.plot(*zip(*model, strict=True), color=BLUE, label="flag what the model flags")
    highest = max([y for _, y in model] + [0.02])
    # Flagging everyone falls without end: shown only as far as a reader needs it.
    axis.set(
        title="Decision curve",
        xlabel="Threshold probability",
        ylabel="Net benefit (true positives per image)",
        xlim=(0, 1),
        ylim=(-0.35 * highest, 1.25 * highest),
    )
    prevalence = number(item.get("decision_curve_prevalence"))
    if prevalence is not None:
        axis.set_title(f"Decision curve at a prevalence of {percent(prevalence, 0)}")
    axis.legend(loc="upper right")
    return figure


def reliability(item: Mapping[str, Any]) -> Figure | None:
    """Draw how often the finding is there over what the model says, before and after calibration."""
    calibration = mapping(item.get("calibration"))
    kinds = [
        (key, mapping(calibration.get(key)), color, marker)
        for key, color, marker in (("before", AMBER, "s"), ("after", BLUE, "o"))
        if rows_of(mapping(calibration.get(key)).get("bins"))
    ]
    if not kinds:
        return None
    figure, axis = single(5.2, 5.0)
    axis.plot([0, 1], [0, 1], "--", color=MUTED, linewidth=1, label="perfect")
    for key, values, color, marker in kinds:
        bins = [
            (x, y, number(mapping(entry).get("n")) or 0)
            for entry in values["bins"]
            if (x := number(mapping(entry).get("mean"))) is not None
            and (y := number(mapping(entry).get("frequency"))) is not None
        ]
        if not bins:
            continue
        most = max([n for _, _, n in bins] + [1])
        label = f"{key}: ECE {decimal(values.get('expected_calibration_error'))}, Brier {decimal(values.get('brier'))}"
        axis.plot(
            [x for x, _, _ in bins],
            [y for _, y, _ in bins],
            "--" if key == "before" else "-",
            color=color,
            linewidth=1.4,
        )
        axis.scatter(
            [x for x, _, _ in bins],
            [y for _, y, _ in bins],
            s=[18 + 110 * n / most for _, _, n in bins],
            color=color,
            marker=marker,
            edgecolor="white",
            linewidth=0.8,
            zorder=3,
        )
        axis.plot([], [], marker=marker, linestyle="--" if key == "before" else "-", color=color, label=label)
    axis.set(
        title="Reliability (area of a point: images)",
        xlabel="Mean predicted probability",
        ylabel="Share with the finding",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.05),
        aspect="equal",
    )
    axis.legend(loc="upper left", fontsize=8.5)
    return figure


def histogram(item: Mapping[str, Any], threshold: Any) -> Figure | None:
    """Draw the probabilities of images with and without the finding, each as a share, with the threshold."""
    values = mapping(item.get("histogram"))
    edges = [edge for edge in rows_of(values.get("edges")) if number(edge) is not None]
    classes = [
        (key, counts, color)
        for key, color in (("absent", SKY), ("present", VERMILLION))
        if len(counts := [number(n) or 0.0 for n in rows_of(values.get(key))]) == len(edges) - 1 and any(counts)
    ]
    if len(edges) < 2 or not classes:
        return None
    figure, axis = single()
    for key, counts, color in classes:
        total = sum(counts)
        shares = [100 * n / total for n in counts]
        axis.stairs(shares, edges, fill=True, color=color, alpha=0.45)
        axis.stairs(shares, edges, color=color, linewidth=1.6, label=f"{key}, {total:,.0f} images")
    at = number(threshold)
    if at is not None:
        axis.axvline(at, color=INK, linestyle="--", linewidth=1.2, label=f"threshold {at:.3f}")
    axis.set(
        title="Probabilities by reference standard",
        xlabel="Calibrated probability",
        ylabel="Share of the class (%)",
        xlim=(edges[0], edges[-1]),
    )
    axis.legend(loc="upper center")
    return figure


def _points(rows: list[Any], key: str) -> list[tuple[float, float]]:
    return [(float(row["epoch"]), value) for row in rows if (value := number(row.get(key))) is not None]


def _pairs(value: Any) -> list[tuple[float, float]]:
    pairs = []
    for pair in rows_of(value):
        both = [number(part) for part in rows_of(pair)]
        if len(both) == 2 and both[0] is not None and both[1] is not None:
            pairs.append((both[0], both[1]))
    return pairs
