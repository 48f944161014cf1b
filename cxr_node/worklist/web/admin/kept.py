"""Answers that take a while to compute, kept for a moment: a page that is loaded anew must not count again."""

import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """Keeps what was computed for each key for `for_s`; one thread computes, the others wait for it."""

    def __init__(self, for_s: float = 60.0, most: int = 32, clock: Callable[[], float] = time.monotonic) -> None:
        self._for_s = for_s
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._values: dict[Hashable, tuple[float, Value]] = {}

    def get(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """Return the value of the key, computed now where it is not known or too old."""
        with self._lock:
            known = self._values.get(key)
            if known is not None and self._clock() - known[0] < self._for_s:
                return known[1]
            value = compute()
            self._values.pop(key, None)
            self._values[key] = (self._clock(), value)
            while len(self._values) > self._most:
                self._values.pop(next(iter(self._values)))
            return value
