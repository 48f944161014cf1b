"""Peers that answer as told and keep what they got: a web server, an HL7 listener, a UPS SCP."""

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import hl7
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import UnifiedProcedureStepPull, UnifiedProcedureStepPush, Verification

from cxr_node.clock import utc_now
from cxr_node.reporting import Notice, encode_notice
from cxr_node.settings import Destination
from storage import deliveries, jobs, results
from tests.cxr_node.deliver.conftest import Node, free_port


def make_notice(study_instance_uid: str = "1.2.3", **changes: object) -> Notice:
    """The notice of a flagged study that was ordered as routine."""
    values = {
        "study_instance_uid": study_instance_uid,
        "revision": 1,
        "created_at": "2026-01-01T12:00:00+00:00",
        "status": "analysed",
        "flagged": True,
        "ordered": "ROUTINE",
        "ai": "HIGH",
        "effective": "HIGH",
        "reason": "AI triage: flagged (pneumonia suspected); priority raised from ROUTINE",
        "findings": ("pneumonia",),
        "patient_name": "DOE^JANE",
        "patient_id": "P1",
        "birth_date": "19600101",
        "sex": "F",
        "accession_number": "A1",
        "study_date": "20260101",
        "study_time": "101530",
        "station_name": "cxr-node",
        **changes,
    }
    return Notice(**values)


def plan_notice(node: Node, destination: str, notice: Notice) -> int:
    """Store a study's next result with a notice and plan its delivery, as the analyze stage does; return its id."""
    location = node.files.write_object(notice.uid, encode_notice(notice))
    with node.database.begin() as connection:
        now, uid = utc_now(), notice.study_instance_uid
        result = results.add(connection, uid, status="analysed", flagged=True, ai_priority="HIGH", outcome={}, now=now)
        results.add_object(
            connection,
            result.id,
            kind="priority",
            sop_class_uid="",
            sop_instance_uid=notice.uid,
            location=location,
            now=now,
        )
        planned = deliveries.add(connection, result.id, kind="priority", destination=destination, now=now).id
        jobs.schedule(connection, "deliver", str(planned), run_at=now, now=now)
    return planned


@dataclass
class Request:
    """One HTTP request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Answer = tuple[int, dict[str, str], bytes]


@dataclass
class WebPeer:
    """An HTTP server; `answer` decides what it says, None hangs up without a word."""

    port: int = field(default_factory=free_port)
    answer: Callable[[Request], Answer | None] = lambda request: (200, {}, b"")
    received: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def posted(self) -> list[Request]:
        return [item for item in self.received if item.method == "POST"]


@contextlib.contextmanager
def web_serving(peer: WebPeer) -> Iterator[WebPeer]:
    """Run the server on its port."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            peer.received.append(request)
            answer = peer.answer(request)
            if answer is None:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            status, headers, content = answer
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_OPTIONS = handle_any

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A peer that hangs up is what some tests are about."""

    server = Server(("127.0.0.1", peer.port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield peer
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def stow_answer(request: Request, failure: int | None = None) -> Answer:
    """A STOW-RS service that stores what it gets, or fails every instance with a reason; QIDO-RS finds nothing."""
    if request.method == "GET":
        return 204, {}, b""
    start = request.body.index(b"\r\n\r\n") + 4
    part = request.body[start:]
    uid = _uid_of(part)
    item = {"00081150": {"vr": "UI", "Value": ["1.2"]}, "00081155": {"vr": "UI", "Value": [uid]}}
    if failure is None:
        body = {"00081199": {"vr": "SQ", "Value": [item]}}
        return 200, {"Content-Type": "application/dicom+json"}, json.dumps(body).encode()
    item["00081197"] = {"vr": "US", "Value": [failure]}
    body = {"00081198": {"vr": "SQ", "Value": [item]}}
    return 409, {"Content-Type": "application/dicom+json"}, json.dumps(body).encode()


def stow_part(request: Request) -> bytes:
    """The Part 10 file of a STOW-RS request."""
    boundary = request.headers["content-type"].rpartition("boundary=")[2].encode()
    start = request.body.index(b"\r\n\r\n") + 4
    return request.body[start : request.body.rindex(b"\r\n--" + boundary)]


def _uid_of(part: bytes) -> str:
    """Media Storage SOP Instance UID, of the file meta information, explicit VR."""
    at = part.index(b"\x02\x00\x03\x00UI") + 6
    return part[at + 2 : at + 2 + int.from_bytes(part[at : at + 2], "little")].rstrip(b"\0").decode()


@dataclass
class OrthancPeer:
    """What of Orthanc's REST API the labels need; as `answer` of a WebPeer."""

    version: str = "1.12.4"
    studies: dict[str, list[tuple[str, str]]] = field(default_factory=dict)  # Study UID → (Orthanc id, Patient ID)
    metadata_registered: bool = True
    labels: set[tuple[str, str]] = field(default_factory=set)
    metadata: set[tuple[str, str]] = field(default_factory=set)

    def __call__(self, request: Request) -> Answer:
        if request.path == "/system":
            return 200, {}, json.dumps({"Version": self.version}).encode()
        if request.path == "/tools/lookup":
            known = self.studies.get(request.body.decode(), [])
            return 200, {}, json.dumps([{"ID": item, "Type": "Study", "Path": ""} for item, _ in known]).encode()
        _, _, study, *more = request.path.split("/")
        patient = next((pid for known in self.studies.values() for item, pid in known if item == study), None)
        if patient is None:
            return 404, {}, b"{}"
        if request.method == "GET":
            return 200, {}, json.dumps({"PatientMainDicomTags": {"PatientID": patient}}).encode()
        if more[0] == "labels" and self.version >= "1.12":
            self.labels.add((study, more[1]))
            return 200, {}, b""
        if more[0] == "metadata" and self.metadata_registered:
            self.metadata.add((study, more[1]))
            return 200, {}, b""
        return 404, {}, b"{}"


