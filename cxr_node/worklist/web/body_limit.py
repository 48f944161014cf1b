"""How much a request may bring: bodies are read before anybody knows who sends them, so the limit comes first."""

import asyncio

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 2 * 1024 * 1024  # forms, JSON, work items
UPLOADS = ("/api/drops", "/api/rules", "/drop", "/admin/rules")  # these count for themselves, file by file
NEXT_PART_WITHIN_S = 30.0
TOO_LARGE = "the request is larger than this address takes"


class BodyLimit:
    """Refuses a larger body with 413, by its announced length or where it exceeds it, and a body that stalls with 408.

    Plain ASGI, so that uploads and event streams pass unbuffered.
    """

    def __init__(self, app: ASGIApp, upload_bytes: int) -> None:
        self._app = app
        self._upload_bytes = upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._upload_bytes if scope["path"].startswith(UPLOADS) else MOST_BYTES
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isascii() and announced.isdigit() and int(announced) > most:
            await JSONResponse({"detail": TOO_LARGE}, status_code=413)(scope, receive, send)
            return
        came = 0
        is_whole = False

        async def counted() -> Message:
            nonlocal came, is_whole
            if is_whole:  # what follows is the wait for the other side to hang up, as long as that may take
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), NEXT_PART_WITHIN_S)
            except TimeoutError:
                raise HTTPException(408, "the request stopped coming") from None
            came += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if came > most:
                raise HTTPException(413, TOO_LARGE)
            return message

        await self._app(scope, counted, send)
