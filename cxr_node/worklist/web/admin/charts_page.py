"""Charts of volume, flag rate, exclusions, latency, drift and readers, drawn on the server, with their tables."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from cxr_node.findings.monitoring.histogram import LARGE_SHIFT, SMALL_SHIFT
from cxr_node.worklist.figures import Proportion
from cxr_node.worklist.services import Services
from cxr_node.worklist.web import present
from cxr_node.worklist.web.access import Admin
from cxr_node.worklist.web.admin import catalogue, charts, monitors, statistics
from cxr_node.worklist.web.admin.audit_page import safe_cell
from cxr_node.worklist.web.admin.charts import Point
from cxr_node.worklist.web.admin.statistics import ModelFigures, Statistics
from cxr_node.worklist.web.rendering import render
from storage import monitoring

DaysAsked = Literal["7", "30", "90"]
_REASONS = {"no-image": "the study holds no image"}

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Chart:
    """A chart with the same numbers as a table. `upright` or `lying` is None, both where there is nothing to draw."""

    key: str
    title: str
    says: str
    note: str
    headings: tuple[str, ...]
    table: tuple[tuple[str, ...], ...]
    upright: charts.Upright | None = None
    lying: charts.Lying | None = None


@router.get("/admin/charts")
def charts_page(request: Request, admin: Admin, days: DaysAsked = "30") -> HTMLResponse:
    """All charts of a range of days."""
    services: Services = request.app.state.services
    found = figures(request, int(days))
    return render(
        request,
        "admin/charts.html",
        charts=list(_charts(found, services)),
        days=days,
        found=found,
        as_of=present.instant(found.at, services.zone, services.now()),
        time_zone=services.settings.worklist.time_zone,
    )


@router.get("/admin/charts.csv")
def charts_csv(request: Request, admin: Admin, days: DaysAsked = "30") -> Response:
    """The tables of all charts, one below the other."""
    services: Services = request.app.state.services
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    for chart in _charts(figures(request, int(days)), services):
        writer.writerow([chart.title])
        writer.writerow(chart.headings)
        writer.writerows([safe_cell(cell) for cell in line] for line in chart.table)
        writer.writerow([])
    headers = {"Content-Disposition": 'attachment; filename="statistics.csv"'}
    return Response(buffer.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)


def figures(request: Request, days: int) -> Statistics:
    """Return the figures, counted at most once a minute."""
    services: Services = request.app.state.services

    def compute() -> Statistics:
        thresholds = {
            (item.package.digest, finding): point.threshold
            for item in catalogue.found_packages(services.settings.data_dir).values()
            if item.package is not None
            for finding, point in item.package.manifest.operating_points.items()
        }
        with services.database.read() as connection:
            return statistics.count(
                connection, now=services.now(), zone=services.zone, days=days, thresholds=thresholds
            )

    found: Any = request.app.state.kept.get(("statistics", days), compute)
    return found  # type: ignore[no-any-return]


def _charts(found: Statistics, services: Services) -> Iterator[Chart]:
    labels = [day.day.strftime("%d %b") for day in found.days]
    dates = [day.day.isoformat() for day in found.days]
    yield Chart(
        "volume",
        "Studies per day",
        f"{found.studies} studies, by the day of their last image",
        "Without studies that a back-catalogue run fetched.",
        ("Day", "Studies", "Analysed", "Flagged", "Not analysed", "Failed", "Pending"),
        tuple(
            (date, *map(str, (day.studies, day.analysed, day.flagged, day.not_analysed, day.failed, day.pending)))
            for date, day in zip(dates, found.days, strict=True)
        ),
        upright=charts.bars(labels, [day.studies for day in found.days], "studies"),
    )
    hours = [hour.start.astimezone(services.zone) for hour in found.hours]
    yield Chart(
        "hours",
        "Studies per hour, last 48 h",
        f"{sum(hour.studies for hour in found.hours)} studies",
        "All studies, fetched ones too.",
        ("Hour", "Studies"),
        tuple((at.strftime("%Y-%m-%d %H:%M"), str(hour.studies)) for at, hour in zip(hours, found.hours, strict=True)),
        upright=charts.bars([at.strftime("%H:%M") for at in hours], [hour.studies for hour in found.hours], "studies"),
    )
    yield Chart(
        "flag-rate",
        "Flag rate of studies",
        f"{_percent(found.flag_rate)} of analysed studies; the band is the 95 % interval of each day",
        "A rate that moves says that patients, senders or models changed; it does not say which.",
        ("Day", "Flagged", "Analysed", "Rate", "95 % interval"),
        tuple((date, *_cells(day.flag_rate)) for date, day in zip(dates, found.days, strict=True)),
        upright=charts.lines(
            labels, [("one", "flagged of analysed", [_point(day.flag_rate) for day in found.days])], percent=True
        ),
    )
    yield Chart(
        "latency",
        "From the first image to the first result",
        f"half within {_time(found.latency_p50_s)}, 95 % within {_time(found.latency_p95_s)}",
        "With the time that the sender takes for the study. By the day of the last image.",
        ("Day", "Half within, s", "95 % within, s"),
        tuple(
            (date, _time(day.latency_p50_s, ""), _time(day.latency_p95_s, ""))
            for date, day in zip(dates, found.days, strict=True)
        ),
        upright=charts.lines(
            labels,
            [
                ("one", "half of the studies", [Point(day.latency_p50_s) for day in found.days]),
                ("two", "95 % of the studies", [Point(day.latency_p95_s) for day in found.days]),
            ],
            unit=" s",
        ),
    )
    yield Chart(
        "exclusions",
        "Why studies were not analysed",
        f"{sum(found.exclusions.values())} studies without any analysed image",
        "By the reason of the first image. A lateral view beside an analysed frontal one is not counted here.",
        ("Reason", "Studies"),
        tuple((_reason(name), str(number)) for name, number in found.exclusions.items()),
        lying=charts.rows(
            [(_reason(name), Point(float(number)), str(number)) for name, number in found.exclusions.items()]
        )
        if found.exclusions
        else None,
    )
    yield _readers(found)
    yield _model_rates(found.models)
    yield _drift(found.models)
    yield _monitors(services)
    for item in found.models:
        if item.images and item.threshold is not None:
            yield _model_days(item, labels, dates)


def _readers(found: Statistics) -> Chart:
    said = found.readers
    named = (
        ("Flagged, reader agreed (PPV)", said.ppv),
        ("All with a verdict, reader agreed", said.agreement),
    )
    return Chart(
        "readers",
        "Readers and results",
        f"{said.flagged_with_verdict} of {said.flagged} flagged and {said.not_flagged_with_verdict} of "
        f"{said.not_flagged} other analysed studies have a verdict; {said.unsure} unsure",
        "This is agreement of readers who knew the flag, on the studies they chose to judge: not the truth, and not "
        "the predictive value for all patients. Unsure is left out.",
        ("What", "Agreed", "With a verdict", "Share", "95 % interval"),
        tuple((label, *_cells(share)) for label, share in named),
        lying=charts.rows([(label, _point(share), _percent(share)) for label, share in named], top=1.0, percent=True),
    )


def _model_rates(models: tuple[ModelFigures, ...]) -> Chart:
    return Chart(
        "models",
        "Flag rate by model, images",
        "each image that a model scored, shadow models too; the line is the 95 % interval",
        "By the threshold of the package on the disk; a package that is gone has none. Images of one patient hang "
        "together: the true intervals are wider.",
        ("Model", "Finding", "Flagged", "Images", "Rate", "95 % interval"),
        tuple((f"{item.key.model} {item.key.version}", item.key.finding, *_cells(item.flag_rate)) for item in models),
        lying=charts.rows(
            [(_name(item), _point(item.flag_rate), _percent(item.flag_rate)) for item in models], percent=True
        )
        if models
        else None,
    )


def _drift(models: tuple[ModelFigures, ...]) -> Chart:
    def cell(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    return Chart(
        "drift",
        "Drift of scores",
        "population stability index: the last 7 days against the 28 before, whatever range is chosen above",
        f"Below {SMALL_SHIFT:g} is taken for no shift, from {LARGE_SHIFT:g} on for a large one, as is customary; "
        "few images move it by chance, so below the chance limit nothing is said. A shift says that images or "
        "patients changed, not that the model is wrong; no shift does not say that it is right.",
        ("Model", "Finding", "Images, 7 days", "Images, 28 before", "Index", "Chance limit", "Says"),
        tuple(
            (
                f"{item.key.model} {item.key.version}",
                item.key.finding,
                str(item.drift.recent),
                str(item.drift.before),
                cell(item.drift.index),
                cell(item.drift.chance),
                item.drift.word,
            )
            for item in models
        ),
        lying=charts.rows(
            [
                (
                    _name(item),
                    Point(item.drift.index),
                    item.drift.word if item.drift.index is None else f"{item.drift.index:.3f}",
                )
                for item in models
            ],
            limits=((SMALL_SHIFT, "small"), (LARGE_SHIFT, "large")),
        )
        if models
        else None,
    )


def _monitors(services: Services) -> Chart:
    with services.database.read() as connection:
        told = monitors.told(monitoring.listed(connection))
    baseline = services.settings.upkeep.monitor_baseline
    return Chart(
        "monitoring",
        "Monitoring",
        "how far each chart is from its alarm, at 1; learned from the first "
        f"{baseline} studies here (upkeep.monitor_baseline)",
        "An alarm says that images, patients or readers changed, or that chance did it once: on average once in "
        f"{services.settings.upkeep.monitor_arl0:g} studies a chart (upkeep.monitor_arl0). What to do stands in the "
        "runbook CxrModelDrift; `cxr-node monitor reset` takes an alarm back.",
        ("Model", "Watched", "Cases", "To the alarm", "Beside the package’s own images", "Says"),
        tuple((item.model, item.watched, item.cases, item.shown, item.beside, item.says) for item in told),
        lying=charts.rows(
            [(item.label, Point(item.level), item.says) for item in told], limits=((1.0, "alarm at this"),)
        )
        if told
        else None,
    )


def _model_days(item: ModelFigures, labels: list[str], dates: list[str]) -> Chart:
    return Chart(
        f"model-{item.key.digest[:12]}-{item.key.finding}",
        f"{_name(item)}: flag rate per day",
        f"{_percent(item.flag_rate)} of {item.images} images",
        "The band is the 95 % interval of each day.",
        ("Day", "Flagged", "Images", "Rate", "95 % interval"),
        tuple((date, *_cells(share)) for date, share in zip(dates, item.by_day, strict=True)),
        upright=charts.lines(
            labels, [("one", "flagged of scored", [_point(share) for share in item.by_day])], percent=True
        ),
    )


def _name(item: ModelFigures) -> str:
    key = item.key
    finding = "" if key.finding in key.model else f", {key.finding}"
    return f"{key.model} {key.version}{finding}"


def _reason(name: str) -> str:
    return present.shown(_REASONS.get(name, name.replace("-", " ")))


def _point(share: Proportion) -> Point:
    return Point(share.value, share.low, share.high)


def _cells(share: Proportion) -> tuple[str, ...]:
    if share.value is None or share.low is None or share.high is None:
        return (str(share.part), str(share.of), "–", "–")
    interval = f"{share.low * 100:.1f} to {share.high * 100:.1f} %"
    return (str(share.part), str(share.of), f"{share.value * 100:.1f} %", interval)


def _percent(share: Proportion) -> str:
    return "–" if share.value is None else f"{share.value * 100:.1f} %"


def _time(seconds: float | None, unit: str = " s") -> str:
    return "–" if seconds is None else f"{seconds:.2f}{unit}"
