"""What a service manager is told: ready, alive, stopping. Nothing where none listens.

Source: systemd, sd_notify(3) and sd_watchdog_enabled(3).
"""

import os
import socket
from collections.abc import Mapping


def notify(state: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send one state, ``READY=1`` for one; return whether somebody was told.

    A manager that does not listen any more is no reason to end: what fails is left.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # Linux's abstract names
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.connect(address)
            manager.sendall(state.encode())
    except OSError:
        return False
    return True


def watchdog_every_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """Return how often the manager must be told that this process lives, s: half of what it allows; None: not asked."""
    allowed = environment.get("WATCHDOG_USEC", "")
    asked = environment.get("WATCHDOG_PID", str(os.getpid()))
    if not allowed.isdigit() or int(allowed) == 0 or asked != str(os.getpid()):
        return None
    return int(allowed) / 2e6


class Watchdog:
    """Tells the manager that this process lives, as often as it asks to hear it."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._environment = environment
        self._every_s = watchdog_every_s(environment)
        self._due_at = 0.0

    def feed(self, now: float) -> None:
        """Tell it if it is time; `now` is of a monotonic clock, s."""
        if self._every_s is not None and now >= self._due_at:
            self._due_at = now + self._every_s
            notify("WATCHDOG=1", self._environment)
