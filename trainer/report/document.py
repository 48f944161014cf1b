"""A document as values: sections of paragraphs, lists, tables and figures, which HTML and PDF render alike."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.report.words import slug


@dataclass(frozen=True)
class Paragraph:
    """Text; `kind` is "plain", "good", "bad" or "note"."""

    text: str
    kind: str = "plain"


@dataclass(frozen=True)
class Bullets:
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A header and rows of text; `shares` are relative widths of the columns, equal where empty.

    `numeric` columns are set to the right.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    shares: tuple[float, ...] = ()
    numeric: tuple[int, ...] = ()

    @property
    def widths(self) -> tuple[float, ...]:
        """Return each column's part of the width; they sum to 1."""
        shares = self.shares or (1.0,) * len(self.header)
        return tuple(share / sum(shares) for share in shares)


@dataclass(frozen=True)
class Picture:
    """A PNG with its caption; `width` is its part of the page's width."""

    png: bytes
    caption: str
    width: float = 1.0


Block = Paragraph | Bullets | Table | Picture


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; `level` 1 is a chapter, 2 a part of one."""

    title: str
    blocks: tuple[Block, ...]
    level: int = 1

    @property
    def anchor(self) -> str:
        return slug(self.title)


@dataclass(frozen=True)
class Document:
    """A title, a line under it, and sections."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]


def facts(pairs: Sequence[tuple[str, str]], title: str = "") -> Table:
    """Return a table of names and values."""
    return Table(("", ""), tuple((name, value) for name, value in pairs), title, (1, 2.4))
