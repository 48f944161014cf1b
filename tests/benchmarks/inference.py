"""The released models by engine and batch size: `python -m tests.benchmarks.inference [--quick] [--rounds 3]`.

Every engine runs in a process of its own with a conversion that is there already, as in a node that starts again. Each
round runs all of them in random order, figures are medians over rounds, ratios are to the SavedModel of that device.

| engine | is |
|---|---|
| savedmodel | the signature of the SavedModel, as the node serves it |
| xla | the same, compiled by XLA for each size of batch |
| litert | LiteRT with XNNPACK, as the node serves it: one image after the other |

`difference` is the largest difference of a score to the SavedModel on the processor, over golden and random inputs.
`cold s` runs from the start of the process to the first score, Python and libraries included; `rss MB` is the process's
memory after the first score, `peak MB` after the largest batch. Without a GPU its rows say "not run".
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cxr_node.inference import BUILTIN, Engine, ModelPackage, find_package
from cxr_node.inference.conversions import check_inputs, ensure
from cxr_node.inference.devices import visible_gpus
from cxr_node.inference.runners import CPU, GPU, SAVED_MODEL
from tests.benchmarks.receivers import machine
from tests.conftest import ROOT

BATCHES = (1, 8, 32)
ENGINES = (("savedmodel", CPU), ("xla", CPU), ("litert", CPU), ("savedmodel", GPU), ("xla", GPU))
LONGEST_S = 600.0
NOT_RUN = "not run"


def child(engine: str, device: str, name: str, cache: Path, seconds: float) -> None:
    """Measure one engine in this process and print a line of JSON."""
    package = find_package(name, (BUILTIN,))
    score = _scorer(engine, device, package, cache)
    inputs = check_inputs(package)
    first = score(inputs[:1])
    print(json.dumps({"first": True}), flush=True)
    rss = _status_mb("VmRSS")
    found: dict[str, float] = {}
    rng = np.random.default_rng(1)
    for size in random.sample(BATCHES, len(BATCHES)):
        images = rng.random((size, *inputs.shape[1:]), np.float32)
        score(images)
        found[str(size)] = _ms_per_image(lambda images=images: score(images), size, seconds)
    print(
        json.dumps(
            {
                "ms_per_image": found,
                "rss_mb": rss,
                "peak_mb": _status_mb("VmHWM"),
                "scores": [*first.tolist(), *score(inputs[1:]).tolist()],
            }
        ),
        flush=True,
    )
    os._exit(0)


def _scorer(engine: str, device: str, package: ModelPackage, cache: Path) -> Callable[[np.ndarray], np.ndarray]:
    if engine != "xla":
        found = Engine(package, cache_dir=cache, choice="litert" if engine == "litert" else "savedmodel")
        if (found.name, found.device) != (engine, device):
            raise SystemExit(f"{found.name} on {found.device} instead: {found.trouble}")
        return found.scores
    from cxr_node.inference.network import load_tensorflow

    tensorflow = load_tensorflow()
    made = ensure(package, cache, SAVED_MODEL, lambda *_, **__: None)
    module = tensorflow.saved_model.load(str(made.folder))
    # Through the module: its variables live only as long as something refers to it.
    compiled = tensorflow.function(
        lambda images: module.signatures["serving_default"](images=images)["scores"], jit_compile=True
    )
    return lambda images: np.asarray(compiled(tensorflow.constant(images)))


def _ms_per_image(call: Callable[[], Any], size: int, seconds: float) -> float:
    times = []
    ends_at = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < ends_at:
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1000 / size)
    return statistics.median(times)


def _status_mb(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) // 1024


def run(engine: str, device: str, name: str, cache: Path, seconds: float) -> dict[str, Any]:
    """Measure one engine in a process of its own."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if device == CPU:
        environment["CUDA_VISIBLE_DEVICES"] = "-1"
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.inference", "--child", engine, device, name, str(cache), str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    cold_s = time.monotonic() - began
    rest, errors = process.communicate(timeout=LONGEST_S)
    if not line.startswith("{") or process.returncode:
        raise SystemExit(f"{engine} on {device} with {name} ended with {process.returncode}: {errors[-1500:]}")
    return {**json.loads(rest.splitlines()[-1]), "cold_s": cold_s}


