"""Checklists: each item has one answer, and each answer leads to a heading that is there."""

import shutil
import tomllib

import pytest

from regulatory.pages import PAGES
from regulatory.render import anchors
from regulatory.sources import crosswalk
from tests.conftest import ROOT

pytestmark = pytest.mark.requirement("SRS-REG-081")
OF_FILE = {page.file: page for page in PAGES}


def _items(name):
    return tomllib.loads((ROOT / crosswalk.FOLDER / f"{name}.toml").read_text())["item"]


@pytest.fixture
def copy(tmp_path):
    """The lists, to change, with the tests that they name."""
    shutil.copytree(ROOT / crosswalk.FOLDER, tmp_path / crosswalk.FOLDER)
    (tmp_path / "tests").symlink_to(ROOT / "tests")

    def change(name, old, new):
        path = tmp_path / crosswalk.FOLDER / f"{name}.toml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
        return tmp_path

    return change


@pytest.mark.parametrize("name", crosswalk.LISTS)
def test_every_answer_leads_to_a_page_and_heading_that_are_there(name):
    """An anchor that nobody follows is how a checklist is met on paper only."""
    for item in _items(name):
        for anchor in item.get("at", ()):
            page, _, heading = anchor.partition("#")
            assert page in OF_FILE, f"{name} {item['id']}: {page} is no page"
            if heading:
                template = (ROOT / "regulatory/text" / OF_FILE[page].template).read_text()
                assert heading in anchors(template), f"{name} {item['id']}: {page} has no heading {heading}"


@pytest.mark.parametrize(
    ("name", "count"),
    [("gmlp", 10), ("claim_2024", 44), ("tripod_ai", 27), ("stard_ai", 40), ("cfr_892_2080", 14)],
)
def test_no_item_of_a_list_is_left_out(name, count):
    """Items by their published numbers; parts of an item (3a, 3b) are one. Of the regulation every letter is a row."""
    items = [item["id"] for item in _items(name)]
    if name == "cfr_892_2080":
        assert len(items) == count
    else:
        assert sorted({int(item.rstrip("abcdefg")) for item in items}) == list(range(1, count + 1))


def test_what_is_recalled_is_said_to_be():
    """The text of the regulation was not at hand: nobody may take our words for it."""
    stated = tomllib.loads((ROOT / crosswalk.FOLDER / "cfr_892_2080.toml").read_text())
    assert stated["checked"].startswith("recalled:")
    (text,) = [item for item in crosswalk.gather(ROOT).texts if item.id == "crosswalk.cfr_892_2080.about"]
    assert stated["checked"] in text.markdown


def test_counts_follow_the_answers(copy):
    """A met item that becomes not met changes both counts."""
    before = {figure.id: figure.value for figure in crosswalk.gather(ROOT).figures}
    root = copy("gmlp", 'at = ["06_data/splits_and_leakage.md"]', 'not_met = "tried"')
    after = {figure.id: figure.value for figure in crosswalk.gather(root).figures}
    assert after["crosswalk.gmlp.not-met"] == before["crosswalk.gmlp.not-met"] + 1
    assert after["crosswalk.gmlp.met"] == before["crosswalk.gmlp.met"] - 1
    assert before["crosswalk.gmlp.items"] == after["crosswalk.gmlp.items"] == 10


@pytest.mark.parametrize(
    ("old", "new", "item"),
    [
        (', at = ["06_data/splits_and_leakage.md"]', "", "4"),
        (', at = ["11_labelling/ifu.md"]', ', at = ["a"], not_met = "b"', "9"),
        (', at = ["11_labelling/ifu.md"]', ', not_met = "b", missing = "c"', "9"),
        (', at = ["11_labelling/ifu.md"]', ', where = "a"', "9"),
    ],
)
def test_an_item_without_an_answer_or_with_two_is_refused(copy, old, new, item):
    """Silence is no answer."""
    with pytest.raises(ValueError, match=f"item '{item}'"):
        crosswalk.gather(copy("gmlp", old, new))


def test_a_page_that_is_not_made_is_not_met(copy):
    """A promise of a page is no page."""
    root = copy("gmlp", "11_labelling/ifu.md", "11_labelling/leaflet.md")
    (table,) = [item for item in crosswalk.gather(root).tables if item.id == "crosswalk.gmlp"]
    (row,) = [row for row in table.rows if row[0] == "9"]
    assert row[2] == "not met"
    assert "no such page" in row[3]


def test_a_defect_names_a_test_that_is_there(copy):
    """What keeps a defect out is a file that can be opened."""
    with pytest.raises(ValueError, match="which is no file"):
        crosswalk.gather(copy("course", "tests/regulatory/test_wording.py", "tests/regulatory/test_gone.py"))
