"""Self-test: every configured model package still gives the scores that it was released with.

`main` runs in a process of its own, so that what it loads leaves with it, and writes one JSON line a package.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from cxr_node.errors import CxrNodeError, PackageError
from cxr_node.inference import Choice, Engine, find_package
from cxr_node.inference import golden_difference as difference
from cxr_node.inference.package import GOLDEN_TOLERANCE
from cxr_node.signals import STOPPING

_STOP_FOLLOWS_S = 2.0
LONGEST_S = 600.0  # on a busy machine; a hung driver hangs for ever


class Interrupted(CxrNodeError):
    """The stage stops before the test has ended."""


@dataclass(frozen=True)
class Checked:
    """What came of one package. `reason` is empty where it passed."""

    package: str
    version: str = ""
    digest: str = ""
    device: str = ""
    difference: float | None = None
    reason: str = ""

    @property
    def passed(self) -> bool:
        return not self.reason


def run_here(name: str, search: Sequence[Path], cache_dir: Path | None, choice: Choice = "auto") -> Checked:
    """Load, verify and run one package in this process, with the engine that serves studies."""
    try:
        package = find_package(name, search)
        engine = Engine(package, cache_dir=cache_dir, choice=choice)
        found = difference(package, engine)
    except PackageError as error:
        return Checked(name, reason=str(error))
    reason = ""
    if not found <= GOLDEN_TOLERANCE:  # NaN fails too
        reason = f"scores of the golden inputs differ by {found:.2g}, expected at most {GOLDEN_TOLERANCE:g}"
    return Checked(name, package.manifest.version, package.digest, engine.device, found, reason)


def run_apart(
    names: Sequence[str],
    search: Sequence[Path],
    cache_dir: Path | None,
    stop: threading.Event,
    choice: Choice = "auto",
    *,
    longest_s: float = LONGEST_S,
) -> list[Checked]:
    """Run the packages in a process of their own; one that it did not report on has failed.

    Raises
    ------
    Interrupted
        `stop` was set; the process was ended.
    """
    command = [sys.executable, "-c", f"import sys; from {__name__} import main; sys.exit(main())"]
    command += [argument for folder in search for argument in ("--search", str(folder))]
    command += ["--cache-dir", str(cache_dir)] if cache_dir is not None else []
    command += ["--engine", choice]
    # Without its own metrics: the counters of a process that lives for seconds are litter.
    environment = {key: value for key, value in os.environ.items() if key != "PROMETHEUS_MULTIPROC_DIR"}
    process = subprocess.Popen(
        [*command, "--", *names],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    )
    deadline = time.monotonic() + longest_s
    output = ""
    try:
        while True:
            try:
                output, _ = process.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                if stop.is_set():
                    raise Interrupted("the stage stops during the self-test") from None
                if time.monotonic() > deadline:
                    process.kill()
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    # A service manager and a terminal end every process of the node at once, this one perhaps before the stage knows.
    if -process.returncode in STOPPING and stop.wait(_STOP_FOLLOWS_S):
        raise Interrupted("the stage stops during the self-test")
    lines = (line for line in output.splitlines() if line.startswith("{"))
    reported = {item.package: item for item in (Checked(**json.loads(line)) for line in lines)}
    missing = f"the self-test process ended with status {process.returncode} before it reported"
    return [reported.get(name) or Checked(name, reason=missing) for name in names]


def main(arguments: Sequence[str] | None = None) -> int:
    """Test the named packages and report; exit status 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--search", type=Path, action="append", default=[], help="folder of packages; may be repeated")
    parser.add_argument("--cache-dir", type=Path, help="where engines keep what they export")
    parser.add_argument("--engine", choices=get_args(Choice), default="auto", help="analyze.engine of node.toml")
    parser.add_argument("names", nargs="*")
    parsed = parser.parse_args(arguments)
    os.nice(10)  # patients first
    passed = True
    for name in parsed.names:
        tested = run_here(name, parsed.search, parsed.cache_dir, parsed.engine)
        passed = passed and tested.passed
        sys.stdout.write(json.dumps(asdict(tested)) + "\n")
        sys.stdout.flush()
    return 0 if passed else 1
