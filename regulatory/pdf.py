"""The regulatory file as one PDF: contents with page numbers, links inside, tables that repeat their header."""

import io
import posixpath
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from markdown_it.tree import SyntaxTreeNode
from matplotlib import get_data_path
from reportlab.lib import colors
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import (
    BaseDocTemplate,
    CondPageBreak,
    Flowable,
    Frame,
    ListFlowable,
    ListItem,
    PageBreak,
    PageTemplate,
    Paragraph,
    Preformatted,
    Spacer,
    Table,
)
from reportlab.platypus.tableofcontents import TableOfContents

from regulatory import svg
from regulatory.markdown import Headings, anchor, marks, places, target, tokens
from regulatory.mermaid import UnreadableFlowchart, flowchart
from regulatory.pages import Page
from trainer.report.pdf import BOLD, FONT, MUTED, RULE, WARN, WARN_INK, ZEBRA, style, use_fonts
from trainer.report.words import BANNER

MONO = "DejaVuSansMono"
_MARGIN = 17 * mm
_WIDTH = A4[0] - 2 * _MARGIN
_TALLEST = 215 * mm
_PICTURE = 112 * mm
_SIZES = {1: 18.0, 2: 13.0, 3: 10.5, 4: 9.5, 5: 9.0, 6: 9.0}
_ACCENT = "#0a5c8f"


def pdf(files: Mapping[str, str], pages: tuple[Page, ...], version: str) -> bytes:
    """Return the pages in `files` as one PDF, A4, in reading order; the same files give the same bytes."""
    use_fonts()
    if MONO not in pdfmetrics.getRegisteredFontNames():
        pdfmetrics.registerFont(TTFont(MONO, str(Path(get_data_path()) / "fonts" / "ttf" / f"{MONO}.ttf")))
    stream = io.BytesIO()
    document = _Document(
        stream,
        pagesize=A4,
        title=f"cxr-node {version}: regulatory file",
        author="cxr-node",
        subject=BANNER,
        invariant=1,
    )
    contents = TableOfContents(levelStyles=[style(9.5, bold=True, before=4), style(8, leftIndent=14)], dotsMinLevel=0)
    story: list[Flowable] = [
        Spacer(1, 60 * mm),
        Paragraph("cxr-node: the regulatory file", style(24, bold=True)),
        Spacer(1, 12),
        Paragraph(
            f"Version {escape(version)}. {escape(BANNER)}. Nothing here is a submission.", style(11, color=MUTED)
        ),
        PageBreak(),
        Paragraph("Contents", style(16, bold=True)),
        Spacer(1, 8),
        contents,
    ]
    known = places(files, pages)
    for page in pages:
        if page.file in files:
            story += [PageBreak(), *_Page(page, files, known).flowables()]
    document.multiBuild(story)
    return stream.getvalue()


class _Document(BaseDocTemplate):
    """Draws banner and page number on every page, and hands headings to the contents."""

    def __init__(self, stream: io.BytesIO, **options: Any) -> None:
        super().__init__(stream, **options)
        frame = Frame(_MARGIN, 17 * mm, _WIDTH, A4[1] - 35 * mm, 0, 0, 0, 0)
        self.addPageTemplates([PageTemplate("page", [frame], onPage=_furniture)])

    def afterFlowable(self, flowable: Flowable) -> None:  # reportlab's name
        entry = getattr(flowable, "contents_entry", None)
        if entry is not None:
            level, text, name = entry
            self.notify("TOCEntry", (level, escape(text), self.page, name))
            self.canv.bookmarkPage(name)
            self.canv.addOutlineEntry(text, name, level, closed=True)


def _furniture(canvas: Any, document: Any) -> None:
    canvas.saveState()
    canvas.setFillColor(WARN)
    canvas.rect(0, A4[1] - 11 * mm, A4[0], 11 * mm, stroke=0, fill=1)
    canvas.setFillColor(WARN_INK)
    canvas.setFont(BOLD, 8.5)
    canvas.drawCentredString(A4[0] / 2, A4[1] - 7 * mm, BANNER)
    canvas.setFillColor(MUTED)
    canvas.setFont(FONT, 8)
    canvas.drawString(_MARGIN, 9 * mm, document.title)
    canvas.drawRightString(A4[0] - _MARGIN, 9 * mm, f"page {document.page}")
    canvas.restoreState()


