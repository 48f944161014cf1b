"""A process says that it lives, and takes itself off the list at its end."""

import os
import threading

import pytest

from cxr_node.work.heartbeat import beating
from storage import heartbeats
from tests.databases import migrated
from tests.system.conftest import wait_until

pytestmark = pytest.mark.requirement("SRS-ADM-105")


@pytest.fixture
def database(tmp_path):
    opened = migrated(f"sqlite:///{tmp_path / 'node.db'}")
    yield opened
    opened.dispose()


def listed(database):
    """Return what is known of processes."""
    with database.read() as connection:
        return heartbeats.listed(connection)


def test_signs_of_life_come_at_once_and_again_with_what_the_stage_says(database):
    """The page shows models that were changed an hour after the start."""
    said = {"state": "loading models"}
    with beating(database, "analyze", lambda: dict(said), every_s=0.02):
        wait_until(lambda: listed(database), 10, "a sign of life")
        (first,) = listed(database)
        assert (first.stage, first.process.rpartition(":")[2]) == ("analyze", str(os.getpid()))
        assert first.detail == {"state": "loading models"}
        said["state"] = "ready"
        wait_until(lambda: listed(database)[0].detail == {"state": "ready"}, 10, "the news")
        assert listed(database)[0].seen_at > first.seen_at
        assert listed(database)[0].started_at == first.started_at
    assert listed(database) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "analyze-heartbeat"]


def test_a_stage_works_on_while_the_database_takes_no_sign_of_life(database):
    """What shows the work must not stop it."""
    database.downgrade("base")
    with beating(database, "analyze", every_s=0.02):
        database.migrate()
        wait_until(lambda: listed(database), 10, "a sign of life once it can be written")
