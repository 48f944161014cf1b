"""Strangers on the port: whatever they send, and however many they are, the others are served and nothing is lost."""

import contextlib
import json
import os
import re
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import DigitalXRayImageStorageForPresentation as DX
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, build_context
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
    SOPClassExtendedNegotiation,
)
from sqlalchemy import event

from cxr_node.receive.contexts import STORAGE_CLASSES, VERIFICATION
from cxr_node.requestor import associate
from cxr_node.seldom import Seldom
from storage import studies
from tests.builders import make_radiograph_dataset
from tests.conftest import ROOT
from tests.cxr_node.receive import wire
from tests.cxr_node.receive.conftest import Receiver
from tests.system.conftest import free_port, wait_until

PATIENT_S = 30.0


@pytest.fixture
def stream(start_receiver: Callable[..., Receiver]) -> Receiver:
    return start_receiver(receive__transport="stream")


def echoes(port: int) -> bool:
    ae = AE(ae_title="CR_ROOM_1")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    ae.add_requested_context(VERIFICATION)
    association = associate(ae, "127.0.0.1", port, ae_title="CXR_NODE")
    if not association.is_established:
        return False
    try:
        return bool(association.send_c_echo().get("Status") == 0x0000)
    finally:
        association.release()


def serves(receiver: Receiver) -> None:
    """C-ECHO and C-STORE succeed; who was just turned away for want of a place may have to ask again."""
    wait_until(lambda: echoes(receiver.port), PATIENT_S, "C-ECHO answered")
    dataset = make_radiograph_dataset()
    status = wait_until(lambda: receiver.send(dataset), PATIENT_S, "C-STORE answered")
    assert status.Status == 0x0000
    assert len(receiver.of(dataset.SOPInstanceUID)) == 1


def is_quiet(receiver: Receiver) -> bool:
    """Whether no connection is left, open or about to be."""
    server = receiver.scp._server
    return not server.active_associations and not server._starting.total()


def handles() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.requirement("SRS-RCV-321")
def test_a_thousand_probes_leave_nothing_and_fill_no_log(stream, capsys):
    """Load balancers connect and drop all day; a port scan does it at full speed."""
    serves(stream)
    wait_until(lambda: is_quiet(stream), PATIENT_S, "quiet before")
    threads, open_handles = threading.active_count(), handles()
    capsys.readouterr()
    for number in range(1000):
        with socket.create_connection(("127.0.0.1", stream.port), timeout=PATIENT_S) as probe:
            if number % 3 == 1:  # some go with a reset, as many balancers do
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif number % 3 == 2:
                with contextlib.suppress(OSError):
                    probe.sendall(b"\x01\x00")
    wait_until(lambda: is_quiet(stream), PATIENT_S, "no connection left")
    # The recorder's thread may have started meanwhile; a database connection may have been opened.
    wait_until(lambda: threading.active_count() <= threads + 2, PATIENT_S, "no thread left over")
    wait_until(lambda: handles() <= open_handles + 8, PATIENT_S, "no descriptor left over")
    written = capsys.readouterr()
    assert len((written.out + written.err).splitlines()) < 60
    serves(stream)


@pytest.mark.requirement("SRS-RCV-322")
def test_warnings_of_strangers_are_bounded_and_counted():
    """What was not told is told as a number, once there is room."""
    now, told = [0.0], []

    class Log:
        def warning(self, name: str, **about: Any) -> None:
            told.append((name, about))

    seldom = Seldom(Log(), most=3, within_s=60, clock=lambda: now[0])
    for _ in range(1000):
        seldom.warning("connection_refused")
    assert len(told) == 3
    now[0] = 61.0
    seldom.warning("connection_refused", peer_address="192.0.2.1")
    assert told[-1] == ("connection_refused", {"peer_address": "192.0.2.1", "untold_before": 997})


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has ended it."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


