"""A whole node with TLS on every port, fed with names that must be nowhere but in its database and its files."""

import contextlib
import json
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    ModalityWorklistInformationFind,
    PatientRootQueryRetrieveInformationModelFind,
    UnifiedProcedureStepPull,
)

from cxr_node.requestor import associate
from cxr_node.tls import client_context
from tests.builders import make_radiograph_dataset, to_part_10
from tests.certificates import Authority, Issued
from tests.conftest import ROOT
from tests.cxr_node.orders.messages import message
from tests.system.conftest import Node, free_port, wait_until

pytestmark = pytest.mark.timeout(300)

# Whatever identifies a patient, or opens a door, holds one of these; in a log it would be found whatever its case.
PLANTED = ("zqx", "18991231", "31.12.1899", "1899-12-31")
WHO: dict[str, str] = {
    "PatientName": "ZQXDOE^JANE",
    "PatientID": "ZQXID4711",
    "PatientBirthDate": "18991231",
    "AccessionNumber": "ZQXACC1",
    "StudyDescription": "ZQX free text",
    "SeriesDescription": "ZQX free text",
    "PatientComments": "ZQX free text",
    "ReferringPhysicianName": "ZQXROE^RITA",
    "InstitutionName": "ZQX hospital",
    "StudyID": "ZQXSTUDY",
    "OtherPatientIDs": "ZQXOTHER",
}
BOUNDARY = "b0undary"


class SecureNode(Node):
    """Its pages by HTTPS, so what it says of itself is read from its log."""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.web_port}"

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log_path.read_text()[-3000:]
        said = self.log_path.read_text()
        stages = ("receive", "stow", "watch", "worklist", "deliver", "orders", "analyze", "upkeep")
        return all(f'"{stage}_ready"' in said for stage in stages)


