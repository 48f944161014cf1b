"""STOW-RS over a real server and a real storage: statuses, reasons, gates and limits."""

import contextlib
import json
import socket
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom.dataset import Dataset

from cxr_node.receive import stow as stow_module
from cxr_node.receive import web_server
from cxr_node.receive.intake import Intake
from cxr_node.receive.stow import Stow, create_app
from cxr_node.receive.web_server import WebServer, tls_context
from cxr_node.settings import load_settings
from cxr_node.tls import client_context, loop
from cxr_node.work.recorder import Recorder
from storage import Doorbell, InstanceFiles, associations, audit, callers, instances, jobs, tokens
from tests.builders import make_radiograph_dataset, to_part_10
from tests.certificates import Authority
from tests.databases import migrated
from tests.system.conftest import wait_until

BOUNDARY = "b0undary"
TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
SECRET = "s3cret-that-is-long-enough-to-be-random"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def body_of(*files: bytes, media_type: str = "application/dicom", closed: bool = True) -> bytes:
    parts = b"".join(
        f"\r\n--{BOUNDARY}\r\nContent-Type: {media_type}\r\n\r\n".encode() + data for data in files
    ).removeprefix(b"\r\n")
    return parts + (f"\r\n--{BOUNDARY}--\r\n".encode() if closed else b"")


class Served:
    """STOW-RS on loopback."""

    def __init__(self, root: Path, **overrides: str) -> None:
        self.root = root
        self.settings = load_settings(
            None,
            {
                "CXR_NODE__NODE__DATA_DIR": str(root),
                "CXR_NODE__RECEIVE__MIN_FREE_GB": "0.01",
                "CXR_NODE__RECEIVE__QUIET_PERIOD_S": "60",
                **{f"CXR_NODE__{key.upper()}": value for key, value in overrides.items()},
            },
        )
        self.database = migrated(self.settings.database_url)
        self.files = InstanceFiles(self.settings.instances_dir)
        self.intake = Intake(self.database, self.files, Doorbell(root / "run"), quiet_period_s=60.0, min_free_bytes=1e7)
        self.recorder = Recorder(self.database, gather_s=0.05)
        app = create_app(Stow(self.settings, self.intake, self.database, self.files, recorder=self.recorder))
        self.verify: Any = True
        context = tls_context(self.settings)
        self.server = WebServer(app, "127.0.0.1", 0, context=context)
        self.server.start()
        self.url = f"{'http' if context is None else 'https'}://127.0.0.1:{self.server.port}"

    def post(self, body: object, path: str = "/studies", **headers: str) -> httpx.Response:
        headers = {"Content-Type": TYPE, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return httpx.post(self.url + path, content=body, headers=headers, timeout=60, verify=self.verify)  # type: ignore

    def stored(self, dataset: Dataset) -> list:
        with self.database.read() as connection:
            return instances.by_sop_instance_uid(connection, dataset.SOPInstanceUID)

    def incoming(self) -> list[Path]:
        return list((self.settings.instances_dir / "incoming").iterdir())

    def close(self) -> None:
        self.server.close()
        self.recorder.close()
        self.database.dispose()


@pytest.fixture
def serve(tmp_path):
    started: list[Served] = []

    def start(**overrides: str) -> Served:
        started.append(Served(tmp_path / str(len(started)), **overrides))
        return started[-1]

    yield start
    for served in started:
        wait_until(lambda served=served: not served.incoming(), 5, "no temporary file left")
        served.close()
    assert not any(thread.name == "receive-web" for thread in threading.enumerate())


@pytest.fixture
def served(serve):
    return serve()


def said(answer: httpx.Response) -> Dataset:
    assert answer.headers["content-type"] == "application/dicom+json"
    return Dataset.from_json(answer.text)


@pytest.mark.requirement("SRS-RCV-301")
def test_instances_are_kept_byte_for_byte_and_their_study_is_due(served):
    """200, each referenced, with no Retrieve URL, for the node serves none; the request's end ends the wait."""
    one = make_radiograph_dataset()
    two = make_radiograph_dataset(StudyInstanceUID=one.StudyInstanceUID)
    files = [to_part_10(one), to_part_10(two)]
    answer = served.post(body_of(*files), Accept="application/dicom+json")
    assert answer.status_code == 200
    response = said(answer)
    assert [item.ReferencedSOPInstanceUID for item in response.ReferencedSOPSequence] == [
        one.SOPInstanceUID,
        two.SOPInstanceUID,
    ]
    assert response.ReferencedSOPSequence[0].ReferencedSOPClassUID == one.SOPClassUID
    assert "RetrieveURL" not in response.ReferencedSOPSequence[0]
    assert "FailedSOPSequence" not in response
    (row,) = served.stored(one)
    assert served.files.read(row.location) == files[0]
    assert (row.calling_ae_title, row.called_ae_title, row.peer_address) == ("STOW-RS", "CXR_NODE", "127.0.0.1")
    assert row.association_id == served.stored(two)[0].association_id != ""
    with served.database.read() as connection:
        job = jobs.get(connection, "analyze", one.StudyInstanceUID)
    assert (job.run_at - row.received_at).total_seconds() < 30
    assert served.post(body_of(files[0])).status_code == 200, "the same again is known"
    assert len(served.stored(one)) == 1


@pytest.mark.requirement("SRS-RCV-302")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (to_part_10(make_radiograph_dataset(SOPClassUID="1.2.840.10008.5.1.4.1.1.128")), 0x0122),
        (to_part_10(make_radiograph_dataset())[:1000], 0xC000),
        (b"no DICOM file", 0xC000),
        (to_part_10(make_radiograph_dataset(SeriesInstanceUID=None)), 0xC002),
        (to_part_10(make_radiograph_dataset(StudyInstanceUID="1.2.x")), 0xC001),
    ],
    ids=["class", "cut", "garbage", "missing UID", "no UID"],
)
def test_some_and_none_stored_are_told_apart(served, data, reason):
    """202 with the reason of the one that failed, 409 where nothing was kept: as C-STORE would have answered."""
    good = make_radiograph_dataset()
    answer = served.post(body_of(to_part_10(good), data))
    assert answer.status_code == 202
    response = said(answer)
    assert response.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == good.SOPInstanceUID
    failures = response.get("FailedSOPSequence") or response.OtherFailuresSequence
    assert [item.FailureReason for item in failures] == [reason]
    answer = served.post(body_of(data))
    assert answer.status_code == 409
    assert "ReferencedSOPSequence" not in said(answer)


