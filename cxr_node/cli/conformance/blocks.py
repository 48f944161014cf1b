"""A document as values: headings, paragraphs, tables; and how it becomes Markdown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    """`level` 1 is a chapter."""

    level: int
    text: str


@dataclass(frozen=True)
class Prose:
    """A paragraph, or a list written as Markdown."""

    text: str


@dataclass(frozen=True)
class Grid:
    """A table; every row has as many cells as the header."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"table {self.title!r}: a row of {len(row)} cells, expected {len(self.header)}: {row}")


Block = Heading | Prose | Grid


def grid(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Grid:
    """Return a table of texts."""
    return Grid(title, tuple(header), tuple(tuple(str(cell) for cell in row) for row in rows))


def markdown(blocks: Iterable[Block], *, first_level: int = 2, source: str = "") -> str:
    """Return the document as Markdown.

    Parameters
    ----------
    first_level : of a chapter's heading
    source : ends the caption of every table; empty: none
    """
    lines: list[str] = []
    for block in blocks:
        if isinstance(block, Heading):
            lines += [f"{'#' * min(6, first_level + block.level - 1)} {block.text}", ""]
        elif isinstance(block, Prose):
            lines += [block.text, ""]
        else:
            lines += [*table_lines(block), "", f"*Table: {block.title}{f' ({source})' if source else ''}.*", ""]
    return "\n".join(lines).rstrip() + "\n"


def table_lines(table: Grid) -> list[str]:
    """Return the lines of a Markdown table; a table without rows says so."""
    rows = table.rows or (("none", *("" for _ in table.header[1:])),)
    return [_line(table.header), _line(["---"] * len(table.header)), *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
