"""kill -9 of the receiver at each durable step, by each way in: what heard Success is there, and once."""

import urllib.error
import urllib.request
import uuid

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import ModalityPerformedProcedureStep, StorageCommitmentPushModel

from cxr_node.requestor import associate
from storage import commitments, deliveries, manifests, results
from tests.builders import to_part_10
from tests.faults.conftest import Box, at, small_radiograph, store_until_success
from tests.faults.points import POINTS

pytestmark = [pytest.mark.requirement("SRS-FLT-001"), pytest.mark.timeout(120)]

ON_THE_WAY_IN = (
    "storage.complete",
    "storage.synced",
    "storage.renamed",
    "receive.after-keep",
    "receive.before-commit",
    "receive.after-commit",
)
LEAVES_A_FILE = ("storage.renamed", "receive.after-keep", "receive.before-commit")
COMMITMENT = "1.2.840.10008.1.20.1.1"


def check_files(box: Box, left_over: int) -> None:
    """Beside the files that rows name there is what the dead process left, and no more."""
    held = [path for path in (box.settings.instances_dir / "instances").rglob("*") if path.is_file()]
    assert len(held) == 1 + left_over


@pytest.mark.parametrize("point", ON_THE_WAY_IN)
def test_an_image_sent_by_c_store_until_success_is_there_once(box, point):
    """A modality that hears nothing sends again; it must not make two images of one."""
    box.start("receive", f"{point}:kill")
    dataset = small_radiograph()
    tries = store_until_success(box.port, dataset)
    assert not box.is_armed(point)
    assert tries[-1] == 0
    assert 0 not in tries[:-1]
    box.check_held(dataset)
    check_files(box, left_over=1 if point in LEAVES_A_FILE else 0)


def test_a_study_whose_association_ended_in_a_kill_is_due_after_its_quiet_period(box):
    """Success was answered; what makes the study due at once is a hint only."""
    box.start("receive", "receive.before-hasten:kill")
    dataset = small_radiograph()
    assert store_until_success(box.port, dataset)[-1] == 0
    box.wait_for_kill("receive.before-hasten")
    box.check_held(dataset)
    job = box.job("analyze", dataset.StudyInstanceUID)
    assert job.state == "SCHEDULED"
    box.wait(lambda: job.run_at <= at(), "the study due")


@pytest.mark.parametrize("point", ["receive.after-keep", "receive.after-commit", "receive.before-remove"])
def test_an_image_in_the_watched_folder_is_taken_once_and_removed(box, point):
    """The folder is the only copy until the commit, and a double after it."""
    watched = box.folder / "watched"
    watched.mkdir()
    box.configure(receive={"watch": {"path": str(watched), "settle_s": 0.0}})
    dataset = small_radiograph()
    box.start("receive", f"{point}:kill")
    (watched / "writing.part").write_bytes(to_part_10(dataset))
    (watched / "writing.part").rename(watched / "image.dcm")
    box.wait_for_kill(point)
    box.wait(lambda: not list(watched.iterdir()), "the folder empty")
    box.check_held(dataset)


@pytest.mark.parametrize("point", ["receive.after-keep", "receive.after-commit"])
def test_an_image_sent_by_stow_until_success_is_there_once(box, point):
    """As by C-STORE, over the same intake."""
    from tests.system.conftest import free_port

    port = free_port()
    box.configure(receive={"dicomweb": {"port": port}})
    dataset = small_radiograph()
    box.start("receive", f"{point}:kill")
    answers = []

    def succeeded() -> bool:
        answers.append(_stow(port, to_part_10(dataset)))
        return answers[-1] == 200

    box.wait(succeeded, "200")
    assert not box.is_armed(point)
    box.check_held(dataset)


