"""The same report in a SOP class that a peer takes. The content tree holds nothing that the lesser classes forbid."""

import copy

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from cxr_node.reporting.uids import derived_uid

SR_CLASSES = (Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage)


def as_class(sr: Dataset, sop_class_uid: str) -> Dataset:
    """Return the report as an instance of another SR class, with a UID of its own that follows from both.

    Raises
    ------
    ValueError
        The class is none that the report can be sent as.
    """
    if sop_class_uid not in SR_CLASSES:
        raise ValueError(f"{sop_class_uid} is none of the SR classes that a report can be sent as")
    if sop_class_uid == sr.SOPClassUID:
        return sr
    twin = copy.deepcopy(sr)
    twin.SOPInstanceUID = derived_uid("twin", sop_class_uid, str(sr.SOPInstanceUID))
    twin.SOPClassUID = sop_class_uid
    return twin
