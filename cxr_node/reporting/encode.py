"""A dataset as the bytes of a Part 10 file: the same dataset is the same bytes. Source: DICOM PS3.10 7."""

from io import BytesIO

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian

# Of this product; made once with uuid4. The toolkit's own would change with its version, and the bytes with it.
IMPLEMENTATION_CLASS_UID = UID("2.25.158506762909921372008262936148567880096")
IMPLEMENTATION_VERSION_NAME = "CXR_NODE"


def encode(dataset: Dataset) -> bytes:
    """Return the file, Explicit VR Little Endian."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    dataset.file_meta = meta
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True, overwrite=False)
    return buffer.getvalue()
