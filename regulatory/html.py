"""The regulatory file as one HTML page that needs nothing else: contents, drawings inside, no script."""

import posixpath
import re
from collections.abc import Mapping
from html import escape

from markdown_it import MarkdownIt
from markdown_it.token import Token

from regulatory.markdown import Headings, anchor, marks, places, target, tokens
from regulatory.mermaid import UnreadableFlowchart, flowchart
from regulatory.pages import Page
from regulatory.svg import inline
from trainer.report.words import BANNER

_STYLE = """
:root { color-scheme: light; --ink: #1f2933; --muted: #55606b; --rule: #d5dade; --accent: #0a5c8f; --warn: #fff4dc;
  --warn-ink: #5c4200; --zebra: #f5f7f8; }
* { box-sizing: border-box; }
html { scroll-padding-top: 3rem; }
body { margin: 0; color: var(--ink); background: #fff;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
.banner { position: sticky; top: 0; z-index: 2; background: var(--warn); color: var(--warn-ink); padding: .45rem 1.2rem;
  font-size: .9rem; text-align: center; border-bottom: 1px solid var(--rule); }
.both { display: grid; grid-template-columns: 19rem minmax(0, 1fr); max-width: 92rem; margin: 0 auto; }
nav { position: sticky; top: 2.3rem; height: calc(100vh - 2.3rem); overflow-y: auto; padding: 1.2rem 1rem 3rem;
  border-right: 1px solid var(--rule); font-size: .86rem; line-height: 1.35; }
nav ul { list-style: none; margin: 0; padding: 0; } nav li { margin: .3rem 0; } nav ul ul { padding-left: .9rem; }
nav a { color: var(--ink); text-decoration: none; } nav a:hover, nav a:focus { text-decoration: underline; }
nav .chapter { color: var(--muted); margin-top: .8rem; font-weight: 600; }
main { padding: 1rem 2.5rem 5rem; min-width: 0; }
section.page { border-bottom: 3px solid var(--rule); padding: 2rem 0 3rem; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: .4rem 0 .8rem; } h2 { font-size: 1.35rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1.1rem; margin: 1.6rem 0 .5rem; } h4, h5, h6 { font-size: 1rem; margin: 1.3rem 0 .4rem; }
p, li { max-width: 50rem; overflow-wrap: anywhere; } a { color: var(--accent); }
blockquote { margin: 0; color: var(--warn-ink); font-size: .88rem; } blockquote p { margin: 0; }
.made { color: var(--muted); font-size: .82rem; max-width: none; }
.caption { margin-bottom: .3rem; max-width: none; }
.path { color: var(--muted); }
code { font: .88em ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
pre { background: var(--zebra); padding: .7rem 1rem; overflow-x: auto; border: 1px solid var(--rule);
  line-height: 1.4; }
.wide { overflow-x: auto; margin: .5rem 0 1.5rem; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .32rem .8rem .32rem .4rem; max-width: 34rem;
  overflow-wrap: break-word; min-width: 3rem; border-bottom: 1px solid var(--rule); }
th { border-bottom: 2px solid var(--muted); } tbody tr:nth-child(even) { background: var(--zebra); }
figure { margin: 1rem 0 .3rem; max-width: 52rem; } figure svg { width: 100%; height: auto; display: block; }
figure.chart { overflow-x: auto; max-width: none; } figure.chart svg { width: auto; max-width: 100%; }
@page { size: A4; margin: 18mm 15mm 16mm; @top-center { content: "BANNER"; font: 8pt sans-serif; }
  @bottom-right { content: counter(page); font: 8pt sans-serif; } }
@media (max-width: 60rem) { .both { display: block; } nav { position: static; height: auto; border: 0; }
  main { padding: 1rem; } }
@media print { .banner { display: none; } .both { display: block; }
  body { font-size: 9.5pt; } main { padding: 0; }
 nav { position: static; height: auto; overflow: visible; border: 0; padding: 0; font-size: 9.5pt; }
  section.page { break-before: page; border: 0; padding: 0; } h1, h2, h3, h4, .caption { break-after: avoid; }
  figure, tr, pre { break-inside: avoid; } .wide, pre { overflow: visible; } pre { white-space: pre-wrap; }
  table { font-size: 7.6pt; width: 100%; } th, td { padding: .15rem .35rem; min-width: 0; }
  figure svg { max-height: 225mm; width: auto; max-width: 100%; } figure.chart svg { max-height: none; }
  thead { display: table-header-group; } a { color: inherit; } p, li { max-width: none; } }
"""


