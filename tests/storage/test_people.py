"""Users, sessions and tries to sign in, on both databases."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from storage import login_attempts, sessions, tokens, users
from storage.errors import StorageError

pytestmark = pytest.mark.requirement("SRS-ACC-009")

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
IDLE = timedelta(minutes=30)


def open_session(connection, user, secret, *, now=NOON, hours=12):
    """Begin a session."""
    ends = now + timedelta(hours=hours)
    sessions.open_session(connection, user.id, secret=secret, csrf_token="c", address="1.2.3.4", now=now, ends=ends)


def test_a_login_is_one_person_however_it_is_written(database):
    """Two people who differ by a capital letter would be one mistake away from each other's verdicts."""
    with database.begin() as connection:
        made = users.add(connection, " Dr.Roe ", "reader", now=NOON, password_hash="h", must_change=True)
        assert users.find(connection, "DR.ROE") == made
        assert (made.login, made.must_change, made.disabled, made.password_changed_at) == ("dr.roe", True, False, NOON)
        with pytest.raises(StorageError, match=r"dr\.roe exists"):
            users.add(connection, "dr.ROE", "admin", now=NOON)
        assert users.get(connection, made.id) == made
        assert users.find(connection, "nobody") is None
        assert users.get(connection, 999) is None


def test_a_subject_counts_with_its_issuer(database):
    """The same number at two providers is two people; a local user has none."""
    with database.begin() as connection:
        users.add(connection, "local", "admin", now=NOON)
        made = users.add(connection, "r.roe", "reader", now=NOON, issuer="https://id.example", subject="7")
        assert users.find_subject(connection, "https://id.example", "7") == made
        assert users.find_subject(connection, "https://other.example", "7") is None
        assert users.find_subject(connection, "", "") is None


def test_active_users_of_a_role_are_counted(database):
    """The last admin must stay."""
    with database.begin() as connection:
        users.lock(connection)
        for login, role in (("ada", "admin"), ("bob", "admin"), ("eve", "reader")):
            users.add(connection, login, role, now=NOON)
        assert users.change(connection, users.find(connection, "bob").id, disabled=True)
        assert not users.change(connection, 999, disabled=True)
        assert users.count_active(connection, "admin") == 1
        assert [user.login for user in users.listed(connection)] == ["ada", "bob", "eve"]


def test_a_session_holds_until_it_is_idle_over_or_closed(database):
    """And its user may sign in still."""
    with database.begin() as connection:
        user = users.add(connection, "dr.roe", "reader", now=NOON)
        open_session(connection, user, "s1")
        found = sessions.find(connection, "s1", now=NOON, idle=IDLE)
        assert found is not None
        assert (found.login, found.role, found.csrf_token) == ("dr.roe", "reader", "c")
        assert sessions.find(connection, "s2", now=NOON, idle=IDLE) is None
        assert not sessions.is_due(found, NOON + timedelta(seconds=29))
        later = NOON + timedelta(minutes=29)
        assert sessions.is_due(found, later)
        sessions.seen(connection, found, now=later)
        assert sessions.find(connection, "s1", now=NOON + timedelta(minutes=58), idle=IDLE) is not None
        assert sessions.find(connection, "s1", now=NOON + timedelta(minutes=59), idle=IDLE) is None
        assert sessions.find(connection, "s1", now=NOON + timedelta(hours=12), idle=timedelta(days=9)) is None
        users.change(connection, user.id, disabled=True)
        assert sessions.find(connection, "s1", now=NOON, idle=IDLE) is None
        assert not sessions.holds(connection, found.id, now=NOON, idle=IDLE)


