"""kill -9 of upkeep and of an upgrade: no row names a file that is gone, a backup is whole or none, tables are one."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from storage import Database, instances, jobs
from storage.backup_manifest import backups, verify
from storage.files import InstanceFiles
from storage.tables import studies
from tests.cxr_node.upkeep.conftest import Site
from tests.faults.conftest import at, small_radiograph
from tests.faults.points import POINTS
from tests.storage.test_upgrade import FIRST_RELEASE, NOON

pytestmark = [pytest.mark.requirement("SRS-FLT-004"), pytest.mark.timeout(120)]

NEVER_S = 3600.0
RETENTION = ("upkeep.queued", "upkeep.marked", "upkeep.deleted")
BACKUP = ("backup.database-saved", "backup.written", "backup.complete")
UPGRADE = ("storage.migrating", "storage.migrated")


def soon(**more: float) -> dict[str, Any]:
    """Have the tasks begin at once, the self-test never: it would start the models."""
    values = {"FIRST_SELF_TEST_S": NEVER_S, "FIRST_RETENTION_S": 0.0, **more}
    return {f"cxr_node.upkeep.stage:{name}": value for name, value in values.items()}


@pytest.mark.parametrize("point", RETENTION)
def test_retention_that_was_killed_leaves_no_row_without_its_file(box, point, monkeypatch):
    """An image that a row names and nobody can open looks like damage."""
    import tests.cxr_node.upkeep.conftest as upkeep_conftest

    monkeypatch.setattr(upkeep_conftest, "NOW", at())
    site = Site(box.folder)
    gone = site.study("1.2.3", age_days=60, images=3)
    kept = site.study("1.2.4", age_days=1)
    old = at(-60).timestamp()
    for location in gone:
        _age(box.files, location, old)
    box.configure(upkeep={"retention_days": 30.0})
    box.start("upkeep", f"{point}:kill", patches=soon())
    box.wait_for_kill(point)
    box.wait(lambda: not any(site.held(gone)), "the files deleted")
    site.database.dispose()
    assert site.held(kept) == [True, True]
    box.wait_until_settled("upkeep", "retention")
    with box.database.read() as connection:
        for item in instances.of_study(connection, "1.2.4"):
            assert box.files.path(item.location).exists()
        assert instances.of_study(connection, "1.2.3") == []


def _age(files: InstanceFiles, location: str, modified: float) -> None:
    import os

    os.utime(files.path(location), (modified, modified))


def test_a_lease_that_was_taken_back_in_a_kill_is_free_once(box):
    """A worker that hung keeps its process, and upkeep may die while it takes the job from it."""
    point = "upkeep.leases-recovered"
    box.configure(upkeep={"sweep_s": 0.2})
    box.start("upkeep", f"{point}:kill", patches=soon(FIRST_RETENTION_S=NEVER_S))
    for number in range(20):
        held = _leased_and_late(box, f"1.2.{number}")
        box.wait(lambda: not box.is_armed(point) or not _is_held(box), "the kill, or the job taken back")
        if not box.is_armed(point):
            break
        # A worker of upkeep that claims takes late leases back too, and was sooner than the task.
        with box.database.begin() as connection:
            (again,) = jobs.claim(connection, ["side"], owner="side:2", now=at())
            assert jobs.complete(connection, again, now=at())
    assert not box.is_armed(point)
    with box.database.begin() as connection:
        (again,) = jobs.claim(connection, ["side"], owner="side:2", now=at())
        assert jobs.complete(connection, again, now=at())
        assert not jobs.complete(connection, held, now=at())


def _leased_and_late(box, key: str):
    """Leave a job that somebody holds past the end of the lease."""
    with box.database.begin() as connection:
        jobs.schedule(connection, "side", key, run_at=at(), now=at())
        (held,) = jobs.claim(connection, ["side"], owner="side:1", now=at())
        assert jobs.renew(connection, held, now=at() - timedelta(seconds=60), lease_s=30)
    return held


def _is_held(box) -> bool:
    with box.database.read() as connection:
        return ("side", "IN_PROGRESS") in jobs.counts(connection)


@pytest.mark.parametrize("point", BACKUP)
def test_a_backup_that_was_killed_is_whole_or_none(box, point):
    """Half a backup that looks like one is found out when it is needed."""
    folder = box.folder / "backups"
    box.configure(upkeep={"backup_dir": str(folder), "retention_days": 0.0})
    box.keep(small_radiograph())
    box.start("upkeep", f"{point}:kill", patches=soon())
    box.wait_for_kill(point)
    box.wait(lambda: backups(folder), "a backup")
    box.wait(lambda: not [key for key in box.open_jobs() if key[0] == "backup"], "the backup's job settled")
    for made in backups(folder):
        assert verify(made) == ()


@pytest.mark.parametrize("point", UPGRADE)
def test_an_upgrade_that_was_killed_leaves_the_tables_as_they_were(box, point):
    """The old release can be started again, and the new one upgrades whole."""
    path = box.settings.data_dir / "cxr-node.db"
    path.unlink()
    database = Database(f"sqlite:///{path}")
    database.migrate("0001")
    from sqlalchemy import MetaData, Table

    with database.begin() as connection:
        for name, row in FIRST_RELEASE.items():
            table = Table(name, MetaData(), autoload_with=connection)
            connection.execute(table.insert().values(**row))
    box.start("orders", f"{point}:kill")
    box.wait_for_kill(point)
    box.wait(database.is_current, "the upgrade whole")
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(studies)).scalar_one() == 1
        job = jobs.get(connection, "deliver", "1")
    assert job is not None
    assert (job.state, job.run_at) == ("SCHEDULED", NOON)
    database.dispose()


def test_tables_are_as_before_while_an_upgrade_is_dead(box):
    """Between kill and restart there is nothing half made to be seen."""
    import os
    import subprocess
    import sys

    from storage.faults import FOLDER_VARIABLE, VARIABLE
    from tests.conftest import ROOT

    url = f"sqlite:///{box.folder / 'old.db'}"
    old = Database(url)
    old.migrate("0001")
    box.arm("storage.migrating")
    environment = {**os.environ, VARIABLE: "storage.migrating:kill@2", FOLDER_VARIABLE: str(box.armed_in)}
    command = f"from storage import Database; Database({url!r}).migrate()"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, env=environment)
    assert done.returncode == -9
    assert _revision(old) == "0001"
    old.migrate()
    assert old.is_current()
    old.dispose()


def _revision(database: Database) -> str:
    with database.read() as connection:
        return str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one())


def test_every_point_of_the_stage_is_killed_here():
    """A new point needs its test."""
    tried = {*RETENTION, "upkeep.leases-recovered", *BACKUP, *UPGRADE}
    assert tried == {point.name for point in POINTS if point.stage in ("upkeep", "upgrade")}
