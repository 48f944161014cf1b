"""Requirements and tests name one another: no orphan on either side."""

import re
import tomllib

import pytest

from regulatory import syntax
from tests.conftest import ROOT

pytestmark = pytest.mark.requirement("SRS-REG-040")

IDENTIFIER = re.compile(r"SRS-[A-Z]{3}-\d{3}")


def _named_in_tests() -> set[str]:
    return {name for test in syntax.tests_of(ROOT) for name in test.requirements}


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
