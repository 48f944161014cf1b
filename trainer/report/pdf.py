"""A document as a paginated PDF: real text, tables that repeat their header, the banner on every page."""

import io
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from matplotlib import get_data_path
from reportlab.lib import colors
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import (
    CondPageBreak,
    Flowable,
    Image,
    KeepTogether,
    ListFlowable,
    ListItem,
    SimpleDocTemplate,
    Spacer,
)
from reportlab.platypus import Paragraph as PdfParagraph
from reportlab.platypus import Table as PdfTable

from trainer.report.document import Block, Bullets, Document, Paragraph, Picture, Section, Table
from trainer.report.words import BANNER

FONT, BOLD = "DejaVuSans", "DejaVuSans-Bold"
INK, MUTED, RULE, ZEBRA = (colors.HexColor(code) for code in ("#1F2933", "#5A6570", "#CFD5DA", "#F4F6F7"))
WARN, WARN_INK = colors.HexColor("#FFF4DC"), colors.HexColor("#5C4200")
_KINDS = {"plain": INK, "note": MUTED, "good": colors.HexColor("#0B6B4F"), "bad": colors.HexColor("#A63C00")}
_MARGIN = 18 * mm
_WIDTH = A4[0] - 2 * _MARGIN
_TALLEST = 190 * mm


def use_fonts() -> None:
    """Register the fonts that matplotlib ships: every sign of the reports is in them, on every machine."""
    folder = Path(get_data_path()) / "fonts" / "ttf"
    for name in (FONT, BOLD):
        if name not in pdfmetrics.getRegisteredFontNames():
            pdfmetrics.registerFont(TTFont(name, str(folder / f"{name}.ttf")))


def style(size: float, *, bold: bool = False, color: Any = INK, before: float = 0, **more: Any) -> ParagraphStyle:
    """Return a paragraph style; `size` in points."""
    return ParagraphStyle(
        f"s{size}{bold}",
        fontName=BOLD if bold else FONT,
        fontSize=size,
        leading=1.36 * size,
        textColor=color,
        spaceBefore=before,
        # Hashes and paths have no space to break at, and must not run out of their cell.
        splitLongWords=1,
        **more,
    )


def pdf(document: Document) -> bytes:
    """Return the document as PDF, A4; the same document gives the same bytes."""
    use_fonts()
    stream = io.BytesIO()
    template = SimpleDocTemplate(
        stream,
        pagesize=A4,
        leftMargin=_MARGIN,
        rightMargin=_MARGIN,
        topMargin=22 * mm,
        bottomMargin=20 * mm,
        title=document.title,
        author="cxr-train",
        subject=BANNER,
        invariant=1,
    )
    story: list[Flowable] = [
        PdfParagraph(escape(document.title), style(20, bold=True)),
        Spacer(1, 5),
        PdfParagraph(escape(document.subtitle), style(9, color=MUTED)),
        Spacer(1, 8),
    ]
    for section in document.sections:
        story += _section(section)
    template.build(story, onFirstPage=_furniture(document.title), onLaterPages=_furniture(document.title))
    return stream.getvalue()


def _furniture(title: str) -> Callable[..., None]:
    def draw(canvas: Any, template: Any) -> None:
        canvas.saveState()
        canvas.setFillColor(WARN)
        canvas.rect(0, A4[1] - 12 * mm, A4[0], 12 * mm, stroke=0, fill=1)
        canvas.setFillColor(WARN_INK)
        canvas.setFont(BOLD, 9)
        canvas.drawCentredString(A4[0] / 2, A4[1] - 7.6 * mm, BANNER)
        canvas.setFillColor(MUTED)
        canvas.setFont(FONT, 8)
        canvas.drawString(_MARGIN, 10 * mm, title if len(title) <= 90 else f"{title[:89]}…")
        canvas.drawRightString(A4[0] - _MARGIN, 10 * mm, f"page {template.page}")
        canvas.restoreState()

    return draw


