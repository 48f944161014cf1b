"""Who may see the list."""

import pytest

from cxr_node.worklist.web.access import COOKIE, is_loopback, local_target
from storage import audit, tokens
from tests.cxr_node.worklist.conftest import NOON, with_worklist

pytestmark = pytest.mark.requirement("SRS-WLT-006")

SECRET = "s3cret-that-is-long-enough-to-be-random"
PATHS = ["/", "/list", "/studies/1.2.3", "/api/studies", "/api/studies/1.2.3", "/events", "/metrics"]


@pytest.fixture
def guarded(make_client, settings, database, ward):
    """An application that asks for a token, and one that exists."""
    ward.add("1.2.3")
    with database.begin() as connection:
        tokens.create(connection, "dr-lee", "reader", now=NOON, secret=SECRET)
    return make_client(with_worklist(settings, require_token="always"))


@pytest.mark.parametrize("path", PATHS)
def test_nothing_of_a_study_is_shown_without_a_token(guarded, path):
    """Programs hear 401, browsers are led to the form."""
    answer = guarded.get(path)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "Jane" not in answer.text
    assert guarded.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
    if not path.startswith("/api"):
        page = guarded.get(path, headers={"Accept": "text/html"})
        assert page.status_code == 303
        assert page.headers["location"].startswith("/login?next=")


@pytest.mark.parametrize("path", ["/healthz", "/login", "/static/style.css"])
def test_health_and_the_form_need_no_token(guarded, path):
    """A probe holds no secrets."""
    assert guarded.get(path).status_code == 200
    assert guarded.get("/readyz").status_code in (200, 503)


def test_a_bearer_token_opens_the_list_and_its_name_is_audited(guarded, database):
    """Who looked is a name, not an address."""
    assert guarded.get("/api/studies/1.2.3", headers={"Authorization": f"Bearer {SECRET}"}).status_code == 200
    with database.read() as connection:
        entry = audit.events(connection, study_instance_uid="1.2.3")[0]
    assert (entry.event, entry.actor, entry.detail["role"]) == ("study_read", "dr-lee", "reader")


def test_signing_in_leaves_a_cookie_no_script_can_read(guarded):
    """HttpOnly against scripts, SameSite against other sites."""
    answer = guarded.post("/login", content=f"token={SECRET}&next=%2Fstudies%2F1.2.3")
    assert (answer.status_code, answer.headers["location"]) == (303, "/studies/1.2.3")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert guarded.get("/", headers={"Accept": "text/html"}).status_code == 200
    assert COOKIE in guarded.cookies
    assert guarded.post("/logout").headers["location"] == "/login"
    assert guarded.get("/").status_code == 401


def test_a_wrong_token_is_told_and_leaves_nothing(guarded):
    """The form comes back with a sentence."""
    answer = guarded.post("/login", content="token=wrong")
    assert answer.status_code == 401
    assert "Nobody holds this token" in answer.text
    assert "set-cookie" not in answer.headers
    assert guarded.post("/login", content="x" * 5000).status_code == 413


def test_a_revoked_token_ends_at_once(guarded, database):
    """Who left the house is out."""
    guarded.post("/login", content=f"token={SECRET}")
    with database.begin() as connection:
        tokens.revoke(connection, "dr-lee")
    assert guarded.get("/").status_code == 401


@pytest.mark.parametrize(
    ("host", "require", "expected"),
    [
        ("127.0.0.1", "auto", 200),
        ("localhost", "auto", 200),
        ("0.0.0.0", "auto", 401),
        ("10.1.2.3", "auto", 401),
        ("0.0.0.0", "never", 200),
        ("127.0.0.1", "always", 401),
    ],
)
def test_a_token_is_asked_for_by_default_beyond_loopback(make_client, settings, host, require, expected):
    """Opening the port to the house must not open the list to it."""
    client = make_client(with_worklist(settings, host=host, require_token=require))
    assert client.get("/api/studies").status_code == expected


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


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/studies/1.2", "/studies/1.2"),
        ("/?status=pending&page=2", "/?status=pending&page=2"),
        ("//evil.example", "/"),
        ("https://evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/a\r\nSet-Cookie: x", "/"),
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
