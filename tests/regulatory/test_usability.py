"""Use scenarios: each is answered by a requirement, and none claims to have been tried with users."""

import shutil
import tomllib

import pytest

from regulatory.sources import usability
from tests.conftest import ROOT

pytestmark = pytest.mark.requirement("SRS-REG-082")


@pytest.fixture
def copy(tmp_path):
    """The scenarios, to change."""
    (tmp_path / "regulatory").mkdir()
    for name in (usability.FILE, "regulatory/requirements.toml"):
        shutil.copyfile(ROOT / name, tmp_path / name)

    def change(old, new):
        path = tmp_path / usability.FILE
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
        return tmp_path

    return change


def _scenarios(root):
    (table,) = [item for item in usability.gather(root).tables if item.id == "usability.scenarios"]
    return table.rows


def test_every_scenario_prints_its_requirement_and_that_no_user_tried_it():
    """A measure without a requirement is a wish; a test that was not done is not hinted at."""
    known = tomllib.loads((ROOT / "regulatory/requirements.toml").read_text())["requirements"]
    for row in _scenarios(ROOT):
        identifier, _, sentence = row[5].partition(": ")
        assert known[identifier] == sentence
        assert row[6] == "no user test done"
    assert (ROOT / "regulatory/text/usability.md").read_text().startswith("**No user test was done**")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('requirement = "SRS-WLT-003"', 'requirement = "SRS-WLT-999"', "SRS-WLT-999"),
        ('[[scenario]]\nuser = "Radiologist"', '[[scenario]]\nuser = "Passer-by"', "Passer-by"),
    ],
)
def test_a_scenario_of_an_unknown_requirement_or_user_is_refused(copy, old, new, told):
    """The table cannot name what nobody states."""
    with pytest.raises(ValueError, match=told):
        usability.gather(copy(old, new))


def test_a_changed_scenario_changes_the_page(copy):
    """What is printed is what is written down."""
    root = copy("Delayed or missed disease", "Another harm")
    assert "Another harm" in [row[3] for row in _scenarios(root)]
    assert "Another harm" not in [row[3] for row in _scenarios(ROOT)]