@pytest.mark.requirement("SRS-RCV-302")
def test_an_instance_of_another_study_than_the_address_names_is_refused(served):
    """0xA900; one of that study is kept."""
    dataset = make_radiograph_dataset()
    answer = served.post(body_of(to_part_10(dataset)), path="/studies/1.2.3")
    assert answer.status_code == 409
    assert said(answer).FailedSOPSequence[0].FailureReason == 0xA900
    assert served.stored(dataset) == []
    assert served.post(body_of(to_part_10(dataset)), path=f"/studies/{dataset.StudyInstanceUID}").status_code == 200
    assert served.post(body_of(to_part_10(dataset)), path="/studies/DOE^JANE").status_code == 400


@pytest.mark.requirement("SRS-RCV-303")
@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 400),
        (b"garbage that is no multipart", {}, 400),
        (f"--{BOUNDARY}--\r\n".encode(), {}, 400),
        (body_of(b"x", closed=False), {}, 400),
        (body_of(b"x"), {"Content_Type": 'multipart/related; type="application/dicom"'}, 400),
        (b"[]", {"Content_Type": "application/dicom+json"}, 415),
        (
            body_of(b"x"),
            {"Content_Type": f'multipart/related; type="application/dicom+json"; boundary={BOUNDARY}'},
            415,
        ),
        (body_of(b"x"), {"Content_Encoding": "gzip"}, 415),
        (body_of(b"x"), {"Accept": "application/dicom+xml"}, 406),
    ],
)
def test_what_is_no_request_is_refused_by_its_status(served, body, headers, status):
    """A sentence says what was expected, and nothing is kept."""
    answer = served.post(body, **headers)
    assert answer.status_code == status
    assert answer.text.strip()


@pytest.mark.requirement("SRS-RCV-303")
def test_headers_and_lengths_have_bounds(serve):
    """A part's headers, the whole body announced or chunked, and the head of the request."""
    served = serve(receive__dicomweb__max_body_gb="0.0001")
    long = body_of(b"x" * 200_000)
    assert served.post(long).status_code == 413
    assert served.post(iter([long])).status_code == 413
    huge = f"--{BOUNDARY}\r\nX: {'y' * 8000}\r\n\r\nx\r\n--{BOUNDARY}--\r\n".encode()
    assert served.post(huge).status_code == 400
    with contextlib.suppress(httpx.NetworkError):  # it may close before all of it was sent, and the answer be lost
        assert served.post(body_of(b"x"), X_Long="y" * 900_000).status_code in (400, 431)


