"""Every kind of destination against every fault, on the wire: the deliver stage here, peers there, a table at the end.

Run with ``-s`` to see the table.
"""

import contextlib
import hashlib
import secrets
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from starlette.testclient import TestClient

from cxr_node.clock import utc_now
from cxr_node.settings import PRIORITY, Destination
from cxr_node.worklist.services import make_services
from cxr_node.worklist.web.app import create_app
from storage import Database, lanes, tokens
from tests.cxr_node.deliver.conftest import Node, Pacs, free_port, serving, storescp, wait_for
from tests.cxr_node.deliver.peers import (
    Hl7Peer,
    OrthancPeer,
    UpsPeer,
    WebPeer,
    ack,
    hl7_serving,
    make_notice,
    plan_notice,
    stow_answer,
    stow_part,
    ups_serving,
    web_serving,
)

pytestmark = [pytest.mark.requirement("SRS-DLV-214"), pytest.mark.peer("storescp")]

TIMEOUT_S = 0.6
SLOW_S = 1.5
FAULTS = ("accepted", "refused", "slow", "dead in the middle", "wrong credentials", "restarted")
ORTHANC_ID = "-".join(["0123abcd"] * 5)

# What a fault leads to before it is mended: W it waits and is tried again, F given up at once until a person asks.
EXPECTED = {
    "c-store": {"refused": "W", "slow": "W", "dead in the middle": "W", "wrong credentials": "W", "restarted": "W"},
    "stow-rs": {"refused": "F", "slow": "W", "dead in the middle": "W", "wrong credentials": "W", "restarted": "W"},
    "hl7-oru": {"refused": "F", "slow": "W", "dead in the middle": "W", "wrong credentials": "W", "restarted": "W"},
    "ups": {"refused": "F", "slow": "W", "dead in the middle": "W", "wrong credentials": "W", "restarted": "W"},
    "orthanc-label": {
        "refused": "F",
        "slow": "W",
        "dead in the middle": "W",
        "wrong credentials": "W",
        "restarted": "W",
    },
    "webhook": {"refused": "F", "slow": "W", "dead in the middle": "W", "wrong credentials": "W", "restarted": "W"},
    # A folder has neither answers nor credentials: what it can be is not there.
    "folder": {"refused": "W", "restarted": "W"},
}
OUTCOMES: dict[tuple[str, str], str] = {}


@dataclass
class Rig:
    """A destination, and the peer behind it, which a test breaks and mends.

    `arrived` lists identity and content of everything the peer took, each time it took it.
    """

    destination: Destination
    arrived: Callable[[], list[tuple[str, bytes]]]
    broken: Destination | None = None  # as node.toml has it before somebody puts it right
    mend: Callable[[], None] = lambda: None
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def plan(self, node: Node) -> int:
        """Store something for it and plan its delivery."""
        if PRIORITY in self.destination.sends:
            return plan_notice(node, "here", make_notice())
        return node.plan("here")[0]


def _destination(kind: str, **values: Any) -> Destination:
    return Destination(
        **{"name": "here", "kind": kind, "timeout_s": TIMEOUT_S, "commit": False, **values}  # type: ignore[arg-type]
    )


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def c_store(fault: str, folder: Path) -> Rig:
    """DCMTK's storescp with its fault switches; for the AE title pynetdicom, as storescp takes any."""
    port, stack = free_port(), contextlib.ExitStack()
    here = _destination("c-store", ae_title="PACS", host="127.0.0.1", port=port)
    if fault == "wrong credentials":
        pacs = stack.enter_context(serving(Pacs(port)))
        got = lambda: [(item.sop_instance_uid, _digest(item.dataset)) for item in pacs.received]  # noqa: E731
        return Rig(here, got, here.model_copy(update={"ae_title": "WRONG"}), stack=stack)
    switches = {
        "refused": ["--refuse"],
        "slow": ["--sleep-during", "2"],
        "dead in the middle": ["--abort-during"],
    }.get(fault, [])
    inbox = folder / "inbox"
    inbox.mkdir()
    running = contextlib.ExitStack()
    options = ["--output-directory", str(inbox)]

    def run(*more: str) -> None:
        running.close()
        running.enter_context(storescp(port, *options, *more))

    stack.callback(running.close)
    if fault != "restarted":
        run(*switches)
    return Rig(here, lambda: [_file(path) for path in inbox.iterdir()], mend=run, stack=stack)


def _file(path: Path) -> tuple[str, bytes]:
    dataset = dcmread(path)
    uid = str(dataset.SOPInstanceUID)
    return uid, _digest(repr(dataset).encode())


