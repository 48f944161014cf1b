"""What an analysis leaves behind, over the life of a study."""

import pytest
from pydicom import dcmread

from cxr_node.analyze.study import TWO_PATIENTS
from storage import audit, deliveries, jobs, manifests, orders, results, studies
from storage.manifests import COMPLETED, DISCONTINUED, GRACE_S, IN_PROGRESS, Listed
from storage.orders import Order
from tests.cxr_node.analyze.conftest import UID, WAIT_S

STAT = Order("hl7", "PL1", accession_number="A1", patient_id="P1", priority="STAT")


def _audit(line, uid=UID) -> list[str]:
    with line.database.read() as connection:
        return [item.event for item in audit.events(connection, study_instance_uid=uid)]


def _current(line, uid=UID):
    with line.database.read() as connection:
        return results.current(connection, uid)


@pytest.mark.requirement("SRS-ANA-201")
def test_a_late_image_makes_a_revision_and_an_undelivered_report_of_before_is_never_sent(line):
    """Two reports in a study annoy; the one that nobody has says less than the one that follows."""
    line.arrive(1, 0.9)
    line.analyse()
    line.arrive(2, 0.1, calling="CR_ROOM_2")
    line.analyse()
    assert line.deliveries() == [
        (1, "sr", "SUPERSEDED"),
        (1, "priority", "SUPERSEDED"),
        (2, "sr", "SCHEDULED"),
        (2, "priority", "SCHEDULED"),
    ]
    line.deliver()
    line.arrive(3, 0.1)
    line.analyse()
    with line.database.read() as connection:
        stored = {item.kind: item for item in results.objects(connection, _current(line).id)}
        sent = next(item for item in deliveries.of_study(connection, UID) if (item.revision, item.kind) == (2, "sr"))
    report = dcmread(line.files.path(stored["sr"].location))
    (predecessor,) = report.PredecessorDocumentsSequence
    named = predecessor.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert named == sent.sop_instance_uid
    assert len(_current(line).outcome["images"]) == 3


@pytest.mark.requirement("SRS-ANA-201")
def test_studies_of_one_patient_do_not_mix(line):
    """The prior beside the new study: each has its images, its score and its priority."""
    line.arrive(1, 0.9)
    line.arrive(1, 0.1, uid="1.3")
    line.analyse()
    line.analyse("1.3")
    assert [(line.study(uid).flagged, line.study(uid).effective_priority) for uid in (UID, "1.3")] == [
        (True, "HIGH"),
        (False, "ROUTINE"),
    ]
    assert [image["sop_instance_uid"] for image in _current(line, "1.3").outcome["images"]] == ["1.3.1"]


@pytest.mark.requirement("SRS-ANA-202")
def test_a_second_patient_after_the_report_takes_the_report_back_and_keeps_the_priority(line):
    """What was found may be of either; nothing goes out under a wrong name, and nobody is put back in the queue."""
    line.arrive(1, 0.9)
    line.analyse()
    line.arrive(2, 0.1, patient="P2")
    line.analyse()
    study, current = line.study(), _current(line)
    assert (study.status, study.flagged, study.effective_priority) == ("not_analysed", False, "HIGH")
    assert {item["reason"] for item in current.outcome["exclusions"]} == {"two-patients"}
    assert line.deliveries() == [
        (1, "sr", "SUPERSEDED"),
        (1, "priority", "SUPERSEDED"),
        (2, "priority", "SCHEDULED"),
    ]
    assert "two_patients" in _audit(line)
    notice = line.notices()[-1]
    assert TWO_PATIENTS.message in notice.reason
    assert notice.reason.endswith("priority kept from an earlier revision")
    assert (notice.effective, notice.patient_name, notice.patient_id) == ("HIGH", "", "")
    assert TWO_PATIENTS.message in notice.exclusions


@pytest.mark.requirement("SRS-ANA-202")
@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"patient": "P2"}, "not_analysed"),
        ({"IssuerOfPatientID": "CLINIC"}, "not_analysed"),
        ({"patient": "P1 "}, "analysed"),
        ({"patient": "p1"}, "not_analysed"),
    ],
    ids=["another ID", "another issuer", "a space", "letter case"],
)
def test_who_is_another_patient(line, other, expected):
    """The same ID of two issuers is two people; a trailing space is nobody."""
    line.arrive(1, 0.9, IssuerOfPatientID="HOSP")
    line.arrive(2, 0.9, **{"IssuerOfPatientID": "HOSP", **other})
    line.analyse()
    assert line.study().status == expected


