"""Fuzzing by hand: `python -m tests.fuzz.run [--inputs 20000] [--seed 1] [--target NAME ...] [--keep FOLDER]`.

Every target gets that many inputs, made from valid ones by one to four changes that know the structure. Stated for
each: what came of them, the slowest, and what the process grew by between the first tenth and the end: memory, threads,
descriptors. An input that raises, hangs or leaks is kept with the seed that makes it, and the exit status is 1.

`--atheris` (with `pip install atheris`, Python 3.11 or 3.12) lets coverage steer the bytes instead, for the targets
that run in this process.
"""

import argparse
import gc
import json
import os
import random
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS, Target

SLOWEST_S = 30.0  # one input; longer is a hang
MOST_GROWTH_MB = 64.0
IN_PROCESS = ("header", "pixels", "matching", "hl7", "multipart", "zips", "pictures")


def _own_mb() -> float:
    gc.collect()
    resident = Path("/proc/self/statm").read_text().split()[1]
    return int(resident) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def fuzz(target: Target, inputs: int, seed: int, keep: Path | None = None) -> dict[str, Any]:
    """Run one target and return its row; `defects` lists what may not happen."""
    rng, outcomes, defects = random.Random(f"{seed} {target.name}"), Counter[str](), []
    found, slowest, first = list(target.seeds()), 0.0, (0.0, 0, 0)
    temporary = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="cxr-fuzz-") as name:
        started = time.monotonic()
        try:
            with target.start(Path(name)) as run:
                for valid in found:
                    run(valid)
                for number in range(inputs):
                    data = mutated(rng.choice(found), rng, target.mutators)
                    began = time.monotonic()
                    try:
                        outcomes[run(data)] += 1
                    except Exception as error:  # noqa: BLE001  # whatever comes out is the finding
                        defects.append(f"input {number}: {type(error).__name__}: {error}")
                        if keep is not None:
                            keep.mkdir(parents=True, exist_ok=True)
                            (keep / f"{target.name}-{seed}-{number}.bin").write_bytes(data)
                            (keep / f"{target.name}-{seed}-{number}.txt").write_text(traceback.format_exc())
                        if len(defects) >= 20:
                            break
                    took = time.monotonic() - began
                    slowest = max(slowest, took)
                    if took > SLOWEST_S:
                        defects.append(f"input {number}: {took:.1f} s")
                    if number == inputs // 10:
                        first = (_own_mb(), threading.active_count(), _descriptors())
                grown = (_own_mb() - first[0], threading.active_count() - first[1], _descriptors() - first[2])
        except Exception as error:  # noqa: BLE001  # whatever comes out is the finding
            defects.append(f"at the end: {type(error).__name__}: {error}")
            grown = (0.0, 0, 0)
        tempfile.tempdir = temporary  # a stage has its own
        seconds = time.monotonic() - started
    if inputs >= 1000 and first[0] and (grown[0] > MOST_GROWTH_MB or grown[1] > 5 or grown[2] > 10):
        defects.append(f"grew by {grown[0]:.0f} MB, {grown[1]} threads, {grown[2]} descriptors")
    return {
        "target": target.name,
        "inputs": sum(outcomes.values()) + len(defects),
        "seconds": round(seconds, 1),
        "slowest_ms": round(slowest * 1000, 1),
        "grown_mb": round(grown[0], 1),
        "grown_threads": grown[1],
        "grown_descriptors": grown[2],
        "outcomes": dict(outcomes.most_common()),
        "defects": defects,
    }


def _steer(name: str, inputs: int) -> None:
    import atheris

    [target] = [item for item in TARGETS if item.name == name]
    with tempfile.TemporaryDirectory(prefix="cxr-fuzz-") as folder, atheris.instrument_imports():
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, data in enumerate(target.seeds()):
            (corpus / str(number)).write_bytes(data)
        work = Path(folder) / "work"
        work.mkdir()
        with target.start(work) as run:
            atheris.Setup([sys.argv[0], str(corpus), f"-runs={inputs}", "-max_len=20000"], run)
            atheris.Fuzz()


def main() -> int:
    """Run and print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", action="append", choices=[target.name for target in TARGETS])
    parser.add_argument("--keep", type=Path, help="folder for inputs that show a defect")
    parser.add_argument("--atheris", action="store_true", help="steered by coverage; one --target of this process")
    arguments = parser.parse_args()
    if arguments.atheris:
        if not arguments.target or arguments.target[0] not in IN_PROCESS:
            parser.error(f"--atheris needs --target, one of {', '.join(IN_PROCESS)}")
        _steer(arguments.target[0], arguments.inputs)
        return 0
    rows = []
    print(f"{'target':14}{'inputs':>8}{'s':>8}{'slowest ms':>12}{'MB':>7}{'threads':>9}{'fds':>5}{'defects':>9}")
    for target in TARGETS:
        if arguments.target and target.name not in arguments.target:
            continue
        row = fuzz(target, arguments.inputs, arguments.seed, arguments.keep)
        rows.append(row)
        print(
            f"{row['target']:14}{row['inputs']:8}{row['seconds']:8}{row['slowest_ms']:12}{row['grown_mb']:7}"
            f"{row['grown_threads']:9}{row['grown_descriptors']:5}{len(row['defects']):9}",
            flush=True,
        )
        for defect in row["defects"]:
            print(f"  {defect}")
    print(json.dumps({"benchmark": "fuzz", "seed": arguments.seed, "rows": rows}))
    return 1 if any(row["defects"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
