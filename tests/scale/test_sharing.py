"""What several hosts share and what is each one's own: turns of upkeep, images that are tried, connections."""

import socket
import threading
from datetime import datetime, timedelta

import pytest
from fastapi import HTTPException
from sqlalchemy import text, update

from cxr_node.clock import utc_now
from cxr_node.settings import Settings
from cxr_node.upkeep.stage import KIND, Task, Upkeep
from cxr_node.worklist.services import make_services
from cxr_node.worklist.web.access import Person
from cxr_node.worklist.web.drop.desk import DropDesk
from storage import Database, InstanceFiles, drops, heartbeats, jobs, tables
from storage.drops import kind_here

pytestmark = pytest.mark.peer("initdb")

READER = Person("dr.lee", "reader", "session")


def settings_of(tmp_path, name: str) -> Settings:
    """Return the settings of a host with a data folder of its own."""
    return Settings.model_validate({"base_dir": str(tmp_path), "node": {"data_dir": name}})


def queued(database: Database, task: Task) -> jobs.Job | None:
    with database.read() as connection:
        return jobs.get(connection, KIND, task.name)


@pytest.mark.requirement("SRS-SCL-016")
def test_a_shared_task_runs_once_a_turn_however_many_hosts_there_are(database, tmp_path):
    """Ten hosts must not sweep one store ten times an hour."""
    stop = threading.Event()
    task = Task("retention", 3600.0, 0.0, True, lambda: None)
    hosts = [
        Upkeep(settings_of(tmp_path, name), database, InstanceFiles(tmp_path / "data"), stop) for name in ("a", "b")
    ]
    for host in hosts:
        host.queue(task)
    assert queued(database, task).wanted == 1
    with database.begin() as connection:
        (job,) = jobs.claim(connection, [KIND], owner="a:", now=utc_now())
        assert jobs.complete(connection, job, now=utc_now())
    for host in hosts:
        host.queue(task)
    assert queued(database, task).state == jobs.COMPLETED, "done for this turn"

    def put(run_at: datetime) -> None:
        with database.begin() as connection:
            connection.execute(update(tables.jobs).values(run_at=run_at))

    put(utc_now() - timedelta(hours=1))
    for host in hosts:
        host.queue(task)
    assert (queued(database, task).state, queued(database, task).wanted) == (jobs.SCHEDULED, 2), "the next one"
    put(utc_now() + timedelta(days=300))  # the clock of whoever queued it was wrong
    hosts[0].queue(task)
    assert queued(database, task).run_at <= utc_now()


def say_alive(database: Database, stage: str, host: str, seen_at: datetime) -> None:
    with database.begin() as connection:
        heartbeats.beat(connection, stage, f"{host}:1", started_at=seen_at, now=seen_at, detail={})


@pytest.mark.requirement("SRS-SCL-017")
def test_images_are_tried_on_the_host_that_took_them_or_refused_with_the_reason(postgresql_database, tmp_path):
    """Their bytes lie on that host's disk, for minutes: another one would find nothing and say that it failed."""
    database, here = postgresql_database, settings_of(tmp_path, "a")
    desk = DropDesk(make_services(here, database))
    now = utc_now()
    say_alive(database, "analyze", "another-host", now)
    say_alive(database, "analyze", socket.gethostname(), now - timedelta(hours=1))
    with pytest.raises(HTTPException, match="no analyze process runs on this one") as refused:
        desk.open(READER, purpose="try", population="")
    assert refused.value.status_code == 503
    say_alive(database, "analyze", socket.gethostname(), now)
    drop = desk.open(READER, purpose="try", population="")
    location = desk.folder.new()
    desk.folder.path(location).write_bytes(b"x")
    file = desk._add(drop, "a.png", location=location, size=1)
    mine, other = kind_here(database, here.data_dir / "run"), kind_here(database, tmp_path / "b" / "run")
    with database.begin() as connection:
        assert jobs.claim(connection, [other], owner="b:", now=utc_now()) == [], "not another host's to look at"
        assert jobs.get(connection, mine, str(file.id)).state == jobs.SCHEDULED
        # Cleared before anybody looked, maybe by another host's sweep: nothing is left that waits for this host.
        assert drops.remove(connection, drop.id) == [location]
        assert jobs.get(connection, mine, str(file.id)) is None


@pytest.mark.requirement("SRS-SCL-017")
def test_an_image_is_sent_to_the_worklist_only_where_something_receives(postgresql_database, tmp_path):
    """In a folder that nobody watches it would be on its way for ever."""
    database = postgresql_database
    desk = DropDesk(make_services(settings_of(tmp_path, "a"), database))
    say_alive(database, "analyze", socket.gethostname(), utc_now())
    drop = desk.open(READER, purpose="try", population="")
    location = desk.folder.new()
    desk.folder.path(location).write_bytes(b"x")
    file = desk._add(drop, "a.dcm", location=location, size=1)
    with database.begin() as connection:
        drops.settle(connection, file.id, state=drops.DONE, now=utc_now(), result={"kind": "DICOM"})
    file = desk.file(drop, file.id)
    with pytest.raises(HTTPException, match="no receive process runs on this one"):
        desk.send(READER, file)
    say_alive(database, "receive", socket.gethostname(), utc_now())
    assert desk.sending(desk.send(READER, file)).state == "on its way"


@pytest.mark.requirement("SRS-SCL-018")
def test_both_sides_of_a_connection_notice_within_half_a_minute_that_the_other_is_cut_off(postgresql_database):
    """A host that vanishes in the middle of a claim must not keep the rows' locks for hours."""
    with postgresql_database.read() as connection:
        found = connection.execute(
            text(
                "SELECT name, setting FROM pg_settings WHERE name IN ('tcp_keepalives_idle',"
                " 'tcp_keepalives_interval', 'tcp_keepalives_count', 'tcp_user_timeout')"
            )
        ).all()
        server = {row.name: int(row.setting) for row in found}
        client = socket.socket(fileno=connection.connection.driver_connection.fileno())
        try:
            idle, interval, count, user_ms = (
                client.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
            )
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
        finally:
            client.detach()
    told = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout")
    assert tuple(server[name] for name in told) == (idle, interval, count, user_ms)
    assert idle + interval * count <= 30
    assert 0 < user_ms <= 30_000