class _Drawing(Flowable):
    """A drawing as curves, or a part of it from `top` to `bottom` in its own units; a small one is not blown up."""

    def __init__(self, source: str, tallest: float = _PICTURE, part: tuple[float, float] | None = None) -> None:
        super().__init__()
        width, height = svg.size(source)
        self._source, self._part = source, part or (0.0, height)
        tall = self._part[1] - self._part[0]
        # A drawing's unit is a point.
        self.width = min(_WIDTH, width, tallest * width / tall)
        self._scale = self.width / width
        self.height = tall * self._scale

    def wrap(self, width: float, height: float) -> tuple[float, float]:
        return self.width, self.height

    def draw(self) -> None:
        canvas = self.canv
        path = canvas.beginPath()
        path.rect(0, 0, self.width, self.height)
        canvas.clipPath(path, stroke=0, fill=0)
        canvas.translate(0, -(svg.size(self._source)[1] - self._part[1]) * self._scale)
        svg.draw(self._source, canvas, self.width, (FONT, BOLD))


def _chart(source: str) -> list[Flowable]:
    """Return a flowchart over as many pages as it needs to be read."""
    drawn = flowchart(source)
    most = _TALLEST / min(1.0, _WIDTH / svg.size(drawn)[0])
    found: list[Flowable] = []
    for part in svg.cuts(drawn, most):
        drawing = _Drawing(drawn, _TALLEST, part)
        found += [CondPageBreak(drawing.height), drawing]
    return [*found, Spacer(1, 6)]


class _Place(Flowable):
    """Where a link leads; nothing is seen of it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def wrap(self, width: float, height: float) -> tuple[float, float]:
        return 0, 0

    def draw(self) -> None:
        self.canv.bookmarkHorizontal(self._name, 0, 10)


class _Page:
    """One page's flowables from its Markdown."""

    def __init__(self, page: Page, files: Mapping[str, str], known: Mapping[str, set[str]]) -> None:
        self._page, self._files, self._known = page, files, known
        self._headings = Headings(page.file)

    def flowables(self) -> list[Flowable]:
        found: list[Flowable] = []
        for node in SyntaxTreeNode(tokens(self._files[self._page.file])).children:
            found += self._block(node)
        return found

    def _block(self, node: SyntaxTreeNode, size: float = 9) -> list[Flowable]:
        if node.type == "heading":
            return self._heading(node)
        if node.type == "paragraph":
            return self._paragraph(node, size)
        if node.type in ("bullet_list", "ordered_list"):
            items = [
                ListItem([flow for child in item.children for flow in self._block(child, size)])
                for item in node.children
            ]
            kind = "bullet" if node.type == "bullet_list" else "1"
            return [ListFlowable(items, bulletType=kind, bulletFontSize=7.5, leftIndent=14, bulletFontName=FONT)]
        if node.type in ("fence", "code_block"):
            return self._code(node)
        if node.type == "table":
            return self._table(node)
        if node.type == "blockquote":
            return [flow for child in node.children for flow in self._block(child, 8)]
        if node.type == "hr":
            return [Spacer(1, 6)]
        raise ValueError(f"{self._page.file}: Markdown block {node.type!r} is not one that the PDF knows")

    def _heading(self, node: SyntaxTreeNode) -> list[Flowable]:
        level = int(node.tag[1])
        text = marks(node.children[0].content)[0]
        name = anchor(self._page.file) if level == 1 else self._headings.name(text)
        if level == 1:
            self._headings.name(text)
        size = _SIZES[level]
        heading = Paragraph(f'<a name="{name}"/>{self._inline(node.children[0])}', style(size, bold=True, before=9))
        if level <= 2:
            heading.contents_entry = (level - 1, _words(node.children[0]), name)
        return [CondPageBreak(32 * mm), heading, Spacer(1, 3)]

    def _paragraph(self, node: SyntaxTreeNode, size: float) -> list[Flowable]:
        found: list[Flowable] = []
        inline = node.children[0]
        pictures = [child for child in inline.children if child.type == "image"]
        for picture in pictures:
            name = posixpath.normpath(posixpath.join(posixpath.dirname(self._page.file), str(picture.attrs["src"])))
            if name in self._files:
                drawing = _Drawing(self._files[name])
                found += [CondPageBreak(drawing.height + 14 * mm), drawing, Spacer(1, 3)]
        text = self._inline(inline)
        if text.strip():
            caption = text.startswith("<b>Table: ")
            found += [CondPageBreak(26 * mm)] if caption else []
            found += [Paragraph(text, style(8 if caption else size)), Spacer(1, 4)]
        return found

    def _code(self, node: SyntaxTreeNode) -> list[Flowable]:
        if node.info.strip() == "mermaid":
            try:
                return _chart(node.content)
            except UnreadableFlowchart:
                pass
        look = style(7)
        look.fontName, look.leading = MONO, 9
        return [Preformatted(node.content.rstrip("\n"), look, maxLineLength=112), Spacer(1, 6)]

    def _table(self, node: SyntaxTreeNode) -> list[Flowable]:
        lines = [line for part in node.children for line in part.children]
        cells = [[cell.children[0] if cell.children else None for cell in line.children] for line in lines]
        rights = ["right" in str(cell.attrs.get("style", "")) for cell in lines[0].children]
        count = len(rights)
        size = 7.6 if count <= 5 else 6.6 if count <= 8 else 5.6
        looks = {
            (bold, right): style(size, bold=bold, **({"alignment": TA_RIGHT} if right else {}))
            for bold in (False, True)
            for right in (False, True)
        }
        rows = [
            [self._cell(cell, looks[number == 0, right]) for cell, right in zip(row, rights, strict=True)]
            for number, row in enumerate(cells)
        ]
        widths = _widths([[_words(cell) if cell is not None else "" for cell in row] for row in cells], size)
        table = Table(rows, colWidths=widths, repeatRows=1, hAlign="LEFT", splitInRow=1)
        table.setStyle(
            [
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ("LINEBELOW", (0, 0), (-1, -1), 0.4, RULE),
                ("LINEBELOW", (0, 0), (-1, 0), 1, MUTED),
                ("ROWBACKGROUNDS", (0, 1), (-1, -1), [colors.white, ZEBRA]),
                ("LEFTPADDING", (0, 0), (-1, -1), 2.5),
                ("RIGHTPADDING", (0, 0), (-1, -1), 2.5),
                ("TOPPADDING", (0, 0), (-1, -1), 1.5),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
            ]
        )
        return [Spacer(1, 2), table, Spacer(1, 8)]

    def _cell(self, node: SyntaxTreeNode | None, look: ParagraphStyle) -> list[Flowable]:
        """Return a cell; its anchors stand before its text, which could not break at long names otherwise."""
        if node is None:
            return []
        names = [name for child in node.children if child.type == "text" for name in marks(child.content)[1]]
        places: list[Flowable] = [_Place(anchor(self._page.file, name)) for name in names]
        return [*places, Paragraph("".join(self._span(child, places=False) for child in node.children), look)]

    def _inline(self, node: SyntaxTreeNode) -> str:
        """Return inline Markdown in reportlab's own marks."""
        return "".join(self._span(child) for child in node.children)

    def _span(self, node: SyntaxTreeNode, places: bool = True) -> str:
        if node.type == "text":
            plain, names = marks(node.content)
            start = "".join(f'<a name="{anchor(self._page.file, name)}"/>' for name in names) if places else ""
            return start + escape(plain, quote=False)
        if node.type == "code_inline":
            return f'<font face="{MONO}" size="-0.6">{escape(node.content, quote=False)}</font>'
        if node.type in ("softbreak", "hardbreak"):
            return " " if node.type == "softbreak" else "<br/>"
        inside = self._inline(node)
        if node.type == "strong":
            return f"<b>{inside}</b>"
        if node.type == "em":
            # The fonts at hand have no italic; emphasis is muted text, as captions and sources are.
            return f'<font color="#5a6570">{inside}</font>'
        if node.type == "link":
            leads = target(self._page.file, str(node.attrs["href"]), self._known)
            if leads.kind == "file":
                return inside
            address = leads.address if leads.kind == "outside" else f"#{leads.address}"
            return f'<a href="{escape(address)}" color="{_ACCENT}">{inside}</a>'
        if node.type == "image":
            return ""
        raise ValueError(f"{self._page.file}: inline Markdown {node.type!r} is not one that the PDF knows")


