"""`cxr-node monitor` and `cxr-node calibrate`: what they print, what they refuse, and that they change nothing."""

import csv
import json
from datetime import UTC, datetime

import numpy as np
import pytest
from sqlalchemy import insert

from cxr_node.cli import main
from cxr_node.inference import BUILTIN, load_package
from storage import audit, model_changes, monitoring, tables
from storage.monitoring import Monitor
from tests.databases import migrated

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PACKAGE = "pneumonia-adult"


@pytest.fixture
def site(tmp_path):
    """A node with 400 analysed studies, the finding in the first 100; most of those score high."""
    path = tmp_path / "node.toml"
    path.write_text(f'[analyze]\nmodels = ["{PACKAGE}"]\n')
    (tmp_path / "var").mkdir()
    database = migrated(f"sqlite:///{tmp_path / 'var' / 'cxr-node.db'}")
    package = load_package(BUILTIN / PACKAGE)
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.beta(5, 2, 100), rng.beta(2, 5, 300)])
    made = {table: [] for table in (tables.studies, tables.instances, tables.predictions)}
    for number, value in enumerate(values, 1):
        uid = f"2.25.{number}"
        made[tables.studies].append({"study_instance_uid": uid, "first_received_at": NOON, "last_received_at": NOON})
        named = {"sop_instance_uid": f"{uid}.1", "series_instance_uid": uid, "study_instance_uid": uid}
        stored = {"sop_class_uid": "1", "transfer_syntax_uid": "1", "size": 6, "location": uid}
        made[tables.instances].append({"id": number, **named, **stored, "received_at": NOON})
        model = {"model_digest": package.digest, "finding": "pneumonia", "model": PACKAGE, "model_version": "0"}
        scores = {"score": float(value), "probability": float(value), "created_at": NOON}
        made[tables.predictions].append({"instance_id": number, **model, **scores})
    with database.begin() as connection:
        for table, rows in made.items():
            connection.execute(insert(table), rows)
    yield tmp_path, database, package
    database.dispose()


def write_labels(path, rows, header=("uid", "label")):
    """Write a CSV as a site would."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def labels(numbers, suffix=""):
    return [(f"2.25.{number}{suffix}", int(number <= 100)) for number in numbers]


@pytest.mark.requirement("SRS-MON-011")
def test_a_threshold_is_proposed_with_its_interval_and_the_site_is_left_as_it_was(site, capsys):
    """Whoever reads it decides; configuration, packages, decisions and audit trail are what they were."""
    folder, database, _ = site
    path = write_labels(folder / "labels.csv", labels(range(1, 401)))
    config = (folder / "node.toml").read_text()
    assert main(["--config", str(folder / "node.toml"), "calibrate", path, "--prevalence", "0.05"]) == 0
    out = capsys.readouterr().out
    assert "400 of 400 labelled cases were analysed by it, 100 with the finding and 300 without" in out
    assert "at a prevalence of 0.050: PPV" in out
    assert "Nothing was changed" in out
    assert '"pneumonia-adult-site"' in out
    assert "points" in out  # a hundred cases are fewer than an interval of five points takes
    with database.read() as connection:
        assert audit.events(connection) == []
        assert model_changes.history(connection) == []
    assert (folder / "node.toml").read_text() == config
    assert not (folder / "var" / "packages").exists()


@pytest.mark.requirement("SRS-MON-011")
def test_figures_come_as_json_and_are_those_of_the_labels(site, capsys):
    """Images may be named as well as studies; the shares are counted again here."""
    folder, database, package = site
    path = write_labels(folder / "labels.csv", labels(range(1, 401), suffix=".1"))
    assert main(["--config", str(folder / "node.toml"), "calibrate", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    with database.read() as connection:
        uids = [f"2.25.{number}" for number in range(1, 401)]
        told = monitoring.probabilities(connection, package.digest, "pneumonia", uids)
    threshold = package.manifest.operating_points["pneumonia"].threshold
    flagged = sum(told[uid] >= threshold for uid in uids[:100])
    assert found["now"]["sensitivity"]["part"] == flagged
    at = found["proposed"]["threshold"]
    assert sum(told[uid] >= at for uid in uids[:100]) == found["proposed"]["sensitivity"]["part"] == 90
    assert found["threshold_low"] <= at <= found["threshold_high"]


@pytest.mark.requirement("SRS-MON-011")
def test_too_few_cases_say_how_many_are_needed(site, capsys):
    """Exit status 1: a script must not take it for a proposal."""
    folder, _, _ = site
    path = write_labels(folder / "labels.csv", labels([*range(1, 12), *range(200, 260)]))
    assert main(["--config", str(folder / "node.toml"), "calibrate", path]) == 1
    out = capsys.readouterr().out
    assert "Too few cases for a proposal" in out
    assert "data_dir/packages" not in out
    only_present = write_labels(folder / "present.csv", labels(range(1, 4)))
    assert main(["--config", str(folder / "node.toml"), "calibrate", only_present]) == 1
    out = capsys.readouterr().out
    assert "specificity not measured (no case)" in out
    assert "PPV not measured, NPV not measured" in out
    assert "nan" not in out


@pytest.mark.requirement("SRS-MON-011")
@pytest.mark.parametrize(
    ("rows", "header", "says"),
    [
        ([("2.25.1", "yes")], ("uid", "label"), "line 2"),
        ([("2.25.1", "1"), ("2.25.1", "0")], ("uid", "label"), "has both labels"),
        ([("2.25.1", "1")], ("study", "label"), "expected the columns uid and label"),
        ([("1.2.3", "1")], ("uid", "label"), "was analysed here"),
        ([], ("uid", "label"), "expected cases"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_with_its_line(site, capsys, rows, header, says):
    """A label read wrongly would be a threshold chosen wrongly."""
    folder, _, _ = site
    path = write_labels(folder / "labels.csv", rows, header)
    assert main(["--config", str(folder / "node.toml"), "calibrate", path]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.requirement("SRS-MON-010")
def test_an_alarm_is_listed_and_taken_back_with_a_reason(site, capsys):
    """Exit status 1 while there is one, for a script that asks."""
    folder, database, package = site
    chart = {"mean": 0.2, "deviation": 0.4, "k": 0.25, "h": 14.0, "arl0": 10000.0, "cases": 500}
    watch = {"learned": [], "chart": chart, "sums": {"up": 15.0, "down": 0.0, "cases": 80}, "alarm": "up"}
    with database.begin() as connection:
        state = {"until": NOON.isoformat(), "watch": {**watch, "alarm_after": 80}}
        monitoring.save(
            connection,
            Monitor("flag", package.digest, "pneumonia", PACKAGE, "0.2.0", "up", NOON, state, NOON, NOON),
        )
    config = ["--config", str(folder / "node.toml")]
    assert main([*config, "monitor"]) == 1
    assert "ALARM   pneumonia-adult flag rate of studies: has risen" in capsys.readouterr().out
    assert main([*config, "monitor", "reset", "--reason", " "]) == 2
    assert main([*config, "monitor", "reset", "--reason", "winter wave, seen by Dr. A", "--chart", "flag"]) == 0
    capsys.readouterr()
    assert main([*config, "monitor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["alarm"], found["level"], found["learning"]) == ("", 0.0, False)
    with database.read() as connection:
        [entry] = audit.newest(connection, "monitor_reset")
    assert entry.detail["reason"] == "winter wave, seen by Dr. A"
    assert entry.actor.startswith("command line")
