"""Who observed, as content items. Source: DICOM PS3.16 TID 1002, 1003, 1004."""

from pydicom.dataset import Dataset

from cxr_node.findings import Code
from cxr_node.reporting import items
from cxr_node.reporting.items import HAS_OBS_CONTEXT, dcm
from cxr_node.reporting.material import Device


def device_observer(device: Device) -> list[Dataset]:
    """Return the items of TID 1004: this installation."""
    return [
        items.code(dcm("121005", "Observer Type"), dcm("121007", "Device"), HAS_OBS_CONTEXT),
        items.uid_reference(dcm("121012", "Device Observer UID"), device.observer_uid, HAS_OBS_CONTEXT),
        items.text(dcm("121013", "Device Observer Name"), device.name, HAS_OBS_CONTEXT),
        items.text(dcm("121014", "Device Observer Manufacturer"), device.manufacturer, HAS_OBS_CONTEXT),
        items.text(dcm("121015", "Device Observer Model Name"), device.model, HAS_OBS_CONTEXT),
        items.text(dcm("121016", "Device Observer Serial Number"), device.serial_number, HAS_OBS_CONTEXT),
    ]


def person_observer(name: str, identified_by: Code, how: str) -> list[Dataset]:
    """Return the items of TID 1003 for a person known by `name` alone, and how the name came to be known."""
    return [
        items.code(dcm("121005", "Observer Type"), dcm("121006", "Person"), HAS_OBS_CONTEXT),
        items.person_name(dcm("121008", "Person Observer Name"), name, HAS_OBS_CONTEXT),
        items.text(identified_by, how, HAS_OBS_CONTEXT),
    ]
