"""A person's own account."""

from datetime import timedelta

import pytest

from cxr_node.worklist.web.accounts.limit import FREE_OF_PAIR
from storage import sessions, users
from tests.cxr_node.worklist.conftest import with_worklist
from tests.cxr_node.worklist.web.accounts.conftest import HTML, PASSWORD, csrf_of, sign

pytestmark = pytest.mark.requirement("SRS-ACC-003")

NEW = "seven lamps over the harbour"


def change(client, current=PASSWORD, new=NEW, again=NEW):
    """Send the form."""
    form = {"current": current, "new": new, "again": again, "csrf_token": csrf_of(client)}
    return client.post("/account/password", data=form, headers=HTML)


def test_a_password_for_once_opens_nothing_until_it_is_changed(house, add_user, ward):
    """Whoever handed it over knows it."""
    ward.add("1.2.3")
    add_user(must_change=True)
    assert sign(house).headers["location"] == "/"
    for path in ("/", "/studies/1.2.3", "/docs", "/list"):
        page = house.get(path, headers=HTML)
        assert (page.status_code, page.headers["location"]) == (303, "/account"), path
    api = house.get("/api/studies")
    assert (api.status_code, "/account" in api.json()["detail"]) == (403, True)
    page = house.get("/account", headers=HTML).text
    assert "Choose a password of your own first" in page
    assert "Try images" not in page
    answer = change(house)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert house.get("/", headers=HTML).status_code == 200
    assert sign(house).status_code == 401, "the former one is over"
    assert sign(house, password=NEW).status_code == 303


def test_changing_the_password_ends_all_other_sessions(house, make_client, settings, add_user, database, said, clock):
    """Whoever else was in with it is out, and a copy of this session's cookie too."""
    user = add_user()
    sign(house)
    sign(house2 := _second(make_client, settings))
    copy = house.cookies["cxr_node_session"]
    assert change(house).headers["location"] == "/account?changed=1"
    assert "The password is changed" in house.get("/account?changed=1", headers=HTML).text
    assert house2.get("/", headers=HTML).status_code == 303
    with database.read() as connection:
        assert sessions.find(connection, copy, now=clock.now, idle=timedelta(hours=1)) is None
        assert len(sessions.of_user(connection, user.id, now=clock.now, idle=timedelta(hours=1))) == 1
        assert users.get(connection, user.id).password_changed_at == clock.now
    assert ("password_changed", "dr.roe") in said()


def _second(make_client, settings):
    return make_client(with_worklist(settings, require_token="always"))


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({"current": "wrong"}, "The current password is wrong"),
        ({"again": "another one altogether"}, "The two new passwords differ"),
        ({"new": "short", "again": "short"}, "at least 12"),
        ({"new": PASSWORD, "again": PASSWORD}, "the password you have"),
    ],
)
def test_a_slip_is_told_and_changes_nothing(house, add_user, form, told):
    """And the page comes back."""
    add_user()
    sign(house)
    answer = change(house, **form)
    assert answer.status_code == 422
    assert told in answer.text
    assert sign(house).status_code == 303


def test_guessing_the_current_password_is_slowed_too(house, add_user):
    """An unlocked workstation must not tell the password."""
    add_user()
    sign(house)
    for _ in range(FREE_OF_PAIR):
        assert change(house, current="wrong").status_code == 422
    answer = change(house)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")


def test_one_sees_and_ends_ones_own_sessions_only(house, make_client, settings, add_user, database, clock):
    """The workstation that one forgot to sign out of; never a colleague's."""
    add_user()
    add_user("dr.lee")
    other, forgotten = _second(make_client, settings), _second(make_client, settings)
    sign(other, login="dr.lee")
    sign(forgotten)
    sign(house)
    with database.read() as connection:
        mine, theirs = (
            sessions.of_user(connection, users.find(connection, login).id, now=clock.now, idle=timedelta(hours=1))
            for login in ("dr.roe", "dr.lee")
        )
    token = {"csrf_token": csrf_of(house)}
    assert house.get("/account", headers=HTML).text.count("testclient") >= 2
    for item in (*mine, *theirs):
        if item.id == mine[0].id:
            continue
        assert house.post(f"/account/sessions/{item.id}/end", data=token).headers["location"] == "/account"
    assert forgotten.get("/", headers=HTML).status_code == 303
    assert other.get("/", headers=HTML).status_code == 200
    assert house.get("/", headers=HTML).status_code == 200


def test_the_account_of_the_provider_has_no_password_here(house, add_user):
    """Nor may one be set for it."""
    add_user(issuer="https://id.example", subject="7")
    sign(house)
    assert "kept at the hospital account" in house.get("/account", headers=HTML).text
    assert change(house).status_code == 409


def test_a_forms_address_leads_back_to_the_page(house, add_user):
    """Loaded again, or opened from the history."""
    add_user()
    sign(house)
    for path in ("/account/password", "/account/sessions/1/end"):
        assert house.get(path, headers=HTML).headers["location"] == "/account"
