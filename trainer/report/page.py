"""A document as one HTML file that needs nothing else: styles and figures are inside, there is no script."""

import base64
from collections.abc import Iterator, Sequence
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined

from trainer.report.document import Block, Document
from trainer.report.words import BANNER


def html(document: Document) -> str:
    """Return the document as HTML; every text is escaped, whatever a cohort's tables call their cases."""
    environment = Environment(
        loader=PackageLoader("trainer.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=False
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["grouped"] = _grouped
    return environment.get_template("document.html").render(document=document, banner=BANNER) + "\n"


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _grouped(blocks: Sequence[Block]) -> Iterator[tuple[str, list[Block]]]:
    """Yield neighbours of one kind together: figures that fit stand side by side."""
    for kind, group in groupby(blocks, key=lambda block: type(block).__name__):
        yield kind, list(group)