@pytest.mark.requirement("SRS-RCV-323")
def test_connections_that_never_say_who_they_are_do_not_take_the_places_of_others(start_receiver, transport):
    """One address may hold a quarter of the places so; the rest stay for those who speak."""
    receiver = start_receiver(receive__transport=transport, receive__maximum_associations="4")
    server = receiver.scp._server
    held = [wire.connect(receiver.port) for _ in range(3 * server.most_connections)]
    try:
        surplus = len(held) - server.most_silent
        wait_until(lambda: sum(map(is_closed, held)) >= surplus, PATIENT_S, "the surplus is closed")
        assert len(server.active_associations) <= server.most_silent
        # From here they cannot: this test has one address. From there they can.
        assert server.most_silent < server.most_connections
        with socket.create_connection(("127.0.0.1", receiver.port), source_address=("127.0.0.2", 0)) as other:
            other.sendall(wire.association_request(DX))
            assert wire.receive_pdu(other)[0] == wire.A_ASSOCIATE_RJ  # 127.0.0.2 is no caller; it was heard and told so
    finally:
        for connection in held:
            connection.close()
    wait_until(lambda: is_quiet(receiver), PATIENT_S, "they are gone")
    serves(receiver)


@pytest.mark.requirement("SRS-RCV-323")
def test_the_oldest_silent_connection_makes_room(start_receiver, transport):
    """From many addresses at once, silence must not fill all places until a time-out."""
    receiver = start_receiver(receive__transport=transport, receive__maximum_associations="1")
    server = receiver.scp._server
    held = []
    try:
        for number in range(3 * server.most_connections):
            address = f"127.0.{1 + number % 7}.{1 + number}"
            held.append(socket.create_connection(("127.0.0.1", receiver.port), source_address=(address, 0)))
        serves(receiver)
        assert len(server.active_associations) <= server.most_connections
    finally:
        for connection in held:
            connection.close()


@pytest.mark.requirement("SRS-RCV-324")
def test_a_flood_of_one_caller_leaves_room_for_others(start_receiver, transport):
    """A modality in a loop is refused as local-limit-exceeded, a passing state; another one is let in."""
    receiver = start_receiver(
        receive__transport=transport, receive__maximum_associations="16", receive__per_caller_associations="4"
    )
    held, answers = [], []
    try:
        for _ in range(24):
            connection = wire.connect(receiver.port)
            held.append(connection)
            connection.sendall(wire.association_request(DX, calling="LOOP"))
            kind, body = wire.receive_pdu(connection)
            answers.append((kind, body[1:4] if kind == wire.A_ASSOCIATE_RJ else b""))
        assert answers[:4] == [(wire.A_ASSOCIATE_AC, b"")] * 4
        assert answers[4:] == [(wire.A_ASSOCIATE_RJ, b"\x02\x03\x02")] * 20
        serves(receiver)
    finally:
        for connection in held:
            connection.close()
    wait_until(lambda: receiver.scp.open_associations == 0, PATIENT_S, "they are gone")
    with wire.associate(receiver.port, DX, calling="LOOP"):
        pass


