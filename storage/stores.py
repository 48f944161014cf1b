"""Where bytes lie: a folder, or an object store. Both take whole files under a location, and are durable on return.

A store knows nothing of what the bytes are; `files.InstanceFiles` makes the locations and seals the bytes.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from storage.errors import BytesMissing, StorageBusy, StorageError, StorageFull
from storage.faults import fault_point

KINDS = ("instances", "objects")
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MAY_PASS = frozenset({errno.EIO, errno.ESTALE, errno.ENXIO, errno.EMFILE, errno.ENFILE, errno.EROFS})


class Store(Protocol):
    """What `InstanceFiles` asks of a place for bytes. All raise `StorageError` and its kinds, nothing else."""

    def staging_path(self) -> Path:
        """Return a path for a file that is to be `put`; nobody else gets it."""

    def put(self, temporary: Path, location: str) -> None:
        """Make the file's bytes durable under the location, whatever was there; gone from `temporary`, failed or not.

        Nobody reads a part of it, or something between the old bytes and the new.
        """

    def path(self, location: str) -> Path | None:
        """Return the path where the store is a folder, else None."""

    def open(self, location: str) -> BinaryIO:
        """Open the bytes for reading from the start.

        Raises
        ------
        BytesMissing
        """

    def size(self, location: str) -> int:
        """Return how many bytes lie there.

        Raises
        ------
        BytesMissing
        """

    def delete(self, location: str) -> None:
        """Remove the bytes; those that are gone already are fine."""

    def locations(self, kind: str) -> Iterator[tuple[str, float]]:
        """Every location of ``instances`` or ``objects`` with the time it was kept, seconds since 1970."""

    def free_bytes(self) -> int | None:
        """Return the space left, None where the store has no bound that it tells of."""

    def sweep(self, older_than_s: float, now: datetime) -> int:
        """Remove what a dead process left half put; return how many files."""


def checked(location: str) -> tuple[str, ...]:
    """Return the parts of a location; one that leads elsewhere is refused."""
    parts = PurePosixPath(location).parts
    if len(parts) < 2 or parts[0] not in KINDS or ".." in parts:
        raise StorageError(f"{location!r} is no location of this storage")
    return parts


class FolderStore:
    """A folder of this host, or one that several hosts share."""

    def __init__(self, root: Path) -> None:
        self._root = Path(root)
        make_folders(*(self._root / name for name in (*KINDS, "staging")))

    def staging_path(self) -> Path:
        return self._root / "staging" / temporary_name()

    def put(self, temporary: Path, location: str) -> None:
        target = self._root.joinpath(*checked(location))
        try:
            fault_point("storage.complete")
            _sync_file(temporary)
            fault_point("storage.synced")
            if not target.parent.is_dir():
                target.parent.mkdir(mode=0o700, exist_ok=True)
                sync_folder(target.parent.parent)  # else a power cut may take the folder, with all that is in it
            self._move(temporary, target)
            fault_point("storage.renamed")
            sync_folder(target.parent)
        except OSError as error:
            remove(temporary)
            raise translated(error, f"keep {_noun(location)} in") from error

    def _move(self, temporary: Path, target: Path) -> None:
        try:
            # Renamed after fsync: a row must not name a file that a power cut can empty.
            os.rename(temporary, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # The folder of incoming files is a file system of its own, as a tmpfs is.
            staged = self.staging_path()
            try:
                copy_file(temporary, staged)
                os.rename(staged, target)
            except OSError:
                remove(staged)
                raise
            remove(temporary)

    def path(self, location: str) -> Path | None:
        return self._root.joinpath(*checked(location))

    def open(self, location: str) -> BinaryIO:
        try:
            return self._root.joinpath(*checked(location)).open("rb")
        except OSError as error:
            raise translated(error, f"read {location} in") from error

    def size(self, location: str) -> int:
        try:
            return self._root.joinpath(*checked(location)).stat().st_size
        except OSError as error:
            raise translated(error, f"look at {location} in") from error

    def delete(self, location: str) -> None:
        try:
            self._root.joinpath(*checked(location)).unlink(missing_ok=True)
        except OSError as error:
            raise translated(error, f"delete {location} in") from error

    def locations(self, kind: str) -> Iterator[tuple[str, float]]:
        for folder in entries(self._root / kind):
            for entry in entries(Path(folder.path)):
                kept_at = modified(entry)
                if kept_at is not None:
                    yield f"{kind}/{folder.name}/{entry.name}", kept_at

    def free_bytes(self) -> int | None:
        return free_bytes(self._root)

    def sweep(self, older_than_s: float, now: datetime) -> int:
        return sweep(self._root / "staging", older_than_s, now)


def temporary_name() -> str:
    """Return a file name that nobody else gets."""
    return f"{os.getpid():x}-{secrets.token_hex(12)}.part"


def make_folders(*folders: Path) -> None:
    """Make folders for the owner only."""
    try:
        for folder in folders:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise translated(error, "make the folders of") from error


def copy_file(source: Path, target: Path) -> None:
    """Copy to a new file and make it durable."""
    with open(source, "rb") as old, open(target, "xb") as new:
        while chunk := old.read(1 << 20):
            new.write(chunk)
        new.flush()
        os.fsync(new.fileno())


def sync_folder(path: Path) -> None:
    """Make names in the folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> bool:
    """Remove a file; whether it was there. Meant for clearing up, so no error is raised."""
    try:
        os.unlink(path)
    except OSError:
        return False  # the error that brought us here says more
    return True


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what the folder holds."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError as error:
        raise translated(error, "list the folders of") from error


def modified(entry: os.DirEntry[str]) -> float | None:
    """Return the time of the last change, None where somebody kept or removed the file meanwhile."""
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return None


def sweep(folder: Path, older_than_s: float, now: datetime) -> int:
    """Remove files older than that and return how many."""
    removed = 0
    for entry in entries(folder):
        changed = modified(entry)
        if changed is not None and now.timestamp() - changed > older_than_s and remove(Path(entry.path)):
            removed += 1
    return removed


def free_bytes(folder: Path) -> int:
    """Return the space that an unprivileged process may still fill."""
    try:
        status = os.statvfs(folder)
    except OSError as error:
        raise translated(error, "ask for the space of") from error
    return status.f_bavail * status.f_frsize


def translated(error: OSError, action: str) -> StorageError:
    """Return what an error of the operating system means here."""
    message = f"cannot {action} the storage folder: {errno.errorcode.get(error.errno or 0, 'error')}"
    if isinstance(error, FileNotFoundError):
        return BytesMissing(message)
    if error.errno in _NO_SPACE:
        return StorageFull(message)
    if error.errno in _MAY_PASS:
        return StorageBusy(message)
    return StorageError(message)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _noun(location: str) -> str:
    return "an instance" if location.startswith("instances/") else "a result object"
