"""What somebody tried is deleted once its time is up, also what a process left behind that was killed."""

import contextlib
from datetime import datetime, timedelta
from pathlib import Path

from cxr_node.settings import Settings
from storage import Database, drops
from storage.drops import DropFolder

BATCH = 100
ORPHAN_AFTER = timedelta(hours=1)  # no upload goes so long without a byte


def sweep_drops(database: Database, settings: Settings, *, now: datetime) -> int:
    """Delete expired drops, files that no row names, and what the intake put aside; return how many drops and files.

    The files are of this host, the rows of all: those of another host's drops are orphans there, and swept there.
    """
    folder = DropFolder(settings.data_dir / "drops")
    swept = 0
    while True:
        with database.begin() as connection:
            expired = drops.expired(connection, now=now, limit=BATCH)
            gone = [location for drop in expired for location in drops.remove(connection, drop.id)]
        folder.delete(gone)
        swept += len(expired)
        if len(expired) < BATCH:
            break
    before = now - max(ORPHAN_AFTER, timedelta(minutes=settings.worklist.drop.keep_min))
    old = list(folder.older(before))
    if old:
        with database.read() as connection:
            named = drops.locations(connection)
        swept += sum(_unlinked(path) for location, path in old if location not in named)
    # A refused image that was sent to the worklist, and the text that says why: the page has shown it by now.
    for path in (settings.data_dir / "inbox" / ".failed").glob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < before.timestamp():
                swept += _unlinked(path)
    return swept


def _unlinked(path: Path) -> int:
    try:
        path.unlink()
    except OSError:
        return 0  # the next sweep tries again
    return 1
