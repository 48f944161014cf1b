"""The limit on wrong passwords: a delay that grows, told in the answer, and never longer than a minute.

Three counts, each since the last success and of the last quarter of an hour:

- of a login from one address: who guesses one person's password;
- of an address: who tries one password on many logins;
- of a login from everywhere: who guesses from many addresses. It does not hold for an address from which that login was
  signed in before, so that a stranger cannot keep an admin out from afar.

A try within the delay is refused without a look at the password and is not counted: the delay does not grow by
knocking. Every login is counted, known or not: the delay tells nobody which ones there are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.engine import Connection

from cxr_node.clock import utc_now
from storage import Database, login_attempts
from storage.login_attempts import Failures

WINDOW = timedelta(minutes=15)
LONGEST = timedelta(seconds=60)
FREE_OF_PAIR = 5
FREE_OF_ADDRESS = 30  # a ward may share one address
FREE_OF_LOGIN = 20


@dataclass(frozen=True)
class Attempt:
    """A try that may go on, or how long to wait before the next."""

    id: int
    wait_s: int


class Limit:
    """Counts the tries in the database: every host of a node counts the same."""

    def __init__(self, database: Database, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now

    def begin(self, login: str, address: str) -> Attempt:
        """Ask whether a password may be tried; what may is noted as failed until `succeeded` is called.

        Noted before: tries that come together must not all find the count that the first of them found.
        """
        now = self._now()
        with self._database.begin() as connection:
            login_attempts.only_one(connection)
            wait = _wait(connection, login, address, now)
            if wait > timedelta(0):
                return Attempt(0, max(1, -(-int(wait.total_seconds() * 1000) // 1000)))
            return Attempt(login_attempts.begin(connection, login, address, now=now), 0)

    def succeeded(self, attempt: Attempt) -> None:
        """Forget the failures of this login from this address."""
        with self._database.begin() as connection:
            login_attempts.succeeded(connection, attempt.id)


def _wait(connection: Connection, login: str, address: str, now: datetime) -> timedelta:
    since = now - WINDOW
    waits = [
        _left(login_attempts.failures(connection, since=since, login=login, address=address), FREE_OF_PAIR, now),
        _left(login_attempts.failures(connection, since=since, address=address), FREE_OF_ADDRESS, now),
    ]
    if not login_attempts.is_known(connection, login, address):
        waits.append(_left(login_attempts.failures(connection, since=since, login=login), FREE_OF_LOGIN, now))
    return max(waits)


def _left(failures: Failures, free: int, now: datetime) -> timedelta:
    if failures.last_at is None or failures.count < free:
        return timedelta(0)
    delay = min(LONGEST, timedelta(seconds=2.0 ** min(10, failures.count - free + 1)))
    return max(timedelta(0), failures.last_at + delay - now)
