"""`cxr-node triage-sim`: what flagging does to waiting times, by formula and by simulation, with what it costs."""

import argparse
import csv
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from cxr_node.cli.user import open_database
from cxr_node.clock import utc_now
from cxr_node.errors import CxrNodeError
from cxr_node.findings.triage import (
    Accuracy,
    Arrivals,
    Day,
    Discipline,
    Given,
    Outcome,
    Poisson,
    Reading,
    Scenario,
    Service,
    closed_form,
    hours_of,
    rate_for_load,
    run,
)
from cxr_node.findings.triage.arrivals import SYNTHETIC_HOURS
from cxr_node.findings.triage.experiment import MEASURES
from cxr_node.inference.package import Manifest, find_package, package_folders
from cxr_node.settings import Settings
from cxr_node.worklist.web.feedback_api import aware
from storage.turnaround import reading_minutes, received

LEFT_OPEN_MIN = 60.0
FEWEST_READINGS = 30
_TITLES = {
    "diseased": "diseased",
    "missed": "diseased, MISSED by the model",
    "non_diseased": "not diseased",
    "flagged": "flagged",
    "unflagged": "not flagged",
    "all": "all",
    "maximum": "longest of a replication",
    "over_limit": "share over the limit",
    "diseased_over_limit": "share of diseased over the limit",
}


@dataclass(frozen=True)
class Source:
    """Where sensitivity and specificity come from, as a sentence."""

    accuracy: Accuracy
    says: str


