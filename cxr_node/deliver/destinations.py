"""The table of destination kinds. A new kind is a class with the same methods, a row here and in the settings."""

from typing import Protocol

from cxr_node.deliver.c_store import CStore
from cxr_node.deliver.folder import Folder
from cxr_node.deliver.hl7_oru import Hl7Oru
from cxr_node.deliver.objects import Sent, Shelf, StoredObject
from cxr_node.deliver.orthanc_label import OrthancLabel
from cxr_node.deliver.stow_rs import StowRs
from cxr_node.deliver.ups import Ups
from cxr_node.deliver.webhook import Webhook
from cxr_node.settings import Destination, Settings


class Sender(Protocol):
    """Sends to one destination. Every member of the table passes one contract test."""

    def __init__(self, destination: Destination, *, settings: Settings, shelf: Shelf) -> None: ...

    def send(self, stored: StoredObject) -> Sent:
        """Return once the destination has the object for good; sending it again does no harm.

        Raises
        ------
        DeliveryError
            Its class says what happens next (see `policy`), its message what a person has to put right.
        StorageUnavailable
            The node's own storage cannot give the bytes now.
        """
        ...

    def test(self) -> str:
        """Return one sentence on what would keep objects from getting there and what to do about it, empty where
        nothing does. Nothing is left behind at the destination."""
        ...


DESTINATIONS: dict[str, type[Sender]] = {
    "c-store": CStore,
    "stow-rs": StowRs,
    "hl7-oru": Hl7Oru,
    "ups": Ups,
    "orthanc-label": OrthancLabel,
    "webhook": Webhook,
    "folder": Folder,
}
