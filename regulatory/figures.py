"""What the regulatory file is made of: figures, tables, drawings and texts, each with its source and command.

A topic's `regulatory/sources/TOPIC.py` gathers them from committed files; a template names them by id. Nothing here
reads a clock, the network or anything outside the repository, so the same tree gives the same bytes everywhere.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PUBLISHED = "published"
PUBLISHED_FILE = "regulatory/text/published.toml"
# How a figure says that there is nothing to show; only then may its source be missing.
NOTHING = ("not run", "not done", "not measured", "not met")

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class BuildError(Exception):
    """The file cannot be made as it is written; the message says what, where and what was expected."""


@dataclass(frozen=True)
class Figure:
    """One value and how it is printed.

    `id` is dotted ("pneumonia-paediatric.official-test.auc"). `source` is a committed file relative to the root, or
    "path:NAME" for a constant in code, or a citation; `pointer` the place inside it. `command` is what made the source,
    "" where nobody makes it. `says` tells in one clause what the value is.
    """

    id: str
    value: Any
    shown: str
    source: str
    pointer: str = ""
    command: str = ""
    says: str = ""


@dataclass(frozen=True)
class Table:
    """A header and rows of text; `numeric` columns are set to the right."""

    id: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    source: str
    pointer: str = ""
    command: str = ""
    numeric: tuple[int, ...] = ()


@dataclass(frozen=True)
class Drawing:
    """A picture as SVG text, with `alt` for those who do not see it."""

    id: str
    title: str
    alt: str
    svg: str
    source: str
    command: str = ""


@dataclass(frozen=True)
class Text:
    """Generated Markdown: prose, lists, a Mermaid flowchart; headings from ### down."""

    id: str
    markdown: str
    source: str
    command: str = ""


@dataclass(frozen=True)
class RawFile:
    """A file that is no page, such as a model card in XML; `path` is relative to regulatory/file."""

    path: str
    text: str
    source: str
    command: str = ""

    @property
    def id(self) -> str:
        return self.path


Item = Figure | Table | Drawing | Text | RawFile


@dataclass(frozen=True)
class Material:
    """What one topic brings."""

    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    texts: tuple[Text, ...] = ()
    files: tuple[RawFile, ...] = ()

    def items(self) -> Iterator[Item]:
        """Yield everything, in order."""
        for group in (self.figures, self.tables, self.drawings, self.texts, self.files):
            yield from group


Gather = Callable[[Path], Material]


