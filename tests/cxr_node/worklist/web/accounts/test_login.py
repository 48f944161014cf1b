"""Signing in with a password, and signing out."""

from datetime import timedelta

import pytest
from argon2 import PasswordHasher
from sqlalchemy import text

from cxr_node.worklist.web.accounts import passwords
from cxr_node.worklist.web.accounts.limit import FREE_OF_ADDRESS, FREE_OF_LOGIN, FREE_OF_PAIR, LONGEST, Limit
from cxr_node.worklist.web.accounts.login import WRONG
from storage import audit, sessions, users
from tests.cxr_node.worklist.conftest import with_worklist
from tests.cxr_node.worklist.web.accounts.conftest import HTML, PASSWORD, csrf_of, sign

pytestmark = pytest.mark.requirement("SRS-ACC-001")


def test_signing_in_leaves_a_cookie_that_no_script_reads(house, add_user, said):
    """HttpOnly against scripts; Lax, so that a link in the RIS does not ask to sign in again."""
    add_user()
    answer = sign(house, login=" Dr.Roe ", next="/studies/1.2.3")
    assert (answer.status_code, answer.headers["location"]) == (303, "/studies/1.2.3")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "secure" not in cookie
    assert house.get("/", headers=HTML).status_code == 200
    assert said()[0] == ("signed_in", "dr.roe")


def test_an_auditor_is_led_to_the_audit_trail(house, add_user):
    """The list is not theirs; a page that says 403 is no welcome."""
    add_user("eve", "auditor")
    assert sign(house, login="eve").headers["location"] == "/admin/audit"


def test_behind_tls_the_cookie_is_bound_to_host_and_tls(make_client, settings, add_user):
    """A neighbouring host or a page over plain HTTP can plant no cookie of that name."""
    add_user()
    public = with_worklist(settings, require_token="always", public_url="https://cxr.example")
    answer = sign(make_client(public, base_url="https://cxr.example"))
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-cxr_node_session=")
    assert "; Secure" in cookie
    assert "; Path=/;" in cookie
    assert "Domain" not in cookie


def test_wrong_unknown_and_disabled_hear_the_same(house, add_user, said):
    """Who guesses learns nothing of who works here; the audit trail tells the three apart."""
    add_user()
    add_user("gone", disabled=True)
    wrong, unknown = sign(house, password="wrong"), sign(house, login="nobody")
    disabled = sign(house, login="gone")
    assert wrong.text == unknown.text == disabled.text
    assert {answer.status_code for answer in (wrong, unknown, disabled)} == {401}
    assert WRONG in wrong.text
    assert "set-cookie" not in wrong.headers
    assert said() == [("sign_in_failed", "dr.roe"), ("sign_in_failed", "unknown"), ("sign_in_failed", "gone")]


def test_an_unknown_login_costs_as_much_work_as_a_known_one(house, add_user, monkeypatch):
    """Time would tell what the words do not."""
    add_user()
    add_user("gone", disabled=True)
    verify, parameters = passwords._hasher.verify, []

    class Counting:
        @staticmethod
        def verify(password_hash: str, password: str) -> bool:
            parameters.append(password_hash.split("$")[3])
            return verify(password_hash, password)

    monkeypatch.setattr(passwords, "_hasher", Counting)
    for login, password in (("dr.roe", "wrong"), ("nobody", "wrong"), ("gone", PASSWORD), ("", "")):
        assert sign(house, login=login, password=password).status_code == 401
    assert parameters == ["m=8,t=1,p=1"] * 4, "one verification each, with equal parameters"


def test_what_was_typed_as_login_is_kept_nowhere(house, database):
    """Some type their password there."""
    sign(house, login="my secret passphrase", password="")
    with database.read() as connection:
        rows = [str(row) for table in ("login_attempts", "audit_events") for row in _rows(connection, table)]
    assert len(rows) == 2
    assert "secret" not in str(rows)


def _rows(connection, table):
    return connection.execute(text(f"SELECT * FROM {table}")).all()


def test_each_sign_in_has_a_session_of_its_own(house, add_user, database, clock):
    """A session id that somebody planted beforehand must be worth nothing afterwards."""
    user = add_user()
    sign(house)
    first = house.cookies["cxr_node_session"]
    sign(house)
    assert house.cookies["cxr_node_session"] != first
    with database.read() as connection:
        assert sessions.find(connection, first, now=clock.now, idle=timedelta(hours=1)) is None
        assert len(sessions.of_user(connection, user.id, now=clock.now, idle=timedelta(hours=1))) == 1


def test_signing_out_ends_the_session_for_good(house, add_user, said):
    """Not only the cookie: a copy of it must not open anything."""
    add_user()
    sign(house)
    copy = house.cookies["cxr_node_session"]
    answer = house.post("/logout", data={"csrf_token": csrf_of(house)})
    assert answer.headers["location"] == "/login?out=1"
    assert "You are signed out here" in house.get("/login?out=1").text
    house.cookies.set("cxr_node_session", copy)
    assert house.get("/", headers=HTML).status_code == 303
    assert said()[-1] == ("signed_out", "dr.roe")


