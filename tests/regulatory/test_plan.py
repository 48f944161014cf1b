"""The plan of a validation: its numbers follow its goals, and it says that nothing of it was done."""

import shutil

import pytest

from regulatory.sources import plan
from tests.conftest import ROOT


@pytest.fixture
def copy(tmp_path):
    """The plan, to change."""
    (tmp_path / "regulatory").mkdir()
    shutil.copyfile(ROOT / plan.PLAN, tmp_path / plan.PLAN)

    def change(old, new):
        path = tmp_path / plan.PLAN
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        return tmp_path

    return change


def _figures(root):
    return {figure.id: figure for figure in plan.gather(root).figures}


@pytest.mark.requirement("SRS-REG-080")
def test_a_higher_goal_asks_for_more_cases(copy):
    """A number typed beside the goal would stay when the goal moves."""
    before = _figures(ROOT)["plan.adults.with"].value
    after = _figures(copy("sensitivity = 0.80", "sensitivity = 0.82"))["plan.adults.with"].value
    assert after > before


@pytest.mark.requirement("SRS-REG-080")
def test_what_is_collected_counts_losses_and_prevalence(copy):
    """Half the prevalence, twice the studies."""
    figures = _figures(ROOT)
    assert figures["plan.adults.collect-with"].value > figures["plan.adults.with"].value
    halved = _figures(copy("prevalence = 0.05", "prevalence = 0.025"))
    assert halved["plan.adults.look-through"].value == 2 * figures["plan.adults.look-through"].value


@pytest.mark.requirement("SRS-REG-080")
def test_every_step_says_that_it_was_not_done():
    """A plan that reads like a report is the defect of student submissions."""
    (table,) = [item for item in plan.gather(ROOT).tables if item.id == "plan.stages"]
    assert table.rows
    assert all(row[1].startswith("not done") for row in table.rows)
    template = (ROOT / "regulatory/text/validation_plan.md").read_text()
    assert template.startswith("**Nothing of this plan was done.**")


@pytest.mark.requirement("SRS-REG-080")
def test_a_goal_that_no_device_as_expected_can_meet_is_an_error(copy):
    """An impossible study is not printed with some number."""
    with pytest.raises(ValueError, match="above the goal"):
        plan.gather(copy("specificity = 0.80", "specificity = 0.88"))


@pytest.mark.requirement("SRS-REG-080")
def test_how_many_measured_sets_would_meet_the_goals_is_counted(copy):
    """Where no package is there nothing was measured, and lower goals are met by more of what was."""
    here = _figures(ROOT)["plan.sets-meeting-goals"]
    met, _, measured = here.shown.partition(" of ")
    assert int(met) == here.value <= int(measured)
    root = copy("specificity = 0.80", "specificity = 0.05")
    assert _figures(root)["plan.sets-meeting-goals"].shown == "not run"
    (root / "cxr_node").symlink_to(ROOT / "cxr_node")
    assert _figures(root)["plan.sets-meeting-goals"].value > here.value
