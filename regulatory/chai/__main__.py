"""`python -m regulatory.chai CARD.xml … [--schema schema.xsd]`: checks by the field list, or by CHAI's schema too."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regulatory.chai import check

# CHAI's schema allows an XML signature and asks for its schema from the network. Our cards have no signature: an
# element of any content stands in for it, and nothing is fetched.
_SIGNATURE = (
    '<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" targetNamespace="http://www.w3.org/2000/09/xmldsig#">'
    '<xs:element name="Signature"/></xs:schema>'
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the cards; return 0 when nothing is wrong with them."""
    parser = argparse.ArgumentParser(prog="python -m regulatory.chai", description=__doc__)
    parser.add_argument("cards", nargs="+", type=Path)
    parser.add_argument("--schema", type=Path, help="CHAI's schema.xsd, from https://mc.chai.org/v0.2/schema.xsd")
    chosen = parser.parse_args(arguments)
    problems = []
    for card in chosen.cards:
        text = card.read_text("utf-8")
        found = check(text) + (by_schema(text, chosen.schema) if chosen.schema else [])
        problems += [f"{card.name}: {problem}" for problem in found]
    for problem in problems:
        sys.stdout.write(f"{problem}\n")
    how = "by the field list and by the schema" if chosen.schema else "by the field list"
    sys.stdout.write(f"{len(problems)} problems {how}\n")
    return 1 if problems else 0


def by_schema(card: str, schema: Path) -> list[str]:
    """Return what CHAI's schema finds wrong with a card."""
    from lxml import etree

    class Signature(etree.Resolver):  # type: ignore[misc]  # lxml has no types here
        def resolve(self, url: str, _identifier: str, context: Any) -> Any:
            return self.resolve_string(_SIGNATURE, context) if "xmldsig" in url else None

    parser = etree.XMLParser(no_network=True)
    parser.resolvers.add(Signature())
    found = etree.XMLSchema(etree.parse(schema, parser))
    document = etree.fromstring(card.encode())
    found.validate(document)
    return [f"line {error.line}: {error.message}" for error in found.error_log]


if __name__ == "__main__":
    sys.exit(main())
