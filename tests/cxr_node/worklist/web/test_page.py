"""The page: its words, its safety, and how it looks in a browser."""

import base64
import fcntl
import html
import json
import os
import re
import select
import subprocess
import time
from datetime import timedelta
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian

from cxr_node.worklist.stage import WorklistServer
from cxr_node.worklist.web.app import SECURITY_HEADERS
from cxr_node.worklist.web.present import BANNER, duration, names, viewer_link
from storage import Doorbell, InstanceFiles, deliveries, results, studies
from tests.conftest import find_program
from tests.cxr_node.worklist.conftest import make_exclusion, make_score, with_worklist

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'{{7*7}}</td></tr>"
FORBIDDEN_WORDS = re.compile(r"\b(negative|normal|clear|healthy|no finding)\b", re.I)


class Page(HTMLParser):
    """Collects what a browser would act on, and the text it would show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text += data + " "


@pytest.fixture
def busy(ward):
    """A study in every state."""
    ward.add("1.2.1", waited_min=4, flagged=True, patient_name="Yamada^Tarou=山田^太郎")
    ward.add("1.2.2", waited_min=133, patient_name="Müller^Jürgen")
    ward.add("1.2.3", status="not_analysed", ordered="")
    ward.add("1.2.4", status="failed")
    ward.add("1.2.5", status="pending", ordered="STAT")
    return ward


@pytest.mark.requirement("SRS-WLT-003")
def test_every_state_is_told_in_words_with_its_reason(client, busy):
    """Color alone tells nothing to who cannot see it, and silence nothing to anybody."""
    text = " ".join(Page(client.get("/").text).text.split())
    assert BANNER in text
    for words in (
        "HIGH raised by AI from ROUTINE",
        "▲ Flagged suspected pneumonia",
        "2 h 13 min 13 min past max wait",
        "as ordered; past maximum wait",
        "max wait in 116 min",
        "– Not flagged",
        "⊘ Not analysed the body part is not the chest",
        "✕ Failed the model did not answer",
        "STAT as ordered 10 min",
        "… Pending",
        "no priority ordered",
        "Yamada, Tarou 山田 太郎",
        "pneumonia-adult 1.0.0",
        "pacs SR: delivered",
    ):
        assert words in text, words
    assert text.index("STAT as ordered") < text.index("past maximum wait") < text.index("raised by AI")


@pytest.mark.requirement("SRS-WLT-003")
@pytest.mark.parametrize("path", ["/", "/studies/1.2.1", "/studies/1.2.2", "/studies/1.2.3"])
def test_a_triage_page_shows_no_probability_and_never_says_that_disease_is_absent(client, busy, path):
    """Case level and passive, in the manner of 21 CFR 892.2080."""
    text = Page(client.get(path).text).text.replace(BANNER, "")
    assert not FORBIDDEN_WORDS.search(text)
    assert "robability" not in text
    for number in ("0.912", "91", "0.187", "18.8", "0.5"):
        assert not re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", text.replace("2026-03-02", "")), number


@pytest.mark.requirement("SRS-WLT-003")
def test_the_research_profile_shows_probabilities_on_the_study_alone(make_client, settings, busy):
    """A data scientist needs them; a list sorted by eye after them would be another device."""
    client = make_client(with_worklist(settings, profile="research"))
    assert "0.912" in client.get("/studies/1.2.1").text
    assert "0.912" not in client.get("/").text


def make_report() -> bytes:
    """Return a small SR with a text and a number, as bytes."""

    def item(name: str, **values: object) -> Dataset:
        concept, dataset = Dataset(), Dataset()
        concept.CodeMeaning = name
        dataset.ConceptNameCodeSequence = [concept]
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        return dataset

    unit, measured = Dataset(), Dataset()
    unit.CodeValue = "%"
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = "91.2", [unit]
    number = item("Probability of pneumonia", ValueType="NUM", MeasuredValueSequence=[measured])
    impression = item("Impression", ValueType="TEXT", TextValue="AI: flagged <b>for</b> prioritised reading")
    report = item("Imaging Measurement Report", ValueType="CONTAINER")
    report.ContentSequence = [item("Group", ValueType="CONTAINER", ContentSequence=[number, impression])]
    report.SOPClassUID, report.SOPInstanceUID = Comprehensive3DSRStorage, "1.2.3.7"
    report.CompletionFlag, report.VerificationFlag = "COMPLETE", "UNVERIFIED"
    report.ContentDate, report.ContentTime, report.InstanceNumber = "20260302", "120000", 1
    buffer = BytesIO()
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    report.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.requirement("SRS-WLT-003")
def test_the_report_is_shown_as_text_and_in_triage_without_its_measured_values(make_client, settings, ward, database):
    """What the PACS got can be read here; the number stays in the report."""
    ward.add("1.2.3", flagged=True)
    files = InstanceFiles(settings.instances_dir)
    with database.begin() as connection:
        result = results.current(connection, "1.2.3")
        assert result is not None
        results.add_object(
            connection,
            result.id,
            kind="sr",
            sop_class_uid=Comprehensive3DSRStorage,
            sop_instance_uid="1.2.3.7",
            location=files.write_object("1.2.3.7", make_report()),
            now=ward.clock.now,
        )
    triage = make_client(settings).get("/studies/1.2.3").text
    research = make_client(with_worklist(settings, profile="research")).get("/studies/1.2.3").text
    for text in (triage, research):
        assert "AI: flagged &lt;b&gt;for&lt;/b&gt; prioritised reading" in text
        assert "Impression: AI: flagged <b>for</b> prioritised reading" in " ".join(Page(text).text.split())
    assert "91.2" not in triage
    assert "Probability of pneumonia: 91.2 %" in " ".join(Page(research).text.split())


@pytest.mark.requirement("SRS-WLT-003")
def test_a_study_that_was_flagged_before_keeps_its_priority_and_says_so(client, ward, database, clock):
    """A revision that flags nothing lowers nothing."""
    ward.add("1.2.3", flagged=True)
    with database.begin() as connection:
        results.add(connection, "1.2.3", status="analysed", flagged=False, ai_priority="", outcome={}, now=clock.now)
        studies.set_outcome(
            connection,
            "1.2.3",
            status="analysed",
            flagged=False,
            ai_priority="",
            effective_priority="ROUTINE",
            priority_rank=1,
            notified_at=clock.now,
            revision=2,
        )
    text = " ".join(Page(client.get("/").text).text.split())
    assert "HIGH kept from an earlier revision; never lowered" in text
    study = " ".join(Page(client.get("/studies/1.2.3").text).text.split())
    assert "1 2026-03-02" in study or "superseded" in study


@pytest.mark.requirement("SRS-WLT-003")
@pytest.mark.parametrize(
    ("status", "words"), [("failed", "a later image failed"), ("pending", "a later image is pending")]
)
def test_a_flagged_study_stays_flagged_when_a_later_image_is_not_analysed(client, ward, database, status, words):
    """What was seen was seen."""
    ward.add("1.2.3", flagged=True)
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE studies SET status = ?", (status,))
    text = " ".join(Page(client.get("/").text).text.split())
    assert f"▲ Flagged suspected pneumonia, {words}" in text
    assert "HIGH raised by AI from ROUTINE" in text


@pytest.mark.requirement("SRS-WLT-003")
def test_the_list_says_that_a_delivery_is_not_proved_and_the_study_says_why(client, ward, database, clock):
    """The reason is the administrator's; on the list it would push the next studies off the screen."""
    ward.add("1.2.3")
    reason = "pacs takes neither storage commitment nor a query"
    with database.begin() as connection:
        (delivery,) = deliveries.of_study(connection, "1.2.3")
        deliveries.ask_proof(connection, delivery.id, now=clock.now)
        proof = deliveries.PROOF_UNAVAILABLE
        assert deliveries.settle_proof(connection, delivery.id, proof, method="query", reason=reason, now=clock.now)
    listed, study = client.get("/").text, client.get("/studies/1.2.3").text
    assert "delivered, not proved" in listed
    assert reason not in listed
    assert reason in study


