"""The worklist inside TLS: its DICOM port as DCMTK sees it, its pages by HTTPS."""

import hashlib
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from cxr_node.errors import SettingsError
from cxr_node.settings import Settings
from cxr_node.tls import client_context
from cxr_node.worklist.stage import WorklistServer
from cxr_node.worklist.web.access import COOKIE
from storage import Database, audit
from tests.certificates import Authority, Issued
from tests.cxr_node.worklist.conftest import with_worklist
from tests.system.conftest import wait_until


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def node(authority: Authority) -> Issued:
    return authority.issue("node", kind="rsa")


@pytest.fixture
def start(
    settings: Settings, database: Database, authority: Authority, node: Issued
) -> Iterator[Callable[..., WorklistServer]]:
    """Start a worklist with TLS on both ports."""
    started: list[WorklistServer] = []

    def make(*callers: dict[str, object], **changes: object) -> WorklistServer:
        pair = {"certificate": str(node.certificate), "key": str(node.key)}
        values = with_worklist(settings).model_dump()
        values["worklist"] |= {
            "port": 0,
            "dicom_port": 0,
            "tls": pair,
            "dicom_tls": {**pair, "ca": str(authority.ca)},
            **changes,
        }
        if callers:
            values["caller"] = callers
        server = WorklistServer(Settings.model_validate({**values, "base_dir": settings.base_dir}), database)
        started.append(server)
        server.start()
        return server

    yield make
    for server in started:
        server.stop()


