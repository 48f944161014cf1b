"""The stage that sends: the stored bytes of each result object to every destination. See `stage.run_deliver`."""

from cxr_node.deliver.destinations import DESTINATIONS
from cxr_node.deliver.objects import Sent, Shelf, StoredObject
from cxr_node.deliver.stage import run_deliver

__all__ = ["DESTINATIONS", "Sent", "Shelf", "StoredObject", "run_deliver"]