@pytest.mark.requirement("SRS-RCV-304")
def test_a_token_with_the_role_service_is_needed_where_one_is_asked_for(serve):
    """401 without, 403 with another role, both audited; the token's name is the calling AE title."""
    served = serve(receive__dicomweb__require_token="always")
    with served.database.begin() as connection:
        tokens.create(connection, "ct-gateway", "service", now=NOON, secret=SECRET)
        tokens.create(connection, "dr-lee", "reader", now=NOON, secret=SECRET + "2")
    dataset = make_radiograph_dataset()
    body = body_of(to_part_10(dataset))
    denied = served.post(body)
    assert (denied.status_code, denied.headers["www-authenticate"]) == (401, "Bearer")
    assert served.post(body, Authorization="Bearer wrong").status_code == 401
    assert served.post(body, Authorization=f"Bearer {SECRET}2").status_code == 403
    assert served.stored(dataset) == []
    assert served.post(body, Authorization=f"Bearer {SECRET}").status_code == 200
    assert served.stored(dataset)[0].calling_ae_title == "ct-gateway"
    with served.database.read() as connection:
        refused = [event for event in audit.events(connection) if event.event == "stow_refused"]
    assert len(refused) == 3


@pytest.mark.requirement("SRS-RCV-304")
def test_without_tokens_only_loopback_names_and_listed_callers_count(serve):
    """A web page elsewhere that points its own name here stores nothing; nor does who is no [[caller]]."""
    served = serve()
    dataset = make_radiograph_dataset()
    body = body_of(to_part_10(dataset))
    assert served.post(body, Host="evil.example").status_code == 421
    closed = serve(caller='[{ae_title="CR_ROOM_1", hosts=["127.0.0.1"]}]')
    assert closed.post(body).status_code == 403
    assert served.stored(dataset) == closed.stored(dataset) == []


@pytest.mark.requirement("SRS-ADM-103")
def test_who_is_let_in_by_an_admin_may_send_here_too(serve):
    """One list for every way in; who was turned away is on it under the name that this way has."""
    served = serve(caller='[{ae_title="CR_ROOM_1", hosts=["127.0.0.1"]}]')
    body = body_of(to_part_10(make_radiograph_dataset()))
    assert served.post(body).status_code == 403

    def listed() -> list:
        with served.database.read() as connection:
            return callers.rejected(connection)

    wait_until(listed, 5, "the caller on the list")
    (row,) = listed()
    assert (row.calling_ae_title, row.peer_address, row.reason) == ("STOW-RS", "127.0.0.1", "calling_ae_title")
    with served.database.begin() as connection:
        callers.allow(connection, row.calling_ae_title, row.peer_address, by="kim", now=NOON)
    wait_until(lambda: served.post(body).status_code == 200, 5, "it is let in")


@pytest.mark.requirement("SRS-ADM-101")
def test_a_request_is_written_down_like_an_association(served):
    """The timeline of a study that came this way begins like any other's; a refused body has its reason."""
    dataset = make_radiograph_dataset()
    assert served.post(body_of(to_part_10(dataset), b"x")).status_code == 202
    assert served.post(body_of(to_part_10(dataset), closed=False)).status_code == 400

    def rows() -> list:
        with served.database.read() as connection:
            return associations.recent(connection, limit=9)

    wait_until(lambda: len(rows()) == 2, 5, "both rows")
    refused, kept = rows()
    assert (kept.outcome, kept.calling_ae_title, kept.instances, kept.refused) == ("released", "STOW-RS", 1, 1)
    assert kept.association_id == served.stored(dataset)[0].association_id
    assert kept.bytes == served.stored(dataset)[0].size
    assert (refused.outcome, bool(refused.reason)) == ("ended", True)


@pytest.mark.requirement("SRS-RCV-305")
def test_a_full_disk_is_answered_503_with_when_to_come_again(served, monkeypatch):
    """Before the body is read, and where it fills up in the middle."""
    body = body_of(to_part_10(make_radiograph_dataset()))
    rooms = iter([True, False])
    with monkeypatch.context() as filling:
        filling.setattr(Intake, "has_room", lambda _: next(rooms))
        answer = served.post(body)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
    assert said(answer).FailedSOPSequence[0].FailureReason == 0xA700
    monkeypatch.setattr(Intake, "has_room", lambda _: False)
    answer = served.post(body)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")


