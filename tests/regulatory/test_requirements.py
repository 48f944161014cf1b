"""Requirements and tests name one another: no orphan on either side."""

import re
import tomllib

from tests.conftest import ROOT

IDENTIFIER = re.compile(r"SRS-[A-Z]{3}-\d{3}")


def _named_in_tests() -> set[str]:
    named: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for call in re.findall(r"mark\.requirement\(([^)]*)\)", path.read_text()):
            named.update(IDENTIFIER.findall(call))
    return named


def _stated() -> dict[str, str]:
    return tomllib.loads((ROOT / "regulatory" / "requirements.toml").read_text())["requirements"]


def test_every_requirement_has_a_test():
    """A requirement that nothing verifies is a wish."""
    assert sorted(set(_stated()) - _named_in_tests()) == []


def test_every_requirement_named_by_a_test_is_stated():
    """A test cannot trace to what is not written down."""
    assert sorted(_named_in_tests() - set(_stated())) == []


def test_identifiers_are_well_formed_and_stated_in_a_sentence():
    """A reviewer reads these."""
    for identifier, sentence in _stated().items():
        assert IDENTIFIER.fullmatch(identifier)
        assert sentence.endswith(".")
