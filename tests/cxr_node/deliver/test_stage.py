"""The stage over real storage and peers: every delivery ends in a state, nothing is sent twice as something else."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EncapsulatedPDFStorage, generate_uid

from cxr_node.clock import utc_now
from cxr_node.deliver import stage
from cxr_node.log import configure_logging
from cxr_node.settings import Destination
from cxr_node.work.owner import owners_of
from storage import audit, deliveries, jobs
from tests.cxr_node.deliver.conftest import Pacs, dataset_of, free_port, serving, wait_for

pytestmark = pytest.mark.requirement("SRS-DLV-005")


@pytest.fixture
def outbox(tmp_path) -> Destination:
    return Destination(name="outbox", kind="folder", path=str(tmp_path / "outbox"))


def state_of(node, delivery_id):
    return node.delivery(delivery_id).state


def test_a_planned_delivery_is_sent_and_recorded(node, pacs):
    """The worklist shows where a report is; the audit trail says when it went there."""
    (delivery_id,) = node.plan("pacs")
    stored = node.stored(delivery_id)
    with node.delivering(pacs.destination()):
        wait_for(lambda: state_of(node, delivery_id) == "DELIVERED")
    delivery = node.delivery(delivery_id)
    assert (delivery.sop_instance_uid, delivery.sop_class_uid) == (stored.sop_instance_uid, Comprehensive3DSRStorage)
    assert (delivery.attempts, delivery.reason) == (1, "")
    assert delivery.delivered_at is not None
    with node.database.read() as connection:
        (event,) = audit.events(connection, study_instance_uid=delivery.study_instance_uid)
    assert event.event == "object_delivered"
    assert event.detail["destination"] == "pacs"
    assert event.detail["sop_instance_uid"] == stored.sop_instance_uid


def test_a_warning_is_kept_with_the_delivery(node, pacs):
    """A PACS that coerces elements says so only once."""
    pacs.answer = lambda received: 0xB000
    (delivery_id,) = node.plan("pacs")
    with node.delivering(pacs.destination()):
        wait_for(lambda: state_of(node, delivery_id) == "DELIVERED")
    assert "0xB000" in node.delivery(delivery_id).reason


@pytest.mark.requirement("SRS-DLV-003")
def test_a_refused_dataset_fails_at_once_with_its_reason(node, pacs):
    """A dead letter that a person can act on."""
    pacs.answer = lambda received: 0xC000
    (delivery_id,) = node.plan("pacs")
    with node.delivering(pacs.destination()):
        wait_for(lambda: state_of(node, delivery_id) == "FAILED")
    assert "0xC000, cannot understand the dataset" in node.delivery(delivery_id).reason
    assert len(pacs.received) == 1
    with node.database.read() as connection:
        assert [job.key for job in jobs.failed(connection, 10)] == [str(delivery_id)]
        assert audit.events(connection)[0].event == "delivery_failed"


def test_a_dead_letter_that_is_scheduled_again_is_sent(node, pacs):
    """Somebody repaired the PACS: no report needs to be made anew."""
    (delivery_id,) = node.plan("pacs")
    pacs.answer = lambda received: 0xC000 if len(pacs.received) == 1 else 0x0000
    with node.delivering(pacs.destination()):
        wait_for(lambda: state_of(node, delivery_id) == "FAILED")
        with node.database.begin() as connection:
            now = utc_now()
            jobs.schedule(connection, "deliver", str(delivery_id), run_at=now, now=now)
        wait_for(lambda: state_of(node, delivery_id) == "DELIVERED")
    first, second = pacs.received
    assert first == second
    assert node.delivery(delivery_id).reason == ""


def test_attempts_end_at_the_destinations_limit(node):
    """A destination that nobody repairs must not be tried for ever in silence."""
    destination = Pacs(free_port()).destination(max_attempts=2)
    (delivery_id,) = node.plan("pacs")
    with node.delivering(destination):
        wait_for(lambda: node.delivery(delivery_id).reason)
        assert "connection refused" in node.delivery(delivery_id).reason
        wait_for(lambda: state_of(node, delivery_id) == "FAILED")
    delivery = node.delivery(delivery_id)
    assert delivery.attempts == 2
    assert "connection refused" in delivery.reason


def test_a_full_pacs_is_tried_again(node, pacs):
    """0xA700 passes when somebody makes room."""
    pacs.answer = lambda received: 0xA700 if len(pacs.received) == 1 else 0x0000
    (delivery_id,) = node.plan("pacs")
    with node.delivering(pacs.destination()):
        wait_for(lambda: state_of(node, delivery_id) == "DELIVERED")
    first, second = pacs.received
    assert first == second


def test_everything_that_waited_goes_when_a_pacs_is_back(node):
    """Also what failed last and would wait for long: a restart of the PACS must not cost minutes a report."""
    port = free_port()
    planned = [node.plan("pacs")[0] for _ in range(3)]
    with node.delivering(Pacs(port).destination()):
        wait_for(lambda: any(node.delivery(item).reason for item in planned))
        with node.database.begin() as connection:
            for item in planned:
                job = jobs.get(connection, "deliver:pacs", str(item))
                if job is not None and job.attempts and job.state == jobs.SCHEDULED:
                    later = utc_now().replace(year=utc_now().year + 1)
                    jobs.schedule(connection, job.kind, job.key, run_at=later, now=utc_now())
        with serving(Pacs(port)) as pacs:
            wait_for(lambda: all(state_of(node, item) == "DELIVERED" for item in planned), 15)
    assert len({item.sop_instance_uid for item in pacs.received}) == len(pacs.received) == 3


def test_a_dead_and_a_slow_destination_delay_no_other(node, outbox):
    """One PACS in maintenance must not hold up the report in another."""
    release = threading.Event()
    slow = Pacs(free_port(), answer=lambda received: 0x0000 if release.wait(20) else 0xC000)
    with serving(slow):
        planned = [node.plan("slow", "dead", "outbox") for _ in range(5)]
        dead = Pacs(free_port()).destination("dead")
        with node.delivering(slow.destination("slow", timeout_s=20), dead, outbox):
            wait_for(lambda: all(state_of(node, item[2]) == "DELIVERED" for item in planned), 5)
            assert all(state_of(node, item) == "SCHEDULED" for group in planned for item in group[:2])
            release.set()
            wait_for(lambda: all(state_of(node, item[0]) == "DELIVERED" for item in planned))


def test_the_most_urgent_goes_first(node):
    """A flagged study's report does not queue behind a night of normal ones."""
    with serving(Pacs(free_port())) as pacs:
        plain, urgent = node.plan("pacs")[0], node.plan("pacs")[0]
        with node.database.begin() as connection:
            for item, priority in ((plain, 0), (urgent, 3)):
                now = utc_now()
                jobs.schedule(connection, "deliver", str(item), run_at=now, now=now, priority=priority)
                jobs.schedule(connection, "deliver:pacs", str(item), run_at=now, now=now, priority=priority)
        with node.delivering(pacs.destination()):
            wait_for(lambda: len(pacs.received) == 2)
            wait_for(lambda: state_of(node, plain) == "DELIVERED")
    assert pacs.received[0].sop_instance_uid == node.delivery(urgent).sop_instance_uid


