"""Makes a backup while the node runs: the database of one moment, and all bytes that its rows name.

The database comes first. A row appears after its bytes are durable, so what the snapshot names is there; what retention
takes away between the two is told in the manifest. A file under a location never changes but by a rotation of keys,
which puts a new file in its place: so a hard link is a copy that costs nothing, and a file that the backup before holds
is neither read nor copied again. Hard links outlive a mistake and not the disk: another disk is for the site to choose.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import select

from storage import snapshots
from storage.backup_manifest import (
    FILES,
    PART,
    PREFIX,
    VERSION,
    Manifest,
    backups,
    digest_of,
    name_at,
    verify,
    write_manifest,
)
from storage.database import Database
from storage.errors import StorageBusy, StorageError
from storage.faults import fault_point
from storage.files import InstanceFiles
from storage.saving import Saving, sync_file
from storage.stores import sync_folder, translated
from storage.tables import instances

_LOST_TOLD = 1000


@dataclass(frozen=True)
class Wanted:
    """What goes into a backup beside database and bytes.

    Attributes
    ----------
    extras : files by their path in the backup
    with_bytes : copy the bytes of an object store too; of a folder they are always saved
    address : of the object store, empty where there is none
    """

    release: str
    extras: Mapping[str, Path | bytes]
    with_bytes: bool = False
    address: str = ""


@dataclass(frozen=True)
class Made:
    """A complete backup. `linked` of its files cost no space."""

    path: Path
    manifest: Manifest
    linked: int


def make_backup(
    database: Database,
    files: InstanceFiles,
    folder: Path,
    wanted: Wanted,
    *,
    now: datetime,
    still: Callable[[], bool] = lambda: True,
) -> Made:
    """Write a backup into the folder and return it once it is complete and durable.

    Parameters
    ----------
    still : asked now and then; False ends the work

    Raises
    ------
    StorageError, StorageFull, StorageBusy
        Nothing of it is left; earlier backups are untouched.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(folder):
            for abandoned in folder.glob(f"{PREFIX}*{PART}"):
                shutil.rmtree(abandoned)
            return _make(database, files, folder, wanted, now=now, still=still)
    except OSError as error:
        raise translated(error, f"write a backup into {folder}, with") from error


def prune(folder: Path, keep: int) -> list[str]:
    """Remove all but the newest `keep` backups, once the newest has been read whole; return the names of the removed.

    Raises
    ------
    StorageError
        The newest does not verify: nothing is removed.
    """
    found = backups(folder)
    if not found:
        return []
    problems = verify(found[-1])
    if problems:
        raise StorageError(
            f"the newest backup {found[-1].name} does not verify, no older one is removed: {problems[0]}"
        )
    removed = []
    try:
        for old in found[:-keep]:
            # Renamed first: half a backup must not look like one.
            doomed = old.with_name(old.name + PART)
            old.rename(doomed)
            shutil.rmtree(doomed)
            removed.append(old.name)
    except OSError as error:
        raise translated(error, f"remove an old backup from {folder}, with") from error
    return removed


def _make(
    database: Database,
    files: InstanceFiles,
    folder: Path,
    wanted: Wanted,
    *,
    now: datetime,
    still: Callable[[], bool],
) -> Made:
    target = folder / name_at(now)
    if target.exists():
        raise StorageError(f"{target} is there already")
    earlier = backups(folder)
    part = target.with_name(target.name + PART)
    part.mkdir(mode=0o700)
    try:
        saving = Saving(files, part, earlier[-1] if earlier else None)
        with snapshots.snapshot(database, part) as (name, revision, locations):
            fault_point("backup.database-saved")
            missing = []
            for location in locations:
                if not still():
                    raise StorageBusy("the backup was ended: the node stops")
                if wanted.address and not wanted.with_bytes:
                    saving.list(location)
                elif not saving.save(location):
                    missing.append(location)
        deleted = _deleted_since(database, missing)
        for path, source in wanted.extras.items():
            saving.add(path, source)
        saving.note(name)
        saving.close()
        manifest = Manifest(
            version=VERSION,
            made_at=now.isoformat(),
            release=wanted.release,
            database=name,
            revision=revision,
            files=saving.files,
            bytes=saving.bytes,
            files_sha256=digest_of(part / FILES),
            listed=wanted.address if not wanted.with_bytes else "",
            keys=tuple(sorted(saving.keys)),
            lost=tuple(sorted(set(missing) - deleted))[:_LOST_TOLD],
            deleted=tuple(sorted(deleted)),
        )
        write_manifest(part, manifest)
        _make_durable(part)
        fault_point("backup.written")
        part.rename(target)
        sync_folder(folder)
        fault_point("backup.complete")
        return Made(target, manifest, saving.linked)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _deleted_since(database: Database, missing: list[str]) -> set[str]:
    """Return which of them no row names any more."""
    found: set[str] = set()
    for start in range(0, len(missing), 500):
        batch = missing[start : start + 500]
        with database.read() as connection:
            present = select(instances.c.location).where(
                instances.c.location.in_(batch), instances.c.deleted_at.is_(None)
            )
            held = set(connection.execute(present).scalars())
        found.update(location for location in batch if location.startswith("instances/") and location not in held)
    return found


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageBusy(f"another backup is being written into {folder}") from error
        yield
    finally:
        os.close(descriptor)


def _make_durable(part: Path) -> None:
    for name in part.iterdir():
        if name.is_file():
            sync_file(name)
    for folder, _, _ in os.walk(part):
        sync_folder(Path(folder))
