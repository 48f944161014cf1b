"""From a file to a model's input, by transfer syntax and size: `python -m tests.benchmarks.decode [--quick]`.

Drawn chests of 12 bits; the input is that of the released model for adults (320 x 320) or of `--side`. Processor time
of one thread: the readers do the same beside one another. Every round takes all files in random order; medians. `error`
is the mean difference of the reduced input from that of full resolution, in gray levels of 255.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cxr_node.imaging import PreprocessSpec, Radiograph, implausible, preprocess, to_grayscale
from cxr_node.imaging.decode import decoded
from cxr_node.imaging.description import describe_module
from cxr_node.imaging.opened import OpenedImage, open_image
from tests.benchmarks.analysis import machine
from tests.benchmarks.drawn import SYNTAXES, draw, encode

SIZES = ((1024, 1024), (2022, 2022), (3000, 2500), (4280, 3520))
QUICK_SIZES = ((2022, 2022),)
STEPS = ("header", "decode", "gray", "plausibility", "preprocess")


def steps(path: Path, spec: PreprocessSpec, target: tuple[int, int] | None) -> tuple[dict[str, float], np.ndarray]:
    """Return the milliseconds of each step, and the input."""
    taken: dict[str, float] = {}

    def timed(name: str, function: Callable[[], Any]) -> Any:
        started = time.thread_time()
        found = function()
        taken[name] = 1000 * (time.thread_time() - started)
        return found

    opened: OpenedImage = timed("header", lambda: open_image(path))
    assert opened.place is not None
    place, described = opened.place, opened.described
    description = describe_module(described)
    stored = timed("decode", lambda: decoded(described, description, opened._data(place), place.vr, target))
    radiograph = Radiograph(timed("gray", lambda: to_grayscale(stored, described)))
    timed("plausibility", lambda: implausible(radiograph))
    return taken, timed("preprocess", lambda: preprocess(radiograph, spec))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=320, help="rows and columns of the input")
    parser.add_argument("--quick", action="store_true", help="one size, two rounds")
    given = parser.parse_args()
    sizes, rounds = (QUICK_SIZES, 2) if given.quick else (SIZES, given.rounds)
    cv2.setNumThreads(1)
    spec = PreprocessSpec((given.side, given.side))
    taken: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    errors: dict[tuple[str, str], float] = {}
    bytes_of: dict[tuple[str, str], int] = {}
    rng = random.Random(5)
    with tempfile.TemporaryDirectory() as scratch:
        cases = []
        for rows, columns in sizes:
            drawn, size = draw(rows, columns), f"{rows} x {columns}"
            for name in SYNTAXES:
                path = Path(scratch) / f"{rows}-{columns}-{name}.dcm"
                path.write_bytes(encode(drawn, name, Path(scratch)))
                bytes_of[size, name] = path.stat().st_size
                cases.append((size, name, path, "full", None))
                if name.startswith("j2k"):
                    cases.append((size, name, path, "reduced", spec.first_size))
        inputs: dict[tuple[str, str, str], np.ndarray] = {}
        for turn in range(rounds + 1):  # the first one warms
            rng.shuffle(cases)
            for size, name, path, way, target in cases:
                found, inputs[size, name, way] = steps(path, spec, target)
                if turn:
                    for step in STEPS:
                        taken[size, name, way][step].append(found[step])
        for size, name, way in inputs:
            if way == "reduced":
                apart = np.abs(inputs[size, name, "reduced"] - inputs[size, name, "full"])
                errors[size, name] = 255 * float(apart.mean())
    rows_found = []
    for (size, name, way), found_steps in sorted(taken.items()):
        medians = {step: round(statistics.median(found_steps[step]), 2) for step in STEPS}
        row: dict[str, Any] = {
            "size": size,
            "syntax": name,
            "decode": way,
            "bytes": bytes_of[size, name],
            "ms": medians,
        }
        row["total_ms"] = round(sum(medians.values()), 1)
        if way == "reduced":
            row["error"] = round(errors[size, name], 3)
        rows_found.append(row)
    print(
        f"{'size':12} {'syntax':14} {'decode':8} {'MB':>6}"
        + "".join(f"{step:>13}" for step in STEPS)
        + "     all ms  error"
    )
    for row in rows_found:
        print(
            f"{row['size']:12} {row['syntax']:14} {row['decode']:8} {row['bytes'] / 1e6:>6.2f}"
            + "".join(f"{row['ms'][step]:>13}" for step in STEPS)
            + f"{row['total_ms']:>11}  {row.get('error', '')}"
        )
    told = {"rounds": rounds, "side": given.side}
    print(json.dumps({"benchmark": "decode", **told, "rows": rows_found, "machine": machine()}))


if __name__ == "__main__":
    main()
