"""kill -9 of the worklist and of the stage of orders: who was told is told again, what was answered stands, once."""

import contextlib
import json
import secrets
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import ModalityWorklistInformationFind

from cxr_node.clock import utc_now
from cxr_node.findings.priority import rank_of
from cxr_node.worklist.ups import work_item_uid
from storage import feedback, jobs, orders, studies, subscriptions, tokens
from storage.studies import PatientContext
from tests.cxr_node.orders.messages import orm
from tests.faults.conftest import Box, small_radiograph
from tests.faults.points import POINTS
from tests.system.conftest import free_port
from tests.system.test_ups_walk import GLOBAL, Reader

pytestmark = [pytest.mark.requirement("SRS-FLT-005"), pytest.mark.timeout(120)]

EVENTS = ("worklist.events-kept", "worklist.event-sent")
FEEDBACK = ("worklist.feedback-written", "worklist.feedback-kept")
UID = "1.2.3"


@pytest.fixture
def reader(box: Box) -> Iterator[Reader]:
    """A reading system that subscribed to the whole list."""
    made = Reader(box.dicom_port)
    box.configure(peer=[{"ae_title": "READER", "host": "127.0.0.1", "port": made.port}])
    yield made
    made.stop()


@pytest.mark.parametrize("point", EVENTS)
def test_a_subscriber_hears_every_event_in_order_and_some_twice_at_most(box, reader, point):
    """A reading list that misses a priority shows the wrong order all day."""
    dataset = small_radiograph()
    with box.database.begin() as connection:
        subscriptions.put(connection, "READER", GLOBAL, keys={}, deletion_lock=False, now=utc_now())
    box.keep(dataset)
    box.start("worklist", f"{point}:kill")
    box.wait_for_kill(point)
    uid = work_item_uid(str(dataset.StudyInstanceUID))
    box.wait(lambda: reader.states(uid), "the event of the reading task")
    box.wait(lambda: not _waiting(box), "every event sent")
    heard = [(kind, about, told.to_json()) for kind, about, told in reader.events if about != GLOBAL]
    different = list(dict.fromkeys(heard))
    assert {about for _, about, _ in different} >= {uid}
    assert len(heard) <= len(different) + 1
    firsts = [heard.index(item) for item in different]
    assert firsts == sorted(firsts)


def _waiting(box: Box) -> bool:
    with box.database.read() as connection:
        return bool(subscriptions.pending(connection, "READER", limit=1))


def test_a_claim_of_a_work_item_stands_for_its_holder_though_no_answer_came(box, reader):
    """Claimed under a Transaction UID that nobody knows, a study would be read by nobody."""
    dataset = small_radiograph()
    box.keep(dataset)
    uid, lock = work_item_uid(str(dataset.StudyInstanceUID)), "1.2.3.4.5"
    box.start("worklist", "worklist.action-kept:kill")
    box.wait(lambda: _try(lambda: reader.change(uid, "IN PROGRESS", lock)) is None and not _armed(box), "the kill")
    box.wait(lambda: _try(lambda: reader.get(uid)) is not None, "the worklist back")
    assert reader.get(uid).ProcedureStepState == "IN PROGRESS"
    assert reader.change(uid, "IN PROGRESS", "1.2.3.4.6") != 0
    assert reader.change(uid, "CANCELED", lock) == 0


def _armed(box: Box) -> bool:
    return box.is_armed("worklist.action-kept")


def _try(call):
    """Return what it returns, None where nobody answers."""
    try:
        return call()
    except (AssertionError, AttributeError, RuntimeError, OSError):
        return None


