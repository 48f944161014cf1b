"""Every route of the application, held against every role."""

import re
from collections.abc import Iterator

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.routing import Mount

from cxr_node.worklist.web.access import CSRF_HEADER, SAFE_METHODS
from cxr_node.worklist.web.permissions import GRANTS, ROLES, Permission
from storage import tokens, users
from tests.cxr_node.worklist.conftest import NOON, with_worklist

pytestmark = pytest.mark.requirement("SRS-ACC-008")

# Open to whoever reaches the port. None of them shows anything of a study; the last four are how one signs in.
PUBLIC = {"/healthz", "/readyz", "/login", "/login/oidc", "/login/oidc/callback", "/login/oidc/logout"}
MOUNTED = {"/static"}
LONG = {"/events"}


def routes_of(app) -> Iterator[tuple[str, str, Permission | None]]:
    """Yield method, path and the permission that the route asks for, of every route there is."""
    for route in _flat(app.routes):
        if isinstance(route, Mount):
            assert route.path in MOUNTED
            continue
        assert isinstance(route, APIRoute), f"{route} is not one of ours"
        for method in sorted(route.methods):
            yield method, route.path, _permission(route.dependant)


def _flat(routes) -> Iterator[object]:
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is None:
            yield route
        else:
            prefix = route.include_context.prefix if hasattr(route, "include_context") else ""
            assert not prefix
            yield from _flat(inner.routes)


def _permission(dependant: Dependant) -> Permission | None:
    found = [getattr(dependant.call, "permission", None), *(_permission(item) for item in dependant.dependencies)]
    return next((item for item in found if item is not None), None)


def address(path: str) -> str:
    """Return a path with something in each of its places."""
    return re.sub(r"\{[^}]+\}", "1", path)


@pytest.fixture
def guarded(make_client, settings, database):
    """An application with people's sign-in and a token of each role."""
    with database.begin() as connection:
        for role in ROLES:
            tokens.create(connection, f"the-{role}", role, now=NOON, secret=f"secret-of-{role}")
    return make_client(with_worklist(settings, require_token="always"))


def test_every_route_is_public_by_name_or_asks_for_a_permission(guarded):
    """Whoever adds a route and forgets who may use it fails here."""
    found = list(routes_of(guarded.app))
    assert len(found) > 40
    open_routes = {path for _, path, permission in found if permission is None}
    assert open_routes == PUBLIC
    assert {permission for _, _, permission in found} == {*Permission, None}, "each permission guards something"


def test_nobody_known_gets_nothing(guarded):
    """401 on every route but the public ones, whatever the method."""
    for method, path, permission in routes_of(guarded.app):
        if permission is not None:
            answer = guarded.request(method, address(path))
            assert answer.status_code in (401, 422), f"{method} {path}: {answer.status_code}"
            assert answer.status_code == 401 or _is_shape(answer), f"{method} {path}"


@pytest.mark.parametrize("role", ROLES)
def test_a_role_without_the_permission_is_refused(guarded, role):
    """403 on every route, with the role in the sentence."""
    headers = {"Authorization": f"Bearer secret-of-{role}"}
    refused = 0
    for method, path, permission in routes_of(guarded.app):
        if permission is None or role in GRANTS[permission]:
            continue
        answer = guarded.request(method, address(path), headers=headers)
        assert answer.status_code == 403, f"{method} {path} as {role}: {answer.status_code}"
        assert role in answer.json()["detail"]
        refused += 1
    assert refused or role == "admin"


@pytest.mark.parametrize("role", ROLES)
def test_a_role_with_the_permission_is_let_in(guarded, role):
    """The matrix says yes where it should: reading routes answer, whatever they then find."""
    headers = {"Authorization": f"Bearer secret-of-{role}", "Accept": "text/html"}
    for method, path, permission in routes_of(guarded.app):
        if method != "GET" or permission is None or role not in GRANTS[permission] or path in LONG:
            continue
        answer = guarded.get(address(path), headers=headers)
        expected = (401, 303) if permission is Permission.OWN_ACCOUNT else ()  # of a session, not of a token
        assert answer.status_code not in (401, 403) or answer.status_code in expected, f"{path} as {role}"
        assert answer.status_code < 500 or answer.status_code in (501, 503), f"{path} as {role}"


@pytest.mark.parametrize("role", [role for role in ROLES if role != "service"])
def test_every_change_from_a_session_needs_its_csrf_token_and_origin(guarded, sign_in, role):
    """A page of another site can make a browser send a cookie, never the token."""
    token = sign_in(guarded, role)
    for method, path, permission in routes_of(guarded.app):
        if method in SAFE_METHODS or permission is None or role not in GRANTS[permission]:
            continue
        for headers in ({CSRF_HEADER: ""}, {CSRF_HEADER: token, "Origin": "https://evil.example"}):
            answer = guarded.request(method, address(path), headers=headers)
            assert answer.status_code == 403, f"{method} {path} as {role}: {answer.status_code}"


def test_a_password_for_once_opens_the_own_account_only(guarded, sign_in, database):
    """Whoever handed it over knows it too."""
    sign_in(guarded, "admin", login="new")
    with database.begin() as connection:
        users.change(connection, users.find(connection, "new").id, must_change=True)
    for method, path, permission in routes_of(guarded.app):
        if permission in (None, Permission.OWN_ACCOUNT):
            continue
        answer = guarded.request(method, address(path))
        assert answer.status_code == 403, f"{method} {path}: {answer.status_code}"
        assert "/account" in answer.json()["detail"]


def test_where_nobody_signs_in_only_readers_routes_are_open(client):
    """What changes the node always needs somebody with a name."""
    for method, path, permission in routes_of(client.app):
        if permission is None or "reader" in GRANTS[permission]:
            continue
        assert client.request(method, address(path)).status_code == 403, f"{method} {path}"


def test_who_may_what_is_written_here_too():
    """The table of the program and the sentence of the README, side by side: a slip in one of them shows."""
    assert {permission.name: sorted(roles) for permission, roles in GRANTS.items()} == {
        "READ_STUDIES": ["admin", "reader", "service"],
        "ASSESS": ["admin", "reader"],
        "WORK_ITEMS": ["admin", "reader", "service"],
        "TRY_IMAGES": ["admin", "reader"],
        "MONITOR": ["admin", "auditor", "reader", "service"],
        "READ_AUDIT": ["admin", "auditor"],
        "ADMINISTER": ["admin"],
        "OWN_ACCOUNT": ["admin", "auditor", "reader"],
    }


def _is_shape(answer) -> bool:
    return isinstance(answer.json()["detail"], list)
