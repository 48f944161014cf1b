"""Grayscale Softcopy Presentation State: the regions of the heat maps over the original pixels, to switch on and off.

Profile `research` only. Sources: DICOM PS3.3 A.33.1, C.11.1, C.11.8, C.11.6, C.10.4, C.10.5, C.10.7.
"""

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import GrayscaleSoftcopyPresentationStateStorage

from cxr_node.errors import UnreadablePixels
from cxr_node.findings import ImageAnalysis
from cxr_node.imaging.description import numbers
from cxr_node.reporting.context import text_of
from cxr_node.reporting.document import begin, evidence, flagged_images, image_evidence, instance_reference, local_of
from cxr_node.reporting.material import Material
from cxr_node.reporting.regions import outlines

LAYER = "AI_REGIONS"
LABEL = "AI: region that the score rests on. Not an outline of disease. Not reviewed."


def build_gsps(material: Material) -> Dataset | None:
    """Return the state, or None without a heat map.

    A state has one Modality LUT and one polarity for all its images. It covers the flagged image with the highest
    probability, and those others that have the same.

    Raises
    ------
    ValueError
        See `begin`.
    """
    if material.profile != "research":
        return None
    marked = [
        (item, found)
        for item in flagged_images(material)
        if item.image.sop_instance_uid in material.heat_maps
        and (found := outlines(material.heat_maps[item.image.sop_instance_uid]))
    ]
    if not marked:
        return None
    headers = material.headers
    first = headers[marked[0][0].image.sop_instance_uid]
    covered = [
        (item, found) for item, found in marked if _rendering(headers[item.image.sop_instance_uid]) == _rendering(first)
    ]
    made = begin(material, "gsps", GrayscaleSoftcopyPresentationStateStorage)
    local = local_of(material)
    made.PresentationCreationDate, made.PresentationCreationTime = local.strftime("%Y%m%d"), local.strftime("%H%M%S")
    made.ContentLabel = "AI_TRIAGE"
    made.ContentDescription = "AI regions, not reviewed"
    made.ContentCreatorName = ""
    made.BodyPartExamined = "CHEST"
    images = [item for item, _ in covered]
    (study,) = evidence(material.outcome.study_instance_uid, image_evidence(images))
    made.ReferencedSeriesSequence = [_image_series(series) for series in study.ReferencedSeriesSequence]
    _add_modality_lut(made, first)
    voi = [made_item for item in images for made_item in _voi_lut(headers[item.image.sop_instance_uid], item)]
    if voi:
        made.SoftcopyVOILUTSequence = voi
    # What a reader sees of MONOCHROME1 is its inverse: IDENTITY would show it as a negative.
    inverse = _photometric_interpretation(first) == "MONOCHROME1"
    made.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    made.DisplayedAreaSelectionSequence = [
        _displayed_area(headers[item.image.sop_instance_uid], item, material.heat_maps[item.image.sop_instance_uid])
        for item in images
    ]
    made.GraphicAnnotationSequence = [_annotation(item, found) for item, found in covered]
    layer = Dataset()
    layer.GraphicLayer = LAYER
    layer.GraphicLayerOrder = 1
    layer.GraphicLayerDescription = "Regions found by the AI, not reviewed"
    made.GraphicLayerSequence = [layer]
    return made


def _photometric_interpretation(header: Dataset) -> str:
    return str(text_of(header, "PhotometricInterpretation"))


def _rendering(header: Dataset) -> tuple[object, ...]:
    """Return what all images of a state have in common."""
    lut = header.get("ModalityLUTSequence")
    return (
        _photometric_interpretation(header),
        str(lut[0].to_json()) if lut else "",
        numbers(header, "RescaleIntercept") or (0.0,),
        numbers(header, "RescaleSlope") or (1.0,),
    )


def _image_series(series: Dataset) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID = series.SeriesInstanceUID
    item.ReferencedImageSequence = series.ReferencedSOPSequence
    return item


def _add_modality_lut(made: Dataset, header: Dataset) -> None:
    """The state replaces the image's own transformation, so the same one stands here. Source: PS3.3 C.11.1."""
    if header.get("ModalityLUTSequence"):
        table = _table(header.ModalityLUTSequence[0])
        table.ModalityLUTType = str(text_of(header.ModalityLUTSequence[0], "ModalityLUTType")) or "US"
        made.ModalityLUTSequence = [table]
        return
    slope, intercept = numbers(header, "RescaleSlope"), numbers(header, "RescaleIntercept")
    if slope or intercept:
        made.RescaleIntercept = header.get("RescaleIntercept") or "0"
        made.RescaleSlope = header.get("RescaleSlope") or "1"
        made.RescaleType = str(text_of(header, "RescaleType")) or "US"


