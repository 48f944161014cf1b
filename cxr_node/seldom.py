"""Tells of what strangers do, and not once for each of them: a port scan must not fill the disk with lines."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

MOST = 20
WITHIN_S = 60.0


class Seldom:
    """Writes up to `most` warnings in any `within_s`, of all events together; the next one says how many were not."""

    def __init__(
        self, log: Any, *, most: int = MOST, within_s: float = WITHIN_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log, self._most, self._within_s, self._clock = log, most, within_s, clock
        self._lock = threading.Lock()
        self._told: deque[float] = deque()
        self._untold = 0

    def warning(self, event: str, **about: Any) -> None:
        """Tell, or count."""
        with self._lock:
            now = self._clock()
            while self._told and now - self._told[0] >= self._within_s:
                self._told.popleft()
            if len(self._told) >= self._most:
                self._untold += 1
                return
            self._told.append(now)
            untold, self._untold = self._untold, 0
        if untold:
            about["untold_before"] = untold
        self._log.warning(event, **about)