def _stow(port: int, part_10: bytes) -> int | None:
    boundary = uuid.uuid4().hex
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/studies",
        data=head + part_10 + f"\r\n--{boundary}--\r\n".encode(),
        headers={
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def _ask(box: Box, sop_class: str, call, roles=()):
    """Return the status of one N-message, None without an answer."""
    ae = AE(ae_title="CR_ROOM_1")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    ae.connection_timeout = 5
    ae.add_requested_context(sop_class)
    association = associate(ae, "127.0.0.1", box.port, ae_title="CXR_NODE", ext_neg=list(roles))
    if not association.is_established:
        return None
    try:
        answer = call(association)[0]
    except (RuntimeError, OSError):
        return None
    finally:
        if association.is_established:
            association.release()
    return int(answer.Status) if "Status" in answer else None


def _ask_until_answered(box: Box, sop_class: str, call, roles=()) -> list[int | None]:
    heard: list[int | None] = []

    def answered() -> bool:
        heard.append(_ask(box, sop_class, call, roles))
        return heard[-1] is not None

    box.wait(answered, "an answer")
    return heard


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return item


def test_a_request_for_storage_commitment_is_kept_once(box):
    """A modality that hears nothing asks again under the same Transaction UID."""
    box.start("receive", "receive.request-kept:kill")
    dataset = small_radiograph()
    store_until_success(box.port, dataset)
    request = Dataset()
    request.TransactionUID = "1.2.3.77"
    request.ReferencedSOPSequence = [_reference(dataset.SOPClassUID, dataset.SOPInstanceUID)]

    def ask(association):
        return association.send_n_action(request, 1, StorageCommitmentPushModel, COMMITMENT)

    heard = _ask_until_answered(box, StorageCommitmentPushModel, ask)
    assert heard[-1] == 0
    assert not box.is_armed("receive.request-kept")
    assert box.open_jobs()[("commitment-report", "SCHEDULED")] == 1


def test_a_report_of_storage_commitment_is_kept_once(box):
    """The PACS that hears nothing reports again; the delivery is proved by the first."""
    from pynetdicom import build_role

    now = at()
    with box.database.begin() as connection:
        result = results.add(connection, "1.2.3", status="analysed", flagged=False, ai_priority="", outcome={}, now=now)
        delivery = deliveries.add(connection, result.id, kind="sr", destination="pacs", now=now)
        pair = ("1.2.840.10008.5.1.4.1.1.88.34", "1.2.3.4")
        deliveries.set_state(
            connection, delivery.id, "DELIVERED", now=now, sop_class_uid=pair[0], sop_instance_uid=pair[1]
        )
        deliveries.ask_proof(connection, delivery.id, now=now)
        commitments.begin(connection, "1.2.3.9", delivery_id=delivery.id, destination="pacs", now=now)
        commitments.set_unanswered(connection, "1.2.3.9", commitments.ASKED)
    box.start("receive", "receive.report-kept:kill")
    told = Dataset()
    told.TransactionUID = "1.2.3.9"
    told.ReferencedSOPSequence = [_reference(*pair)]

    def report(association):
        return association.send_n_event_report(told, 1, StorageCommitmentPushModel, COMMITMENT)

    role = build_role(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    heard = _ask_until_answered(box, StorageCommitmentPushModel, report, [role])
    assert heard[-1] == 0
    assert not box.is_armed("receive.report-kept")
    with box.database.read() as connection:
        (known,) = commitments.of_delivery(connection, delivery.id)
    assert known.state not in (commitments.ASKED, commitments.ASKING)


def test_an_mpps_is_kept_once(box):
    """A modality that hears nothing creates its step again, and is told that it is known."""
    box.start("receive", "receive.manifest-kept:kill")
    step = Dataset()
    step.PerformedProcedureStepStatus = "IN PROGRESS"
    scheduled = Dataset()
    scheduled.StudyInstanceUID = "1.2.3.5"
    step.ScheduledStepAttributesSequence = [scheduled]

    def create(association):
        return association.send_n_create(step, ModalityPerformedProcedureStep, "1.2.3.6")

    heard = _ask_until_answered(box, ModalityPerformedProcedureStep, create)
    assert heard[-1] in (0x0000, 0x0111)
    assert not box.is_armed("receive.manifest-kept")
    with box.database.read() as connection:
        assert len(manifests.get(connection, "mpps", "1.2.3.6")) == 1


def test_every_point_of_the_stage_is_killed_here():
    """A new point needs its test."""
    tried = {*ON_THE_WAY_IN, "receive.before-hasten", "receive.before-remove", "receive.request-kept"}
    tried |= {"receive.report-kept", "receive.manifest-kept"}
    assert tried == {point.name for point in POINTS if point.stage == "receive"}
