"""Runs a benchmark and keeps what it measured: `python -m tests.benchmarks.record intake [its arguments]`.

The table goes to the screen; the last line of JSON, with command, day, commit and machine, into
`regulatory/evidence/NAME.json`, from which `python -m regulatory.service` makes the tables of the regulatory file.
"""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EVIDENCE = ROOT / "regulatory" / "evidence"
ELSEWHERE = {"fuzz": "tests.fuzz.run"}


def main() -> int:
    """Run, keep, and return the benchmark's own exit status."""
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    name, *arguments = sys.argv[1:]
    module = ELSEWHERE.get(name, f"tests.benchmarks.{name}")
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        if line.startswith("{"):
            last = line
        else:
            print(line, end="", flush=True)
    status = process.wait()
    if not last:
        print(f"{module}: expected a last line of JSON, found none", file=sys.stderr)
        return status or 1
    result = json.loads(last)
    result.pop("machine", None)
    kept = {
        "command": " ".join(["python -m", module, *arguments]),
        "measured_on": datetime.now(UTC).date().isoformat(),
        "commit": _said("git", "rev-parse", "--short", "HEAD"),
        "changed_since": bool(_said("git", "status", "--porcelain", "--untracked-files=no")),
        "machine": _machine(),
        "exit_status": status,
        "result": result,
    }
    EVIDENCE.mkdir(exist_ok=True)
    path = EVIDENCE / f"{name}.json"
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"kept in {path.relative_to(ROOT)}")
    return status


def _said(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def _machine() -> str:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GB, Python {platform.python_version()}, no GPU"


if __name__ == "__main__":
    sys.exit(main())