@pytest.mark.requirement("SRS-WLT-004")
def test_hostile_text_is_shown_and_never_acted_on(make_client, settings, ward):
    """Every attribute comes from a sender: a name may be a program."""
    hostile = dict.fromkeys(
        (
            *("patient_name", "patient_id", "issuer_of_patient_id", "birth_date", "sex", "age", "accession_number"),
            *("study_id", "study_description", "referring_physician_name", "modality", "body_part", "view"),
        ),
        HOSTILE,
    )
    exclusion = make_exclusion("1.2", message=HOSTILE, attribute=HOSTILE, value=HOSTILE, reason=HOSTILE)
    exclusion["sop_instance_uid"] = HOSTILE
    score = make_score(True, 0.9, finding=HOSTILE) | {"model": HOSTILE, "model_version": HOSTILE}
    ward.add(f"1.2{HOSTILE}", status="not_analysed", exclusion=exclusion, destination=HOSTILE, **hostile)
    ward.add(f"1.3{HOSTILE}", flagged=True, findings=[score | {"operating_point": HOSTILE}], **hostile)
    for profile in ("triage", "research"):
        client = make_client(
            with_worklist(settings, profile=profile, viewer_url="https://viewer.example/{study_instance_uid}")
        )
        listed = client.get("/").text
        links = re.findall(r'href="(/studies/[^"]*)"', listed)
        assert len(links) == 2
        for text in (listed, client.get("/list").text, *(client.get(html.unescape(link)).text for link in links)):
            page = Page(text)
            assert "alert(1)" in page.text
            assert "img" not in page.tags
            scripts = [value for name, value in page.attributes if name == "src"]
            assert page.tags.count("script") == len(scripts)
            assert all(re.fullmatch(r"/static/[a-z0-9./-]+\.js", value) for value in scripts), scripts
            assert [name for name, _ in page.attributes if name.startswith("on")] == []
            assert "49" not in re.findall(r"'(\d+)", page.text)


