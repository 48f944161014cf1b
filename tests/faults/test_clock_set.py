"""The clock is set by a day, ahead or back, while jobs are leased and studies wait: nothing waits for a day, nobody
loses what he works on.

Stages run by a clock that the test sets; the monotonic clock goes on as it does on a real machine.
"""

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy import update

from cxr_node.clock import ClockWatch
from cxr_node.deliver.proof_rules import Wait, is_too_early, next_step
from cxr_node.deliver.verdict import Found, Verdict
from cxr_node.settings import Destination, Settings
from cxr_node.upkeep.clock_set import MOST_AHEAD_S, ClockMinder
from cxr_node.upkeep.stage import Upkeep, make_scheduler
from cxr_node.work import Worker
from storage import (
    Doorbell,
    audit,
    clock_changes,
    commitments,
    deliveries,
    destination_states,
    heartbeats,
    jobs,
    sessions,
    tables,
    users,
)
from storage.manifests import Awaited
from tests.cxr_node.deliver.conftest import Pacs, serving
from tests.faults.conftest import Box, at, small_radiograph, store_until_success
from tests.faults.stand_ins import CLOCK, SetClock
from tests.faults.test_kill_deliver import delivery, plan
from tests.system.conftest import free_port

pytestmark = [pytest.mark.requirement("SRS-FLT-015"), pytest.mark.timeout(150)]

DAY_S = 86_400.0
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
CLOCK_PATCH = {"cxr_node.clock:datetime": SetClock}


class Hand:
    """A time of day and a monotonic clock, both moved by hand."""

    def __init__(self) -> None:
        self.day, self.ran_s = NOON, 1000.0

    def pass_s(self, seconds: float) -> None:
        self.day += timedelta(seconds=seconds)
        self.ran_s += seconds

    def set_by(self, seconds: float) -> None:
        self.day += timedelta(seconds=seconds)

    def watch(self) -> ClockWatch:
        return ClockWatch(lambda: self.day, lambda: self.ran_s)


@pytest.mark.parametrize("by_s", [DAY_S, -DAY_S, 6.0, -6.0])
def test_a_clock_that_was_set_is_noticed_once_and_is_even_again_after_a_while(by_s):
    """Time that passes, and what a time service corrects little by little, is no jump."""
    hand = Hand()
    watch = hand.watch()
    for _ in range(100):
        hand.pass_s(60)
        hand.set_by(0.5)
        assert watch.jump_s() == 0
    assert watch.is_even(30)
    hand.set_by(by_s)
    assert watch.jump_s() == pytest.approx(by_s)
    assert watch.jump_s() == 0
    assert not watch.is_even(30)
    hand.pass_s(31)
    assert watch.is_even(30)


def test_set_ahead_by_a_day_the_clock_takes_no_lease_from_the_living(box, monkeypatch):
    """By the new time every lease has run out; who holds one renews it within a third of its length."""
    hand = Hand()
    doorbell = Doorbell(box.folder / "run")
    taken: list[str] = []
    with box.database.begin() as connection:
        jobs.schedule(connection, "analyze", "1.2", run_at=NOON, now=NOON)
        (held,) = jobs.claim(connection, ["analyze"], owner="analyze:1:main", now=NOON)

    def handle(claimed):
        taken.extend(job.key for job in claimed)
        return [(job, lambda connection: None) for job in claimed]

    other = Worker(
        box.database, doorbell, ("analyze",), "analyze", handle, "analyze:2:main", now=lambda: hand.day, lease_s=30.0
    )
    other._clock = hand.watch()
    hand.set_by(DAY_S)
    assert other.run_once() == 0
    hand.pass_s(10)
    with box.database.begin() as connection:
        assert jobs.renew(connection, held, now=hand.day, lease_s=30)
    hand.pass_s(25)
    assert other.run_once() == 0
    hand.pass_s(30)
    assert other.run_once() == 1  # its holder renewed no more: dead after all
    assert taken == ["1.2"]


