"""`cxr-node destination` and what `doctor` and `config check` say of destinations."""

import pytest

from cxr_node.cli import main
from cxr_node.cli.doctor import _destinations
from cxr_node.clock import utc_now
from cxr_node.errors import CxrNodeError
from cxr_node.settings import load_settings
from storage import audit, deliveries, destination_states, results
from tests.databases import migrated

pytestmark = pytest.mark.requirement("SRS-CLI-201")


@pytest.fixture
def config(tmp_path):
    (tmp_path / "occupied").write_text("a file where a folder is expected")
    path = tmp_path / "node.toml"
    path.write_text(
        f"[[destination]]\nname = 'outbox'\nkind = 'folder'\npath = '{tmp_path / 'outbox'}'\n"
        f"[[destination]]\nname = 'broken'\nkind = 'folder'\npath = '{tmp_path / 'occupied' / 'x'}'\n"
        "[[destination]]\nname = 'ris'\nkind = 'hl7-oru'\nhost = '127.0.0.1'\nport = 1\ndry_run = true\n"
    )
    return path


@pytest.fixture
def database(tmp_path):
    (tmp_path / "var").mkdir()
    opened = migrated(f"sqlite:///{tmp_path / 'var' / 'cxr-node.db'}")
    yield opened
    opened.dispose()


def run(config, *arguments):
    return main(["--config", str(config), *arguments])


def test_a_test_says_what_is_wrong_and_ends_with_a_status(config, capsys):
    """A script can ask, and a person can read."""
    assert run(config, "destination", "test", "outbox") == 0
    assert "ready" in capsys.readouterr().out
    assert run(config, "destination", "test", "broken") == 1
    assert "cannot be written: Not a directory" in capsys.readouterr().out
    assert run(config, "destination", "test", "ris") == 1
    assert "connection refused" in capsys.readouterr().out


def test_a_name_that_is_none_lists_those_there_are(config, capsys):
    """Exit status 2: a slip."""
    assert run(config, "destination", "pause", "pacs") == 2
    assert "it has outbox, broken, ris" in capsys.readouterr().err


def test_pause_and_resume_are_kept_and_told(config, database, capsys):
    """Also while the node is stopped: what it does when it starts is decided before."""
    assert run(config, "destination", "pause", "outbox") == 0
    assert run(config, "destination", "pause", "outbox") == 0
    assert "was paused already" in capsys.readouterr().out
    assert run(config, "destination", "list") == 0
    assert "paused by command line" in capsys.readouterr().out
    assert run(config, "destination", "resume", "outbox") == 0
    with database.read() as connection:
        assert not destination_states.get(connection, "outbox").paused
        assert [event.event for event in audit.events(connection)] == ["destination_resumed", "destination_paused"]


def test_failed_deliveries_are_sent_again_on_request(config, database, capsys):
    """All of a destination, or one."""
    with database.begin() as connection:
        now = utc_now()
        result = results.add(connection, "1.2", status="analysed", flagged=False, ai_priority="", outcome={}, now=now)
        delivery_id = deliveries.add(connection, result.id, kind="sr", destination="outbox", now=now).id
        deliveries.set_state(connection, delivery_id, "FAILED", now=now, reason="no space")
    run(config, "destination", "list")
    assert "0 waiting, 1 failed, 0 arrived" in capsys.readouterr().out
    assert run(config, "destination", "resend", "outbox", "--failed") == 0
    assert "1 failed delivery sent again" in capsys.readouterr().out
    with database.read() as connection:
        assert deliveries.get(connection, delivery_id).state == "SCHEDULED"
    assert run(config, "destination", "resend", "outbox", "--delivery", str(delivery_id)) == 0
    assert run(config, "destination", "resend", "ris", "--delivery", str(delivery_id)) == 1
    assert "no delivery" in capsys.readouterr().out


def test_doctor_tests_each_destination_by_its_own_means(config):
    """A folder is written to, a listener connected to; C-ECHO is for DICOM."""
    settings = load_settings(config, {})
    found = {}
    for name, check in _destinations(settings):
        try:
            found[name] = check(settings)
        except CxrNodeError as error:
            found[name] = f"FAILED {error}"
    assert found["destination outbox"] == "folder, takes sr"
    assert found["destination broken"].startswith("FAILED broken: folder")
    assert "FAILED ris: HL7 listener at 127.0.0.1:1: connection refused" in found["destination ris"]


def test_config_check_reads_the_template(config, tmp_path, capsys):
    """A slip in a template is found before the start, with its line."""
    assert run(config, "config", "check") == 0
    assert "oru_r01.toml: ORU^R01^ORU_R01, always, dry run: nothing is sent" in capsys.readouterr().out
    (tmp_path / "site.toml").write_text('[message]\ntype = "ORU^R01"\n[[segment]]\nid = "PID"\n3 = "{nobody}"\n')
    config.write_text(config.read_text() + "template = 'site.toml'\n")
    assert run(config, "config", "check") == 2
    assert "line 5" in capsys.readouterr().err
