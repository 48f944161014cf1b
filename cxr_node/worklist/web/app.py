"""The web application: routes, what every answer carries, and what becomes of an exception."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from cxr_node import __version__
from cxr_node.log import get_logger
from cxr_node.worklist.audit import AskingFrom
from cxr_node.worklist.services import Services
from cxr_node.worklist.web import (
    api,
    destinations_api,
    docs_page,
    feedback_api,
    health,
    list_page,
    present,
    ups_rs,
)
from cxr_node.worklist.web.access import AccessDenied, MustChange, WrongHost
from cxr_node.worklist.web.accounts import account_page, login, oidc_page, users_api, users_page
from cxr_node.worklist.web.accounts.oidc import Provider
from cxr_node.worklist.web.accounts.passwords import TooBusy
from cxr_node.worklist.web.admin import operations, reception, rules_page
from cxr_node.worklist.web.admin.kept import Kept
from cxr_node.worklist.web.body_limit import BodyLimit
from cxr_node.worklist.web.description import describe
from cxr_node.worklist.web.drop import api as drop_api
from cxr_node.worklist.web.drop import page as drop_page
from cxr_node.worklist.web.rendering import render
from cxr_node.worklist.web.study import heat_maps_api, images_api
from cxr_node.worklist.web.study import page as study_page
from storage.errors import StorageError

log = get_logger("worklist")

MUST_CHANGE = "the password is for once: change it on the page /account first"
STATIC = Path(__file__).parent / "static"

# Script and style from this origin only, none inline; nothing else at all, no frame around the page.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: a browser would then say Origin: null of our own forms, as of those of a stranger.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}

STRICT_TRANSPORT = "max-age=31536000"

# In the order in which a path is held against them.
ROUTERS = (
    feedback_api.router,  # before `api`, whose study route takes every path below /studies
    destinations_api.router,
    heat_maps_api.router,
    images_api.router,
    drop_api.router,
    drop_page.router,
    rules_page.router,
    api.router,
    ups_rs.router,
    health.router,
    list_page.router,
    study_page.router,
    *reception.ROUTERS,
    *operations.ROUTERS,
    docs_page.router,
    login.router,
    oidc_page.router,
    account_page.router,
    users_page.router,
    users_api.router,
)


class SecurityHeaders:
    """Puts the headers on every answer. Plain ASGI, so that an event stream passes unbuffered."""

    def __init__(self, app: ASGIApp, *, is_secure: bool) -> None:
        self._app = app
        # A browser that was here once by HTTPS does not let anybody talk it into HTTP (RFC 6797).
        self._headers = SECURITY_HEADERS | ({"Strict-Transport-Security": STRICT_TRANSPORT} if is_secure else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def create_app(services: Services) -> FastAPI:
    """Return the application."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        services.events.start()
        yield
        services.events.close()
        services.previews.close()

    app = FastAPI(
        title="cxr-node worklist",
        summary="Chest radiographs in reading order",
        description=f"{present.BANNER} A study that is not flagged is not thereby without disease.",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # docs_page serves it, to those who may see the page
        lifespan=lifespan,
    )
    app.state.services = services
    app.state.kept = Kept[Any]()
    app.state.models = health.ModelCheck(services.settings, services.database)
    # Their routes as they stand: what is included, FastAPI builds once more. Each router has its own prefix and rights.
    for router in ROUTERS:
        app.router.routes.extend(router.routes)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    worklist = services.settings.worklist
    app.state.provider = Provider(services.settings, services.now) if worklist.oidc.issuer else None
    app.add_middleware(BodyLimit, upload_bytes=int((worklist.drop.max_upload_mb + 1) * 1024 * 1024))
    app.add_middleware(SecurityHeaders, is_secure=services.access.secure)
    app.add_middleware(AskingFrom)
    if worklist.public_url:
        # Only there is a proxy; without one, who asks could write any address into the audit trail.
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=["127.0.0.1", "::1"])
    app.add_exception_handler(AccessDenied, _denied)
    app.add_exception_handler(MustChange, _must_change)
    app.add_exception_handler(TooBusy, _too_busy)
    app.add_exception_handler(WrongHost, _wrong_host)
    app.add_exception_handler(StorageError, _no_storage)
    app.add_exception_handler(SQLAlchemyError, _no_storage)
    app.add_exception_handler(HTTPException, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    describe(app)
    return app


def _is_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/")


def _answer(request: Request, status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    if not _is_page(request):
        return JSONResponse({"detail": detail}, status_code=status, headers=headers)
    answer = render(request, "problem.html", status, code=status, detail=detail)
    answer.headers.update(headers or {})
    return answer


async def _denied(request: Request, _: Exception) -> Response:
    if "hx-request" in request.headers:  # a part of a page that was open when the session ended
        return JSONResponse(
            {"detail": "the session is over; sign in again"},
            status_code=401,
            headers={"HX-Redirect": _login(urlsplit(request.headers.get("hx-current-url", "")))},
        )
    if _is_page(request) and request.method == "GET":
        return RedirectResponse(_login(urlsplit(str(request.url))), status_code=303)
    detail = (
        "sign in, or show a token: Authorization: Bearer SECRET, made by `cxr-node token create`"
        if not _is_page(request)
        else "The session is over, and nothing was changed. Sign in and do it again."
    )
    return _answer(request, 401, detail, {"WWW-Authenticate": "Bearer"})


def _login(page: SplitResult) -> str:
    """Return the address of the form that leads back to a page; to the list from what is only a part of it."""
    path = "/" if page.path in ("", "/list", "/events", "/login") else page.path
    return f"/login?next={quote(path + (f'?{page.query}' if page.query else ''), safe='')}"


async def _must_change(request: Request, _: Exception) -> Response:
    if "hx-request" in request.headers:
        return JSONResponse({"detail": MUST_CHANGE}, status_code=403, headers={"HX-Redirect": "/account"})
    if _is_page(request) and request.method == "GET":
        return RedirectResponse("/account", status_code=303)
    return _answer(request, 403, MUST_CHANGE)


async def _too_busy(request: Request, error: Exception) -> Response:
    return _answer(request, 503, str(error), {"Retry-After": "3"})


async def _wrong_host(request: Request, _: Exception) -> Response:
    detail = "where nobody has to sign in, the list is served under the names of this machine's loopback only"
    return _answer(request, 421, detail)


async def _no_storage(request: Request, error: Exception) -> Response:
    log.error("storage_unavailable", error_type=type(error).__name__)
    return _answer(request, 503, "the database does not answer; try again", {"Retry-After": "2"})


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _answer(request, error.status_code, str(error.detail), dict(error.headers or {}))


async def _invalid(request: Request, error: Exception) -> Response:
    # Without what was sent: it may name a patient, and half a surrogate pair in it cannot be written as UTF-8.
    assert isinstance(error, RequestValidationError)
    found = [{name: item[name] for name in ("loc", "msg", "type")} for item in error.errors()]
    if _is_page(request):
        words = "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in found)
        return _answer(request, 422, f"the address or the form holds what is not understood: {words}")
    return Response(json.dumps({"detail": found}), status_code=422, media_type="application/json")
