"""The clock was set, while the node ran or while it was down: what waits by the time of day is moved along with it.

Set back by a day, a study that was to be analysed in a second, a delivery that was to be tried again in a minute, the
lease of a process that died, and every task of upkeep would wait for a day. Set ahead, everything is due at once, which
harms nothing but retention: that does not delete by a clock that ran ahead more than an hour.

While the node was down nobody held the clock against another one: at the start what is stored tells, where it is of a
time that is yet to come.
"""

import threading
from collections.abc import Sequence

from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from cxr_node.clock import ClockWatch, utc_now
from cxr_node.log import get_logger
from cxr_node.work.heartbeat import process_name
from storage import Database, Doorbell, audit, clock_changes, heartbeats
from storage.errors import StorageError

log = get_logger("upkeep")

LOOK_EVERY_S = 1.0
MOST_AHEAD_S = 3600.0
AT_START_S = 60.0  # stored times further ahead than this; the clocks of hosts that share a database differ by less


def _is_shared(connection: Connection) -> bool:
    """Whether another host works on this database, or did within the hour that processes are listed."""
    host = process_name(0).rpartition(":")[0]
    return any(beat.process.rpartition(":")[0] != host for beat in heartbeats.listed(connection))


class ClockMinder:
    """Looks at the clock every second.

    Parameters
    ----------
    scheduler : its tasks keep their distance from now
    topics : doorbells rung after what waits was moved
    """

    def __init__(
        self,
        database: Database,
        doorbell: Doorbell,
        scheduler: BackgroundScheduler,
        *,
        topics: Sequence[str],
        watch: ClockWatch | None = None,
    ) -> None:
        self._database, self._doorbell = database, doorbell
        self._scheduler, self._topics = scheduler, topics
        self._watch = watch or ClockWatch()
        self._untold = 0.0  # a jump that the database could not be told of yet
        self._was_down = False  # when it was
        self.ahead_s = 0.0  # sum of the jumps since the start

    def look_at_start(self) -> None:
        """Notice that the clock was set back while the node was down, or ran ahead while it last ran."""
        try:
            with self._database.read() as connection:
                newest = clock_changes.newest_time(connection)
        except (StorageError, SQLAlchemyError) as error:
            log.warning("clock_not_looked_at", error_type=type(error).__name__)
            return
        ahead_s = 0.0 if newest is None else (newest - utc_now()).total_seconds()
        if ahead_s > AT_START_S:
            log.error("clock_set", ahead_s=round(-ahead_s, 1), while_down=True)
            self._untold, self._was_down = -ahead_s, True
            self._tell(self._untold)

    def run(self, stop: threading.Event) -> None:
        """Look until `stop` is set."""
        while not stop.wait(LOOK_EVERY_S):
            self.look()

    def look(self) -> None:
        """Look once, and do what follows."""
        jump = self._watch.jump_s()
        if jump:
            log.error("clock_set", ahead_s=round(jump, 1))
            self.ahead_s += jump
            self._untold += jump
            self._move_tasks()
        if self._untold:
            self._tell(self._untold)

    def _move_tasks(self) -> None:
        now = utc_now()
        for task in self._scheduler.get_jobs():
            if task.next_run_time is not None and task.next_run_time - now > task.trigger.interval:
                task.modify(next_run_time=now)
        self._scheduler.wakeup()

    def _tell(self, jump: float) -> None:
        now, moved = utc_now(), 0
        try:
            with self._database.begin() as connection:
                # Where hosts share the database the times of the others are right, and theirs are most.
                if jump < 0 and not _is_shared(connection):
                    moved = clock_changes.set_back(connection, by_s=-jump, now=now)
                detail = {"ahead_s": round(jump, 1), "jobs_moved": moved, "while_down": self._was_down}
                audit.record(connection, "clock_set", actor="upkeep", now=now, detail=detail)
        except (StorageError, SQLAlchemyError) as error:
            log.warning("clock_not_told", error_type=type(error).__name__)
            return
        self._untold, self._was_down = 0.0, False
        for topic in self._topics:
            self._doorbell.ring(topic)
