"""The preview on the study page: the values under the pointer, the window, and every move from the keyboard."""

import re
from collections.abc import Callable
from typing import Any

import pydicom
import pytest

from storage import instances, studies
from tests.browser.watch import Window
from tests.department import Department
from tests.pages import address

pytestmark = [pytest.mark.peer("chromium"), pytest.mark.requirement("SRS-STU-002")]

FLAGGED, EXCLUDED = 0, 4


@pytest.fixture
def window(department: Department, open_window: Callable[..., Any]) -> Window:
    """The page of a flagged study, its preview loaded."""
    opened = open_window()
    department.sign_in(opened, "reader")
    opened.page.goto(address(department, "/studies/{flagged}"))
    opened.page.locator(".progress", has_text="Showing").wait_for()
    return opened


def number(window: Window, name: str) -> float:
    """Return what stands beside a slider."""
    return float(window.page.locator(f"[data-out={name}]").inner_text())


def look(window: Window) -> str:
    """Return the whole picture, to be compared."""
    return str(window.page.evaluate("document.querySelector('.stage canvas').toDataURL()"))


def middle(window: Window) -> int:
    """Return the gray in the middle of the picture."""
    found: int = window.page.evaluate(
        """() => { const canvas = document.querySelector(".stage canvas");
        return canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data[0]; }"""
    )
    return found


def test_the_pointer_reads_the_stored_value_of_the_pixel_below(department, window):
    """A preview that showed other values than the modality's would be a picture of something else."""
    with department.database.read() as connection:
        (kept, *_) = instances.of_study(connection, department.uids[FLAGGED])
    pixels = pydicom.dcmread(department.files.path(kept.location)).pixel_array
    canvas = window.page.locator(".stage canvas")
    box = canvas.bounding_box()
    assert box is not None
    for across, down in ((0.5, 0.5), (0.42, 0.3), (0.55, 0.8)):
        window.page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
        text = window.page.locator(".readout").inner_text()
        told = re.fullmatch(r"column (\d+), row (\d+): (mean )?stored value (\d+)(, .*)?", text)
        assert told is not None, text
        column, row, stored = int(told[1]) - 1, int(told[2]) - 1, int(told[4])
        around = pixels[max(0, row - 3) : row + 4, max(0, column - 3) : column + 4]
        assert around.min() - 1 <= stored <= around.max() + 1


def test_window_zoom_and_inversion_work_from_the_keyboard(window):
    """Whoever cannot use a mouse, or does not want to, misses nothing."""
    canvas = window.page.locator(".stage canvas")
    canvas.focus()
    sent = look(window)
    with window.expecting("willReadFrequently"):
        gray = middle(window)
        canvas.press("i")
        assert middle(window) == pytest.approx(255 - gray, abs=2)
    canvas.press("s")
    assert look(window) == sent
    width, level = number(window, "width"), number(window, "level")
    canvas.press("[")
    assert number(window, "width") < width
    canvas.press(".")
    assert number(window, "level") > level
    assert window.page.locator("[data-do=sent]").get_attribute("aria-pressed") == "false"
    canvas.press("s")
    assert (number(window, "width"), number(window, "level")) == (width, level)
    canvas.press("+")
    zoomed = look(window)
    canvas.press("ArrowRight")
    assert len({sent, zoomed, look(window)}) == 3
    canvas.press("0")
    assert look(window) == sent


def test_a_drag_moves_the_window_and_the_other_tool_the_picture(window):
    """As in every viewer; on a tablet too, where there is no second button."""
    box = window.page.locator(".stage canvas").bounding_box()
    assert box is not None

    def drag() -> None:
        x, y = box["x"] + box["width"] / 2, box["y"] + 60
        window.page.mouse.move(x, y)
        window.page.mouse.down()
        window.page.mouse.move(x + 80, y + 60, steps=3)
        window.page.mouse.up()

    width, level = number(window, "width"), number(window, "level")
    drag()
    assert number(window, "width") > width
    assert number(window, "level") > level
    window.page.click("[data-do=sent]")
    window.page.click("[data-tool=pan]")
    drag()
    assert (number(window, "width"), number(window, "level")) == (width, level)


def test_the_picture_says_that_it_is_not_for_diagnosis(window):
    """On the picture itself, whatever is cut out of the screen around it."""
    stamp, canvas = window.page.locator(".stage .stamp"), window.page.locator(".stage canvas")
    assert stamp.inner_text() == "Preview for information only. Not for diagnosis."
    inner, outer = stamp.bounding_box(), canvas.bounding_box()
    assert inner is not None
    assert outer is not None
    assert outer["x"] <= inner["x"] + 1
    assert inner["y"] < outer["y"] + 40


@pytest.mark.requirement("SRS-STU-006")
def test_one_key_gives_a_verdict_and_none_does_while_typing(department, window):
    """A word typed into the comment must not be a verdict; the keys can be switched off for good."""
    page = window.page
    page.fill("textarea[name=comment]", "")
    page.type("textarea[name=comment]", "a dud, new")
    assert page.locator("[data-announce]").count() == 0
    page.locator("h1").click()
    page.keyboard.press("d")
    page.locator("#said", has_text="Disagreed").wait_for()
    assert page.locator(".said li").first.inner_text().endswith("a dud, new")
    assert page.locator("button[value=disagree]").get_attribute("aria-pressed") == "true"
    with department.database.read() as connection:
        found = studies.get(connection, department.uids[FLAGGED])
    assert found is not None
    assert found.verdict == "disagree"
    page.uncheck("[data-keys]")
    before = page.locator(".said li").count()
    page.locator("h1").click()
    page.keyboard.press("a")
    page.reload()
    page.locator("h1").click()
    page.keyboard.press("a")
    page.locator(".progress", has_text="Showing").wait_for()
    assert page.locator(".said li").count() == before


@pytest.mark.requirement("SRS-STU-005")
def test_an_open_page_says_that_there_is_something_newer(department, open_window):
    """A reader must not agree with what a late image has overtaken, nor lose their place because it has."""
    window = open_window()
    window.page.clock.install()
    department.sign_in(window, "reader")
    window.page.goto(address(department, "/studies/{excluded}"))
    newer = window.page.locator("#newer")
    window.page.clock.run_for(6000)
    assert newer.inner_text() == ""
    with department.database.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE studies SET status = 'pending' WHERE study_instance_uid = ?", (department.uids[EXCLUDED],)
        )
    window.page.clock.run_for(6000)
    newer.get_by_role("link", name="Show it").wait_for()
