"""Who asks: a person with a session, a program with a token, or nobody known; and what the route needs of them.

A route says what it needs in its signature::

    def list_studies(request: Request, person: StudyReader) -> ...

which answers 401 to nobody known, 403 to a role that may not, and 403 to a request that a page of another site may
have sent.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection

from cxr_node.access import bearer, is_loopback, names_listener
from cxr_node.clock import utc_now
from cxr_node.settings import Worklist
from cxr_node.worklist.web.permissions import Permission, may, who_may
from storage import Database, sessions, tokens

COOKIE = "cxr_node_session"
CSRF_HEADER = "x-csrf-token"
CSRF_FIELD = "csrf_token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Person:
    """Who asks. `name` is a login, the name of a token, or an address where nobody has to sign in.

    `csrf_token` is that of a session; what its pages send to change something must carry it.
    """

    name: str
    role: str
    via: Literal["session", "token", "open"]
    display_name: str = ""
    csrf_token: str = ""
    must_change: bool = False
    session_id: int = 0
    user_id: int = 0

    def may(self, permission: Permission) -> bool:
        """Whether the role has the permission."""
        return may(self.role, permission)


class AccessDenied(Exception):
    """The request shows no session and no token, or one that does not hold."""


class WrongHost(Exception):
    """The Host header names another machine, although only this one is served."""


class Access:
    """Decides about one request.

    Where nobody has to sign in the list is served on loopback only, and there to requests whose Host header names
    loopback: a web page elsewhere that points a name of its own at 127.0.0.1 (DNS rebinding) gets nothing.
    """

    def __init__(self, database: Database, settings: Worklist, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._host = settings.host
        self._now = now
        self._idle = timedelta(minutes=settings.session_idle_min)
        self._public_host = urlsplit(settings.public_url).netloc
        self.required = settings.require_token != "never"
        self._checks_host = not self.required and is_loopback(settings.host)

    def check_host(self, connection: HTTPConnection) -> None:
        """Raise WrongHost where the name in the request is not ours."""
        if self._checks_host and not names_listener(connection.url.hostname, self._host):
            raise WrongHost

    def person(self, connection: HTTPConnection) -> Person:
        """Return who asks; raises AccessDenied where that has to be known and is not."""
        self.check_host(connection)
        found = self.known(connection)
        if found is not None:
            return found
        if self.required:
            raise AccessDenied
        return Person(f"anonymous@{connection.client.host if connection.client else 'unknown'}", "reader", "open")

    def known(self, connection: HTTPConnection) -> Person | None:
        """Return whose token or session the request shows, or None."""
        authorization = connection.headers.get("authorization", "")
        if authorization:
            return self._of_token(bearer(authorization))
        secret = connection.cookies.get(COOKIE, "")
        return self._of_session(secret) if secret else None

    def _of_token(self, secret: str) -> Person | None:
        with self._database.read() as opened:
            token = tokens.find(opened, secret) if secret else None
        return None if token is None else Person(token.name, token.role, "token")

    def _of_session(self, secret: str) -> Person | None:
        now = self._now()
        with self._database.read() as opened:
            session = sessions.find(opened, secret, now=now, idle=self._idle)
        if session is None:
            return None
        if sessions.is_due(session, now):
            with self._database.begin() as opened:
                sessions.seen(opened, session, now=now)
        return Person(
            session.login,
            session.role,
            "session",
            session.display_name,
            session.csrf_token,
            session.must_change,
            session.id,
            session.user_id,
        )

    def check_origin(self, connection: HTTPConnection) -> None:
        """Refuse what a page of another site sends: a browser would speak in its user's name."""
        origin = connection.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc not in (connection.headers.get("host"), self._public_host):
            raise HTTPException(403, "a page of another origin may not change anything here")


def local_target(target: str) -> str:
    """Return the page to go to after signing in; anything but a path of this site is the list."""
    is_path = target.startswith("/") and not target.startswith("//") and "\\" not in target and target.isprintable()
    return quote(target, safe="/?=&%-._~+,:") if is_path else "/"


def requires(permission: Permission) -> Callable[..., Awaitable[Person]]:
    """Return the FastAPI dependency of a route that needs the permission.

    A request that may change something and comes with a session must carry its CSRF token, in the header
    ``X-CSRF-Token``, or in the field ``csrf_token`` of a form.
    """

    async def check(
        request: Request,
        _: Annotated[object, Depends(HTTPBearer(auto_error=False, description="`cxr-node token create`"))],
    ) -> Person:
        access: Access = request.app.state.services.access
        person = access.person(request)
        if not person.may(permission):
            raise HTTPException(403, f"the role {person.role} may not {permission.value}; {who_may(permission)} may")
        if request.method not in SAFE_METHODS and person.via != "token":
            access.check_origin(request)
            if person.via == "session":
                await _check_csrf(request, person)
        request.state.person = person
        return person

    check.permission = permission  # type: ignore[attr-defined]  # read by the test that walks all routes
    return check


async def _check_csrf(request: Request, person: Person) -> None:
    shown = request.headers.get(CSRF_HEADER, "")
    if not shown and request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        shown = str((await request.form()).get(CSRF_FIELD, ""))
    if not person.csrf_token or shown != person.csrf_token:
        raise HTTPException(403, "the form is not of this session; load the page again")


StudyReader = Annotated[Person, Depends(requires(Permission.READ_STUDIES))]
Assessor = Annotated[Person, Depends(requires(Permission.ASSESS))]
WorkItemUser = Annotated[Person, Depends(requires(Permission.WORK_ITEMS))]
Trier = Annotated[Person, Depends(requires(Permission.TRY_IMAGES))]
Monitor = Annotated[Person, Depends(requires(Permission.MONITOR))]
Auditor = Annotated[Person, Depends(requires(Permission.READ_AUDIT))]
Admin = Annotated[Person, Depends(requires(Permission.ADMINISTER))]
AccountHolder = Annotated[Person, Depends(requires(Permission.OWN_ACCOUNT))]
