"""STOW-RS, the second way in: the same intake as C-STORE behind an HTTP request. Source: DICOM PS3.18 10.5."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from cxr_node import metrics
from cxr_node.access import bearer, is_loopback, names_listener, needs_token
from cxr_node.clock import utc_now
from cxr_node.errors import BadMultipart
from cxr_node.log import get_logger
from cxr_node.multipart import DICOM, Part, PartsToFiles, parse_content_type
from cxr_node.receive.callers import Callers
from cxr_node.receive.intake import Intake
from cxr_node.receive.part10 import describe, has_uid_form
from cxr_node.receive.records import Sender
from cxr_node.receive.statuses import (
    CANNOT_UNDERSTAND,
    DATASET_DOES_NOT_MATCH,
    OUT_OF_RESOURCES,
    UNEXPECTED,
)
from cxr_node.receive.stow_response import BUSY, MEDIA_TYPE, RETRY_AFTER_S, Outcome, body_of, status_of
from cxr_node.settings import Settings
from cxr_node.work.recorder import Recorder
from storage import Database, InstanceFiles, audit, tokens
from storage.associations import ENDED, LOST, RELEASED, Association
from storage.errors import StorageError

log = get_logger("receive")

ANONYMOUS = "STOW-RS"  # calling AE title of who shows no token
SERVICE = "service"
MAXIMUM_REQUESTS = 16  # at a time; each writes one file
MAXIMUM_PARTS = 20_000
SLOWEST_BYTES_PER_S = 1024  # on average, once a request has lasted for `idle_timeout_s`
_CHUNK = 1 << 20
_DRAINED = 8 << 20  # of a refused body: who still sends does not hear the answer otherwise
_DRAIN_S = 2.0
_ACCEPTABLE = frozenset({MEDIA_TYPE, "application/json", "application/*", "*/*"})
_CAPABILITY = (
    "STOW-RS of a cxr-node. POST /studies or /studies/{StudyInstanceUID}, "
    'multipart/related; type="application/dicom". Nothing is stored here for retrieval.\n'
)


class _Refused(Exception):
    """The request ends with this status."""

    def __init__(self, status: int, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class _TooSlow(Exception):
    """The client sends nothing, or next to nothing."""


def _refused(error: Exception) -> _Refused:
    if isinstance(error, _Refused):
        return error
    if isinstance(error, _TooSlow):
        return _Refused(408, "the request did not arrive in time")
    return _Refused(400, str(error))


class Stow:
    """Answers requests; one for the process.

    Raises
    ------
    SettingsError
        A caller's address is not what it must be.
    """

    def __init__(
        self,
        settings: Settings,
        intake: Intake,
        database: Database,
        files: InstanceFiles,
        now: Callable[[], datetime] = utc_now,
        *,
        recorder: Recorder,
    ) -> None:
        self._web = settings.receive.dicomweb
        self._called = settings.receive.ae_title.strip()
        self._idle_timeout_s = settings.receive.idle_timeout_s
        self._maximum_bytes = self._web.max_body_gb * 1e9
        self._callers = Callers(settings.caller, database)
        self._needs_token = needs_token(self._web.require_token, self._web.host)
        self._intake, self._database, self._files, self._now = intake, database, files, now
        self._recorder = recorder
        self._open = 0

    async def store(self, request: Request) -> Response:
        """POST /studies and /studies/{StudyInstanceUID}."""
        try:
            sender = await run_in_threadpool(self._sender, request)
            boundary = self._check(request)
        except _Refused as refused:
            return await self._refuse(request, refused)
        if self._open >= MAXIMUM_REQUESTS:
            return await self._refuse(request, _Refused(BUSY, "too many requests at once", Retry_After="2"))
        self._open += 1
        try:
            return await self._receive(request, sender, boundary)
        finally:
            self._open -= 1

    def _sender(self, request: Request) -> Sender:
        """Return who sends, or refuse: by token where one is asked for, by the list of callers where none is."""
        address = request.client.host if request.client else ""
        secret, name = bearer(request.headers.get("authorization", "")), ANONYMOUS
        token = None
        if secret:
            try:
                with self._database.read() as connection:
                    token = tokens.find(connection, secret, now=self._now())
            except (StorageError, SQLAlchemyError) as error:
                raise _Refused(BUSY, "the database does not answer; try again", Retry_After="2") from error
        if token is not None and token.role == SERVICE:
            name = token.name
        elif self._needs_token:
            self._audit_refusal("no token" if token is None else "role", "" if token is None else token.name, address)
            if token is None:
                how = f"made by `cxr-node token create NAME --role {SERVICE}`"
                raise _Refused(
                    401, f"a token is needed: Authorization: Bearer SECRET, {how}", WWW_Authenticate="Bearer"
                )
            raise _Refused(403, f"a token with the role {SERVICE} is needed, found {token.role}")
        elif is_loopback(self._web.host) and not names_listener(request.url.hostname, self._web.host):
            raise _Refused(421, "without a token this is served under the names of this machine's loopback only")
        elif not self._callers.allows(ANONYMOUS, address):
            log.warning("stow_refused", reason="caller", actor=ANONYMOUS, peer_address=address)
            self._recorder.rejected(ANONYMOUS, self._called, address, "calling_ae_title")
            raise _Refused(403, f"neither a [[caller]] of node.toml nor an admin allows {ANONYMOUS} from this address")
        return Sender(name, self._called, address, secrets.token_hex(8))

    def _audit_refusal(self, reason: str, actor: str, address: str) -> None:
        log.warning("stow_refused", reason=reason, actor=actor, peer_address=address)
        try:
            with self._database.begin() as connection:
                detail = {"reason": reason, "peer_address": address}
                audit.record(connection, "stow_refused", actor=actor, now=self._now(), detail=detail)
        except (StorageError, SQLAlchemyError) as error:
            log.warning("audit_not_written", error_type=type(error).__name__)

    def _check(self, request: Request) -> str:
        """Return the boundary of a request that may be read, or refuse it before its body is."""
        headers = request.headers
        accepted = {item.partition(";")[0].strip().lower() for item in headers.get("accept", "*/*").split(",")}
        if not accepted & _ACCEPTABLE:
            raise _Refused(406, f"the answer is {MEDIA_TYPE}")
        media_type, options = parse_content_type(headers.get("content-type", ""))
        if media_type != "multipart/related" or options["type"] != DICOM:
            raise _Refused(415, f'expected Content-Type: multipart/related; type="{DICOM}"; boundary=…')
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise _Refused(415, "expected no Content-Encoding")
        if not options.get("boundary"):
            raise _Refused(400, "the Content-Type names no boundary")
        study = request.path_params.get("study", "")
        if study and not has_uid_form(study):
            raise _Refused(400, "the study in the address is no UID of digits and dots, 64 at most")
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._maximum_bytes:
            raise _Refused(413, f"longer than max_body_gb = {self._web.max_body_gb:g}")
        if not self._intake.has_room():
            raise _Refused(BUSY, "less free space than min_free_gb", Retry_After=str(RETRY_AFTER_S))
        return options["boundary"]

    async def _receive(self, request: Request, sender: Sender, boundary: str) -> Response:
        started, opened_at = time.monotonic(), self._now()
        outcome, reason = RELEASED, ""
        batch = _Batch(self._intake, sender, request.path_params.get("study", ""), self._now)
        parts: PartsToFiles | None = None
        try:
            parts = PartsToFiles(boundary, self._files.new_temporary, batch.take, maximum_parts=MAXIMUM_PARTS)
            async for piece in self._pieces(request):
                await run_in_threadpool(parts.write, piece)
            parts.finish()
            if not batch.outcomes:
                raise _Refused(400, "the body holds no part")
        except (BadMultipart, _Refused, _TooSlow) as error:
            refused = _refused(error)
            outcome, reason = ENDED, refused.detail
            return await self._refuse(request, refused)
        except ClientDisconnect:
            outcome = LOST
            log.warning("stow_broken_off", association_id=sender.association_id, peer_address=sender.peer_address)
            return Response(status_code=400)  # nobody reads it
        except OSError as error:  # the disk: what is stored is stored, of the rest nobody is told otherwise
            log.error("stow_not_written", error_type=type(error).__name__, errno=error.errno)
            full = _Refused(BUSY, "storage cannot take the request now", Retry_After=str(RETRY_AFTER_S))
            outcome, reason = ENDED, full.detail
            return await self._refuse(request, full)
        finally:
            if parts is not None:
                parts.close()
            await asyncio.shield(run_in_threadpool(self._intake.hasten, batch.studies, now=self._now))
            batch.tell(time.monotonic() - started)
            self._recorder.ended(batch.record(opened_at, outcome, reason))
        status = status_of(batch.outcomes)
        headers = {"Retry-After": str(RETRY_AFTER_S)} if status == BUSY else None
        return Response(body_of(batch.outcomes), status, headers, media_type=MEDIA_TYPE)

    async def _pieces(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the body in pieces of about a megabyte; one that is too long, too slow or cut off raises."""
        stream, waiting = request.stream(), bytearray()
        total, started = 0, time.monotonic()
        while True:
            try:
                async with asyncio.timeout(self._idle_timeout_s):
                    chunk = await anext(stream)
            except StopAsyncIteration:
                break
            except TimeoutError:
                raise _TooSlow from None
            total += len(chunk)
            if total > self._maximum_bytes:
                raise _Refused(413, f"longer than max_body_gb = {self._web.max_body_gb:g}")
            lasted = time.monotonic() - started
            if lasted > self._idle_timeout_s and total < lasted * SLOWEST_BYTES_PER_S:
                raise _TooSlow
            waiting += chunk
            if len(waiting) >= _CHUNK:
                yield bytes(waiting)
                waiting.clear()
        if waiting:
            yield bytes(waiting)

    async def _refuse(self, request: Request, refused: _Refused) -> Response:
        """Answer, and take in a little more of the body: the connection ends after it."""
        address = request.client.host if request.client else ""
        log.warning("stow_request_refused", status=refused.status, reason=refused.detail, peer_address=address)
        left = _DRAINED
        try:
            async with asyncio.timeout(_DRAIN_S):
                async for chunk in request.stream():
                    left -= len(chunk)
                    if left < 0:
                        break
        except (TimeoutError, ClientDisconnect, RuntimeError):
            pass  # RuntimeError: the stream was read to its end, or given up, before
        headers = {**refused.headers, "Connection": "close"}
        return PlainTextResponse(f"{refused.detail}\n", refused.status, headers)