def _words(node: SyntaxTreeNode) -> str:
    """Return the text of inline Markdown without its marks."""
    if node.type in ("text", "code_inline"):
        return marks(node.content)[0]
    return " " if node.type in ("softbreak", "hardbreak") else "".join(_words(child) for child in node.children)


def _widths(rows: list[list[str]], size: float) -> list[float]:
    """Return column widths in points: what the longest word needs first, the rest by how much each column says."""
    columns = list(zip(*rows, strict=True))

    def across(text: str) -> float:
        # As bold, the widest: the header is, and a code's letters are about as wide.
        return float(pdfmetrics.stringWidth(text, BOLD, size)) + 7

    # A path may break; a word of a sentence or a header should not.
    words = [[word for cell in column for word in cell.split() if len(word) <= 22] for column in columns]
    least = [max(36.0, across(max(found, key=len, default=""))) for found in words]
    wanted = [min(260.0, max(across(cell) for cell in column)) for column in columns]
    if sum(wanted) <= _WIDTH:
        return wanted
    room = _WIDTH - sum(least)
    if room <= 0:
        return [_WIDTH * width / sum(least) for width in least]
    extra = [max(0.0, want - low) for want, low in zip(wanted, least, strict=True)]
    total = sum(extra) or 1.0
    return [low + room * more / total for low, more in zip(least, extra, strict=True)]