@pytest.mark.requirement("SRS-ANA-203")
def test_a_failed_analysis_is_told_with_the_priority_as_ordered(line):
    """Silence would look like normal."""
    line.arrive(1, ordered="MEDIUM")
    line.fail()
    study = line.study()
    assert (study.status, study.effective_priority, study.revision) == ("failed", "MEDIUM", 1)
    assert line.deliveries() == [(1, "priority", "SCHEDULED")]
    (notice,) = line.notices()
    assert (notice.status, notice.reason) == ("failed", "AI triage failed; priority as ordered")
    assert (notice.ordered, notice.ai, notice.effective) == ("MEDIUM", "", "MEDIUM")
    assert (notice.patient_id, notice.accession_number) == ("P1", "A1")
    assert _current(line).outcome["notes"] == ["the analysis was given up: PoisonJob"]


@pytest.mark.requirement("SRS-ANA-203")
def test_a_late_image_that_fails_leaves_the_report_of_before_standing(line):
    """What was found in the first image is as true as before, and is still delivered."""
    line.arrive(1, 0.9)
    line.analyse()
    line.arrive(2)
    line.fail()
    study = line.study()
    assert (study.status, study.flagged, study.effective_priority) == ("failed", True, "HIGH")
    assert line.deliveries() == [
        (1, "sr", "SCHEDULED"),
        (1, "priority", "SUPERSEDED"),
        (2, "priority", "SCHEDULED"),
    ]
    notice = line.notices()[-1]
    assert (notice.status, notice.flagged, notice.findings) == ("failed", True, ("pneumonia",))
    assert notice.reason == "AI triage failed; priority kept as raised"
    with line.database.read() as connection:
        assert results.conclusive(connection, UID).revision == 1
    assert _current(line).outcome["findings"]


@pytest.mark.requirement("SRS-ANA-203")
def test_failing_again_in_the_same_way_is_told_once_and_success_is_a_revision(line):
    """A person lets it run again: nothing new is no news."""
    line.arrive(1, 0.9)
    line.fail()
    line.arrive(1, 0.9)
    line.fail()
    assert len(line.notices()) == 1
    line.arrive(1, 0.9)
    line.fail(reason="the disk is full")
    assert [notice.revision for notice in line.notices()] == [1, 2]
    assert _current(line).outcome["notes"] == ["the analysis was given up: the disk is full"]
    line.arrive(1, 0.9)
    line.analyse()
    assert (line.study().status, line.study().revision, line.study().flagged) == ("analysed", 3, True)


def _announce(line, *numbers: int, state: str = COMPLETED) -> None:
    listed = [Listed(f"{UID}.{number}", "1.2.840.10008.5.1.4.1.1.1.1", f"{UID}.0", True) for number in numbers]
    with line.database.begin() as connection:
        known = manifests.get(connection, "mpps", "7.1")
        if known:
            manifests.set_state(connection, "mpps", "7.1", state=state, instances=listed, now=line.now)
        else:
            manifests.add(
                connection,
                "mpps",
                "7.1",
                [UID],
                state=state,
                instances=listed,
                calling_ae_title="CR",
                now=line.now,
            )


@pytest.mark.requirement("SRS-ANA-204")
def test_a_report_waits_for_announced_images_and_a_priority_does_not(line):
    """The flag is on the worklist in a second; the report is one, of all images."""
    _announce(line, 1, 2)
    line.arrive(1, 0.9)
    line.analyse()
    with line.database.read() as connection:
        (priority,) = [item for item in deliveries.of_study(connection, UID) if item.kind == "priority"]
    assert line.due_in_s("deliver", str(priority.id)) == 0
    assert line.study().effective_priority == "HIGH"
    assert line.report_due_in_s() == WAIT_S + GRACE_S
    line.pass_time(20)
    line.arrive(2, 0.1)
    line.analyse()
    assert line.report_due_in_s() == 0, "all is here: no settling"
    assert [state for _, kind, state in line.deliveries() if kind == "sr"] == ["SUPERSEDED", "SCHEDULED"]


@pytest.mark.requirement("SRS-ANA-204")
@pytest.mark.parametrize(("state", "expected_s"), [(IN_PROGRESS, WAIT_S + GRACE_S), (DISCONTINUED, 5), (COMPLETED, 0)])
def test_the_state_of_the_step_decides(line, state, expected_s):
    """Goes on, was given up, or lists the one image that is here."""
    _announce(line, 1, state=state)
    line.arrive(1)
    line.analyse()
    assert line.report_due_in_s() == expected_s


@pytest.mark.requirement("SRS-ANA-205")
def test_images_that_did_not_arrive_are_told_of_when_the_wait_is_over(line):
    """In the result, and in the report that leaves then; the one without the sentence never does."""
    _announce(line, 1, 2, 3)
    line.arrive(1, 0.1)
    line.analyse()
    assert _current(line).outcome["notes"] == []
    assert line.due_in_s("analyze", UID) == WAIT_S
    line.pass_time(WAIT_S - 1)
    line.analyse()
    assert _current(line).revision == 1
    line.pass_time(1)
    line.analyse()
    sentence = "2 of 3 images that the sender announced did not arrive"
    assert _current(line).outcome["notes"] == [sentence]
    assert [state for _, kind, state in line.deliveries() if kind == "sr"] == ["SUPERSEDED", "SCHEDULED"]
    assert line.report_due_in_s() <= 0
    with line.database.read() as connection:
        stored = {item.kind: item for item in results.objects(connection, _current(line).id)}
        assert jobs.get(connection, "analyze", UID).state == "COMPLETED"
    assert sentence.encode() in line.files.read(stored["sr"].location)
    line.arrive(2, 0.1)
    line.arrive(3, 0.1)
    line.analyse()
    assert _current(line).outcome["notes"] == []


