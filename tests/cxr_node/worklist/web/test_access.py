"""Who may see the list: tokens, sessions and their ends, hosts and origins."""

import asyncio
from datetime import timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy.exc import OperationalError
from starlette.requests import Request
from starlette.testclient import TestClient

from cxr_node.access import is_loopback
from cxr_node.errors import SettingsError
from cxr_node.worklist.services import make_services
from cxr_node.worklist.web.access import COOKIE, CSRF_HEADER, LIVE_HEADER, local_target
from cxr_node.worklist.web.app import create_app
from storage import audit, sessions, tokens, users
from tests.cxr_node.worklist.conftest import NOON, with_worklist

pytestmark = pytest.mark.requirement("SRS-WLT-006")

SECRET = "s3cret-that-is-long-enough-to-be-random"
BEARER = {"Authorization": f"Bearer {SECRET}"}
HTML = {"Accept": "text/html"}
PATHS = ["/", "/list", "/studies/1.2.3", "/api/studies", "/api/studies/1.2.3", "/events", "/metrics", "/openapi.json"]


@pytest.fixture
def guarded(make_client, settings, database, ward):
    """An application where people sign in, and a token that exists."""
    ward.add("1.2.3")
    with database.begin() as connection:
        tokens.create(connection, "dr-lee", "reader", now=NOON, secret=SECRET)
    return make_client(with_worklist(settings, require_token="always"))


@pytest.mark.parametrize("path", PATHS)
def test_nothing_of_a_study_is_shown_to_nobody(guarded, path):
    """Programs hear 401, browsers are led to the form."""
    answer = guarded.get(path)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "Jane" not in answer.text
    assert guarded.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
    if not path.startswith("/api"):
        page = guarded.get(path, headers=HTML)
        assert page.status_code == 303
        assert page.headers["location"].startswith("/login?next=")


@pytest.mark.parametrize("path", ["/healthz", "/login", "/static/style.css"])
def test_health_and_the_form_need_no_token(guarded, path):
    """A probe holds no secrets."""
    assert guarded.get(path).status_code == 200
    assert guarded.get("/readyz").status_code in (200, 503)


def test_a_bearer_token_opens_the_list_and_its_name_is_audited(guarded, database):
    """Who looked is a name, not an address."""
    assert guarded.get("/api/studies/1.2.3", headers=BEARER).status_code == 200
    with database.read() as connection:
        entry = audit.events(connection, study_instance_uid="1.2.3")[0]
        (token,) = tokens.listed(connection)
    assert (entry.event, entry.actor, entry.detail["role"]) == ("study_read", "dr-lee", "reader")
    assert token.last_used_at == NOON


def test_a_token_that_is_revoked_or_expires_ends_at_once(guarded, database, clock):
    """Who left the house is out."""
    with database.begin() as connection:
        ends = NOON + timedelta(days=1)
        tokens.create(connection, "for-a-day", "reader", now=NOON, secret="other-secret", expires_at=ends)
        tokens.revoke(connection, "dr-lee")
    assert guarded.get("/api/studies", headers=BEARER).status_code == 401
    assert guarded.get("/api/studies", headers={"Authorization": "Bearer other-secret"}).status_code == 200
    clock.now = ends
    assert guarded.get("/api/studies", headers={"Authorization": "Bearer other-secret"}).status_code == 401


@pytest.mark.requirement("SRS-ACC-004")
def test_a_session_ends_when_it_is_not_used(guarded, sign_in, clock):
    """A workstation that somebody walked away from closes by itself."""
    sign_in(guarded, "reader")
    for _ in range(4):
        clock.now += timedelta(minutes=29)
        assert guarded.get("/", headers=HTML).status_code == 200
    clock.now += timedelta(minutes=30)
    page = guarded.get("/studies/1.2.3?x=1", headers=HTML)
    assert (page.status_code, page.headers["location"]) == (303, "/login?next=%2Fstudies%2F1.2.3%3Fx%3D1")


@pytest.mark.requirement("SRS-ACC-004")
def test_a_page_that_renews_itself_does_not_keep_its_session(guarded, sign_in, clock):
    """Studies arrive all night; nobody need be there for that. A part that is asked for then leads to the form."""
    sign_in(guarded, "reader")
    live = {LIVE_HEADER: "1", "HX-Request": "true", "HX-Current-URL": "http://127.0.0.1:8042/?status=flagged"}
    for _ in range(2):
        clock.now += timedelta(minutes=14)
        assert guarded.get("/list", headers=live).status_code == 200
    clock.now += timedelta(minutes=14)
    answer = guarded.get("/list", headers=live)
    assert answer.status_code == 401
    assert answer.headers["hx-redirect"] == "/login?next=%2F%3Fstatus%3Dflagged"


