"""The result card: a Secondary Capture image, the one object that every viewer shows.

In profile `triage` it holds text only. A flagged study's card in profile `research` also shows the radiographs with
their heat maps. There is no card for a study that has nothing to say (regulatory/decisions/0006).

Sources: DICOM PS3.3 A.8.1, C.8.6.1, C.8.6.2, C.7.6.1, C.7.6.3.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from cxr_node.reporting.context import text_of
from cxr_node.reporting.document import begin, first_header, flagged_images, instance_reference, local_of
from cxr_node.reporting.items import code_item, dcm
from cxr_node.reporting.listed import images_referred_to
from cxr_node.reporting.material import Material
from cxr_node.reporting.statement import NOTICES, Statement, state
from cxr_node.reporting.typeface import BOLD, REGULAR, drawable, shown_id, shown_name, wrapped

WIDTH, HEIGHT = 960, 720  # of the text
PICTURE_HEIGHT, PICTURE_WIDTH = 720, 720
MOST_PICTURES = 2
HEAT_SHARE = 0.45  # of a pixel's color where the map is hottest
EXPLANATION = (
    "Colors: where covering the image lowers the score (occlusion sensitivity). "
    "They explain the score; they do not outline disease."
)
_MARGIN = 36
_BACKGROUND, _TEXT, _QUIET, _ACCENT = (16, 18, 22), (235, 235, 235), (170, 174, 180), (255, 196, 92)


def has_card(material: Material) -> bool:
    """Whether there is anything to say that must not be overlooked: a flag, an image not analysed, a flag kept."""
    return material.outcome.flagged or bool(material.outcome.exclusions) or material.was_flagged


def build_sc(material: Material) -> Dataset | None:
    """Return the card, or None for a study that was analysed, is not flagged and never was.

    Raises
    ------
    ValueError
        See `begin`.
    """
    if not has_card(material):
        return None
    card = begin(material, "sc", SecondaryCaptureImageStorage)
    shown = _shown_maps(material)
    pixels = draw_card(material, shown)
    local = local_of(material)
    card.ContentDate = card.DateOfSecondaryCapture = local.strftime("%Y%m%d")
    card.ContentTime = card.TimeOfSecondaryCapture = local.strftime("%H%M%S")
    card.ConversionType = "WSD"
    card.SecondaryCaptureDeviceManufacturer = material.device.manufacturer
    card.SecondaryCaptureDeviceManufacturerModelName = material.device.model
    card.SecondaryCaptureDeviceSoftwareVersions = material.device.software_version
    card.ImageType = ["DERIVED", "SECONDARY"]
    card.PatientOrientation = ""
    card.BodyPartExamined = "CHEST"
    card.BurnedInAnnotation = "YES"
    card.LossyImageCompression = "00"
    card.ImageComments = " ".join(NOTICES[:2])
    card.DerivationDescription = (
        "Radiographs with heat maps of the AI's score (occlusion sensitivity), and text"
        if shown
        else "Text about the AI's result; shows no pixels of the source images"
    )
    if shown:
        card.DerivationCodeSequence = [code_item(dcm("130404", "Saliency"))]
    card.SourceImageSequence = [
        instance_reference(item.image.sop_class_uid, item.image.sop_instance_uid)
        for item in images_referred_to(material.outcome)
    ]
    card.SamplesPerPixel = 3
    card.PhotometricInterpretation = "RGB"
    card.PlanarConfiguration = 0
    card.Rows, card.Columns = pixels.shape[:2]
    card.BitsAllocated = card.BitsStored = 8
    card.HighBit = 7
    card.PixelRepresentation = 0
    card.PixelData = pixels.tobytes()
    card["PixelData"].VR = "OB"
    return card


def shows_heat_map(card: Dataset) -> bool:
    """Whether the card explains a score: only such a one is a Visual explanation in the report."""
    return "DerivationCodeSequence" in card


def _shown_maps(material: Material) -> list[str]:
    """Return the images whose heat map is drawn. None leaves a node in profile `triage`, whatever it was given."""
    if material.profile != "research":
        return []
    uids = [item.image.sop_instance_uid for item in flagged_images(material)]
    return [uid for uid in uids if uid in material.heat_maps and uid in material.radiographs][:MOST_PICTURES]


def draw_card(material: Material, shown: Sequence[str]) -> np.ndarray:
    """Return the card.

    Returns
    -------
    (rows, columns, 3) uint8, RGB
    """
    text = _draw_text(material, state(material), explains=bool(shown))
    pictures = [_blend(material.radiographs[uid], material.heat_maps[uid]) for uid in shown]
    return np.concatenate([*pictures, text], axis=1)


def _draw_text(material: Material, said: Statement, *, explains: bool) -> np.ndarray:
    header = first_header(material)
    canvas = Image.new("RGB", (WIDTH, HEIGHT), _BACKGROUND)
    pen = _Pen(ImageDraw.Draw(canvas))
    pen.write("AI TRIAGE RESULT", 22, _QUIET, bold=True)
    pen.write(said.headline, 38, _ACCENT, bold=True, after=10)
    for sentence in said.sentences:
        pen.write(sentence, 22, _TEXT)
    pen.skip(14)
    pen.write(f"Patient: {shown_name(header)}", 20, _TEXT)
    pen.write(f"Patient ID: {shown_id(header)}", 20, _TEXT)
    accession = drawable(str(text_of(header, "AccessionNumber"))) or "(none)"
    study = " ".join(str(text_of(header, keyword)) for keyword in ("StudyDate", "StudyTime")).strip()
    pen.write(f"Accession number: {accession}, study of {study or '(no date)'}", 20, _TEXT, after=12)
    if said.models:
        pen.write(f"Models: {', '.join(said.models)}", 18, _QUIET)
    device = material.device
    pen.write(f"{device.model} {device.software_version}, {device.name}, revision {material.revision}", 18, _QUIET)
    pen.write(local_of(material).strftime("%Y-%m-%d %H:%M:%S %z"), 18, _QUIET)
    if explains:
        pen.write(EXPLANATION, 18, _QUIET)
    notices = _Pen(pen.draw, HEIGHT - _MARGIN - 3 * 28)
    for notice in NOTICES:
        notices.write(notice, 20, _ACCENT)
    return np.asarray(canvas)


class _Pen:
    """Writes lines from the top, wrapped; the lowest lines are kept for the notices, and nothing is drawn over them."""

    def __init__(self, draw: ImageDraw.ImageDraw, top: int = _MARGIN) -> None:
        self.draw = draw
        self._top = top
        self._end = HEIGHT - _MARGIN if top > _MARGIN else HEIGHT - _MARGIN - 3 * 28 - 8

    def skip(self, pixels: int) -> None:
        self._top += pixels

    def write(self, text: str, size: int, color: tuple[int, int, int], *, bold: bool = False, after: int = 0) -> None:
        font = ImageFont.truetype(str(BOLD if bold else REGULAR), size, layout_engine=ImageFont.Layout.BASIC)
        for line in wrapped(drawable(text), font.getlength, WIDTH - 2 * _MARGIN):
            if self._top + size > self._end:
                return
            self.draw.text((_MARGIN, self._top), line, color, font=font)
            self._top += int(size * 1.4)
        self._top += after


def _blend(radiograph: np.ndarray, heat_map: np.ndarray) -> np.ndarray:
    """Return the radiograph with its heat map over it, in a field of the card's height."""
    rows, columns = heat_map.shape  # of the image, whatever size the radiograph was reduced to
    scale = min(PICTURE_HEIGHT / rows, PICTURE_WIDTH / columns)
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    gray = cv2.resize(radiograph, size, interpolation=cv2.INTER_AREA)
    heat = np.clip(cv2.resize(heat_map, size, interpolation=cv2.INTER_AREA), 0, 1)
    colors = cv2.cvtColor(
        cv2.applyColorMap((heat * 255).round().astype(np.uint8), cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB
    )
    share = (HEAT_SHARE * heat)[..., np.newaxis]
    blended = np.clip(gray, 0, 1)[..., np.newaxis] * 255 * (1 - share) + colors * share
    field = np.full((PICTURE_HEIGHT, PICTURE_WIDTH, 3), _BACKGROUND, np.uint8)
    top, left = (PICTURE_HEIGHT - size[1]) // 2, (PICTURE_WIDTH - size[0]) // 2
    field[top : top + size[1], left : left + size[0]] = blended.round().astype(np.uint8)
    return field
