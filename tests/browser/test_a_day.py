"""A day at the node, in the order a person lives it, in Chromium: each test goes on where the one before it ended."""

import csv
import io
import json
import re
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, expect
from pydicom.uid import generate_uid

from cxr_node.cli.phantom import phantom_dataset
from tests.browser.watch import WITHIN_MS, Window
from tests.builders import make_radiograph_dataset
from tests.conftest import find_program
from tests.system.conftest import Node, free_port, wait_until

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.peer("chromium", "storescu", "storescp", "echoscu"),
    pytest.mark.timeout(300),  # the first node of a session makes its models ready
]

PASSWORD = "seven quiet lungs breathe"
LOUD = "00000061_012.jpg"  # a picture that report and radiologist call pneumonia
FIRST = WITHIN_MS * 2  # what waits for a model's first answer


@dataclass
class Day:
    """The node, the person's window, and what one test tells the next."""

    node: Node
    window: Window
    pacs_port: int
    folder: Path
    uids: dict[str, str] = field(default_factory=dict)

    def send(self, name: str, ae_title: str = "CR_ROOM_1") -> "subprocess.CompletedProcess[str]":
        """Send one study as a modality does; `name` is the patient's, and says which picture."""
        path = self.folder / f"{generate_uid()}.dcm"
        dataset = _radiograph(name)
        dataset.save_as(path, enforce_file_format=True)
        self.uids[name] = str(dataset.StudyInstanceUID)
        return self.node.send(path, options=("-R", "-xs"), ae_title=ae_title)

    def goto(self, path: str) -> None:
        """Open a page."""
        self.window.page.goto(self.node.url + path)


def _radiograph(name: str):
    if name == "Loud^Lena":
        from tests.conftest import SHARED_DATA

        pixels = cv2.imread(str(SHARED_DATA / "cxr14" / LOUD), cv2.IMREAD_GRAYSCALE)
        pixels = cv2.resize(pixels, (1024, 1024), interpolation=cv2.INTER_LINEAR)
        dataset = make_radiograph_dataset(pixels, AccessionNumber="LOUD1")
    else:
        dataset = phantom_dataset(datetime.now(UTC), np.random.default_rng(1), opacity=0.0, accession_number="QUIET1")
    dataset.PatientName, dataset.PatientID = name, name.partition("^")[0].upper()
    return dataset


