"""Who asks: a person with a session, a program with a token, or nobody known; and what the route needs of them.

A route says what it needs in its signature::

    def list_studies(request: Request, person: StudyReader) -> ...

which answers 401 to nobody known, 403 to a role that may not, and 403 to a request that a page of another site may
have sent.
"""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit

from fastapi import Depends, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPBearer
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import HTTPConnection

from cxr_node.access import bearer, is_loopback, names_listener
from cxr_node.clock import utc_now
from cxr_node.errors import SettingsError
from cxr_node.log import get_logger
from cxr_node.settings import Worklist
from cxr_node.worklist.web.permissions import Permission, may, who_may
from storage import Database, sessions, tokens
from storage.errors import StorageError

log = get_logger("worklist")

COOKIE = "cxr_node_session"
CSRF_HEADER = "x-csrf-token"
CSRF_FIELD = "csrf_token"
LIVE_HEADER = "x-live"  # on what an open page asks for by itself: nobody need be there for it
EVENTS_PATH = "/events"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Person:
    """Who asks. `name` is a login, the name of a token, or an address where nobody has to sign in.

    `csrf_token` is that of a session; what its pages send to change something must carry it. `must_change`: the
    password is for once, and nothing but the own account is open until it is changed.
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


class MustChange(Exception):
    """The password is for once; it has to be changed first."""


class WrongHost(Exception):
    """The Host header names another machine, although only this one is served."""


class Access:
    """Decides about one request.

    Where nobody has to sign in the list is served on loopback only, and there to requests whose Host header names
    loopback: a web page elsewhere that points a name of its own at 127.0.0.1 (DNS rebinding) gets nothing.

    Raises
    ------
    SettingsError
        Nobody would have to sign in although others than this machine could ask.
    """

    def __init__(self, database: Database, settings: Worklist, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._host = settings.host
        self._now = now
        self.idle = timedelta(minutes=settings.session_idle_min)
        self._public = settings.public_url
        self.required = settings.require_token != "never"
        check_openness(settings)
        # Behind TLS the name keeps a page of a neighbouring host or of plain HTTP from planting a cookie (RFC 6265bis).
        self.secure = self._public.startswith("https://") or settings.tls.enabled
        self.cookie = f"__Host-{COOKIE}" if self.secure else COOKIE

    def check_host(self, connection: HTTPConnection) -> None:
        """Raise WrongHost where the name in the request is not ours."""
        if not self.required and not names_listener(connection.url.hostname, self._host):
            raise WrongHost

    def person(self, connection: HTTPConnection) -> Person:
        """Return who asks; raises AccessDenied where that has to be known and is not."""
        self.check_host(connection)
        found = self.known(connection)
        if found is not None:
            return found
        if self.required:
            raise AccessDenied
        return Person(f"anonymous@{address_of(connection) or 'unknown'}", "reader", "open")

    def known(self, connection: HTTPConnection, *, touch: bool = True) -> Person | None:
        """Return whose token or session the request shows, or None.

        It keeps the session from falling idle, unless an open page asked by itself: a screen that nobody looks at
        must not stay signed in because studies arrive.
        """
        live = connection.url.path == EVENTS_PATH or LIVE_HEADER in connection.headers
        authorization = connection.headers.get("authorization", "")
        if authorization:
            return self._of_token(bearer(authorization), touch=touch)
        secret = connection.cookies.get(self.cookie, "")
        return self._of_session(secret, touch=touch and not live) if secret else None

    def still(self, connection: HTTPConnection, person: Person) -> bool:
        """Whether an answer that goes on for long may go on: the session holds, and has the role it had."""
        if person.via == "open":
            return True
        try:
            found = self.known(connection, touch=False)
        except (StorageError, SQLAlchemyError):
            return True  # asked again soon; what else it leads to needs the database too
        return found is not None and (found.name, found.role) == (person.name, person.role)

    def _of_token(self, secret: str, *, touch: bool) -> Person | None:
        now = self._now()
        with self._database.read() as opened:
            token = tokens.find(opened, secret, now=now) if secret else None
        if token is None:
            return None
        if touch and tokens.is_due(token, now):
            self._note(lambda opened: tokens.used(opened, token, now=now))
        return Person(token.name, token.role, "token")

    def _of_session(self, secret: str, *, touch: bool) -> Person | None:
        now = self._now()
        with self._database.read() as opened:
            session = sessions.find(opened, secret, now=now, idle=self.idle)
        if session is None:
            return None
        if touch and sessions.is_due(session, now):
            self._note(lambda opened: sessions.seen(opened, session, now=now))
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

    def _note(self, write: Callable[[Connection], None]) -> None:
        """Write that somebody was here; a full disk must not lock readers out."""
        try:
            with self._database.begin() as opened:
                write(opened)
        except (StorageError, SQLAlchemyError) as error:
            log.warning("last_use_not_kept", error_type=type(error).__name__)

    def check_origin(self, connection: HTTPConnection) -> None:
        """Refuse what a page of another site sends: a browser would speak in its user's name."""
        origin = connection.headers.get("origin")
        if origin is None or (self._public and origin.casefold() == self._public.casefold()):
            return
        netloc = urlsplit(origin).netloc
        if not netloc or netloc != connection.headers.get("host"):  # of a sandboxed page the origin is "null"
            raise HTTPException(403, "a page of another origin may not change anything here")