def html(files: Mapping[str, str], pages: tuple[Page, ...], version: str) -> str:
    """Return one HTML page of the pages in `files` that are there, in reading order.

    `files` : text of each page and drawing by its path in regulatory/file
    """
    there = [page for page in pages if page.file in files]
    known = places(files, pages)
    sections = "\n".join(_section(page, files, known) for page in there)
    title = f"cxr-node {version}: regulatory file"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{_STYLE.replace('BANNER', BANNER)}</style>\n</head>\n<body>\n"
        f'<div class="banner" role="note">{escape(BANNER)}</div>\n<div class="both">\n'
        f'<nav aria-label="Contents">{_contents(there)}</nav>\n<main>\n{sections}\n</main>\n</div>\n</body>\n</html>\n'
    )


def _contents(pages: list[Page]) -> str:
    lines, chapter = [], ""
    for page in pages:
        if page.chapter != chapter:
            lines.append("</ul></li>" if chapter else "")
            chapter = page.chapter
            name = chapter.partition("_")[2].replace("_", " ").capitalize()
            lines.append(f'<li><div class="chapter">{escape(name)}</div><ul>' if chapter else "")
        lines.append(f'<li><a href="#{anchor(page.file)}">{escape(page.title)}</a></li>')
    return f"<ul>{''.join(lines)}{'</ul></li>' if chapter else ''}</ul>"


def _section(page: Page, files: Mapping[str, str], known: Mapping[str, set[str]]) -> str:
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parsed = tokens(files[page.file])
    headings = Headings(page.file)
    for place, token in enumerate(parsed):
        if token.type == "heading_open":
            token.attrSet("id", headings.name(marks(parsed[place + 1].content)[0]))
        elif token.type == "fence" and token.info.strip() == "mermaid":
            token.type, token.content = "html_block", _chart(token.content)
        for child in token.children or []:
            _inside(child, token.children or [], page.file, files, known)
    body = parser.renderer.render(parsed, parser.options, {})
    body = re.sub("\ue000([^\ue001]+)\ue001", lambda found: f'<a id="{anchor(page.file, found[1])}"></a>', body)
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    body = re.sub(r"<p>(<strong>(?:Table|Figure): )", r'<p class="caption">\1', body)
    body = body.replace("<p>cxr-node <code>", '<p class="made">cxr-node <code>', 1)
    # A picture alone in its paragraph is a figure.
    body = re.sub(r"<p>(<figure.*?</figure>)</p>", r"\1", body, flags=re.DOTALL)
    return f'<section class="page" id="{anchor(page.file)}">\n{body}</section>'


def _inside(
    token: Token, beside: list[Token], page: str, files: Mapping[str, str], known: Mapping[str, set[str]]
) -> None:
    """Turn a link to a place in this document, or into plain text where it leads to a file; put drawings inside."""
    if token.type == "link_open":
        leads = target(page, str(token.attrGet("href")), known)
        if leads.kind == "file":
            closing = _closing(token, beside)
            token.type, token.content = "html_inline", f'<span class="path" title="{escape(leads.address)}">'
            closing.type, closing.content = "html_inline", "</span>"
        else:
            token.attrSet("href", leads.address if leads.kind == "outside" else f"#{leads.address}")
    elif token.type == "image":
        name = posixpath.normpath(posixpath.join(posixpath.dirname(page), str(token.attrGet("src"))))
        if name in files:
            drawn = inline(files[name], anchor(name.removesuffix(".svg")))
            label = escape(token.content, quote=True)
            token.type, token.content = "html_inline", f'<figure role="img" aria-label="{label}">{drawn}</figure>'


def _closing(opened: Token, beside: list[Token]) -> Token:
    after = beside[next(place for place, token in enumerate(beside) if token is opened) :]
    return next(token for token in after if token.type == "link_close")


def _chart(source: str) -> str:
    try:
        return f'<figure class="chart">{flowchart(source)}</figure>\n'
    except UnreadableFlowchart:
        return f"<pre><code>{escape(source)}</code></pre>\n"
