"""Backups are made by the clock, by one host, and a failure is an alarm."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from cxr_node.upkeep import backup
from cxr_node.upkeep.backup import Standing, is_due, standing
from cxr_node.worklist.web.admin.condition import look
from cxr_node.worklist.web.admin.troubles import troubles_of
from storage import audit, jobs
from storage.backup_manifest import backups, verify
from storage.errors import StorageFull

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def sentences(upkeep, site) -> list[str]:
    condition = look(upkeep._settings, site.database, datetime.now(UTC))
    return [trouble.sentence for trouble in troubles_of(condition) if "backup" in trouble.sentence.lower()]


@pytest.mark.requirement("SRS-STO-321")
def test_a_backup_is_made_when_it_is_due_by_one_host_and_old_ones_go(site, tmp_path, monkeypatch):
    """Two hosts share database and folder, and the clock of each says that it is time."""
    site.study("1.2.3", age_days=1)
    folder = tmp_path / "backups"
    hosts = [site.upkeep(backup_dir=str(folder), backup_every_h=24.0, backup_keep=2) for _ in range(2)]
    names = [task.name for task in hosts[0].tasks()]
    assert "backup" in names
    assert "backup" not in [task.name for task in site.upkeep().tasks()], "not set up, not made"
    days = iter(range(4))
    now = [NOON]
    monkeypatch.setattr(backup, "utc_now", lambda: now[0])
    monkeypatch.setattr("cxr_node.upkeep.stage.utc_now", lambda: now[0])
    for day in days:
        now[0] = NOON + day * DAY
        for host in hosts:
            host.queue_backup()
        workers = [host.backup_worker() for host in hosts]
        for worker in workers:
            worker.now = lambda: now[0]
        assert sum(worker.run_once() for worker in workers) == 1
        for host in hosts:
            host.queue_backup()
        assert sum(worker.run_once() for worker in workers) == 0, "it is not due again"
    made = backups(folder)
    assert [path.name for path in made] == ["cxr-node-20260303T120000Z", "cxr-node-20260304T120000Z"]
    assert verify(made[-1]) == ()
    assert standing(site.database).made_at == NOON + 3 * DAY


@pytest.mark.requirement("SRS-STO-322")
def test_a_backup_that_fails_is_an_alarm_until_one_is_made(site, tmp_path, monkeypatch):
    """Nobody reads logs at night; the page of the node's health says it, with the reason."""
    upkeep = site.upkeep(backup_dir=str(tmp_path / "backups"))
    assert sentences(site.upkeep(), site) == [], "what is not set up is no alarm"
    make = backup.make_backup

    def full(*_: object, **__: object) -> None:
        raise StorageFull("no space left on the disk of the backups")

    monkeypatch.setattr(backup, "make_backup", full)
    upkeep.queue_backup()
    assert upkeep.backup_worker().run_once() == 1
    (sentence,) = sentences(upkeep, site)
    assert "no space left on the disk of the backups" in sentence
    with site.database.read() as connection:
        assert jobs.get(connection, "backup", "backup").state == jobs.COMPLETED
        assert audit.newest(connection, "backup_failed")
    monkeypatch.setattr(backup, "make_backup", make)
    backup.back_up_and_prune(upkeep._settings, site.database, site.files, threading.Event())
    assert sentences(upkeep, site) == []


@pytest.mark.requirement("SRS-STO-322")
def test_a_backup_that_was_not_made_when_it_was_due_is_an_alarm(site, tmp_path, monkeypatch):
    """Where no host runs upkeep nothing fails, and nothing is made."""
    upkeep = site.upkeep(backup_dir=str(tmp_path / "backups"), backup_every_h=24.0)
    for age, expected in ((47, 0), (49, 1)):
        with site.database.begin() as connection:
            at = datetime.now(UTC) - timedelta(hours=age)
            audit.record(connection, "backup_made", actor="upkeep", now=at)
        assert len(sentences(upkeep, site)) == expected


@pytest.mark.requirement("SRS-STO-321")
@pytest.mark.parametrize(
    ("made_h", "failed_h", "expected"),
    [(None, None, True), (23, None, False), (24, None, True), (30, 0.5, False), (30, 2, True), (2, 1, False)],
)
def test_when_a_backup_is_due(made_h, failed_h, expected):
    """A try that failed is repeated after an hour, not every minute of the night."""
    found = Standing(
        None if made_h is None else NOON - timedelta(hours=made_h),
        None if failed_h is None else NOON - timedelta(hours=failed_h),
    )
    assert is_due(found, DAY, NOON) is expected


@pytest.mark.requirement("SRS-STO-323")
def test_no_secret_is_in_a_backup(site, tmp_path):
    """Whoever carries the backup away has the images, and not the keys to everything else."""
    (tmp_path / "node.toml").write_text(
        '[node]\ndatabase = "postgresql+psycopg://cxr:s3cret@db/cxr"\nencryption_key_file = "keys.json"\n'
    )
    for name in ("keys.json", "export.key"):
        (site.settings.data_dir / name).write_text("s3cret")
    packages = site.settings.data_dir / "packages" / "own"
    packages.mkdir(parents=True)
    (packages / "manifest.json").write_text("{}")
    settings = site.settings.model_copy(update={"base_dir": str(tmp_path)})
    made = backup.back_up(settings, site.database, site.files, tmp_path / "backups", actor="test")
    assert "***" in (made.path / "node.toml").read_text()
    assert (made.path / "packages" / "own" / "manifest.json").is_file()
    for file in made.path.rglob("*"):
        assert not file.is_file() or b"s3cret" not in file.read_bytes()
