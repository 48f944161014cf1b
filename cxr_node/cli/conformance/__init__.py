"""`cxr-node conformance`: the DICOM Conformance Statement of this configuration, in the order of PS3.2 Annex N."""

import argparse
from collections.abc import Iterator

from cxr_node import __version__
from cxr_node.cli.conformance import annexes, network, overview, services_chapter
from cxr_node.cli.conformance.blocks import Block, markdown
from cxr_node.settings import Settings


def statement(settings: Settings) -> Iterator[Block]:
    """Yield the statement, chapter by chapter; nothing is started and no file is read."""
    yield from overview.overview(settings)
    yield from overview.introduction()
    yield from services_chapter.model(settings)
    yield from services_chapter.services(settings)
    yield from network.configuration(settings)
    yield from network.communication(settings)
    yield from network.security(settings)
    yield from annexes.annexes()


def conformance(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print the statement as Markdown."""
    print(f"# DICOM Conformance Statement of cxr-node {__version__}\n")
    print(
        f"Configuration: {arguments.config or 'built-in defaults'}. Research prototype, not cleared for clinical use.\n"
    )
    print(markdown(statement(settings)), end="")
    return 0
