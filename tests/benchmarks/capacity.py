"""From measured times to a fleet: `python -m tests.benchmarks.capacity FILE … [--studies-a-day 1000000]`.

FILE is what `tests.benchmarks.record` kept of `queue` and of `scale` (.json), or what they printed. Printed are the
workers of each stage with which 95 of 100 studies of the peak hour begin in time, what the database and the store must
carry beside what was measured, and every assumption. The model is in `tests.benchmarks.queueing`.
"""

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.queueing import Queue, Service, mean_wait_s, wait_quantile_s, workers_needed

QUANTILE = 0.95


@dataclass(frozen=True)
class Plan:
    """What is asked for, and what cannot be measured here and is therefore assumed."""

    studies_a_day: float = 1e6
    peak_share: float = 0.1  # of a day's studies in its fullest hour; 1/24 would be a flat day
    images: float = 2.0  # of a study
    image_mb: float = 15.0  # as stored
    within_s: float = 1.0  # 95 % of the studies begin in each stage after at most so long
    reserve: float = 0.5  # of the database's measured transactions that may be used
    connections: float = 4.0  # to the database, of one worker process

    @property
    def peak_rate(self) -> float:
        """Studies per second in the peak hour."""
        return self.studies_a_day * self.peak_share / 3600.0


@dataclass(frozen=True)
class Need:
    """Workers of one stage, and how their queue stands in the peak hour."""

    stage: str
    rate: float
    service_ms: float
    scv: float
    workers: int
    utilisation: float
    mean_wait_ms: float
    p95_wait_ms: float


@dataclass(frozen=True)
class Measured:
    """What the benchmarks found: times of each stage, and what the database bore and was asked for."""

    services: dict[str, Service]
    transactions_per_s: float
    transactions_per_study: float


def measured_from(documents: Iterable[dict[str, Any]]) -> Measured:
    """Read the rows of the benchmarks.

    Raises
    ------
    ValueError
        A row that is needed is in none of the documents; it says which benchmark makes it.
    """
    rows = [row for document in documents for row in document["rows"]]

    def of(what: str, made_by: str) -> list[dict[str, Any]]:
        found = [row for row in rows if row.get("what") == what]
        if not found:
            raise ValueError(f"no row {what!r}: expected the JSON of python -m tests.benchmarks.{made_by}")
        return found

    operations = [row for row in of("operations", "queue") if row["database"] == "postgresql"]
    if not operations:
        raise ValueError("no operations on PostgreSQL: expected the JSON of python -m tests.benchmarks.queue")
    return Measured(
        services={row["stage"]: Service(row["mean_s"], row["scv"]) for row in of("service", "scale")},
        # The least of the three, at the most threads: a mix of them cannot be slower than its slowest.
        transactions_per_s=max(min(row["enqueue"], row["claim"], row["settle"]) for row in operations),
        transactions_per_study=of("transactions", "scale")[-1]["per_study"],
    )


def needs(plan: Plan, services: dict[str, Service]) -> list[Need]:
    """Return the workers of each stage. Intake is per image, everything else per study."""
    found = []
    for stage, service in services.items():
        rate = plan.peak_rate * (plan.images if stage == "receive" else 1.0)
        workers = workers_needed(rate, service, quantile=QUANTILE, within_s=plan.within_s)
        queue = Queue(rate, service, workers)
        found.append(
            Need(
                stage,
                round(rate, 2),
                round(1000 * service.mean_s, 1),
                round(service.scv, 3),
                workers,
                round(queue.utilisation, 3),
                round(1000 * mean_wait_s(queue), 1),
                round(1000 * wait_quantile_s(queue, QUANTILE), 1),
            )
        )
    return found