@pytest.mark.parametrize("point", FEEDBACK)
def test_a_readers_verdict_stands_whole_or_not_at_all(box, point):
    """Half a verdict would be a document without a row, or a row without its document."""
    box.configure(destination=[{"name": "out", "kind": "folder", "path": "out", "objects": ["sr", "feedback"]}])
    dataset = small_radiograph()
    box.keep(dataset)
    box.start("analyze")
    box.wait_until_settled("analyze", dataset.StudyInstanceUID)
    secret = secrets.token_urlsafe(32)
    with box.database.begin() as connection:
        tokens.create(connection, secret[:8], "admin", now=utc_now(), secret=secret)
    box.start("worklist", f"{point}:kill")
    answers = []

    def answered() -> bool:
        if not box.is_armed(point) and _verdicts(box, dataset):
            return True  # it stands, though nobody heard so
        answers.append(_agree(box, str(dataset.StudyInstanceUID), secret))
        return answers[-1] == 201

    box.wait(answered, "the verdict")
    (given,) = _verdicts(box, dataset)
    assert 201 in answers or point == "worklist.feedback-kept"
    (stored,) = [item for item in box.objects_of(dataset.StudyInstanceUID) if item.kind == f"feedback:{given.id}"]
    assert box.files.read(stored.location)
    assert [item.kind for item in box.deliveries_of(dataset.StudyInstanceUID)].count(stored.kind) == 1


def _verdicts(box: Box, dataset: Dataset) -> list:
    with box.database.read() as connection:
        return feedback.of_study(connection, str(dataset.StudyInstanceUID))


def _agree(box: Box, uid: str, secret: str) -> int | None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{box.web_port}/api/studies/{uid}/feedback",
        data=json.dumps({"verdict": "agree"}).encode(),
        headers={"Authorization": f"Bearer {secret}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def add_study(box: Box) -> None:
    """A study that waits for its order."""
    now = utc_now()
    context = PatientContext(
        accession_number="A1", patient_id="P1", modality="DX", study_date="20260301", ordered_priority="ROUTINE"
    )
    with box.database.begin() as connection:
        studies.touch(connection, UID, context, ordered_rank=rank_of("ROUTINE"), calling_ae_title="CR", now=now)
        jobs.schedule(connection, "order", UID, run_at=now, now=now)


def test_an_order_is_kept_once_though_its_acknowledgement_was_lost(box):
    """The interface engine sends again what was not acknowledged."""
    port = free_port()
    box.configure(orders={"hl7_port": port})
    add_study(box)
    box.start("orders", "orders.kept:kill")
    told = orm(orc7="S")
    answers = []

    def acknowledged() -> bool:
        answers.append(_mllp(port, told))
        return b"MSA|AA" in answers[-1]

    box.wait(acknowledged, "AA")
    assert not box.is_armed("orders.kept")
    with box.database.read() as connection:
        study = studies.get(connection, UID)
        assert len(orders.of_study(connection, study)) == 1
        taken = connection.exec_driver_sql("SELECT count(*) FROM messages").scalar_one()
    assert taken == 1
    assert study.ordered_priority == "STAT"


def _mllp(port: int, message: bytes) -> bytes:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"\x0b" + message + b"\x1c\r")
        data = b""
        while not data.endswith(b"\x1c\r") and (part := connection.recv(4096)):
            data += part
        return data
    return b""


def test_an_order_that_the_ris_told_is_kept_once_though_the_stage_died_over_it(box):
    """Asked twice, a RIS says the same."""
    asked = []

    def find(event: evt.Event):
        asked.append(1)
        item = Dataset()
        item.AccessionNumber, item.PatientID, item.StudyInstanceUID = "A1", "P1", UID
        item.RequestedProcedureID, item.RequestedProcedurePriority = "RP1", "STAT"
        yield 0xFF00, item
        yield 0x0000, None

    ae = AE(ae_title="RIS")
    ae.add_supported_context(ModalityWorklistInformationFind)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, find)])
    try:
        ris = {"ae_title": "RIS", "host": "127.0.0.1", "port": server.server_address[1]}
        box.configure(orders={"ris": ris})
        add_study(box)
        box.start("orders", "orders.asked:kill")
        box.wait_for_kill("orders.asked")
        assert box.wait_until_settled("order", UID).state == "COMPLETED"
    finally:
        server.shutdown()
    assert len(asked) >= 2
    with box.database.read() as connection:
        study = studies.get(connection, UID)
        assert len(orders.of_study(connection, study)) == 1
    assert study.ordered_priority == "STAT"


def test_every_point_of_the_stages_is_killed_here():
    """A new point needs its test."""
    tried = {*EVENTS, *FEEDBACK, "worklist.action-kept", "orders.kept", "orders.asked"}
    assert tried == {point.name for point in POINTS if point.stage in ("worklist", "orders")}
