"""The Conformance Statement as a document: in the template's order, and made of what the program runs with.

Whether it holds on the wire is shown by tests/system/test_conformance.py.
"""

import re

import pytest
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    PositronEmissionTomographyImageStorage,
    UID_dictionary,
)

from cxr_node.cli.conformance import services, statement
from cxr_node.cli.conformance.blocks import Grid, Heading, grid, markdown
from cxr_node.cli.conformance.overview import SR_TEMPLATES, service_of
from cxr_node.reporting import BUILDERS
from cxr_node.settings import Destination, Peer, Settings
from cxr_node.upkeep.audit_events import EVENTS
from tests.builders import make_material, make_objects, make_radiograph_dataset

pytestmark = pytest.mark.requirement("SRS-REG-072")

# Chapters and the sections of the first level, as PS3.2 Annex N numbers them.
ORDER = (
    *("1", "1.1", "1.2", "1.3", "1.4", "1.5", "1.6", "1.7", "2", "3", "3.1", "3.2", "3.3", "3.4", "3.5", "3.6"),
    *("4", "4.1", "5", "5.1", "5.2", "5.3", "5.4", "5.5", "5.6", "5.7", "6", "6.1", "6.2", "6.3", "6.4", "6.5", "6.6"),
    *("7", "7.1", "7.2", "7.3", "8", "8.1", "8.2", "8.3", "8.4", "8.5", "8.6", "8.7"),
)


def _grids(settings: Settings | None = None) -> dict[str, Grid]:
    return {block.title: block for block in statement(settings or Settings()) if isinstance(block, Grid)}


def test_sections_stand_in_the_order_of_annex_n():
    """A PACS administrator lays two statements side by side."""
    headings = [block for block in statement(Settings()) if isinstance(block, Heading)]
    numbered = [found[0] for block in headings if (found := re.match(r"[\d.]+(?= )", block.text))]
    assert tuple(number for number in numbered if number.count(".") <= 1) == ORDER
    annexes = [block.text for block in headings if block.text.startswith("Annex")]
    assert [text.split()[1] for text in annexes] == ["A", "B", "C", "D", "E"]
    for block in headings:  # a heading's depth is that of its number
        if found := re.match(r"\d[\d.]*(?= )", block.text):
            assert block.level == found[0].count(".") + 1


def test_a_class_that_is_taken_out_or_added_changes_the_statement(monkeypatch):
    """The table is read from the code that listens, not written beside it."""
    before = {row[1] for row in _grids()["Presentation contexts accepted by STORAGE"].rows}
    assert ComputedRadiographyImageStorage in before
    monkeypatch.setattr(
        services,
        "STORAGE_CLASSES",
        (
            *(uid for uid in services.STORAGE_CLASSES if uid != ComputedRadiographyImageStorage),
            PositronEmissionTomographyImageStorage,
        ),
    )
    after = {row[1] for row in _grids()["Presentation contexts accepted by STORAGE"].rows}
    assert before ^ after == {str(ComputedRadiographyImageStorage), str(PositronEmissionTomographyImageStorage)}


def test_a_transfer_syntax_that_is_taken_out_changes_what_is_said_to_be_accepted(monkeypatch):
    """Also in the question that the system test asks for every pair."""
    listener = services.listeners(Settings())[0]
    assert listener.takes(ComputedRadiographyImageStorage, ExplicitVRLittleEndian)
    kept = tuple(syntax for syntax in services.TRANSFER_SYNTAXES if syntax != ExplicitVRLittleEndian)
    monkeypatch.setattr(services, "TRANSFER_SYNTAXES", kept)
    listener = services.listeners(Settings())[0]
    assert not listener.takes(ComputedRadiographyImageStorage, ExplicitVRLittleEndian)


def test_objects_made_are_of_the_classes_and_templates_stated():
    """Built for once, and held against the annex."""
    made = make_objects(make_material(make_radiograph_dataset(), profile="research"))
    assert set(made) == set(BUILDERS)
    for kind, dataset in made.items():
        assert services.made_classes()[kind] == dataset.SOPClassUID
        if "ContentTemplateSequence" in dataset:
            assert dataset.ContentTemplateSequence[0].TemplateIdentifier == SR_TEMPLATES[kind][0]
        else:
            assert kind not in SR_TEMPLATES


def test_what_a_configuration_makes_happen_is_named_in_it():
    """A site hands in what its node does, and not what a node could do."""
    assert not any(activity.active for activity in services.activities(Settings()))
    settings = Settings(
        destination=(
            Destination(name="pacs", ae_title="PACS", host="192.0.2.1"),
            Destination(name="tasks", kind="ups", ae_title="RIS", host="192.0.2.2"),
            Destination(name="quiet", ae_title="OLD", host="192.0.2.3", commit=False),
        ),
        peer=(Peer(ae_title="VIEWER", host="192.0.2.4"),),
    )
    active = {activity.name: activity.active for activity in services.activities(settings)}
    assert active["Send result objects"] == ("pacs", "quiet")
    assert active["Prove delivery by query"] == ("pacs",)
    assert active["Create reading tasks"] == ("tasks",)
    assert active["Report storage commitment"] == ("VIEWER",)
    assert active["Fetch studies"] == ()


def test_a_password_in_an_address_is_not_printed():
    """The statement is handed to others."""
    settings = Settings(
        destination=(
            Destination(name="web", kind="stow-rs", url="https://node:geheim@pacs.example/dicom-web"),
            Destination(name="hook", kind="webhook", url="https://node:geheim@ris.example/hook"),
        )
    )
    text = markdown(statement(settings))
    assert "geheim" not in text
    assert "https://…@pacs.example/dicom-web" in text
    assert "https://…@ris.example/hook" in text


def test_every_event_of_the_audit_trail_is_accounted_for():
    """As a message, or with the reason why it is none."""
    grids = _grids()
    told = [row[0] for title in ("Audit messages", "Entries without a message") for row in grids[title].rows]
    assert sorted(told) == sorted(EVENTS)


def test_a_class_that_belongs_to_no_service_is_an_error():
    """Left out of the overview, it would be accepted and not stated."""
    with pytest.raises(ValueError, match="belongs to no service"):
        service_of("1.2.840.10008.5.1.1.1")


def test_every_uid_printed_is_one_of_the_standard_or_our_own():
    """A slip in a UID sends an integrator looking for a class that is not there."""
    printed = set(re.findall(r"\b1\.2\.840\.10008[\d.]*\d", markdown(statement(Settings()))))
    assert printed
    assert printed <= set(UID_dictionary)


def test_tables_become_markdown_that_holds_together():
    """A bar in a cell ends the cell; a table without rows says so; a short row is an error."""
    text = markdown([Heading(1, "1 A"), grid("T", ("a", "b"), [("x|y", 1)]), grid("E", ("a", "b"), [])], source="S")
    assert text.startswith("## 1 A\n")
    assert "| x\\|y | 1 |" in text
    assert "| none |  |" in text
    assert "*Table: T (S).*" in text
    with pytest.raises(ValueError, match="row of 1 cells, expected 2"):
        grid("T", ("a", "b"), [("x",)])