def test_set_back_by_a_day_the_clock_leaves_nothing_waiting_for_a_day(box):
    """A study in its quiet period, a delivery between two tries, the lease of the dead: as long as it was to be."""
    now = at()
    back = now - timedelta(seconds=DAY_S)
    due = {"quiet": 1.0, "backoff": 300.0, "late": -3600.0}
    with box.database.begin() as connection:
        for key, seconds in due.items():
            jobs.schedule(connection, "analyze", key, run_at=now + timedelta(seconds=seconds), now=now)
        jobs.schedule(connection, "deliver", "leased", run_at=now, now=now)
        jobs.claim(connection, ["deliver"], owner="deliver:dead", now=now)
        jobs.schedule(connection, "analyze", "new", run_at=back + timedelta(seconds=5), now=back)
        assert jobs.clock_set_back(connection, by_s=DAY_S, now=back) == 4
        for key, seconds in {**due, "new": 5.0}.items():
            job = jobs.get(connection, "analyze", key)
            assert (job.run_at - back).total_seconds() == pytest.approx(seconds)
        assert jobs.get(connection, "deliver", "leased").lease_expires_at == back + timedelta(seconds=60)
        assert jobs.clock_set_back(connection, by_s=DAY_S, now=back) == 0


def _upkeep(box: Box, **keys: object) -> Upkeep:
    section = {**box.settings.upkeep.model_dump(), **keys}
    settings = Settings.model_validate({**box.settings.model_dump(), "upkeep": section})
    return Upkeep(settings, box.database, box.files, threading.Event())


def test_tasks_of_upkeep_run_on_when_the_clock_was_set_back(box):
    """Their clock counts in the time of day: each would be due a day later, lease recovery too."""
    hand = Hand()
    upkeep = _upkeep(box)
    scheduler = make_scheduler(upkeep)
    scheduler.start(paused=True)
    try:
        planned = {job.id: at() + timedelta(seconds=DAY_S) for job in scheduler.get_jobs()}
        for job in scheduler.get_jobs():
            job.modify(next_run_time=planned[job.id] + job.trigger.interval)
        minder = ClockMinder(box.database, upkeep.doorbell, scheduler, topics=(), watch=hand.watch())
        hand.set_by(-DAY_S)
        minder.look()
        assert all(job.next_run_time <= at() for job in scheduler.get_jobs())
    finally:
        scheduler.shutdown()
    with box.database.read() as connection:
        (told,) = [item for item in audit.events(connection) if item.event == "clock_set"]
    assert told.detail["ahead_s"] == -DAY_S


def test_a_jump_that_the_database_could_not_be_told_of_is_told_later(box):
    """Clock and storage go wrong together where a machine is woken from sleep."""
    hand = Hand()
    due = NOON + timedelta(seconds=1)
    with box.database.begin() as connection:
        jobs.schedule(connection, "analyze", "1.2", run_at=at(1), now=due)
    closed = type(box.database)(f"sqlite:///{box.folder / 'none.db'}")
    scheduler = BackgroundScheduler()
    scheduler.start(paused=True)
    try:
        minder = ClockMinder(closed, Doorbell(box.folder / "run"), scheduler, topics=(), watch=hand.watch())
        hand.set_by(-DAY_S)
        minder.look()
        assert box.job("analyze", "1.2").run_at > at(0.5)
        minder._database = box.database
        minder.look()
        assert box.job("analyze", "1.2").run_at <= at(0.001)
    finally:
        scheduler.shutdown()
    closed.dispose()


def test_retention_deletes_nothing_by_a_clock_that_ran_ahead(box):
    """A clock that says next year would take every image with it."""
    from tests.cxr_node.upkeep.conftest import Site

    site = Site(box.folder)
    locations = site.study("1.2.3", age_days=3650)
    upkeep = _upkeep(box, retention_days=30)
    upkeep.clock_ahead_s = lambda: MOST_AHEAD_S + 1
    upkeep.retention()
    assert site.held(locations) == [True, True]
    upkeep.clock_ahead_s = lambda: 0.0
    upkeep.retention()
    assert site.held(locations) == [False, False]
    site.database.dispose()


