"""What must hold before a command that uses the database or the keys begins."""

import argparse
import contextlib
import os
import secrets
from pathlib import Path

from cxr_node.settings import Settings
from storage.errors import StorageError

_WITHOUT_DATABASE = frozenset({"config", "predict", "restore", "send"})


def check(settings: Settings, arguments: argparse.Namespace) -> None:
    """Refuse what could only go wrong later.

    Raises
    ------
    StorageError
        The database's file is not there and was before, or `serve` is given a key file that it cannot use.
    """
    if arguments.command not in _WITHOUT_DATABASE:
        _check_database(settings, is_supervised=bool(getattr(arguments, "parent", 0)))
    if arguments.command == "serve" and settings.node.encryption_key_file:
        # Each stage would die of it and be started again; a person at the console reads one sentence.
        from storage.keys import KeyFile

        KeyFile(settings.path(settings.node.encryption_key_file)).current()


def _check_database(settings: Settings, *, is_supervised: bool) -> None:
    """SQLite makes a file that is not there: an empty database, into which a node would go on receiving.

    What was there is noted in the data folder. A stage of a supervisor needs no note: the supervisor has made the
    database, so one that is not there was lost since.
    """
    path = _file(settings)
    if path is None:
        return
    note, address = settings.data_dir / "run" / "database", str(path)
    try:
        noted = note.read_text("utf-8")
    except OSError:
        noted = ""
    if path.exists():
        if noted != address:
            _write(note, address)
    elif is_supervised:
        raise StorageError(f"the database {path} is not there any more: has its disk gone?")
    elif noted == address:
        raise StorageError(
            f"the database {path} is not there, and was: mount its disk, or put a backup back with `cxr-node restore`; "
            f"to begin with an empty one, remove {note}"
        )


def _file(settings: Settings) -> Path | None:
    # By hand: the process that minds the acceptors loads no database library.
    dialect, _, name = settings.database_url.partition(":///")
    name = name.partition("?")[0]
    return Path(name).absolute() if dialect.startswith("sqlite") and name else None


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with contextlib.suppress(OSError):  # a data folder that cannot be written is told by whoever needs it
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.write_text(text, "utf-8")
        os.rename(temporary, path)