@pytest.mark.requirement("SRS-RCV-305")
def test_a_client_that_dies_in_the_middle_keeps_what_was_whole_and_leaves_no_file(served):
    """The first instance is durable; of the second nothing stays."""
    datasets = [make_radiograph_dataset() for _ in range(20)]
    one, two = datasets[0], datasets[-1]
    body = body_of(*map(to_part_10, datasets))
    head = f"POST /studies HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.server.port)) as client:
        client.sendall(head.encode() + body[:-5000])
    wait_until(lambda: served.stored(one), 10, "the first instance")
    wait_until(lambda: not served.incoming(), 10, "no temporary file")
    assert served.stored(two) == []


@pytest.mark.requirement("SRS-RCV-305")
def test_slow_clients_are_ended_and_too_many_are_told_to_come_again(serve, monkeypatch):
    """Neither a head that never ends nor a body that trickles holds the node up for long."""
    monkeypatch.setattr(web_server, "HEAD_WITHIN_S", 0.3)
    served = serve(receive__idle_timeout_s="0.3")
    with socket.create_connection(("127.0.0.1", served.server.port)) as client:
        client.sendall(b"POST /studies HTTP/1.1\r\nHost: ")
        client.settimeout(5)
        assert client.recv(100) == b""
    head = f"POST /studies HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {TYPE}\r\nContent-Length: 99999\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.server.port)) as client:
        client.sendall(head.encode())
        client.settimeout(8)
        assert client.recv(100).startswith(b"HTTP/1.1 408")
    monkeypatch.setattr(stow_module, "MAXIMUM_REQUESTS", 0)
    answer = served.post(body_of(to_part_10(make_radiograph_dataset())))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


@pytest.mark.requirement("SRS-RCV-301")
def test_a_large_body_is_never_whole_in_memory(served):
    """Sent in pieces of odd sizes; parts and boundaries cross them."""
    datasets = [make_radiograph_dataset() for _ in range(5)]
    body = body_of(*map(to_part_10, datasets))
    pieces = [body[start : start + 7919] for start in range(0, len(body), 7919)]
    assert served.post(iter(pieces)).status_code == 200
    assert all(served.stored(dataset) for dataset in datasets)


@pytest.mark.requirement("SRS-RCV-301")
def test_it_says_what_it_is(served):
    """To a person who opens the address, and to OPTIONS; nothing is shown of any study."""
    assert "STOW-RS" in httpx.get(served.url + "/").text
    assert "POST" in httpx.options(served.url + "/studies").headers["allow"]
    assert httpx.get(served.url + "/studies").status_code == 405
    assert httpx.get(served.url + "/nothing").status_code == 404
    assert json.dumps(dict(httpx.get(served.url + "/").headers)).find("uvicorn") == -1


@pytest.mark.requirement("SRS-TLS-026")
def test_images_come_in_by_https_and_not_by_http_on_the_same_port(serve, tmp_path):
    """A token in plain text is everybody's; a renewed certificate is shown without a restart."""
    authority = Authority(tmp_path / "authority")
    issued = authority.issue("stow")
    served = serve(
        receive__dicomweb__tls__certificate=str(issued.certificate),
        receive__dicomweb__tls__key=str(issued.key),
    )
    assert served.url.startswith("https:")
    served.verify = client_context({"ca": authority.ca})
    dataset = make_radiograph_dataset()
    assert served.post(body_of(to_part_10(dataset))).status_code == 200
    assert len(served.stored(dataset)) == 1
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(served.url, verify=client_context({}), timeout=20)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(served.url.replace("https", "http"), timeout=20)
    idle = [socket.create_connection(("127.0.0.1", served.server.port), timeout=20) for _ in range(5)]
    assert served.post(body_of(to_part_10(make_radiograph_dataset()))).status_code == 200
    for connection in idle:
        connection.close()


@pytest.mark.requirement("SRS-TLS-005")
def test_connections_that_never_finish_their_handshake_are_few_and_end(serve, tmp_path, monkeypatch):
    """A web server knows of a connection only once it is inside TLS: those before are counted and timed apart."""
    monkeypatch.setattr(web_server, "MAXIMUM_CONNECTIONS", 3)
    monkeypatch.setattr(loop, "HANDSHAKE_WITHIN_S", 1.0)
    issued = Authority(tmp_path / "authority").issue("stow")
    served = serve(
        receive__dicomweb__tls__certificate=str(issued.certificate),
        receive__dicomweb__tls__key=str(issued.key),
    )
    idle = [socket.create_connection(("127.0.0.1", served.server.port), timeout=60) for _ in range(6)]
    for connection in idle:
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""  # the end, by the limit or by the time
        connection.close()
