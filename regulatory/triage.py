"""Simulates each released package at its measured sensitivity and specificity: `python -m regulatory.triage`.

Writes regulatory/evidence/triage.json. By a fixed seed, and nothing is timed: every machine finds the same.
"""

import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxr_node.cli.triage_sim import measured, to_json
from cxr_node.findings.triage import (
    Accuracy,
    Arrivals,
    Day,
    Discipline,
    Poisson,
    Reading,
    Scenario,
    Service,
    closed_form,
    hours_of,
    rate_for_load,
    run,
)
from cxr_node.findings.triage.arrivals import MINUTES_OF_DAY, SYNTHETIC_HOURS
from cxr_node.inference import load_package
from cxr_node.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = Path("regulatory") / "evidence" / "triage.json"
PACKAGES = Path("cxr_node") / "packages"
COMMAND = "python -m regulatory.triage"

MEAN_READ_MIN = 5.0
LOADS = (0.5, 0.7, 0.8, 0.9)
PREVALENCES = (0.013, 0.05, 0.1, 0.2)
SHIFTS = "08-18:3,18-23:2,23-08:1"
SHIFT_CV = 0.8
LIMIT_MIN = 60.0
STUDIES = 10_000
REPLICATIONS = 20
SEED = 1
# The default itself: settings made by calling would read this machine's environment.
MAX_WAIT_MIN: float = Settings.model_fields["worklist"].annotation.model_fields["max_wait_min"].default  # type: ignore[union-attr]


@dataclass(frozen=True)
class Check:
    """A case whose mean waits are known from elsewhere: the oracle, and what FDA's QuCAD printed for it."""

    mean_read_min: float
    load: float
    accuracy: Accuracy


ORACLE = Check(10.0, 0.8, Accuracy(0.95, 0.88, 0.1))


def main() -> int:
    """Run everything and write the record."""
    record = {
        "command": COMMAND,
        "says": "A queueing model with stated assumptions, not a measurement of a department.",
        "assumes": {
            "mean_read_min": MEAN_READ_MIN,
            "loads": LOADS,
            "prevalences": PREVALENCES,
            "studies": STUDIES,
            "replications": REPLICATIONS,
            "seed": SEED,
            "limit_min": LIMIT_MIN,
            "max_wait_min": MAX_WAIT_MIN,
            "shifts": SHIFTS,
            "shift_cv": SHIFT_CV,
        },
        "check": [_checked(discipline) for discipline in (Discipline.PREEMPTIVE, Discipline.NON_PREEMPTIVE)],
        "packages": [_package(folder) for folder in sorted((ROOT / PACKAGES).iterdir()) if folder.is_dir()],
    }
    path = ROOT / EVIDENCE
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    sys.stdout.write(f"{EVIDENCE}\n")
    return 0


def _checked(discipline: Discipline) -> dict[str, Any]:
    formula = closed_form(ORACLE.accuracy, mean_read_min=ORACLE.mean_read_min, load=ORACLE.load, discipline=discipline)
    scenario = _scenario(
        ORACLE.accuracy,
        Service("exponential", ORACLE.mean_read_min),
        ORACLE.load,
        discipline=discipline,
        max_wait_min=math.inf,
    )
    return {
        "discipline": discipline.value,
        "closed_form": {key: round(value, 4) for key, value in asdict(formula).items()},
        "simulated": to_json(scenario, "the oracle case", run(scenario), None),
    }


def _package(folder: Path) -> dict[str, Any]:
    package = load_package(folder)
    sensitivity, specificity, says = measured(package.manifest, "")
    accuracy = Accuracy(sensitivity, specificity, 0.1)
    scenarios = [
        (f"load-{load:g}-{name}", _scenario(accuracy, Service("exponential", MEAN_READ_MIN), load, **more))
        for load in (0.8, 0.9)
        for name, more in (
            ("no-cap", {"max_wait_min": math.inf}),
            ("in-turn", {"max_wait_min": MAX_WAIT_MIN, "reading": Reading.IN_TURN}),
            ("top", {"max_wait_min": MAX_WAIT_MIN, "reading": Reading.TOP}),
        )
    ]
    readers = hours_of(SHIFTS)
    per_day = rate_for_load(0.8, MEAN_READ_MIN, readers) * MINUTES_OF_DAY
    scenarios.append(
        (
            "day",
            _scenario(
                accuracy,
                Service("lognormal", MEAN_READ_MIN, SHIFT_CV),
                0.8,
                arrivals=Day(per_day, tuple(float(weight) for weight in SYNTHETIC_HOURS), round(STUDIES / per_day)),
                readers=readers,
                max_wait_min=MAX_WAIT_MIN,
            ),
        )
    )
    return {
        "package": package.manifest.name,
        "version": package.manifest.version,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "says": says,
        "scenarios": {name: to_json(scenario, says, run(scenario), None) for name, scenario in scenarios},
    }


def _scenario(
    accuracy: Accuracy,
    service: Service,
    load: float,
    *,
    arrivals: Arrivals | None = None,
    readers: tuple[int, ...] = (1,) * 24,
    discipline: Discipline = Discipline.NON_PREEMPTIVE,
    max_wait_min: float = math.inf,
    reading: Reading = Reading.IN_TURN,
) -> Scenario:
    return Scenario(
        accuracy=accuracy,
        service=service,
        arrivals=arrivals or Poisson(rate_for_load(load, service.mean_min, readers), STUDIES),
        readers=readers,
        discipline=discipline,
        max_wait_min=max_wait_min,
        reading=reading,
        limit_min=LIMIT_MIN,
        replications=REPLICATIONS,
        seed=SEED,
    )


if __name__ == "__main__":
    sys.exit(main())
