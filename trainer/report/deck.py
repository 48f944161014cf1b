"""The drawing board of the slides: 16:9 pages with a title, the banner, text, dots and bars. Sizes in points."""

import io
from collections.abc import Sequence
from html import escape
from typing import Any

from reportlab.lib import colors
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Paragraph as PdfParagraph

from trainer.report.pdf import BOLD, FONT, INK, MUTED, RULE, WARN, WARN_INK, style, use_fonts
from trainer.report.words import BANNER

WIDTH, HEIGHT, EDGE = 960.0, 540.0, 56.0
ACCENT, FLAG, PALE = colors.HexColor("#0072B2"), colors.HexColor("#D55E00"), colors.HexColor("#EEF2F5")
_STRIP = 34.0


class Deck:
    """Slides as they are drawn; `pdf` ends them. `y` counts from the top, as a reader does."""

    def __init__(self, title: str) -> None:
        use_fonts()
        self._stream = io.BytesIO()
        self._canvas = Canvas(self._stream, pagesize=(WIDTH, HEIGHT), invariant=1)
        self._canvas.setTitle(title)
        self._canvas.setSubject(BANNER)
        self._canvas.setAuthor("cxr-train")
        self.count = 0

    def slide(self, title: str) -> float:
        """Begin a slide; return the y below its title."""
        self._end()
        self.count += 1
        canvas = self._canvas
        canvas.setFillColor(WARN)
        canvas.rect(0, 0, WIDTH, _STRIP, stroke=0, fill=1)
        canvas.setFillColor(WARN_INK)
        canvas.setFont(BOLD, 13)
        canvas.drawCentredString(WIDTH / 2, 12, BANNER)
        canvas.setFont(FONT, 11)
        canvas.drawRightString(WIDTH - 20, 12, str(self.count))
        canvas.setFillColor(ACCENT)
        canvas.rect(0, HEIGHT - 8, WIDTH, 8, stroke=0, fill=1)
        return self.text(title, EDGE, 34, WIDTH - 2 * EDGE, 30, bold=True) + 20

    def text(
        self, words: str, x: float, y: float, width: float, size: float, *, bold: bool = False, color: Any = INK
    ) -> float:
        """Write words that wrap; return the y below them."""
        # A number and its percent sign stay on one line.
        paragraph = PdfParagraph(escape(words.replace(" %", "\u00a0%")), style(size, bold=bold, color=color))
        _, height = paragraph.wrap(width, HEIGHT)
        paragraph.drawOn(self._canvas, x, HEIGHT - y - height)
        return y + height

    def height(self, words: str, width: float, size: float, *, bold: bool = False) -> float:
        """Return how tall words stand when they wrap."""
        return float(PdfParagraph(escape(words), style(size, bold=bold)).wrap(width, HEIGHT)[1])

    def bullets(self, lines: Sequence[str], y: float, size: float = 22, x: float = EDGE, width: float = 0) -> float:
        """Write lines with a mark each; return the y below them. Many lines are set smaller, so that all fit."""
        width = width or WIDTH - EDGE - x
        while size > 12 and self._tall(lines, width, size) > HEIGHT - _STRIP - 14 - y:
            size -= 0.5
        for line in lines:
            self._canvas.setFillColor(ACCENT)
            self._canvas.circle(x + 4, HEIGHT - y - 0.72 * size, 4, stroke=0, fill=1)
            y = self.text(line, x + 24, y, width - 24, size) + 0.62 * size
        return y

    def dots(self, flagged: int, x: float, y: float, side: float, color: Any) -> None:
        """Draw 100 dots, ten by ten, so many of them filled."""
        step = side / 10
        for index in range(100):
            row, column = divmod(index, 10)
            center = (x + (column + 0.5) * step, HEIGHT - y - (row + 0.5) * step)
            self._canvas.setFillColor(color if index < flagged else PALE)
            self._canvas.setStrokeColor(color if index < flagged else RULE)
            self._canvas.circle(*center, 0.36 * step, stroke=1, fill=1)

    def bars(self, rows: Sequence[tuple[str, float, str, Any]], y: float, *, start: float, end: float) -> float:
        """Draw (name, value, text, colour) as bars from `start` to `end`; return the y below them."""
        left, right = 330.0, WIDTH - EDGE - 130
        step = min(42.0, (HEIGHT - _STRIP - 60 - y) / max(1, len(rows)))
        for name, value, words, color in rows:
            middle = HEIGHT - y - step / 2
            self._canvas.setFillColor(PALE)
            self._canvas.rect(left, middle - 0.3 * step, right - left, 0.6 * step, stroke=0, fill=1)
            self._canvas.setFillColor(color)
            share = max(0.0, min(1.0, (value - start) / (end - start)))
            self._canvas.rect(left, middle - 0.3 * step, share * (right - left), 0.6 * step, stroke=0, fill=1)
            self._canvas.setFillColor(INK)
            self._canvas.setFont(FONT, 15)
            self._canvas.drawRightString(left - 14, middle - 5, name if len(name) <= 28 else f"{name[:27]}…")
            self._canvas.setFont(BOLD, 15)
            self._canvas.drawString(right + 12, middle - 5, words)
            y += step
        return y

    def figure(self, number: str, words: str, x: float, y: float, width: float, color: Any = ACCENT) -> float:
        """Write a number large with a line of words under it; return the y below."""
        below = self.text(number, x, y, width, 38, bold=True, color=color)
        return self.text(words, x, below + 4, width, 16, color=MUTED)

    def pdf(self) -> bytes:
        """End the last slide and return the file."""
        self._end()
        self._canvas.save()
        return self._stream.getvalue()

    def _tall(self, lines: Sequence[str], width: float, size: float) -> float:
        return sum(self.height(line, width - 24, size) + 0.62 * size for line in lines)

    def _end(self) -> None:
        if self.count:
            self._canvas.showPage()
