"""Who may see the list: a token where one is asked for, and on loopback only who speaks to loopback."""

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection

from cxr_node.access import bearer, is_loopback, names_listener, needs_token
from cxr_node.settings import Worklist
from storage import Database, tokens

COOKIE = "cxr_node_token"
COOKIE_AGE_S = 12 * 3600  # a shift; the token itself ends when it is revoked


@dataclass(frozen=True)
class Reader:
    """Who reads: the token's name and role, or the address where no token is asked for."""

    name: str
    role: str


class AccessDenied(Exception):
    """The request shows no token, or one that nobody holds."""


class WrongHost(Exception):
    """The Host header names another machine, although only this one is served."""


class Access:
    """Decides about one request.

    Without a token the list is served on loopback only, and there to requests whose Host header names loopback: a web
    page elsewhere that points a name of its own at 127.0.0.1 (DNS rebinding) gets nothing.
    """

    def __init__(self, database: Database, settings: Worklist) -> None:
        self._database = database
        self._host = settings.host
        self.required = needs_token(settings.require_token, settings.host)
        self._checks_host = not self.required and is_loopback(settings.host)

    def check_host(self, connection: HTTPConnection) -> None:
        """Raise WrongHost where the name in the request is not ours."""
        if self._checks_host and not names_listener(connection.url.hostname, self._host):
            raise WrongHost

    def reader(self, connection: HTTPConnection) -> Reader:
        """Return who asks; raises AccessDenied where a token is needed and missing."""
        self.check_host(connection)
        secret = bearer_of(connection)
        if secret:
            with self._database.read() as opened:
                token = tokens.find(opened, secret)
            if token is not None:
                return Reader(token.name, token.role)
        if self.required:
            raise AccessDenied
        return Reader(f"anonymous@{connection.client.host if connection.client else 'unknown'}", "reader")


def bearer_of(connection: HTTPConnection) -> str:
    """Return the secret of the Authorization header, else of the cookie; empty without one."""
    authorization = connection.headers.get("authorization", "")
    if authorization.lower().startswith("bearer "):
        return bearer(authorization)
    return connection.cookies.get(COOKIE, "")


def local_target(target: str) -> str:
    """Return the page to go to after signing in; anything but a path of this site is the list."""
    is_path = target.startswith("/") and not target.startswith("//") and "\\" not in target and target.isprintable()
    return quote(target, safe="/?=&%-._~+,:") if is_path else "/"


def current_reader(
    request: Request, _: Annotated[object, Depends(HTTPBearer(auto_error=False, description="`cxr-node token create`"))]
) -> Reader:
    """FastAPI dependency: who asks."""
    access: Access = request.app.state.services.access
    return access.reader(request)


CurrentReader = Annotated[Reader, Depends(current_reader)]