def measure(names: list[str], rounds: int, seconds: float, cache: Path) -> list[dict[str, Any]]:
    """Return a row for each package, engine and device."""
    has_gpu = bool(visible_gpus())
    for name in names:
        # Made beforehand, in processes of their own: a cold start is that of a node which ran here before.
        Engine(find_package(name, (BUILTIN,)), cache_dir=cache, choice="litert")
    runs: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    wanted = [(name, *engine) for name in names for engine in ENGINES if has_gpu or engine[1] == CPU]
    for _ in range(rounds):
        for name, engine, device in random.sample(wanted, len(wanted)):
            runs.setdefault((name, engine, device), []).append(run(engine, device, name, cache, seconds))
    rows = []
    for name in names:
        reference = np.asarray(runs[name, "savedmodel", CPU][0]["scores"])
        for engine, device in ENGINES:
            found = runs.get((name, engine, device))
            if found is None:
                rows.append({"package": name, "engine": engine, "device": device, "result": NOT_RUN})
                continue
            base = runs[name, "savedmodel", device]
            rows.append(
                {
                    "package": name,
                    "engine": engine,
                    "device": device,
                    "ms_per_image": {str(size): _median(found, size) for size in BATCHES},
                    "speed_to_savedmodel": {
                        str(size): round(_median(base, size) / _median(found, size), 2) for size in BATCHES
                    },
                    "difference": max(float(np.abs(np.asarray(item["scores"]) - reference).max()) for item in found),
                    "cold_s": round(statistics.median(item["cold_s"] for item in found), 2),
                    "rss_mb": round(statistics.median(item["rss_mb"] for item in found)),
                    "peak_mb": round(statistics.median(item["peak_mb"] for item in found)),
                }
            )
    return rows


def _median(runs: list[dict[str, Any]], size: int) -> float:
    return round(statistics.median(item["ms_per_image"][str(size)] for item in runs), 2)


def _print(rows: list[dict[str, Any]]) -> None:
    sizes = " / ".join(str(size) for size in BATCHES)
    print(
        f"{'package':24}{'engine':12}{'device':8}{f'ms/image at {sizes}':>28}{'x SavedModel':>22}"
        f"{'difference':>12}{'cold s':>8}{'rss MB':>8}{'peak MB':>9}"
    )
    for row in rows:
        start = f"{row['package']:24}{row['engine']:12}{row['device']:8}"
        if row.get("result") == NOT_RUN:
            print(f"{start}{NOT_RUN:>28}")
            continue
        times = " / ".join(f"{value:g}" for value in row["ms_per_image"].values())
        ratios = " / ".join(f"{value:g}" for value in row["speed_to_savedmodel"].values())
        print(
            f"{start}{times:>28}{ratios:>22}{row['difference']:>12.1e}{row['cold_s']:>8}{row['rss_mb']:>8}"
            f"{row['peak_mb']:>9}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each size of batch in each round")
    parser.add_argument("--quick", action="store_true", help="one package, one short round")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        engine, device, name, cache, seconds = given.child
        child(engine, device, name, Path(cache), float(seconds))
    names = sorted(path.name for path in BUILTIN.iterdir() if (path / "manifest.json").is_file())
    names, rounds, seconds = (names[-1:], 1, 0.5) if given.quick else (names, given.rounds, given.seconds)
    with tempfile.TemporaryDirectory(prefix="inference-bench-") as cache_dir:
        rows = measure(names, rounds, seconds, Path(cache_dir))
    _print(rows)
    print(json.dumps({"benchmark": "inference", "rows": rows, "machine": machine()}))


if __name__ == "__main__":
    main()
