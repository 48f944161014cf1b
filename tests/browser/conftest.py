"""Chromium, and a department in its windows: a test here fails on any error in the console and any foreign request."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.watch import WITHIN_MS, Window
from tests.conftest import find_program
from tests.department import Department

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]


# For one module: while Playwright runs it holds this thread's event loop, and tests of other modules need their own.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One Chromium without a window on a screen."""
    expect.set_options(timeout=WITHIN_MS)
    with sync_playwright() as playwright:
        program = find_program("chromium")
        opened = playwright.chromium.launch(executable_path=program, headless=True, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def open_window(chromium: Browser) -> Iterator[Callable[..., Window]]:
    """Open windows, each of a browser without cookies; what went wrong in one fails the test."""
    opened: list[Window] = []

    def open_one(**options: Any) -> Window:
        opened.append(Window(chromium, **options))
        return opened[-1]

    yield open_one
    for window in opened:
        window.close()
    for window in opened:
        window.verify()


@pytest.fixture(scope="module")
def department(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Department]:
    """The pages of a node that has worked for a while, in this process."""
    opened = Department(tmp_path_factory.mktemp("department"))
    opened.furnish()
    opened.start()
    yield opened
    opened.stop()