@pytest.fixture(scope="module")
def day(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    """A node that just was installed, with one modality and a PACS that is not there yet."""
    folder, pacs_port = tmp_path_factory.mktemp("day"), free_port()
    node = Node(
        folder / "node",
        require_token="auto",
        extra='[[caller]]\nae_title = "CR_ROOM_1"\n',
        destinations=[
            {
                "name": "pacs",
                "kind": "c-store",
                "ae_title": "PACS",
                "host": "127.0.0.1",
                "port": pacs_port,
                "settle_s": 0.2,
                "max_attempts": 1,
                "commit": False,
            }
        ],
    )
    node.start()
    window = Window(chromium, accept_downloads=True)
    try:
        yield Day(node, window, pacs_port, folder)
    finally:
        window.close()
        node.stop()


@pytest.fixture(autouse=True)
def _nothing_went_wrong(day: Day) -> Iterator[None]:
    yield
    day.window.verify()


@contextmanager
def _pacs(day: Day) -> Iterator[Path]:
    kept = day.folder / "pacs"
    kept.mkdir(exist_ok=True)
    program = find_program("storescp")
    assert program is not None
    process = subprocess.Popen([program, "-aet", "PACS", "-od", str(kept), str(day.pacs_port)])
    echo = ["echoscu", "-aec", "PACS", "127.0.0.1", str(day.pacs_port)]
    try:
        wait_until(lambda: subprocess.run(echo, capture_output=True).returncode == 0, 30, "the PACS answers")
        yield kept
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.requirement("SRS-WEB-101")
def test_the_first_admin_signs_in_with_the_password_of_the_console_and_must_change_it(day):
    """No password is known beforehand; until it is changed every page leads to the account."""
    console = day.node.console_path.read_text()
    found = re.search(r"one-time password\s+(\S+)", console)
    assert found, console
    page = day.window.page
    day.goto("/")
    expect(page).to_have_url(re.compile("/login"))
    page.get_by_label("Login").fill("admin")
    page.get_by_label("Password").fill("not this one")
    with day.window.expecting("401"):
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("wrong")
    page.get_by_label("Login").fill("admin")
    page.get_by_label("Password").fill(found[1])
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(re.compile("/account"))
    day.goto("/")
    expect(page).to_have_url(re.compile("/account"))
    page.get_by_label("Current password").fill(found[1])
    page.get_by_label("New password", exact=True).fill(PASSWORD)
    page.get_by_label("New password again").fill(PASSWORD)
    page.get_by_role("button", name="Change password").click()
    expect(page.get_by_role("heading", name="Worklist")).to_be_visible()
    expect(page.locator("#rows")).to_contain_text("No study yet")


@pytest.mark.requirement("SRS-WEB-102")
def test_a_flagged_study_rises_live_above_one_that_waits_for_longer(day):
    """Nobody touches the page: the rows come and order themselves."""
    page = day.window.page
    expect(page.locator("#live-text")).to_have_text("live")
    page.evaluate("window.notReloaded = true")
    assert day.send("Quiet^Karl").returncode == 0
    row = page.locator("#rows tr[data-key]")
    expect(row).to_have_count(1)
    expect(row.first).to_contain_text("Not flagged", timeout=FIRST)
    assert day.send("Loud^Lena").returncode == 0
    expect(row).to_have_count(2)
    expect(row.first).to_contain_text("Loud, Lena", timeout=FIRST)
    expect(row.first).to_contain_text("Flagged")
    expect(row.first).to_contain_text("raised by AI from ROUTINE")
    expect(row.nth(1)).to_contain_text("Quiet, Karl")
    assert page.evaluate("window.notReloaded")


@pytest.mark.requirement("SRS-WEB-103")
def test_a_reader_opens_it_and_agrees_by_keys_alone(day):
    """j, Enter, a: and the list says so."""
    page = day.window.page
    page.keyboard.press("j")
    expect(page.locator("#rows tr").first.locator("th a")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Loud, Lena")
    expect(page.locator("main")).not_to_contain_text(re.compile("probability", re.I))
    expect(page.locator("figure.stage canvas")).to_be_visible()
    page.wait_for_function("document.querySelector('figure.stage canvas').width > 64")
    page.keyboard.press("a")
    expect(page.locator("#assessment")).to_contain_text("Agreed")
    page.get_by_role("link", name="Back to the worklist").click()
    expect(page.locator("#rows tr").first).to_contain_text("Agreed")


@pytest.mark.requirement("SRS-WEB-104")
def test_filters_and_search_are_in_the_address_and_the_back_button_undoes_them(day):
    """A link to a list can be sent to a colleague."""
    page = day.window.page
    rows = page.locator("#rows tr[data-key]")
    expect(page.locator("#live-text")).to_have_text("live")
    page.keyboard.press("f")
    expect(rows).to_have_count(1)
    expect(page).to_have_url(re.compile(r"\?state=flagged"))
    page.go_back()
    expect(rows).to_have_count(2)
    page.keyboard.press("/")
    page.keyboard.type("quiet")
    page.keyboard.press("Enter")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("Quiet, Karl")
    expect(page).to_have_url(re.compile(r"q=quiet"))
    page.reload()
    expect(rows).to_have_count(1)
    expect(page.locator("#q")).to_have_value("quiet")
    page.get_by_role("link", name="Remove filters").click()
    expect(rows).to_have_count(2)


@pytest.mark.requirement("SRS-WEB-105")
def test_a_folder_of_mixed_files_is_tried_and_each_says_what_it_is(day, shared_data):
    """A chest as DICOM and as picture, a photograph, a text, and a zip of those."""
    page, folder = day.window.page, day.folder / "mixed"
    folder.mkdir()
    _radiograph("Quiet^Karl").save_as(folder / "chest.dcm", enforce_file_format=True)
    picture = (shared_data / "cxr14" / LOUD).read_bytes()
    (folder / "chest.jpg").write_bytes(picture)
    photograph = np.random.default_rng(1).integers(0, 255, (400, 500, 3), np.uint8)
    (folder / "photo.png").write_bytes(cv2.imencode(".png", photograph)[1].tobytes())
    (folder / "letter.txt").write_text("Dear colleague")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("inside/again.jpg", picture)
    (folder / "more.zip").write_bytes(packed.getvalue())

    page.get_by_role("link", name="Try images").click()
    expect(page.locator("main")).to_contain_text("Not for diagnosis")
    page.get_by_label("adults (18 years and older)").check()
    page.locator("#folder").set_input_files(folder)
    page.wait_for_selector("#summary[data-unsettled='0'] tbody tr:nth-child(5)", timeout=FIRST)

    def row(name: str):
        return page.locator("#results tbody tr", has_text=name)

    expect(row("chest.dcm")).to_contain_text("Not flagged")
    expect(row("chest.jpg")).to_contain_text("Flagged")
    expect(row("again.jpg")).to_contain_text("Flagged")
    expect(row("photo.png")).to_contain_text("Not analysed")
    expect(row("letter.txt")).to_contain_text(re.compile("Not analysed|Not an image|refused", re.I))
    expect(row("chest.jpg").locator("img")).to_be_visible()
    expect(page.locator("#results")).not_to_contain_text(re.compile("probability|0\\.9", re.I))
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download CSV").click()
    lines = list(csv.DictReader(waiting.value.path().read_text("utf-8-sig").splitlines()))
    assert len(lines) == 5
    page.get_by_role("button", name="Clear now").click()
    expect(page.locator("#results tbody tr")).to_have_count(0)
    assert len(day.node.log_path.read_text()) > 0
    day.goto("/")
    expect(page.locator("#rows tr[data-key]")).to_have_count(2)


@pytest.mark.requirement("SRS-WEB-106")
def test_an_admin_finds_out_why_a_delivery_failed_and_sends_it_again(day):
    """The PACS was not there; the test says so in a sentence; it comes, and gets everything."""
    page = day.window.page
    page.get_by_role("link", name="Admin", exact=True).click()
    page.get_by_role("link", name="Destinations", exact=True).click()
    expect(page.locator("main")).to_contain_text("2 given up")
    page.get_by_role("button", name="Test pacs").click()
    expect(
        page.locator(".d-failed", has_text=re.compile("refused|does not answer|cannot be reached", re.I)).first
    ).to_be_visible()
    with _pacs(day) as kept:
        page.get_by_role("button", name="Test pacs").click()
        expect(page.locator(".d-delivered", has_text="nothing wrong found")).to_be_visible()
        page.get_by_role("link", name="Look at what failed").click()
        page.get_by_role("button", name="Send all 2 again").click()
        wait_until(
            lambda: page.wait_for_timeout(50) or any("again?" in question for question in day.window.dialogs),
            30,
            "a question before it is done",
        )
        wait_until(lambda: len(list(kept.iterdir())) >= 2, 30, "both reports in the PACS")
        day.goto(f"/studies/{day.uids['Loud^Lena']}")
        expect(page.locator("main")).to_contain_text("delivered")
    day.goto("/admin/destinations")
    expect(page.locator("main")).not_to_contain_text("given up")


@pytest.mark.requirement("SRS-WEB-107")
def test_an_unknown_caller_is_turned_away_shown_allowed_and_then_taken(day):
    """Without a restart, and without an editor."""
    page = day.window.page
    refused = day.send("Late^Paul", ae_title="PORTABLE_7")
    assert refused.returncode != 0
    page.get_by_role("link", name="Senders", exact=True).click()
    wait_until(lambda: page.reload() and "PORTABLE_7" in page.locator("#rejected").inner_text(), 20, "it shown", 0.3)
    page.get_by_role("link", name="Allow … PORTABLE_7").click()
    expect(page.get_by_label("Calling AE title")).to_have_value("PORTABLE_7")
    page.get_by_role("button", name="Let it send").click()
    expect(page.locator("#allowed")).to_contain_text("PORTABLE_7")
    wait_until(lambda: day.send("Late^Paul", ae_title="PORTABLE_7").returncode == 0, 20, "the caller taken", 0.3)
    day.goto("/?q=late")
    expect(page.locator("#rows tr[data-key]")).to_have_count(1)


@pytest.mark.requirement("SRS-WEB-108")
def test_the_audit_trail_tells_the_day_and_names_no_patient(day):
    """Who signed in, saw, tried, sent again and let in."""
    page = day.window.page
    day.goto("/admin/audit")
    told = page.locator("main")
    for event in ("signed_in", "study_read", "caller_allowed"):
        day.goto(f"/admin/audit?event={event}")
        expect(told.locator("tbody tr").first).to_contain_text(event.replace("_", " "))
        expect(told.locator("tbody tr").first).to_contain_text("admin")
    day.goto("/admin/audit")
    expect(told).not_to_contain_text(re.compile("lena|karl", re.I))


@pytest.mark.requirement("SRS-WEB-109")
def test_who_signs_out_sees_nothing_more_and_comes_back_to_the_same_page(day):
    """Also by the back button; the address is kept for the next log-in."""
    page = day.window.page
    day.goto("/?state=flagged")
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(re.compile("/login"))
    page.go_back()
    expect(page).to_have_url(re.compile("/login"))
    day.goto("/?state=flagged")
    expect(page).to_have_url(re.compile("/login"))
    page.get_by_label("Login").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(re.compile(r"/\?state=flagged$"))
    answers = json.loads(page.evaluate("fetch('/api/studies').then(answer => answer.text())"))
    assert answers["total"] == 3
