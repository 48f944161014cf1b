"""Renders the pages of regulatory/file from templates and gathered material; compares them with what is committed.

Templates are Markdown with Jinja2. Their functions: `n("figure.id")` prints a figure as a link to its row in
figures.md; `raw("figure.id")` gives its value for conditions, `has("figure.id")` whether there is one; `t("table.id")`,
`d("drawing.id")`, `x("text.id")` print a table, a drawing, a generated text; `link("04_software/soup.md#anchor",
"text")` leads to another page, `repo("path", "text")` to a file of the repository. Inside generated Markdown and table
cells the same links are written `[text](page:04_software/soup.md#anchor)` and `[text](repo:path)`. A sentence that says
what the device does not do stands between `[[not]]` and `[[/not]]`, which are taken out.
"""

import hashlib
import json
import posixpath
import re
import tomllib
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from regulatory.figures import BuildError, Catalogue, Drawing, Figure, Item, RawFile, Table, Text, source_paths
from regulatory.pages import FIGURES, PAGES, README, Page
from trainer.report.words import BANNER

FOLDER = "regulatory/file"
TEMPLATES = "regulatory/text"
STATUS = f"**{BANNER}.** Nothing here is a submission, and nothing here was reviewed by an authority."

_MARKS = re.compile(r"\[\[/?not\]\]")
_LINK = re.compile(r"\]\((page|repo):([^)\s]*)\)")
_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*$")
_ANCHOR = re.compile(r'<a id="([^"]+)">')


@dataclass
class Rendered:
    """One page as text, with what it used, in order of use, and links of it that lead nowhere."""

    page: Page
    text: str
    used: list[Item] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass
class Build:
    """Every file of regulatory/file by its path in there, and every problem met while making them."""

    files: dict[str, str]
    pages: list[Rendered]
    problems: list[str]


def render_page(
    page: Page, catalogue: Catalogue, version: str, pages: tuple[Page, ...] = PAGES, **more: Any
) -> Rendered:
    """Return one page.

    Raises
    ------
    BuildError
        The template cannot be read or names something that is not there; page, line and nearest ids are named.
    """
    writer = _Writer(page, catalogue, {one.file for one in pages})
    folder = catalogue.root / TEMPLATES
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(writer.functions(), pages=pages, page=page, version=version, **more)
    where = f"{FOLDER}/{page.file} ({TEMPLATES}/{page.template}"
    try:
        template = (folder / page.template).read_text("utf-8")
        body = environment.get_template(page.template).render(**dict(page.given))
    except jinja2.TemplateSyntaxError as error:
        raise BuildError(f"{where}:{error.lineno}): {error.message}") from error
    except OSError as error:
        raise BuildError(f"{where}): the template cannot be read: {error.strerror}") from error
    except (BuildError, jinja2.TemplateError, TypeError, KeyError, ValueError, AttributeError) as error:
        line = _line(error, folder / page.template)
        raise BuildError(
            f"{where}:{line}): {type(error).__name__ if not isinstance(error, BuildError) else ''}{error}"
        ) from error
    body = _MARKS.sub("", body).strip("\n")
    digest = _digest(template, page, writer.used)
    made_of = f"{TEMPLATES}/{page.template}"
    head = (
        f"<!-- Made by `python -m regulatory build`. Do not edit: change {made_of} or what it reads. -->\n"
        f"> {STATUS}\n\n# {page.title}\n\n"
        f"cxr-node `{version}`, generated from `sha256:{digest}` of `{made_of}` and the figures used. Do not edit."
        f"{'' if page.file == README else f' [Reading order](page:{README})'}\n"
    )
    text = writer.resolve(f"{head}\n{body}\n")
    return Rendered(page, text, writer.used, sorted(set(writer.problems)))


