"""The two pages about the other pages: every figure with its source and command, and the reading order."""

import posixpath
import re
from collections.abc import Iterable, Iterator

from regulatory.figures import NOTHING, PUBLISHED, Catalogue, Drawing, Figure, Item, RawFile, Table, Text
from regulatory.pages import README, Page
from regulatory.render import FOLDER, Rendered, anchor_of, escape, source_links


def figure_rows(catalogue: Catalogue, done: Iterable[Rendered]) -> str:
    """Return what the pages used, a table for each topic; each row has an anchor that the pages link to."""
    users: dict[tuple[type, str], list[str]] = {}
    for one in done:
        for item in one.used:
            users.setdefault((type(item), item.id), []).append(one.page.file)
    topics = sorted(
        {topic for key, topic in catalogue.topics.items() if key in users},
        key=lambda topic: (topic == PUBLISHED, topic),
    )
    return "\n\n".join("\n".join(_topic(topic, catalogue, users)) for topic in topics)


def _topic(topic: str, catalogue: Catalogue, users: dict[tuple[type, str], list[str]]) -> Iterator[str]:
    yield f"## {'Published elsewhere' if topic == PUBLISHED else topic.replace('_', ' ').capitalize()}"
    figures = [item for item in _of(topic, Figure, catalogue) if (Figure, item.id) in users]
    if figures:
        yield ""
        yield f"| figure | as printed | what it is | {'citation' if topic == PUBLISHED else 'source'} | command |"
        yield "|---|---|---|---|---|"
    for figure in figures:
        assert isinstance(figure, Figure)
        cells = (
            f'<a id="{anchor_of(figure)}"></a>`{figure.id}`',
            escape(figure.shown),
            escape(figure.says),
            _source(topic, figure, catalogue),
            f"`{figure.command}`" if figure.command else "",
        )
        yield f"| {' | '.join(cells)} |"
    others = [
        item for kind in (Table, Drawing, Text) for item in _of(topic, kind, catalogue) if (kind, item.id) in users
    ]
    if others:
        yield from ("", "| generated | on page | source | command |", "|---|---|---|---|")
    for item in others:
        assert isinstance(item, Table | Drawing | Text)
        pages = ", ".join(f"[{page}](page:{page})" for page in users[type(item), item.id])
        name = f'<a id="{anchor_of(item)}"></a>{type(item).__name__.lower()} `{item.id}`'
        command = f"`{item.command}`" if item.command else ""
        yield f"| {name} | {pages} | {_source(topic, item, catalogue)} | {command} |"


def _of(topic: str, kind: type, catalogue: Catalogue) -> list[Item]:
    return [item for item in catalogue.all(kind) if catalogue.topics[kind, item.id] == topic]


def _source(topic: str, item: Item, catalogue: Catalogue) -> str:
    if topic == PUBLISHED:
        return escape(item.source)
    links = source_links(item.source, lambda path: (catalogue.root / path).exists())
    pointer = item.pointer if isinstance(item, Figure | Table) else ""
    return f"{links} `{pointer}`".replace("|", "\\|") if pointer else links


def reading_order(pages: tuple[Page, ...], catalogue: Catalogue) -> str:
    """Return the pages as a list in reading order, chapters apart, each with its line."""
    lines = []
    chapter = ""
    files = sorted(item.id for item in catalogue.all(RawFile))
    for page in pages:
        if page.file == README:
            continue
        if page.chapter != chapter and page.chapter:
            lines.append(f"- `{page.chapter}/`")
        chapter = page.chapter
        indent = "  " if chapter else ""
        lines.append(f"{indent}- [{page.title}](page:{page.file}){f': {page.says}' if page.says else ''}")
    lines += [f"- [`{name}`]({posixpath.relpath(f'{FOLDER}/{name}', FOLDER)})" for name in files]
    return "\n".join(lines)


def open_points(done: Iterable[Rendered]) -> str:
    """Return how often each page says that something was not done, run, measured or met."""
    rows = []
    for one in done:
        text = one.text.lower()
        counts = [len(re.findall(rf"\b{word}\b", text)) for word in NOTHING]
        if any(counts):
            name = f"[{one.page.title}](page:{one.page.file})"
            rows.append(f"| {name} | {' | '.join(str(count) if count else '' for count in counts)} |")
    lines = (
        ["No page says so."] if not rows else [f"| page | {' | '.join(NOTHING)} |", "|---|---:|---:|---:|---:|", *rows]
    )
    caption = "**Table: how often each page says that something was left.** Counted in the pages themselves."
    return "\n".join(["<!-- table open-points -->", caption, "", *lines, "<!-- end open-points -->"])
