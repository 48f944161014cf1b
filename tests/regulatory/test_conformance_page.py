"""The page of the Conformance Statement is what the command prints for the default configuration."""

import pytest

from cxr_node.cli.conformance import services, statement
from cxr_node.cli.conformance.blocks import markdown
from cxr_node.settings import Settings
from regulatory.sources import conformance
from tests.conftest import ROOT


@pytest.mark.requirement("SRS-REG-072")
def test_the_page_holds_the_statement_of_the_defaults_whatever_the_environment(monkeypatch, tmp_path):
    """A build on a machine with settings of its own gives the same file."""
    expected = markdown(statement(Settings()), first_level=3)
    monkeypatch.setenv("CXR_NODE__RECEIVE__PORT", "4242")
    monkeypatch.chdir(tmp_path)
    (text,) = conformance.gather(ROOT).texts
    assert text.markdown == expected
    assert "4242" not in text.markdown


@pytest.mark.requirement("SRS-REG-072")
def test_a_presentation_context_that_goes_changes_page_and_figures(monkeypatch):
    """The build names this page when a class is no longer accepted."""
    before = conformance.gather(ROOT)
    monkeypatch.setattr(services, "STORAGE_CLASSES", services.STORAGE_CLASSES[1:])
    after = conformance.gather(ROOT)
    assert after.texts != before.texts
    counts = [{figure.id: figure.value for figure in made.figures} for made in (before, after)]
    assert counts[1]["conformance.receive.classes"] == counts[0]["conformance.receive.classes"] - 1
