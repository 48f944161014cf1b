"""Work items over DIMSE: created, claimed, changed and closed, by pynetdicom on loopback."""

from collections.abc import Iterator
from datetime import timedelta
from io import BytesIO

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from cxr_node.settings import Peer
from cxr_node.worklist.dicom_scp import WorklistScp
from cxr_node.worklist.services import Services, make_services
from cxr_node.worklist.ups import work_item_uid
from storage import audit, jobs, results, studies, work_items
from tests.cxr_node.worklist.ups_peer import Client, code, make, make_performed, make_work_item

LOCK, OTHER_LOCK = "2.25.11", "2.25.22"
ITEM = "1.2.999.1"
SR = "1.2.840.10008.5.1.4.1.1.88.34"


@pytest.fixture
def services(settings, database, clock) -> Services:
    """With two receivers that nobody listens for."""
    peers = (Peer(ae_title="RIS", host="127.0.0.1", port=1), Peer(ae_title="PACS", host="127.0.0.1", port=1))
    return make_services(settings.model_copy(update={"peer": peers}), database, clock)


@pytest.fixture
def scp(services, settings) -> Iterator[WorklistScp]:
    """The SCP, running."""
    running = WorklistScp(services.settings, services)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def client(scp) -> Client:
    """A RIS."""
    return Client(scp.port)


@pytest.fixture
def reading(ward) -> str:
    """UID of the reading task of a flagged study."""
    return work_item_uid(ward.add("1.2.3.1", flagged=True))


def encoded(dataset: Dataset) -> bytes:
    """Return a dataset as a DICOM file."""
    buffer = BytesIO()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def of_kind(value: str) -> dict[str, list[Dataset]]:
    """Return the key of one kind of work item: 110005 is a reading, 110004 an analysis."""
    return {"ScheduledWorkitemCodeSequence": [make(CodeValue=value)]}


def events_of(database, event: str) -> list[audit.AuditEvent]:
    """Return the entries of one kind."""
    with database.read() as connection:
        return [entry for entry in audit.events(connection) if entry.event == event]


@pytest.mark.requirement("SRS-UPS-002")
def test_a_reading_task_is_claimed_and_the_lock_never_leaves_the_node(client, reading, database):
    """Who knew the Transaction UID could act as the performer."""
    assert client.change(reading, "IN PROGRESS", LOCK) == 0x0000
    status, found = client.get(reading)
    assert status == 0x0000
    assert found is not None
    assert found.ProcedureStepState == "IN PROGRESS"
    assert "TransactionUID" not in found
    status, found = client.get(reading, [0x00081195, 0x00741000])
    assert status in (0x0000, 0x0001)
    assert "TransactionUID" not in found
    assert [item.ProcedureStepState for item in client.find(TransactionUID="", **of_kind("110005"))] == ["IN PROGRESS"]
    assert all("TransactionUID" not in item for item in client.find(TransactionUID=""))
    [entry] = events_of(database, "ups_claimed")
    assert (entry.actor, entry.study_instance_uid) == ("RIS@127.0.0.1", "1.2.3.1")


@pytest.mark.requirement("SRS-UPS-002")
def test_the_second_who_claims_is_told_and_the_first_keeps_it(client, scp, reading):
    """PS3.4 CC.2.1.2, note 2: the lock of the second is not the correct one."""
    assert client.change(reading, "IN PROGRESS", LOCK) == 0x0000
    assert Client(scp.port, "PACS").change(reading, "IN PROGRESS", OTHER_LOCK) == 0xC301
    assert client.change(reading, "IN PROGRESS", LOCK) == 0xC302
    assert client.change(reading, "SCHEDULED", LOCK) == 0xC303
    assert client.change(reading, "COMPLETED", OTHER_LOCK) == 0xC301


