"""A drawn chest radiograph for demonstration and round trips: geometry and noise, labelled as a phantom, of no patient.

It shows that the line runs; what a model says of it means nothing.
"""

from datetime import datetime

import cv2
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

ROWS, COLUMNS = 1024, 1024


def draw_phantom(rng: np.random.Generator, *, opacity: float) -> np.ndarray:
    """Draw a frontal chest.

    Parameters
    ----------
    opacity : 0 for clear lungs, up to 1 for a dense patch in the lower right lung

    Returns
    -------
    (1024, 1024) uint16, 12 bits used, air dark
    """
    yy, xx = np.mgrid[0:ROWS, 0:COLUMNS].astype(np.float32)
    x, y = xx / COLUMNS, yy / ROWS

    def ellipse(cx: float, cy: float, rx: float, ry: float, soft: float) -> np.ndarray:
        radius = np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)
        return 1.0 / (1.0 + np.exp((radius - 1.0) / soft))

    body = np.clip(ellipse(0.5, 0.72, 0.56, 0.72, 0.03) + ellipse(0.5, 0.06, 0.13, 0.2, 0.08), 0, 1)
    image = 0.62 * body
    for cx in (0.29, 0.71):
        lung = ellipse(cx, 0.46, 0.165, 0.36, 0.06) * (y < 0.86)
        image -= 0.42 * lung
        for rib in range(9):
            centre = 0.16 + 0.075 * rib + 0.28 * (x - cx) ** 2 * 4 + 0.05 * np.abs(x - 0.5)
            image += 0.06 * lung * np.exp(-(((y - centre) / 0.012) ** 2))
    image += 0.26 * ellipse(0.5, 0.5, 0.075, 0.6, 0.12) + 0.3 * ellipse(0.56, 0.66, 0.15, 0.15, 0.1)
    image += 0.22 * np.clip((y - 0.78 - 0.1 * np.abs(x - 0.3)) / 0.1, 0, 1) * body
    for sign in (-1, 1):
        line = 0.115 - sign * 0.09 * (x - 0.5)
        image += 0.1 * body * np.exp(-(((y - line) / 0.016) ** 2)) * (np.sign(x - 0.5) == sign)
    patch = cv2.GaussianBlur(rng.random((ROWS, COLUMNS)).astype(np.float32), (0, 0), 14)
    patch = (patch - patch.min()) / (patch.max() - patch.min())
    image += opacity * 0.45 * ellipse(0.29, 0.62, 0.13, 0.14, 0.15) * (0.6 + 0.4 * patch)
    image = cv2.GaussianBlur(image, (0, 0), 3) + rng.normal(0, 0.008, image.shape).astype(np.float32)
    pixels = np.clip(image, 0, 1)
    label = np.zeros((ROWS, COLUMNS), np.uint8)
    cv2.putText(label, "PHANTOM", (40, 980), cv2.FONT_HERSHEY_SIMPLEX, 1.6, 242, 3, cv2.LINE_AA)
    return np.round(np.maximum(pixels, label / 255.0) * 4095).astype(np.uint16)


def phantom_dataset(now: datetime, rng: np.random.Generator, *, opacity: float, accession_number: str) -> Dataset:
    """Return a DX For Presentation object of a drawn chest, with UIDs of its own and a patient named as a phantom."""
    pixels = draw_phantom(rng, opacity=opacity)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = dataset.AcquisitionDate = now.strftime("%Y%m%d")
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = dataset.AcquisitionTime = now.strftime("%H%M%S")
    dataset.AccessionNumber = accession_number
    dataset.Modality = "DX"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.Manufacturer = "cxr-node"
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = "Drawn phantom, no patient"
    dataset.SeriesDescription = "Drawn phantom, no patient"
    dataset.PatientName = "PHANTOM^DRAWN"
    dataset.PatientID = f"PHANTOM-{accession_number}"
    dataset.PatientBirthDate = "19600101"
    dataset.PatientSex = "O"
    dataset.PatientAge = "060Y"
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = "PA"
    dataset.StudyID = "1"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1
    dataset.PatientOrientation = ["L", "F"]
    dataset.ImageLaterality = "U"
    dataset.ImagerPixelSpacing = [0.4, 0.4]
    dataset.PixelIntensityRelationship, dataset.PixelIntensityRelationshipSign = "LOG", -1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "US"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.LossyImageCompression = "00"
    dataset.BurnedInAnnotation = "YES"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    dataset.PixelData = pixels.tobytes()
    return dataset
