"""Reading tasks on a foreign UPS SCP: created once, raised and never lowered, left alone once somebody reads."""

import pytest
from pydicom.dataset import Dataset
from pynetdicom.sop_class import UnifiedProcedureStepPush, Verification

from cxr_node.deliver.association import RejectedPermanent
from cxr_node.deliver.ups import make_task, task_uid
from cxr_node.errors import Disposition, NotNegotiated, Refused
from cxr_node.findings import ImageReference
from tests.cxr_node.deliver.peers import UpsPeer, make_notice, plan_notice, ups_serving

pytestmark = pytest.mark.requirement("SRS-DLV-210")

UID = task_uid("1.2.3")

# PS3.4 table CC.2.5-3: what an N-CREATE request has to hold, with a value (1) or at least the element (2).
TYPE_1 = (
    "SpecificCharacterSet",
    "ProcedureStepState",
    "ScheduledProcedureStepPriority",
    "ProcedureStepLabel",
    "WorklistLabel",
    "ScheduledProcedureStepStartDateTime",
    "InputReadinessState",
)
TYPE_2 = (
    "TransactionUID",
    "ScheduledProcessingParametersSequence",
    "ScheduledStationNameCodeSequence",
    "ScheduledStationClassCodeSequence",
    "ScheduledStationGeographicLocationCodeSequence",
    "ScheduledWorkitemCodeSequence",
    "CommentsOnTheScheduledProcedureStep",
    "InputInformationSequence",
    "StudyInstanceUID",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence",
    "ReferencedRequestSequence",
    "ProcedureStepProgressInformationSequence",
    "UnifiedProcedureStepPerformedProcedureSequence",
)


@pytest.fixture
def peer():
    with ups_serving(UpsPeer()) as running:
        yield running


def send(node, destination, **changes):
    return node.sender(destination).send(node.stored(plan_notice(node, "ups", make_notice(**changes))))


def test_the_request_holds_what_the_standard_asks_for():
    """A strict SCP answers 0x0120 Missing Attribute."""
    images = (ImageReference("1.2.3.4.1", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3.4"),)
    task = make_task(make_notice(images=images), "PACS")
    for keyword in TYPE_1:
        assert task.get(keyword), keyword
    for keyword in TYPE_2:
        assert keyword in task, keyword
    assert task.ScheduledWorkitemCodeSequence[0].CodeValue == "110005"
    assert task.ReferencedRequestSequence[0].AccessionNumber == "A1"
    (series,) = task.InputInformationSequence
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.4.1"
    assert series.DICOMRetrievalSequence[0].RetrieveAETitle == "PACS"


@pytest.mark.parametrize(
    ("effective", "expected"),
    [("STAT", "HIGH"), ("HIGH", "HIGH"), ("MEDIUM", "MEDIUM"), ("ROUTINE", "LOW"), ("LOW", "LOW")],
)
def test_the_task_has_the_priority_of_the_study(node, peer, effective, expected):
    """UPS has three values; its LOW is "routine or non-urgent"."""
    send(node, peer.destination(), effective=effective)
    assert peer.tasks[UID].ScheduledProcedureStepPriority == expected


def test_a_later_notice_raises_the_task_there_is(node, peer):
    """A second task would be read twice."""
    send(node, peer.destination(), effective="ROUTINE", flagged=False)
    sent = send(node, peer.destination(), effective="HIGH", revision=2)
    assert list(peer.tasks) == [UID]
    assert peer.tasks[UID].ScheduledProcedureStepPriority == "HIGH"
    assert "its priority was raised" in sent.reason


def test_a_later_notice_never_lowers_it(node, peer):
    """Also where somebody at the site raised it."""
    send(node, peer.destination(), effective="ROUTINE", flagged=False)
    peer.tasks[UID].ScheduledProcedureStepPriority = "HIGH"
    send(node, peer.destination(), effective="MEDIUM", revision=2)
    assert peer.tasks[UID].ScheduledProcedureStepPriority == "HIGH"
    assert "N-SET" not in peer.requests


@pytest.mark.parametrize("state", ["IN PROGRESS", "COMPLETED", "CANCELED"])
def test_a_task_that_somebody_took_or_finished_is_left_alone(node, peer, state):
    """It is locked to whoever reads it, or read."""
    send(node, peer.destination(), effective="ROUTINE", flagged=False)
    peer.tasks[UID].ProcedureStepState = state
    sent = send(node, peer.destination(), effective="HIGH", revision=2)
    assert sent.reason == f"the task is {state}: left as it is"
    assert "N-SET" not in peer.requests


@pytest.mark.parametrize("status", [0xC300, 0xC301])
def test_a_task_that_is_taken_between_question_and_change_is_left_alone(node, peer, status):
    """The SCP's own lock decides."""
    send(node, peer.destination(), effective="ROUTINE", flagged=False)
    peer.n_set_status = status
    assert "taken meanwhile" in send(node, peer.destination(), revision=2).reason


@pytest.mark.parametrize(
    ("status", "words", "disposition"),
    [
        (0x0106, "invalid attribute value", Disposition.FAIL),
        (0x0120, "missing attribute", Disposition.FAIL),
        (0xC309, "a task has to begin as SCHEDULED", Disposition.FAIL),
        (0x0124, "not authorised", Disposition.FAIL),
        (0x0110, "processing failure", Disposition.RETRY),
        (0x0213, "resource limitation", Disposition.RETRY),
    ],
)
def test_each_failure_status_is_told_in_words(node, peer, status, words, disposition):
    """An administrator does not know CC.2.5-4 by heart."""
    peer.status = lambda: status
    with pytest.raises(Refused, match=words) as found:
        send(node, peer.destination())
    assert found.value.disposition is disposition


@pytest.mark.requirement("SRS-DLV-201")
def test_a_test_tells_a_wrong_ae_title_from_a_service_that_is_not_there(node, peer):
    """Three different people mend these three."""
    found = node.sender(peer.destination(ae_title="WRONG")).test()
    assert "does not go by the AE title WRONG" in found
    with ups_serving(UpsPeer(), (Verification,)) as other:
        assert "takes no Unified Procedure Step - Push" in node.sender(other.destination()).test()
        with pytest.raises(NotNegotiated):
            send(node, other.destination())
    with ups_serving(UpsPeer(), (UnifiedProcedureStepPush,)) as half:
        assert "cannot be raised" in node.sender(half.destination()).test()
    with pytest.raises(RejectedPermanent):
        send(node, peer.destination(ae_title="WRONG"), revision=2)


def test_a_hostile_name_makes_no_second_value():
    """A backslash separates values in DICOM; a name with one came from a sender that ignored this."""
    task = make_task(make_notice(patient_name="A\\B^C\x1b", patient_id="1\\2"), "PACS")
    assert isinstance(task, Dataset)
    assert task.PatientID == "1/2"
    assert str(task.PatientName) == "A/B^C "