@pytest.mark.requirement("SRS-UPS-002")
def test_a_claim_needs_a_uid_as_lock(client, reading):
    """An empty or unreadable lock could not be shown again."""
    assert client.change(reading, "IN PROGRESS") == 0xC301
    assert client.change(reading, "COMPLETED", LOCK) == 0xC310
    assert client.change(reading, "CANCELED", LOCK) == 0xC310
    assert client.change("1.2.3.4.5", "IN PROGRESS", LOCK) == 0xC307
    assert client.change(reading, "DONE", LOCK) == 0x0115
    assert client.act(99, reading, make(ProcedureStepState="COMPLETED")) == 0x0123


@pytest.mark.requirement("SRS-UPS-003")
@pytest.mark.parametrize(
    "lacking",
    [
        "PerformedStationNameCodeSequence",
        "PerformedProcedureStepStartDateTime",
        "PerformedProcedureStepEndDateTime",
        "PerformedWorkitemCodeSequence",
        "OutputInformationSequence",
    ],
)
def test_completing_needs_the_final_state_requirements(client, reading, lacking):
    """A completed step must say who did what, when, and what came of it (table CC.2.5-3, code P)."""
    client.change(reading, "IN PROGRESS", LOCK)
    assert client.change(reading, "COMPLETED", LOCK) == 0xC304
    assert client.set(reading, make_performed(**{lacking: None}), LOCK) == 0x0000
    assert client.change(reading, "COMPLETED", LOCK) == 0xC304
    assert client.set(reading, make_performed(), LOCK) == 0x0000
    assert client.change(reading, "COMPLETED", LOCK) == 0x0000


@pytest.mark.requirement("SRS-UPS-003", "SRS-UPS-004")
def test_a_completed_reading_marks_the_study_read_and_is_final(client, reading, database):
    """The radiologist is done: the study leaves the list, and the task stays to be asked for."""
    client.change(reading, "IN PROGRESS", LOCK)
    client.set(reading, make_performed(), LOCK)
    assert client.change(reading, "COMPLETED", LOCK) == 0x0000
    with database.read() as connection:
        study = studies.get(connection, "1.2.3.1")
    assert study is not None
    assert study.read_at is not None
    assert client.change(reading, "COMPLETED", LOCK) == 0xB306
    assert client.change(reading, "CANCELED", LOCK) == 0xC300
    assert client.change(reading, "IN PROGRESS", LOCK) == 0xC300
    assert client.set(reading, make(ProcedureStepLabel="x"), LOCK) == 0xC300
    assert client.cancel(reading) == 0xC311
    status, found = client.get(reading)
    assert status == 0
    assert found is not None
    performed = found.UnifiedProcedureStepPerformedProcedureSequence[0]
    assert performed.PerformedStationNameCodeSequence[0].CodeMeaning == "Workstation 1"
    assert [item.SOPInstanceUID for item in client.find(ProcedureStepState="COMPLETED", **of_kind("110005"))] == [
        reading
    ]
    assert client.find(ProcedureStepState="SCHEDULED") == []
    assert len(events_of(database, "ups_completed")) == len(events_of(database, "study_marked_read")) == 1


@pytest.mark.requirement("SRS-UPS-003")
def test_canceling_fills_in_time_and_reason(client, reading):
    """CC.2.5.1.3.2: two N-ACTIONs suffice; the SCP adds when, and that no reason was given."""
    client.change(reading, "IN PROGRESS", LOCK)
    assert client.change(reading, "CANCELED", LOCK) == 0x0000
    _, found = client.get(reading)
    assert found is not None
    progress = found.ProcedureStepProgressInformationSequence[0]
    assert progress.ProcedureStepCancellationDateTime == "20260302120000"
    reason = progress.ProcedureStepDiscontinuationReasonCodeSequence[0]
    assert (reason.CodeValue, reason.CodingSchemeDesignator) == ("110513", "DCM")
    assert client.change(reading, "CANCELED", LOCK) == 0xB304
    assert client.cancel(reading) == 0xB304


@pytest.mark.requirement("SRS-UPS-003")
def test_the_reason_of_the_performer_is_kept(client, reading):
    """It knows better than the SCP."""
    client.change(reading, "IN PROGRESS", LOCK)
    progress = make(
        ReasonForCancellation="wrong list",
        ProcedureStepDiscontinuationReasonCodeSequence=[code("110514", "Incorrect worklist entry selected")],
    )
    assert client.set(reading, make(ProcedureStepProgressInformationSequence=[progress]), LOCK) == 0x0000
    assert client.change(reading, "CANCELED", LOCK) == 0x0000
    _, found = client.get(reading)
    assert found is not None
    kept = found.ProcedureStepProgressInformationSequence[0]
    assert kept.ReasonForCancellation == "wrong list"
    assert kept.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "110514"
    assert kept.ProcedureStepCancellationDateTime


@pytest.mark.requirement("SRS-UPS-005")
def test_attributes_are_set_with_the_lock_and_found_again(client, reading):
    """What a performer writes others read: by N-GET and as matching keys."""
    assert client.set(reading, make(WorklistLabel="Emergency"), LOCK) == 0xC310
    assert client.set(reading, make(WorklistLabel="Emergency")) == 0x0000
    client.change(reading, "IN PROGRESS", LOCK)
    assert client.set(reading, make(WorklistLabel="Thorax")) == 0xC301
    assert client.set(reading, make(WorklistLabel="Thorax"), OTHER_LOCK) == 0xC301
    name = make(HumanPerformerName="Müller^Ä", HumanPerformerCodeSequence=[code("1", "Müller", "99HOSPITAL")])
    changes = make(WorklistLabel="Thorax", ScheduledHumanPerformersSequence=[name])
    changes.SpecificCharacterSet = "ISO_IR 100"
    assert client.set(reading, changes, LOCK) == 0x0000
    [found] = client.find(WorklistLabel="Thor*", ScheduledHumanPerformersSequence=[make(HumanPerformerName="müller*")])
    assert found.ScheduledHumanPerformersSequence[0].HumanPerformerName == "Müller^Ä"
    assert client.find(WorklistLabel="Emergency") == []
    assert client.set("1.2.3.4.5", make(WorklistLabel="x")) == 0xC307


@pytest.mark.requirement("SRS-UPS-005")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ProcedureStepState": "COMPLETED"}, 0x0105),
        ({"PatientName": "Other^Name"}, 0x0105),
        ({"SOPInstanceUID": "1.2.3"}, 0x0105),
        ({"ReferencedRequestSequence": []}, 0x0105),
        ({"ScheduledProcedureStepPriority": "URGENT"}, 0x0106),
        ({"InputReadinessState": "MAYBE"}, 0x0106),
        ({"ProcedureStepLabel": ""}, 0x0121),
        ({"ScheduledProcedureStepPriority": ""}, 0x0121),
    ],
)
def test_what_may_not_be_set_is_refused_and_changes_nothing(client, reading, changes, expected):
    """Patient and order belong to who created the step, the state to N-ACTION (table CC.2.5-3)."""
    before = client.get(reading)[1]
    assert client.set(reading, make(WorklistLabel="also this", **changes)) == expected
    assert client.get(reading)[1] == before


@pytest.mark.requirement("SRS-UPS-006")
@pytest.mark.parametrize("claimed", [False, True])
def test_a_priority_may_be_raised_but_not_lowered(client, ward, database, claimed):
    """The node never lowers a patient's priority, whoever asks; B305 says that the value was not taken."""
    low, high = (work_item_uid(ward.add(uid, flagged=flagged)) for uid, flagged in (("1.2.1", False), ("1.2.2", True)))
    lock = LOCK if claimed else None
    if claimed:
        assert client.change(low, "IN PROGRESS", LOCK) == client.change(high, "IN PROGRESS", LOCK) == 0
    assert client.set(high, make(ScheduledProcedureStepPriority="LOW"), lock) == 0xB305
    assert client.set(low, make(ScheduledProcedureStepPriority="HIGH"), lock) == 0x0000
    assert client.set(low, make(ScheduledProcedureStepPriority="MEDIUM"), lock) == 0xB305
    found = {
        item.SOPInstanceUID: item.ScheduledProcedureStepPriority
        for item in client.find(ScheduledProcedureStepPriority="", **of_kind("110005"))
    }
    assert found == {low: "HIGH", high: "HIGH"}
    with database.read() as connection:
        study = studies.get(connection, "1.2.1")
    assert study is not None
    assert (study.effective_priority, study.ordered_reason) == ("HIGH", "work item, by RIS")


@pytest.mark.requirement("SRS-UPS-006")
def test_the_priority_of_a_claimed_task_still_rises(client, reading, ward, database, clock):
    """A result that comes while somebody reads is for that reader too."""
    other = work_item_uid(ward.add("1.2.3.5", status="pending"))
    client.change(other, "IN PROGRESS", LOCK)
    with database.begin() as connection:
        studies.raise_ordered(connection, "1.2.3.5", "STAT", 4, "order", clock.now)
    [found] = client.find(StudyInstanceUID="1.2.3.5", ScheduledProcedureStepPriority="", **of_kind("110005"))
    assert (found.ProcedureStepState, found.ScheduledProcedureStepPriority) == ("IN PROGRESS", "HIGH")


@pytest.mark.requirement("SRS-UPS-007")
def test_another_system_may_create_a_work_item(client, scp):
    """UPS Push: kept as it came, with the same states as the node's own; in any character set."""
    assert client.create(make_work_item(), ITEM) == 0x0000
    status, found = client.get(ITEM)
    assert status == 0
    assert found is not None
    assert str(found.PatientName) == "Yamada^Tarou=山田^太郎"
    assert found.SpecificCharacterSet == "ISO_IR 192"
    assert (found.SOPClassUID, found.SOPInstanceUID) == ("1.2.840.10008.5.1.4.34.6.1", ITEM)
    assert found.ScheduledProcedureStepModificationDateTime == "20260302120000"
    assert client.create(make_work_item(), ITEM) == 0x0111
    assert [item.SOPInstanceUID for item in client.find(PatientName="*山田*")] == [ITEM]
    assert [item.SOPInstanceUID for item in client.find(StudyInstanceUID="1.9.9")] == [ITEM]
    assert client.change(ITEM, "IN PROGRESS", LOCK) == 0x0000
    assert Client(scp.port, "PACS").change(ITEM, "IN PROGRESS", OTHER_LOCK) == 0xC301
    assert client.set(ITEM, make_performed(), LOCK) == 0x0000
    assert client.change(ITEM, "COMPLETED", LOCK) == 0x0000


@pytest.mark.requirement("SRS-UPS-007")
def test_a_study_of_the_node_is_not_created_again(client, reading):
    """Also before the node made a row of it."""
    assert client.create(make_work_item(), reading) == 0x0111


@pytest.mark.requirement("SRS-UPS-007")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ProcedureStepState": "IN PROGRESS"}, 0xC309),
        ({"ProcedureStepState": None}, 0x0120),
        ({"ProcedureStepState": ""}, 0x0121),
        ({"ScheduledProcedureStepPriority": None}, 0x0120),
        ({"ScheduledProcedureStepPriority": ""}, 0x0121),
        ({"ScheduledProcedureStepPriority": "STAT"}, 0x0106),
        ({"ProcedureStepLabel": None}, 0x0120),
        ({"ProcedureStepLabel": ""}, 0x0121),
        ({"ScheduledProcedureStepStartDateTime": ""}, 0x0121),
        ({"InputReadinessState": "SOON"}, 0x0106),
        ({"InputInformationSequence": None}, 0x0120),
        ({"PatientName": None}, 0x0120),
        ({"TransactionUID": None}, 0x0120),
        ({"TransactionUID": "2.25.3"}, 0x0106),
        ({"UnifiedProcedureStepPerformedProcedureSequence": [make(CodeValue="1")]}, 0x0106),
    ],
)
def test_a_work_item_that_lacks_something_is_not_created(client, changes, expected):
    """PS3.4 5.4.2.1 and table CC.2.5-3: the creator is told what, and nothing is kept."""
    assert client.create(make_work_item(**changes), ITEM) == expected
    assert client.get(ITEM)[0] == 0xC307


@pytest.mark.requirement("SRS-UPS-007")
def test_type_2_attributes_may_be_empty(client):
    """A RIS that knows no name of the patient schedules all the same."""
    assert client.create(make_work_item(PatientName="", PatientID="", WorklistLabel=""), ITEM) == 0x0000


@pytest.mark.requirement("SRS-UPS-007")
def test_a_creator_without_a_uid_is_told_the_one_it_got(client, scp, database):
    """PS3.7 10.1.5: Affected SOP Instance UID may be left to the SCP."""
    assert client.create(make_work_item(), None) == 0x0000
    [found] = client.find(PatientID="P77")
    assert found.SOPInstanceUID.startswith("2.25.")


@pytest.mark.requirement("SRS-UPS-008")
def test_a_request_to_cancel_cancels_what_nobody_holds(client, reading):
    """By way of IN PROGRESS, with the reasons of who asked (CC.2.2.3). The study stays on the list."""
    reasons = [code("110510", "Duplicate order")]
    assert (
        client.cancel(reading, ReasonForCancellation="double", ProcedureStepDiscontinuationReasonCodeSequence=reasons)
        == 0
    )
    _, found = client.get(reading)
    assert found is not None
    progress = found.ProcedureStepProgressInformationSequence[0]
    assert found.ProcedureStepState == "CANCELED"
    assert progress.ReasonForCancellation == "double"
    assert progress.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "110510"
    assert progress.ProcedureStepCancellationDateTime
    assert client.change(reading, "CANCELED", LOCK) == 0xC301
    assert client.cancel("1.2.3.4.5") == 0xC307


@pytest.mark.requirement("SRS-UPS-008")
def test_a_canceled_reading_task_hides_no_study(client, reading, services):
    """A triage device never removes a study: the page and the Modality Worklist still show it."""
    client.cancel(reading)
    assert [study.study_instance_uid for study in services.listing.walk()] == ["1.2.3.1"]


@pytest.mark.requirement("SRS-UPS-008")
def test_the_performer_is_asked_and_decides(client, scp, reading):
    """C312 where it would never hear of it; with a subscription it does, and the state stays as it is."""
    client.change(reading, "IN PROGRESS", LOCK)
    assert Client(scp.port, "PACS").cancel(reading) == 0xC312
    assert client.subscribe(reading, "RIS") == 0x0000
    assert Client(scp.port, "PACS").cancel(reading) == 0x0000
    assert client.get(reading)[1].ProcedureStepState == "IN PROGRESS"


