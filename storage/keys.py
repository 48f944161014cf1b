"""The key file of the site: named keys, one of them current. JSON, readable by its owner alone.

``{"version": 1, "current": "k-2026-03-01-1f", "keys": {"k-2026-03-01-1f": {"made_at": "…", "key": "base64"}}}``

It is read again as soon as it changes, so that processes take up a new key while they run. No key is removed from it
but by `cxr-node keys remove`: backups need the old ones.
"""

import base64
import binascii
import contextlib
import fcntl
import json
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from storage.errors import StorageError

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


@dataclass(frozen=True)
class _Keys:
    current: str
    keys: Mapping[str, bytes]
    made_at: Mapping[str, str]


class KeyFile:
    """The keys of one file.

    Raises
    ------
    StorageError
        There is no such file, others than its owner may read it, or it is no key file.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._keys = _Keys("", {}, {})
        self._look()

    def current(self) -> tuple[str, bytes]:
        """Return id and bytes of the key that new files are sealed with."""
        found = self._look()
        return found.current, found.keys[found.current]

    def get(self, key_id: str) -> bytes | None:
        """Return the key of that id, or None."""
        return self._look().keys.get(key_id)

    def made_at(self) -> dict[str, str]:
        """Return when each key was made, ISO 8601, by id; the oldest first."""
        found = self._look()
        return dict(sorted(found.made_at.items(), key=lambda item: item[1]))

    def _look(self) -> _Keys:
        with self._lock:
            try:
                status = os.stat(self.path)
            except OSError as error:
                if self._seen is not None:
                    return self._keys  # taken away while the node runs: what is known goes on to be used
                raise StorageError(
                    f"encryption_key_file {self.path} cannot be read: {error.strerror}; `cxr-node keys new` makes one"
                ) from error
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen != self._seen:
                self._keys = _read(self.path)
                self._seen = seen
            return self._keys


def add_key(path: Path, *, now: datetime) -> str:
    """Make a key, and the file where there is none; return its id. In a file without keys it is current at once."""
    with _locked(path):
        known = _read(path) if path.exists() else _Keys("", {}, {})
        key_id = f"k-{now.date().isoformat()}-{secrets.token_hex(4)}"
        keys = {**known.keys, key_id: secrets.token_bytes(32)}
        _write(path, _Keys(known.current or key_id, keys, {**known.made_at, key_id: now.isoformat()}))
    return key_id


def make_current(path: Path, key_id: str) -> None:
    """Have new files sealed with that key."""
    with _locked(path):
        known = _read(path)
        if key_id not in known.keys:
            raise StorageError(f"{path} holds no key {key_id!r}; it holds {', '.join(sorted(known.keys))}")
        if known.current != key_id:
            _write(path, _Keys(key_id, known.keys, known.made_at))


def remove_key(path: Path, key_id: str) -> None:
    """Take a key out of the file: what is sealed with it nobody reads again. The current one stays.

    Raises
    ------
    StorageError
        The file does not hold it, or it is the current one.
    """
    with _locked(path):
        known = _read(path)
        if key_id not in known.keys:
            raise StorageError(f"{path} holds no key {key_id!r}; it holds {', '.join(sorted(known.keys))}")
        if key_id == known.current:
            raise StorageError(f"{key_id} is the current key of {path}: make another one current with `keys rotate`")
        _write(
            path,
            _Keys(
                known.current,
                {name: key for name, key in known.keys.items() if name != key_id},
                {name: at for name, at in known.made_at.items() if name != key_id},
            ),
        )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One change at a time: of two at once the later would take the other's key away, with all that it sealed."""
    try:
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise StorageError(f"folder of encryption_key_file {path} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(path: Path) -> _Keys:
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise StorageError(
                    f"encryption_key_file {path}: mode {stat.S_IMODE(status.st_mode):o}, expected 600: "
                    "others than its owner may read it"
                )
            told = json.loads(file.read())
    except OSError as error:
        raise StorageError(f"encryption_key_file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise StorageError(f"encryption_key_file {path} is no JSON: expected a file of `cxr-node keys new`") from error
    try:
        if told["version"] != 1:
            raise StorageError(f"encryption_key_file {path}: version {told['version']!r}, expected 1")
        keys = {str(key_id): base64.b64decode(item["key"], validate=True) for key_id, item in told["keys"].items()}
        made_at = {str(key_id): str(item["made_at"]) for key_id, item in told["keys"].items()}
        current = str(told["current"])
    except (KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise StorageError(f"encryption_key_file {path}: expected version, current and keys with made_at") from error
    for key_id, key in keys.items():
        if not _ID.fullmatch(key_id) or len(key) != 32:
            raise StorageError(f"encryption_key_file {path}: key {key_id[:40]!r}: expected 32 bytes under a short name")
    if current not in keys:
        raise StorageError(f"encryption_key_file {path}: the current key {current[:40]!r} is not in it")
    return _Keys(current, keys, made_at)


def _write(path: Path, keys: _Keys) -> None:
    told = {
        "version": 1,
        "current": keys.current,
        "keys": {
            key_id: {"made_at": keys.made_at[key_id], "key": base64.b64encode(key).decode("ascii")}
            for key_id, key in keys.keys.items()
        },
    }
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(told, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            owner = path.stat()
            if (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
                os.chown(temporary, owner.st_uid, owner.st_gid)  # root made a key for the service's user
        # A key that files are sealed with must not be lost to a power cut: the file first, the folder after.
        os.rename(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"encryption_key_file {path} cannot be written: {error.strerror}") from error
