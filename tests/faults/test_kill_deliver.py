"""kill -9 of the deliver stage at each step: the PACS holds every object once, the same bytes however often it came."""

import contextlib
import hashlib
from collections.abc import Iterator

import pytest
from pydicom.uid import Comprehensive3DSRStorage, EnhancedSRStorage
from pynetdicom import AE, evt

from cxr_node.clock import utc_now
from cxr_node.deliver.commitment import PUSH_MODEL
from storage import commitments, deliveries, jobs, results
from tests.cxr_node.deliver.conftest import Pacs, make_report, serving
from tests.cxr_node.deliver.proving import Archive, serving_archive
from tests.faults.conftest import Box, small_radiograph
from tests.faults.points import POINTS
from tests.system.conftest import free_port, wait_until

pytestmark = [pytest.mark.requirement("SRS-FLT-003"), pytest.mark.timeout(120)]

SENDING = ("deliver.claimed", "deliver.before-send", "deliver.sent")
ASKING = ("deliver.commitment-begun", "deliver.commitment-asked", "deliver.report-kept")


def plan(box: Box, study_instance_uid: str = "1.2.3.4", destination: str = "pacs") -> tuple[int, str]:
    """Store a report and plan its delivery, as the analysis does; return the delivery's id and the report's UID."""
    from cxr_node.reporting import encode

    report = make_report(study_instance_uid)
    location = box.files.write_object(report.SOPInstanceUID, encode(report))
    now = utc_now()
    with box.database.begin() as connection:
        result = results.add(
            connection, study_instance_uid, status="analysed", flagged=False, ai_priority="", outcome={}, now=now
        )
        results.add_object(
            connection,
            result.id,
            kind="sr",
            sop_class_uid=report.SOPClassUID,
            sop_instance_uid=report.SOPInstanceUID,
            location=location,
            now=now,
        )
        planned = deliveries.add(connection, result.id, kind="sr", destination=destination, now=now)
        jobs.schedule(connection, "deliver", str(planned.id), run_at=now, now=now)
    return planned.id, str(report.SOPInstanceUID)


def delivery(box: Box, delivery_id: int):
    with box.database.read() as connection:
        return deliveries.get(connection, delivery_id)


def check_received(pacs: Pacs, uids: set[str]) -> None:
    """Every UID once in the archive's sense: whatever came under it was the same."""
    came = {(item.sop_instance_uid, hashlib.sha256(item.dataset).hexdigest()) for item in pacs.received}
    assert {uid for uid, _ in came} == uids
    assert len(came) == len(uids)


@pytest.mark.parametrize("point", SENDING)
def test_the_pacs_holds_one_report_however_its_delivery_was_killed(box, point):
    """A second report under another UID would be read as a second opinion."""
    with serving(Pacs(free_port())) as pacs:
        to = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port, "commit": False}
        box.configure(destination=[to])
        delivery_id, uid = plan(box)
        box.start("deliver", f"{point}:kill")
        box.wait_for_kill(point)
        box.wait(lambda: delivery(box, delivery_id).state == "DELIVERED", "the delivery")
        check_received(pacs, {uid})
        assert len(pacs.received) == (2 if point == "deliver.sent" else 1)
        assert box.open_jobs() == {}


def test_a_report_that_was_made_anew_for_the_pacs_is_one(box):
    """The twin has a UID of its own, fixed before anything is sent."""
    with serving(Pacs(free_port()), classes=[EnhancedSRStorage]) as pacs:
        to = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port, "commit": False}
        box.configure(destination=[to])
        delivery_id, uid = plan(box)
        box.start("deliver", "deliver.twin-written:kill")
        box.wait_for_kill("deliver.twin-written")
        box.wait(lambda: delivery(box, delivery_id).state == "DELIVERED", "the delivery")
        (received,) = pacs.received
    assert received.sop_class_uid == EnhancedSRStorage
    assert received.sop_instance_uid == delivery(box, delivery_id).sop_instance_uid != uid


# The archive may be about to report over the association that just died.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("point", ASKING)
def test_a_delivery_is_proved_once_however_its_proof_was_killed(box, point):
    """Its report may have been lost with the process that would have heard it."""
    archive = Archive(free_port())
    with serving_archive(archive, classes=[PUSH_MODEL]):
        to = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": archive.port, "commit_timeout_s": 2.0}
        box.configure(destination=[{**to, "timeout_s": 5.0}])
        delivery_id, uid = plan(box)
        _deliver_without_sending(box, delivery_id, uid)
        box.start("deliver", f"{point}:kill")
        box.wait_for_kill(point)
        box.wait(lambda: delivery(box, delivery_id).state == "COMMITTED", "the proof")
        with box.database.read() as connection:
            known = commitments.of_delivery(connection, delivery_id)
        assert delivery(box, delivery_id).proof == deliveries.PROVED
        assert len({item.transaction_uid for item in known}) == len(known) <= 3
        box.wait(lambda: box.open_jobs() == {}, "the queue empty")


def _deliver_without_sending(box: Box, delivery_id: int, uid: str) -> None:
    """Let the PACS have taken the report: its proof is planned."""
    from cxr_node.deliver import proof

    now = utc_now()
    with box.database.begin() as connection:
        (job,) = jobs.claim(connection, ["deliver"], owner="t:1:", now=now)
        deliveries.set_state(
            connection,
            delivery_id,
            "DELIVERED",
            now=now,
            sop_instance_uid=uid,
            sop_class_uid=Comprehensive3DSRStorage,
        )
        proof.plan(connection, delivery_id, box.settings.destination[0], now=now)
        assert jobs.complete(connection, job, now=now)


@contextlib.contextmanager
def modality(port: int, reports: list) -> Iterator[None]:
    """An AE that takes reports of storage commitment."""

    def told(event: evt.Event) -> tuple[int, None]:
        reports.append(event.event_information.to_json())
        return 0x0000, None

    ae = AE(ae_title="CR_ROOM_1")
    ae.add_supported_context(PUSH_MODEL, scu_role=True, scp_role=True)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, told)])
    try:
        yield
    finally:
        server.shutdown()


def test_a_modality_gets_the_same_report_of_commitment_twice_at_most(box):
    """It deletes its copy by what stands there."""
    port, reports = free_port(), []
    box.configure(peer=[{"ae_title": "CR_ROOM_1", "host": "127.0.0.1", "port": port}])
    dataset = small_radiograph()
    box.keep(dataset)
    with box.database.begin() as connection:
        now = utc_now()
        request = commitments.add_request(
            connection,
            "1.2.3.7",
            calling_ae_title="CR_ROOM_1",
            called_ae_title="CXR_NODE",
            peer_address="127.0.0.1",
            items=[(str(dataset.SOPClassUID), str(dataset.SOPInstanceUID))],
            now=now,
        )
        jobs.schedule(connection, "commitment-report", str(request.id), run_at=now, now=now)
    with modality(port, reports):
        box.start("deliver", "deliver.commitment-reported:kill")
        box.wait_for_kill("deliver.commitment-reported")
        box.wait_until_settled("commitment-report", str(request.id))
    assert len(reports) == 2
    assert reports[0] == reports[1]
    assert "00081199" in reports[0]
    wait_until(lambda: box.job("commitment-report", str(request.id)).state == "COMPLETED", 5, "reported")


def test_every_point_of_the_stage_is_killed_here():
    """A new point needs its test."""
    tried = {*SENDING, *ASKING, "deliver.twin-written", "deliver.commitment-reported"}
    assert tried == {point.name for point in POINTS if point.stage == "deliver"}
