"""A DICOMweb service that answers as told, and can be asked what it got."""

import contextlib
import email.parser
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from pydicom import dcmread

from cxr_node.settings import Destination


@dataclass
class Request:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def parts(self) -> list[tuple[str, bytes]]:
        """Media type and bytes of each part of multipart/related."""
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        message = email.parser.BytesParser().parsebytes(head + self.body)
        return [(part.get_content_type(), part.get_payload(decode=True)) for part in message.get_payload()]


@dataclass
class Response:
    """What to answer; no status breaks the connection off."""

    status: int = 200
    body: bytes = b""
    media_type: str = "application/dicom+json"
    headers: dict[str, str] = field(default_factory=dict)


def store_answer(*, stored: str = "", failed: str = "", reason: int | None = None) -> bytes:
    """The JSON body for one instance that was stored (`reason`: with a warning) or failed."""
    item = {"00081155": {"vr": "UI", "Value": [stored or failed]}}
    if reason is not None:
        item["00081197" if failed else "00081196"] = {"vr": "US", "Value": [reason]}
    return json.dumps({"00081198" if failed else "00081199": {"vr": "SQ", "Value": [item]}}).encode()


@dataclass
class Web:
    """`answer` decides; by default a service that stores and finds what it stored."""

    port: int = 0
    answer: Callable[[Request], Response | None] | None = None
    requests: list[Request] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/dicom-web"

    def destination(self, **changes: object) -> Destination:
        values = {"url": self.url, "timeout_s": 5.0, **changes}
        return Destination.model_validate({"name": "web", "kind": "stow-rs", **values})

    def respond(self, request: Request) -> Response | None:
        self.requests.append(request)
        if self.answer is not None:
            return self.answer(request)
        if request.method == "POST" and request.path == "/dicom-web/studies":
            ((media_type, data),) = request.parts
            assert media_type == "application/dicom"
            uid = str(dcmread(BytesIO(data)).SOPInstanceUID)
            self.stored[uid] = data
            return Response(200, store_answer(stored=uid))
        if request.method == "GET" and request.path.endswith("/instances"):
            return self.find(request)
        if request.method == "GET" and request.path == "/dicom-web/studies":
            return Response(200, b"[]")
        return Response(404, b"", "text/html")

    def find(self, request: Request) -> Response:
        data = self.stored.get(request.query.get("SOPInstanceUID", ""))
        if data is None:
            return Response(204)
        dataset = dcmread(BytesIO(data))
        if "/series/" in request.path and f"/studies/{dataset.StudyInstanceUID}/" not in request.path:
            return Response(404)
        found = {
            "00080016": {"vr": "UI", "Value": [dataset.SOPClassUID]},
            "00080018": {"vr": "UI", "Value": [dataset.SOPInstanceUID]},
            "0020000D": {"vr": "UI", "Value": [dataset.StudyInstanceUID]},
        }
        return Response(200, json.dumps([found]).encode())


@contextlib.contextmanager
def serving_web(web: Web, certificate: tuple[Path, Path] | None = None, ca: Path | None = None) -> Iterator[Web]:
    """Run it; with a certificate and its key over TLS, with `ca` for clients that show one signed by it only."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            with contextlib.suppress(OSError):
                super().handle_one_request()
                return
            self.close_connection = True

        def do_any(self) -> None:
            split = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            query = {key: values[0] for key, values in parse_qs(split.query).items()}
            headers = {key.lower(): value for key, value in self.headers.items()}
            response = web.respond(Request(self.command, split.path, query, headers, body))
            if response is None:
                self.close_connection = True
                return
            self.send_response(response.status)
            self.send_header("Content-Type", response.media_type)
            self.send_header("Content-Length", str(len(response.body)))
            for key, value in response.headers.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(response.body)

        do_GET = do_POST = do_OPTIONS = do_PUT = do_DELETE = do_any  # the library's names

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that breaks off is part of the test."""

    server = Server(("127.0.0.1", web.port), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        if ca is not None:
            context.load_verify_locations(ca)
            context.verify_mode = ssl.CERT_REQUIRED
        # Without a handshake at `accept`, which would keep the server busy with one client.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        web.scheme = "https"
    web.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