@pytest.mark.requirement("SRS-DLV-009")
def test_an_older_revision_is_never_sent(node, pacs, outbox):
    """Two reports of one study, the older arriving last, would be read in the wrong order."""
    uid = generate_uid()
    (old,) = node.plan("pacs", study_instance_uid=uid)
    (new,) = node.plan("pacs", study_instance_uid=uid)
    with node.delivering(pacs.destination()):
        wait_for(lambda: state_of(node, new) == "DELIVERED")
        wait_for(lambda: _is_settled(node, old))
    assert state_of(node, old) == "SUPERSEDED"
    assert [item.sop_instance_uid for item in pacs.received] == [node.delivery(new).sop_instance_uid]


@pytest.mark.requirement("SRS-DLV-009")
def test_a_newer_revision_stops_a_delivery_that_was_not_marked(node, pacs):
    """A second lock: the report of the newer revision may go to other destinations only."""
    uid = generate_uid()
    (old,) = node.plan("pacs", study_instance_uid=uid)
    node.plan("other", study_instance_uid=uid)
    with node.database.begin() as connection:
        deliveries.set_state(connection, old, "SCHEDULED", now=utc_now())
    with node.delivering(pacs.destination()):
        wait_for(lambda: state_of(node, old) == "SUPERSEDED")
    assert pacs.received == []


def _is_settled(node, delivery_id):
    with node.database.read() as connection:
        job = jobs.get(connection, "deliver:pacs", str(delivery_id))
    return job is not None and job.state == jobs.COMPLETED


def test_a_delivery_to_a_destination_that_is_gone_from_the_settings_fails_with_that_reason(node, outbox):
    """Whether its job was still in the queue of all, or already in the lane of that destination."""
    (before,), (after,) = node.plan("removed"), node.plan("removed")
    with node.database.begin() as connection:
        now = utc_now()
        jobs.schedule(connection, "deliver:removed", str(before), run_at=now, now=now)
    with node.delivering(outbox):
        wait_for(lambda: {state_of(node, before), state_of(node, after)} == {"FAILED"})
    assert node.delivery(before).reason == "removed: node.toml has no destination of this name any more"


