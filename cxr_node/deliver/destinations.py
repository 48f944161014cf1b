"""The table of destination kinds. A new kind is a class with the same `send`, a row here and one in the settings."""

from typing import Protocol

from cxr_node.deliver.c_store import CStore
from cxr_node.deliver.folder import Folder
from cxr_node.deliver.objects import Sent, Shelf, StoredObject
from cxr_node.settings import Destination, Settings


class Sender(Protocol):
    """Sends to one destination. Every member of the table passes one contract test."""

    def __init__(self, destination: Destination, *, settings: Settings, shelf: Shelf) -> None: ...

    def send(self, stored: StoredObject) -> Sent:
        """Return once the destination has the object for good; sending it again does no harm.

        Raises
        ------
        DeliveryError
            Its class says what happens next, its message what a person has to put right.
        StorageUnavailable
            The node's own storage cannot give the bytes now.
        """
        ...


DESTINATIONS: dict[str, type[Sender]] = {
    "c-store": CStore,
    "folder": Folder,
}