class _Writer:
    """The functions of one page's template; remembers what the page used."""

    def __init__(self, page: Page, catalogue: Catalogue, known: set[str]) -> None:
        self._page, self._catalogue, self._known = page, catalogue, known
        self.used: list[Item] = []
        self.problems: list[str] = []

    def functions(self) -> dict[str, Callable[..., Any]]:
        return {
            "n": self.number,
            "raw": self.raw,
            "has": self.has,
            "t": self.table,
            "d": self.drawing,
            "x": self.text,
            "link": self.link,
            "repo": self.repo,
        }

    def number(self, wanted: str) -> str:
        figure = self._use(Figure, wanted)
        return f"[{escape(figure.shown)}](page:{FIGURES}#{anchor_of(figure)})"

    def raw(self, wanted: str) -> Any:
        return self._use(Figure, wanted).value

    def has(self, wanted: str) -> bool:
        return wanted in self._catalogue.items.get(Figure, {})

    def table(self, wanted: str) -> str:
        table = self._use(Table, wanted)
        rule = "|".join("---:" if place in table.numeric else "---" for place in range(len(table.header)))
        lines = [_cells(table.header), f"|{rule}|", *(_cells(row) for row in table.rows)]
        if not table.rows:
            lines = ["No rows."]
        return _block("table", table, f"**Table: {table.title}.** {_origin(table)}\n\n" + "\n".join(lines))

    def drawing(self, wanted: str) -> str:
        drawing = self._use(Drawing, wanted)
        target = _relative(f"{FOLDER}/{svg_path(drawing)}", self._page)
        picture = f"![{escape(drawing.alt)}]({target})"
        return _block("drawing", drawing, f"{picture}\n\n**Figure: {drawing.title}.** {_origin(drawing)}")

    def text(self, wanted: str) -> str:
        text = self._use(Text, wanted)
        return _block("text", text, f"{text.markdown.strip()}\n\n*{_origin(text)}*")

    def link(self, target: str, text: str) -> str:
        return f"[{text}](page:{target})"

    def repo(self, path: str, text: str = "") -> str:
        return f"[{text or f'`{path}`'}](repo:{path})"

    def resolve(self, markdown: str) -> str:
        """Return the page with its links made relative; a link to what is not there is a problem of the page."""
        return _LINK.sub(lambda found: f"]({self._target(found[1], found[2])})", markdown)

    def _target(self, kind: str, address: str) -> str:
        path, mark, anchor = address.partition("#")
        full = f"{FOLDER}/{path}" if kind == "page" else path
        where = f"{FOLDER}/{self._page.file}: links to"
        if kind == "page" and path not in self._known:
            self.problems.append(f"{where} the page {path!r}, which is not in PAGES")
        elif kind == "repo" and not (self._catalogue.root / path).exists():
            self.problems.append(f"{where} {path!r}, which is not in the repository")
        return f"{_relative(full, self._page)}{mark}{anchor}"

    def _use(self, kind: type, wanted: str) -> Any:
        item = self._catalogue.find(kind, wanted)
        if item not in self.used:
            self.used.append(item)
        return item


def _block(kind: str, item: Item, inside: str) -> str:
    """Return generated Markdown between comments that tell a checker what is not hand-written."""
    return f"<!-- {kind} {item.id} -->\n{inside}\n<!-- end {item.id} -->"


def _origin(item: Table | Drawing | Text) -> str:
    """Return where generated matter is from: source linked, its row, and the command."""
    made = f", made by `{item.command}`" if item.command else ""
    return f"From {source_links(item.source)}{made} ([row](page:{FIGURES}#{anchor_of(item)}))."


def source_links(source: str, exists: Callable[[str], bool] = lambda path: True) -> str:
    """Return a source with its paths as links; "path:NAME" keeps the name, what is not there is no link."""
    parts = []
    for part in source.split(", "):
        path, _, name = part.partition(":")
        shown = f"[`{path}`](repo:{path})" if exists(path) else f"`{path}`"
        parts.append(f"{shown} `{name}`" if name else shown)
    return ", ".join(parts)


def anchor_of(item: Item) -> str:
    """Return the anchor of an item's row in figures.md."""
    return f"{type(item).__name__.lower()}-{item.id}"


def svg_path(drawing: Drawing) -> str:
    """Return where a drawing lies in regulatory/file."""
    return f"figures/{drawing.id}.svg"


def escape(text: str) -> str:
    """Return text that stays inside link brackets and table cells."""
    return re.sub(r"([\[\]|])", r"\\\1", text).replace("\n", " ")


def _cells(row: Iterable[str]) -> str:
    inside = " | ".join(re.sub(r"(?<!\\)\|", r"\\|", cell).replace("\n", " ") for cell in row)
    return f"| {inside} |"


