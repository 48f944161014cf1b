"""Images that somebody tries: files that belong to no study, known by a random key, and gone when their time is up.

WAITING  its job has not looked at it yet
DONE     `result` says what came of it
REFUSED  it was not looked at; `reason` says why
FAILED   the job was given up; `reason` says why
"""

import contextlib
import os
import secrets
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.engine import Connection

from storage.database import Database
from storage.errors import StorageError
from storage.host import host_id
from storage.jobs import SCHEDULED
from storage.site_tables import drop_files, drops
from storage.tables import jobs

WAITING, DONE, REFUSED, FAILED = "WAITING", "DONE", "REFUSED", "FAILED"
KIND = "drop"  # of the jobs, see `kind_here`; the key is the id of the file
PREVIEW = ".png"


@dataclass(frozen=True)
class Drop:
    """What one person tries at one time. `options` holds what they stated of pictures; `owner` may ask for it."""

    id: int
    key: str
    owner: str
    purpose: str
    options: dict[str, Any]
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True)
class DropFile:
    """One file of it. `name` is its sender's word, shown and never a path; `location` is empty where none is kept."""

    id: int
    drop_id: int
    name: str
    location: str
    size: int
    state: str
    reason: str
    result: dict[str, Any]
    created_at: datetime
    updated_at: datetime


def kind_here(database: Database, run_dir: Path) -> str:
    """Return the kind of the jobs of this host: what is tried lies on the host that took it, and is looked at there."""
    return KIND if database.dialect == "sqlite" else f"{KIND}:{host_id(run_dir)}"


_DROP = [drops.c[field.name] for field in fields(Drop)]
_FILE = [drop_files.c[field.name] for field in fields(DropFile)]


def add(
    connection: Connection,
    *,
    owner: str,
    purpose: str,
    options: dict[str, Any],
    now: datetime,
    expires_at: datetime,
    key: str = "",
) -> Drop:
    """Open a drop under a key of 128 random bits."""
    row = connection.execute(
        drops.insert()
        .values(
            key=key or secrets.token_urlsafe(16),
            owner=owner,
            purpose=purpose,
            options=options,
            created_at=now,
            expires_at=expires_at,
        )
        .returning(*_DROP)
    ).one()
    return Drop(**row._mapping)


def find(connection: Connection, key: str, *, now: datetime) -> Drop | None:
    """Return the drop of that key, None where there is none or its time is up."""
    found = select(*_DROP).where(drops.c.key == key, drops.c.expires_at > now)
    row = connection.execute(found).one_or_none()
    return None if row is None else Drop(**row._mapping)


def of_owner(connection: Connection, owner: str) -> list[Drop]:
    """Return somebody's drops, oldest first."""
    rows = connection.execute(select(*_DROP).where(drops.c.owner == owner).order_by(drops.c.id))
    return [Drop(**row._mapping) for row in rows]


def expired(connection: Connection, *, now: datetime, limit: int) -> list[Drop]:
    """Return drops whose time is up."""
    found = select(*_DROP).where(drops.c.expires_at <= now).order_by(drops.c.expires_at).limit(limit)
    return [Drop(**row._mapping) for row in connection.execute(found)]


def change(connection: Connection, drop_id: int, **values: Any) -> None:
    """Set columns of a drop: its options, or when its time is up."""
    connection.execute(update(drops).where(drops.c.id == drop_id).values(**values))


def remove(connection: Connection, drop_id: int) -> list[str]:
    """Remove a drop and its files' rows; return the locations, to be deleted once this is committed."""
    gone = connection.execute(
        delete(drop_files).where(drop_files.c.drop_id == drop_id).returning(drop_files.c.id, drop_files.c.location)
    )
    rows = list(gone)
    locations = [row.location for row in rows if row.location]
    # A job of a host that is no more would wait for it for ever.
    waits = (jobs.c.kind.startswith(KIND), jobs.c.state == SCHEDULED, jobs.c.key.in_([str(row.id) for row in rows]))
    connection.execute(delete(jobs).where(*waits))
    connection.execute(delete(drops).where(drops.c.id == drop_id))
    return locations


def add_file(
    connection: Connection,
    drop_id: int,
    *,
    name: str,
    state: str,
    now: datetime,
    location: str = "",
    size: int = 0,
    reason: str = "",
) -> DropFile:
    """Add a file."""
    row = connection.execute(
        drop_files.insert()
        .values(
            drop_id=drop_id,
            name=name,
            location=location,
            size=size,
            state=state,
            reason=reason,
            result={},
            created_at=now,
            updated_at=now,
        )
        .returning(*_FILE)
    ).one()
    return DropFile(**row._mapping)


def get_file(connection: Connection, file_id: int) -> tuple[Drop, DropFile] | None:
    """Return a file and the drop it is of, or None."""
    row = connection.execute(select(*_FILE).where(drop_files.c.id == file_id)).one_or_none()
    if row is None:
        return None
    file = DropFile(**row._mapping)
    of_file = connection.execute(select(*_DROP).where(drops.c.id == file.drop_id)).one_or_none()
    return None if of_file is None else (Drop(**of_file._mapping), file)


def files(connection: Connection, drop_id: int) -> list[DropFile]:
    """Return the files of a drop in the order they came."""
    rows = connection.execute(select(*_FILE).where(drop_files.c.drop_id == drop_id).order_by(drop_files.c.id))
    return [DropFile(**row._mapping) for row in rows]


def used(connection: Connection, drop_id: int) -> tuple[int, int]:
    """Return how many files a drop has, and their bytes together."""
    summed = select(func.count(), func.coalesce(func.sum(drop_files.c.size), 0)).where(drop_files.c.drop_id == drop_id)
    count, size = connection.execute(summed).one()
    return int(count), int(size)


def settle(connection: Connection, file_id: int, *, state: str, now: datetime, **values: Any) -> bool:
    """Say what came of a file; False where it is gone."""
    changed = update(drop_files).where(drop_files.c.id == file_id).values(state=state, updated_at=now, **values)
    return connection.execute(changed).rowcount == 1


def locations(connection: Connection) -> set[str]:
    """Return every location that a row names."""
    return set(connection.execute(select(drop_files.c.location).where(drop_files.c.location != "")).scalars())


class DropFolder:
    """The bytes. Every name is made here; those of the senders are never part of a path."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def new(self) -> str:
        """Return a location that nobody else gets; the file is not made yet, its folder is."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make the folder of tried images: {error.strerror}") from error
        return secrets.token_hex(16)

    def path(self, location: str) -> Path:
        """Return the path of a location; one that this class did not make is refused."""
        if len(location) != 32 or not location.isalnum() or not location.isascii():
            raise StorageError("no location of this storage")
        return self.root / location

    def preview(self, location: str) -> Path:
        """Return the path of the preview beside it."""
        return self.path(location).with_suffix(PREVIEW)

    def delete(self, gone: Collection[str]) -> None:
        """Remove files and previews; those that are gone already are fine."""
        for location in gone:
            for path in (self.path(location), self.preview(location)):
                with contextlib.suppress(OSError):  # what stays is an orphan, and swept
                    path.unlink(missing_ok=True)

    def older(self, before: datetime) -> Iterator[tuple[str, Path]]:
        """Yield location and path of every file last written before that time."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime < before.timestamp():
                        yield entry.name.partition(".")[0], Path(entry.path)

    def free_bytes(self) -> int:
        """Return the space that an unprivileged process may still fill."""
        self.new()
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize
