"""Who is told what, in which order, and what becomes of a receiver that does not listen."""

import random
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from pydicom.dataset import Dataset

from cxr_node.settings import Peer, Settings
from cxr_node.work import Worker
from cxr_node.worklist.dicom_scp import WorklistScp
from cxr_node.worklist.services import Services, make_services
from cxr_node.worklist.stage import WorklistServer
from cxr_node.worklist.ups import work_item_uid
from cxr_node.worklist.ups_sender import MAX_ATTEMPTS, EventSender
from storage import Doorbell, audit, jobs, results, studies, subscriptions, work_items
from tests.cxr_node.worklist.ups_peer import (
    FILTERED,
    GLOBAL,
    Client,
    Receiver,
    code,
    make,
    make_performed,
    make_work_item,
)

LOCK = "2.25.11"
ITEM = "1.2.999.1"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """The RIS as it hears events."""
    one = Receiver("RIS").start()
    yield one
    one.stop()


@pytest.fixture
def peers(settings, receiver) -> Settings:
    """Settings that know the RIS, and a PACS that is down."""
    known = (
        Peer(ae_title="RIS", host="127.0.0.1", port=receiver.port),
        Peer(ae_title="PACS", host="127.0.0.1", port=1),
    )
    return settings.model_copy(update={"peer": known})


@pytest.fixture
def services(peers, database, clock) -> Services:
    """What the stage shares."""
    return make_services(peers, database, clock)


@pytest.fixture
def client(services, peers) -> Iterator[Client]:
    """A client of the running SCP."""
    scp = WorklistScp(peers, services)
    scp.start()
    yield Client(scp.port)
    scp.stop()


@pytest.fixture
def deliver(services, peers, database, clock, tmp_path) -> Callable[[], int]:
    """Announce what changed and send what is due, as the stage's threads do; return how many jobs ran."""
    sender = EventSender(peers, database, clock, timeout_s=10.0)
    worker = Worker(
        database,
        Doorbell(tmp_path / "bells"),
        kinds=("ups-event",),
        topic="ups-event",
        handle=sender.handle,
        owner="test",
        max_attempts=lambda _: MAX_ATTEMPTS,
        on_failed=sender.give_up,
        now=clock,
        rng=random.Random(1),
    )

    def run() -> int:
        services.pump.run_once()
        count = 0
        while worker.run_once():
            count += 1
        return count

    return run


@pytest.mark.requirement("SRS-UPS-011")
def test_a_subscriber_hears_the_state_at_once_and_every_change_in_order(client, ward, receiver, deliver):
    """An initial State Report, then IN PROGRESS, then COMPLETED, each about the UPS Push instance."""
    reading = work_item_uid(ward.add("1.2.3.1", flagged=True))
    assert client.subscribe(reading, "RIS") == 0x0000
    deliver()
    assert receiver.states(reading) == ["SCHEDULED"]
    report = receiver.events[0][2]
    assert (report.InputReadinessState, report.ScheduledProcedureStepPriority) == ("READY", "HIGH")
    client.change(reading, "IN PROGRESS", LOCK)
    client.set(reading, make_performed(), LOCK)
    client.change(reading, "COMPLETED", LOCK)
    deliver()
    assert receiver.states(reading) == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    assert "TransactionUID" not in str([found for _, _, found in receiver.events])
    assert client.unsubscribe(reading, "RIS") == 0x0000


@pytest.mark.requirement("SRS-UPS-011")
def test_progress_assignment_and_a_wish_to_cancel_are_told(client, ward, receiver, deliver):
    """Event types 3, 5 and 2 with what table CC.2.4-1 wants in them."""
    reading = work_item_uid(ward.add("1.2.3.1"))
    client.subscribe(reading, "RIS")
    client.change(reading, "IN PROGRESS", LOCK)
    progress = make(ProcedureStepProgress="50", ProcedureStepProgressDescription="half")
    client.set(reading, make(ProcedureStepProgressInformationSequence=[progress]), LOCK)
    performer = make(
        HumanPerformerCodeSequence=[code("1", "Jones", "99HOSPITAL")], HumanPerformerOrganization="Radiology"
    )
    station = [code("WS1", "Workstation 1", "99HOSPITAL")]
    client.set(
        reading, make(ScheduledHumanPerformersSequence=[performer], ScheduledStationNameCodeSequence=station), LOCK
    )
    Client(client.port, "PACS").cancel(reading, ReasonForCancellation="not needed", ContactDisplayName="Ward 3")
    deliver()
    by_kind = {kind: found for kind, _, found in receiver.events}
    assert [kind for kind, _, _ in receiver.events] == [1, 1, 3, 5, 2]
    assert by_kind[3].ProcedureStepProgressInformationSequence[0].ProcedureStepProgress == 50
    assert by_kind[5].HumanPerformerOrganization == "Radiology"
    assert by_kind[5].HumanPerformerCodeSequence[0].CodeMeaning == "Jones"
    assert by_kind[5].ScheduledStationNameCodeSequence[0].CodeValue == "WS1"
    assert (by_kind[2].RequestingAE, by_kind[2].ReasonForCancellation) == ("PACS", "not needed")
    assert by_kind[2].ContactDisplayName == "Ward 3"


@pytest.mark.requirement("SRS-UPS-011")
def test_a_cancel_of_what_nobody_holds_is_told_by_way_of_in_progress(client, ward, receiver, deliver):
    """CC.2.2.3: first to IN PROGRESS and then to CANCELED, the reason in the report."""
    reading = work_item_uid(ward.add("1.2.3.1"))
    client.subscribe(reading, "RIS")
    client.cancel(reading, ReasonForCancellation="double")
    deliver()
    assert receiver.states(reading) == ["SCHEDULED", "IN PROGRESS", "CANCELED"]
    last = receiver.events[-1][2]
    assert last.ReasonForCancellation == "double"
    assert last.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "110513"
    assert [kind for kind, _, _ in receiver.events] == [1, 2, 1, 1]


@pytest.mark.requirement("SRS-UPS-012")
def test_a_study_that_is_reopened_has_a_new_reading_task(client, ward, receiver, deliver, services, database, clock):
    """A completed work item stays completed; the image that came after it needs one of its own."""
    assert client.subscribe(GLOBAL, "RIS") == 0x0000
    uid = ward.add("1.2.3.1", flagged=True)
    deliver()
    first, second = work_item_uid(uid), work_item_uid(uid, 1)
    with database.begin() as connection:
        row = work_items.get(connection, first)
        assert row is not None
        clock.now += timedelta(seconds=1)
        work_items.change(connection, row, now=clock.now, state="COMPLETED")
        studies.mark_read(connection, uid, clock.now)
    deliver()
    assert list(services.listing.walk()) == []
    with database.begin() as connection:
        assert studies.reopen(connection, uid, clock.now)
        results.add(
            connection, uid, status="analysed", flagged=False, ai_priority="", outcome={"images": []}, now=clock.now
        )
        study = studies.get(connection, uid)
        assert study is not None
        studies.set_outcome(
            connection,
            uid,
            status="analysed",
            flagged=False,
            ai_priority="",
            effective_priority=study.effective_priority,
            priority_rank=study.priority_rank,
            notified_at=clock.now,
            revision=study.revision + 1,
        )
    assert [item.study_instance_uid for item in services.listing.walk()] == [uid]
    entry = services.listing.entry(uid)
    assert entry is not None
    assert entry.reading is None, "the completed one is not that of the study as it is now"
    deliver()
    assert receiver.states(second) == ["SCHEDULED"]
    states = {
        str(answer.dataset.SOPInstanceUID): answer.dataset.ProcedureStepState for answer in _readings(services, uid)
    }
    assert states == {first: "COMPLETED", second: "SCHEDULED"}
    assert deliver() == 0, "nothing is announced twice"


def _readings(services, uid):
    rows = []
    with services.database.read() as connection:
        rows = [row for row in work_items.of_study(connection, uid) if row.kind == "reading"]
    return [services.ups.get(row.sop_instance_uid) for row in rows]


@pytest.mark.requirement("SRS-UPS-012")
def test_who_subscribes_to_the_list_hears_of_new_studies_priorities_and_analyses(
    client, ward, receiver, deliver, database, clock
):
    """Derived work items are announced as created ones are; a raised priority is a State Report with the new one."""
    assert client.subscribe(GLOBAL, "RIS") == 0x0000
    uid = ward.add("1.2.3.1", status="pending")
    reading = work_item_uid(uid)
    deliver()
    assert receiver.states(reading) == ["SCHEDULED"]
    [analysis] = {about for _, about, _ in receiver.events} - {reading}
    assert receiver.states(analysis) == ["SCHEDULED"]
    with database.begin() as connection:
        studies.raise_ordered(connection, uid, "STAT", 4, "order", clock.now)
    deliver()
    assert receiver.states(reading) == ["SCHEDULED", "SCHEDULED"]
    assert receiver.events[-1][2].ScheduledProcedureStepPriority == "HIGH"
    with database.begin() as connection:
        studies.set_outcome(
            connection,
            uid,
            status="not_analysed",
            flagged=False,
            ai_priority="",
            effective_priority="STAT",
            priority_rank=4,
            notified_at=clock.now,
            revision=1,
        )
    deliver()
    assert receiver.states(analysis) == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    assert deliver() == 0


@pytest.mark.requirement("SRS-UPS-012")
def test_with_a_deletion_lock_every_work_item_there_is_is_reported_first(client, ward, receiver, deliver):
    """Table CC.2.3-2: without a lock only what comes, with one also what is there."""
    reading = work_item_uid(ward.add("1.2.3.1"))
    client.subscribe(GLOBAL, "RIS")
    deliver()
    seen = len(receiver.states(reading))
    client.unsubscribe(GLOBAL, "RIS")
    client.subscribe(GLOBAL, "RIS", lock="TRUE")
    deliver()
    assert len(receiver.states(reading)) == seen + 1
    assert client.subscribe(GLOBAL, "RIS", lock="MAYBE") == 0x0115


@pytest.mark.requirement("SRS-UPS-012")
def test_a_filtered_subscription_goes_on_after_the_item_changed(client, ward, receiver, deliver):
    """What matched once is subscribed to: a filter for SCHEDULED must not lose the claim."""
    high, low = (work_item_uid(ward.add(uid, flagged=flagged)) for uid, flagged in (("1.2.1", True), ("1.2.2", False)))
    deliver()
    assert client.subscribe(FILTERED, "RIS") == 0x0115
    keys = {"ScheduledProcedureStepPriority": "HIGH", "ProcedureStepState": "SCHEDULED", "PatientName": "*"}
    assert client.subscribe(FILTERED, "RIS", **keys) == 0x0000
    deliver()
    assert receiver.events == []
    later = work_item_uid(ward.add("1.2.3", flagged=True))
    for reading in (high, low, later):
        client.change(reading, "IN PROGRESS", LOCK)
    deliver()
    assert receiver.states(high) == ["IN PROGRESS"]
    assert receiver.states(low) == []
    assert receiver.states(later) == ["SCHEDULED", "IN PROGRESS"]
    assert client.unsubscribe(FILTERED, "RIS") == 0x0000
    client.change(high, "CANCELED", LOCK)
    deliver()
    assert receiver.states(high) == ["IN PROGRESS"]


@pytest.mark.requirement("SRS-UPS-012")
def test_a_suspended_subscription_keeps_what_is_there_and_takes_nothing_new(client, ward, receiver, deliver, clock):
    """Action type 5; and one work item may be left out of a subscription to all."""
    first, second = work_item_uid(ward.add("1.2.1")), work_item_uid(ward.add("1.2.2"))
    client.subscribe(GLOBAL, "RIS")
    deliver()
    assert client.unsubscribe(second, "RIS") == 0x0000
    clock.now += timedelta(minutes=1)
    assert client.suspend(GLOBAL, "RIS") == 0x0000
    assert client.suspend(first, "RIS") == 0xC314
    clock.now += timedelta(minutes=1)
    third = work_item_uid(ward.add("1.2.3"))
    deliver()
    receiver.events.clear()
    for reading in (first, second, third):
        assert client.change(reading, "IN PROGRESS", LOCK) == 0x0000
    deliver()
    assert [receiver.states(reading) for reading in (first, second, third)] == [["IN PROGRESS"], [], []]


@pytest.mark.requirement("SRS-UPS-013")
def test_only_aes_that_the_node_may_call_are_subscribed(client, ward):
    """C308: an event to an unknown address would carry patients there."""
    reading = work_item_uid(ward.add("1.2.3.1"))
    assert client.subscribe(reading, "STRANGER") == 0xC308
    assert client.subscribe(GLOBAL, "STRANGER", lock="TRUE") == 0xC308
    assert client.subscribe("1.2.3.4.5", "RIS") == 0xC307
    assert client.unsubscribe("1.2.3.4.5", "RIS") == 0xC307
    assert client.unsubscribe(reading, "RIS") == 0x0000


@pytest.mark.requirement("SRS-UPS-013")
def test_a_created_work_item_is_announced_and_assigned(client, receiver, deliver):
    """CC.2.4.3: a State Report, and who it is scheduled for."""
    client.subscribe(GLOBAL, "RIS")
    station = [code("WS1", "Workstation 1", "99HOSPITAL")]
    assert client.create(make_work_item(ScheduledStationNameCodeSequence=station), ITEM) == 0x0000
    deliver()
    assert [(kind, about) for kind, about, _ in receiver.events] == [(1, ITEM), (5, ITEM)]
    assert receiver.events[1][2].ScheduledStationNameCodeSequence[0].CodeValue == "WS1"


@pytest.mark.requirement("SRS-UPS-014")
def test_a_receiver_that_is_down_gets_its_events_later_in_order(client, ward, receiver, deliver, clock):
    """Each try has its time; new events do not use up tries, and nobody else waits."""
    reading = work_item_uid(ward.add("1.2.3.1"))
    client.subscribe(reading, "RIS")
    client.subscribe(reading, "PACS")
    port = receiver.port
    receiver.stop()
    deliver()
    assert receiver.events == []
    client.change(reading, "IN PROGRESS", LOCK)
    receiver.start(port)
    clock.now += timedelta(minutes=10)
    deliver()
    assert receiver.states(reading) == ["SCHEDULED", "IN PROGRESS"]


@pytest.mark.requirement("SRS-UPS-014")
def test_a_receiver_that_stays_down_is_given_up_and_the_next_event_tries_again(client, ward, deliver, clock, database):
    """Bounded: the queue of a system that was taken away must not grow for ever."""
    reading = work_item_uid(ward.add("1.2.3.1"))
    client.subscribe(reading, "PACS")
    for _ in range(MAX_ATTEMPTS):
        deliver()
        clock.now += timedelta(minutes=10)
    with database.read() as connection:
        job = jobs.get(connection, "ups-event", "PACS")
        assert job is not None
        assert (job.state, job.attempts) == ("FAILED", MAX_ATTEMPTS)
        assert subscriptions.count_pending(connection, "PACS") == 0
        [entry] = [one for one in audit.events(connection) if one.event == "ups_events_dropped"]
        assert entry.detail["receiver"] == "PACS"
    client.change(reading, "IN PROGRESS", LOCK)
    with database.read() as connection:
        job = jobs.get(connection, "ups-event", "PACS")
        assert job is not None
        assert (job.state, job.attempts, subscriptions.count_pending(connection, "PACS")) == ("SCHEDULED", 0, 1)


@pytest.mark.requirement("SRS-UPS-014")
def test_new_events_do_not_use_up_the_tries_of_a_receiver_that_is_down(client, ward, deliver, database):
    """Ten claims within a second must not be ten tries within a second."""
    readings = [work_item_uid(ward.add(f"1.2.3.{number}")) for number in range(4)]
    client.subscribe(GLOBAL, "PACS")
    for reading in readings:
        client.change(reading, "IN PROGRESS", LOCK)
        deliver()
    with database.read() as connection:
        job = jobs.get(connection, "ups-event", "PACS")
    assert job is not None
    assert job.attempts == 1


@pytest.mark.requirement("SRS-UPS-014")
def test_a_receiver_that_refuses_an_event_is_not_asked_again(client, ward, receiver, deliver, database):
    """CC.2.4.3: no obligation to queue or retry; what follows still reaches it."""
    receiver.status = 0x0110
    reading = work_item_uid(ward.add("1.2.3.1"))
    client.subscribe(reading, "RIS")
    client.change(reading, "IN PROGRESS", LOCK)
    deliver()
    assert receiver.states(reading) == ["SCHEDULED", "IN PROGRESS"]
    with database.read() as connection:
        assert subscriptions.count_pending(connection, "RIS") == 0


@pytest.mark.requirement("SRS-UPS-014")
def test_events_of_an_ae_that_left_the_settings_are_dropped(client, ward, peers, database, clock):
    """Who is no peer any more is not called."""
    reading = work_item_uid(ward.add("1.2.3.1"))
    client.subscribe(reading, "PACS")
    sender = EventSender(peers.model_copy(update={"peer": ()}), database, clock)
    with database.begin() as connection:
        claimed = jobs.claim(connection, ["ups-event"], owner="test", now=clock.now)
        for _, outcome in sender.handle(claimed):
            assert not isinstance(outcome, Exception)
            outcome(connection)
        assert subscriptions.count_pending(connection, "PACS") == 0


@pytest.mark.requirement("SRS-UPS-014")
def test_what_was_announced_is_not_announced_again_after_a_restart(ward, services, peers, database, clock):
    """At least once, and in peace once: the sign is on the row."""
    ward.add("1.2.3.1")
    assert services.pump.run_once() == 1
    assert make_services(peers, database, clock).pump.run_once() == 0


@pytest.mark.requirement("SRS-UPS-015")
def test_subscribers_hear_that_the_scp_stops_and_starts(client, ward, receiver, peers, database):
    """Event type 4; both lists are in the database, so the start is a warm one."""
    client.subscribe(GLOBAL, "RIS")
    server = WorklistServer(peers, database)
    server.start()
    assert receiver.arrived.wait(30)
    server.stop()
    told = [(about, found) for kind, about, found in receiver.events if kind == 4]
    assert [found.SCPStatus for _, found in told] == ["RESTARTED", "GOING DOWN"]
    assert {about for about, _ in told} == {GLOBAL}
    assert {found.SubscriptionListStatus for _, found in told} == {"WARM START"}
    assert {found.UnifiedProcedureStepListStatus for _, found in told} == {"WARM START"}


@pytest.mark.requirement("SRS-UPS-012")
def test_one_study_that_cannot_be_told_does_not_silence_the_others(ward, services, database, monkeypatch):
    """The pump goes on, and says so."""
    for number in range(3):
        ward.add(f"1.2.3.{number}")
    keep = services.pump._keeper.keep

    def broken(connection: object, study_instance_uid: str, now: object, **options: object) -> None:
        if study_instance_uid == "1.2.3.1":
            raise ValueError("a value nobody expected")
        keep(connection, study_instance_uid, now, **options)

    monkeypatch.setattr(services.pump._keeper, "keep", broken)
    services.pump.run_once()
    assert services.pump.run_once() == 0
    answers = [services.ups.get(work_item_uid(f"1.2.3.{number}")).dataset for number in range(3)]
    assert all(isinstance(answer, Dataset) for answer in answers)
