"""The audit trail's chain: `python -m tests.benchmarks.audit_chain [--quick] [--database URL]`.

What one entry costs its own transaction, what sealing costs, and how long a verification of a long trail takes and how
much memory. A million entries by default; the database is made anew in a temporary folder, or the one named is used,
which must be empty of entries.
"""

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import insert

from storage import Database, audit, audit_chain, audit_verification
from storage.tables import audit_events

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def fill(database: Database, entries: int) -> None:
    """Write entries as the node does, many to a transaction."""
    detail = {"role": "reader", "address": "10.0.0.7", "revision": 3, "by": "page"}
    row = {"created_at": NOW, "event": "study_read", "actor": "dr.lee", "study_instance_uid": "1.2.840." + "9" * 40}
    for start in range(0, entries, 10_000):
        with database.begin() as connection:
            connection.execute(
                insert(audit_events), [{**row, "detail": detail} for _ in range(min(10_000, entries - start))]
            )


def measure(url: str, entries: int) -> dict[str, object]:
    """Return one row: times in s, memory in MiB."""
    database = Database(url)
    database.migrate()
    singles = 300
    started = time.perf_counter()
    for _ in range(singles):
        with database.begin() as connection:
            audit.record(connection, "study_read", actor="ann", now=NOW, detail={"role": "reader"})
    single = (time.perf_counter() - started) / singles
    fill(database, entries - singles)
    started, longest, seals = time.perf_counter(), 0.0, 0
    while True:
        with database.read() as connection:
            waiting = audit_chain.unsealed(connection)
        if waiting is None:
            break
        began = time.perf_counter()
        with database.begin() as connection:
            audit_chain.seal(connection, now=NOW, found=waiting)
        seals, longest = seals + 1, max(longest, time.perf_counter() - began)
    sealing = time.perf_counter() - started
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    found = audit_verification.verify(database)
    verifying = time.perf_counter() - started
    assert found is not None
    assert found.is_whole
    assert found.entries == entries
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    database.dispose()
    return {
        "database": database.dialect,
        "entries": entries,
        "seals": seals,
        "record_ms": round(single * 1000, 2),
        "write_lock_longest_ms": round(longest * 1000, 1),
        "sealed_per_s": round(entries / sealing),
        "verify_s": round(verifying, 1),
        "verified_per_s": round(entries / verifying),
        "verify_memory_grown_mib": round(grown, 1),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="50,000 entries")
    parser.add_argument("--database", help="address of an empty database instead of SQLite in a temporary folder")
    arguments = parser.parse_args(argv)
    entries = 50_000 if arguments.quick else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        row = measure(arguments.database or f"sqlite:///{Path(folder) / 'node.db'}", entries)
    for key, value in row.items():
        print(f"{key:28} {value}")
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    print(json.dumps({"benchmark": "audit_chain", "rows": [row], "machine": machine}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
