"""Writes regulatory/file, or says where it differs from what its sources give."""

import re
from pathlib import Path

from regulatory.figures import BuildError, Catalogue, Drawing, gather
from regulatory.lint import ALLOWED, lint, patterns, unused, walk
from regulatory.pages import PAGES
from regulatory.render import FOLDER, Build, render, render_page, svg_path, version_of
from regulatory.sources import SOURCES

# Ignored by git: both are made of the committed pages.
BOUND = "build/regulatory"

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
_LABEL = re.compile(r">([^<>]*\S[^<>]*)<")
# Far below what an eye sees, far above what another processor's last digit moves a curve by.
_SVG_TOLERANCE = 0.05


def build(root: Path) -> tuple[Catalogue, Build]:
    """Return everything that was gathered and every file made of it, with the problems met."""
    catalogue = gather(root, SOURCES)
    made = render(catalogue)
    made.problems += lint(root, catalogue, (page.template for page in PAGES))
    made.problems += walk({one.page.file: one.text for one in made.pages}, patterns(root, ALLOWED, "allowed"))
    # Where a page failed, what it would have shown is not idle.
    if len(made.pages) == len(PAGES):
        made.problems += unused(root, catalogue, (item for one in made.pages for item in one.used), PAGES)
    return catalogue, made


def write(root: Path) -> list[str]:
    """Write every file, remove those that no page makes any more, and return the problems."""
    _, made = build(root)
    folder = root / FOLDER
    for name, text in made.files.items():
        path = folder / name
        if path.is_file() and not _differs(name, path.read_text("utf-8"), text):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    # A page that failed to render keeps its last good file; only what belongs to no page goes.
    if not made.problems:
        for name in _committed(folder) - set(made.files):
            (folder / name).unlink()
    return made.problems


def only(root: Path, wanted: str) -> list[str]:
    """Write one page and its drawings; what is wrong elsewhere is no problem of this page's.

    Raises
    ------
    BuildError
        There is no such page, or it cannot be rendered; sources that failed are named then.
    """
    pages = [page for page in PAGES if page.file == wanted or page.template == wanted]
    if not pages:
        raise BuildError(f"{wanted}: not in PAGES; there are {', '.join(page.file for page in PAGES)}")
    catalogue = gather(root, SOURCES)
    problems: list[str] = []
    for page in pages:
        try:
            done = render_page(page, catalogue, version_of(root))
        except BuildError as error:
            raise BuildError("\n".join([str(error), *catalogue.problems])) from error
        path = root / FOLDER / page.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(done.text, "utf-8")
        problems += done.problems
        for item in done.used:
            if isinstance(item, Drawing):
                svg = root / FOLDER / svg_path(item)
                svg.parent.mkdir(parents=True, exist_ok=True)
                svg.write_text(item.svg.rstrip() + "\n", "utf-8")
    problems += lint(root, Catalogue(root), (page.template for page in pages))
    return problems + walk(
        {page.file: (root / FOLDER / page.file).read_text("utf-8") for page in pages},
        patterns(root, ALLOWED, "allowed"),
    )


def check(root: Path) -> list[str]:
    """Return the problems of a build in memory and each file that differs from it."""
    _, made = build(root)
    return made.problems + drift(root, made.files)


def bind(root: Path, as_html: bool, as_pdf: bool) -> list[str]:
    """Write the committed pages as one HTML page, one PDF or both, and return their paths relative to the root."""
    # Imported here: a check needs neither Markdown nor fonts.
    from regulatory.html import html
    from regulatory.pdf import pdf

    folder = root / FOLDER
    files = {name: (folder / name).read_text("utf-8") for name in sorted(_committed(folder))}
    target = root / BOUND
    target.mkdir(parents=True, exist_ok=True)
    version = version_of(root)
    done = []
    if as_html:
        (target / "cxr-node.html").write_text(html(files, PAGES, version), "utf-8")
        done.append(f"{BOUND}/cxr-node.html")
    if as_pdf:
        (target / "cxr-node.pdf").write_bytes(pdf(files, PAGES, version))
        done.append(f"{BOUND}/cxr-node.pdf")
    return done


def drift(root: Path, files: dict[str, str]) -> list[str]:
    """Return a line for each committed file that differs from `files`, is missing, or is made by no page."""
    folder = root / FOLDER
    problems = []
    for name, text in sorted(files.items()):
        path = folder / name
        if not path.is_file():
            problems.append(f"{FOLDER}/{name}: missing; run `python -m regulatory build`")
            continue
        found = path.read_text("utf-8")
        if _differs(name, found, text):
            problems.append(f"{FOLDER}/{name}: {first_difference(found, text)}")
    for name in sorted(_committed(folder) - set(files)):
        problems.append(f"{FOLDER}/{name}: no page makes it; remove it or add its page")
    return problems


def first_difference(found: str, wanted: str) -> str:
    """Return where two texts part: the first line that differs, the line with the hash only if nothing else does."""
    old, new = found.splitlines(), wanted.splitlines()
    pairs = [
        (number, old[number] if number < len(old) else "nothing", new[number] if number < len(new) else "nothing")
        for number in range(max(len(old), len(new)))
    ]
    parted = [pair for pair in pairs if pair[1] != pair[2]]
    telling = [pair for pair in parted if "generated from `sha256:" not in pair[1]] or parted
    if not telling:
        return "differs in how its last line ends"
    number, before, after = telling[0]
    return f"line {number + 1} reads {_short(before, after)!r}, its sources give {_short(after, before)!r}"


def _short(line: str, other: str) -> str:
    """Return a line from a little before where it parts from the other."""
    start = next(
        (place for place, (a, b) in enumerate(zip(line, other, strict=False)) if a != b), min(len(line), len(other))
    )
    start = max(0, start - 40)
    return f"{'…' if start else ''}{line[start : start + 120]}{'…' if len(line) > start + 120 else ''}"


def _differs(name: str, found: str, wanted: str) -> bool:
    return not _same_drawing(found, wanted) if name.endswith(".svg") else found != wanted


def _same_drawing(found: str, wanted: str) -> bool:
    """Return whether two drawings look the same: equal but for a last digit, which processors may not agree on."""
    if found == wanted:
        return True
    # Labels and legends are figures, not coordinates.
    if _LABEL.findall(found) != _LABEL.findall(wanted):
        return False
    # Names inside the file are hashes of coordinates.
    plain = [re.sub(r'((?:id|href)="#?|url\(#)[^")]*', r"\1", text) for text in (found, wanted)]
    if _NUMBER.sub("0", plain[0]) != _NUMBER.sub("0", plain[1]):
        return False
    pairs = zip(_NUMBER.findall(plain[0]), _NUMBER.findall(plain[1]), strict=True)
    return all(abs(float(a) - float(b)) <= _SVG_TOLERANCE for a, b in pairs)


def _committed(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
