"""Users and tokens: the admin's page and the API do the same."""

import re

import pytest

from cxr_node.worklist.web.access import CSRF_HEADER
from storage import tokens, users
from tests.cxr_node.worklist.conftest import with_worklist
from tests.cxr_node.worklist.web.accounts.conftest import HTML, PASSWORD, csrf_of, sign

pytestmark = pytest.mark.requirement("SRS-ACC-006")


@pytest.fixture
def admin(house, add_user):
    """A client of an admin who signed in."""
    add_user("ada", "admin")
    sign(house, login="ada")
    house.headers[CSRF_HEADER] = csrf_of(house)
    return house


def post(client, path, **form):
    """Send a form of the page."""
    return client.post(f"/admin/{path}", data=form, headers=HTML)


def secret_of(answer):
    """Return what the page shows once."""
    return re.search(r"<code>([^<]+)</code>", answer.text).group(1)


def test_a_new_user_signs_in_with_what_is_shown_once(admin, make_client, settings, database, said):
    """And has to change it; nothing of it is kept but the hash."""
    answer = post(admin, "users", login="Dr.Roe", role="reader", name="Rita Roe")
    password = secret_of(answer)
    assert answer.headers["cache-control"] == "no-store"
    assert password not in admin.get("/admin/users", headers=HTML).text
    other = make_client(with_worklist(settings, require_token="always"))
    assert sign(other, login="dr.roe", password=password).status_code == 303
    assert other.get("/", headers=HTML).headers["location"] == "/account"
    assert ("user_added", "ada") in said()
    assert password not in str(said())


def test_role_reset_and_disabling_end_the_sessions_of_the_user(admin, make_client, settings, add_user, database):
    """What somebody may do is decided now, not when they signed in."""
    user, password = add_user(), PASSWORD
    for action, form in (("role", {"role": "auditor"}), ("end-sessions", {}), ("reset", {}), ("disable", {})):
        other = make_client(with_worklist(settings, require_token="always"))
        with database.begin() as connection:
            users.change(connection, user.id, must_change=False)
        sign(other, password=password)
        assert other.get("/account", headers=HTML).status_code == 200, action
        answer = post(admin, f"users/{user.id}/{action}", **form)
        password = secret_of(answer) if action == "reset" else password
        assert other.get("/account", headers=HTML).status_code == 303, action
    page = admin.get("/admin/users", headers=HTML).text
    assert "✕ disabled" in page
    assert post(admin, f"users/{user.id}/enable").status_code == 303
    assert "✕ disabled" not in admin.get("/admin/users", headers=HTML).text


def test_the_last_active_admin_stays(admin, add_user, database):
    """A node that nobody may administer is a visit to the basement."""
    with database.read() as connection:
        ada = users.find(connection, "ada")
    for action, form in (("disable", {}), ("role", {"role": "reader"})):
        answer = post(admin, f"users/{ada.id}/{action}", **form)
        assert (answer.status_code, "last active admin" in answer.text) == (422, True)
    add_user("second", "admin", disabled=True)
    assert post(admin, f"users/{ada.id}/disable").status_code == 422, "a disabled admin is none"
    assert admin.patch("/api/users/second", json={"disabled": False}).status_code == 200
    assert admin.patch("/api/users/ada", json={"role": "reader"}).status_code == 200
    assert admin.get("/admin/users", headers=HTML).status_code == 303


def test_a_token_is_shown_once_used_seen_and_revoked(admin, clock, database):
    """Whether a gateway still uses its token is on the page."""
    answer = post(admin, "tokens", name="ct gateway", role="service", days="30")
    secret = secret_of(answer)
    assert secret not in admin.get("/admin/users", headers=HTML).text
    admin.cookies.clear()
    bearer = {"Authorization": f"Bearer {secret}"}
    assert admin.get("/api/studies", headers=bearer).status_code == 200
    with database.read() as connection:
        (token,) = tokens.listed(connection)
    assert (token.created_by, token.last_used_at, (token.expires_at - clock.now).days) == ("ada", clock.now, 30)
    sign(admin, login="ada")
    admin.headers[CSRF_HEADER] = csrf_of(admin)
    assert post(admin, f"tokens/{token.id}/revoke").status_code == 303
    assert admin.get("/api/studies", headers={**bearer, "Cookie": ""}).status_code == 401
    assert post(admin, f"tokens/{token.id}/revoke").status_code == 404


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("users", {"login": "", "role": "reader"}),
        ("users", {"login": "<b>", "role": "reader"}),
        ("users", {"login": "x\ty", "role": "reader"}),
        ("users", {"login": "ada", "role": "reader"}),
        ("users", {"login": "gw", "role": "service"}),
        ("users", {"login": "eve", "role": "root"}),
        ("users", {"login": "eve", "role": "reader", "name": "\u202eevil"}),
        ("tokens", {"name": "", "role": "service"}),
        ("tokens", {"name": "<script>", "role": "service"}),
        ("tokens", {"name": "gw", "role": "service", "days": "-1"}),
        ("tokens", {"name": "gw", "role": "service", "days": "99999"}),
        ("tokens", {"name": "gw", "role": "service", "days": "٣"}),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_sentence(admin, database, path, form):
    """And nothing is made."""
    answer = post(admin, path, **form)
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    with database.read() as connection:
        assert [user.login for user in users.listed(connection)] == ["ada"]
        assert tokens.listed(connection) == []


def test_what_others_wrote_is_shown_as_text(admin, add_user, database, clock):
    """A provider's name, or what an older release let in, must not become markup."""
    attack = "<img src=x onerror=alert(1)>'\"&"
    add_user("eve", display_name=attack, issuer=attack)
    with database.begin() as connection:
        tokens.create(connection, attack, "service", now=clock.now, secret="s", created_by=attack)
    page = admin.get("/admin/users", headers=HTML).text
    assert "<img" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 6


def test_the_api_does_what_the_page_does(admin, database):
    """For scripts that set up a house."""
    made = admin.post("/api/users", json={"login": "dr.roe", "role": "reader", "name": "Rita Roe"})
    assert made.status_code == 201
    assert admin.post("/api/users", json={"login": "dr.roe", "role": "reader"}).status_code == 409
    reset = admin.post("/api/users/Dr.Roe/reset").json()
    assert reset["one_time_password"] != made.json()["one_time_password"]
    changed = admin.patch("/api/users/dr.roe", json={"role": "auditor", "disabled": True}).json()
    assert (changed["role"], changed["disabled"], changed["must_change"]) == ("auditor", True, True)
    listed = {user["login"]: user for user in admin.get("/api/users").json()["users"]}
    assert set(listed) == {"ada", "dr.roe"}
    assert "password_hash" not in listed["ada"]
    token = admin.post("/api/tokens", json={"name": "gw 1", "role": "service", "days": 7})
    assert (token.status_code, len(token.json()["secret"]) > 40) == (201, True)
    assert [item["name"] for item in admin.get("/api/tokens").json()["tokens"]] == ["gw 1"]
    assert admin.delete("/api/tokens/gw%201").status_code == 204
    for answer in (
        admin.delete("/api/tokens/gw%201"),
        admin.patch("/api/users/nobody", json={"role": "reader"}),
        admin.patch("/api/users/nobody", json={}),
        admin.post("/api/users/nobody/reset"),
    ):
        assert answer.status_code == 404, answer.text


def test_a_forms_address_leads_back_to_the_page(admin):
    """Loaded again, or opened from the history."""
    for path in ("tokens", "users/1/reset", "tokens/1/revoke"):
        assert admin.get(f"/admin/{path}", headers=HTML).headers["location"] == "/admin/users"
