"""A job that nobody survives is given up while the rest goes on; a worker that hangs loses its job for good."""

import signal
from datetime import timedelta
from pathlib import Path

import pytest

from storage import audit, jobs
from storage.tables import jobs as job_rows
from tests.faults.conftest import Box, at, small_radiograph
from tests.faults.stand_ins import POISON, load_study_or_die
from tests.faults.test_kill_analyze import FOLDERS, check_one_result
from tests.faults.zygote import Stage

pytestmark = [pytest.mark.requirement("SRS-FLT-013"), pytest.mark.timeout(170)]


def test_a_study_that_kills_every_worker_is_given_up_and_told_and_the_others_are_done(box):
    """One broken image must neither stop the node nor vanish: silence would look like normal."""
    poison, *others = [small_radiograph() for _ in range(4)]
    for dataset in (others[0], poison, *others[1:]):
        box.keep(dataset)
    patches = {"cxr_node.analyze.stage:load_study": load_study_or_die}
    stage = box.start("analyze", patches=patches, **{POISON: str(poison.StudyInstanceUID)})
    for dataset in others:
        assert box.wait_until_settled("analyze", dataset.StudyInstanceUID).state == "COMPLETED"
        (result,) = box.results_of(dataset.StudyInstanceUID)
        assert (result.revision, result.status) == (1, "analysed")
    given_up = box.wait_until_settled("analyze", poison.StudyInstanceUID)
    assert given_up.state == "FAILED"
    assert "workers died" in given_up.reason
    assert stage.deaths == 5
    (result,) = box.results_of(poison.StudyInstanceUID)
    assert result.status == "failed"
    with box.database.read() as connection:
        told = [event.event for event in audit.events(connection, study_instance_uid=str(poison.StudyInstanceUID))]
    assert "study_failed" in told


def _is_stopped(stage: Stage) -> bool:
    return Path(f"/proc/{stage.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _run_out(box: Box, uid: str) -> None:
    """Let the time pass that a lease lasts."""
    with box.database.begin() as connection:
        job = jobs.get(connection, "analyze", uid)
        assert job is not None
        assert job.state == jobs.IN_PROGRESS
        connection.execute(job_rows.update().where(job_rows.c.id == job.id).values(lease_expires_at=at()))


@pytest.mark.parametrize("point", ["work.claimed", "analyze.predicted"])
def test_a_worker_that_hangs_loses_its_job_to_another_and_keeps_nothing_when_it_wakes(box, point):
    """A process that is stopped, or swapped out for minutes, does not know what time it is."""
    box.configure(destination=FOLDERS)
    dataset = small_radiograph()
    uid = str(dataset.StudyInstanceUID)
    box.keep(dataset)
    hung = box.start("analyze", f"{point}:stop")
    box.wait_for_kill(point)
    box.wait(lambda: _is_stopped(hung), "the worker stopped")
    _run_out(box, uid)
    box.start("analyze")
    assert box.wait_until_settled("analyze", uid).state == "COMPLETED"
    before = box.job("analyze", uid)
    hung.signal(signal.SIGCONT)
    box.wait(lambda: '"result": "dropped"' in box.log.read_text(), "the late worker's outcome dropped")
    check_one_result(box, uid)
    assert box.job("analyze", uid) == before
    assert hung.deaths == 0


def test_a_report_of_a_delivery_that_hung_is_the_same_for_the_pacs(box):
    """The PACS took it; the worker that hung then said so too late, and the next sends the same bytes."""
    from tests.cxr_node.deliver.conftest import Pacs, serving
    from tests.faults.test_kill_deliver import check_received, delivery, plan
    from tests.system.conftest import free_port

    with serving(Pacs(free_port())) as pacs:
        to = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port, "commit": False}
        box.configure(destination=[to])
        delivery_id, uid = plan(box)
        hung = box.start("deliver", "deliver.sent:stop")
        box.wait_for_kill("deliver.sent")
        box.wait(lambda: _is_stopped(hung), "the worker stopped")
        with box.database.begin() as connection:
            leased = job_rows.c.state == jobs.IN_PROGRESS
            connection.execute(job_rows.update().where(leased).values(lease_expires_at=at() - timedelta(seconds=1)))
        box.start("deliver")
        box.wait(lambda: delivery(box, delivery_id).state == "DELIVERED", "the delivery")
        hung.signal(signal.SIGCONT)
        box.wait(lambda: '"result": "dropped"' in box.log.read_text(), "the late worker's outcome dropped")
        check_received(pacs, {uid})
        assert len(pacs.received) == 2
        assert delivery(box, delivery_id).state == "DELIVERED"