def _relative(path: str, page: Page) -> str:
    return posixpath.relpath(path, posixpath.dirname(f"{FOLDER}/{page.file}"))


def _line(error: BaseException, template: Path) -> int | str:
    """Return the line of the template where an error was raised."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(str(template))
    ]
    return lines[-1] if lines and lines[-1] else "?"


def _digest(template: str, page: Page, used: Iterable[Item]) -> str:
    """Return a short hash of what a page is made of; a drawing's curves count in its own file."""
    content = [{**asdict(item), "kind": type(item).__name__, "svg": ""} for item in used]
    inputs = json.dumps([template, page.title, page.given, content], sort_keys=True, default=str)
    return hashlib.sha256(inputs.encode()).hexdigest()[:16]


def version_of(root: Path) -> str:
    """Return the version of the software, from pyproject.toml."""
    return str(tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["version"])


def anchors(markdown: str) -> set[str]:
    """Return every anchor of a page: its headings as GitHub names them, and anchors written out."""
    found: set[str] = set(_ANCHOR.findall(markdown))
    fenced = False
    seen: dict[str, int] = {}
    for line in markdown.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        heading = None if fenced else _HEADING.match(line)
        if heading:
            name = slug(heading[2])
            seen[name] = seen.get(name, -1) + 1
            found.add(f"{name}-{seen[name]}" if seen[name] else name)
    return found


def slug(heading: str) -> str:
    """Return a heading's anchor as GitHub makes it."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")


def render(catalogue: Catalogue, pages: tuple[Page, ...] = PAGES) -> Build:
    """Return every file; a page that cannot be made is a problem and the others are made all the same."""
    from regulatory.index import figure_rows, open_points, reading_order

    problems = list(catalogue.problems)
    version = version_of(catalogue.root)
    done: list[Rendered] = []
    for page in sorted(pages, key=lambda page: (page.file == README) + 2 * (page.file == FIGURES)):
        more: dict[str, Any] = {}
        # These two are about the others, and come after them.
        if page.file == README:
            more = {
                "reading_order": lambda: reading_order(pages, catalogue),
                "open_points": lambda: open_points(done),
            }
        elif page.file == FIGURES:
            more = {"rows": lambda: figure_rows(catalogue, done)}
        try:
            done.append(render_page(page, catalogue, version, pages, **more))
        except BuildError as error:
            problems.append(str(error))
    files = {one.page.file: one.text for one in done}
    for one in done:
        files |= {svg_path(item): _svg(item) for item in one.used if isinstance(item, Drawing)}
    for item in catalogue.all(RawFile):
        assert isinstance(item, RawFile)
        files[item.path] = _raw(item)
    problems += [problem for one in done for problem in one.problems]
    order = {page.file: place for place, page in enumerate(pages)}
    done.sort(key=lambda one: order[one.page.file])
    problems += broken_anchors(files)
    return Build(files, done, problems)


def _svg(drawing: Drawing) -> str:
    return drawing.svg.rstrip() + "\n"


def _raw(item: RawFile) -> str:
    """Return a file that is no page, with the banner in a comment where it is XML."""
    if not item.path.endswith(".xml"):
        return item.text
    made_of = ", ".join(source_paths(item.source))
    note = f"<!-- {BANNER}. Made by `python -m regulatory build` from {made_of}. Do not edit. -->"
    declaration = re.match(r"\s*<\?xml[^>]*\?>\n?", item.text)
    end = declaration.end() if declaration else 0
    return f"{item.text[:end].strip()}\n{note}\n{item.text[end:].lstrip()}".lstrip()


def broken_anchors(files: dict[str, str]) -> list[str]:
    """Return each link between pages whose anchor is not there."""
    known = {name: anchors(text) for name, text in files.items() if name.endswith(".md")}
    problems = []
    for name, text in files.items():
        if not name.endswith(".md"):
            continue
        for target in re.findall(r"\]\(([^)\s:]*#[^)\s]+)\)", text):
            path, _, anchor = target.partition("#")
            full = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
            if full in known and anchor not in known[full]:
                problems.append(f"{FOLDER}/{name}: links to {full}#{anchor}; there is no such heading")
    return sorted(set(problems))