@pytest.mark.requirement("SRS-ACC-004")
def test_a_session_ends_in_any_case_after_its_longest_time(guarded, sign_in, clock):
    """A stolen cookie is worth one shift."""
    sign_in(guarded, "reader")
    for _ in range(24):
        clock.now += timedelta(minutes=29)
        assert guarded.get("/", headers=HTML).status_code == 200
    clock.now = NOON + timedelta(hours=12)
    assert guarded.get("/", headers=HTML).status_code == 303


@pytest.mark.requirement("SRS-ACC-004")
def test_the_stream_of_events_ends_with_the_session(guarded, sign_in, database, clock):
    """An open page must not go on hearing of arrivals after its reader was signed out."""
    sign_in(guarded, "reader", login="dr.roe")
    access = guarded.app.state.services.access
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/events",
        "query_string": b"",
        "headers": [(b"cookie", f"{COOKIE}={guarded.cookies[COOKIE]}".encode()), (b"host", b"127.0.0.1:8042")],
    }
    request = Request(scope)
    person = access.person(request)
    assert access.still(request, person)
    with database.begin() as connection:
        sessions.close_all(connection, person.user_id)
    assert not access.still(request, person)

    async def listen() -> list[str]:
        return [line async for line in guarded.app.state.services.events.stream(lambda: access.still(request, person))]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cxr_node.worklist.web.events.KEEP_ALIVE_S", 0.01)
        assert asyncio.run(listen()) == ["retry: 2000\n\n"]


@pytest.mark.requirement("SRS-ACC-004")
@pytest.mark.parametrize("what", [{"disabled": True}, {"must_change": True}])
def test_a_user_who_may_not_any_more_is_out_at_once(guarded, sign_in, database, what):
    """Also between two clicks."""
    sign_in(guarded, "reader", login="dr.roe")
    with database.begin() as connection:
        user = users.find(connection, "dr.roe")
        users.change(connection, user.id, **what)
    page = guarded.get("/studies/1.2.3", headers=HTML)
    assert "Jane" not in page.text
    expected = "/account" if "must_change" in what else "/login?next=%2Fstudies%2F1.2.3"
    assert (page.status_code, page.headers["location"]) == (303, expected)


@pytest.mark.requirement("SRS-ACC-005")
@pytest.mark.parametrize("shown", ["", "wrong", "ü", "session-of-another"])
def test_a_request_that_changes_something_carries_the_token_of_its_session(guarded, sign_in, shown):
    """A cookie alone is sent by any page that can make a browser post."""
    token = sign_in(guarded, "reader")
    path = "/api/studies/1.2.3/feedback"
    headers = {CSRF_HEADER: shown.encode()}
    assert guarded.post(path, json={"verdict": "agree"}, headers=headers).status_code == 403
    assert guarded.post("/logout", headers={**headers, **HTML}).status_code == 403
    del guarded.headers[CSRF_HEADER]
    assert guarded.post("/logout", data={"csrf_token": shown}).status_code == 403
    assert guarded.post("/logout", data={"csrf_token": token}).status_code == 303


@pytest.mark.requirement("SRS-ACC-005")
@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://evil.example", 403), ("null", 403), ("", 403), ("http://127.0.0.1:8043", 403), (None, 303)],
)
def test_a_page_of_another_origin_changes_nothing_even_with_the_token(guarded, sign_in, origin, status):
    """The second lock: a token may leak, an origin is the browser's word."""
    sign_in(guarded, "reader")
    headers = {} if origin is None else {"Origin": origin}
    assert guarded.post("/logout", headers=headers).status_code == status


