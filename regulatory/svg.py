"""The drawings' SVG inside other documents: with names of their own in HTML, as curves in PDF.

What is read is what matplotlib and `mermaid` write: paths, groups, uses, rectangles, lines, polygons, text, pictures.
"""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

from reportlab.lib.colors import HexColor, toColor
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics

_HEAD = re.compile(r"^\s*(?:<\?xml[^>]*\?>|<!DOCTYPE[^>]*>|<!--.*?-->|\s)*", re.DOTALL)
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_STYLE = re.compile(r"<style[^>]*>.*?</style>", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?")
_HREF = "{http://www.w3.org/1999/xlink}href"


def inline(svg: str, name: str) -> str:
    """Return an SVG file's element for an HTML page, its ids made the drawing's own by `name`."""
    inside = _METADATA.sub("", _HEAD.sub("", svg)).strip()
    inside = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', inside)
    inside = re.sub(r'(href="#|url\(#)', rf"\1{name}-", inside)
    # A style sheet inside one drawing would count for the whole page.
    return _STYLE.sub("", inside)


def size(svg: str) -> tuple[float, float]:
    """Return width and height of a drawing, in its own units."""
    box = ElementTree.fromstring(svg).get("viewBox", "0 0 100 100").split()
    return float(box[2]), float(box[3])


def cuts(svg: str, most: float) -> list[tuple[float, float]]:
    """Return (top, bottom) of parts no taller than `most`, in the drawing's units, cut between boxes if possible."""
    tall = size(svg)[1]
    boxes = sorted(_extents(ElementTree.fromstring(svg)))
    parts, top = [], 0.0
    while tall - top > most:
        # From below: the lowest place between boxes gives the largest part.
        free = [y for y in (end + 4 for _, end in boxes) if top < y <= top + most]
        free = [y for y in free if all(not start - 2 < y < end + 2 for start, end in boxes)]
        bottom = max(free, default=top + most)
        parts.append((top, bottom))
        top = bottom
    return [*parts, (top, tall)]


def _extents(root: ElementTree.Element) -> list[tuple[float, float]]:
    """Return top and bottom of each box; frames around several, which are dashed, may be cut."""
    found = []
    for element in root.iter():
        kind = element.tag.rpartition("}")[2]
        if kind == "rect" and not element.get("stroke-dasharray"):
            top = float(element.get("y", "0"))
            found.append((top, top + float(element.get("height", "0"))))
        elif kind == "polygon":
            down = [float(value) for value in _NUMBER.findall(element.get("points", ""))][1::2]
            found.append((min(down), max(down)))
    return found


def draw(svg: str, canvas: Any, width: float, fonts: tuple[str, str]) -> None:
    """Draw on a PDF canvas, the lower left corner at its origin, `width` points wide; `fonts` are regular and bold."""
    root = ElementTree.fromstring(_STYLE.sub("", svg))
    own = size(svg)
    canvas.saveState()
    canvas.scale(width / own[0], width / own[0])
    canvas.translate(0, own[1])
    canvas.scale(1, -1)
    known = {element.get("id", ""): element for element in root.iter()}
    _Painter(canvas, known, fonts).children(root, {"fill": "#000000", "stroke": "none", "stroke-width": "1"})
    canvas.restoreState()


class _Painter:
    def __init__(self, canvas: Any, known: dict[str, ElementTree.Element], fonts: tuple[str, str]) -> None:
        self._canvas, self._known, self._fonts = canvas, known, fonts
        self._painters: dict[str, Callable[[ElementTree.Element, dict[str, str]], None]] = {
            "g": self.children,
            "a": self.children,
            "path": self._path,
            "use": self._use,
            "rect": self._rect,
            "line": self._line,
            "polygon": self._polygon,
            "text": self._text,
            "image": self._image,
        }

    def children(self, element: ElementTree.Element, above: dict[str, str]) -> None:
        for child in element:
            self._one(child, above)

    def _one(self, element: ElementTree.Element, above: dict[str, str]) -> None:
        painter = self._painters.get(element.tag.rpartition("}")[2])
        if painter is None:
            return
        look = {**above, **_look(element)}
        self._canvas.saveState()
        self._transform(element.get("transform", ""))
        self._clip(look.pop("clip-path", ""))
        painter(element, look)
        self._canvas.restoreState()

    def _transform(self, text: str) -> None:
        for name, inside in re.findall(r"(\w+)\(([^)]*)\)", text):
            values = [float(value) for value in _NUMBER.findall(inside)]
            if name == "translate":
                self._canvas.translate(values[0], values[1] if len(values) > 1 else 0)
            elif name == "scale":
                self._canvas.scale(values[0], values[-1])
            elif name == "rotate":
                x, y = values[1:3] if len(values) == 3 else (0.0, 0.0)
                self._canvas.translate(x, y)
                self._canvas.rotate(values[0])
                self._canvas.translate(-x, -y)
            elif name == "matrix":
                self._canvas.transform(*values)

    def _clip(self, reference: str) -> None:
        found = re.match(r"url\(#([^)]+)\)", reference)
        frame = self._known.get(found[1]) if found else None
        if frame is None:
            return
        path = self._canvas.beginPath()
        for shape in frame:
            if shape.tag.endswith("rect"):
                path.rect(*(float(shape.get(key, "0")) for key in ("x", "y", "width", "height")))
            elif shape.tag.endswith("path"):
                _trace(path, shape.get("d", ""))
        self._canvas.clipPath(path, stroke=0, fill=0)

    def _pen(self, look: dict[str, str]) -> tuple[int, int]:
        """Set colours and lines; return whether to stroke and to fill."""
        canvas = self._canvas
        faint = float(look.get("opacity", "1"))
        stroked, filled = look.get("stroke", "none") != "none", look.get("fill", "#000000") != "none"
        if stroked:
            canvas.setStrokeColor(_color(look["stroke"]), faint * float(look.get("stroke-opacity", "1")))
            canvas.setLineWidth(_length(look.get("stroke-width", "1")))
            canvas.setLineCap({"butt": 0, "round": 1, "square": 2}.get(look.get("stroke-linecap", "butt"), 0))
            canvas.setLineJoin({"miter": 0, "round": 1, "bevel": 2}.get(look.get("stroke-linejoin", "round"), 1))
            dashes = [float(value) for value in _NUMBER.findall(look.get("stroke-dasharray", "none"))]
            canvas.setDash(dashes, float(look.get("stroke-dashoffset", "0"))) if dashes else canvas.setDash()
        if filled:
            canvas.setFillColor(_color(look.get("fill", "#000000")), faint * float(look.get("fill-opacity", "1")))
        return int(stroked), int(filled)

    def _path(self, element: ElementTree.Element, look: dict[str, str]) -> None:
        path = self._canvas.beginPath()
        _trace(path, element.get("d", ""))
        stroke, fill = self._pen(look)
        if stroke or fill:
            self._canvas.drawPath(path, stroke=stroke, fill=fill)

    def _use(self, element: ElementTree.Element, look: dict[str, str]) -> None:
        address = element.get(_HREF) or element.get("href") or ""
        shape = self._known.get(address.removeprefix("#"))
        if shape is not None:
            self._canvas.translate(float(element.get("x", "0")), float(element.get("y", "0")))
            self._one(shape, look)

    def _rect(self, element: ElementTree.Element, look: dict[str, str]) -> None:
        stroke, fill = self._pen(look)
        x, y, width, height = (float(element.get(key, "0")) for key in ("x", "y", "width", "height"))
        round_off = float(element.get("rx", "0"))
        if round_off:
            self._canvas.roundRect(x, y, width, height, min(round_off, width / 2, height / 2), stroke=stroke, fill=fill)
        else:
            self._canvas.rect(x, y, width, height, stroke=stroke, fill=fill)

    def _line(self, element: ElementTree.Element, look: dict[str, str]) -> None:
        self._pen({**look, "fill": "none"})
        self._canvas.line(*(float(element.get(key, "0")) for key in ("x1", "y1", "x2", "y2")))

    def _polygon(self, element: ElementTree.Element, look: dict[str, str]) -> None:
        values = [float(value) for value in _NUMBER.findall(element.get("points", ""))]
        path = self._canvas.beginPath()
        path.moveTo(*values[:2])
        for place in range(2, len(values) - 1, 2):
            path.lineTo(values[place], values[place + 1])
        path.close()
        stroke, fill = self._pen(look)
        self._canvas.drawPath(path, stroke=stroke, fill=fill)

    def _text(self, element: ElementTree.Element, look: dict[str, str]) -> None:
        text = "".join(element.itertext()).strip()
        font, points = _font(look, self._fonts)
        canvas = self._canvas
        canvas.setFillColor(_color(look.get("fill", "#000000")), float(look.get("opacity", "1")))
        canvas.translate(float(element.get("x", "0")), float(element.get("y", "0")))
        # The page stands on its head here, as SVG counts downwards; letters must not.
        canvas.scale(1, -1)
        canvas.setFont(font, points)
        across = pdfmetrics.stringWidth(text, font, points)
        start = {"middle": -across / 2, "end": -across}.get(look.get("text-anchor", "start"), 0)
        canvas.drawString(start, 0, text)

    def _image(self, element: ElementTree.Element, look: dict[str, str]) -> None:
        address = element.get(_HREF) or element.get("href") or ""
        if not address.startswith("data:image/png;base64,"):
            return
        x, y, width, height = (_length(element.get(key, "0")) for key in ("x", "y", "width", "height"))
        picture = ImageReader(io.BytesIO(base64.b64decode(address.partition(",")[2])))
        self._canvas.translate(x, y + height)
        self._canvas.scale(1, -1)
        self._canvas.drawImage(picture, 0, 0, width, height, mask="auto")


def _look(element: ElementTree.Element) -> dict[str, str]:
    """Return an element's own attributes of style; those of `style` count more."""
    found = {name: value for name, value in element.attrib.items() if "}" not in name}
    for part in element.get("style", "").split(";"):
        name, mark, value = part.partition(":")
        if mark:
            found[name.strip()] = value.strip()
    for name in ("style", "id", "d", "x", "y", "width", "height", "transform", "points"):
        found.pop(name, None)
    return found


def _font(look: dict[str, str], fonts: tuple[str, str]) -> tuple[str, float]:
    """Return font and size; `font` is the short form that matplotlib writes, "bold 12px 'DejaVu Sans'"."""
    short = look.get("font", "")
    found = re.search(r"([\d.]+)px", short) or re.search(r"([\d.]+)", look.get("font-size", "10"))
    heavy = "bold" in short or re.search(r"\b[6-9]00\b", short) or look.get("font-weight") in ("bold", "600", "700")
    return fonts[1] if heavy else fonts[0], float(found[1]) if found else 10.0


def _length(text: str) -> float:
    found = _NUMBER.match(text)
    return float(found[0]) if found else 0.0


def _color(text: str) -> Any:
    return HexColor(text) if text.startswith("#") and len(text) == 7 else toColor(text, HexColor("#000000"))


def _trace(path: Any, data: str) -> None:
    """Add the commands of an SVG path; quadratic curves become cubic ones."""
    steps = re.findall(r"([MmLlHhVvCcQqZz])([^MmLlHhVvCcQqZz]*)", data)
    x = y = 0.0
    for command, inside in steps:
        values = [float(value) for value in _NUMBER.findall(inside)]
        if command in "Zz":
            path.close()
            continue
        width = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "Q": 4}[command.upper()]
        for place in range(0, len(values) - width + 1, width):
            step = values[place : place + width]
            if command.islower():
                offset = [x] if command == "h" else [y] if command == "v" else [x, y] * 3
                step = [value + offset[number] for number, value in enumerate(step)]
            kind = command.upper()
            if kind == "M" and place == 0:
                path.moveTo(*step)
            elif kind in "ML":
                path.lineTo(*step)
            elif kind == "H":
                step = [step[0], y]
                path.lineTo(*step)
            elif kind == "V":
                step = [x, step[0]]
                path.lineTo(*step)
            elif kind == "C":
                path.curveTo(*step)
            else:
                (a, b), (c, d) = step[:2], step[2:]
                path.curveTo(x + 2 / 3 * (a - x), y + 2 / 3 * (b - y), c + 2 / 3 * (a - c), d + 2 / 3 * (b - d), c, d)
            x, y = step[-2:]
