"""Who observed: this installation, by a UID that it keeps."""

from pathlib import Path

from cxr_node.reporting.material import Device
from cxr_node.reporting.uids import derived_uid

MANUFACTURER = "cxr-node project"
MODEL = "cxr-node"


def device_for(station_name: str, software_version: str, data_dir: Path) -> Device:
    """Return the device; its UID follows from the installation's data folder and station name."""
    key = str(data_dir.resolve())
    uid = derived_uid("device", station_name, key)
    return Device(station_name, MANUFACTURER, MODEL, uid.rpartition(".")[2][:16], software_version, uid)