@pytest.mark.requirement("SRS-WLT-004")
def test_direction_marks_cannot_swap_what_stands_beside_them(client, ward):
    """A right-to-left override in an ID would change how the accession number reads."""
    ward.add("1.2.3", patient_id="\u202e321\x00\x1b[31m", patient_name="כהן^דוד")
    text = client.get("/").text
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert "<bdi>\ufffd321" in text
    assert "כהן, דוד" in text


@pytest.mark.requirement("SRS-WLT-004")
@pytest.mark.parametrize(
    "path", ["/", "/studies/1.2.1", "/docs", "/login", "/static/worklist.js", "/api/studies", "/x"]
)
def test_every_answer_forbids_foreign_and_inline_code(client, busy, path):
    """The second lock, should a template ever forget to escape."""
    answer = client.get(path, headers={"Accept": "text/html"})
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name] == value
    assert "unsafe" not in answer.headers["content-security-policy"]
    page = Page(answer.text) if "html" in answer.headers["content-type"] else None
    if page is not None:
        assert "style" not in page.tags
        assert [name for name, _ in page.attributes if name == "style" or name.startswith("on")] == []
        assert all(value.startswith("/") for name, value in page.attributes if name == "src")


@pytest.mark.requirement("SRS-WLT-003")
def test_the_page_works_without_scripts(client, busy):
    """Filters, pages and studies are links; the browser renews the list."""
    page = Page(client.get("/").text)
    assert ("http-equiv", "refresh") in page.attributes
    links = [value for name, value in page.attributes if name == "href"]
    assert "/?state=not_analysed" in links
    filtered = client.get("/?state=not_analysed").text
    assert "Not analysed" in filtered
    assert "/studies/1.2.3" in filtered
    assert "/studies/1.2.1" not in filtered
    assert client.get("/?state=normal").status_code == 422