def _request(contexts: int, extra: int = 0) -> bytes:
    """An A-ASSOCIATE-RQ with so many presentation contexts, and so many extended negotiation items of 1 KB."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = "CR_ROOM_1", "CXR_NODE"
    proposed = []
    for number in range(contexts):
        context = build_context(STORAGE_CLASSES[number % len(STORAGE_CLASSES)], ExplicitVRLittleEndian)
        context.context_id = 2 * number + 1
        proposed.append(context)
    primitive.presentation_context_definition_list = proposed
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received, implementation.implementation_class_uid = 16382, "1.2.3.4"
    items: list[Any] = [length, implementation]
    for number in range(extra):
        item = SOPClassExtendedNegotiation()
        item.sop_class_uid, item.service_class_application_information = f"1.2.3.{number + 1}", b"x" * 1024
        items.append(item)
    primitive.user_information = items
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    return pdu.encode()


@pytest.mark.requirement("SRS-RCV-325")
@pytest.mark.parametrize(("contexts", "extra"), [(128, 0), (1, 60), (128, 60)])
def test_large_requests_are_negotiated(stream, contexts, extra):
    """128 presentation contexts are the most there can be (PS3.8 9.3.2.2); user information may be of any length."""
    with wire.connect(stream.port) as connection:
        connection.sendall(_request(contexts, extra))
        kind, body = wire.receive_pdu(connection)
        assert kind == wire.A_ASSOCIATE_AC
        assert body.count(b"\x21\x00") >= contexts
    serves(stream)


def _half(pdus: list[bytes]) -> bytes:
    whole = b"".join(pdus)
    return whole[: len(whole) // 2]


BEFORE = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS hello": bytes.fromhex("16030100c8010000c40303") + b"\x55" * 194,
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "zeros": b"\0" * 4096,
    "a request cut short": _request(8)[:200],
    "a request that says 4 GB": b"\x01\x00\xff\xff\xff\xff" + b"A" * 5000,
    "a user information item that says 64 KB": _request(1)[:-20] + b"\x50\x00\xff\xff" + b"Q" * 16,
    "data before a request": wire.p_data(wire.fragment(b"x", wire.COMMAND | wire.LAST)),
    "a release before a request": wire.RELEASE_RQ,
}


@pytest.mark.requirement("SRS-RCV-326")
@pytest.mark.parametrize("name", BEFORE)
def test_what_is_no_association_request_harms_nobody(start_receiver, name):
    """Scanners speak every protocol to every port, and some then wait."""
    receiver = start_receiver(receive__transport="stream", receive__idle_timeout_s="1.0")
    with wire.connect(receiver.port) as connection:
        connection.sendall(BEFORE[name])
        assert wire.receive_pdu(connection)[0] in (0, wire.A_ABORT, wire.A_ASSOCIATE_RJ)
    wait_until(lambda: is_quiet(receiver), PATIENT_S, "it is gone")
    serves(receiver)


PDUS = wire.store_pdus(make_radiograph_dataset())
LIES = {
    "a P-DATA PDU that says 4 GB": b"\x04\x00\xff\xff\xff\xff" + b"\0" * 1000,
    "a PDV that says 4 GB": PDUS[0] + b"\x04\x00\x00\x00\x00\x10" + b"\xff\xff\xff\xff\x01\x00" + b"\0" * 10,
    "a PDV longer than its PDU": PDUS[0] + b"\x04\x00\x00\x00\x00\x10" + b"\x00\x00\x00\x20\x01\x00" + b"\0" * 10,
    "a PDV without room for its header": PDUS[0] + b"\x04\x00\x00\x00\x00\x05" + b"\x00\x00\x00\x01\x01",
    "a PDU cut in its header": PDUS[0] + PDUS[1][:4],
    "a dataset cut in half": _half(PDUS),
    "a dataset of another context": PDUS[0] + wire.p_data(wire.fragment(b"x" * 64, wire.LAST, context=99)),
    "a second command in the middle of a dataset": PDUS[0] + PDUS[1] + PDUS[0],
}


@pytest.mark.requirement("SRS-RCV-327")
@pytest.mark.parametrize("name", LIES)
def test_lengths_that_lie_end_their_association_and_no_other(start_receiver, name):
    """Nothing of it is kept, and what was acknowledged before stays."""
    receiver = start_receiver(receive__transport="stream", receive__idle_timeout_s="1.0")
    kept = make_radiograph_dataset()
    with wire.associate(receiver.port, DX) as connection:
        connection.sendall(b"".join(wire.store_pdus(kept)))
        assert wire.receive_status(connection) == 0x0000
        connection.sendall(LIES[name])
        kind, _ = wire.receive_pdu(connection)
        if kind == 4:  # a status is an answer too: the association then ends by the idle time
            kind, _ = wire.receive_pdu(connection)
        assert kind in (0, wire.A_ABORT)
    wait_until(lambda: is_quiet(receiver), PATIENT_S, "it is gone")
    wait_until(lambda: not receiver.incoming(), PATIENT_S, "no part of it is left")
    assert len(receiver.of(kept.SOPInstanceUID)) == 1
    serves(receiver)


@pytest.mark.requirement("SRS-RCV-327")
def test_a_command_that_never_ends_is_ended(stream):
    """Fragment after fragment, none the last: what is collected must be bounded."""
    sent = 0
    with wire.associate(stream.port, DX) as connection:
        part = wire.p_data(wire.fragment(b"\0" * 8000, wire.COMMAND))
        connection.settimeout(PATIENT_S)
        with contextlib.suppress(OSError):
            for _ in range(4000):  # 32 MB
                connection.sendall(part)
                sent += 8000
        assert wire.receive_pdu(connection)[0] in (0, wire.A_ABORT)
    assert sent < 4000 * 8000
    serves(stream)


@pytest.mark.requirement("SRS-RCV-328")
def test_slow_and_silent_peers_hold_up_nobody_and_are_ended(start_receiver):
    """A byte now and then, half a request, an association that says no more: the others are served meanwhile."""
    receiver = start_receiver(receive__transport="stream", receive__idle_timeout_s="2.0")
    request = _request(8)
    slow = [wire.connect(receiver.port) for _ in range(4)]
    silent = [wire.connect(receiver.port) for _ in range(4)]
    idle = [wire.associate(receiver.port, DX, calling=f"IDLE_{number}") for number in range(4)]
    stop = threading.Event()

    def drip() -> None:
        for byte in request[:-1]:
            for connection in slow:
                with contextlib.suppress(OSError):
                    connection.sendall(bytes([byte]))
            if stop.wait(0.2):
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        serves(receiver)
        wait_until(lambda: is_quiet(receiver), PATIENT_S, "all of them are ended")
    finally:
        stop.set()
        dripping.join()
        for connection in (*slow, *silent, *idle):
            connection.close()
    serves(receiver)


@pytest.mark.requirement("SRS-RCV-329")
def test_out_of_handles_it_refuses_recovers_and_loses_nothing(tmp_path):
    """A limit that is too low, or a leak elsewhere: who is turned away asks again; what was acknowledged is there."""
    with _node_with_few_handles(tmp_path, 72) as (port, process, log_path):
        acknowledged = [_stored(port)]
        held = []
        try:
            for number in range(80):
                with contextlib.suppress(OSError):
                    held.append(wire.connect(port))
                    if number % 2:
                        held[-1].sendall(wire.association_request(DX, calling=f"CR_{number}"))
            time.sleep(1.0)  # nothing to wait for: it has what it can take
            assert process.poll() is None
        finally:
            for connection in held:
                connection.close()
        wait_until(lambda: echoes(port), 60, f"C-ECHO answered again; log:\n{log_path.read_text()[-2000:]}")
        acknowledged += [_stored(port) for _ in range(3)]
        assert process.poll() is None
        assert len(log_path.read_text().splitlines()) < 200
    from storage import Database, instances

    database = Database(f"sqlite:///{tmp_path / 'data' / 'cxr-node.db'}")
    with database.read() as connection:
        assert all(len(instances.by_sop_instance_uid(connection, uid)) == 1 for uid in acknowledged)
    database.dispose()


def _stored(port: int) -> str:
    """Store an object; return its UID once Success was answered."""
    dataset = make_radiograph_dataset()

    def stored() -> bool:
        try:
            with wire.associate(port, DX) as connection:
                connection.sendall(b"".join(wire.store_pdus(dataset)))
                return bool(wire.receive_status(connection) == 0x0000)
        except (OSError, AssertionError):
            return False

    wait_until(stored, 60, "C-STORE answered with Success")
    return str(dataset.SOPInstanceUID)


@contextlib.contextmanager
def _node_with_few_handles(folder: Path, limit: int) -> Iterator[tuple[int, Any, Path]]:
    port = free_port()
    config, log_path = folder / "node.toml", folder / "log"
    config.write_text(
        f'[node]\ndata_dir = "data"\n[receive]\nport = {port}\nmin_free_gb = 0.1\nidle_timeout_s = 5.0\n'
        "maximum_associations = 200\nper_caller_associations = 200\n"
    )
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cxr_node", "--config", str(config), "receive"], stderr=log, cwd=ROOT
        )
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (limit, limit))
    try:
        wait_until(lambda: "receive_ready" in log_path.read_text(), 60, "receive ready")
        yield port, process, log_path
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.mark.requirement("SRS-RCV-330")
def test_each_image_of_a_large_study_costs_the_same(stream):
    """10,000 images in one study: what an image costs must not grow with those that came before."""
    first = make_radiograph_dataset()
    statements: list[int] = []
    count = [0]

    def counted(*_: Any) -> None:
        count[0] += 1

    event.listen(stream.database._engine, "before_cursor_execute", counted)
    with wire.associate(stream.port, DX) as connection:
        for _ in range(120):
            dataset = make_radiograph_dataset(
                StudyInstanceUID=first.StudyInstanceUID, SeriesInstanceUID=first.SeriesInstanceUID
            )
            before = count[0]
            connection.sendall(b"".join(wire.store_pdus(dataset)))
            assert wire.receive_status(connection) == 0x0000
            statements.append(count[0] - before)
    event.remove(stream.database._engine, "before_cursor_execute", counted)
    # The heartbeat of no stage runs here; the recorder writes at the end of an association only.
    assert max(statements[2:]) <= 8
    assert sorted(statements)[60] == sorted(statements[2:20])[9]
    wait_until(lambda: stream.scp.open_associations == 0, PATIENT_S, "the association has ended")
    assert stream.jobs() == {("analyze", "SCHEDULED"): 1}
    with stream.database.read() as connection:
        assert studies.get(connection, first.StudyInstanceUID).images == 120


@pytest.mark.requirement("SRS-RCV-331")
def test_no_module_that_decodes_is_loaded_where_images_are_only_carried(tmp_path):
    """Two acceptors and what minds them stay below 250 MB; NumPy, OpenCV, GDCM or a web server would end that."""
    config = tmp_path / "node.toml"
    port = free_port()
    config.write_text(
        f'[node]\ndata_dir = "data"\n[receive]\nport = {port}\nprocesses = 2\nmin_free_gb = 0.1\n'
        "[worklist.drop]\nenabled = false\n"
    )
    log_path = tmp_path / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cxr_node", "--config", str(config), "receive"], stderr=log, cwd=ROOT
        )
    try:
        wait_until(lambda: "receive_ready" in log_path.read_text(), 60, "receive ready")
        _stored(port)
        pids = [json.loads(line)["pid"] for line in log_path.read_text().splitlines() if '"acceptor_started"' in line]
        maps = {pid: Path(f"/proc/{pid}/maps").read_text() for pid in (*pids, process.pid)}
    finally:
        process.terminate()
        process.wait(20)
    assert len(pids) == 2
    heavy = re.compile(r"numpy|cv2|gdcm|PIL/|tensorflow|uvloop|httptools")
    for pid, text in maps.items():
        assert not heavy.search(text), pid
    assert "sqlite3" not in maps[process.pid]


@pytest.mark.requirement("SRS-RCV-331")
def test_nobody_takes_preprocess_from_its_module():
    """`cxr_node.imaging` loads it late; whoever took it from the module would leave the module under its name."""
    pattern = re.compile(r"^\s*(from cxr_node\.imaging\.preprocess import|import cxr_node\.imaging\.preprocess)", re.M)
    own = ROOT / "cxr_node" / "imaging" / "__init__.py"
    paths = [path for folder in ("cxr_node", "trainer", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert [path for path in paths if path != own and pattern.search(path.read_text())] == []
