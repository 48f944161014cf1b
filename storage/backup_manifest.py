"""What a backup says of itself: ``manifest.json``, and ``files.jsonl`` with a line for each file.

A backup is a folder ``cxr-node-YYYYMMDDTHHMMSSZ``; until it is complete, its name ends in ``.part``.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from storage import snapshots
from storage.errors import StorageError

PREFIX = "cxr-node-"
PART = ".part"
MANIFEST = "manifest.json"
FILES = "files.jsonl"
VERSION = 1
_CHUNK = 1 << 20
_MOST_TOLD = 20


@dataclass(frozen=True, slots=True)
class SavedFile:
    """One file of a backup: path inside it, length, SHA-256; `key` of a sealed one is the id of its key."""

    path: str
    bytes: int
    sha256: str
    key: str = ""


@dataclass(frozen=True)
class Manifest:
    """The rest. `lost` are locations that rows name and nobody has; `deleted` those that retention took away while the
    backup was made; `listed` is the address of an object store whose bytes were not copied, else empty."""

    version: int
    made_at: str
    release: str
    database: str
    revision: str
    files: int
    bytes: int
    files_sha256: str
    listed: str
    keys: tuple[str, ...]
    lost: tuple[str, ...]
    deleted: tuple[str, ...]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it; the caller makes it durable."""
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read it.

    Raises
    ------
    StorageError
        The folder is no complete backup that this release reads.
    """
    try:
        told = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"{folder} is no backup: {MANIFEST} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise StorageError(f"{folder}: {MANIFEST} is no JSON") from error
    if not isinstance(told, dict) or told.get("version") != VERSION:
        found = told.get("version") if isinstance(told, dict) else type(told).__name__
        raise StorageError(f"{folder}: {MANIFEST} is of version {found!r}, this release reads {VERSION}")
    try:
        lists = {name: tuple(told[name]) for name in ("keys", "lost", "deleted")}
        return Manifest(**{**told, **lists})
    except (TypeError, KeyError) as error:
        raise StorageError(f"{folder}: {MANIFEST} is not as this release writes it") from error


def saved_files(folder: Path) -> Iterator[SavedFile]:
    """Every file of the backup."""
    try:
        with open(folder / FILES, encoding="utf-8") as lines:
            for line in lines:
                yield SavedFile(**json.loads(line))
    except OSError as error:
        raise StorageError(f"{folder}: {FILES} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise StorageError(f"{folder}: {FILES} is not as this release writes it") from error


def backups(folder: Path) -> list[Path]:
    """Return the complete backups of the folder, the oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.name.startswith(PREFIX) and path.suffix != PART]
    return sorted(path for path in found if (path / MANIFEST).is_file())


def name_at(now: datetime) -> str:
    """Return the name of a backup made at that time."""
    return f"{PREFIX}{now.strftime('%Y%m%dT%H%M%SZ')}"


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def verify(folder: Path) -> tuple[str, ...]:
    """Read every byte of a backup and return what is wrong with it, at most 20 sentences; () where all is well.

    Raises
    ------
    StorageError
        It is no backup at all.
    """
    manifest = read_manifest(folder)
    found: list[str] = []
    if digest_of(folder / FILES) != manifest.files_sha256:
        return (f"{FILES} was altered: its SHA-256 is not that of {MANIFEST}",)
    number = size = 0
    for item in saved_files(folder):
        number += 1
        size += item.bytes
        if len(found) < _MOST_TOLD and (problem := _problem_with(folder, item)):
            found.append(problem)
    if (number, size) != (manifest.files, manifest.bytes):
        found.append(f"{FILES} names {number} files of {size} bytes, {MANIFEST} {manifest.files} of {manifest.bytes}")
    if problem := snapshots.problem_with(folder / manifest.database):
        found.append(problem)
    return tuple(found)


def _problem_with(folder: Path, item: SavedFile) -> str:
    path = folder / item.path
    if ".." in Path(item.path).parts or Path(item.path).is_absolute():
        return f"{item.path} leads out of the backup"
    try:
        size = path.stat().st_size
        if size != item.bytes:
            return f"{item.path} has {size} bytes, expected {item.bytes}"
        return "" if digest_of(path) == item.sha256 else f"{item.path} was altered: its SHA-256 is another one"
    except OSError as error:
        return f"{item.path} cannot be read: {error.strerror}"