def test_sessions_are_listed_and_ended_one_by_one_or_all(database):
    """Of one user; another's are left."""
    with database.begin() as connection:
        roe, lee = (users.add(connection, login, "reader", now=NOON) for login in ("roe", "lee"))
        for number in range(3):
            open_session(connection, roe, f"r{number}", now=NOON + timedelta(minutes=number))
        open_session(connection, lee, "l")
        mine = sessions.of_user(connection, roe.id, now=NOON + timedelta(minutes=3), idle=IDLE)
        assert [item.created_at.minute for item in mine] == [2, 1, 0]
        assert sessions.counts(connection, now=NOON + timedelta(minutes=3), idle=IDLE) == {roe.id: 3, lee.id: 1}
        assert sessions.holds(connection, mine[0].id, now=NOON, idle=IDLE)
        assert not sessions.close_one(connection, lee.id, mine[0].id)
        assert sessions.close_one(connection, roe.id, mine[0].id)
        assert sessions.close_all(connection, roe.id, but=mine[2].id) == 1
        assert sessions.find(connection, "r0", now=NOON, idle=IDLE) is not None
        assert sessions.close(connection, "r0")
        assert not sessions.close(connection, "r0")
        assert sessions.sweep(connection, now=NOON + timedelta(hours=13), idle=IDLE) == 1
        assert sessions.counts(connection, now=NOON, idle=timedelta(days=1)) == {}


def test_failures_are_counted_since_the_last_success(database):
    """Of a login, an address, and a login from an address."""
    since = NOON - timedelta(minutes=15)
    with database.begin() as connection:
        login_attempts.only_one(connection)
        for login, address, is_right in (
            ("roe", "a", False),
            ("roe", "a", True),
            ("Roe", "a", False),
            ("roe", "b", False),
            ("lee", "a", False),
        ):
            attempt = login_attempts.begin(connection, login, address, now=NOON)
            if is_right:
                login_attempts.succeeded(connection, attempt)
        for expected, asked in (
            (1, {"login": "roe", "address": "a"}),
            (2, {"login": "roe"}),
            (2, {"address": "a"}),
            (0, {"login": "nobody"}),
        ):
            assert login_attempts.failures(connection, since=since, **asked).count == expected, asked
        assert login_attempts.failures(connection, since=NOON, login="roe").count == 0
        assert login_attempts.failures(connection, since=since, login="roe").last_at == NOON
        assert login_attempts.is_known(connection, "ROE", "a")
        assert not login_attempts.is_known(connection, "roe", "b")
        assert login_attempts.forget(connection, before=NOON + timedelta(seconds=1), limit=3) == 3
        assert login_attempts.forget(connection, before=NOON + timedelta(seconds=1), limit=3) == 2


@pytest.mark.parametrize("written", ["ADMIN", " admin\n", "ad\x00min", "\x00admin"])
def test_a_login_is_counted_as_it_is_found(database, written):
    """Else each way to write it had tries of its own."""
    with database.begin() as connection:
        users.add(connection, "admin", "admin", now=NOON)
        assert users.find(connection, written) is not None
        login_attempts.begin(connection, written, "a", now=NOON)
        assert login_attempts.failures(connection, since=NOON - IDLE, login="admin").count == 1


def test_tries_of_many_threads_are_counted_one_after_another(database):
    """Else as many pass as come together."""
    counted = []

    def attempt() -> None:
        with database.begin() as connection:
            login_attempts.only_one(connection)
            counted.append(login_attempts.failures(connection, since=NOON - IDLE, login="roe").count)
            login_attempts.begin(connection, "roe", "a", now=NOON)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counted) == list(range(8))


@pytest.mark.parametrize("text", ["\x00", "a\x00b", "\ud800", "x" * 100_000, "'; --", "\u202e"])
def test_any_text_may_be_asked_for(database, text):
    """What strangers type reaches the database as it is."""
    with database.begin() as connection:
        assert users.find(connection, text) is None
        assert users.find_subject(connection, text, text) is None
        assert sessions.find(connection, text, now=NOON, idle=IDLE) is None
        assert login_attempts.failures(connection, since=NOON, login=text, address="a").count == 0
        login_attempts.begin(connection, text, "a", now=NOON)
        assert tokens.find(connection, text, now=NOON) is None
        assert not tokens.revoke(connection, text)
