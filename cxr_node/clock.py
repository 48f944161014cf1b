"""The one place that asks what time it is; everything else is told.

What is kept or told is in time of day; how long something takes is measured with the monotonic clock. Where the two
meet, in leases and in what waits for its time, `ClockWatch` notices that the clock was set.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

JUMP_S = 5.0  # what a service that keeps the time corrects by itself is less


def utc_now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)


class ClockWatch:
    """Holds the time of day against the monotonic clock.

    Parameters
    ----------
    monotonic : seconds, from a clock that nobody sets
    """

    def __init__(self, now: Callable[[], datetime] = utc_now, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._now, self._monotonic = now, monotonic
        self._lock = threading.Lock()
        self._apart = self._look()
        self._jumped_at = float("-inf")

    def jump_s(self) -> float:
        """Return how far the clock was set since the last look: ahead where positive, 0 where it was not."""
        with self._lock:
            apart = self._look()
            jump, self._apart = apart - self._apart, apart
            if abs(jump) < JUMP_S:
                return 0.0
            self._jumped_at = self._monotonic()
            return jump

    def is_even(self, seconds: float) -> bool:
        """Whether nobody was seen to set the clock for so long."""
        self.jump_s()
        with self._lock:
            return self._monotonic() - self._jumped_at >= seconds

    def _look(self) -> float:
        return self._now().timestamp() - self._monotonic()
