"""Reads pages of regulatory/file as Markdown tokens, with links made to stay inside one document."""

import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token

from regulatory.pages import Page
from regulatory.render import FOLDER, anchors, slug

_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
_ANCHOR = re.compile(r'<a id="([^"]+)"></a>')
# Private characters around an anchor's name: raw HTML is not read, so that whatever a figure says stays text.
_MARKED = re.compile("\ue000([^\ue001]+)\ue001")


@dataclass(frozen=True)
class Target:
    """Where a link leads: a place in the document, a file of the repository, or an address outside."""

    kind: str
    address: str


def tokens(text: str) -> list[Token]:
    """Return a page's tokens; raw HTML is text, comments are gone."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    return parser.parse(_ANCHOR.sub("\ue000\\1\ue001", _COMMENT.sub("", text)))


def anchor(page: str, name: str = "") -> str:
    """Return the name of a place in the one document: the page's, with the heading's."""
    start = re.sub(r"[^a-z0-9]+", "-", page.lower().removesuffix(".md")).strip("-")
    return f"{start}--{name}" if name else start


def places(files: Mapping[str, str], pages: Iterable[Page]) -> dict[str, set[str]]:
    """Return the anchors of each page that is there."""
    return {page.file: anchors(files[page.file]) for page in pages if page.file in files}


def target(page: str, address: str, known: Mapping[str, set[str]]) -> Target:
    """Return where a link of a page leads; one to an anchor that is not there leads to the page that should have it.

    `known` : as `places` gives it
    """
    if "://" in address or address.startswith("mailto:"):
        return Target("outside", address)
    path, _, name = address.partition("#")
    full = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
    if full in known:
        return Target("inside", anchor(full, name if name in known[full] else ""))
    return Target("file", posixpath.normpath(posixpath.join(FOLDER, full)))


def marks(text: str) -> tuple[str, list[str]]:
    """Return a text without the anchors in it, and their names."""
    return _MARKED.sub("", text), _MARKED.findall(text)


class Headings:
    """Names of headings as GitHub gives them, a number behind each that comes again."""

    def __init__(self, page: str) -> None:
        self._page = page
        self._seen: dict[str, int] = {}

    def name(self, text: str) -> str:
        found = slug(text)
        self._seen[found] = self._seen.get(found, -1) + 1
        return anchor(self._page, f"{found}-{self._seen[found]}" if self._seen[found] else found)
