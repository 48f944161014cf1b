"""`cxr-node feedback export`."""

import csv
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest

from cxr_node.cli import main
from storage import feedback, results
from tests.databases import migrated

pytestmark = pytest.mark.requirement("SRS-CLI-301")

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "node.toml"
    path.write_text("[node]\nprofile = 'triage'\n")
    (tmp_path / "var").mkdir()
    database = migrated(f"sqlite:///{tmp_path / 'var' / 'cxr-node.db'}")
    with database.begin() as connection:
        for number in range(3):
            result = results.add(
                connection, f"1.{number}", status="analysed", flagged=True, ai_priority="HIGH", outcome={}, now=NOON
            )
            at = NOON + timedelta(days=number)
            feedback.add(connection, result.id, verdict="agree", reader="dr-m\u00fcller", now=at)
    database.dispose()
    return str(path)


def test_everything_is_written_to_standard_output(config, capsys):
    """For a pipe."""
    assert main(["--config", config, "feedback", "export"]) == 0
    rows = list(csv.DictReader(StringIO(capsys.readouterr().out)))
    assert [row["study_instance_uid"] for row in rows] == ["1.0", "1.1", "1.2"]
    assert rows[0]["reader"] == "dr-m\u00fcller"


def test_a_time_and_a_file_can_be_given(config, tmp_path, capsys):
    """For a monthly report; a date without a zone is UTC."""
    out = tmp_path / "march.csv"
    assert main(["--config", config, "feedback", "export", "--since", "2026-03-02", "--output", str(out)]) == 0
    assert capsys.readouterr().out == ""
    rows = list(csv.DictReader(StringIO(out.read_text("utf-8"))))
    assert [row["study_instance_uid"] for row in rows] == ["1.1", "1.2"]


def test_a_time_that_is_none_is_refused(config, capsys):
    """Usage, exit status 2."""
    with pytest.raises(SystemExit) as ended:
        main(["--config", config, "feedback", "export", "--since", "yesterday"])
    assert ended.value.code == 2
    assert "--since" in capsys.readouterr().err
