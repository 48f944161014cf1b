"""Places boxes in layers so that most links point one way: Sugiyama, Tagawa & Toda 1981, with a lane for each group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

_BETWEEN_LAYERS = 46.0
_BETWEEN_BOXES = 22.0
_MARGIN = 10.0
_GROUP_TOP = 24.0
_SWEEPS = 8

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """What is to be placed: width and height as drawn, and the group it belongs to ("" for none)."""

    width: float
    height: float
    group: str = ""


@dataclass(frozen=True)
class Link:
    """From box to box; `label` is the width of its label."""

    start: str
    end: str
    label: float = 0


@dataclass
class Plan:
    """Centres of boxes, points of each link in the order given, (x, y, width, height) of each group, the whole size."""

    centres: dict[str, Point] = field(default_factory=dict)
    routes: list[list[Point]] = field(default_factory=list)
    groups: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)
    size: Point = (0, 0)


def place(boxes: Mapping[str, Box], links: Sequence[Link], down: bool = True) -> Plan:
    """Return where everything stands; links run down the page, or to the right.

    The work is done as if down: to the right is the same with the axes exchanged.
    """
    upright = {name: box if down else Box(box.height, box.width, box.group) for name, box in boxes.items()}
    layers = _layers(upright, links)
    chains = _chains(upright, links, layers)
    rows = _rows(upright, layers, chains)
    across = _across(upright, rows)
    along, thick = _along(upright, rows, links, layers, down)
    plan = Plan()
    for name in boxes:
        plan.centres[name] = (across[name], along[layers[name]])
    for link, chain in zip(links, chains, strict=True):
        plan.routes.append(_route(chain, upright, across, along, layers, thick, link))
    if not down:
        plan = _turned(plan)
    _surround(plan, boxes)
    return plan


def _layers(boxes: Mapping[str, Box], links: Sequence[Link]) -> dict[str, int]:
    """Return each box's layer: the longest way from a start, links that close a circle left out."""
    after: dict[str, list[str]] = {name: [] for name in boxes}
    for link in links:
        if link.start != link.end:
            after[link.start].append(link.end)
    state: dict[str, int] = {}
    kept: dict[str, list[str]] = {name: [] for name in boxes}
    order: list[str] = []

    def visit(name: str) -> None:
        state[name] = 1
        for other in after[name]:
            if state.get(other) != 1:
                kept[name].append(other)
                if other not in state:
                    visit(other)
        state[name] = 2
        order.append(name)

    for name in boxes:
        if name not in state:
            visit(name)
    layers = dict.fromkeys(boxes, 0)
    for name in reversed(order):
        for other in kept[name]:
            layers[other] = max(layers[other], layers[name] + 1)
    return layers


def _chains(boxes: Mapping[str, Box], links: Sequence[Link], layers: dict[str, int]) -> list[list[str]]:
    """Return each link as names from layer to layer; between far layers stand names that no box has."""
    chains = []
    for number, link in enumerate(links):
        low, high = sorted((layers[link.start], layers[link.end]))
        between = [f"\0{number}.{layer}" for layer in range(low + 1, high)]
        for layer, name in zip(range(low + 1, high), between, strict=True):
            layers[name] = layer
        if layers[link.start] > layers[link.end]:
            between.reverse()
        chains.append([link.start, *between, link.end])
    return chains


