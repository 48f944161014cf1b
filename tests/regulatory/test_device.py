"""The device description is drawn from the tables the program runs; the predicates keep what is not known apart."""

import dataclasses
import shutil

import pytest

from cxr_node.deliver.destinations import DESTINATIONS
from cxr_node.findings import ACCEPTANCE_RULES
from cxr_node.reporting import BUILDERS
from regulatory.sources import device
from regulatory.sources.intended_use import manifests
from tests.conftest import ROOT


def _table(material, name):
    (found,) = [item for item in material.tables if item.id == name]
    return found


@pytest.mark.requirement("SRS-REG-077")
def test_the_flowchart_holds_every_rule_model_object_and_kind_of_destination():
    """A box that is missing is a step that a reviewer does not know of."""
    drawn = device.flowchart(manifests(ROOT))
    for rule in ACCEPTANCE_RULES:
        assert f'"{rule.reason}:' in drawn
    assert "pneumonia-adult 0" in drawn
    assert "pneumonia-paediatric 0" in drawn
    assert "abnormal-adult" not in drawn  # no model that runs by default
    assert all(device.OBJECT_NAMES[kind] in drawn for kind in BUILDERS)
    assert all(kind in drawn for kind in DESTINATIONS)


@pytest.mark.requirement("SRS-REG-077")
def test_a_rule_that_is_added_is_drawn(monkeypatch):
    """Drawn by hand, a flowchart is out of date with the next rule."""
    added = dataclasses.replace(ACCEPTANCE_RULES[0], reason="laterality")
    monkeypatch.setattr(device, "ACCEPTANCE_RULES", (*ACCEPTANCE_RULES, added))
    assert '"laterality:' in device.flowchart(manifests(ROOT))


@pytest.mark.requirement("SRS-REG-078")
def test_recalled_figures_of_cleared_devices_say_so():
    """A figure from memory beside a figure from a source must not look like it."""
    rows = {row[0].partition(" (")[0]: row for row in _table(device.gather(ROOT), "predicates.devices").rows}
    assert rows["HealthPNX"][3] == "0.983 (recalled, not verified)"
    assert rows["red dot"][3] == "0.975 (0.966 to 0.984)"
    assert rows["HealthCXR"][3] == "not found"
    assert not any("pneumonia" in row[1].lower() for row in rows.values())  # the gap that the page states


@pytest.mark.requirement("SRS-REG-078")
def test_an_unverified_column_that_does_not_exist_is_refused(tmp_path):
    """A slip in the list would print a recalled figure as a verified one."""
    for name in ("regulatory/predicates.toml",):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    path = tmp_path / "regulatory/predicates.toml"
    path.write_text(path.read_text().replace('unverified = ["auc",', 'unverified = ["acu",'))
    with pytest.raises(ValueError, match="acu"):
        device.gather(tmp_path)


@pytest.mark.requirement("SRS-REG-078")
def test_our_figures_stand_beside_theirs_and_follow_the_manifests(tmp_path):
    """Without packages the table is empty, and nothing is made up."""
    (tmp_path / "regulatory").mkdir()
    shutil.copyfile(ROOT / "regulatory/predicates.toml", tmp_path / "regulatory/predicates.toml")
    assert _table(device.gather(tmp_path), "predicates.ours").rows == ()
    assert _table(device.gather(ROOT), "predicates.ours").rows
