"""WCAG 2.2 AA on every page, as far as axe-core sees it: light and dark, wide and on a tablet."""

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page

from cxr_node.worklist.services import make_services
from cxr_node.worklist.web.app import create_app
from cxr_node.worklist.web.rendering import ADMIN_PLACES, PLACES
from tests.browser.watch import TABLET, WIDE
from tests.department import Department
from tests.department_site import TRIED
from tests.pages import PAGES, PARTS, address, is_looked_at, routes_of, status_of

pytestmark = pytest.mark.peer("chromium")

TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
COLORS = ["color-contrast", "link-in-text-block"]
LAYOUT = ["target-size", "color-contrast", "scrollable-region-focusable"]


@pytest.mark.requirement("SRS-WEB-003")
def test_every_page_is_looked_at(department):
    """A page that nobody put on the list would be one that nobody checks."""
    app = create_app(make_services(department.settings, department.database, department.clock))
    pages = [route for route in routes_of(app) if "GET" in route.methods and not route.include_in_schema]
    assert [route.path for route in pages if not is_looked_at(route.path)] == []
    assert {place.href for place in (*PLACES, *ADMIN_PLACES)} <= set(PAGES)


@pytest.mark.requirement("SRS-WEB-003")
@pytest.mark.parametrize("path", [path for path in PAGES if path not in PARTS])
def test_a_page_has_no_serious_barrier(department: Department, open_window: Callable[..., Any], path: str):
    """Names, labels, roles, contrast, order of headings, size of targets: what a machine can see of WCAG 2.2 AA."""
    window = open_window(viewport=WIDE)
    if PAGES[path]:
        department.sign_in(window, PAGES[path])
    with window.expecting("404"):
        answer = window.page.goto(address(department, path))
    assert answer.status == status_of(path)
    window.page.evaluate(AXE_SCRIPT)
    found = _violations(window.page, {"runOnly": {"type": "tag", "values": TAGS}})
    window.page.emulate_media(color_scheme="dark")
    found += _violations(window.page, {"runOnly": {"type": "rule", "values": COLORS}})
    window.page.set_viewport_size(TABLET)
    found += _violations(window.page, {"runOnly": {"type": "rule", "values": LAYOUT}})
    assert found == [], "\n".join(found)
    assert window.page.evaluate("document.documentElement.scrollWidth") <= TABLET["width"]


def _violations(page: Page, options: dict[str, Any]) -> list[str]:
    result = page.evaluate(
        "options => axe.run(document, options)", {**options, "resultTypes": ["violations", "passes"]}
    )
    assert len(result["passes"]) >= 1, "axe looked at nothing"
    return [
        f"{item['impact']} {item['id']}: {node['target']} {node['failureSummary'][:200]}"
        for item in result["violations"]
        if item["impact"] in ("serious", "critical")
        for node in item["nodes"]
    ]


@pytest.mark.requirement("SRS-WEB-003")
def test_the_help_dialog_and_dropped_results_have_no_serious_barrier(department: Department, open_window):
    """What opens on a page is part of it."""
    window = open_window()
    department.sign_in(window, "admin")
    page = window.page
    page.goto(department.url)
    page.wait_for_selector("#live.on")
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    page.evaluate(AXE_SCRIPT)
    found = _violations(page, {"runOnly": {"type": "tag", "values": TAGS}})
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog:not([open])", state="attached")
    page.goto(f"{department.url}/drop")
    page.evaluate(f"htmx.ajax('GET', '/drop/results?key={TRIED}', {{target: '#results', swap: 'innerHTML'}})")
    page.wait_for_selector("#results tbody tr")
    page.evaluate(AXE_SCRIPT)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found += _violations(page, {"runOnly": {"type": "tag", "values": TAGS}})
    assert found == [], "\n".join(found)


@pytest.mark.requirement("SRS-WEB-003")
def test_the_checker_finds_what_is_wrong(department: Department, open_window):
    """A checker that finds nothing anywhere would be no proof."""
    window = open_window()
    page = window.page
    page.goto(f"{department.url}/login")
    page.evaluate("document.querySelector('label').remove()")
    page.evaluate(AXE_SCRIPT)
    found = "\n".join(_violations(page, {"runOnly": {"type": "tag", "values": TAGS}}))
    assert "critical label" in found
