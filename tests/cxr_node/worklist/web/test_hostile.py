"""What a sender writes is shown and never acted on: every page of a node whose every text is an attack."""

import contextlib
import http.client
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from cxr_node.worklist.web.access import COOKIE
from cxr_node.worklist.web.app import SECURITY_HEADERS
from tests.department import Department
from tests.pages import PAGES, address, status_of

# Out of an attribute, out of an element, into a template, into a script, and an address that is a program.
ATTACK = (
    "javascript:alert(1)//\"'></td></title></textarea></script><xss-probe onclick=alert(2)>"
    "<img src=x onerror=alert(3)><script>alert(4)</script>{{7*700193}}\u202e\x1b[2J"
)
# Pages where nothing of what came from outside is shown.
SHOWS_NOTHING = {"/login", "/drop", "/admin/rules", "/admin/models", "/admin/models/pneumonia-adult", "/admin/charts"}
SHOWS_NOTHING |= {"/admin/retention", "/docs", "/no-such-page", "/?state=flagged"}


class Parsed(HTMLParser):
    """Collects what a browser would act on, and the text that it would show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def department(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Department]:
    """A node whose senders, readers, peers and models all write the attack wherever they may write."""
    opened = Department(tmp_path_factory.mktemp("hostile"), profile="research", hostile=ATTACK)
    opened.furnish()
    opened.start()
    yield opened
    opened.stop()


@pytest.fixture(scope="module")
def visit(department: Department) -> Iterator[Callable[..., httpx.Response]]:
    """Return a function that gets a page as the person who looks at it."""
    secrets = {role: department.session(role) for role in ("admin", "reader", "auditor")}
    with httpx.Client(headers={"Accept": "text/html"}) as client:

        def get(path: str, **options: Any) -> httpx.Response:
            role = PAGES[path]
            cookie = {"Cookie": f"{COOKIE}={secrets[role]}"} if role else {}
            return client.get(address(department, path), headers=cookie, **options)

        yield get


@pytest.mark.requirement("SRS-WEB-004")
@pytest.mark.parametrize("path", PAGES)
def test_an_attack_is_text_on_every_page(visit, path):
    """Names, IDs, UIDs, AE titles, reasons, comments: no element, no attribute and no address comes of them."""
    answer = visit(path)
    assert answer.status_code == status_of(path)
    page = Parsed(answer.text)
    assert "xss-probe" not in page.tags
    assert "img" not in page.tags
    assert [name for name, _ in page.attributes if name.startswith("on") or name == "style"] == []
    for name, value in page.attributes:
        if name in ("src", "href", "action", "formaction", "hx-get", "hx-post"):
            assert re.match(r"(/|#|\?|https://viewer\.example/)", value), (name, value)
    assert "\u202e" not in answer.text
    assert "\x1b" not in answer.text
    assert str(7 * 700193) not in page.text
    shown = "<img src=x onerror=alert(3)>" in page.text
    assert shown or path in SHOWS_NOTHING
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name] == value


@pytest.mark.requirement("SRS-WEB-004")
@pytest.mark.parametrize(
    "path",
    [
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static//etc/passwd",
        "/static/vendor/..%5c..%5capp.py",
        "/static/",
    ],
)
def test_nothing_outside_its_folder_is_served(department, path):
    """Names are looked up inside the folder, whatever they are made of."""
    answer = httpx.get(department.url + path)
    assert answer.status_code in (404, 405)
    assert "import" not in answer.text
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name] == value


@pytest.mark.requirement("SRS-WEB-004")
@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("/api/feedback.csv", 200), ("/admin/audit.csv", 200), ("/admin/charts.csv", 200), ("/api/studies", 200)),
        *(
            ("/openapi.json", 200),
            ("/static/style.css", 200),
            ("/api/studies/none", 404),
            ("/api/studies?limit=x", 422),
        ),
        *(("/?state=x", 422), ("/nowhere", 404), ("/logout", 405)),
    ],
)
def test_downloads_and_errors_carry_the_same_headers_as_pages(department, path, status):
    """A file or an error that a browser took for a page would else run what stands in it."""
    cookie = {"Cookie": f"{COOKIE}={department.session('admin')}", "Accept": "text/html"}
    answer = httpx.get(department.url + path, headers=cookie)
    assert answer.status_code == status
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name] == value
    if path.endswith(".csv"):
        assert answer.headers["content-disposition"].startswith("attachment")


@pytest.mark.requirement("SRS-WEB-004")
def test_what_is_too_large_is_refused_before_it_is_read(department):
    """A header or a form of many megabytes is nobody's; its announced length is enough to say no."""
    connection = http.client.HTTPConnection(urlsplit(department.url).netloc, timeout=60)
    connection.putrequest("POST", "/login")
    connection.putheader("Content-Length", "5000000")
    connection.endheaders()
    assert connection.getresponse().status == 413
    for part in ("header", "path"):
        connection = http.client.HTTPConnection(urlsplit(department.url).netloc, timeout=60)
        long = "x" * 1_000_000
        connection.putrequest("GET", f"/{long if part == 'path' else ''}")
        connection.putheader("X-Long", long if part == "header" else "")
        with contextlib.suppress(ConnectionError):  # refused while we were still talking
            connection.endheaders()
            assert 400 <= connection.getresponse().status < 500