def test_a_session_from_before_the_clock_was_set_back_is_over(box):
    """Nobody knows how long it has been idle."""
    now, idle = at(), timedelta(minutes=30)
    with box.database.begin() as connection:
        person = users.add(connection, "ada", "reader", now=now)
        ends = now + timedelta(hours=12)
        sessions.open_session(
            connection, person.id, secret="s" * 32, csrf_token="c", address="127.0.0.1", now=now, ends=ends
        )
        secret = "s" * 32
        assert sessions.find(connection, secret, now=now, idle=idle) is not None
        assert sessions.find(connection, secret, now=now - timedelta(days=1), idle=idle) is None
        assert sessions.find(connection, secret, now=now + timedelta(days=1), idle=idle) is None


def test_a_report_of_a_study_from_before_the_clock_was_set_back_is_not_planned_for_tomorrow():
    """It leaves when it has settled, by the clock as it is."""
    nothing_announced = Awaited()
    due = nothing_announced.report_at(NOON + timedelta(days=1), settle_s=5.0, wait_s=300.0, now=NOON)
    assert due == NOON + timedelta(seconds=5)


def test_a_destination_that_rests_does_not_rest_for_a_day(box):
    """Whether it rests stands in the database as a time of day."""
    with serving(Pacs(free_port())) as pacs:
        to = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port, "commit": False}
        box.configure(destination=[to])
        delivery_id, _ = plan(box)
        with box.database.begin() as connection:
            destination_states.note_failure(connection, "pacs", error="x", failures=1, resting_until=at(1), now=at())
        box.start("deliver")
        box.wait(lambda: delivery(box, delivery_id).state == "DELIVERED", "the delivery")


@pytest.mark.parametrize("by_s", [DAY_S, -DAY_S], ids=["ahead", "back"])
def test_a_node_whose_clock_is_set_by_a_day_goes_on(box, by_s):
    """A study that waits, and one that comes afterwards: both analysed, both reported, once."""
    clock = box.folder / "clock"
    clock.write_text("0")
    with serving(Pacs(free_port())) as pacs:
        to = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port, "commit": False}
        box.configure(destination=[{**to, "settle_s": 1.0}], receive={"quiet_period_s": 0.5})
        more = {CLOCK: str(clock)}
        stages = [box.start(name, patches=CLOCK_PATCH, **more) for name in ("receive", "deliver", "upkeep")]
        names = ("receive_ready", "deliver_ready", "upkeep_ready")
        box.wait(lambda: all(name in box.log.read_text() for name in names), "the stages ready")
        first, second = small_radiograph(), small_radiograph()
        store_until_success(box.port, first)
        _set(clock, by_s)
        box.wait(lambda: '"clock_set"' in box.log.read_text(), "the clock's jump noticed")
        stages.append(box.start("analyze", patches=CLOCK_PATCH, **more))
        store_until_success(box.port, second)
        box.wait(lambda: len(pacs.received) == 2, "both reports in the PACS")
        box.wait(lambda: ("analyze", "SCHEDULED") not in box.open_jobs(), "the queue empty")
    for dataset in (first, second):
        (result,) = box.results_of(dataset.StudyInstanceUID)
        assert (result.revision, result.status) == (1, "analysed")
    assert {stage.deaths for stage in stages} == {0}


def _set(clock: Path, by_s: float) -> None:
    new = clock.with_suffix(".new")
    new.write_text(str(by_s))
    os.replace(new, clock)


def test_hosts_that_share_a_database_keep_their_times_when_one_clock_is_set(box):
    """The others' clocks were right, and what they planned is due when they said."""
    hand = Hand()
    with box.database.begin() as connection:
        jobs.schedule(connection, "analyze", "1.2", run_at=at(1), now=NOON)
        heartbeats.beat(connection, "analyze", "another-host:1", started_at=NOON, now=NOON, detail={})
    scheduler = BackgroundScheduler()
    scheduler.start(paused=True)
    try:
        minder = ClockMinder(box.database, Doorbell(box.folder / "run"), scheduler, topics=(), watch=hand.watch())
        hand.set_by(-DAY_S)
        minder.look()
    finally:
        scheduler.shutdown()
    assert box.job("analyze", "1.2").run_at > at(0.5)
    with box.database.read() as connection:
        assert [item.event for item in audit.events(connection)][:1] == ["clock_set"]


