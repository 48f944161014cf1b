"""Draws the flowcharts of the regulatory file as SVG: Mermaid's text is what pages hold, print needs lines.

The part of Mermaid's grammar that generated flowcharts use: `flowchart TD` or `LR`, nodes in the usual brackets, edges
with or without a label, chains, `&`, one level of `subgraph`. Layout in layers after Sugiyama, Tagawa & Toda 1981.
"""

import re
from dataclasses import dataclass, field, replace
from itertools import pairwise

from regulatory.layered import Box, Link, place

SIZE = 12.0
LEADING = 15.0
_PAD = 9.0
_WRAP = 30
_OPEN = {"([": "])", "[(": ")]", "[[": "]]", "((": "))", "{{": "}}", "[": "]", "(": ")", "{": "}", ">": "]"}
_NODE = re.compile(r"\s*([A-Za-z0-9_.-]*[A-Za-z0-9_])")
_EDGE = re.compile(
    r"""\s*(?P<both><?)--\s+(?P<words>"[^"]*"|[^-|"]+?)\s+-->?"""
    r"""|\s*-\.\s+(?P<dotted>"[^"]*"|[^-|"]+?)\s+\.->"""
    r"""|\s*(?P<arrow><?(?:-\.+->?|-{2,}>?|={2,}>?))(?:\|(?P<label>[^|]*)\|)?"""
)
_SKIPPED = ("classDef", "class ", "style ", "linkStyle", "direction", "click", "%%", "title", "accTitle", "accDescr")


class UnreadableFlowchart(ValueError):
    """The text is no flowchart of the grammar above; the line is named."""


@dataclass
class Node:
    """A node as written: its lines, the bracket it opened with, the subgraph it stands in."""

    name: str
    lines: list[str]
    shape: str = "["
    group: str = ""


@dataclass
class Edge:
    start: str
    end: str
    label: str = ""
    dashed: bool = False
    arrow: bool = True
    both: bool = False


@dataclass
class Chart:
    """A flowchart as read; `groups` are titles of subgraphs by name."""

    down: bool = True
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    groups: dict[str, str] = field(default_factory=dict)


def flowchart(source: str) -> str:
    """Return a flowchart as SVG, in black and grey on white.

    Raises
    ------
    UnreadableFlowchart
        A line that this module does not read.
    """
    return _svg(read(source))


def read(source: str) -> Chart:
    """Return a flowchart as values.

    Raises
    ------
    UnreadableFlowchart
        A line that this module does not read.
    """
    lines = [line.strip().rstrip(";") for line in source.splitlines()]
    lines = [line for line in lines if line and not line.startswith("%%")]
    head = re.fullmatch(r"(?:flowchart|graph)\s+(TD|TB|LR)", lines[0]) if lines else None
    if head is None:
        raise UnreadableFlowchart(f"{lines[0] if lines else 'nothing'!r} does not begin a flowchart TD, TB or LR")
    chart = Chart(down=head[1] != "LR")
    inside: list[str] = []
    for line in lines[1:]:
        if line.startswith("subgraph"):
            name, title = _group(line)
            inside.append(name)
            chart.groups[name] = title
        elif line == "end" and inside:
            inside.pop()
        elif not line.startswith(_SKIPPED):
            _line(line, chart, inside[0] if inside else "")
    return chart


def _group(line: str) -> tuple[str, str]:
    found = re.fullmatch(r"subgraph\s+([\w.-]+)\s*(?:\[(.*)\])?", line)
    if found:
        return found[1], _words(found[2] or found[1])
    title = _words(line.removeprefix("subgraph").strip())
    return title, title


def _line(line: str, chart: Chart, group: str) -> None:
    rest = line
    before: list[str] = []
    edge: Edge | None = None
    while True:
        names, rest = _nodes(rest, line, chart, group)
        if edge is not None:
            chart.edges += [replace(edge, start=start, end=end) for start in before for end in names]
        if not rest.strip():
            return
        found = _EDGE.match(rest)
        if found is None:
            raise UnreadableFlowchart(f"expected an edge at {rest.strip()!r} in {line!r}")
        label = found["label"] or found["words"] or found["dotted"] or ""
        arrow = found["arrow"] or "-->"
        dashed, both = "." in arrow or bool(found["dotted"]), arrow.startswith("<") or found["both"] == "<"
        edge = Edge("", "", _words(label), dashed, arrow.endswith(">"), both)
        before, rest = names, rest[found.end() :]


def _nodes(rest: str, line: str, chart: Chart, group: str) -> tuple[list[str], str]:
    """Read `A["x"] & B` and return the names and what follows."""
    names = []
    while True:
        found = _NODE.match(rest)
        if found is None:
            raise UnreadableFlowchart(f"expected a node at {rest.strip()!r} in {line!r}")
        rest = rest[found.end() :]
        opened = next((mark for mark in _OPEN if rest.startswith(mark)), "")
        node = chart.nodes.setdefault(found[1], Node(found[1], [found[1]], group=group))
        if opened:
            text, rest = _bracketed(rest, opened, line)
            node.lines, node.shape = _wrapped(text), opened
            node.group = node.group or group
        rest = re.sub(r"^:::\w+", "", rest)
        names.append(found[1])
        if not rest.strip().startswith("&"):
            return names, rest
        rest = rest.strip()[1:]


def _bracketed(rest: str, opened: str, line: str) -> tuple[str, str]:
    closed = _OPEN[opened]
    inside = rest[len(opened) :]
    if inside.startswith('"'):
        end = inside.find('"', 1)
        if end > 0 and inside[end + 1 :].startswith(closed):
            return inside[1:end], inside[end + 1 + len(closed) :]
    elif closed in inside:
        end = inside.index(closed)
        return inside[:end], inside[end + len(closed) :]
    raise UnreadableFlowchart(f"{opened!r} is not closed by {closed!r} in {line!r}")


