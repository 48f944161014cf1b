"""The first admin: one, with a password for once, told on the console and nowhere else."""

import threading

import pytest

from cxr_node.worklist import stage
from cxr_node.worklist.web.accounts import passwords, people
from storage import audit, users
from tests.cxr_node.worklist.conftest import NOON, with_worklist
from tests.cxr_node.worklist.web.accounts.conftest import HTML, sign

pytestmark = pytest.mark.requirement("SRS-ACC-011")


def test_hosts_that_start_together_make_one_admin(database):
    """One password is told, and it is the one that counts."""
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(people.first_admin(database, now=NOON))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (password,) = [item for item in found if item]
    with database.read() as connection:
        (user,) = users.listed(connection)
        (event,) = audit.events(connection)
    assert (user.login, user.role, user.must_change) == ("admin", "admin", True)
    assert passwords.verify(user.password_hash, password)
    assert password not in str(event)


def test_there_is_no_default_password(database, tmp_path):
    """Every node has another one."""
    first = people.first_admin(database, now=NOON)
    with database.begin() as connection:
        second = people.reset(connection, "admin", by="test", now=NOON)
    assert first != second
    assert len(first) >= 20


@pytest.mark.parametrize(
    ("login", "role", "values", "is_made"),
    [
        ("ada", "admin", {}, False),
        ("r.roe", "admin", {"issuer": "https://id.example", "subject": "7"}, False),
        ("ada", "admin", {"disabled": True}, True),
        ("ada", "reader", {}, True),
        ("admin", "admin", {"disabled": True}, False),
        ("admin", "reader", {}, False),
    ],
)
def test_an_admin_is_made_only_where_there_is_none(database, add_user, login, role, values, is_made):
    """What somebody decided about the user `admin` stays; a person at the console can change it."""
    add_user(login, role, **values)
    assert bool(people.first_admin(database, now=NOON)) is is_made
    assert people.first_admin(database, now=NOON) == ""


def test_the_stage_prints_it_once_and_logs_it_never(settings, database, make_client, capsys):
    """Standard output is the console; the log, on standard error, goes to files and collectors."""
    for start in range(2):
        stop = threading.Event()
        stop.set()
        stage.run_worklist(settings, stop)
        captured = capsys.readouterr()
        if start == 0:
            password = captured.out.split("one-time password")[1].split()[0]
            assert "Sign in at http://127.0.0.1:" in captured.out
            assert "cxr-node user reset admin" in captured.out
        else:
            assert "password" not in captured.out
        assert password not in captured.err
    client = make_client(with_worklist(settings, require_token="always"))
    assert sign(client, login="admin", password=password).status_code == 303
    assert client.get("/", headers=HTML).headers["location"] == "/account"
    with database.read() as connection:
        assert password not in str(audit.events(connection))