def echo(server: WorklistServer, issued: Issued | None, ca: Path, *options: str, calling: str = "RIS") -> str:
    """Return what echoscu says where it failed, "" where it was answered."""
    own = ["+tla"] if issued is None else ["+tls", str(issued.key), str(issued.certificate)]
    titles = ["-aet", calling, "-aec", "CXR_WORKLIST", "-to", "20", "-ta", "20", "-td", "20"]
    done = subprocess.run(
        ["echoscu", "-v", *titles, *own, "+cf", str(ca), *options, "127.0.0.1", str(server.dicom_port)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=90,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.peer("echoscu", "findscu")
@pytest.mark.requirement("SRS-TLS-022")
def test_the_dicom_port_speaks_bcp_195_with_mutual_certificates(start, authority, tmp_path):
    """It shows patients: whoever asks must be known."""
    server, ris = start(), authority.issue("ris")
    for profile in ("--profile-bcp195", "--profile-bcp195-nd", "--profile-bcp195-ex"):
        assert echo(server, ris, authority.ca, profile) == ""
    for profile in ("--profile-aes", "--profile-null"):
        assert "TLS" in echo(server, ris, authority.ca, profile)
    for refused in (None, Authority(tmp_path / "stranger").issue("stranger"), authority.issue("old", days=-1)):
        assert echo(server, refused, authority.ca) != ""
    own = ["+tls", str(ris.key), str(ris.certificate), "+cf", str(authority.ca)]
    found = subprocess.run(
        [
            "findscu",
            "-v",
            "-W",
            *own,
            "-aec",
            "CXR_WORKLIST",
            "-k",
            "AccessionNumber",
            "127.0.0.1",
            str(server.dicom_port),
        ],
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert "Received Final Find Response (Success)" in found.stdout + found.stderr


@pytest.mark.peer("echoscu")
@pytest.mark.requirement("SRS-TLS-005")
def test_connections_that_say_nothing_hold_up_nobody(start, authority):
    """The library's own server shakes hands in its accept loop."""
    server, ris = start(), authority.issue("ris")
    idle = [socket.create_connection(("127.0.0.1", server.dicom_port), timeout=30) for _ in range(5)]
    web = [socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=30) for _ in range(5)]
    try:
        assert echo(server, ris, authority.ca) == ""
        assert httpx.get(f"{server.url}/healthz", verify=client_context({"ca": authority.ca}), timeout=30).is_success
    finally:
        for connection in (*idle, *web):
            connection.close()


@pytest.mark.peer("echoscu")
@pytest.mark.requirement("SRS-TLS-013")
def test_a_name_bound_to_a_certificate_is_refused_to_every_other(start, authority, database):
    """As on the port that takes images; who tries is in the audit trail, with the certificate that it showed."""
    ris, other = authority.issue("ris"), authority.issue("other")
    server = start({"ae_title": "RIS", "certificate": ris.fingerprint}, {"ae_title": "*"})
    assert echo(server, ris, authority.ca) == ""
    assert "Calling AE Title Not Recognized" in echo(server, other, authority.ca)
    assert echo(server, other, authority.ca, calling="PACS") == ""

    def told() -> list[str]:
        with database.read() as connection:
            found = audit.search(connection, audit.Wanted(event="association_refused"), limit=9)
        return [entry.detail["certificate"] for entry in found]

    assert wait_until(told, 20, "it is in the audit trail") == [f"{other.fingerprint} (other)"]


@pytest.mark.requirement("SRS-TLS-023")
def test_pages_come_by_https_with_what_a_browser_then_needs(start, authority):
    """A cookie that no plain page can plant or read, and a browser that never goes back to HTTP."""
    server = start()
    assert server.url.startswith("https://127.0.0.1:")
    with httpx.Client(verify=client_context({"ca": authority.ca}), base_url=server.url, timeout=30) as browser:
        page = browser.get("/login")
        assert page.status_code == 200
        assert page.headers["strict-transport-security"] == "max-age=31536000"
        token = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
        form = {"login": "nobody", "password": "wrong", **({"csrf_token": token[1]} if token else {})}
        refused = browser.post("/login", data=form, headers={"Origin": server.url})
        assert refused.status_code in (401, 422, 429), refused.text
        for cookie in [*page.headers.get_list("set-cookie"), *refused.headers.get_list("set-cookie")]:
            assert "Secure" in cookie
            assert cookie.startswith("__Host-")
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(server.url.replace("https", "http"), timeout=30)


@pytest.mark.requirement("SRS-TLS-023")
def test_a_session_by_https_is_a_secure_cookie(authority, sign_in, settings, make_client):
    """The name with the prefix is what a browser holds to its promise (RFC 6265bis)."""
    values = with_worklist(settings).model_dump()
    issued = authority.issue("page")
    values["worklist"]["tls"] = {"certificate": str(issued.certificate), "key": str(issued.key)}
    values["worklist"]["require_token"] = "auto"
    client = make_client(Settings.model_validate({**values, "base_dir": settings.base_dir}), "https://127.0.0.1:8042")
    sign_in(client)
    secret = client.cookies[COOKIE]
    client.cookies.clear()
    assert client.get("/api/studies", cookies={COOKIE: secret}).status_code == 401
    client.cookies.clear()
    assert client.get("/api/studies", cookies={f"__Host-{COOKIE}": secret}).status_code == 200


@pytest.mark.requirement("SRS-TLS-003")
@pytest.mark.parametrize("key", ["tls", "dicom_tls"])
def test_a_bad_file_is_told_at_the_start(start, authority, node, key, tmp_path):
    """Neither port is then open half."""
    bad = {"certificate": str(node.certificate), "key": str(authority.issue("other").key), "ca": str(authority.ca)}
    if key == "tls":
        del bad["ca"]
    with pytest.raises(SettingsError, match=rf"worklist\.{key}: key .*other\.key is not the key of certificate"):
        start(**{key: bad})


@pytest.mark.requirement("SRS-TLS-004")
def test_a_renewed_certificate_is_shown_without_a_restart(start, authority, tmp_path):
    """By the web server too, which has no such setting."""
    first = authority.issue("renewed")
    server = start(tls={"certificate": str(first.certificate), "key": str(first.key)})

    def shown() -> str:
        host, port = "127.0.0.1", int(server.url.rpartition(":")[2])
        context = client_context({"ca": authority.ca})
        with (
            socket.create_connection((host, port), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            return hashlib.sha256(secured.getpeercert(binary_form=True) or b"").hexdigest()

    assert shown() == first.fingerprint
    second = authority.issue("renewed")
    wait_until(lambda: shown() == second.fingerprint, 30, "the new certificate is shown", every_s=0.2)