@pytest.mark.requirement("SRS-DLV-002")
def test_a_pacs_of_another_sr_class_gets_the_twin_and_the_delivery_says_so(node):
    """What is in the PACS must be found by the UID on the delivery."""
    with serving(Pacs(free_port()), (ComprehensiveSRStorage,)) as pacs:
        (delivery_id,) = node.plan("pacs")
        with node.delivering(pacs.destination()):
            wait_for(lambda: state_of(node, delivery_id) == "DELIVERED")
    delivery = node.delivery(delivery_id)
    assert delivery.sop_class_uid == ComprehensiveSRStorage
    assert delivery.sop_instance_uid == pacs.received[0].sop_instance_uid


@pytest.mark.requirement("SRS-DLV-002")
def test_a_pacs_of_no_sr_class_is_a_dead_letter(node):
    with serving(Pacs(free_port()), (EncapsulatedPDFStorage,)) as pacs:
        (delivery_id,) = node.plan("pacs")
        with node.delivering(pacs.destination()):
            wait_for(lambda: state_of(node, delivery_id) == "FAILED")
    assert "enable one of these SOP classes there" in node.delivery(delivery_id).reason


def test_stopping_is_quick_while_a_pacs_sleeps(node, monkeypatch):
    """The supervisor gives a stage eight seconds; an object in the air is sent again by the next."""
    assert stage.STOP_WITHIN_S < 8
    monkeypatch.setattr(stage, "STOP_WITHIN_S", 0.3)
    release = threading.Event()
    slow = Pacs(free_port(), answer=lambda received: 0x0000 if release.wait(20) else 0xC000)
    with serving(slow):
        (delivery_id,) = node.plan("slow")
        with node.delivering(slow.destination("slow", timeout_s=20)):
            wait_for(lambda: slow.received)
            started = time.monotonic()
        assert time.monotonic() - started < 5
        with node.database.read() as connection:
            job = jobs.get(connection, "deliver:slow", str(delivery_id))
        assert job.state == jobs.SCHEDULED
        release.set()


@pytest.mark.requirement("SRS-DLV-010")
def test_a_kill_between_the_answer_and_the_commit_sends_the_same_bytes_again(node, pacs):
    """The PACS said Success and nobody wrote it down: the second attempt must be the first one over again."""
    (delivery_id,) = node.plan("pacs")
    settings = node.settings(pacs.destination())
    script = (
        "import sys, threading; from cxr_node.settings import Settings; from cxr_node.deliver import run_deliver; "
        "run_deliver(Settings.model_validate_json(sys.argv[1]), threading.Event())"
    )
    command = [sys.executable, "-c", script, settings.model_dump_json()]
    holding, released = threading.Event(), threading.Event()

    def hold_the_write_lock(received):
        def hold() -> None:
            with node.database.begin():
                holding.set()
                released.wait(30)

        threading.Thread(target=hold, daemon=True).start()
        assert holding.wait(30)
        return 0x0000

    pacs.answer = hold_the_write_lock
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: pacs.received, 30)
        time.sleep(0.5)  # the answer is there, the commit waits for the lock
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        released.set()
    assert state_of(node, delivery_id) == "SCHEDULED"
    pacs.answer = lambda received: 0x0000
    with node.database.begin() as connection:
        # As the supervisor does.
        jobs.release_owner(connection, owners_of(settings.data_dir, "deliver", first.pid), now=utc_now())
    with node.delivering(pacs.destination()):
        wait_for(lambda: state_of(node, delivery_id) == "DELIVERED")
    before, after = pacs.received
    assert before == after
    assert before.dataset == dataset_of(node.stored(delivery_id).path)


@pytest.mark.requirement("SRS-SYS-011")
def test_the_line_of_a_job_tells_its_story_and_names_no_patient(node, pacs):
    """An administrator greps one line; a log file is no place for a patient."""
    out = io.StringIO()
    configure_logging("debug", "deliver", out)
    try:
        (delivery_id,) = node.plan("pacs", patient_name="Secretname^Zoe")
        with node.delivering(pacs.destination()):
            wait_for(lambda: state_of(node, delivery_id) == "DELIVERED")
            wait_for(lambda: "deliver:pacs" in out.getvalue())
    finally:
        configure_logging("info", "test", sys.stderr)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    (line,) = [line for line in lines if line.get("kind") == "deliver:pacs"]
    assert line["result"] == "completed"
    assert line["destination"] == "pacs"
    assert line["study_instance_uid"] == node.delivery(delivery_id).study_instance_uid
    assert "Secretname" not in out.getvalue()
