"""A process says that it lives: what the admin's page tells of the stages comes from here."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from cxr_node.clock import utc_now
from cxr_node.log import get_logger
from cxr_node.work.pulse import pulsing
from storage import Database, heartbeats
from storage.errors import StorageError

log = get_logger("work")

EVERY_S = 5.0
READY = "ready"  # what is not said otherwise
STARTING = "starting"  # said for a process that has been started and has not said anything itself
_END_WITHIN_S = 1.0  # a database that is gone must not hold up a stop


@contextlib.contextmanager
def beating(
    database: Database,
    stage: str,
    detail: Callable[[], dict[str, Any]] = dict,
    *,
    every_s: float = EVERY_S,
    now: Callable[[], datetime] = utc_now,
) -> Iterator[Callable[[], None]]:
    """Give signs of life for the block, the first at once; its end takes the process off the list.

    The block is given a function that has the next sign come at once, for what should be known without delay.

    Parameters
    ----------
    detail : what the stage says of itself, asked anew each time; must be JSON and hold nothing of a patient
    """
    process, started_at, stop = process_name(os.getpid()), now(), threading.Event()
    wake = threading.Event()

    def beat() -> None:
        is_well = True
        while True:
            try:
                said = detail()
                with database.begin() as connection:
                    heartbeats.beat(connection, stage, process, started_at=started_at, now=now(), detail=said)
                is_well = True
            except (StorageError, SQLAlchemyError) as error:
                if is_well:
                    log.warning("heartbeat_not_written", stage_name=stage, error_type=type(error).__name__)
                is_well = False
            wake.wait(every_s)
            wake.clear()
            if stop.is_set():
                return

    thread = threading.Thread(target=beat, name=f"{stage}-heartbeat", daemon=True)
    thread.start()
    try:
        with pulsing(stage):
            yield wake.set
    finally:
        stop.set()
        wake.set()
        thread.join(_END_WITHIN_S)
        if not thread.is_alive():
            with contextlib.suppress(StorageError, SQLAlchemyError), database.begin() as connection:
                heartbeats.end(connection, stage, process)


def process_name(pid: int) -> str:
    """Return how a process of this host is listed."""
    return f"{socket.gethostname()}:{pid}"
