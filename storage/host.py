"""Which host this is, for everything that several hosts write into one database."""

import contextlib
import re
import secrets
import socket
from pathlib import Path

from storage.errors import StorageError

_FILE = "host-id"
_ID = re.compile(r"[0-9a-f]{8}")
_UNUSUAL = re.compile(r"[^A-Za-z0-9.-]")


def host_id(run_dir: Path) -> str:
    """Return the name of this host's installation, ``hostname.xxxxxxxx``: the same for every process that shares the
    run folder, another for every other one.

    The hostname alone would not do: two containers may share one, and so do two installations of one machine. The
    number is drawn once and kept in the run folder; a copy of the folder on another machine has another hostname.

    Raises
    ------
    StorageError
        The run folder holds something else under the number's name.
    """
    path = run_dir / _FILE
    if not path.exists():
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        drawn = run_dir / f".{_FILE}.{secrets.token_hex(8)}"
        drawn.write_text(secrets.token_hex(4))
        # Linked, not renamed: of two processes that start at once the second finds the first one's number.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(drawn)
        drawn.unlink()
    number = path.read_text().strip()
    if not _ID.fullmatch(number):
        raise StorageError(f"{path}: expected eight hexadecimal digits, found {number[:20]!r}; delete the file")
    return f"{_UNUSUAL.sub('-', socket.gethostname())}.{number}"
