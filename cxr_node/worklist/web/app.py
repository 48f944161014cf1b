"""The web application: routes, what every answer carries, and what becomes of an exception."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cxr_node import __version__
from cxr_node.log import get_logger
from cxr_node.worklist.services import Services
from cxr_node.worklist.web import (
    api,
    destinations_api,
    docs_page,
    feedback_api,
    health,
    list_page,
    present,
    study_page,
    ups_rs,
)
from cxr_node.worklist.web.access import AccessDenied, WrongHost
from cxr_node.worklist.web.accounts import login
from cxr_node.worklist.web.rendering import render
from storage.errors import StorageError

log = get_logger("worklist")

STATIC = Path(__file__).parent / "static"

# Script and style from this origin only, none inline; nothing else at all, no frame around the page.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


class SecurityHeaders:
    """Puts the headers on every answer. Plain ASGI, so that an event stream passes unbuffered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
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

    app = FastAPI(
        title="cxr-node worklist",
        summary="Chest radiographs in reading order",
        description=f"{present.BANNER} A study that is not flagged is not thereby without disease.",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.services = services
    app.state.models = health.ModelCheck(services.settings)
    app.include_router(feedback_api.router)  # before `api`, whose study route takes every path below /studies
    app.include_router(destinations_api.router)
    app.include_router(api.router)
    app.include_router(ups_rs.router)
    app.include_router(health.router)
    app.include_router(list_page.router)
    app.include_router(study_page.router)
    app.include_router(docs_page.router)
    app.include_router(login.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_middleware(SecurityHeaders)
    app.add_exception_handler(AccessDenied, _denied)
    app.add_exception_handler(WrongHost, _wrong_host)
    app.add_exception_handler(StorageError, _no_storage)
    app.add_exception_handler(SQLAlchemyError, _no_storage)
    app.add_exception_handler(HTTPException, _problem)
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
    if _is_page(request) and request.method == "GET":
        path = "/" if request.url.path in ("/list", "/events") else request.url.path
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"/login?next={quote(path + query, safe='')}", status_code=303)
    detail = "a token is needed: Authorization: Bearer SECRET, made by `cxr-node token create`"
    return _answer(request, 401, detail, {"WWW-Authenticate": "Bearer"})


async def _wrong_host(request: Request, _: Exception) -> Response:
    detail = "where nobody has to sign in, the list is served under the names of this machine's loopback only"
    return _answer(request, 421, detail)


async def _no_storage(request: Request, error: Exception) -> Response:
    log.error("storage_unavailable", error_type=type(error).__name__)
    return _answer(request, 503, "the database does not answer; try again", {"Retry-After": "2"})


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _answer(request, error.status_code, str(error.detail), dict(error.headers or {}))
