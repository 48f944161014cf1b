"""Who looked at what: an entry in the audit trail for every reader and study, without one for every refresh."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Receive, Scope, Send

from cxr_node.clock import utc_now
from cxr_node.log import get_logger
from storage import Database, audit
from storage.errors import StorageError

log = get_logger("worklist")

_asked_from: ContextVar[str] = ContextVar("asked_from", default="")

REPEAT_AFTER = timedelta(minutes=5)
_REMEMBERED = 10_000


class AskingFrom:
    """Notes for the entries of a request which address it came from. Inside of what believes a proxy about that."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        token = _asked_from.set(client[0] if client else "")  # the threads that a request is answered in get a copy
        try:
            await self._app(scope, receive, send)
        finally:
            _asked_from.reset(token)


class AuditTrail:
    """Records reads. The same reader of the same thing is recorded once in `REPEAT_AFTER`: pages renew themselves.

    A study is shown even when the entry cannot be written, which is logged: a full disk must not lock readers out.
    """

    def __init__(self, database: Database, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now
        self._lock = threading.Lock()
        self._last: OrderedDict[tuple[str, str, str], datetime] = OrderedDict()

    def record(self, event: str, *, actor: str, study_instance_uid: str = "", **detail: Any) -> None:
        """Record that `actor` read; `detail` holds nothing that identifies a patient."""
        now, address = self._now(), _asked_from.get()
        if address:
            detail = {"address": address, **detail}
        if not self._is_due((event, actor, study_instance_uid), now):
            return
        try:
            with self._database.begin() as connection:
                audit.record(
                    connection, event, actor=actor, now=now, study_instance_uid=study_instance_uid, detail=detail
                )
        except (StorageError, SQLAlchemyError) as error:
            with self._lock:
                self._last.pop((event, actor, study_instance_uid), None)
            log.error("audit_not_written", audit_event=event, error_type=type(error).__name__)

    def _is_due(self, key: tuple[str, str, str], now: datetime) -> bool:
        with self._lock:
            last = self._last.get(key)
            if last is not None and now - last < REPEAT_AFTER:
                return False
            self._last[key] = now
            self._last.move_to_end(key)
            while len(self._last) > _REMEMBERED:
                self._last.popitem(last=False)
            return True