@pytest.mark.requirement("SRS-WLT-003")
def test_a_long_list_is_paged(client, ward):
    """A browser of a reading room need not draw two thousand rows."""
    for index in range(101):
        ward.add(f"1.2.{index}", status="pending", waited_min=index / 10)
    first, second = client.get("/").text, client.get("/?page=2").text
    assert (first.count('<th scope="row" data-label'), second.count('<th scope="row" data-label')) == (100, 1)
    assert "1 to 100 of 101" in first
    assert 'href="/?page=2" rel="next"' in first
    assert client.get("/?page=99").text.count('<th scope="row" data-label') == 1


@pytest.mark.requirement("SRS-WLT-003")
def test_an_unknown_study_is_a_page_that_says_so(client):
    """A link may be older than the retention."""
    answer = client.get("/studies/1.2.3", headers={"Accept": "text/html"})
    assert answer.status_code == 404
    assert "no image of a study with this Study Instance UID was received" in answer.text


@pytest.mark.requirement("SRS-WLT-003")
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", ""),
        ("https://v.example/?s={study_instance_uid}", "https://v.example/?s=1.2%263"),
        ("weasis://{study_instance_uid}", "weasis://1.2%263"),
        ("javascript:alert(1)", ""),
        (" JavaScript:alert(1)", ""),
        ("data:text/html,x", ""),
    ],
)
def test_the_viewer_link_carries_the_study_and_never_code(url, expected):
    """The UID is a sender's text, the address an administrator's."""
    assert viewer_link(url, "1.2&3") == expected


@pytest.mark.requirement("SRS-WLT-003")
def test_names_and_times_are_written_for_people():
    """Family name first; minutes as long as they can be grasped."""
    assert names("Smith^Anna^Maria") == ("Smith, Anna Maria",)
    assert names("Yamada^Tarou=山田^太郎=やまだ^たろう") == ("Yamada, Tarou", "山田 太郎", "やまだ たろう")
    assert names("^^") == ("",)
    spans = (timedelta(seconds=59), timedelta(minutes=119), timedelta(minutes=125), timedelta(hours=50))
    assert [duration(span) for span in spans] == ["0 min", "119 min", "2 h 05 min", "2 d 2 h"]


@pytest.fixture
def server(settings, database, clock, busy):
    """Both servers on free ports."""
    running = WorklistServer(with_worklist(settings, viewer_url="https://viewer.example/"), database, clock)
    running.start()
    yield running
    running.stop()