@pytest.mark.requirement("SRS-ANA-204")
def test_a_step_that_never_ends_holds_a_report_no_longer_than_the_wait(line):
    """A modality that crashed says nothing more."""
    _announce(line, state=IN_PROGRESS)
    line.arrive(1)
    line.analyse()
    line.pass_time(WAIT_S)
    line.analyse()
    assert line.study().revision == 1
    assert line.report_due_in_s() == 0


@pytest.mark.requirement("SRS-ANA-206")
def test_an_order_that_was_here_before_the_study_counts_though_its_stage_is_down(line):
    """Orders come in the morning, images at noon."""
    with line.database.begin() as connection:
        orders.put(connection, STAT, now=line.now)
    line.arrive(1)
    line.analyse()
    assert (line.study().effective_priority, line.study().ordered_reason) == ("STAT", "HL7 order from the RIS")
    assert line.notices()[-1].effective == "STAT"


@pytest.mark.requirement("SRS-ANA-206")
def test_an_order_that_arrives_during_the_analysis_is_in_the_notice(line):
    """The notice never speaks of less than was ordered when it became true."""

    def order() -> None:
        with line.database.begin() as connection:
            orders.put(connection, STAT, now=line.now)
            studies.raise_ordered(connection, UID, "STAT", 4, "HL7 order from the RIS", line.now)

    line.arrive(1, 0.9)
    line.analyse(between=order)
    (notice,) = line.notices()
    assert (notice.ordered, notice.effective) == ("STAT", "STAT")
    with line.database.read() as connection:
        stored = [item for item in results.objects(connection, _current(line).id) if item.kind == "priority"]
    assert len(stored) == 1


@pytest.mark.requirement("SRS-ANA-207")
def test_a_study_of_the_back_catalogue_gets_its_report_and_raises_nobody(line):
    """It was read years ago: no notice, no place on the list, the ordered priority."""
    line.arrive(1, 0.9)
    with line.database.begin() as connection:
        studies.set_origin(connection, UID, studies.BACKFILL)
    line.analyse()
    study = line.study()
    assert (study.flagged, study.effective_priority, study.ai_priority) == (True, "ROUTINE", "HIGH")
    assert line.deliveries() == [(1, "sr", "SCHEDULED")]
    line.arrive(2)
    line.fail()
    assert [kind for _, kind, _ in line.deliveries()] == ["sr"]


@pytest.mark.requirement("SRS-ANA-207")
def test_an_image_that_comes_after_the_study_was_read_puts_it_on_the_list_again(line):
    """The reader has decided about the images of then; a flag on one that nobody saw must not stay out of sight."""
    line.arrive(1, 0.1)
    line.analyse()
    with line.database.begin() as connection:
        studies.mark_read(connection, UID, line.now)
    line.analyse()
    assert line.study().read_at is not None, "nothing came that was not read"
    line.arrive(2, 0.9, ordered="STAT")
    line.analyse()
    study = line.study()
    assert (study.flagged, study.effective_priority, study.read_at, study.reopened) == (True, "STAT", None, 1)
    assert line.notices()[-1].effective == "STAT"
    assert "study_reopened" in _audit(line)


@pytest.mark.requirement("SRS-ANA-207")
def test_an_image_that_fails_after_the_study_was_read_puts_it_on_the_list_again(line):
    """An image that nobody looked at, neither reader nor AI, must not be the one that is never shown."""
    line.arrive(1, 0.1)
    line.analyse()
    with line.database.begin() as connection:
        studies.mark_read(connection, UID, line.now)
    line.arrive(2)
    line.fail()
    assert (line.study().status, line.study().read_at) == ("failed", None)


@pytest.mark.requirement("SRS-ANA-207")
def test_an_order_that_came_while_the_study_was_read_counts_once_it_is_open_again(line):
    """It raised nothing then, for there was nothing left to read."""
    line.arrive(1, 0.1)
    line.analyse()
    with line.database.begin() as connection:
        studies.mark_read(connection, UID, line.now)
        orders.put(connection, STAT, now=line.now)
    line.arrive(2, 0.1)
    line.analyse()
    assert (line.study().effective_priority, line.study().ordered_reason) == ("STAT", "HL7 order from the RIS")
    assert line.notices()[-1].effective == "STAT"
