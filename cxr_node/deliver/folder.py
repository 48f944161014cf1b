"""Destination `folder`: each object a file, seen whole or not at all."""

import contextlib
import errno
import os
import threading
from pathlib import Path

from cxr_node.deliver.objects import Sent, Shelf, StoredObject
from cxr_node.errors import StorageUnavailable, Unreachable
from cxr_node.settings import Destination, Settings


class Folder:
    """Writes ``<SOP Instance UID>.dcm`` into the folder; the UID is the node's own, so it is safe as a name."""

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
        try:
            data = stored.path.read_bytes()
        except OSError as error:
            raise StorageUnavailable(f"result object {stored.sop_instance_uid}: {_word(error)}") from error
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._write(self._folder / f"{stored.sop_instance_uid}.dcm", data)
        except OSError as error:
            raise Unreachable(f"{self._name}: folder {self._folder} cannot be written: {_word(error)}") from error
        return Sent(stored.sop_class_uid, stored.sop_instance_uid)

    def _write(self, target: Path, data: bytes) -> None:
        # A name that no reader of *.dcm takes, and no other writer.
        temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.part")
        try:
            with temporary.open("wb") as file:
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


def _word(error: OSError) -> str:
    return error.strerror or errno.errorcode.get(error.errno or 0, type(error).__name__)
