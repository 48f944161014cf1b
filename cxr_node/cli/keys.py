"""`keys`: the keys that instances and result objects are encrypted with at rest."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path

from cxr_node.clock import utc_now
from cxr_node.errors import SettingsError
from cxr_node.settings import Settings
from cxr_node.work.files import instance_files
from storage import Database, InstanceFiles, audit
from storage.backup_manifest import backups, read_manifest
from storage.errors import BytesMissing, StorageError
from storage.keys import KeyFile, add_key, make_current, remove_key

_TELL_EVERY = 1000
_TOLD = 5
SETTLED_AFTER = timedelta(hours=1)  # nothing is on its way to the disk for as long, on whatever host


def new(settings: Settings, arguments: argparse.Namespace) -> int:
    """Add a key. In a file that had none it is used at once, else from `keys rotate` on."""
    path = _key_file(settings)
    is_first = not path.exists()
    key_id = add_key(path, now=utc_now())
    _audit(settings, "key_made", {"key": key_id})
    print(f"{key_id} was added to {path}.")
    if is_first:
        print("It is in use from the next start of the node on. Keep a copy of the file apart from the backups:")
        print("without it nobody, the node neither, reads what is sealed with it.")
    else:
        print("It is used once `cxr-node keys rotate` was run. Where several hosts run the node, copy the file first.")
    return 0


def show(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print every key with the number of files that it opens."""
    keys = KeyFile(_key_file(settings))
    files = instance_files(settings)
    used: Counter[str] = Counter()
    for location in files.sealed_locations():
        try:
            used[files.header(location).key_id] += 1
        except BytesMissing:
            continue  # retention took it away meanwhile
        except StorageError as error:
            print(f"WARNING {error}", file=sys.stderr)
    current = keys.current()[0]
    for key_id, made_at in keys.made_at().items():
        state = "current" if key_id == current else "old"
        print(f"{key_id:<32} {state:<8} made {made_at[:19]}  {used.pop(key_id, 0)} files")
    for key_id, number in used.items():
        print(f"{key_id:<32} MISSING  {number} files are sealed with it and cannot be read")
    print("Backups may need an old key longer than the node does: see `cxr-node backup verify`.")
    return 1 if used else 0


def rotate(settings: Settings, arguments: argparse.Namespace) -> int:
    """Seal with another key from now on, and wrap the data keys of all files with it. May be ended and run again."""
    path = _key_file(settings)
    keys = KeyFile(path)
    key_id = arguments.to or list(keys.made_at())[-1]
    make_current(path, key_id)
    files = instance_files(settings)
    _audit(settings, "key_rotation_begun", {"key": key_id})
    done, left = rewrap_all(files)
    _audit(settings, "key_rotation_ended", {"key": key_id, "wrapped": done, "left": len(left)})
    print(f"{done} files were wrapped with {key_id}; old keys stay in {path}: backups may need them.")
    for reason in left[:_TOLD]:
        print(f"FAILED  {reason}", file=sys.stderr)
    if left:
        print(f"FAILED  {len(left)} files were left as they are; run it again", file=sys.stderr)
    return 1 if left else 0


def remove(settings: Settings, arguments: argparse.Namespace) -> int:
    """Take a key out of the key file that nothing the node knows of needs any more; refuse otherwise."""
    path, key_id = _key_file(settings), arguments.key_id
    known = KeyFile(path)
    if known.get(key_id) is not None and key_id != known.current()[0]:
        needs = list(islice(_needs(settings, key_id), _TOLD + 1))
        if needs:
            for reason in needs[:_TOLD]:
                print(f"NEEDED  {reason}", file=sys.stderr)
            more = " and more" if len(needs) > _TOLD else ""
            print(f"FAILED  {key_id} stays: {len(needs[:_TOLD])} things need it{more}", file=sys.stderr)
            return 1
    remove_key(path, key_id)
    _audit(settings, "key_removed", {"key": key_id})
    print(f"{key_id} was removed from {path}. Remove it from the copies of the file too, on other hosts and elsewhere.")
    print("Backups in other folders than upkeep.backup_dir were not looked at.")
    return 0


def _needs(settings: Settings, key_id: str) -> Iterator[str]:
    """Yield what would not be read any more without the key, or whether that cannot be told."""
    database, recent = Database(settings.database_url), utc_now() - SETTLED_AFTER
    try:
        database.migrate()
        with database.read() as connection:
            begun = audit.newest(connection, "key_rotation_begun")
    finally:
        database.dispose()
    if begun and begun[0].created_at > recent:
        yield (
            f"the current key was changed at {begun[0].created_at:%H:%M} UTC: an image that was on its way then may be "
            f"sealed with the old one; come again {SETTLED_AFTER.total_seconds() / 3600:g} h later"
        )
    files = instance_files(settings)
    for location in files.sealed_locations():
        try:
            if files.header(location).key_id == key_id:
                yield f"{location} is sealed with it; `cxr-node keys rotate` wraps it with the current key"
        except BytesMissing:
            continue  # retention took it away meanwhile
        except StorageError as error:
            yield f"it cannot be told which key {location} needs: {error}"
    if not settings.upkeep.backup_dir:
        return
    for folder in backups(settings.path(settings.upkeep.backup_dir)):
        try:
            if key_id in read_manifest(folder).keys:
                yield f"the backup {folder.name} holds images sealed with it"
        except StorageError as error:
            yield f"it cannot be told which keys a backup needs: {error}"


def rewrap_all(files: InstanceFiles) -> tuple[int, list[str]]:
    """Wrap every sealed file with the current key; return how many were, and why others could not be."""
    done, left = 0, []
    for location in files.sealed_locations():
        try:
            if files.rewrap(location):
                done += 1
                if done % _TELL_EVERY == 0:
                    print(f"{done} files", flush=True)
        except BytesMissing:
            continue  # retention took it away meanwhile
        except StorageError as error:
            left.append(str(error))
    return done, left


def _key_file(settings: Settings) -> Path:
    if not settings.node.encryption_key_file:
        raise SettingsError("keys: set node.encryption_key_file in node.toml first")
    return settings.path(settings.node.encryption_key_file)


def _audit(settings: Settings, event: str, detail: dict[str, object]) -> None:
    database = Database(settings.database_url)
    try:
        database.migrate()
        with database.begin() as connection:
            audit.record(connection, event, actor="cxr-node keys", now=utc_now(), detail=detail)
    finally:
        database.dispose()