def _words(text: str) -> str:
    return text.strip().strip('"').replace("#quot;", '"').replace("&amp;", "&")


def _wrapped(text: str) -> list[str]:
    lines = []
    for part in re.split(r"<br ?/?>|\\n|\n", _words(text)):
        line = ""
        for word in part.split():
            if line and len(line) + 1 + len(word) > _WRAP:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}".strip()
        lines.append(line)
    return lines


def _width(text: str, size: float = SIZE) -> float:
    """Return a text's width, a little more than any sans serif font takes."""
    narrow = sum(letter in "iljtfrI.,:;'|()[] " for letter in text)
    wide = sum(letter in "mwMW@%—" for letter in text)
    return size * (0.62 * (len(text) - narrow - wide) + 0.38 * narrow + 0.95 * wide)


def _svg(chart: Chart) -> str:
    boxes = {}
    for node in chart.nodes.values():
        width = max(_width(line) for line in node.lines) + 2 * _PAD
        height = LEADING * len(node.lines) + 2 * _PAD
        if node.shape == "{":
            width, height = 1.5 * width, 1.9 * height
        boxes[node.name] = Box(width, height, node.group)
    links = [Link(edge.start, edge.end, _width(edge.label, 10) if edge.label else 0) for edge in chart.edges]
    plan = place(boxes, links, chart.down)
    parts = []
    for name, (x, y, width, height) in plan.groups.items():
        parts.append(_rect(x, y, width, height, 'fill="#f5f7f8" stroke="#8a949d" stroke-dasharray="4 3"', 4))
        parts.append(
            _text(x + 8, y + 14, chart.groups.get(name, name), 'font-weight="bold" fill="#55606b"', "start", 11)
        )
    labels = []
    for edge, points in zip(chart.edges, plan.routes, strict=True):
        parts.append(_curve(points, chart.down, edge.dashed))
        if edge.arrow:
            parts.append(_head(points, chart.down))
        if edge.both:
            parts.append(_head(points[::-1], chart.down))
        if edge.label:
            x, y = _middle(points)
            width = _width(edge.label, 10) + 6
            labels.append(_rect(x - width / 2, y - 8, width, 15, 'fill="#ffffff"'))
            labels.append(_text(x, y + 3.5, edge.label, 'fill="#1f2933"', size=10))
    for name, (x, y) in plan.centres.items():
        parts.append(_shape(chart.nodes[name], x, y, boxes[name]))
    parts += labels
    width, height = plan.size
    titles = [x + 16 + _width(chart.groups.get(name, name), 11) for name, (x, *_) in plan.groups.items()]
    width = max([width, *titles])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="DejaVu Sans, sans-serif">\n'
        + "\n".join(parts)
        + "\n</svg>"
    )


def _shape(node: Node, x: float, y: float, box: Box) -> str:
    half, tall = box.width / 2, box.height / 2
    look = 'fill="#ffffff" stroke="#1f2933" stroke-width="1.2"'
    if node.shape == "{":
        corners = f"{x - half:.1f},{y:.1f} {x:.1f},{y - tall:.1f} {x + half:.1f},{y:.1f} {x:.1f},{y + tall:.1f}"
        drawn = f'<polygon points="{corners}" {look}/>'
    else:
        radius = tall if node.shape in ("([", "((") else 5 if "(" in node.shape else 0
        drawn = _rect(x - half, y - tall, box.width, box.height, look, radius)
    if node.shape == "[(":
        lid = y - tall + 5
        drawn += f'<line x1="{x - half:.1f}" y1="{lid:.1f}" x2="{x + half:.1f}" y2="{lid:.1f}" stroke="#1f2933"/>'
    top = y - LEADING * (len(node.lines) - 1) / 2 + 4
    return drawn + "".join(_text(x, top + LEADING * row, line, 'fill="#1f2933"') for row, line in enumerate(node.lines))


def _rect(x: float, y: float, width: float, height: float, look: str, radius: float = 0) -> str:
    round_off = f' rx="{radius:.1f}"' if radius else ""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"{round_off} {look}/>'


def _text(x: float, y: float, text: str, look: str, anchor: str = "middle", size: float = SIZE) -> str:
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}" {look}>{plain}</text>'


def _curve(points: list[tuple[float, float]], down: bool, dashed: bool) -> str:
    path = f"M {points[0][0]:.1f} {points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in pairwise(points):
        bend = ((x0, (y0 + y1) / 2), (x1, (y0 + y1) / 2)) if down else (((x0 + x1) / 2, y0), ((x0 + x1) / 2, y1))
        path += f" C {bend[0][0]:.1f} {bend[0][1]:.1f} {bend[1][0]:.1f} {bend[1][1]:.1f} {x1:.1f} {y1:.1f}"
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="{path}" fill="none" stroke="#1f2933" stroke-width="1.1"{dash}/>'


def _head(points: list[tuple[float, float]], down: bool) -> str:
    (x0, y0), (x, y) = points[-2], points[-1]
    back = -7.0 if (y >= y0 if down else x >= x0) else 7.0
    wings = [(x - 4, y + back), (x + 4, y + back)] if down else [(x + back, y - 4), (x + back, y + 4)]
    corners = " ".join(f"{a:.1f},{b:.1f}" for a, b in [(x, y), *wings])
    return f'<polygon points="{corners}" fill="#1f2933"/>'


def _middle(points: list[tuple[float, float]]) -> tuple[float, float]:
    place = (len(points) - 1) // 2
    (x0, y0), (x1, y1) = points[place], points[place + 1]
    return (x0 + x1) / 2, (y0 + y1) / 2
