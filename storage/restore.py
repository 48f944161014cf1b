"""Puts a backup back, into a place where nothing is yet."""

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import update

from storage import audit, jobs, snapshots
from storage.backup_manifest import Manifest, read_manifest, saved_files, verify
from storage.database import Database, knows_revision
from storage.errors import StorageError
from storage.stores import Store, copy_file, make_folders, sync_folder, temporary_name, translated
from storage.tables import instances

_LAST = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Place:
    """Where the node keeps what it keeps; `store` is an object store, None where bytes lie in `instances_dir`."""

    data_dir: Path
    instances_dir: Path
    database_url: str
    store: Store | None = None


@dataclass(frozen=True)
class Restored:
    """What was put back. `absent` are locations that rows name and nobody has."""

    manifest: Manifest
    files: int
    released: int
    absent: tuple[str, ...]


def restore(folder: Path, place: Place, *, now: datetime) -> Restored:
    """Verify a backup and put it back: the bytes first, the database last.

    Raises
    ------
    StorageError
        It does not verify, or something is there already; nothing was written then.
    """
    manifest = read_manifest(folder)
    if not knows_revision(manifest.revision):
        raise StorageError(
            f"the backup was made by a newer release: its tables are of revision {manifest.revision}, "
            "which this release does not know; install the release that made it"
        )
    if problems := verify(folder):
        raise StorageError(f"{folder} does not verify: {'; '.join(problems[:3])}")
    _refuse_what_is_there(place)
    absent = list(manifest.lost)
    try:
        make_folders(place.data_dir)
        number = 0
        for item in saved_files(folder):
            if item.path.startswith(("instances/", "objects/")):
                _put(folder / item.path, item.path, place)
            elif item.path.startswith("packages/"):
                _copy(folder / item.path, place.data_dir / item.path)
            else:
                continue
            number += 1
        if manifest.listed:
            absent += _not_in_store(folder / "listed.txt", place)
        for top in {place.data_dir, place.instances_dir}:
            for made, _, _ in os.walk(top) if top.is_dir() else ():
                sync_folder(Path(made))
    except OSError as error:
        raise translated(error, "put a backup back into") from error
    snapshots.load(place.database_url, folder / manifest.database)
    released = _settle(place, manifest, now)
    return Restored(manifest, number, released, tuple(absent))


def _refuse_what_is_there(place: Place) -> None:
    folders = {place.data_dir} | ({place.instances_dir} if place.store is None else set())
    for folder in folders:
        if folder.exists() and any(entry.name != "lost+found" for entry in folder.iterdir()):
            raise StorageError(f"{folder} is not empty: a backup is put back into an empty place only")
    if not snapshots.is_empty(place.database_url):
        raise StorageError("the database is not empty: a backup is put back into an empty one only")


def _put(source: Path, location: str, place: Place) -> None:
    if place.store is None:
        _copy(source, place.instances_dir / location)
        status = source.stat()
        os.utime(place.instances_dir / location, ns=(status.st_mtime_ns, status.st_mtime_ns))
        return
    temporary = place.data_dir / temporary_name()
    shutil.copyfile(source, temporary)
    place.store.put(temporary, location)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    copy_file(source, target)


def _not_in_store(listed: Path, place: Place) -> list[str]:
    if place.store is None:
        raise StorageError("the bytes of this backup stayed in an object store: set node.instances to its address")
    absent = []
    for line in listed.read_text(encoding="utf-8").splitlines():
        try:
            place.store.size(line)
        except StorageError:
            absent.append(line)
    return absent


def _settle(place: Place, manifest: Manifest, now: datetime) -> int:
    """Bring the tables to this release, end the leases of workers that are no more, and note what was done."""
    database = Database(place.database_url)
    try:
        database.migrate()
        with database.begin() as connection:
            if manifest.deleted:
                connection.execute(
                    update(instances)
                    .where(instances.c.location.in_(manifest.deleted), instances.c.deleted_at.is_(None))
                    .values(deleted_at=now)
                )
            released = jobs.recover_expired(connection, now=_LAST)
            audit.record(
                connection,
                "backup_restored",
                actor="cxr-node restore",
                now=now,
                detail={"made_at": manifest.made_at, "files": manifest.files, "lost": len(manifest.lost)},
            )
        return released
    finally:
        database.dispose()