@pytest.mark.requirement("SRS-UPS-009")
def test_the_analysis_is_a_work_item_of_its_own_that_goes_with_the_study(client, ward, services, database, clock):
    """110004, Computer Aided Detection: who watches the node sees what it does, and with what result."""
    ward.add("1.2.3.1", status="pending")
    with database.begin() as connection:
        jobs.schedule(connection, "analyze", "1.2.3.1", run_at=clock.now, now=clock.now)
    services.pump.run_once()
    detection = of_kind("110004")
    [found] = client.find(**detection)
    assert (found.StudyInstanceUID, found.ProcedureStepState) == ("1.2.3.1", "SCHEDULED")
    uid = found.SOPInstanceUID
    with database.begin() as connection:
        [job] = jobs.claim(connection, ["analyze"], owner="a", now=clock.now)
    services.pump.run_once()
    assert [item.ProcedureStepState for item in client.find(**detection)] == ["IN PROGRESS"]
    with database.begin() as connection:
        jobs.complete(connection, job, now=clock.now)
        result = results.add(
            connection, "1.2.3.1", status="analysed", flagged=True, ai_priority="HIGH", outcome={}, now=clock.now
        )
        studies.set_outcome(
            connection,
            "1.2.3.1",
            status="analysed",
            flagged=True,
            ai_priority="HIGH",
            effective_priority="HIGH",
            priority_rank=3,
            notified_at=clock.now,
            revision=1,
        )
        report = make(
            SOPClassUID=SR, SOPInstanceUID="1.2.3.1.50", SeriesInstanceUID="1.2.3.1.5", StudyInstanceUID="1.2.3.1"
        )
        location = services.files.write_object("1.2.3.1.50", encoded(report))
        results.add_object(
            connection,
            result.id,
            kind="sr",
            sop_class_uid=SR,
            sop_instance_uid="1.2.3.1.50",
            location=location,
            now=clock.now,
        )
        results.add_object(
            connection,
            result.id,
            kind="priority",
            sop_class_uid="",
            sop_instance_uid="1.2.3.1.51",
            location=location + ".json",
            now=clock.now,
        )
    services.pump.run_once()
    [found] = client.find(**detection, ProcedureStepState="COMPLETED")
    assert found.SOPInstanceUID == uid
    _, whole = client.get(uid)
    assert whole is not None
    performed = whole.UnifiedProcedureStepPerformedProcedureSequence[0]
    assert performed.PerformedWorkitemCodeSequence[0].CodeValue == "110004"
    assert performed.PerformedProcedureStepEndDateTime >= performed.PerformedProcedureStepStartDateTime
    [output] = performed.OutputInformationSequence
    assert (output.StudyInstanceUID, output.SeriesInstanceUID) == ("1.2.3.1", "1.2.3.1.5")
    assert [one.ReferencedSOPInstanceUID for one in output.ReferencedSOPSequence] == ["1.2.3.1.50"]
    readings = client.find(**of_kind("110005"))
    assert [item.ProcedureStepState for item in readings] == ["SCHEDULED"]


@pytest.mark.requirement("SRS-UPS-009")
def test_an_analysis_that_was_given_up_is_canceled_with_a_reason(client, ward, services):
    """110501 Equipment failure, with the words of the failed job."""
    ward.add("1.2.3.1", status="failed")
    services.pump.run_once()
    [found] = client.find(ProcedureStepProgressInformationSequence=[], **of_kind("110004"))
    assert found.ProcedureStepState == "CANCELED"
    progress = found.ProcedureStepProgressInformationSequence[0]
    assert progress.ReasonForCancellation == "the model did not answer"
    assert progress.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "110501"


@pytest.mark.requirement("SRS-UPS-009")
def test_a_late_image_is_a_new_analysis_and_the_first_stays_completed(client, ward, services, database, clock):
    """A final state is final (CC.1.1): what comes after is another step."""
    ward.add("1.2.3.1")
    services.pump.run_once()
    with database.begin() as connection:
        jobs.schedule(connection, "analyze", "1.2.3.1", run_at=clock.now, now=clock.now)
    clock.now += timedelta(minutes=1)
    services.pump.run_once()
    states = [item.ProcedureStepState for item in client.find(**of_kind("110004"))]
    assert states == ["COMPLETED", "SCHEDULED"]
    assert services.pump.run_once() == 0


@pytest.mark.requirement("SRS-UPS-009")
def test_nobody_else_performs_or_stops_the_nodes_own_analysis(client, ward, services):
    """A study must not lose its triage to a request from the network."""
    ward.add("1.2.3.1", status="pending")
    services.pump.run_once()
    [found] = client.find(**of_kind("110004"))
    assert client.change(found.SOPInstanceUID, "IN PROGRESS", LOCK) == 0x0124
    assert client.set(found.SOPInstanceUID, make(WorklistLabel="x")) == 0x0124
    assert client.cancel(found.SOPInstanceUID) == 0xC313


