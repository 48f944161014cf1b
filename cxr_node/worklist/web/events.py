"""Tells open pages that the list changed: doorbell topic ``worklist`` to server-sent events, without patient data."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable

from fastapi.concurrency import run_in_threadpool

from cxr_node.log import get_logger
from storage import Doorbell

log = get_logger("worklist")

TOPIC = "worklist"
KEEP_ALIVE_S = 15.0  # a proxy closes what stays silent for longer
AT_MOST_EVERY_S = 0.25  # a burst of studies is one event
MOST_STREAMS = 256
ALLOWED_FOR_S = 5.0  # then it is asked again whether who listens may


class EventHub:
    """One thread listens to the doorbell, any number of streams hear of it."""

    def __init__(self, doorbell: Doorbell) -> None:
        self._doorbell = doorbell
        self._loop: asyncio.AbstractEventLoop | None = None
        self._streams: set[asyncio.Event] = set()
        self._changes = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen; called in the event loop that serves the streams."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._listen, name="worklist-bell", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End every stream and the listener; from any thread."""
        self._stop.set()
        self._wake()

    @property
    def is_full(self) -> bool:
        """Whether one more stream would be too many."""
        return len(self._streams) >= MOST_STREAMS

    async def stream(self, may_go_on: Callable[[], bool] = lambda: True) -> AsyncIterator[str]:
        """Yield server-sent events: ``changed`` when the list did, a comment when nothing happened for a while.

        It ends when `may_go_on` says so: at an event, and in quiet times after `KEEP_ALIVE_S` at the latest.
        """
        changed = asyncio.Event()
        self._streams.add(changed)
        asked_at = time.monotonic()
        try:
            yield "retry: 2000\n\n"
            while not self._stop.is_set():
                happened = await self._happened(changed)
                if self._stop.is_set():
                    return
                if not happened or time.monotonic() - asked_at > ALLOWED_FOR_S:
                    if not await run_in_threadpool(may_go_on):
                        return
                    asked_at = time.monotonic()
                if not happened:
                    yield ": still here\n\n"
                    continue
                yield f"event: changed\nid: {self._changes}\ndata: {self._changes}\n\n"
                await asyncio.sleep(AT_MOST_EVERY_S)
        finally:
            self._streams.discard(changed)

    @staticmethod
    async def _happened(changed: asyncio.Event) -> bool:
        try:
            await asyncio.wait_for(changed.wait(), KEEP_ALIVE_S)
        except TimeoutError:
            return False
        changed.clear()
        return True

    def _listen(self) -> None:
        bell = self._doorbell.listen(TOPIC)
        try:
            while not self._stop.is_set():
                if bell.wait(0.5):
                    self._wake()
        finally:
            bell.close()

    def _wake(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._changes += 1
        for changed in self._streams:
            changed.set()
