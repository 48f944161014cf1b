"""Puts files into a backup that is being made: by a link where one can be, else by a copy; and writes its list."""

import errno
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from storage.backup_manifest import FILES, SavedFile, digest_of, saved_files
from storage.errors import BytesMissing
from storage.files import SEALED, InstanceFiles

_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES})


class Saving:
    """Puts files into a backup that is being made, and writes its list."""

    def __init__(self, files: InstanceFiles, part: Path, earlier: Path | None) -> None:
        self._files = files
        self._part = part
        self._earlier = earlier
        self._known = {item.path: item for item in saved_files(earlier)} if earlier is not None else {}
        self._list = open(part / FILES, "x", encoding="utf-8")  # noqa: SIM115  # closed by `close`
        self._listed = open(part / "listed.txt", "x", encoding="utf-8")  # noqa: SIM115  # as above
        self._has_listed = False
        self.files = self.bytes = self.linked = 0
        self.keys: set[str] = set()

    def save(self, location: str) -> bool:
        """Link or copy the bytes as they lie; False where there are none."""
        target = self._part / location
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        source = self._files.store.path(location)
        try:
            if source is None or not self._link(source, target, location):
                self._copy(location, target)
        except (FileNotFoundError, BytesMissing):
            target.unlink(missing_ok=True)
            return False
        self.note(location, self._key_of(location))
        return True

    def list(self, location: str) -> None:
        """Write down that the object store has it."""
        self._has_listed = True
        self._listed.write(f"{location}\n")

    def add(self, path: str, source: Path | bytes) -> None:
        """Copy one more file."""
        target = self._part / path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if isinstance(source, bytes):
            target.write_bytes(source)
        else:
            shutil.copyfile(source, target)
        sync_file(target)
        self.note(path)

    def note(self, path: str, key: str = "") -> None:
        """Write the file's line, with its digest; one that the last backup holds too was read then."""
        file = self._part / path
        status = file.stat()
        known = self._known.get(path)
        if known is None or known.bytes != status.st_size or not self._is_same(status, path):
            known = SavedFile(path, status.st_size, digest_of(file), key)
        self._list.write(json.dumps(asdict(known)) + "\n")
        self.files += 1
        self.bytes += known.bytes
        if known.key:
            self.keys.add(known.key)

    def close(self) -> None:
        """End the list."""
        for file in (self._list, self._listed):
            file.close()
        if self._has_listed:
            self.reopen_to_note("listed.txt")
        else:
            (self._part / "listed.txt").unlink()

    def reopen_to_note(self, path: str) -> None:
        """Add a file to the list after its end."""
        self._list = open(self._part / FILES, "a", encoding="utf-8")  # noqa: SIM115  # closed two lines on
        self.note(path)
        self._list.close()

    def _link(self, source: Path, target: Path, location: str) -> bool:
        """Link to the node's own file, or to the copy of the last backup; False where neither can be."""
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
        else:
            self.linked += 1
            return True
        known, status = self._known.get(location), source.stat()
        if self._earlier is None or known is None:
            return False
        copied = self._earlier / location
        try:
            old = copied.stat()
            # A rotation of keys keeps the time, and changes the key.
            if (old.st_size, old.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
                return False
            if known.key != self._key_of(location):
                return False
            os.link(copied, target)
        except OSError:
            return False
        self.linked += 1
        return True

    def _copy(self, location: str, target: Path) -> None:
        with self._files.store.open(location) as source, open(target, "xb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
        path = self._files.store.path(location)
        if path is not None:
            status = path.stat()
            os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))

    def _key_of(self, location: str) -> str:
        if not location.endswith(SEALED):
            return ""
        return self._files.header(location).key_id

    def _is_same(self, status: os.stat_result, path: str) -> bool:
        if self._earlier is None:
            return False
        try:
            return os.path.samestat(status, os.stat(self._earlier / path))
        except OSError:
            return False


def sync_file(path: Path) -> None:
    """Make the file's bytes durable."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
