"""What kind of object a SOP class is."""

from pydicom.uid import UID


def is_image(sop_class_uid: str) -> bool:
    """Whether instances of the class hold an image; reports, key objects and presentation states do not."""
    return "Image Storage" in UID(sop_class_uid).name
