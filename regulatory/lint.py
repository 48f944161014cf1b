"""What hand-written text of the regulatory file must not hold: numbers of its own, and words that triage must not use.

`text/allowed.toml` lists digits that are names ([[allowed]] pattern, reason). `text/wording.toml` lists words ([[word]]
pattern, reason); a sentence that says what the device does not do stands between `[[not]]` and `[[/not]]`.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from regulatory.figures import (
    PUBLISHED,
    PUBLISHED_FILE,
    BuildError,
    Catalogue,
    Drawing,
    Figure,
    Item,
    RawFile,
    Table,
    Text,
)
from regulatory.pages import FIGURES, Page

TEMPLATES = "regulatory/text"
ALLOWED = f"{TEMPLATES}/allowed.toml"
WORDING = f"{TEMPLATES}/wording.toml"

_JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_FENCED = re.compile(r"^ *(```|~~~).*?^ *\1", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_TARGET = re.compile(r"(?<=\])\([^)\s]*\)|https?://\S+|<a id=\"[^\"]*\">")
_NUMBERING = re.compile(r"^(?:#+ \d+(?:\.\d+)*\.?(?= )|[ \t]*\d+\.(?= ))", re.MULTILINE)
_NOT = re.compile(r"\[\[not\]\].*?\[\[/not\]\]", re.DOTALL)
_BLOCK = re.compile(r"<!-- (?:table|drawing|text) (\S+) -->.*?<!-- end \1 -->", re.DOTALL)
_HEADING = re.compile(r"^#+ .*$", re.MULTILINE)
_CITED = re.compile(r"\[(?:\\.|[^\]\\])*\]\([^)\s]*figures\.md#[^)\s]*\)|\[(?:\\.|[^\]\\])*\]\(#figure-[^)\s]*\)")
_CODE = re.compile(r"`[^`\n]*`")


@dataclass(frozen=True)
class Pattern:
    """A regular expression and why it stands in its list."""

    expression: re.Pattern[str]
    reason: str


def patterns(root: Path, file: str, key: str) -> tuple[Pattern, ...]:
    """Return the patterns of a list; none where the file is not there.

    Raises
    ------
    BuildError
        An entry without pattern or reason, or a pattern that is no regular expression.
    """
    path = root / file
    if not path.is_file():
        return ()
    found = []
    for number, entry in enumerate(tomllib.loads(path.read_text("utf-8")).get(key, []), 1):
        if not entry.get("pattern") or not entry.get("reason"):
            raise BuildError(f"{file}: [[{key}]] number {number} needs a pattern and a reason, found {sorted(entry)}")
        try:
            found.append(Pattern(re.compile(entry["pattern"]), entry["reason"]))
        except re.error as error:
            raise BuildError(f"{file}: {entry['pattern']!r} is no regular expression: {error}") from error
    return tuple(found)


def lint(root: Path, catalogue: Catalogue, templates: Iterable[str]) -> list[str]:
    """Return what is wrong with the hand-written text of these templates, and with the words of generated matter."""
    allowed, words = patterns(root, ALLOWED, "allowed"), patterns(root, WORDING, "word")
    problems = []
    for name in sorted(set(templates)):
        path = root / TEMPLATES / name
        if not path.is_file():
            continue
        text = path.read_text("utf-8")
        problems += [f"{TEMPLATES}/{name}:{line}: {what}" for line, what in own_numbers(text, allowed)]
        problems += [f"{TEMPLATES}/{name}:{line}: {what}" for line, what in wrong_words(text, words)]
    for key, topic in catalogue.topics.items():
        kind, name = key
        for text in _texts(catalogue.items[kind][name]):
            problems += [f"source {topic}: {kind.__name__} {name!r}: {what}" for _, what in wrong_words(text, words)]
    return problems


def own_numbers(text: str, allowed: Iterable[Pattern]) -> list[tuple[int, str]]:
    """Return line and message of each number that a template states by itself."""
    rest = _masked(text, (_JINJA, _COMMENT, _FENCED, _TARGET, _NUMBERING, *(item.expression for item in allowed)))
    return [
        (
            _line(rest, found.start()),
            f"the number {found[0]!r} stands in hand-written text ({_around(rest, found)}); "
            f'expected {{{{ n("…") }}}}, an entry in {PUBLISHED_FILE}, or, where it is a name, a pattern in {ALLOWED}',
        )
        for found in re.finditer(r"\d+(?:[.,]\d+)*", rest)
    ]


def wrong_words(text: str, words: Iterable[Pattern]) -> list[tuple[int, str]]:
    """Return line and message of each word that the file must not say, and of marks that do not pair."""
    problems = []
    rest = _masked(text, (_NOT,))
    problems += [
        (_line(rest, found.start()), f"{found[0]} has no partner; write [[not]]…[[/not]]")
        for found in re.finditer(r"\[\[/?not\]\]", rest)
    ]
    for word in words:
        problems += [
            (_line(rest, found.start()), f"{found[0]!r} ({_around(rest, found)}): {word.reason}")
            for found in word.expression.finditer(rest)
        ]
    return problems


def unlinked_numbers(page: str, allowed: Iterable[Pattern]) -> list[tuple[int, str]]:
    """Return line and message of each number on a page from which nobody reaches its source in two steps.

    Generated tables, drawings and texts carry their source in their caption; code and headings are no statements.
    """
    passed = (_FENCED, _BLOCK, _COMMENT, _HEADING, _CITED, _TARGET, _CODE, _NUMBERING)
    rest = _masked(page, (*passed, *(item.expression for item in allowed)))
    return [
        (_line(rest, found.start()), f"the number {found[0]!r} leads nowhere ({_around(rest, found)})")
        for found in re.finditer(r"\d+(?:[.,]\d+)*", rest)
    ]


def unused(root: Path, catalogue: Catalogue, used: Iterable[Item], pages: Iterable[Page]) -> list[str]:
    """Return what was written or made and no page shows: published numbers, tables, drawings, texts, templates.

    A source may gather more figures than the pages print; a table or a published number stands for a reader.
    """
    shown = {(type(item), item.id) for item in used}
    problems = []
    for (kind, name), topic in catalogue.topics.items():
        if (kind, name) in shown or kind is RawFile or (kind is Figure and topic != PUBLISHED):
            continue
        where = PUBLISHED_FILE if topic == PUBLISHED else f"source {topic}"
        problems.append(f"{where}: {kind.__name__} {name!r} is on no page; show it or take it out")
    taken = {page.template for page in pages}
    problems += [
        f"{TEMPLATES}/{path.name}: no page uses this template"
        for path in sorted((root / TEMPLATES).glob("*.md"))
        if path.name not in taken
    ]
    return problems


def walk(pages: dict[str, str], allowed: Iterable[Pattern]) -> list[str]:
    """Return each number on the pages that leads to no source; figures.md is where they lead."""
    allowed = tuple(allowed)
    return [
        f"regulatory/file/{name}:{line}: {what}"
        for name, text in sorted(pages.items())
        if name.endswith(".md") and name != FIGURES
        for line, what in unlinked_numbers(text, allowed)
    ]


def _texts(item: Item) -> Iterator[str]:
    if isinstance(item, Text):
        yield item.markdown
    elif isinstance(item, RawFile):
        yield item.text
    elif isinstance(item, Drawing):
        yield from (item.title, item.alt)
    elif isinstance(item, Table):
        yield item.title
        # A mark may open in one cell and close in another of its row.
        yield "\n".join(" | ".join(row) for row in (item.header, *item.rows))
    else:
        yield from (item.shown, item.says)


def _masked(text: str, expressions: Iterable[re.Pattern[str]]) -> str:
    """Return text in which each match is a blank and its line ends, so that lines keep their number."""
    for expression in expressions:
        text = expression.sub(lambda found: " " + "\n" * found[0].count("\n"), text)
    return text


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


def _around(text: str, found: re.Match[str]) -> str:
    start, end = max(0, found.start() - 40), found.end() + 40
    return f"…{' '.join(text[start:end].split())}…"