def triage_sim(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print what the scenario assumes, the closed form where there is one, and the simulation."""
    try:
        source = _source(settings, arguments)
        readers = hours_of(arguments.readers)
        service = _service(settings, arguments)
        arrivals = _arrivals(settings, arguments, service, readers)
        cap = settings.worklist.max_wait_min if arguments.max_wait is None else arguments.max_wait
        scenario = Scenario(
            accuracy=source.accuracy,
            service=service,
            arrivals=arrivals,
            readers=readers,
            discipline=Discipline(arguments.discipline),
            max_wait_min=cap if cap > 0 else math.inf,
            reading=Reading(arguments.reading),
            limit_min=arguments.limit,
            replications=arguments.replications,
            seed=arguments.seed,
        )
        outcome = run(scenario)
        formula = _formula(scenario, arguments.load)
    except ValueError as error:
        raise CxrNodeError(str(error)) from error
    if arguments.json:
        print(json.dumps(to_json(scenario, source.says, outcome, formula), ensure_ascii=False))
    else:
        for line in _lines(scenario, source.says, outcome, formula):
            print(line)
    return 0


def measured(manifest: Manifest, set_name: str, finding: str = "") -> tuple[float, float, str]:
    """Return sensitivity, specificity and where they were measured, of a named test set of a package.

    An empty name takes the first set with both: the one that the package's criteria are about.

    Raises
    ------
    ValueError
        The package was not measured on that set, or not for that finding; lists what there is.
    """
    if finding and finding != manifest.findings[0]:
        raise ValueError(
            f"package {manifest.name}: expected its first finding, {manifest.findings[0]}, found {finding}: "
            "sensitivity and specificity by test set are recorded for that one"
        )
    sets = {
        name: item
        for name, item in manifest.figures.get("test", {}).items()
        if "sensitivity" in item and "specificity" in item
    }
    name = set_name or next(iter(sets), "")
    if name not in sets:
        raise ValueError(
            f"package {manifest.name}: expected a test set with sensitivity and specificity "
            f"({', '.join(sets) or 'there is none'}), found {name!r}"
        )
    item = sets[name]
    says = (
        f"{manifest.name} {manifest.version}, {manifest.findings[0]}, test set {name}: "
        f"{item['present']} images with and {item['absent']} without the finding"
    )
    return float(item["sensitivity"]["value"]), float(item["specificity"]["value"]), says


def _source(settings: Settings, arguments: argparse.Namespace) -> Source:
    if arguments.model:
        package = find_package(arguments.model, package_folders(settings.data_dir))
        sensitivity, specificity, says = measured(package.manifest, arguments.set, arguments.finding)
    elif arguments.sensitivity is None or arguments.specificity is None:
        raise ValueError("expected --model, or --sensitivity and --specificity, found neither")
    else:
        sensitivity, specificity, says = arguments.sensitivity, arguments.specificity, "given on the command line"
    return Source(Accuracy(sensitivity, specificity, arguments.prevalence), says)


def _service(settings: Settings, arguments: argparse.Namespace) -> Service:
    if arguments.service != "log":
        return Service(arguments.service, arguments.read_min, arguments.cv if arguments.service == "lognormal" else 1.0)
    with open_database(settings) as database, database.read() as connection:
        observed = reading_minutes(connection, *_period(arguments), longest_min=LEFT_OPEN_MIN)
    if len(observed) < FEWEST_READINGS:
        raise ValueError(
            f"--service log: expected at least {FEWEST_READINGS} studies that were opened and read within "
            f"{LEFT_OPEN_MIN:g} min in that time, found {len(observed)}"
        )
    return Service("observed", sum(observed) / len(observed), observed=tuple(observed))


def _arrivals(
    settings: Settings, arguments: argparse.Namespace, service: Service, readers: tuple[int, ...]
) -> Arrivals:
    kind = arguments.arrivals
    per_minute = rate_for_load(arguments.load, service.mean_min, readers)
    if kind == "poisson":
        if arguments.load >= 1:
            raise ValueError(f"--load: expected less than 1 for a steady stream, found {arguments.load:g}")
        return Poisson(per_minute, arguments.studies)
    if kind == "day":
        return Day(per_minute * 1440, SYNTHETIC_HOURS, max(1, round(arguments.studies / (per_minute * 1440))))
    if kind == "log":
        with open_database(settings) as database, database.read() as connection:
            instants = received(connection, *_period(arguments))
    else:
        instants = list(_instants(Path(kind)))
    return given(instants, ZoneInfo(settings.worklist.time_zone))


def given(instants: list[datetime], zone: ZoneInfo) -> Given:
    """Return recorded arrivals as minutes since the first midnight of the site's zone."""
    if not instants:
        raise ValueError("--arrivals: expected studies in that time, found none")
    local = min(instants).astimezone(zone)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    return Given(tuple((at - midnight).total_seconds() / 60 for at in sorted(instants)))


def _instants(path: Path) -> Iterator[datetime]:
    """Read the column ``received_at`` (ISO 8601; UTC without an offset) of a CSV."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if "received_at" not in (rows.fieldnames or ()):
                raise ValueError(
                    f"{path}, line 1: expected a column received_at, found {', '.join(rows.fieldnames or ()) or 'none'}"
                )
            for row in rows:
                try:
                    at = aware(datetime.fromisoformat(row["received_at"]))
                except (TypeError, ValueError) as error:
                    raise ValueError(
                        f"{path}, line {rows.line_num}: expected an ISO 8601 time, found {row['received_at']!r}"
                    ) from error
                assert at is not None
                yield at
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"--arrivals: expected poisson, day, log or a CSV file, found {path}, which does not read"
        ) from error


def _period(arguments: argparse.Namespace) -> tuple[datetime, datetime]:
    since, until = aware(arguments.since), aware(arguments.until)
    if since is None:
        raise ValueError("expected --since, the beginning of the time whose studies are taken from the log")
    return since, until or utc_now()


def _formula(scenario: Scenario, load: float) -> dict[str, float] | None:
    """Return the closed form; None where there is none: a maximum wait, shifts, arrivals that are not steady."""
    steady = scenario.arrivals.is_steady and len(set(scenario.readers)) == 1
    if not steady or math.isfinite(scenario.max_wait_min) or scenario.service.kind == "observed":
        return None
    try:
        return asdict(
            closed_form(
                scenario.accuracy,
                mean_read_min=scenario.service.mean_min,
                load=load,
                discipline=scenario.discipline,
                readers=scenario.readers[0],
                cv=scenario.service.cv,
            )
        )
    except ValueError:
        return None


def to_json(scenario: Scenario, says: str, outcome: Outcome, formula: dict[str, float] | None) -> dict[str, Any]:
    """Return all that was assumed and found, as JSON takes it; what was not met is null."""
    found = {
        name: {
            measure: {key: _rounded(value) for key, value in asdict(estimate).items()}
            for measure, estimate in getattr(outcome, name).items()
        }
        for name in ("fifo", "triage", "difference")
    }
    return {
        "assumes": {
            **asdict(scenario.accuracy),
            "accuracy_from": says,
            "service": scenario.service.kind,
            "mean_read_min": _rounded(scenario.service.mean_min),
            "service_cv": scenario.service.cv if scenario.service.kind != "observed" else None,
            "arrivals": type(scenario.arrivals).__name__.lower(),
            "readers_by_hour": list(scenario.readers),
            "utilisation": _rounded(outcome.utilisation),
            "discipline": scenario.discipline.value,
            "max_wait_min": scenario.max_wait_min if math.isfinite(scenario.max_wait_min) else None,
            "reading": scenario.reading.value,
            "limit_min": scenario.limit_min,
            "replications": scenario.replications,
            "seed": scenario.seed,
        },
        "studies": outcome.studies,
        "diseased": outcome.diseased,
        "missed": outcome.missed,
        "flagged": outcome.flagged,
        **found,
        "longest_fifo_min": _rounded(outcome.longest_fifo),
        "longest_triage_min": _rounded(outcome.longest_triage),
        "closed_form": None if formula is None else {key: _rounded(value) for key, value in formula.items()},
    }


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _lines(scenario: Scenario, says: str, outcome: Outcome, formula: dict[str, float] | None) -> Iterator[str]:
    accuracy = scenario.accuracy
    cap = f"{scenario.max_wait_min:g} min, reader takes {scenario.reading}"
    yield (
        f"sensitivity {accuracy.sensitivity:.3f}, specificity {accuracy.specificity:.3f} ({says}), "
        f"prevalence {accuracy.prevalence:.3f}"
    )
    yield (
        f"{scenario.discipline}, {scenario.service.kind} readings of {scenario.service.mean_min:.2f} min, readers busy "
        f"{outcome.utilisation:.0%}, maximum wait {cap if math.isfinite(scenario.max_wait_min) else 'none'}"
    )
    yield (
        f"{outcome.studies:,} studies in {scenario.replications} replications, {outcome.flagged:,} flagged, "
        f"{outcome.diseased:,} diseased, {outcome.missed:,} of them missed; 95 % intervals over replications"
    )
    yield ""
    yield f"{'wait, min':<34}{'first come':>26}{'triage':>26}{'difference':>28}"
    for measure in MEASURES:
        row = (outcome.fifo[measure], outcome.triage[measure], outcome.difference[measure])
        cells = ["none" if math.isnan(item.value) else str(item) for item in row]
        yield f"{_TITLES[measure]:<34}{cells[0]:>26}{cells[1]:>26}{cells[2]:>28}"
    yield f"{'longest of all':<34}{outcome.longest_fifo:>26.2f}{outcome.longest_triage:>26.2f}"
    if formula is not None:
        told = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in formula.items())
        yield f"closed form, mean waits: {told}"
    else:
        yield "closed form: there is none for this scenario"
    yield "A queueing model with stated assumptions, not evidence of a benefit to patients."
