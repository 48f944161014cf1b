"""Bytes in an S3-compatible object store, for hosts that share no disk.

Endpoint and credentials come from the usual environment (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, …) or from the
machine's role, never from node.toml. An object is durable once the store has acknowledged the PUT; a PUT replaces the
whole object or nothing. Objects are listed by the two digits of their folder, so that no listing is of them all.
"""

import errno
import os
import threading
from collections.abc import Iterator
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from storage.errors import BytesMissing, StorageBusy, StorageError, StorageFull
from storage.stores import checked, remove, temporary_name

SCHEME = "s3://"
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
_TRIES = 3
_FULL = frozenset(
    {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "507"}
)
_NO_BUCKET = frozenset({"NoSuchBucket"})


class ObjectStore:
    """One prefix of one bucket.

    Parameters
    ----------
    address : ``s3://bucket/prefix``
    spool : folder of this host for files that are on their way
    """

    def __init__(self, address: str, spool: Path) -> None:
        bucket, _, prefix = address.removeprefix(SCHEME).partition("/")
        if not address.startswith(SCHEME) or not bucket:
            raise StorageError(f"instances = {address!r}: expected s3://bucket/prefix")
        self.address = address
        self._prefix = "/".join(part for part in (bucket, prefix.strip("/")) if part)
        self._spool = spool
        self._lock = threading.Lock()
        self._opened: tuple[int, Any] | None = None

    def staging_path(self) -> Path:
        return self._spool / temporary_name()

    def put(self, temporary: Path, location: str) -> None:
        key = self._key(location)
        try:
            # The store holds the bytes against their checksum before it acknowledges them.
            self._system().put_file(str(temporary), key)
        except Exception as error:  # of three libraries; each is translated
            raise self._translated(error, f"put {location} into") from error
        finally:
            remove(temporary)

    def path(self, location: str) -> Path | None:
        checked(location)
        return None

    def open(self, location: str) -> BinaryIO:
        try:
            return BytesIO(self._system().cat_file(self._key(location)))
        except Exception as error:
            raise self._translated(error, f"read {location} in") from error

    def size(self, location: str) -> int:
        try:
            return int(self._system().info(self._key(location))["size"])
        except Exception as error:
            raise self._translated(error, f"look at {location} in") from error

    def delete(self, location: str) -> None:
        try:
            self._system().rm_file(self._key(location))
        except FileNotFoundError:
            pass
        except Exception as error:
            raise self._translated(error, f"delete {location} in") from error

    def locations(self, kind: str) -> Iterator[tuple[str, float]]:
        for folder in self._listed(kind):
            name = folder["name"].rpartition("/")[2]
            for item in self._listed(f"{kind}/{name}") if folder["type"] == "directory" else ():
                if item["type"] == "file":
                    yield f"{kind}/{name}/{item['name'].rpartition('/')[2]}", item["LastModified"].timestamp()

    def _listed(self, folder: str) -> list[dict[str, Any]]:
        try:
            return list(self._system().ls(f"{self._prefix}/{folder}", detail=True))
        except FileNotFoundError:
            return []
        except Exception as error:  # as above
            raise self._translated(error, f"list {folder} in") from error

    def free_bytes(self) -> int | None:
        return None

    def sweep(self, older_than_s: float, now: datetime) -> int:
        return 0  # what is put in parts and never completed, the bucket's own lifecycle rule removes

    def check(self) -> None:
        """Put, read and remove a small object.

        Raises
        ------
        StorageError
            With the reason.
        """
        location = f"objects/00/check-{temporary_name()}"
        temporary = self.staging_path()
        temporary.write_bytes(b"check")
        self.put(temporary, location)
        try:
            if self.open(location).read() != b"check":
                raise StorageError(f"{self.address} does not give back what was put into it")
        finally:
            self.delete(location)

    def _key(self, location: str) -> str:
        return "/".join((self._prefix, *checked(location)))

    def _system(self) -> Any:
        """Return the client of this process: one made before a fork waits for a thread that is not there."""
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                import s3fs  # half a second that a node with a folder need not spend

                client = s3fs.S3FileSystem(
                    skip_instance_cache=True,
                    use_listings_cache=False,
                    config_kwargs={
                        "connect_timeout": CONNECT_TIMEOUT_S,
                        "read_timeout": READ_TIMEOUT_S,
                        "retries": {"max_attempts": 1},
                    },
                )
                client.retries = _TRIES
                self._opened = (os.getpid(), client)
            return self._opened[1]

    def _translated(self, error: Exception, action: str) -> StorageError:
        if isinstance(error, StorageError):
            return error
        code = _code_of(error)
        message = f"cannot {action} {self.address}: {code or type(error).__name__}"
        if code in _NO_BUCKET:
            return StorageBusy(message)  # made by hand, it is there later; no image is at fault
        if isinstance(error, FileNotFoundError):
            return BytesMissing(message)
        if code in _FULL or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
            return StorageFull(message)
        # Whatever else it is (no answer, no right, a wrong key), the fault is not the image's: it is tried again.
        return StorageBusy(message)


def _code_of(error: BaseException) -> str:
    """Return the error code of the store's answer, "" where there was none."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        seen = seen.__cause__ or seen.__context__
    return ""
