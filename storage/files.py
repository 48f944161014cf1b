"""The bytes: instances as they came and result objects as they are sent, durable before anybody is told of them.

Where they lie is a store's business (`stores`, `object_store`), how they are encrypted is `sealing`'s. A location tells
by its name whether its bytes are sealed, so a folder may hold both, and no plain file passes for a sealed one.
"""

import contextlib
import hashlib
import io
import os
import secrets
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from storage import sealing, stores
from storage.errors import BytesMissing, StorageError
from storage.keys import KeyFile
from storage.object_store import SCHEME, ObjectStore
from storage.stores import FolderStore, Store

SEALED = ".sealed"
INSTANCES = "instances"
OBJECTS = "objects"


class InstanceFiles:
    """All bytes: ``incoming`` (a folder of this host, not acknowledged), ``instances``, ``objects`` (made by the node).

    Every name is made here. A sender's UID could hold a path, or a patient's name; its hash cannot.

    Parameters
    ----------
    root : folder that holds ``incoming``, and the rest where no `store` is given
    keys : what new files are sealed with; None: they are kept as they came
    """

    def __init__(self, root: Path, *, store: Store | None = None, keys: KeyFile | None = None) -> None:
        self._incoming = Path(root) / "incoming"
        stores.make_folders(self._incoming)
        self._store = store if store is not None else FolderStore(root)
        self._keys = keys

    @property
    def store(self) -> Store:
        """Where the bytes lie."""
        return self._store

    @property
    def keys(self) -> KeyFile | None:
        """What they are sealed with."""
        return self._keys

    def new_temporary(self) -> Path:
        """Return a path in ``incoming`` that nobody else gets; the file is not made yet."""
        return self._incoming / stores.temporary_name()

    def keep(self, temporary: Path, sop_instance_uid: str, variant: int) -> str:
        """Make an instance durable and return its location.

        Each call has a name of its own, so no call can put other bytes under the location of an acknowledged instance.
        A file that no row names (a crash came before the commit) is found by `locations`.

        Raises
        ------
        StorageFull, StorageBusy, StorageError
            Nothing is left behind, the temporary file neither.
        """
        name = f"{_fan_out(_hashed(sop_instance_uid))}-{variant}-{secrets.token_hex(6)}.dcm"
        location = self._named(f"{INSTANCES}/{name}")
        try:
            self._store.put(self._sealed_file(temporary, location), location)
        except StorageError:
            # It may be there all the same: its folder was not synced, or the answer of the store was lost.
            with contextlib.suppress(StorageError):
                self._store.delete(location)
            raise
        finally:
            if self._keys is not None:
                stores.remove(temporary)
        return location

    def take_back(self, location: str, temporary: Path) -> None:
        """Undo `keep`: the bytes are in the temporary file again, as they came."""
        path = None if _is_sealed(location) else self._store.path(location)
        if path is not None:
            try:
                os.rename(path, temporary)
                return
            except FileNotFoundError as error:
                raise stores.translated(error, f"take back {location} from") from error
            except OSError:
                pass  # another file system: copied below
        data = self.read(location)
        try:
            temporary.write_bytes(data)
        except OSError as error:
            raise stores.translated(error, "take an instance back to") from error
        self._store.delete(location)

    def write_object(self, sop_instance_uid: str, data: bytes) -> str:
        """Make a result object durable and return its location, which depends on UID and bytes alone.

        The same bytes again are the same file. Other bytes under the same UID are another file: an attempt that was
        lost before its commit must not block the next one. That a UID is given to one content only is kept where it
        is promised, by `results.add_object`.
        """
        name = f"{_fan_out(_hashed(sop_instance_uid))}-{hashlib.sha256(data).hexdigest()[:24]}.dcm"
        location = self._named(f"{OBJECTS}/{name}")
        if self._holds(location, data):
            return location
        temporary = self._store.staging_path() if self._keys is not None else self.new_temporary()
        try:
            with open(temporary, "xb") as file:
                self._write(file, data, location)
                file.flush()
        except OSError as error:
            stores.remove(temporary)
            raise stores.translated(error, "keep a result object in") from error
        except StorageError:
            stores.remove(temporary)
            raise
        self._store.put(temporary, location)
        return location

    def path(self, location: str) -> Path:
        """Return the path of a location whose bytes lie in a folder as they came; `local` reads any.

        Raises
        ------
        StorageError
            It leads out of the folder, is sealed, or lies in an object store.
        """
        stores.checked(location)
        path = self._store.path(location)
        if path is None or _is_sealed(location):
            raise StorageError(f"{location} is no plain file of this host: it is read by `local` or `read`")
        return path

    @contextlib.contextmanager
    def local(self, location: str) -> Iterator[Path]:
        """Lend a path with the bytes as they came, good inside the block, for processes of this host and user.

        A plain file of a folder is lent itself, without a look whether it is there. All others are put into memory
        (memfd_create(2)): no byte of theirs touches a disk, swap aside.

        Raises
        ------
        BytesMissing, BytesAltered, StorageBusy, StorageError
        """
        path = None if _is_sealed(location) else self._store.path(location)
        if path is not None:
            yield path
            return
        descriptor = os.memfd_create("cxr-node", os.MFD_CLOEXEC)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                try:
                    for chunk in self._chunks(location):
                        file.write(chunk)
                    file.flush()
                except OSError as error:
                    raise stores.translated(error, f"read {location} in") from error
            yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
        finally:
            os.close(descriptor)

    def read(self, location: str) -> bytes:
        """Return the bytes as they came."""
        try:
            return b"".join(self._chunks(location))
        except OSError as error:
            raise stores.translated(error, f"read {location} in") from error

    def exists(self, location: str) -> bool:
        """Whether there are bytes; a store that does not answer raises `StorageBusy`."""
        try:
            self._store.size(location)
        except BytesMissing:
            return False
        return True

    def size(self, location: str) -> int:
        """Return how many bytes came.

        Raises
        ------
        BytesMissing, BytesAltered
        """
        stored = self._store.size(location)
        if not _is_sealed(location):
            return stored
        header = self.header(location)
        if header.sealed_size != stored:
            raise sealing.BytesAltered(f"{location}: {stored} bytes, expected {header.sealed_size}: the file was cut")
        return header.size

    def header(self, location: str) -> sealing.Header:
        """Return the header of a sealed file, which names its key."""
        with self._store.open(location) as file:
            return sealing.Header.parse(file.read(sealing.HEADER_BYTES), location)

    def delete(self, location: str) -> None:
        """Remove the bytes; those that are gone already are fine."""
        self._store.delete(location)

    def sweep(self, older_than_s: float, now: datetime) -> int:
        """Remove what a broken association or a dead process left in ``incoming``; return how many files."""
        return stores.sweep(self._incoming, older_than_s, now) + self._store.sweep(older_than_s, now)

    def locations(self, older_than_s: float, now: datetime) -> Iterator[str]:
        """Every location of an instance older than that, for upkeep to compare with the rows."""
        for location, kept_at in self._store.locations(INSTANCES):
            if now.timestamp() - kept_at > older_than_s:
                yield location

    def sealed_locations(self) -> Iterator[str]:
        """Every location of a sealed file."""
        for kind in stores.KINDS:
            for location, _ in self._store.locations(kind):
                if _is_sealed(location):
                    yield location

    def rewrap(self, location: str) -> bool:
        """Wrap the data key of a sealed file with the current key; whether that was to be done.

        The file is written anew beside the old one and takes its place in one step: a header that was written half
        would cost the bytes, and a backup may hold the old file by a hard link.
        """
        keys = self._keys
        if keys is None:
            raise StorageError("encryption_key_file is not set: there is no key to wrap with")
        if self.header(location).key_id == keys.current()[0]:
            return False
        temporary = self._store.staging_path()
        try:
            with self._store.open(location) as source, open(temporary, "xb") as target:
                header = sealing.Header.parse(source.read(sealing.HEADER_BYTES), location)
                target.write(sealing.rewrap(header, location=location, keys=keys).to_bytes())
                while chunk := source.read(sealing.CHUNK_BYTES):
                    target.write(chunk)
            path = self._store.path(location)
            if path is not None:
                kept_at = path.stat().st_mtime  # by which upkeep tells how old an orphan is
                os.utime(temporary, (kept_at, kept_at))
        except OSError as error:
            stores.remove(temporary)
            raise stores.translated(error, f"wrap the key of {location} in") from error
        except StorageError:
            stores.remove(temporary)
            raise
        self._store.put(temporary, location)
        return True

    def free_bytes(self) -> int:
        """Return the space that an unprivileged process may still fill, of ``incoming`` or the store, the smaller."""
        spool, store = stores.free_bytes(self._incoming), self._store.free_bytes()
        return spool if store is None else min(spool, store)

    def _named(self, name: str) -> str:
        return name if self._keys is None else name + SEALED

    def _sealed_file(self, plain: Path, location: str) -> Path:
        """Return a file with what is to be put: the received one itself, or its sealed form."""
        if self._keys is None:
            return plain
        sealed = self._store.staging_path()
        try:
            with open(plain, "rb") as source, open(sealed, "xb") as target:
                sealing.seal(source, target, os.fstat(source.fileno()).st_size, location=location, keys=self._keys)
        except OSError as error:
            stores.remove(sealed)
            raise stores.translated(error, "keep an instance in") from error
        except StorageError:
            stores.remove(sealed)
            raise
        return sealed

    def _write(self, file: BinaryIO, data: bytes, location: str) -> None:
        if self._keys is None:
            file.write(data)
        else:
            sealing.seal(io.BytesIO(data), file, len(data), location=location, keys=self._keys)

    def _chunks(self, location: str) -> Iterator[bytes]:
        with self._store.open(location) as file:
            if not _is_sealed(location):
                while chunk := file.read(sealing.CHUNK_BYTES):
                    yield chunk
            elif self._keys is None:
                raise StorageError(f"{location} is sealed, and encryption_key_file is not set: no key opens it")
            else:
                yield from sealing.unseal(file, location=location, keys=self._keys)

    def _holds(self, location: str, data: bytes) -> bool:
        try:
            return self.read(location) == data
        except BytesMissing:
            return False


def open_files(data_dir: Path, instances: str, folder: Path, key_file: Path | None) -> InstanceFiles:
    """Open the bytes as node.toml says.

    Parameters
    ----------
    instances : ``node.instances``, which may be the address of an object store
    folder : where the bytes lie if it is none
    """
    keys = None if key_file is None else KeyFile(key_file)
    if not instances.startswith(SCHEME):
        return InstanceFiles(folder, keys=keys)
    stores.make_folders(data_dir / "incoming")
    return InstanceFiles(data_dir, store=ObjectStore(instances, data_dir / "incoming"), keys=keys)


def _is_sealed(location: str) -> bool:
    return location.endswith(SEALED)


def _hashed(uid: str) -> str:
    return hashlib.sha256(uid.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _fan_out(name: str) -> str:
    """256 folders: at 10 million files a folder holds 40,000."""
    return f"{name[:2]}/{name}"
