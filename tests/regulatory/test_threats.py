"""The threat model points to what there is: tests, requirements, interfaces."""

import re
import tomllib

import pytest
from pydantic import BaseModel

from cxr_node.settings import DESTINATION_NEEDS, Settings
from regulatory import threats
from tests.conftest import ROOT

MODEL = threats.read()
# Keys by which something outside is reached or let in, by their last part.
OPENING = re.compile(
    r"(^|_)(port|url|issuer|tls|path|secret_file|database|instances|backup_dir|key_file|models|shadow)$"
)


def _tests():
    names = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        names.update(re.findall(r"(?m)^(?:async )?def (test_\w+)", path.read_text()))
    return names


def _keys(model, prefix=""):
    """Every key of node.toml, those of its lists without a number."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        inner = [kind for kind in (field.annotation, *getattr(field.annotation, "__args__", ())) if _is_section(kind)]
        if inner and name not in ("tls", "hl7_tls", "dicom_tls", "caller", "drop"):
            yield from _keys(inner[0], f"{key}.")
        else:
            yield key


def _is_section(kind):
    return isinstance(kind, type) and issubclass(kind, BaseModel)


@pytest.mark.requirement("SRS-SUP-010")
def test_every_test_that_a_threat_names_is_there():
    """A control that is proved by a test which nobody runs any more is a claim."""
    there = _tests()
    missing = {(item.interface, name) for item in MODEL.threats for name in item.tests if name not in there}
    assert sorted(missing) == []


@pytest.mark.requirement("SRS-SUP-010")
def test_every_requirement_that_a_threat_names_is_stated():
    """And none by a number only."""
    stated = tomllib.loads((ROOT / "regulatory" / "requirements.toml").read_text())["requirements"]
    assert sorted({name for item in MODEL.threats for name in item.requirements} - set(stated)) == []


@pytest.mark.requirement("SRS-SUP-010")
def test_every_control_has_a_test_and_says_what_is_left():
    """No control is perfect; a row that says nothing of its limits was not thought through."""
    for item in MODEL.threats:
        assert item.tests, item.threat
        assert all(text.endswith(".") for text in (item.threat, item.control, item.residual)), item.threat


@pytest.mark.requirement("SRS-SUP-011")
def test_every_interface_of_node_toml_has_threats():
    """A new port, address or path opens the node; somebody must have thought of it."""
    known = {key for interface in MODEL.interfaces for key in interface.settings}
    keys = set(_keys(Settings))
    opening = {key for key in keys if OPENING.search(key.rsplit(".", 1)[-1])}
    assert len(opening) > 20
    assert sorted(opening - known) == []
    assert sorted(known - keys) == [], "keys that node.toml no longer has"
    named = {item.interface for item in MODEL.threats}
    assert [interface.name for interface in MODEL.interfaces if interface.name not in named] == []


@pytest.mark.requirement("SRS-SUP-011")
def test_every_kind_of_destination_is_thought_of():
    """They share one row of interfaces, which lists them."""
    (title,) = [interface.title for interface in MODEL.interfaces if interface.name == "destinations"]
    assert all(kind in title for kind in DESTINATION_NEEDS)


@pytest.mark.requirement("SRS-SUP-011")
def test_the_tables_hold_every_row():
    """What a reviewer reads."""
    text = threats.markdown(MODEL)
    assert all(item.threat in text and item.residual in text for item in MODEL.threats)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.count(" | ") for line in rows} == {len(threats.HEADINGS) - 1}