@pytest.mark.requirement("SRS-ACC-005")
def test_behind_a_proxy_the_public_origin_and_the_callers_address_count(make_client, settings, sign_in, database):
    """The proxy stands on this machine and says who asks; the cookie is bound to the host and to TLS."""
    public = with_worklist(settings, require_token="always", public_url="https://cxr.hospital.example")
    app = create_app(make_services(public, database, lambda: NOON))
    base = "http://127.0.0.1:8042"
    with TestClient(app, base_url=base, client=("127.0.0.1", 5), follow_redirects=False) as near:
        forwarded = {"Origin": "https://cxr.hospital.example", "X-Forwarded-For": "203.0.113.9, 192.0.2.7"}
        near.post("/login", data={"login": "nobody", "password": "x"}, headers=forwarded)
        assert near.get("/login").status_code == 200
    with TestClient(app, base_url=base, client=("198.51.100.2", 5), follow_redirects=False) as far:
        assert far.post("/login", data={"login": "nobody"}, headers={"X-Forwarded-For": "203.0.113.1"}).status_code
    with database.read() as connection:
        found = [event.detail["address"] for event in audit.events(connection) if event.event == "sign_in_failed"]
    assert found == ["198.51.100.2", "192.0.2.7"], "the nearest one that the proxy saw, and never a stranger's word"


def test_without_a_public_address_nobody_is_believed_about_addresses(guarded, database):
    """There is no proxy then: who writes the header wants another name in the audit trail."""
    guarded.post("/login", data={"login": "nobody"}, headers={"X-Forwarded-For": "203.0.113.1"})
    with database.read() as connection:
        assert audit.events(connection)[0].detail["address"] == "testclient"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "10.1.2.3"])
@pytest.mark.parametrize("require", ["auto", "always"])
def test_people_sign_in_wherever_it_listens(make_client, settings, host, require):
    """On a workstation that several share, loopback is no person."""
    client = make_client(with_worklist(settings, host=host, require_token=require))
    assert client.get("/api/studies").status_code == 401


@pytest.mark.parametrize("changes", [{"host": "0.0.0.0"}, {"host": "10.1.2.3"}, {"public_url": "https://cxr.example"}])
def test_an_open_list_beyond_this_machine_is_a_mistake_in_the_settings(settings, database, changes):
    """Whoever sets `never` on a laptop must not publish the ward with the next line."""
    with pytest.raises(SettingsError, match="require_token"):
        make_services(with_worklist(settings, require_token="never", **changes), database)


def test_without_sign_in_a_reader_reads_and_nothing_more(client, ward):
    """What an open list gives away is the list."""
    ward.add("1.2.3")
    assert client.get("/", headers=HTML).status_code == 200
    assert client.get("/api/users").status_code == 403
    assert client.get("/account", headers=HTML).status_code == 303


def test_without_a_token_only_names_of_loopback_are_served(make_client, settings, ward):
    """A page elsewhere may point its own name at 127.0.0.1 and have the reader's browser ask (DNS rebinding)."""
    ward.add("1.2.3")
    client = make_client(settings, base_url="http://evil.example:8042")
    for path in (*PATHS, "/login", "/docs"):
        answer = client.get(path)
        assert answer.status_code == 421
        assert "Jane" not in answer.text
    assert client.get("/healthz").status_code == 200
    for name in ("localhost", "127.0.0.1", "[::1]"):
        assert make_client(settings, base_url=f"http://{name}:8042").get("/api/studies").status_code == 200


def test_a_full_disk_does_not_lock_readers_out(guarded, database, monkeypatch):
    """When somebody was last here is worth less than that they can read."""

    def full(*_: object, **__: object) -> None:
        raise OperationalError("UPDATE tokens", {}, Exception("disk full"))

    monkeypatch.setattr(tokens, "used", full)
    assert guarded.get("/api/studies/1.2.3", headers=BEARER).status_code == 200


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/studies/1.2", "/studies/1.2"),
        ("/?status=pending&page=2", "/?status=pending&page=2"),
        ("//evil.example", "/"),
        ("https://evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/a\r\nSet-Cookie: x", "/"),
        ("/\t/evil.example", "/"),
        ("", "/"),
    ],
)
def test_signing_in_leads_nowhere_else(target, expected):
    """A link with a foreign target is how credentials are fished for."""
    assert local_target(target) == expected


def test_loopback_is_an_address_not_a_guess():
    """A name that is not known to be local is not."""
    assert is_loopback("::1")
    assert not is_loopback("node.example")


def test_the_database_away_does_not_end_streams(settings, database, monkeypatch):
    """They ask again; a reader who loses the live list during a fail-over would not notice."""
    access = make_services(with_worklist(settings, require_token="always"), database).access

    def away(*_: object, **__: object) -> None:
        raise OperationalError("SELECT", {}, Exception("gone"))

    monkeypatch.setattr(access, "known", away)
    assert access.still(SimpleNamespace(), SimpleNamespace(via="session", name="a", role="reader"))
