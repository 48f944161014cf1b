"""`python -m regulatory.vulnerabilities`: runs pip-audit over the lock and keeps what it said.

The record, regulatory/vulnerabilities.json, says which lock was looked at, when, by which tool and source, what was
found, and what could not be looked at: a run whose source did not answer is recorded as not run, never as clean.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from regulatory.lock import LOCK, ROOT, read_lock

TARGET = ROOT / "regulatory" / "vulnerabilities.json"
COMPLETE, INCOMPLETE, NOT_RUN = "complete", "incomplete", "not run"
SOURCES = ("pypi", "osv")
TIMEOUT_S = 600


def lock_sha256() -> str:
    """Return the SHA-256 of the lock, by which a record names what it looked at."""
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()


def record_of(output: str, errors: str, expected: Sequence[str]) -> dict[str, Any]:
    """Return what a run of pip-audit says.

    Parameters
    ----------
    output, errors : its standard output (JSON) and standard error
    expected : the names that it was to look at; it says nothing of those that are for other systems
    """
    try:
        told = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return {
            "state": NOT_RUN,
            "reason": _last_line(errors),
            "audited": 0,
            "skipped": sorted(set(expected)),
            "found": [],
        }
    audited = [item for item in told if "skip_reason" not in item]
    skipped = sorted({item["name"] for item in told if "skip_reason" in item})
    found = [
        {
            "name": item["name"],
            "version": item["version"],
            "id": hole["id"],
            "aliases": sorted(hole.get("aliases", ())),
            "fixed_in": sorted(hole.get("fix_versions", ())),
        }
        for item in audited
        for hole in item.get("vulns", ())
    ]
    found.sort(key=lambda hole: (hole["name"], hole["id"]))
    if not audited:
        reason = next((item["skip_reason"] for item in told if "skip_reason" in item), "it looked at nothing")
        reason = f"the source knew none of the packages: {reason}"
        return {"state": NOT_RUN, "reason": reason, "audited": 0, "skipped": skipped, "found": []}
    state = INCOMPLETE if skipped else COMPLETE
    reason = f"{len(skipped)} packages could not be looked at" if skipped else ""
    return {"state": state, "reason": reason, "audited": len(audited), "skipped": skipped, "found": found}


def run(source: str) -> dict[str, Any]:
    """Run pip-audit and return the record of it."""
    command = [
        sys.executable, "-m", "pip_audit", "--requirement", str(LOCK), "--disable-pip", "--no-deps",
        "--vulnerability-service", source, "--progress-spinner", "off", "--format", "json",
    ]  # fmt: skip
    names = [item.name for item in read_lock()]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=ROOT)
        told = record_of(done.stdout, done.stderr, names)
    except subprocess.TimeoutExpired:
        told = record_of("", f"no end after {TIMEOUT_S} s", names)
    return {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "tool": f"pip-audit {metadata.version('pip-audit')}",
        "source": source,
        "lock_sha256": lock_sha256(),
        **told,
    }


def sentence(record: dict[str, Any], lock: str) -> str:
    """Return what a record is worth for a lock, in one sentence."""
    about = f"{record['tool']} with {record['source']} on {record['made_at'][:10]}"
    if record["state"] == NOT_RUN:
        return f"Known vulnerabilities: NOT RUN ({about}: {record['reason']})."
    of = "this lock" if record["lock_sha256"] == lock else "ANOTHER LOCK than the one that stands here now"
    looked = f"{record['audited']} packages of {of} were looked at ({about}), {len(record['skipped'])} could not be"
    if not record["found"]:
        return f"Known vulnerabilities: none found; {looked}."
    holes = ", ".join(f"{hole['name']} {hole['version']} {hole['id']}" for hole in record["found"])
    return f"Known vulnerabilities: {holes}; {looked}."


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def main(argv: Sequence[str] | None = None) -> int:
    """Run, write the record, say what it is worth; 0 where everything was looked at and nothing found."""
    parser = argparse.ArgumentParser(prog="python -m regulatory.vulnerabilities", description=__doc__)
    parser.add_argument("--source", choices=SOURCES, default="pypi", help="where vulnerabilities are asked for")
    parser.add_argument("--show", action="store_true", help="only say what the record is worth")
    arguments = parser.parse_args(argv)
    if not arguments.show:
        TARGET.write_text(json.dumps(run(arguments.source), indent=1) + "\n", encoding="utf-8")
    record = json.loads(TARGET.read_text(encoding="utf-8"))
    sys.stdout.write(sentence(record, lock_sha256()) + "\n")
    return 0 if record["state"] == COMPLETE and not record["found"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
