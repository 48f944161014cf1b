"""SQLite databases of the newest revision for tests: migrated once in a process, then copied."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from sqlalchemy.engine import make_url

from storage import Database


def migrated(url: str) -> Database:
    """Return the database of that address, of the newest revision; one that is not there is made without rows, as a
    copy, which takes a hundredth of the time that the migration takes."""
    path = Path(make_url(url).database or "")
    database = Database(url)
    if path.exists():
        database.migrate()
    else:
        shutil.copy(_template(), path)
    return database


@functools.cache
def _template() -> Path:
    folder = tempfile.mkdtemp(prefix="cxr-node-template-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "node.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.dispose()
    return path