def shared(plan: Plan, measured: Measured, workers: int) -> list[dict[str, Any]]:
    """Return what database and store must carry in the peak hour."""
    transactions = plan.peak_rate * measured.transactions_per_study
    usable = plan.reserve * measured.transactions_per_s
    bytes_s = plan.peak_rate * plan.images * plan.image_mb * 1e6
    return [
        {
            "what": "transactions/s",
            "needed": round(transactions, 1),
            "measured": round(measured.transactions_per_s, 1),
            "of_measured": round(transactions / measured.transactions_per_s, 2),
            "databases_like_this": max(1, math.ceil(transactions / usable)),
        },
        {"what": "connections to the database", "needed": math.ceil(workers * plan.connections)},
        {"what": "MB/s into the store", "needed": round(bytes_s / 1e6, 1)},
        {"what": "MB/s out of the store", "needed": round(bytes_s / 1e6, 1)},
        {"what": "TB a day", "needed": round(plan.studies_a_day * plan.images * plan.image_mb / 1e6, 2)},
    ]


def assumptions(plan: Plan) -> list[str]:
    """Return every assumption as a sentence."""
    return [
        f"{plan.studies_a_day:.0f} studies a day, {100 * plan.peak_share:g} % of them in the fullest hour:"
        f" {plan.peak_rate:.1f} a second there; within that hour they come at random (Poisson)",
        f"{plan.images:g} images of {plan.image_mb:g} MB a study; each is written to the store once and read once",
        "a worker is one process as it was measured: same processor, same models, one study at a time, as many beside"
        " it on one machine as it was measured with; more per machine share its cores",
        "a worker of receive is one open association that sends one image; a process holds many beside one another",
        "service times do not change with the number of workers: database and store are not the bottleneck, for which"
        " see the lines about them; a longer way to them adds to each service",
        "one line for each stage, first come first served (an urgent study waits less, others a little more)",
        f"wait: 95 % of the studies begin in each stage within {plan.within_s:g} s; stages wait one after the other",
        "M/G/c by Allen and Cunneen, exponential tail: held against a simulation within 25 % (tests/scale)",
        "a PACS that takes one association at a time is a queue of one worker, whatever delivers to it: the workers of"
        " deliver are lanes, one destination each, and a destination that is slower than its share needs a second one",
        f"the database is used to {100 * plan.reserve:g} % of the transactions a second that were measured, which were"
        f" of single jobs; each worker process keeps {plan.connections:g} connections",
        "the transactions of a study include reads and the look whether a connection still lives, which cost less than"
        " the writes that were measured: the database carries more than the share that is told",
        "no failures: a host that is lost takes its lease time (30 s) and its share of the workers",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="JSON of the benchmarks queue and scale")
    for name, value in asdict(Plan()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=value)
    told = vars(parser.parse_args(arguments))
    measured = measured_from(_documents(told.pop("files")))
    plan = Plan(**told)
    found = needs(plan, measured.services)
    print(
        f"{'stage':10} {'per s':>8} {'service ms':>11} {'scv':>6} {'workers':>8} {'busy':>6} {'wait ms':>9} {'p95':>7}"
    )
    for need in found:
        print(
            f"{need.stage:10} {need.rate:8.1f} {need.service_ms:11.1f} {need.scv:6.2f} {need.workers:8}"
            f" {need.utilisation:6.2f} {need.mean_wait_ms:9.1f} {need.p95_wait_ms:7.1f}"
        )
    carried = shared(plan, measured, sum(need.workers for need in found))
    for row in carried:
        beside = f", measured here {row['measured']}: {row['of_measured']} of it" if "measured" in row else ""
        print(f"{row['what']}: {row['needed']}{beside}")
    print("\nAssumed:")
    for sentence in assumptions(plan):
        print(f"- {sentence}")
    rows = [*({"what": "workers", **asdict(need)} for need in found), *carried]
    print(json.dumps({"benchmark": "capacity", "rows": rows, "plan": asdict(plan), "machine": {}}))


def _documents(files: Iterable[Path]) -> list[dict[str, Any]]:
    found = []
    for file in files:
        if file.suffix == ".json":  # as `record` keeps it
            found.append(json.loads(file.read_text())["result"])
            continue
        lines = [line for line in file.read_text().splitlines() if line.startswith('{"benchmark"')]
        if not lines:
            raise SystemExit(f"{file}: expected a line of JSON of a benchmark, found none")
        found.append(json.loads(lines[-1]))
    return found


if __name__ == "__main__":
    main()
