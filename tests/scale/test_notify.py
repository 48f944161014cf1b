"""A ring reaches every host of a PostgreSQL database, and a lost one costs no more than the backstop."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from storage import Bell, Database, Doorbell
from storage.doorbell import BACKSTOP_S, HEARING_BACKSTOP_S
from tests.storage.conftest import create_database, drop_database
from tests.system.conftest import wait_until

pytestmark = [pytest.mark.requirement("SRS-SCL-001"), pytest.mark.peer("initdb")]

LONG_S = 60.0


@pytest.fixture
def database(postgresql_database: Database) -> Database:
    return postgresql_database


@pytest.fixture
def other_database(database: Database) -> Iterator[Database]:
    """The same database as another host opens it."""
    opened = Database(database.url)
    yield opened
    opened.dispose()


@pytest.fixture
def here(database: Database, tmp_path: Path) -> Doorbell:
    return Doorbell(tmp_path / "here", database)


@pytest.fixture
def there(other_database: Database, tmp_path: Path) -> Doorbell:
    """The doorbell of another host: a run folder of its own."""
    return Doorbell(tmp_path / "there", other_database)


def listening(doorbell: Doorbell, topic: str) -> Bell:
    """Return a bell that hears other hosts, with what was rung so far heard."""
    bell = doorbell.listen(topic)
    wait_until(lambda: bell.backstop_s == HEARING_BACKSTOP_S, LONG_S, "the bell hears other hosts")
    bell.wait(0)  # it was rung then: something may have been missed before
    return bell


def test_a_ring_is_heard_on_another_host_by_its_topic_alone(here, there):
    """A worker on another host should not find a job only at its next look."""
    first, second, other = listening(here, "analyze"), listening(there, "analyze"), listening(here, "deliver")
    there.ring("analyze")
    assert first.wait(LONG_S)
    assert second.wait(LONG_S), "and on its own host, by its sockets"
    there.ring("deliver")  # notifications keep their order: once this one is heard, the first one was
    assert other.wait(LONG_S)
    assert not first.wait(0), "once for one ring"
    for bell in (first, second, other):
        bell.close()


def test_a_host_does_not_hear_its_own_ring_twice(here, there):
    """Each wake of an idle worker costs the database a look."""
    own, told = listening(here, "analyze"), listening(here, "told")
    here.ring("analyze")
    assert own.wait(LONG_S)
    there.ring("told")
    assert told.wait(LONG_S)
    wait_until(here._exchange.flush, LONG_S, "the own ring was sent")
    there.ring("told")
    assert told.wait(LONG_S)
    assert not own.wait(0)
    own.close()
    told.close()


def test_after_the_connection_was_lost_rings_are_heard_again_and_a_look_is_owed(database, here, there):
    """A database that is restarted must not leave a host deaf."""
    bell = listening(here, "analyze")
    with database.begin() as connection:
        ended = connection.execute(
            text("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query = 'LISTEN cxr_node'")
        ).scalar_one()
    assert ended == 1
    assert bell.wait(LONG_S), "what was rung meanwhile is unknown: a look is due"
    wait_until(lambda: bell.backstop_s == HEARING_BACKSTOP_S, LONG_S, "heard again")
    bell.wait(0.5)
    there.ring("analyze")
    assert bell.wait(LONG_S)
    bell.close()


def test_while_the_database_is_gone_a_ring_stays_on_its_host_and_the_backstop_is_short(
    postgresql_server,
    postgresql_template,
    tmp_path,
):
    """Ringing happens in the way of an image: it must not fail, nor wait."""
    url = create_database(postgresql_server, postgresql_template)
    database = Database(url)
    doorbell = Doorbell(tmp_path / "run", database)
    bell = listening(doorbell, "analyze")
    database.dispose()
    drop_database(url)
    wait_until(lambda: bell.backstop_s == BACKSTOP_S, LONG_S, "the loss is noticed")
    bell.wait(0)
    doorbell.ring("analyze")
    assert bell.wait(LONG_S)
    bell.close()
    wait_until(lambda: not _threads(), LONG_S, "nobody listens, and what cannot be told is let go")
    database.dispose()


def test_a_bell_that_closes_ends_the_connection_and_the_thread(database, here, monkeypatch):
    """Stages restart their loops; connections of a shared database are few."""
    monkeypatch.setattr("storage.exchange.LINGER_S", 0.0)
    bells = [listening(here, topic) for topic in ("analyze", "deliver")]
    assert len(_threads()) == 1, "one connection for all of a process"
    for bell in bells:
        bell.close()
    wait_until(lambda: not _threads(), LONG_S, "the thread's end")
    here.ring("analyze")  # and it begins anew
    assert here._exchange.flush(LONG_S)


def test_a_command_that_rings_and_ends_is_heard(database, here, tmp_path):
    """`cxr-node destination resume` lives for a tenth of a second."""
    bell = listening(here, "deliver")
    script = (
        "import sys\nfrom pathlib import Path\nfrom storage import Database, Doorbell\n"
        "Doorbell(Path(sys.argv[1]), Database(sys.argv[2])).ring('deliver')\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "elsewhere"), database.url], check=True, timeout=120)
    assert bell.wait(LONG_S)
    bell.close()


def test_a_burst_of_rings_is_few_notifications(database, here):
    """A thousand images a minute must not become a queue of wake-ups in the database."""
    address = database.url.replace("+psycopg", "")
    with psycopg.connect(address, autocommit=True) as listener:
        listener.execute("LISTEN cxr_node")
        with here._exchange._lock:  # as if all came while it was sending
            for _ in range(1000):
                here.ring("analyze")
        assert here._exchange.flush(LONG_S)
        here.ring("end")
        heard = []
        for notification in listener.notifies(timeout=LONG_S):
            heard.append(notification.payload.partition("@")[0])
            if heard[-1] == "end":
                break
    assert heard == ["analyze", "end"]


@pytest.mark.requirement("SRS-SCL-002")
def test_sqlite_rings_on_its_host_and_keeps_its_backstop(sqlite_database, tmp_path):
    """A file is of one host: nothing changes there."""
    doorbell = Doorbell(tmp_path / "run", sqlite_database)
    bell = doorbell.listen("analyze")
    assert bell.backstop_s == BACKSTOP_S
    doorbell.ring("analyze")
    assert bell.wait(LONG_S)
    assert not _threads()
    bell.close()


@pytest.mark.requirement("SRS-SCL-002")
def test_a_rest_ends_with_the_stop_and_at_what_is_asked_for(sqlite_database, tmp_path):
    """A stage that is told to end must not wait out a backstop."""
    bell = Doorbell(tmp_path / "run", sqlite_database).listen("analyze")
    assert not bell.rest(0.01, threading.Event())
    stopped = threading.Event()
    stopped.set()
    assert not bell.rest(LONG_S, stopped)
    bell.close()


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "doorbell-exchange"]