def ack(message: str, code: str = "AA", control_id: str | None = None, more: str = "", text: str = "") -> str:
    """An acknowledgement; `more` are further segments, `text` is MSA-3."""
    known_by = str(hl7.parse(message).segment("MSH")[10]) if control_id is None else control_id
    head = "MSH|^~\\&|RIS|SITE|CXR_NODE||20260101120001||ACK^R01^ACK|R1|P|2.5.1\r"
    return f"{head}MSA|{code}|{known_by}|{text}\r{more}"


@dataclass
class Hl7Peer:
    """An HL7 listener; `answer` makes the acknowledgement of a message, None hangs up, "" says nothing."""

    port: int = field(default_factory=free_port)
    answer: Callable[[str], str | None] = ack
    received: list[str] = field(default_factory=list)
    pieces: int = 1  # an acknowledgement comes in so many pieces
    framed: bool = True

    def destination(self, name: str = "ris", **changes: object) -> Destination:
        values = {"host": "127.0.0.1", "port": self.port, "timeout_s": 3.0, **changes}
        return Destination.model_validate({"name": name, "kind": "hl7-oru", **values})


@contextlib.contextmanager
def hl7_serving(peer: Hl7Peer, context: ssl.SSLContext | None = None) -> Iterator[Hl7Peer]:
    """Run the listener on its port."""
    listener = socket.create_server(("127.0.0.1", peer.port))
    stopped = threading.Event()

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(10)
            if context is not None:
                connection = context.wrap_socket(connection, server_side=True)
            found = b""
            while b"\x1c\r" not in found:
                chunk = connection.recv(4096)
                if not chunk:
                    return
                found += chunk
            message = found.partition(b"\x0b")[2].partition(b"\x1c\r")[0].decode()
            peer.received.append(message)
            answer = peer.answer(message)
            if answer is None:
                return
            if answer == "":
                stopped.wait(30)
                return
            data = b"\x0b" + answer.encode() + b"\x1c\r" if peer.framed else answer.encode()
            step = max(1, -(-len(data) // peer.pieces))
            for at in range(0, len(data), step):
                connection.sendall(data[at : at + step])
                if peer.pieces > 1:
                    time.sleep(0.01)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield peer
    finally:
        stopped.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


@dataclass
class UpsPeer:
    """A UPS SCP that keeps its tasks by UID; `status` is what N-CREATE is answered with where it is not 0."""

    port: int = field(default_factory=free_port)
    ae_title: str = "UPS"
    tasks: dict[str, Dataset] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    status: Callable[[], int] = lambda: 0x0000
    n_set_status: int = 0x0000

    def destination(self, name: str = "ups", **changes: object) -> Destination:
        values = {"ae_title": self.ae_title, "host": "127.0.0.1", "port": self.port, "timeout_s": 3.0, **changes}
        return Destination.model_validate({"name": name, "kind": "ups", **values})


@contextlib.contextmanager
def ups_serving(
    peer: UpsPeer, classes: tuple[str, ...] = (UnifiedProcedureStepPush, UnifiedProcedureStepPull, Verification)
) -> Iterator[UpsPeer]:
    """Run the SCP on its port; a called AE title other than its own is refused."""

    def create(event: evt.Event) -> tuple[int, Dataset | None]:
        peer.requests.append("N-CREATE")
        status = peer.status()
        if status:
            return status, None
        uid = str(event.request.AffectedSOPInstanceUID)
        if uid in peer.tasks:
            return 0x0111, None
        peer.tasks[uid] = event.attribute_list
        return 0x0000, Dataset()

    def get(event: evt.Event) -> tuple[int, Dataset | None]:
        peer.requests.append("N-GET")
        task = peer.tasks.get(str(event.request.RequestedSOPInstanceUID))
        if task is None:
            return 0xC307, None
        found = Dataset()
        for tag in event.attribute_identifiers:
            if tag in task:
                found.add(task[tag])
        return 0x0000, found

    def change(event: evt.Event) -> tuple[int, Dataset | None]:
        peer.requests.append("N-SET")
        if peer.n_set_status:
            return peer.n_set_status, None
        peer.tasks[str(event.request.RequestedSOPInstanceUID)].update(event.modification_list)
        return 0x0000, Dataset()

    ae = AE(ae_title=peer.ae_title)
    ae.require_called_aet = True
    for sop_class_uid in classes:
        ae.add_supported_context(sop_class_uid)
    handlers = [(evt.EVT_N_CREATE, create), (evt.EVT_N_GET, get), (evt.EVT_N_SET, change)]
    server = ae.start_server(("127.0.0.1", peer.port), block=False, evt_handlers=handlers)
    try:
        yield peer
    finally:
        server.shutdown()
