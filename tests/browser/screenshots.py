"""`python -m tests.browser.screenshots OUT`: each page of a drawn department, light and dark, for people to look at.

The radiographs are drawings and the patients were never born. README shows those of deploy/screenshots.
"""

import argparse
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.browser.conftest import ARGUMENTS
from tests.browser.history import live_through
from tests.browser.watch import TABLET, WIDE, Window
from tests.conftest import find_program
from tests.department import Department
from tests.department_site import TRIED
from tests.pages import address

SHOTS = {
    "sign-in": ("/login", ""),
    "account": ("/account", "reader"),
    "worklist": ("/", "reader"),
    "study": ("/studies/{flagged}", "reader"),
    "study-not-analysed": ("/studies/{excluded}", "reader"),
    "try-images": ("/drop", "admin"),
    "admin-health": ("/admin", "admin"),
    "admin-senders": ("/admin/senders", "admin"),
    "admin-destinations": ("/admin/destinations", "admin"),
    "admin-jobs": ("/admin/jobs", "admin"),
    "admin-rules": ("/admin/rules", "admin"),
    "admin-models": ("/admin/models", "admin"),
    "admin-model": ("/admin/models/pneumonia-adult", "admin"),
    "admin-model-plan": ("/admin/models/pneumonia-adult/plan?state=off", "admin"),
    "admin-charts": ("/admin/charts", "admin"),
    "admin-retention": ("/admin/retention", "admin"),
    "admin-users": ("/admin/users", "admin"),
    "admin-audit": ("/admin/audit", "auditor"),
    "api": ("/docs", "reader"),
    "not-found": ("/no-such-page", "reader"),
}


def main() -> None:
    """Draw them all, or those whose names are given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("name", nargs="*", help=f"only these: {', '.join(SHOTS)}")
    parser.add_argument("--tablet", action="store_true", help="820 px wide")
    parser.add_argument("--full", action="store_true", help="the whole page, not one screen")
    chosen = parser.parse_intermixed_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    department = Department(Path(tempfile.mkdtemp(prefix="cxr-department-")))
    department.furnish()
    live_through(department)
    department.start()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=find_program("chromium"), args=ARGUMENTS)
            size = TABLET if chosen.tablet else WIDE
            windows = {role: Window(browser, viewport=size) for role in ("", "reader", "admin", "auditor")}
            for role in ("reader", "admin", "auditor"):
                department.sign_in(windows[role], role)
            for name in chosen.name or SHOTS:
                path, role = SHOTS[name]
                page = windows[role].page
                page.goto(address(department, path))
                _drawn(page, name)
                for scheme in ("light", "dark"):
                    page.emulate_media(color_scheme=scheme)
                    drawn = Image.open(BytesIO(page.screenshot(full_page=chosen.full))).convert("RGB")
                    # Few colors suffice for a page, and take a third of the bytes.
                    drawn.quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
                        chosen.out / f"{name}-{scheme}.png", optimize=True
                    )
                print(name, windows[role].troubles or "")
            browser.close()
    finally:
        department.stop()


def _drawn(page: Page, name: str) -> None:
    """Wait for what scripts draw."""
    if name.startswith("study"):
        page.wait_for_selector("figure.stage .message", state="hidden")
    if name == "worklist":
        page.wait_for_selector("#live.on")
    if name == "try-images":  # what came of files before: no models run here
        page.evaluate(f"htmx.ajax('GET', '/drop/results?key={TRIED}', {{target: '#results', swap: 'innerHTML'}})")
        page.wait_for_selector("#results tbody tr")


if __name__ == "__main__":
    main()
