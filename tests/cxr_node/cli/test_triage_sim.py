"""`cxr-node triage-sim`: where its assumptions come from, what it tells, and what it cannot take."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert

from cxr_node.cli import main
from cxr_node.cli.triage_sim import measured
from cxr_node.inference import load_package
from cxr_node.inference.package import BUILTIN
from storage.tables import studies
from tests.databases import migrated

pytestmark = pytest.mark.requirement("SRS-TRI-007")

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
QUICK = ("--studies", "200", "--replications", "5", "--max-wait", "0")
GIVEN = ("--sensitivity", "0.8", "--specificity", "0.57")


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "node.toml"
    path.write_text("[node]\nprofile = 'triage'\n[worklist]\nmax_wait_min = 45.0\n")
    (tmp_path / "var").mkdir()
    return str(path)


@pytest.fixture
def log(config, tmp_path):
    """A database in which 40 studies came a minute apart and each was read in two."""
    database = migrated(f"sqlite:///{tmp_path / 'var' / 'cxr-node.db'}")
    with database.begin() as connection:
        for number in range(40):
            at = NOON + timedelta(minutes=number)
            row = {
                "study_instance_uid": f"1.{number}",
                "first_received_at": at,
                "last_received_at": at,
                "opened_at": at + timedelta(minutes=5),
                "read_at": at + timedelta(minutes=7),
            }
            connection.execute(insert(studies).values(**row))
    database.dispose()


def asked(config: str, capsys: pytest.CaptureFixture[str], *more: str) -> dict:
    assert main(["--config", config, "triage-sim", "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def refused(config: str, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert main(["--config", config, "triage-sim", *more]) == 1
    return capsys.readouterr().err


def test_a_packages_figures_of_a_named_test_set_are_taken(config, capsys):
    """The set decides: against radiologists the same package is another device."""
    manifest = load_package(BUILTIN / "pneumonia-adult").manifest
    for name in ("internal-test", "rsna-readers"):
        found = asked(config, capsys, "--model", "pneumonia-adult", "--set", name, *QUICK)["assumes"]
        item = manifest.figures["test"][name]
        assert (found["sensitivity"], found["specificity"]) == (
            item["sensitivity"]["value"],
            item["specificity"]["value"],
        )
        assert f"test set {name}" in found["accuracy_from"]
    told = refused(config, capsys, "--model", "pneumonia-adult", "--set", "official-test", *QUICK)
    assert "internal-test" in told
    assert "'official-test'" in told
    with pytest.raises(ValueError, match="first finding"):
        measured(manifest, "", "effusion")


def test_a_seed_gives_the_same_answer(config, capsys):
    """What a report quotes must come again."""
    first = asked(config, capsys, *GIVEN, *QUICK, "--seed", "4")
    assert asked(config, capsys, *GIVEN, *QUICK, "--seed", "4") == first
    assert asked(config, capsys, *GIVEN, *QUICK, "--seed", "5") != first


@pytest.mark.requirement("SRS-TRI-008")
def test_the_missed_and_the_longest_wait_stand_beside_the_benefit(config, capsys):
    """Who reads the saving reads its price in the same table."""
    assert main(["--config", config, "triage-sim", *GIVEN, "--studies", "400", "--replications", "5"]) == 0
    told = capsys.readouterr().out
    assert "MISSED by the model" in told
    assert "longest of all" in told
    assert "not evidence of a benefit" in told
    assert "45 min" in told  # the node's own maximum wait, where none is given
    found = asked(config, capsys, *GIVEN, *QUICK)
    assert found["closed_form"]["unflagged"] > found["closed_form"]["fifo"]
    assert set(found["difference"]) >= {"missed", "maximum", "diseased_over_limit"}


def test_arrivals_and_readings_come_from_the_nodes_own_log(config, log, capsys):
    """Forty studies in forty minutes, two minutes each, are more than one reader can do: the list grows."""
    period = ("--since", "2026-03-01", "--until", "2026-03-02")
    found = asked(config, capsys, *GIVEN, *QUICK, *period, "--arrivals", "log", "--service", "log")
    assert found["studies"] == 5 * 40
    assert found["assumes"]["mean_read_min"] == 2.0
    assert found["assumes"]["utilisation"] == pytest.approx(2.0, rel=0.05)
    assert found["closed_form"] is None
    assert found["fifo"]["all"]["value"] == pytest.approx(19.5)
    assert "--since" in refused(config, capsys, *GIVEN, *QUICK, "--arrivals", "log")
    empty = ("--since", "2026-05-01")
    assert "found none" in refused(config, capsys, *GIVEN, *QUICK, *empty, "--arrivals", "log")
    assert "at least 30" in refused(config, capsys, *GIVEN, *QUICK, *empty, "--service", "log")


def test_arrivals_come_from_a_csv_and_a_wrong_line_is_named(config, tmp_path, capsys):
    """Times without an offset are UTC."""
    path = tmp_path / "arrivals.csv"
    path.write_text("received_at,room\n2026-03-01T12:00,1\n2026-03-01T11:00:00+00:00,2\n")
    found = asked(config, capsys, *GIVEN, *QUICK, "--arrivals", str(path))
    assert found["studies"] == 10
    path.write_text("received_at\n2026-03-01T12:00\nyesterday\n")
    assert "line 3: expected an ISO 8601 time, found 'yesterday'" in refused(
        config, capsys, *GIVEN, *QUICK, "--arrivals", str(path)
    )
    path.write_text("time\n12:00\n")
    assert "expected a column received_at, found time" in refused(
        config, capsys, *GIVEN, *QUICK, "--arrivals", str(path)
    )
    assert "poisson, day, log or a CSV" in refused(config, capsys, *GIVEN, *QUICK, "--arrivals", "weekly")


def test_a_day_with_shifts_has_no_closed_form_and_says_so(config, capsys):
    """A formula of the steady state would be wrong there."""
    arguments = (*GIVEN, "--arrivals", "day", "--readers", "08-18:3,18-08:1", "--studies", "500", "--replications", "5")
    assert main(["--config", config, "triage-sim", *arguments]) == 0
    assert "closed form: there is none" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (QUICK, "expected --model, or --sensitivity"),
        ((*GIVEN, *QUICK, "--load", "1.0"), "less than 1"),
        ((*GIVEN, *QUICK, "--readers", "8-18"), "HH-HH:COUNT"),
        ((*GIVEN, *QUICK, "--replications", "3"), "at least 5"),
        ((*GIVEN, *QUICK, "--prevalence", "12"), "prevalence"),
        (("--model", "nobody", *QUICK), "no model package nobody"),
    ],
)
def test_what_makes_no_sense_is_named(config, capsys, arguments, told):
    """A simulation of nonsense prints figures as good as any."""
    assert told in refused(config, capsys, *arguments)