def _rows(boxes: Mapping[str, Box], layers: Mapping[str, int], chains: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the names of each layer, ordered so that links cross less: each near the mean of its neighbours."""
    rows: list[list[str]] = [[] for _ in range(max(layers.values(), default=0) + 1)]
    for name, layer in layers.items():
        rows[layer].append(name)
    beside: dict[str, list[str]] = {name: [] for name in layers}
    for chain in chains:
        for one, other in pairwise(chain):
            beside[one].append(other)
            beside[other].append(one)
    for sweep in range(_SWEEPS):
        numbers = range(1, len(rows)) if sweep % 2 == 0 else range(len(rows) - 2, -1, -1)
        for number in numbers:
            near = rows[number - 1 if sweep % 2 == 0 else number + 1]
            where = {name: place / max(1, len(near) - 1) for place, name in enumerate(near)}
            old = {name: place / max(1, len(rows[number]) - 1) for place, name in enumerate(rows[number])}

            def mean(name: str, where: dict[str, float] = where, old: dict[str, float] = old) -> float:
                found = [where[other] for other in beside[name] if other in where]
                return sum(found) / len(found) if found else old[name]

            rows[number].sort(key=mean)
    return rows


def _across(boxes: Mapping[str, Box], rows: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the middle of each name across the page: a lane for each group, each layer centred in its lane."""

    def lane_of(name: str) -> str:
        return boxes[name].group if name in boxes else "\0"

    def width(name: str) -> float:
        return boxes[name].width if name in boxes else 4.0

    lanes: dict[str, float] = {}
    places: dict[str, list[float]] = {}
    for row in rows:
        for lane in dict.fromkeys(lane_of(name) for name in row):
            names = [name for name in row if lane_of(name) == lane]
            needed = sum(width(name) for name in names) + _BETWEEN_BOXES * (len(names) - 1)
            lanes[lane] = max(lanes.get(lane, 0), needed)
            places.setdefault(lane, []).extend(row.index(name) / len(row) for name in names)
    across: dict[str, float] = {}
    # Across is down the page for a chart that runs to the right: the first group's title needs its room.
    left = _MARGIN + (_GROUP_TOP if any(box.group for box in boxes.values()) else 0)
    # Links that pass layers have the lane of the boxes without a group, where there are any.
    merged = {lane: "" if lane == "\0" and "" in lanes else lane for lane in lanes}
    for lane in sorted(set(merged.values()), key=lambda lane: (sum(places[lane]) / len(places[lane]), lane)):
        members = [name for name, target in merged.items() if target == lane]
        wide = 0.0
        for row in rows:
            names = [name for name in row if lane_of(name) in members]
            wide = max(wide, sum(width(name) for name in names) + _BETWEEN_BOXES * max(0, len(names) - 1))
        for row in rows:
            names = [name for name in row if lane_of(name) in members]
            needed = sum(width(name) for name in names) + _BETWEEN_BOXES * max(0, len(names) - 1)
            start = left + (wide - needed) / 2
            for name in names:
                across[name] = start + width(name) / 2
                start += width(name) + _BETWEEN_BOXES
        left += wide + 2 * _BETWEEN_BOXES
    return across


def _along(
    boxes: Mapping[str, Box],
    rows: Sequence[Sequence[str]],
    links: Sequence[Link],
    layers: Mapping[str, int],
    down: bool,
) -> tuple[list[float], list[float]]:
    """Return the middle and the thickness of each layer down the page."""
    thick = [max((boxes[name].height for name in row if name in boxes), default=0) for row in rows]
    top = _MARGIN + (_GROUP_TOP if any(box.group for box in boxes.values()) else 0)
    middles = []
    for number, height in enumerate(thick):
        middles.append(top + height / 2)
        # To the right, a label lies along its link and needs the room.
        labels = [link.label for link in links if layers[link.start] == number] if not down else []
        top += height + max(_BETWEEN_LAYERS, max(labels, default=0) + 24)
    return middles, thick


def _route(
    chain: Sequence[str],
    boxes: Mapping[str, Box],
    across: Mapping[str, float],
    along: Sequence[float],
    layers: Mapping[str, int],
    thick: Sequence[float],
    link: Link,
) -> list[Point]:
    start, end = chain[0], chain[-1]
    if start == end:
        x, y = across[start] + boxes[start].width / 2, along[layers[start]]
        return [(x, y - 6), (x + 18, y), (x, y + 6)]
    forth = 1 if layers[end] > layers[start] else -1
    if layers[end] == layers[start]:
        side = 1 if across[end] > across[start] else -1
        y = along[layers[start]]
        return [(across[start] + side * boxes[start].width / 2, y), (across[end] - side * boxes[end].width / 2, y)]
    points = [(across[start], along[layers[start]] + forth * boxes[start].height / 2)]
    for name in chain[1:-1]:
        y, half = along[layers[name]], thick[layers[name]] / 2
        points += [(across[name], y - forth * half), (across[name], y + forth * half)]
    return [*points, (across[end], along[layers[end]] - forth * boxes[end].height / 2)]


def _surround(plan: Plan, boxes: Mapping[str, Box]) -> None:
    """Add a frame around each group and the size of the whole."""
    for group in dict.fromkeys(box.group for box in boxes.values() if box.group):
        inside = [(plan.centres[name], box) for name, box in boxes.items() if box.group == group]
        left = min(x - box.width / 2 for (x, _), box in inside) - 8
        right = max(x + box.width / 2 for (x, _), box in inside) + 8
        top = min(y - box.height / 2 for (_, y), box in inside) - _GROUP_TOP + 4
        bottom = max(y + box.height / 2 for (_, y), box in inside) + 8
        plan.groups[group] = (left, top, right - left, bottom - top)
    rights = [x + boxes[name].width / 2 for name, (x, _) in plan.centres.items()]
    bottoms = [y + boxes[name].height / 2 for name, (_, y) in plan.centres.items()]
    rights += [x for points in plan.routes for x, _ in points]
    bottoms += [y for points in plan.routes for _, y in points]
    plan.size = (max(rights, default=0) + 2 * _MARGIN, max(bottoms, default=0) + 2 * _MARGIN)


def _turned(plan: Plan) -> Plan:
    return Plan(
        {name: (y, x) for name, (x, y) in plan.centres.items()},
        [[(y, x) for x, y in points] for points in plan.routes],
    )