def _web(kind: str, fault: str, answer: Callable, refusal: int, identify: Callable, **values: Any) -> Rig:
    """An HTTP peer that breaks as told, the request taken or not, and then answers as it should."""
    stack = contextlib.ExitStack()
    peer = WebPeer()
    taken: list[tuple[str, bytes]] = []
    broken = threading.Event()
    if fault != "accepted":
        broken.set()

    def behave(request: Any) -> Any:
        wants = identify(request)
        if broken.is_set() and fault in ("refused", "wrong credentials"):
            return (refusal if fault == "refused" else 401), {}, b""
        found = answer(request)
        if wants is not None:
            taken.append(wants)
        if broken.is_set() and fault == "slow":
            stop.wait(SLOW_S)
        if broken.is_set() and fault == "dead in the middle":
            return None  # it took the request, and hung up before it said so
        return found

    stop = threading.Event()
    stack.callback(stop.set)
    peer.answer = behave
    here = _destination(kind, url=peer.url, **values)

    def mend() -> None:
        broken.clear()
        if fault == "restarted":
            stack.enter_context(web_serving(peer))

    if fault != "restarted":
        stack.enter_context(web_serving(peer))
    return Rig(here, lambda: list(taken), mend=mend, stack=stack)


def stow_rs(fault: str, folder: Path) -> Rig:
    def identify(request: Any) -> tuple[str, bytes] | None:
        return ("object", _digest(stow_part(request))) if request.method == "POST" else None

    return _web("stow-rs", fault, stow_answer, 409, identify)


def webhook(fault: str, folder: Path) -> Rig:
    (folder / "key").write_text("s3cret")

    def identify(request: Any) -> tuple[str, bytes]:
        return request.headers["idempotency-key"], _digest(request.body)

    return _web("webhook", fault, lambda request: (200, {}, b""), 410, identify, secret_file=str(folder / "key"))


def orthanc_label(fault: str, folder: Path) -> Rig:
    orthanc = OrthancPeer(studies={"1.2.3": [(ORTHANC_ID, "P1")]})

    def identify(request: Any) -> tuple[str, bytes] | None:
        return (request.path, b"") if request.method == "PUT" else None

    return _web("orthanc-label", fault, orthanc, 400, identify)


