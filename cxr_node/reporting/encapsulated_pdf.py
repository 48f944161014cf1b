"""Encapsulated PDF: the report as one page for a person, for sites whose viewers show no structured report.

Sources: DICOM PS3.3 A.45.1, C.24.1, C.24.2, C.8.6.1.
"""

from functools import partial
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage
from reportlab.lib.colors import Color
from reportlab.lib.pagesizes import A4
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from cxr_node.findings import ImageAnalysis
from cxr_node.reporting.context import text_of
from cxr_node.reporting.document import begin, first_header, instance_reference, local_of
from cxr_node.reporting.listed import images_referred_to
from cxr_node.reporting.material import Material
from cxr_node.reporting.statement import NOTICES, models_of, state
from cxr_node.reporting.typeface import BOLD, REGULAR, drawable, shown_id, shown_name, wrapped

TITLE = "AI triage report, preliminary, not reviewed by a physician"
MOST_IMAGES = 20  # on the page; the structured report names all
_MARGIN, _LINE = 56, 1.35
_INK, _QUIET, _ACCENT = Color(0.1, 0.1, 0.12), Color(0.4, 0.4, 0.44), Color(0.62, 0.33, 0.0)


def build_pdf(material: Material) -> Dataset:
    """Return the page as a DICOM object; every study has one, as it has a structured report.

    Raises
    ------
    ValueError
        See `begin`.
    """
    made = begin(material, "pdf", EncapsulatedPDFStorage)
    local = local_of(material)
    made.ContentDate, made.ContentTime = local.strftime("%Y%m%d"), local.strftime("%H%M%S")
    made.AcquisitionDateTime = ""
    made.ConversionType = "WSD"
    made.SecondaryCaptureDeviceManufacturer = material.device.manufacturer
    made.SecondaryCaptureDeviceManufacturerModelName = material.device.model
    made.SecondaryCaptureDeviceSoftwareVersions = material.device.software_version
    made.BurnedInAnnotation = "YES"
    made.RecognizableVisualFeatures = "NO"
    made.VerificationFlag = "UNVERIFIED"
    made.SourceInstanceSequence = [
        instance_reference(item.image.sop_class_uid, item.image.sop_instance_uid)
        for item in images_referred_to(material.outcome)
    ]
    made.DocumentTitle = TITLE
    made.ConceptNameCodeSequence = []  # no code says "triage by a machine"; one of a report would say too much
    made.MIMETypeOfEncapsulatedDocument = "application/pdf"
    page = draw_page(material)
    made.EncapsulatedDocument = page + b"\0" * (len(page) % 2)
    made.EncapsulatedDocumentLength = len(page)
    return made


def draw_page(material: Material) -> bytes:
    """Return the PDF, one page A4; the same material is the same bytes."""
    _register()
    buffer = BytesIO()
    canvas = Canvas(buffer, pagesize=A4, invariant=1, pageCompression=1)
    canvas.setTitle(TITLE)
    canvas.setAuthor(f"{material.device.model} {material.device.software_version}")
    page = _Page(canvas)
    said = state(material)
    header = first_header(material)
    page.write("AI triage report", 11, _QUIET)
    page.write(said.headline, 20, _ACCENT, bold=True, after=6)
    for sentence in said.sentences:
        page.write(sentence, 12, _INK)
    page.rule()
    page.pair("Patient", shown_name(header))
    page.pair("Patient ID", shown_id(header))
    for name, keyword in (
        ("Date of birth", "PatientBirthDate"),
        ("Sex", "PatientSex"),
        ("Accession number", "AccessionNumber"),
        ("Study", "StudyDescription"),
        ("Study date", "StudyDate"),
        ("Study time", "StudyTime"),
    ):
        page.pair(name, drawable(str(text_of(header, keyword))) or "-")
    page.pair("Study Instance UID", material.outcome.study_instance_uid)
    page.rule()
    images = material.outcome.images
    page.write(f"Images ({len(images)})", 11, _QUIET)
    for number, item in enumerate(images[:MOST_IMAGES], start=1):
        page.write(f"{number}. {_told(item)}", 10, _INK)
    if len(images) > MOST_IMAGES:
        page.write(f"and {len(images) - MOST_IMAGES} more: see the structured report", 10, _INK)
    page.rule()
    page.pair("Models", ", ".join(said.models) or "none ran")
    page.pair("Made by", f"{material.device.model} {material.device.software_version}, {material.device.name}")
    page.pair("Revision", str(material.revision))
    page.pair("Time", local_of(material).strftime("%Y-%m-%d %H:%M:%S %z"))
    page.foot(NOTICES)
    canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def _told(item: ImageAnalysis) -> str:
    if item.exclusion is not None:
        return f"Not analysed: {item.exclusion.message} ({item.exclusion.reason})"
    flagged = sorted({score.finding for score in item.scores if score.flagged})
    models = ", ".join(models_of(item.scores))
    return (
        f"Flagged: {', '.join(flagged)} suspected ({models})" if flagged else f"No operating point crossed ({models})"
    )


def _register() -> None:
    for path in (REGULAR, BOLD):
        if path.stem not in pdfmetrics.getRegisteredFontNames():
            pdfmetrics.registerFont(TTFont(path.stem, str(path)))


class _Page:
    """Writes from the top of the page down; what would reach the notices at its foot is not written."""

    _FOOT = 96

    def __init__(self, canvas: Canvas) -> None:
        self._canvas = canvas
        self._top = A4[1] - _MARGIN
        self._width = A4[0] - 2 * _MARGIN

    def write(
        self, text: str, size: float, color: Color, *, bold: bool = False, after: float = 0, left: float = 0
    ) -> None:
        face = BOLD.stem if bold else REGULAR.stem
        self._canvas.setFillColor(color)
        self._canvas.setFont(face, size)
        for line in wrapped(
            drawable(text), partial(pdfmetrics.stringWidth, fontName=face, fontSize=size), self._width - left
        ):
            if self._top - size < self._FOOT:
                return
            self._canvas.drawString(_MARGIN + left, self._top - size, line)
            self._top -= size * _LINE
        self._top -= after

    def pair(self, name: str, value: str) -> None:
        self._canvas.setFillColor(_QUIET)
        self._canvas.setFont(REGULAR.stem, 10)
        if self._top - 10 >= self._FOOT:
            self._canvas.drawString(_MARGIN, self._top - 10, name)
        self.write(value, 10, _INK, left=130)

    def rule(self) -> None:
        self._top -= 8
        self._canvas.setStrokeColor(_QUIET)
        self._canvas.setLineWidth(0.5)
        self._canvas.line(_MARGIN, self._top, _MARGIN + self._width, self._top)
        self._top -= 10

    def foot(self, notices: tuple[str, ...]) -> None:
        self._canvas.setFillColor(_ACCENT)
        self._canvas.setFont(REGULAR.stem, 10)
        for number, notice in enumerate(reversed(notices)):
            self._canvas.drawString(_MARGIN, _MARGIN - 12 + number * 10 * _LINE, notice)
