"""What is sent: the stored bytes of a result object, or of its twin in another SOP class, made once and then kept."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from sqlalchemy.engine import Connection

from cxr_node.clock import utc_now
from cxr_node.errors import DeliveryError, Disposition, StorageUnavailable
from cxr_node.reporting import Notice, as_class, encode, read_notice
from cxr_node.reporting.fallback import SR_CLASSES
from storage import Database, InstanceFiles, deliveries, results
from storage.deliveries import Delivery
from storage.errors import StorageError
from storage.faults import fault_point
from storage.results import ResultObject


class NothingToSend(DeliveryError):
    """The result has no object of the delivery's kind."""

    disposition = Disposition.FAIL  # a result's objects are complete when it is stored


@dataclass(frozen=True)
class StoredObject:
    """A result object as it lies on disk, on its way to one destination."""

    delivery_id: int
    result_id: int
    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    location: str
    files: InstanceFiles

    def lent(self) -> AbstractContextManager[Path]:
        """Lend the path of its bytes for a block."""
        return self.files.local(self.location)

    @property
    def path(self) -> Path:
        """Its file, where its bytes lie in a folder as they were made."""
        return self.files.path(self.location)

    @property
    def classes(self) -> tuple[str, ...]:
        """SOP classes it can be sent as, the one to try first in front; each later one says less."""
        if self.sop_class_uid not in SR_CLASSES:
            return (self.sop_class_uid,)
        return (self.sop_class_uid, *(uid for uid in SR_CLASSES if uid != self.sop_class_uid))


@dataclass(frozen=True)
class Sent:
    """What a destination took. `reason` is empty, or the sentence of its warning; `skipped` where nothing was to be
    sent there, and then `reason` says why."""

    sop_class_uid: str
    sop_instance_uid: str
    reason: str = ""
    skipped: bool = False


def notice_of(stored: StoredObject) -> Notice:
    """Return the notice of a priority that is on its way.

    Raises
    ------
    StorageUnavailable
        The node's own file cannot be read.
    NothingToSend
        The stored bytes are no notice.
    """
    try:
        return read_notice(bytes_of(stored))
    except (ValueError, TypeError) as error:
        raise NothingToSend(
            f"object {stored.sop_instance_uid}: the stored bytes are no notice of a priority"
        ) from error


def bytes_of(stored: StoredObject) -> bytes:
    """Return the stored bytes.

    Raises
    ------
    StorageUnavailable
    """
    try:
        with stored.lent() as path:
            return path.read_bytes()
    except (OSError, StorageError) as error:
        raise StorageUnavailable(
            f"result object {stored.sop_instance_uid} cannot be read: {type(error).__name__}"
        ) from error


class Shelf:
    """Takes result objects from storage for the destinations, and keeps the twins that are made of them."""

    def __init__(self, database: Database, files: InstanceFiles, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._files = files
        self._now = now

    @property
    def database(self) -> Database:
        """Where a destination keeps what it said word for word."""
        return self._database

    def load(self, connection: Connection, delivery: Delivery) -> StoredObject:
        """Return what the delivery was last tried with, else the object as it was made.

        Raises
        ------
        NothingToSend
        """
        stored = self._objects(connection, delivery.result_id, delivery.kind)
        chosen = next((item for item in stored if item.sop_instance_uid == delivery.sop_instance_uid), stored[0])
        return self._stored(delivery.id, chosen)

    def twin(self, stored: StoredObject, sop_class_uid: str) -> StoredObject:
        """Return the object in that class; where it was never needed before, make it and store it first.

        The choice is written to the delivery before anything is sent: an attempt that dies after the peer's answer is
        followed by one with the same object, not by a second report under another UID.

        Raises
        ------
        NothingToSend
        """
        if sop_class_uid == stored.sop_class_uid:
            return stored
        with self._database.read() as connection:
            known = self._objects(connection, stored.result_id, stored.kind)
        chosen = next((item for item in known if item.sop_class_uid == sop_class_uid), None)
        if chosen is None:
            made = as_class(dcmread(BytesIO(self._files.read(known[0].location))), sop_class_uid)
            sop_instance_uid = str(made.SOPInstanceUID)
            location = self._files.write_object(sop_instance_uid, encode(made))
        else:
            sop_instance_uid, location = chosen.sop_instance_uid, chosen.location
        fault_point("deliver.twin-written")
        with self._database.begin() as connection:
            now = self._now()
            chosen = results.add_object(
                connection,
                stored.result_id,
                kind=stored.kind,
                sop_class_uid=sop_class_uid,
                sop_instance_uid=sop_instance_uid,
                location=location,
                now=now,
            )
            deliveries.choose(
                connection,
                stored.delivery_id,
                sop_instance_uid=sop_instance_uid,
                sop_class_uid=sop_class_uid,
                reason="the destination takes another SR class than the report's own",
                now=now,
            )
        return self._stored(stored.delivery_id, chosen)

    def _objects(self, connection: Connection, result_id: int, kind: str) -> list[ResultObject]:
        stored = [item for item in results.objects(connection, result_id) if item.kind == kind]
        if not stored:
            raise NothingToSend(f"result {result_id} has no object of kind {kind}")
        return stored

    def _stored(self, delivery_id: int, item: ResultObject) -> StoredObject:
        return StoredObject(
            delivery_id=delivery_id,
            result_id=item.result_id,
            kind=item.kind,
            sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid,
            location=item.location,
            files=self._files,
        )