@pytest.mark.requirement("SRS-UPS-010")
def test_a_query_by_uid_walks_nothing(client, ward, services, database, monkeypatch):
    """A viewer asks for one study a hundred times an hour; the list may hold twenty thousand."""
    readings = [work_item_uid(ward.add(f"1.2.3.{number}")) for number in range(3)]
    services.pump.run_once()
    monkeypatch.setattr(services.listing, "walk", lambda: pytest.fail("the list was walked"))
    assert [item.SOPInstanceUID for item in client.find(SOPInstanceUID=readings[1])] == [readings[1]]
    assert {item.SOPInstanceUID for item in client.find(SOPInstanceUID="\\".join(readings[:2]))} == set(readings[:2])
    assert len(client.find(StudyInstanceUID="1.2.3.2")) == 2
    assert client.find(SOPInstanceUID="1.2.3.4.5") == []


@pytest.mark.requirement("SRS-UPS-010")
def test_an_attribute_that_is_not_there_is_told_by_a_warning(client, reading):
    """N-GET status 0x0001: requested optional attributes are not supported."""
    assert client.get(reading, [0x00100010])[0] == 0x0000
    assert client.get(reading, [0x00100010, 0x00102160])[0] == 0x0001


@pytest.mark.requirement("SRS-UPS-002")
def test_state_and_lock_survive_a_restart(client, scp, services, settings, database, clock, reading):
    """A new process on the same database: the performer goes on, nobody else gets in."""
    client.change(reading, "IN PROGRESS", LOCK)
    scp.stop()
    second = WorklistScp(services.settings, make_services(services.settings, database, clock))
    second.start()
    try:
        again = Client(second.port)
        assert again.change(reading, "IN PROGRESS", OTHER_LOCK) == 0xC301
        assert again.set(reading, make_performed(), LOCK) == 0x0000
        assert again.change(reading, "COMPLETED", LOCK) == 0x0000
    finally:
        second.stop()


@pytest.mark.requirement("SRS-UPS-002")
def test_a_database_that_is_gone_is_told_as_a_lack_of_resources(client, reading, database):
    """The client asks again later."""
    database.downgrade("base")
    assert client.change(reading, "IN PROGRESS", LOCK) == 0x0213
    assert client.create(make_work_item(), ITEM) == 0x0213


@pytest.mark.requirement("SRS-UPS-005", "SRS-UPS-007")
@pytest.mark.parametrize("hostile", ["O\\Brien^\x1b[31mX", "=" * 5, "^" * 70, "\u202e\u0000x"])
def test_hostile_text_of_another_system_breaks_no_answer(client, hostile):
    """What one system wrote reaches all others."""
    status = client.create(make_work_item(PatientName=hostile, ProcedureStepLabel="a\\b"), ITEM)
    if status == 0x0000:
        assert client.get(ITEM)[0] == 0x0000
        assert [item.SOPInstanceUID for item in client.find(PatientName="")] == [ITEM]
    else:
        assert status in (0x0106, 0x0110)
        assert client.get(ITEM)[0] == 0xC307


@pytest.mark.requirement("SRS-UPS-005")
def test_a_stored_value_that_cannot_be_read_hides_nothing_else(client, reading, database, clock):
    """A row of an older release, or one that somebody mended by hand, must not take the list down."""
    broken = {"00741204": {"vr": "LO", "Value": ["Second reading"]}, "00101030": {"vr": "DS", "Value": ["heavy"]}}
    with database.begin() as connection:
        assert work_items.add(connection, ITEM, kind=work_items.EXTERNAL, attributes=broken, now=clock.now)
    found = client.find(ProcedureStepLabel="", PatientWeight="")
    assert {item.SOPInstanceUID for item in found} >= {ITEM, reading}
    assert client.get(ITEM)[1].ProcedureStepLabel == "Second reading"


@pytest.mark.requirement("SRS-UPS-002")
def test_only_rows_know_the_lock(client, reading, database):
    """The audit trail and the log are read by more people than the database."""
    client.change(reading, "IN PROGRESS", LOCK)
    with database.read() as connection:
        assert all(LOCK not in str(entry) for entry in audit.events(connection))
        row = work_items.get(connection, reading)
    assert row is not None
    assert row.transaction_uid == LOCK
