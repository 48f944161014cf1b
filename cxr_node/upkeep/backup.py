"""Backups of a running node: what goes into one, when the next is due, and what the audit trail says of the last."""

import re
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cxr_node import __version__
from cxr_node.clock import utc_now
from cxr_node.log import get_logger
from cxr_node.settings import Settings
from storage import Database, InstanceFiles, audit
from storage.backup import Made, Wanted, make_backup, prune
from storage.errors import StorageError
from storage.object_store import SCHEME

log = get_logger("upkeep")

MADE = "backup_made"
FAILED = "backup_failed"
AGAIN_AFTER = timedelta(hours=1)  # a backup that failed
_PASSWORD = re.compile(r"(://[^:/@\s]*:)[^@\s]*(@)")


@dataclass(frozen=True)
class Standing:
    """What is known of backups: the last that was made, and the last that failed."""

    made_at: datetime | None
    failed_at: datetime | None
    reason: str = ""

    @property
    def is_failing(self) -> bool:
        """Whether the last try failed."""
        return self.failed_at is not None and (self.made_at is None or self.failed_at > self.made_at)


def standing(database: Database) -> Standing:
    """Ask the audit trail."""
    with database.read() as connection:
        made, failed = (audit.newest(connection, event) for event in (MADE, FAILED))
    return Standing(
        made[0].created_at if made else None,
        failed[0].created_at if failed else None,
        str(failed[0].detail.get("reason", "")) if failed else "",
    )


def is_due(found: Standing, every: timedelta, now: datetime) -> bool:
    """Whether the next backup is to be made now."""
    if found.is_failing and found.failed_at is not None and now - found.failed_at < AGAIN_AFTER:
        return False
    return found.made_at is None or now - found.made_at >= every


def back_up(
    settings: Settings,
    database: Database,
    files: InstanceFiles,
    folder: Path,
    *,
    actor: str,
    config: Path | None = None,
    with_bytes: bool = False,
    stop: threading.Event | None = None,
) -> Made:
    """Make one backup and note it in the audit trail, the failure too.

    Raises
    ------
    StorageError
    """
    node = settings.node
    wanted = Wanted(
        release=__version__,
        extras=extras(settings, config),
        with_bytes=with_bytes,
        address=node.instances if node.instances.startswith(SCHEME) else "",
    )
    still = (lambda: True) if stop is None else (lambda: not stop.is_set())
    try:
        made = make_backup(database, files, folder, wanted, now=utc_now(), still=still)
    except StorageError as error:
        if still():
            with database.begin() as connection:
                audit.record(connection, FAILED, actor=actor, now=utc_now(), detail={"reason": str(error)})
        raise
    told = made.manifest
    detail = {"name": made.path.name, "files": told.files, "bytes": told.bytes, "lost": len(told.lost)}
    with database.begin() as connection:
        audit.record(connection, MADE, actor=actor, now=utc_now(), detail=detail)
    return made


def extras(settings: Settings, config: Path | None = None) -> dict[str, Path | bytes]:
    """Return what is saved beside database and bytes: node.toml without a password, the packages of the site.

    No secret is among them: no key file, no certificate's key, no password file.
    """
    found: dict[str, Path | bytes] = {}
    path = config if config is not None else Path(settings.base_dir or ".") / "node.toml"
    if path.is_file():
        found["node.toml"] = _PASSWORD.sub(r"\1***\2", path.read_text(encoding="utf-8")).encode()
    packages = settings.data_dir / "packages"
    for file in sorted(packages.rglob("*")) if packages.is_dir() else ():
        if file.is_file() and not file.is_symlink():
            found[f"packages/{file.relative_to(packages)}"] = file
    return found


def back_up_and_prune(settings: Settings, database: Database, files: InstanceFiles, stop: threading.Event) -> None:
    """The task of upkeep: make a backup, and remove old ones once the new one was read whole.

    A failure is told by log, audit trail and the page of the node's health; it ends no other task.
    """
    upkeep = settings.upkeep
    folder = settings.path(upkeep.backup_dir)
    try:
        made = back_up(settings, database, files, folder, actor="upkeep", stop=stop)
    except StorageError as error:
        if not stop.is_set():
            log.error("backup_failed", reason=str(error))
        return
    try:
        removed = prune(folder, upkeep.backup_keep)
    except StorageError as error:
        log.error("backup_failed", reason=str(error))
        with database.begin() as connection:
            audit.record(connection, FAILED, actor="upkeep", now=utc_now(), detail={"reason": str(error)})
        return
    told = made.manifest
    report = log.warning if told.lost else log.info
    report("backup_made", name=made.path.name, files=told.files, bytes=told.bytes, lost=len(told.lost), removed=removed)
