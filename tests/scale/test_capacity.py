"""The plan of a fleet follows from what was measured, and says what it assumes."""

import json

import pytest

from tests.benchmarks import capacity

pytestmark = pytest.mark.requirement("SRS-SCL-021")

QUEUE = {
    "benchmark": "queue",
    "rows": [
        {"what": "operations", "database": "sqlite", "threads": 1, "enqueue": 9e9, "claim": 9e9, "settle": 9e9},
        {"what": "operations", "database": "postgresql", "threads": 1, "enqueue": 500, "claim": 400, "settle": 450},
        {"what": "operations", "database": "postgresql", "threads": 4, "enqueue": 1500, "claim": 1000, "settle": 1200},
    ],
}
SCALE = {
    "benchmark": "scale",
    "rows": [
        {"what": "service", "stage": "receive", "mean_s": 0.05, "scv": 0.2},
        {"what": "service", "stage": "analyze", "mean_s": 0.1, "scv": 0.5},
        {"what": "transactions", "per_study": 20.0},
    ],
}


def test_the_table_follows_from_the_measured_rows_and_names_every_assumption(tmp_path, capsys):
    """Somebody buys machines by it."""
    files = []
    for document in (QUEUE, SCALE):
        file = tmp_path / f"{document['benchmark']}.txt"
        file.write_text(f"a table above\n{json.dumps(document)}\n")
        files.append(str(file))
    capacity.main([*files, "--studies-a-day", "864000", "--peak-share", "0.1", "--images", "2", "--image-mb", "10"])
    printed = capsys.readouterr().out
    told = json.loads(printed.splitlines()[-1])
    rows = {row.get("stage", row["what"]): row for row in told["rows"]}
    assert rows["analyze"]["rate"] == 24.0
    assert rows["receive"]["rate"] == 48.0, "images, not studies"
    assert rows["analyze"]["workers"] >= 3, "2.4 erlang need more than two"
    assert rows["analyze"]["p95_wait_ms"] <= 1000
    assert rows["transactions/s"]["needed"] == 480.0
    assert rows["transactions/s"]["measured"] == 1000, "PostgreSQL's, the slowest act at the most threads"
    assert rows["MB/s into the store"]["needed"] == 480.0
    assumed = printed.partition("Assumed:")[2]
    for value in ("864000 studies a day", "10 % of them", "2 images of 10 MB", "Allen and Cunneen", "50 % of the"):
        assert value in assumed


def test_a_row_that_is_missing_is_named_with_the_benchmark_that_makes_it():
    """A plan without a measurement would be a guess."""
    with pytest.raises(ValueError, match=r"no row 'operations'.*benchmarks\.queue"):
        capacity.measured_from([SCALE])
    with pytest.raises(ValueError, match=r"no row 'service'.*benchmarks\.scale"):
        capacity.measured_from([QUEUE])