def hl7_oru(fault: str, folder: Path) -> Rig:
    """For credentials: the node speaks plain to a listener that wants TLS, until node.toml says so."""
    stack, peer = contextlib.ExitStack(), Hl7Peer()
    stop = threading.Event()
    stack.callback(stop.set)

    def slow(message: str) -> str:
        stop.wait(SLOW_S)
        return ack(message)

    peer.answer = {
        "refused": lambda message: ack(message, "AR", more="ERR|||200^Unsupported message type^HL70357|E\r"),
        "slow": slow,
        "dead in the middle": lambda message: None,
    }.get(fault, ack)
    here = peer.destination("here", timeout_s=TIMEOUT_S)
    context = broken = None
    if fault == "wrong credentials":
        certificate, key = folder / "certificate.pem", folder / "key.pem"
        subprocess.run(
            f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 "
            f"-addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}",
            shell=True,
            check=True,
            capture_output=True,
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        broken = here
        here = Destination.model_validate({**here.model_dump(), "tls": {"ca": str(certificate)}})

    def mend() -> None:
        peer.answer = ack
        if fault == "restarted":
            stack.enter_context(hl7_serving(peer))

    if fault != "restarted":
        stack.enter_context(hl7_serving(peer, context))
    got = lambda: [(text.split("|")[9], text.encode()) for text in list(peer.received)]  # noqa: E731
    return Rig(here, got, broken, mend, stack)


def ups(fault: str, folder: Path) -> Rig:
    stack, peer = contextlib.ExitStack(), UpsPeer()
    stop = threading.Event()
    stack.callback(stop.set)
    calls: list[int] = []

    def status() -> int:
        calls.append(1)
        if fault == "refused":
            return 0x0106
        if fault == "slow":
            stop.wait(SLOW_S)
        return 0x0000

    running = contextlib.ExitStack()
    stack.callback(running.close)
    if fault in ("refused", "slow"):
        peer.status = status
    here = peer.destination("here", timeout_s=TIMEOUT_S)
    broken = here.model_copy(update={"ae_title": "WRONG"}) if fault == "wrong credentials" else None
    if fault == "dead in the middle":
        listener = _hang_up_after_a_word(peer.port)
        running.enter_context(listener)
    elif fault != "restarted":
        running.enter_context(ups_serving(peer))

    def mend() -> None:
        peer.status = lambda: 0x0000
        if fault in ("restarted", "dead in the middle"):
            running.close()
            running.enter_context(ups_serving(peer))

    def got() -> list[tuple[str, bytes]]:
        return [(uid, _digest(repr(task).encode())) for uid, task in peer.tasks.items()]

    return Rig(here, got, broken, mend, stack)


@contextlib.contextmanager
def _hang_up_after_a_word(port: int) -> Iterator[None]:
    """A listener that reads the first bytes of an association and closes the connection."""
    listener = socket.create_server(("127.0.0.1", port))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                connection.recv(64)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def folder(fault: str, place: Path) -> Rig:
    outbox = place / "outbox"
    if fault != "accepted":
        outbox.write_text("a file where a folder is expected")
    got = lambda: [(path.name, path.read_bytes()) for path in outbox.glob("*")] if outbox.is_dir() else []  # noqa: E731
    return Rig(_destination("folder", path=str(outbox)), got, mend=outbox.unlink)


RIGS: dict[str, Callable[[str, Path], Rig]] = {
    "c-store": c_store,
    "stow-rs": stow_rs,
    "hl7-oru": hl7_oru,
    "ups": ups,
    "orthanc-label": orthanc_label,
    "webhook": webhook,
    "folder": folder,
}
CASES = [(kind, fault) for kind in RIGS for fault in FAULTS if fault == "accepted" or fault in EXPECTED[kind]]


@pytest.fixture(scope="module")
def migrated() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "cxr-node.db"
        database = Database(f"sqlite:///{path}")
        database.migrate()
        database.dispose()
        yield path


@pytest.fixture
def node(tmp_path: Path, migrated: Path) -> Iterator[Node]:
    (tmp_path / "var").mkdir()
    shutil.copy(migrated, tmp_path / "var")
    made = Node(tmp_path)
    yield made
    made.database.dispose()


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """Print what became of each case once all ran."""
    OUTCOMES.clear()
    yield
    print("\n\n" + " | ".join(["kind".ljust(13), *(fault.ljust(28) for fault in FAULTS)]))
    for kind in RIGS:
        cells = [OUTCOMES.get((kind, fault), "–").ljust(28) for fault in FAULTS]
        print(" | ".join([kind.ljust(13), *cells]))


def shown(node: Node, destination: Destination) -> dict[str, Any]:
    """What the API says of the destination to an admin's program."""
    secret = secrets.token_urlsafe(32)
    with node.database.begin() as connection:
        tokens.create(connection, secret[:8], "admin", now=utc_now(), secret=secret)
    services = make_services(node.settings(destination), node.database)
    with TestClient(create_app(services), base_url="http://127.0.0.1:8042") as client:
        answer = client.get("/api/destinations/here", headers={"Authorization": f"Bearer {secret}"})
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told


@pytest.mark.parametrize(("kind", "fault"), CASES)
def test_nothing_is_lost_and_nothing_doubled(kind, fault, node, tmp_path):
    """A result that a destination could not take is not lost; what it got twice it got as the same; and the state that
    a person sees is true, before the fault is mended and after."""
    (tmp_path / "peer").mkdir()
    rig = RIGS[kind](fault, tmp_path / "peer")
    with rig.stack:
        delivery_id = rig.plan(node)
        before = ""
        if fault != "accepted":
            before = _suffer(node, rig, delivery_id, EXPECTED[kind][fault])
            rig.mend()
            with node.database.begin() as connection:
                lanes.resume(connection, "here", by="test", now=utc_now())
            lanes.resend_failed(node.database, "here", by="test", now=utc_now())
        with node.delivering(rig.destination):
            wait_for(lambda: node.delivery(delivery_id).state == "DELIVERED", 15)
        arrived = rig.arrived()
        assert arrived
        assert len(set(arrived)) == 1, "the peer got different things under one delivery"
        told = shown(node, rig.destination)
        assert (told["waiting"], told["failed"], told["delivered"], told["state"]) == (0, 0, 1, "sending")
        assert told["last_success_at"]
    OUTCOMES[kind, fault] = f"{before}delivered, {len(arrived)} x same"


def _suffer(node: Node, rig: Rig, delivery_id: int, expected: str) -> str:
    """Run the stage against the broken peer until the fault shows; return how it stood then, as the API says it."""
    wrong = rig.broken or rig.destination
    with node.delivering(wrong):
        wait_for(lambda: node.delivery(delivery_id).reason, 15)
        if expected == "F":
            wait_for(lambda: node.delivery(delivery_id).state == "FAILED")
    delivery = node.delivery(delivery_id)
    told = shown(node, wrong)
    assert delivery.state == ("FAILED" if expected == "F" else "SCHEDULED")
    assert (told["waiting"], told["failed"], told["delivered"]) == ((0, 1, 0) if expected == "F" else (1, 0, 0))
    assert told["last_error"] == delivery.reason
    assert told["last_error"].startswith("here: ")
    assert told["last_success_at"] is None
    return "failed, " if expected == "F" else "waits, "


def test_every_kind_that_is_sent_stands_in_the_matrix():
    """A new kind of destination has to say how it breaks."""
    assert set(RIGS) == set(EXPECTED) == set(Destination.model_fields["kind"].annotation.__args__)