def test_a_hash_of_former_parameters_is_renewed(house, add_user, database):
    """What was enough ten years ago is renewed while the password is at hand."""
    former = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
    add_user(password_hash=former.hash(PASSWORD))
    assert sign(house).status_code == 303
    with database.read() as connection:
        renewed = users.find(connection, "dr.roe").password_hash
    assert not passwords.is_outdated(renewed)
    assert passwords.verify(renewed, PASSWORD)


def test_a_page_of_another_site_cannot_sign_a_browser_in(house, add_user):
    """Else somebody works, and assesses, in the account of a stranger (login CSRF)."""
    add_user()
    for origin in ("https://evil.example", "null"):
        answer = house.post("/login", data={"login": "dr.roe", "password": PASSWORD}, headers={"Origin": origin})
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers


@pytest.mark.requirement("SRS-ACC-002")
def test_guessing_is_slowed_and_told(house, add_user, clock):
    """After a few failures the next try has to wait, ever longer, at most a minute; success forgets them."""
    add_user()
    for _ in range(FREE_OF_PAIR):
        assert sign(house, password="wrong").status_code == 401
    answer = sign(house)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert "Try again in 2 s" in answer.text
    assert sign(house).headers["retry-after"] == "2", "knocking does not lengthen the wait"
    waits = []
    for _ in range(7):
        clock.now += LONGEST
        assert sign(house, password="wrong").status_code == 401
        waits.append(int(sign(house).headers["retry-after"]))
    assert waits == [4, 8, 16, 32, 60, 60, 60]
    clock.now += LONGEST
    assert sign(house).status_code == 303
    assert sign(house, password="wrong").status_code == 401, "counted from zero again"


@pytest.mark.requirement("SRS-ACC-002")
def test_a_stranger_does_not_lock_the_admin_out(database, clock):
    """From where the admin signed in before, nobody else's failures count."""
    limit = Limit(database, clock)
    limit.succeeded(limit.begin("admin", "192.0.2.10"))
    for number in range(FREE_OF_LOGIN + 5):
        clock.now += timedelta(seconds=1)
        limit.begin("admin", f"198.51.100.{number}")
    assert limit.begin("admin", "198.51.100.200").wait_s > 0, "from elsewhere the login is slowed"
    assert limit.begin("admin", "192.0.2.10").wait_s == 0


@pytest.mark.requirement("SRS-ACC-002")
def test_one_password_on_many_logins_is_slowed_too(database, clock):
    """Unknown logins count as known ones do."""
    limit = Limit(database, clock)
    for number in range(FREE_OF_ADDRESS):
        assert limit.begin(f"user{number}", "192.0.2.66").wait_s == 0
    assert limit.begin("another", "192.0.2.66").wait_s > 0
    assert limit.begin("another", "192.0.2.67").wait_s == 0


@pytest.mark.requirement("SRS-ACC-002")
def test_tries_that_come_together_are_counted_before_they_are_looked_at(database, clock):
    """Fifty at once must not all find the count that the first of them found."""
    limit = Limit(database, clock)
    waits = [limit.begin("admin", "192.0.2.66").wait_s for _ in range(FREE_OF_PAIR + 3)]
    assert [wait > 0 for wait in waits] == [False] * FREE_OF_PAIR + [True] * 3


@pytest.mark.requirement("SRS-ACC-002")
def test_a_flood_of_sign_ins_is_turned_away_not_stored_up(house, add_user, monkeypatch):
    """Each takes 64 MiB for a moment; the list must stay."""
    add_user()
    monkeypatch.setattr(passwords, "WAIT_S", 0.0)
    taken = [passwords._free.acquire(blocking=False) for _ in range(passwords.AT_ONCE)]
    try:
        answer = sign(house)
    finally:
        for _ in taken:
            passwords._free.release()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
    assert sign(house).status_code == 303


def test_a_form_of_any_bytes_is_an_answer(house, database):
    """No input ends in a server error, and none is reflected as markup."""
    for login in ("\x00", "ü" * 5000, "'; DROP TABLE users; --", "<script>alert(1)</script>", "a" * 100_000):
        answer = sign(house, login=login, password=login, next="/<script>")
        assert answer.status_code == 401
        assert "<script>alert" not in answer.text
        assert "/<script>" not in answer.text
    assert house.post("/login", content=b"\xff\xfe=%ff", headers={"content-type": "text/plain"}).status_code < 500
    assert house.post("/login", data={"login": "a", "password": "x" * 3_000_000}).status_code == 413
    with database.read() as connection:
        assert audit.events(connection)[0].event == "sign_in_failed"