def find_nothing_but_names(_: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
    """Answer as a RIS that knows a patient, and writes values that are none."""
    item, step = Dataset(), Dataset()
    for keyword, value in WHO.items():
        setattr(item, keyword, value)
    item.RequestedProcedurePriority = "ZQXPRIORITY"
    item.StudyInstanceUID = "1.2.3"
    step.Modality = "DX"
    item.ScheduledProcedureStepSequence = [step]
    yield 0xFF00, item
    yield 0x0000, None


class Site:
    """The node, what it is fed by, and what may open it."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder / "authority")
        self.own = self.authority.issue("node", kind="rsa")
        self.modality: Issued = self.authority.issue("modality")
        self.stow_port, self.hl7_port = free_port(), free_port()
        self.watched = folder / "watched"
        self.watched.mkdir()
        secret = folder / "secret"
        secret.write_text("zqxsecretoffile\n")
        secret.chmod(0o600)
        ris = AE(ae_title="RIS")
        ris.add_supported_context(ModalityWorklistInformationFind)
        self.ris: Any = ris.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, find_nothing_but_names)]
        )
        pair = f'certificate = "{self.own.certificate}"\nkey = "{self.own.key}"\n'
        mutual = f'{pair}ca = "{self.authority.ca}"\n'
        extra = (
            # One model: what fails on its way to an analysis fails alike for every one.
            f'[analyze]\nmodels = ["pneumonia-adult"]\n'
            f"[receive.tls]\n{mutual}[receive.dicomweb]\nport = {self.stow_port}\n[receive.dicomweb.tls]\n{pair}"
            f'[receive.watch]\npath = "{self.watched}"\nsettle_s = 0.2\n'
            f"[worklist.tls]\n{pair}[worklist.dicom_tls]\n{mutual}"
            f"[orders]\nhl7_port = {self.hl7_port}\n[orders.hl7_tls]\n{mutual}"
            f'[orders.ris]\nae_title = "RIS"\nhost = "127.0.0.1"\nport = {self.ris.server_address[1]}\n'
        )
        closed = free_port()  # nobody listens there
        self.node = SecureNode(
            folder / "node",
            extra=extra,
            require_token="auto",
            destinations=[
                {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": closed, "settle_s": 0.1},
                {
                    "name": "hook",
                    "kind": "webhook",
                    "url": f"http://zqxuser:zqxpassword@127.0.0.1:{closed}/in?token=zqxtoken",
                    "secret_file": str(secret),
                },
                {
                    "name": "web",
                    "kind": "stow-rs",
                    "url": f"http://zqxuser:zqxpassword@127.0.0.1:{closed}/rs?token=zqxtoken",
                    "secret_file": str(secret),
                    "settle_s": 0.1,
                },
                {"name": "oru", "kind": "hl7-oru", "host": "127.0.0.1", "port": closed},
            ],
        )
        self.node.folder.mkdir(parents=True)
        environment = {"CXR_NODE__NODE__LOG_LEVEL": "debug"}
        mask = os.umask(0)  # the worst that a service manager may leave
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            self.node.start()
        finally:
            os.umask(mask)
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        self.token = self.command("token", "create", "tester", "--role", "service").split()[-1]
        self.web = httpx.Client(
            base_url=self.node.url,
            verify=client_context({"ca": self.authority.ca}),
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=60,
        )

    def command(self, *arguments: str) -> str:
        """Run `cxr-node` and return what it prints, of whatever status."""
        done = subprocess.run(
            [sys.executable, "-m", "cxr_node", "--config", str(self.node.config), *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=120,
        )
        return (done.stdout + done.stderr).strip()

    @cached_property
    def doctor(self) -> str:
        """What `cxr-node doctor` says; it looks at every model, so once."""
        return self.command("doctor")

    def outward(self) -> Any:
        issued = self.modality
        return client_context({"ca": self.authority.ca, "certificate": issued.certificate, "key": issued.key})

    def ask(self, port: int, called: str, *contexts: Any) -> Any:
        """Return an association inside TLS."""
        ae = AE(ae_title="CR_ROOM_1")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = 60
        for context in contexts:
            ae.add_requested_context(*context)
        association = associate(ae, "127.0.0.1", port, ae_title=called, tls_args=(self.outward(), "127.0.0.1"))
        assert association.is_established
        return association

    def store(self, dataset: Dataset) -> int:
        """Send by C-STORE; return the status."""
        wanted = (dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
        association = self.ask(self.node.port, "CXR_NODE", wanted)
        try:
            return int(association.send_c_store(dataset).Status)
        finally:
            association.release()

    def stow(self, *parts: bytes) -> int:
        body = b"".join(
            f"\r\n--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + part for part in parts
        )
        answer = self.web.post(
            f"https://127.0.0.1:{self.stow_port}/studies",
            content=body.removeprefix(b"\r\n") + f"\r\n--{BOUNDARY}--\r\n".encode(),
            headers={"Content-Type": f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'},
        )
        return answer.status_code

    def hl7(self, data: bytes) -> bytes:
        """Send a message and return what comes back until the end of a block or of the connection."""
        with (
            socket.create_connection(("127.0.0.1", self.hl7_port), timeout=60) as plain,
            self.outward().wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(data)
            answer = b""
            with contextlib.suppress(OSError):
                while not answer.endswith(b"\x1c\r") and (part := connection.recv(4096)):
                    answer += part
            return answer

    def close(self) -> None:
        self.web.close()
        self.node.stop()
        self.ris.shutdown()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    yield made
    made.close()


def named(**attributes: Any) -> Dataset:
    """A radiograph of the planted patient."""
    return make_radiograph_dataset(**{**WHO, **attributes})


@pytest.mark.requirement("SRS-TLS-030")
def test_every_port_of_a_node_speaks_tls_and_nothing_else(site):
    """One configuration, one check that no port was forgotten."""
    ports = {
        "C-STORE": site.node.port,
        "STOW-RS": site.stow_port,
        "page": site.node.web_port,
        "UPS and Modality Worklist": site.node.dicom_port,
        "HL7": site.hl7_port,
    }
    for name, port in ports.items():
        with (
            socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
            site.outward().wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            assert connection.version() == "TLSv1.3", name
        with socket.create_connection(("127.0.0.1", port), timeout=60) as plain, contextlib.suppress(OSError):
            plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert b"200 OK" not in plain.recv(4096), name
    assert site.web.get("/healthz").status_code == 200


@pytest.mark.requirement("SRS-TLS-031")
def test_doctor_finds_its_own_ports_by_tls(site):
    """An administrator's first question after TLS was turned on."""
    said = site.doctor
    for line in ("receiver: C-ECHO CXR_NODE at 127.0.0.1", f"worklist: {site.node.url}/readyz answered 200"):
        assert f"ok      {line}" in said
    assert "ok      TLS: 5 listeners and 0 ways out by TLS 1.2 or newer" in said


@pytest.mark.requirement("SRS-TLS-032")
def test_what_the_node_keeps_is_its_users_alone_whatever_the_umask(site):
    """Database, journal, images, sockets, locks: a second user of the machine reads none of it."""
    data = site.node.folder / "data"
    found = [path for path in data.rglob("*") if not path.is_relative_to(data / "cache")]
    assert {path.name for path in found} >= {"cxr-node.db", "run", "instances"}
    wide = [(path, oct(path.stat().st_mode)) for path in found if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert not wide


@pytest.mark.requirement("SRS-LOG-101")
def test_no_name_and_no_secret_leaves_by_log_console_metrics_or_command(site):
    """Every way in, whole and broken, at the most talkative level; what comes out is searched for what was planted."""
    node = site.node
    good = named()
    assert site.store(good) == 0
    assert site.store(named(PatientAge="ZQXA", BitsStored=99, PatientBirthDate="18991231ZQX")) is not None
    assert site.store(named(PixelData=b"ZQX")) is not None
    assert site.store(named(PhotometricInterpretation="ZQXPALETTE", Rows=9, ViewPosition="ZQXVIEW")) is not None
    torn = to_part_10(named())
    assert site.stow(to_part_10(named()), b"ZQX no DICOM at all", torn[: len(torn) // 3]) in (200, 202, 400, 409)
    for name, data in (("ZQXFILE^JANE.dcm", to_part_10(named())), ("ZQXBAD^18991231.dcm", b"ZQX no DICOM")):
        part = site.watched / f".{name}"
        part.write_bytes(data)
        part.rename(site.watched / name)
    (site.watched / "ZQXDIR").mkdir()
    (site.watched / "ZQXDIR" / "ZQXLINK").symlink_to("/ZQX/nowhere")
    _orders(site)
    _pages(site, str(good.StudyInstanceUID))
    _work_items(site)
    with socket.create_connection(("127.0.0.1", node.port), timeout=60) as plain:
        plain.sendall(b"ZQXDOE^JANE in plain text where TLS is spoken")

    def log() -> str:
        return node.log_path.read_text(errors="replace")

    def is_through() -> bool:
        answer = site.web.get(f"/api/studies/{good.StudyInstanceUID}")
        return answer.status_code == 200 and answer.json()["status"] != "pending"

    wait_until(is_through, 120, f"the good study has a result; log:\n{log()[-3000:]}")
    wait_until(lambda: not (site.watched / "ZQXFILE^JANE.dcm").exists(), 60, "the file was taken in")
    for name in ("pacs", "hook", "web", "oru"):
        failed = re.compile(rf'(?m)^.*"{name}".*(nothing listens|refused|Unreachable).*$')
        wait_until(lambda failed=failed: failed.search(log()), 120, f"a delivery to {name} failed:\n{log()[-3000:]}")
    told = {
        "log": log(),
        "console": node.console_path.read_text(errors="replace"),
        "metrics": site.web.get("/metrics").text,
        "health": site.web.get("/readyz").text,
        "config check": site.command("config", "check"),
        "doctor": site.doctor,
        "destination list": site.command("destination", "list"),
        "tokens": site.command("token", "list"),
    }
    assert '"level": "warning"' in told["log"]
    assert "cxr_" in told["metrics"]
    for where, text in told.items():
        assert site.token not in text, where
        lines = [line for line in text.splitlines() if any(planted in line.lower() for planted in PLANTED)]
        assert not lines, (where, lines[:5])


def _orders(site: Site) -> None:
    """Orders of the planted patient, one whole and others that are none."""
    person = "PID|||ZQXID4711||ZQXDOE^JANE||18991231|F|||ZQX street"
    order = ("ORC|NW|ZQXPL1", "OBR|1|ZQXPL1|||STAT" + "|" * 13 + "ZQXACC1")
    assert b"MSA|A" in site.hl7(b"\x0b" + message(person, *order, control_id="C1") + b"\x1c\r")
    for broken in (
        b"\x0bMSH|^~\\&|ZQX|ZQX\rPID|ZQXDOE^JANE\r\x1c\r",
        b"\x0bZQXDOE^JANE no message\x1c\r",
        b"\x0b" + message(person, *order, control_id="ZQXC2").replace(b"ORM", b"ZQX") + b"\x1c\r",
        b"\x0b" + "PID|ZQXDÖE".encode("latin-1") + b"\x1c\r",
        b"ZQXDOE^JANE outside of a block",
    ):
        site.hl7(broken)


def _pages(site: Site, study: str) -> None:
    """What a browser and a script may ask, with a patient in the address, the form, the header or the file."""
    web = site.web
    for path in (
        "/list?patient=ZQXDOE&q=ZQXID4711&search=18991231",
        "/api/studies?patient=ZQXDOE^JANE&q=ZQXDOE&limit=ZQX",
        "/ZQXDOE/no/such/page?patient=ZQXID4711",
        "/studies/ZQXDOE",
        f"/api/studies/{study}?patient=ZQXDOE",
        "/admin/audit?text=ZQXDOE&actor=zqxlogin",
        "/dicom-web/workitems?PatientName=ZQXDOE*&00100020=ZQXID4711",
        "/login?next=/ZQXDOE",
    ):
        assert web.get(path).status_code < 500, path
    stranger = httpx.Client(base_url=site.node.url, verify=client_context({"ca": site.authority.ca}), timeout=60)
    with stranger:
        page = stranger.get("/login", headers={"Accept": "text/html"})
        token = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
        form = {"login": "zqxlogin", "password": "zqxpassword", "csrf_token": token[1] if token else ""}
        assert stranger.post("/login", data=form, headers={"Origin": site.node.url}).status_code < 500
        assert stranger.get("/api/studies", headers={"Authorization": "Bearer zqxtoken"}).status_code == 401
        assert stranger.get("/api/studies", headers={"Cookie": "__Host-cxr_node_session=zqxcookie"}).status_code == 401
    opened = web.post("/api/drops", json={})
    if opened.status_code == 201:
        for name, data in (
            ("ZQXDROP.dcm", to_part_10(named())),
            ("ZQXDROP.zip", b"PK\x03\x04ZQX"),
            ("ZQX.png", b"ZQX"),
        ):
            added = web.post(f"/api/drops/{opened.json()['key']}/files", content=data, headers={"X-File-Name": name})
            assert added.status_code < 500


def _work_items(site: Site) -> None:
    """Work items and queries that name the planted patient."""
    person = {
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "ZQXDOE^JANE"}]},
        "00100020": {"vr": "LO", "Value": ["ZQXID4711"]},
        "00100030": {"vr": "DA", "Value": ["18991231"]},
        "00741204": {"vr": "LO", "Value": ["ZQX free text"]},
    }
    for body in (json.dumps([person]), json.dumps(person), '{"ZQXDOE": ', json.dumps([{"ZQX": {"vr": "ZQX"}}])):
        answer = site.web.post(
            f"/dicom-web/workitems?workitem={generate_uid()}",
            content=body,
            headers={"Content-Type": "application/dicom+json", "Accept": "application/dicom+json"},
        )
        assert answer.status_code < 500
    association = site.ask(
        site.node.dicom_port,
        "CXR_WORKLIST",
        (UnifiedProcedureStepPull,),
        (ModalityWorklistInformationFind,),
        (PatientRootQueryRetrieveInformationModelFind,),
    )
    identifier = Dataset()
    identifier.PatientName, identifier.PatientID, identifier.PatientBirthDate = "ZQXDOE*", "ZQXID4711", "18991231"
    identifier.ScheduledProcedureStepPriority = "ZQXPRIORITY"
    try:
        for _ in association.send_c_find(identifier, UnifiedProcedureStepPull):
            pass
        for _ in association.send_c_find(identifier, ModalityWorklistInformationFind):
            pass
    finally:
        if association.is_established:
            association.release()