class _Batch:
    """The instances of one request; lives in worker threads, one at a time."""

    def __init__(self, intake: Intake, sender: Sender, study_instance_uid: str, now: Callable[[], datetime]) -> None:
        self._intake, self._sender, self._wanted, self._now = intake, sender, study_instance_uid, now
        self.outcomes: list[Outcome] = []
        self.studies: set[str] = set()
        self._bytes = 0

    def take(self, part: Part) -> None:
        """Keep a part, or say why not; its file is gone afterwards."""
        with metrics.INTAKE_SECONDS.time():
            outcome = self._outcome(part)
        metrics.INSTANCES.labels(f"0x{outcome.status:04X}").inc()
        self.outcomes.append(outcome)

    def _outcome(self, part: Part) -> Outcome:
        sop_class_uid = sop_instance_uid = ""
        try:
            if part.media_type not in ("", DICOM):
                return Outcome("", "", CANNOT_UNDERSTAND)
            described = describe(part.path)
            requested = described.requested
            sop_class_uid, sop_instance_uid = requested.sop_class_uid, requested.sop_instance_uid
            if described.refusal is not None:
                status, reason = described.refusal.status, described.refusal.comment
                log.warning("instance_refused", status=f"0x{status:04X}", reason=reason)
                return Outcome(sop_class_uid, sop_instance_uid, status)
            if self._wanted and described.study_instance_uid != self._wanted:
                return Outcome(sop_class_uid, sop_instance_uid, DATASET_DOES_NOT_MATCH)
            size = part.path.stat().st_size
            accepted = self._intake.accept(part.path, requested, self._sender, now=self._now)
            if accepted.study_instance_uid:
                self.studies.add(accepted.study_instance_uid)
                self._bytes += size
            return Outcome(sop_class_uid, sop_instance_uid, accepted.answer.status)
        except OSError as error:
            log.error("instance_not_kept", error_type=type(error).__name__, errno=error.errno)
            return Outcome(sop_class_uid, sop_instance_uid, OUT_OF_RESOURCES)
        except Exception as error:  # whatever a dataset does to us, its sender gets an answer
            log.error("intake_failed", exc_info=error)
            return Outcome(sop_class_uid, sop_instance_uid, UNEXPECTED)
        finally:
            part.path.unlink(missing_ok=True)

    def record(self, opened_at: datetime, outcome: str, reason: str) -> Association:
        """Return what is written down of the request, now that it is over."""
        stored = sum(item.is_stored for item in self.outcomes)
        return Association(
            association_id=self._sender.association_id,
            calling_ae_title=self._sender.calling_ae_title,
            called_ae_title=self._sender.called_ae_title,
            peer_address=self._sender.peer_address,
            opened_at=opened_at,
            closed_at=self._now(),
            instances=stored,
            refused=len(self.outcomes) - stored,
            bytes=self._bytes,
            outcome=outcome,
            reason=reason,
        )

    def tell(self, duration_s: float) -> None:
        """Write the request's line in the log."""
        stored = sum(outcome.is_stored for outcome in self.outcomes)
        log.info(
            "stow_ended",
            association_id=self._sender.association_id,
            calling_ae_title=self._sender.calling_ae_title,
            peer_address=self._sender.peer_address,
            instances=stored,
            refused=len(self.outcomes) - stored,
            studies=len(self.studies),
            duration_s=round(duration_s, 3),
        )


def create_app(stow: Stow) -> Starlette:
    """Return the web application."""

    async def capability(_: Request) -> Response:
        return PlainTextResponse(_CAPABILITY, headers={"Allow": "GET, HEAD, OPTIONS, POST"})

    async def unexpected(_: Request, error: Exception) -> Response:
        log.error("stow_failed", exc_info=error)
        return PlainTextResponse("the node failed on this request\n", 500)

    handlers: dict[Any, Any] = {Exception: unexpected}
    return Starlette(
        routes=[
            Route("/", capability, methods=["GET", "OPTIONS"]),
            Route("/studies", stow.store, methods=["POST"]),
            Route("/studies", capability, methods=["OPTIONS"]),
            Route("/studies/{study}", stow.store, methods=["POST"]),
            Route("/studies/{study}", capability, methods=["OPTIONS"]),
        ],
        exception_handlers=handlers,
    )