def _minder(box: Box) -> ClockMinder:
    return ClockMinder(box.database, Doorbell(box.folder / "run"), BackgroundScheduler(), topics=())


@pytest.mark.requirement("SRS-STO-902")
def test_a_clock_that_was_set_back_while_the_node_was_down_is_noticed_at_its_start(box):
    """A battery that was empty, a machine that was moved: what was planned a day ahead would wait for a day."""
    ahead = at(1)
    with box.database.begin() as connection:
        audit.record(connection, "upkeep_stopped", actor="upkeep", now=ahead, detail={})
        jobs.schedule(connection, "analyze", "1.2", run_at=ahead + timedelta(seconds=5), now=ahead)
        # Written by this start already, by the new time.
        audit.record(connection, "models_loaded", actor="analyze", now=at(), detail={})
    _minder(box).look_at_start()
    assert box.job("analyze", "1.2").run_at <= at(0.001)
    with box.database.read() as connection:
        (told,) = audit.newest(connection, "clock_set", limit=9)
    assert told.detail["ahead_s"] == pytest.approx(-DAY_S, abs=60)
    assert told.detail["jobs_moved"] == 1
    assert told.detail["while_down"] is True


@pytest.mark.requirement("SRS-STO-902")
def test_a_clock_that_was_set_back_once_is_told_of_once(box):
    """The times of before lie ahead for a day; each start in it would move what is planned by now."""
    with box.database.begin() as connection:
        audit.record(connection, "upkeep_stopped", actor="upkeep", now=at(1), detail={})
    _minder(box).look_at_start()
    with box.database.begin() as connection:
        jobs.schedule(connection, "analyze", "1.3", run_at=at(0.5), now=at())
    _minder(box).look_at_start()
    assert box.job("analyze", "1.3").run_at > at(0.4)
    with box.database.read() as connection:
        assert len(audit.newest(connection, "clock_set", limit=9)) == 1


@pytest.mark.requirement("SRS-STO-902")
def test_a_start_by_a_clock_that_is_right_tells_nothing(box):
    """Nor does the first start, with nothing stored."""
    _minder(box).look_at_start()
    with box.database.begin() as connection:
        audit.record(connection, "upkeep_stopped", actor="upkeep", now=at(), detail={})
    _minder(box).look_at_start()
    with box.database.read() as connection:
        assert audit.newest(connection, "clock_set") == []


@pytest.mark.requirement("SRS-STO-903")
def test_a_report_of_storage_commitment_is_not_waited_for_until_the_clock_has_caught_up(box):
    """Its time-out counts from when it was asked for, and that seems to be tomorrow."""
    destination = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=104, commit_timeout_s=300)
    delivery_id, _ = plan(box)
    before, now = at(), at(-1)
    with box.database.begin() as connection:
        connection.execute(update(tables.deliveries).values(state=deliveries.DELIVERED))
        deliveries.ask_proof(connection, delivery_id, now=before)
        commitments.begin(connection, "2.25.1", delivery_id=delivery_id, destination="pacs", now=before)
        commitments.set_unanswered(connection, "2.25.1", commitments.ASKED)

    def until() -> float:
        with box.database.read() as connection:
            known = commitments.of_delivery(connection, delivery_id)
            step = next_step(deliveries.get(connection, delivery_id), known, destination, now)
        assert isinstance(step, Wait)
        return (step.until - now).total_seconds()

    assert until() > DAY_S
    with box.database.begin() as connection:
        clock_changes.set_back(connection, by_s=DAY_S, now=now)
    assert until() == pytest.approx(300, abs=5)
    with box.database.read() as connection:
        found = deliveries.get(connection, delivery_id)
    assert not is_too_early(Verdict(Found.LOST, "query", "x"), found, now + timedelta(minutes=10))