def _section(section: Section) -> list[Flowable]:
    size = 15 if section.level == 1 else 11.5
    heading = PdfParagraph(escape(section.title), style(size, bold=True, before=16 if section.level == 1 else 11))
    # A heading at the foot of a page is worse than an empty foot.
    blocks = list(section.blocks)
    needed = 50 * mm if blocks else 110 * mm  # a chapter's heading stays with its first part
    if blocks and isinstance(blocks[0], Picture):
        needed = min(_TALLEST, _size(blocks[0], _width(blocks[0]))[1]) + 40 * mm
    flowables: list[Flowable] = [CondPageBreak(needed), heading, Spacer(1, 3)]
    while blocks:
        block = blocks.pop(0)
        # Two half-wide figures share a line, as they do in the page.
        if isinstance(block, Picture) and block.width <= 0.5 and blocks and isinstance(blocks[0], Picture):
            second = blocks[0]
            if second.width <= 0.5:
                blocks.pop(0)
                flowables.append(_pair(block, second))
                continue
        flowables += _block(block)
    return flowables


def _block(block: Block) -> list[Flowable]:
    if isinstance(block, Paragraph):
        text = PdfParagraph(escape(block.text), style(9, color=_KINDS[block.kind], bold=block.kind in ("good", "bad")))
        return [text, Spacer(1, 4)]
    if isinstance(block, Bullets):
        entries = [ListItem(PdfParagraph(escape(text), style(9))) for text in block.texts]
        bullets = ListFlowable(entries, bulletType="bullet", bulletFontSize=7, leftIndent=12, bulletColor=MUTED)
        return [bullets, Spacer(1, 5)]
    if isinstance(block, Table):
        return _table(block)
    return [KeepTogether(_picture(block, _width(block))), Spacer(1, 6)]


def _width(picture: Picture) -> float:
    return _WIDTH * max(0.55, min(1.0, picture.width))


def _size(picture: Picture, width: float) -> tuple[float, float]:
    """Return width and height on the page, in points: as wide as asked, but never taller than a page."""
    columns, rows = ImageReader(io.BytesIO(picture.png)).getSize()
    height = width * rows / columns
    return (width, height) if height <= _TALLEST else (width * _TALLEST / height, _TALLEST)


def _picture(picture: Picture, width: float) -> list[Flowable]:
    width, height = _size(picture, width)
    image = Image(io.BytesIO(picture.png), width, height, hAlign="LEFT")
    return [image, PdfParagraph(escape(picture.caption), style(7.5, color=MUTED)), Spacer(1, 4)]


def _pair(first: Picture, second: Picture) -> Flowable:
    half = _WIDTH / 2
    cells = [_picture(picture, half - 8) for picture in (first, second)]
    table = PdfTable([cells], colWidths=(half, half))
    table.setStyle([("VALIGN", (0, 0), (-1, -1), "TOP"), ("LEFTPADDING", (0, 0), (-1, -1), 0)])
    return table


def _table(block: Table) -> list[Flowable]:
    if not block.rows:
        return [PdfParagraph("no rows", style(8.5, color=MUTED)), Spacer(1, 5)]
    size = 8 if len(block.header) <= 5 else 7 if len(block.header) <= 7 else 6.3
    bold, left, right = style(size, bold=True), style(size), style(size, alignment=TA_RIGHT)
    rows = [
        [PdfParagraph(escape(cell), right if place in block.numeric else left) for place, cell in enumerate(row)]
        for row in block.rows
    ]
    has_header = any(block.header)
    if has_header:
        header_right = style(size, bold=True, alignment=TA_RIGHT)
        header = [
            PdfParagraph(escape(cell), header_right if place in block.numeric else bold)
            for place, cell in enumerate(block.header)
        ]
        rows.insert(0, header)
    table = PdfTable(
        rows, colWidths=[_WIDTH * share for share in block.widths], repeatRows=1 if has_header else 0, hAlign="LEFT"
    )
    look: list[Any] = [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LINEBELOW", (0, 0), (-1, -1), 0.4, RULE),
        ("ROWBACKGROUNDS", (0, int(has_header)), (-1, -1), [colors.white, ZEBRA]),
        ("LEFTPADDING", (0, 0), (-1, -1), 3),
        ("RIGHTPADDING", (0, 0), (-1, -1), 3),
        ("TOPPADDING", (0, 0), (-1, -1), 2),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 2.5),
    ]
    if has_header:
        look.append(("LINEBELOW", (0, 0), (-1, 0), 1, MUTED))
    table.setStyle(look)
    title = [PdfParagraph(escape(block.title), style(8.5, bold=True, before=3))] if block.title else []
    return [CondPageBreak(32 * mm), *title, Spacer(1, 2), table, Spacer(1, 8)]
