"""Destination `folder`: each object a file, seen whole or not at all."""

import contextlib
import errno
import os
import threading
from pathlib import Path

from cxr_node.deliver.objects import Sent, Shelf, StoredObject, bytes_of
from cxr_node.errors import Unreachable
from cxr_node.settings import PRIORITY, Destination, Settings


class Folder:
    """Writes ``<SOP Instance UID>.dcm`` into the folder, a notice of a priority as ``<its UID>.json``; the UIDs are the
    node's own, so they are safe as names."""

    def __init__(self, destination: Destination, *, settings: Settings, shelf: Shelf) -> None:
        self._name = destination.name
        self._folder = settings.path(destination.path)

    def send(self, stored: StoredObject) -> Sent:
        """Write the stored bytes; the same object again replaces the file by an equal one.

        Raises
        ------
        StorageUnavailable
            The node's own file cannot be read.
        Unreachable
            The folder cannot be written: absent, full, read-only.
        """
        data = bytes_of(stored)
        ending = "json" if stored.kind == PRIORITY else "dcm"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._write(self._folder / f"{stored.sop_instance_uid}.{ending}", data)
        except OSError as error:
            raise Unreachable(self._trouble(error)) from error
        return Sent(stored.sop_class_uid, stored.sop_instance_uid)

    def test(self) -> str:
        """Return a sentence where no file can be written: a small one is, under a name that no reader takes, and
        removed."""
        probe = self._folder / f".cxr-node-test.{os.getpid()}.{threading.get_ident()}.part"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"test")
            probe.unlink()
        except OSError as error:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
            return self._trouble(error)
        return ""

    def _trouble(self, error: OSError) -> str:
        return f"{self._name}: folder {self._folder} cannot be written: {_word(error)}"

    def _write(self, target: Path, data: bytes) -> None:
        # A name that no reader of *.dcm takes, and no other writer.
        temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.part")
        try:
            with temporary.open("wb") as file:
                os.fchmod(file.fileno(), _mode_in(self._folder))
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            # Renamed after fsync: whoever watches the folder must not see a file that a power cut can empty.
            temporary.replace(target)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _mode_in(folder: Path) -> int:
    """Who may enter and list the folder may read what is put there: it is for another program, often another user's,
    while the node by itself makes files for its own user only."""
    mode = folder.stat().st_mode
    return 0o600 | (0o040 if mode & 0o050 == 0o050 else 0) | (0o004 if mode & 0o005 == 0o005 else 0)


def _word(error: OSError) -> str:
    return error.strerror or errno.errorcode.get(error.errno or 0, type(error).__name__)
