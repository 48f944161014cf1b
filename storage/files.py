"""The bytes: instances as they came and result objects as they are sent, durable before anybody is told of them."""

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path, PurePosixPath

from storage.errors import StorageBusy, StorageError, StorageFull

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MAY_PASS = frozenset({errno.EIO, errno.ESTALE, errno.ENXIO, errno.EMFILE, errno.ENFILE, errno.EROFS})


class InstanceFiles:
    """The folder of all bytes: ``incoming`` (not acknowledged), ``instances``, ``objects`` (made by the node).

    Every name is made here. A sender's UID could hold a path, or a patient's name; its hash cannot.
    """

    def __init__(self, root: Path) -> None:
        self._root = Path(root)
        self._incoming = self._root / "incoming"
        try:
            for folder in (self._incoming, self._root / "instances", self._root / "objects"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _translated(error, "make the folders of") from error

    def new_temporary(self) -> Path:
        """Return a path in ``incoming`` that nobody else gets; the file is not made yet."""
        return self._incoming / f"{os.getpid():x}-{secrets.token_hex(12)}.part"

    def keep(self, temporary: Path, sop_instance_uid: str, variant: int) -> str:
        """Make an instance durable and return its location.

        Each call has a name of its own, so no call can put other bytes under the location of an acknowledged instance.
        A file that no row names (a crash came before the commit) is found by `locations`.

        Raises
        ------
        StorageFull, StorageBusy, StorageError
            Nothing is left behind, the temporary file neither.
        """
        location = f"instances/{_fan_out(_hashed(sop_instance_uid))}-{variant}-{secrets.token_hex(6)}.dcm"
        target = self._root / location
        try:
            _sync_file(temporary)
            self._make_folder(target.parent)
            # Renamed after fsync: a row must not name a file that a power cut can empty.
            os.rename(temporary, target)
            _sync_folder(target.parent)
        except OSError as error:
            _remove(temporary)
            _remove(target)
            raise _translated(error, "keep an instance in") from error
        return location

    def write_object(self, sop_instance_uid: str, data: bytes) -> str:
        """Make a result object durable and return its location, which depends on UID and bytes alone.

        The same bytes again are the same file. Other bytes under the same UID are another file: an attempt that was
        lost before its commit must not block the next one. That a UID is given to one content only is kept where it
        is promised, by `results.add_object`.
        """
        name = f"{_fan_out(_hashed(sop_instance_uid))}-{hashlib.sha256(data).hexdigest()[:24]}.dcm"
        location = f"objects/{name}"
        target = self._root / location
        if self._holds(target, data):
            return location
        temporary = self.new_temporary()
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._make_folder(target.parent)
            os.rename(temporary, target)
            _sync_folder(target.parent)
        except OSError as error:
            _remove(temporary)
            raise _translated(error, "keep a result object in") from error
        return location

    def path(self, location: str) -> Path:
        """Return the path of a location; one that leads out of the folder is refused."""
        parts = PurePosixPath(location).parts
        if len(parts) < 2 or parts[0] not in ("instances", "objects") or ".." in parts:
            raise StorageError(f"{location!r} is no location of this storage")
        return self._root.joinpath(*parts)

    def read(self, location: str) -> bytes:
        """Return the bytes."""
        try:
            return self.path(location).read_bytes()
        except OSError as error:
            raise _translated(error, f"read {location} in") from error

    def delete(self, location: str) -> None:
        """Remove the file; one that is gone already is fine."""
        try:
            self.path(location).unlink(missing_ok=True)
        except OSError as error:
            raise _translated(error, f"delete {location} in") from error

    def sweep(self, older_than_s: float, now: datetime) -> int:
        """Remove what a broken association or a dead process left in ``incoming``; return how many files."""
        removed = 0
        for entry in _entries(self._incoming):
            if _age_s(entry, now) > older_than_s and _remove(Path(entry.path)):
                removed += 1
        return removed

    def locations(self, older_than_s: float, now: datetime) -> Iterator[str]:
        """Every location of an instance older than that, for upkeep to compare with the rows."""
        for folder in _entries(self._root / "instances"):
            for entry in _entries(Path(folder.path)):
                if _age_s(entry, now) > older_than_s:
                    yield f"instances/{folder.name}/{entry.name}"

    def free_bytes(self) -> int:
        """Return the space that an unprivileged process may still fill."""
        try:
            status = os.statvfs(self._root)
        except OSError as error:
            raise _translated(error, "ask for the space of") from error
        return status.f_bavail * status.f_frsize

    @staticmethod
    def _make_folder(folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)
            _sync_folder(folder.parent)  # else a power cut may take the folder, with all that is in it

    @staticmethod
    def _holds(path: Path, data: bytes) -> bool:
        try:
            return path.read_bytes() == data
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _translated(error, "read a result object in") from error


def _hashed(uid: str) -> str:
    return hashlib.sha256(uid.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _fan_out(name: str) -> str:
    """256 folders: at 10 million files a folder holds 40,000."""
    return f"{name[:2]}/{name}"


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> bool:
    try:
        os.unlink(path)
    except OSError:
        return False  # the error that brought us here says more
    return True


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise _translated(error, "list the folders of") from error


def _age_s(entry: os.DirEntry[str], now: datetime) -> float:
    try:
        return now.timestamp() - entry.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return 0.0  # somebody kept or removed it meanwhile


def _translated(error: OSError, action: str) -> StorageError:
    message = f"cannot {action} the storage folder: {errno.errorcode.get(error.errno or 0, 'error')}"
    if error.errno in _NO_SPACE:
        return StorageFull(message)
    if error.errno in _MAY_PASS:
        return StorageBusy(message)
    return StorageError(message)