@dataclass
class Catalogue:
    """Everything that was gathered, by kind and id, and what went wrong while gathering."""

    root: Path
    items: dict[type, dict[str, Item]] = field(default_factory=dict)
    topics: dict[tuple[type, str], str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, topic: str, material: Material) -> None:
        """Add a topic's material; what is wrong with it is noted, and the rest still counts."""
        for item in material.items():
            kind = type(item)
            known = self.items.setdefault(kind, {})
            if item.id in known:
                first = self.topics[kind, item.id]
                self.problems.append(f"source {topic}: {kind.__name__} {item.id!r} is already one of source {first}")
                continue
            self.problems += [
                f"source {topic}: {kind.__name__} {item.id!r} {what}" for what in self._faults(topic, item)
            ]
            known[item.id] = item
            self.topics[kind, item.id] = topic

    def find(self, kind: type, wanted: str) -> Item:
        """Return an item.

        Raises
        ------
        BuildError
            There is none of this id; the nearest ids are named.
        """
        known = self.items.get(kind, {})
        if wanted in known:
            return known[wanted]
        near = difflib.get_close_matches(wanted, known, n=4, cutoff=0.5)
        elsewhere = [other.__name__ for other, items in self.items.items() if wanted in items]
        hint = f"it is a {elsewhere[0]}" if elsewhere else f"nearest: {', '.join(near)}" if near else "nothing is near"
        raise BuildError(f"unknown {kind.__name__} {wanted!r}; {hint}")

    def all(self, kind: type) -> list[Item]:
        """Return every item of a kind, in the order gathered."""
        return list(self.items.get(kind, {}).values())

    def _faults(self, topic: str, item: Item) -> Iterator[str]:
        if not isinstance(item, RawFile) and not _ID.fullmatch(item.id):
            yield "has an id that is not made of letters, digits, dots and dashes"
        if isinstance(item, Figure) and not item.shown:
            yield "shows nothing; what was not measured reads 'not run'"
        if isinstance(item, Figure) and not item.says:
            yield "does not say what it is (`says`)"
        if isinstance(item, Table):
            odd = [number for number, row in enumerate(item.rows) if len(row) != len(item.header)]
            if odd:
                yield f"has {len(item.header)} columns, but row {odd[0]} has {len(item.rows[odd[0]])} cells"
        if topic != PUBLISHED:
            yield from self._source_faults(item)

    def _source_faults(self, item: Item) -> Iterator[str]:
        paths = source_paths(item.source)
        missing = [path for path in paths if not (self.root / path).exists()]
        absent = isinstance(item, Figure) and any(word in item.shown for word in NOTHING)
        if not paths:
            yield "names no source"
        if missing and not absent and not isinstance(item, Text | Table):
            yield f"names the source {missing[0]!r}, which is not there"
        if not item.command and any(_is_result(path) for path in paths):
            yield f"comes from the result {item.source!r} but names no command that makes it"


def source_paths(source: str) -> list[str]:
    """Return the paths of a source: "a.json, b.py:NAME" gives a.json and b.py."""
    return [part.strip().partition(":")[0] for part in source.split(", ") if part.strip()]


def _is_result(path: str) -> bool:
    """Return whether a file is made by a command rather than written by hand."""
    return path.endswith(".json") and path.startswith(("trainer/runs/", "regulatory/evidence/", "cxr_node/packages/"))


def published(root: Path) -> Material:
    """Return the figures of the literature, regulatory/text/published.toml.

    Raises
    ------
    BuildError
        An entry without a value as shown, a citation or a clause that says what it is.
    """
    entries = tomllib.loads((root / PUBLISHED_FILE).read_text("utf-8"))
    return Material(figures=tuple(_published(name, entry) for name, entry in _leaves(entries)))


def _leaves(entries: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, entry in entries.items():
        if not isinstance(entry, Mapping):
            raise BuildError(f"{PUBLISHED_FILE}: {above}{name} stands outside of an entry")
        if any(not isinstance(value, Mapping) for value in entry.values()):
            yield f"{above}{name}", entry
        else:
            yield from _leaves(entry, f"{above}{name}.")


def _published(name: str, entry: Mapping[str, Any]) -> Figure:
    wanted = {"value", "shown", "citation", "says"}
    if set(entry) != wanted or not entry["citation"]:
        raise BuildError(f"{PUBLISHED_FILE}: [{name}] has {sorted(entry)}, expected {sorted(wanted)}, none empty")
    return Figure(name, entry["value"], str(entry["shown"]), str(entry["citation"]), says=str(entry["says"]))


def gather(root: Path, sources: Mapping[str, Gather]) -> Catalogue:
    """Return what every source brings; one that raises is named and the others still count."""
    found = Catalogue(root)
    for topic, function in {PUBLISHED: published, **sources}.items():
        try:
            material = function(root)
        # One topic in the making must not hide what the others show; the build fails by the problem noted.
        except Exception as error:  # noqa: BLE001
            found.problems.append(f"source {topic} raised {type(error).__name__}: {error}{_where(error)}")
        else:
            found.add(topic, material)
    return found


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    place = ""
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "/regulatory/" in name and not name.endswith("/figures.py"):
            place = f" ({'/'.join(Path(name).parts[-3:])}:{trace.tb_lineno})"
        trace = trace.tb_next
    return place