def _voi_lut(header: Dataset, item: ImageAnalysis) -> list[Dataset]:
    """Return the image's own grayscale, the first of several; nothing where it has none. Source: PS3.3 C.11.8."""
    chosen = Dataset()
    center, width = numbers(header, "WindowCenter"), numbers(header, "WindowWidth")
    if header.get("VOILUTSequence"):
        chosen.VOILUTSequence = [_table(header.VOILUTSequence[0])]
    elif center and width and width[0] >= 1:
        chosen.WindowCenter, chosen.WindowWidth = _decimal(center[0]), _decimal(width[0])
        function = str(text_of(header, "VOILUTFunction")).upper()
        if function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
            chosen.VOILUTFunction = function
    else:
        return []
    chosen.ReferencedImageSequence = [_reference(item)]
    return [chosen]


def _table(lut: Dataset) -> Dataset:
    """Return the lookup table with the value representations written out.

    A state has no Pixel Representation that would tell US from SS. Source: PS3.3 C.11.1.1.1, C.11.2.1.1.
    """
    entries, first, bits = (int(value) for value in lut.LUTDescriptor)
    made = Dataset()
    # Entries and bits are unsigned in either; a reader that took them for signed makes more than 32767 negative.
    made.add_new("LUTDescriptor", "SS" if first < 0 else "US", [entries % 65536, first, bits])
    data = lut.LUTData
    made.add_new(
        "LUTData", "OW", data if isinstance(data, bytes) else (np.atleast_1d(data) % 65536).astype("<u2").tobytes()
    )
    return made


def _decimal(value: float) -> str:
    """Return a decimal string of at most 16 characters. Source: PS3.5 6.2."""
    return f"{value:.10g}"


def _reference(item: ImageAnalysis) -> Dataset:
    return instance_reference(item.image.sop_class_uid, item.image.sop_instance_uid)


def _displayed_area(header: Dataset, item: ImageAnalysis, heat_map: np.ndarray) -> Dataset:
    """Return the whole image. Source: PS3.3 C.10.4."""
    area = Dataset()
    area.ReferencedImageSequence = [_reference(item)]
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [heat_map.shape[1], heat_map.shape[0]]
    area.PresentationSizeMode = "SCALE TO FIT"
    spacing = _pair(header, "PixelSpacing") or _pair(header, "ImagerPixelSpacing")
    if spacing:
        area.PresentationPixelSpacing = [_decimal(value) for value in spacing]
    else:
        area.PresentationPixelAspectRatio = [
            max(1, int(value)) for value in _pair(header, "PixelAspectRatio") or (1, 1)
        ]
    return area


def _pair(header: Dataset, keyword: str) -> tuple[float, ...]:
    """Return two positive numbers, nothing where the attribute holds anything else: no picture depends on it."""
    try:
        found = numbers(header, keyword)
    except UnreadablePixels:
        return ()
    return found if len(found) == 2 and min(found) > 0 else ()


def _annotation(item: ImageAnalysis, found: Sequence[np.ndarray]) -> Dataset:
    annotation = Dataset()
    annotation.ReferencedImageSequence = [_reference(item)]
    annotation.GraphicLayer = LAYER
    text = Dataset()
    text.AnchorPointAnnotationUnits = "PIXEL"
    text.UnformattedTextValue = LABEL
    lowest = max(found[0], key=lambda point: (point[1], -point[0]))
    text.AnchorPoint = [float(lowest[0]), float(lowest[1])]
    text.AnchorPointVisibility = "N"
    annotation.TextObjectSequence = [text]
    annotation.GraphicObjectSequence = [_polyline(points) for points in found]
    return annotation


def _polyline(points: np.ndarray) -> Dataset:
    graphic = Dataset()
    graphic.GraphicAnnotationUnits = "PIXEL"
    graphic.GraphicDimensions = 2
    graphic.NumberOfGraphicPoints = len(points)
    graphic.GraphicData = [float(value) for value in points.ravel()]
    graphic.GraphicType = "POLYLINE"
    graphic.GraphicFilled = "N"
    return graphic