class Browser:
    """Chromium without a window, driven over its DevTools pipe (file descriptors 3 and 4, messages end with NUL)."""

    def __init__(self, profile: Path) -> None:
        program = find_program("chromium")
        assert program is not None
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # Above 9, so that neither is 3 or 4, which the shell makes of them.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]
        self._process = subprocess.Popen(
            [
                *("bash", "-c", f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}', "bash", program),
                *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
                *("--disable-dev-shm-usage", f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"),
            ],
            pass_fds=ends,
            stderr=subprocess.DEVNULL,
        )
        for end in (theirs_in, theirs_out, *ends):
            os.close(end)
        self._number = 0
        self._buffer = b""
        self._session = ""
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def command(self, method: str, **parameters: Any) -> Any:
        """Send a command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 30
        while True:
            while b"\0" in self._buffer:
                text, _, self._buffer = self._buffer.partition(b"\0")
                answer = json.loads(text)
                if answer.get("id") == self._number:
                    assert "error" not in answer, answer
                    return answer["result"]
            assert time.monotonic() < deadline, method
            if select.select([self._in], [], [], 1.0)[0]:
                self._buffer += os.read(self._in, 1 << 20)

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        return self.command("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait_for(self, script: str, within_s: float = 15.0) -> Any:
        """Return the expression's first true value."""
        deadline = time.monotonic() + within_s
        while not (value := self.evaluate(script)):
            assert time.monotonic() < deadline, f"{script}: {self.evaluate('document.body.innerText')}"
            time.sleep(0.05)
        return value

    def show(self, url: str, scheme: str = "light", width: int = 1500, height: int = 800) -> None:
        """Open a page and wait until it is drawn."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.command("Page.navigate", url=url)
        self.wait_for(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})")

    def press(self, key: str, text: str = "") -> None:
        """Press a key; `text` is what it types."""
        codes = {"Enter": 13, "Escape": 27, "ArrowDown": 40, "ArrowUp": 38}
        typed = "\r" if key == "Enter" else text
        pressed = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        kind = {"type": "keyDown", "text": typed} if typed else {"type": "rawKeyDown"}
        self.command("Input.dispatchKeyEvent", **kind, **pressed)
        self.command("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def screenshot(self) -> bytes:
        """Return the page as PNG."""
        return base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        """End it."""
        os.close(self._out)
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One Chromium for the tests of this module."""
    opened = Browser(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


@pytest.mark.requirement("SRS-WLT-003", "SRS-WLT-005")
@pytest.mark.peer("chromium")
def test_a_browser_keeps_the_list_live_without_a_reload(server, browser, ward, settings):
    """A study that arrives is in it at once; the focus stays where the reader put it."""
    browser.show(server.url)
    browser.wait_for("document.getElementById('live-text').textContent === 'live'")
    browser.evaluate("document.querySelector('[data-key=\"study-1.2.2\"]').focus(); window.notReloaded = true")
    assert browser.evaluate("document.querySelectorAll('#rows tr').length") == 5
    ward.add("1.2.9", flagged=True, patient_name="Later^Lucy", waited_min=0)
    Doorbell(settings.data_dir / "run").ring("worklist")
    browser.wait_for("document.querySelectorAll('#rows tr').length === 6")
    row = browser.evaluate("document.querySelector('tr[data-key=\"1.2.9\"]').outerHTML")
    assert 'class="flagged r-new fresh"' in row
    assert browser.evaluate("document.getElementById('announce').textContent") == "Flagged: Later, Lucy, waiting 0 min"
    assert "Later, Lucy" in row
    assert browser.evaluate("window.notReloaded")
    assert browser.evaluate("document.activeElement.dataset.key") == "study-1.2.2"
    assert browser.evaluate("document.querySelector('[data-key=\"filter-flagged\"] .count').textContent") == "2"


@pytest.mark.requirement("SRS-WLT-505")
@pytest.mark.peer("chromium")
def test_a_reader_works_by_keyboard_alone(server, browser):
    """Hands stay on the keys: move, open, filter, search, help; and no key acts while somebody types."""
    focused = "document.activeElement.dataset.key || document.activeElement.id"
    browser.show(server.url)
    browser.wait_for("document.querySelector('#live.on') !== null")
    for key, expected in (
        ("j", "study-1.2.5"),
        ("j", "study-1.2.2"),
        ("ArrowDown", "study-1.2.1"),
        ("k", "study-1.2.2"),
    ):
        browser.press(key)
        assert browser.evaluate(focused) == expected
    browser.press("/")
    assert browser.evaluate(focused) == "q"
    browser.press("j", text="j")
    assert browser.evaluate("document.getElementById('q').value") == "j"
    browser.press("Escape")
    browser.press("?")
    assert browser.evaluate("document.getElementById('keys').open")
    browser.press("f")
    assert browser.evaluate("location.search") == ""
    browser.evaluate("document.getElementById('keys-on').click(); document.getElementById('keys').close()")
    browser.press("f")
    assert browser.evaluate("location.search") == ""
    browser.evaluate("document.getElementById('keys-on').click()")
    browser.press("f")
    browser.wait_for("document.querySelectorAll('#rows tr').length === 1")
    browser.press("j")
    browser.press("Enter")
    browser.wait_for("location.pathname === '/studies/1.2.1'")


@pytest.mark.requirement("SRS-WLT-503", "SRS-WLT-505")
@pytest.mark.peer("chromium")
def test_filters_change_the_address_and_back_goes_back(server, browser, ward, settings):
    """Without a reload; a new flagged study that the filter hides is still said."""
    browser.show(server.url)
    browser.wait_for("document.querySelector('#live.on') !== null")
    browser.evaluate("window.notReloaded = true; document.getElementById('state-pending').click()")
    browser.wait_for("location.search === '?state=pending' && document.querySelectorAll('#rows tr').length === 1")
    browser.evaluate("const q = document.getElementById('q'); q.focus(); q.value = 'doe'; q.form.requestSubmit()")
    browser.wait_for("location.search === '?state=pending&q=doe' && document.getElementById('clear') !== null")
    assert browser.evaluate("document.activeElement.id") == "q"
    ward.add("1.2.9", flagged=True, patient_name="Doe^Lucy", waited_min=0)
    Doorbell(settings.data_dir / "run").ring("worklist")
    browser.wait_for("document.getElementById('announce').textContent === '1 more flagged on the list'")
    browser.evaluate("history.back()")
    browser.wait_for("document.querySelector('#clear') === null && location.search === '?state=pending'")
    browser.evaluate("history.back()")
    browser.wait_for("document.querySelectorAll('#rows tr').length === 6")
    assert browser.evaluate("window.notReloaded")
    assert browser.evaluate("document.getElementById('q').value") == ""


@pytest.mark.requirement("SRS-WLT-004")
@pytest.mark.peer("chromium")
def test_a_browser_runs_nothing_that_a_sender_wrote(server, browser, ward):
    """What the parser of the test misses, a browser would not."""
    payload = "<img src=x onerror=\"document.title='hacked'\"><svg onload=\"document.title='hacked'\">"
    ward.add("1.2.8", patient_name=payload, patient_id=payload, accession_number=payload, modality=payload)
    for url in (server.url, f"{server.url}/studies/1.2.8"):
        browser.show(url)
        time.sleep(0.3)
        assert "hacked" not in browser.evaluate("document.title")
        assert browser.evaluate("document.querySelectorAll('main img, main svg').length") == 0
        assert "onerror" in browser.evaluate("document.querySelector('main').innerText")


@pytest.mark.requirement("SRS-WLT-003")
@pytest.mark.peer("chromium")
def test_every_link_is_reached_by_keyboard_and_shows_it(server, browser):
    """Tab from the top: first the way past the header."""
    browser.show(server.url)
    seen = []
    for _ in range(60):
        for kind in ("rawKeyDown", "keyUp"):
            browser.command("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        seen.append(
            browser.evaluate("document.activeElement.className + '|' + (document.activeElement.dataset.key||'')")
        )
        outline = "document.activeElement === document.body || getComputedStyle(document.activeElement).outlineStyle"
        assert browser.evaluate(outline) != "none"
    assert seen[0] == "skip|"
    assert {f"|study-1.2.{number}" for number in range(1, 6)} < set(seen)


@pytest.mark.requirement("SRS-WLT-003")
@pytest.mark.peer("chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_the_list_light_and_dark(server, browser, scheme):
    """Reading rooms are dark. No policy of the page is violated, nothing is wider than the window."""
    browser.show(server.url, scheme=scheme)
    pixels = cv2.imdecode(np.frombuffer(browser.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape[:2] == (800, 1500)
    assert pixels.mean() < 90 if scheme == "dark" else pixels.mean() > 180
    assert browser.evaluate("document.styleSheets.length") == 2
    for width in (1500, 700, 380):
        browser.show(server.url, scheme=scheme, width=width)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