def check_openness(settings: Worklist) -> None:
    """Raise SettingsError where nobody would have to sign in although others than this machine could ask."""
    if settings.require_token != "never" or (is_loopback(settings.host) and not settings.public_url):
        return
    raise SettingsError(
        f'worklist.require_token: "never" opens every study to who reaches {settings.public_url or settings.host}; '
        "it is for a loopback address without public_url"
    )


def address_of(connection: HTTPConnection) -> str:
    """Return the address that asks; behind a proxy on this machine the one that the proxy names."""
    return connection.client.host if connection.client else ""


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
        person = await run_in_threadpool(access.person, request)  # a busy database must not hold the event loop
        request.state.person = person
        if person.must_change and permission is not Permission.OWN_ACCOUNT:
            raise MustChange
        if not person.may(permission):
            raise HTTPException(403, f"the role {person.role} may not {permission.value}; {who_may(permission)} may")
        if request.method not in SAFE_METHODS and person.via != "token":
            access.check_origin(request)
            if person.via == "session":
                await _check_csrf(request, person)
        return person

    check.permission = permission  # type: ignore[attr-defined]  # read by the test that walks all routes
    return check


async def _check_csrf(request: Request, person: Person) -> None:
    shown = request.headers.get(CSRF_HEADER, "")
    if not shown and request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        shown = str((await request.form()).get(CSRF_FIELD, ""))
    if not person.csrf_token or not secrets.compare_digest(shown.encode(), person.csrf_token.encode()):
        raise HTTPException(403, "the form is not of this session; load the page again")


StudyReader = Annotated[Person, Depends(requires(Permission.READ_STUDIES))]
Assessor = Annotated[Person, Depends(requires(Permission.ASSESS))]
WorkItemUser = Annotated[Person, Depends(requires(Permission.WORK_ITEMS))]
Trier = Annotated[Person, Depends(requires(Permission.TRY_IMAGES))]
Monitor = Annotated[Person, Depends(requires(Permission.MONITOR))]
Auditor = Annotated[Person, Depends(requires(Permission.READ_AUDIT))]
Admin = Annotated[Person, Depends(requires(Permission.ADMINISTER))]
AccountHolder = Annotated[Person, Depends(requires(Permission.OWN_ACCOUNT))]


def signed_in(request: Request, person: AccountHolder) -> Person:
    """FastAPI dependency of what is of a session: a program with a token has no password to change."""
    if person.via != "session":
        raise AccessDenied
    return person


SignedIn = Annotated[Person, Depends(signed_in)]
