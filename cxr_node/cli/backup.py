"""`backup` and `restore`: save the node while it runs, look whether a backup is whole, put it back."""

import argparse
from pathlib import Path

from cxr_node.clock import utc_now
from cxr_node.errors import SettingsError
from cxr_node.settings import Settings
from cxr_node.upkeep.backup import back_up
from cxr_node.work.files import instance_files
from storage import Database
from storage.backup_manifest import Manifest, backups, read_manifest, verify
from storage.object_store import SCHEME, ObjectStore
from storage.restore import Place, restore


def backup(settings: Settings, arguments: argparse.Namespace) -> int:
    """Make a backup now, or verify one."""
    words = arguments.words
    if words and words[0] == "verify":
        if len(words) != 2:
            raise SettingsError("backup verify: expected one folder")
        return _check(Path(words[1]))
    if len(words) > 1:
        raise SettingsError("backup: expected one folder, or `verify` and one folder")
    if not words and not settings.upkeep.backup_dir:
        raise SettingsError("backup: name a folder, or set upkeep.backup_dir in node.toml")
    return _make(settings, arguments, Path(words[0]) if words else settings.path(settings.upkeep.backup_dir))


def _make(settings: Settings, arguments: argparse.Namespace, folder: Path) -> int:
    database = Database(settings.database_url)
    try:
        made = back_up(
            settings,
            database,
            instance_files(settings),
            folder,
            actor="cxr-node backup",
            config=arguments.config,
            with_bytes=arguments.with_bytes,
        )
    finally:
        database.dispose()
    print(f"{made.path}: {_described(made.manifest)}; {made.linked} files are hard links and take no space")
    _warn(made.manifest, same_disk=made.linked > 0)
    return 0


def _check(given: Path) -> int:
    folder = _chosen(given)
    problems = verify(folder)
    for problem in problems:
        print(f"FAILED  {problem}")
    if not problems:
        manifest = read_manifest(folder)
        print(f"ok      {folder}: {_described(manifest)}")
        _warn(manifest)
    return 1 if problems else 0


def put_back(settings: Settings, arguments: argparse.Namespace) -> int:
    """Put a backup back into an empty place."""
    folder = _chosen(arguments.folder)
    address = settings.node.instances
    place = Place(
        data_dir=settings.data_dir,
        instances_dir=settings.instances_dir,
        database_url=settings.database_url,
        store=ObjectStore(address, settings.data_dir) if address.startswith(SCHEME) else None,
    )
    done = restore(folder, place, now=utc_now())
    print(f"{folder}: {_described(done.manifest)}; {done.files} files put back, {done.released} jobs were under way")
    if done.absent:
        print(f"WARNING {len(done.absent)} files that rows name are not there; the first: {done.absent[0]}")
    if (folder / "node.toml").is_file():
        print(f"The node.toml of that time is {folder / 'node.toml'}; it was not put into place.")
    if done.manifest.keys:
        print(f"Images are sealed with {', '.join(done.manifest.keys)}: node.encryption_key_file must hold these keys.")
    print("What came, was analysed or was sent after the backup is not in it: modalities and PACS have it still.")
    return 0


def _chosen(folder: Path) -> Path:
    """Return the backup itself, or the newest of a folder of backups."""
    found = backups(folder)
    return found[-1] if found else folder


def _described(manifest: Manifest) -> str:
    return (
        f"made {manifest.made_at[:19]} UTC by release {manifest.release}, tables {manifest.revision}, "
        f"{manifest.files} files, {manifest.bytes / 1e6:.1f} MB"
    )


def _warn(manifest: Manifest, *, same_disk: bool = False) -> None:
    if manifest.lost:
        print(f"WARNING {len(manifest.lost)} files that rows name were not there; the first: {manifest.lost[0]}")
    if manifest.listed:
        print(f"WARNING the bytes are not in it, only their list: they stay in {manifest.listed}")
    if manifest.keys:
        print(f"WARNING images are sealed with {', '.join(manifest.keys)}: the key file is NOT in it")
    if same_disk:
        print("WARNING backup and node share a disk: it outlives a mistake, not the disk; copy it elsewhere")
    print("Not in it: key files, certificates, password files, the environment. Keep them apart.")
