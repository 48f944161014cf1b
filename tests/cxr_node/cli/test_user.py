"""`cxr-node user` and `cxr-node token`: what an admin does at the console."""

import re
from datetime import timedelta

import pytest

from cxr_node.cli import main
from cxr_node.clock import utc_now
from cxr_node.worklist.web.accounts import passwords
from storage import Database, audit, tokens, users

pytestmark = pytest.mark.requirement("SRS-ACC-010")


@pytest.fixture
def run(tmp_path, capsys):
    """Run the command line on a node of its own; return status and what it printed."""
    config = tmp_path / "node.toml"
    config.write_text("[node]\n")

    def call(*words: str) -> tuple[int, str]:
        status = main(["--config", str(config), *words])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return call


@pytest.fixture
def database(tmp_path):
    """The database of that node."""
    opened = Database(f"sqlite:///{tmp_path / 'var' / 'cxr-node.db'}")
    yield opened
    opened.dispose()


def password_in(text: str) -> str:
    """Return the one-time password that was printed."""
    return re.search(r"one-time password +(\S+)", text).group(1)


def test_a_user_is_added_with_a_password_for_once(run, database):
    """Printed, kept as a hash only, and to be changed."""
    status, told = run("user", "add", "Ada", "--role", "admin", "--name", "Ada Lovelace")
    assert status == 0
    with database.read() as connection:
        user = users.find(connection, "ada")
        (event,) = audit.events(connection)
    assert passwords.verify(user.password_hash, password_in(told))
    assert (user.must_change, user.role, user.display_name) == (True, "admin", "Ada Lovelace")
    assert (event.event, event.actor, event.detail["login"]) == ("user_added", "command line", "ada")
    status, again = run("user", "add", "ada", "--role", "reader")
    assert (status, "a user ada exists" in again) == (1, True)


def test_a_lost_password_is_replaced(run, database):
    """Also the first admin's: the way back when nobody can sign in."""
    _, first = run("user", "add", "admin", "--role", "admin")
    status, second = run("user", "reset", "ADMIN")
    assert status == 0
    with database.read() as connection:
        user = users.find(connection, "admin")
    assert passwords.verify(user.password_hash, password_in(second))
    assert not passwords.verify(user.password_hash, password_in(first))
    assert run("user", "reset", "nobody") == (1, "cxr-node user: there is no user nobody\n")


def test_the_last_admin_is_neither_disabled_nor_demoted(run):
    """With another one, it goes."""
    run("user", "add", "ada", "--role", "admin")
    for words in (("disable", "ada"), ("role", "ada", "reader")):
        status, told = run("user", *words)
        assert (status, "last active admin" in told) == (1, True)
    run("user", "add", "bob", "--role", "reader")
    assert run("user", "role", "bob", "admin") == (0, "bob is admin now\n")
    assert run("user", "disable", "ada")[0] == 0
    assert run("user", "disable", "bob")[0] == 1
    _, listed = run("user", "list")
    assert re.search(r"^ada +admin +disabled +never", listed, re.MULTILINE)
    assert re.search(r"^bob +admin +must change password +never", listed, re.MULTILINE)
    assert run("user", "enable", "ada") == (0, "ada is enabled\n")


def test_a_token_expires_is_listed_and_revoked(run, database):
    """With its last use: one that nobody uses can go."""
    status, secret = run("token", "create", "gateway", "--role", "service", "--days", "7")
    assert status == 0
    now = utc_now()
    with database.begin() as connection:
        token = tokens.find(connection, secret.strip(), now=now)
        assert token is not None
        assert timedelta(days=6) < token.expires_at - now <= timedelta(days=7)
        tokens.used(connection, token, now=now)
    _, listed = run("token", "list")
    assert re.search(rf"^gateway +service +{now:%Y-%m-%d %H:%M} +\d{{4}}.*command line$", listed, re.MULTILINE)
    assert secret.strip() not in listed
    assert run("token", "revoke", "gateway") == (0, "gateway is revoked\n")
    assert run("token", "revoke", "gateway")[0] == 1
    assert run("token", "create", "gateway", "--role", "service", "--days", "0")[0] == 1
