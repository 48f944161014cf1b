"""Runs a benchmark and keeps what it measured: `python -m tests.benchmarks.record intake [its arguments]`.

The table goes to the screen; the last line of JSON, with command, day, commit and machine, into
`regulatory/evidence/NAME.json`, from which `python -m regulatory.service` makes the tables of the regulatory file.
`python -m tests.benchmarks.record all` runs one after the other, which takes hours on a machine that does nothing else.
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
# In this order: the last ones take longest, and `capacity` reads what two before it measured.
ALL: dict[str, tuple[str, ...]] = {
    "start": (),
    "intake": (),
    "intake_memory": (),
    "large_study": (),
    "analysis": (),
    "sustained": (),
    "notify": (),
    "decode": (),
    "inference": (),
    "stored": (),
    "worklist": (),
    "audit_chain": (),
    "queue": (),
    "scale": (),
    "capacity": ("regulatory/evidence/queue.json", "regulatory/evidence/scale.json"),
    "fuzz": (),
    "soak": (),
}


def main() -> int:
    """Run one or all, and return the benchmark's own exit status, or that of the first that failed."""
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    name, *arguments = sys.argv[1:]
    if name != "all":
        return record(name, arguments or list(ALL.get(name, ())))
    statuses = [record(name, list(arguments)) for name, arguments in ALL.items()]
    return next((status for status in statuses if status), 0)


def record(name: str, arguments: list[str]) -> int:
    """Run a benchmark, keep what it measured, and return its exit status."""
    module = ELSEWHERE.get(name, f"tests.benchmarks.{name}")
    print(f"== {' '.join([module, *arguments])}", flush=True)
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
        "changed_since": _has_changed(),
        "machine": _machine(),
        "exit_status": status,
        "result": result,
    }
    EVIDENCE.mkdir(exist_ok=True)
    path = EVIDENCE / f"{name}.json"
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"kept in {path.relative_to(ROOT)}")
    return status


def _has_changed() -> bool:
    """Whether the product or its tests differ from the commit that is named; what was just measured does not count."""
    changed = _said("git", "status", "--porcelain", "--untracked-files=no", "--", "cxr_node", "storage", "tests")
    return bool(changed)


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
