"""MPPS and Instance Availability Notification on the wire, over both transports."""

import time
from datetime import timedelta

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import InstanceAvailabilityNotification, ModalityPerformedProcedureStep

from cxr_node.clock import utc_now
from cxr_node.requestor import associate
from storage import audit, deliveries, jobs, manifests, results
from tests.builders import make_radiograph_dataset

MPPS, IAN = ModalityPerformedProcedureStep, InstanceAvailabilityNotification
DESTINATION = '[{name="pacs", ae_title="PACS", host="127.0.0.1", settle_s=5.0}]'


@pytest.fixture
def modality(start_receiver, transport):
    """A receiver with a destination, and an association of a modality with it."""
    receiver = start_receiver(receive__transport=transport, destination=DESTINATION, receive__quiet_period_s="60")
    ae = AE(ae_title="CR_ROOM_1")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
    for sop_class in (MPPS, IAN):
        ae.add_requested_context(sop_class)
    association = associate(ae, "127.0.0.1", receiver.port, ae_title="CXR_NODE")
    assert association.is_established
    yield receiver, association
    association.release()


def step(*images: Dataset, status: str = "IN PROGRESS", study: str = "", **changes: object) -> Dataset:
    """An MPPS dataset; without images and study only what is said of the state."""
    dataset = Dataset()
    dataset.PerformedProcedureStepStatus = status
    if study:
        item = Dataset()
        item.StudyInstanceUID = study
        item.AccessionNumber = "A1"
        dataset.ScheduledStepAttributesSequence = [item]
        dataset.PerformedProcedureStepID = "PPS1"
        dataset.Modality = "DX"
    if images:
        series = Dataset()
        series.SeriesInstanceUID = images[0].SeriesInstanceUID
        series.ReferencedImageSequence = [_reference(image) for image in images]
        series.ReferencedNonImageCompositeSOPInstanceSequence = []
        dataset.PerformedSeriesSequence = [series]
    for keyword, value in changes.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    return dataset


def notification(study: str, *images: Dataset, availability: str = "ONLINE") -> Dataset:
    """An IAN dataset."""
    dataset, series = Dataset(), Dataset()
    dataset.ReferencedPerformedProcedureStepSequence = []
    dataset.StudyInstanceUID = study
    series.SeriesInstanceUID = images[0].SeriesInstanceUID if images else "1.9"
    series.ReferencedSOPSequence = [_reference(image) for image in images]
    for item in series.ReferencedSOPSequence:
        item.InstanceAvailability, item.RetrieveAETitle = availability, "PACS"
    dataset.ReferencedSeriesSequence = [series] if images else []
    return dataset


def _reference(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return item


def _images(count: int) -> list[Dataset]:
    study, series = generate_uid(), generate_uid()
    return [make_radiograph_dataset(StudyInstanceUID=study, SeriesInstanceUID=series) for _ in range(count)]


def _awaited(receiver, study):
    with receiver.database.read() as connection:
        return manifests.awaited(connection, study)


def _report(receiver, study: str) -> str:
    """Put a report of the study on its way, as the analysis does, and its analysis behind; return the job's key."""
    with receiver.database.begin() as connection:
        (job,) = jobs.claim(connection, ["analyze"], owner="t:1:", now=utc_now() + timedelta(seconds=90))
        jobs.complete(connection, job, now=utc_now())
        result = results.add(
            connection, study, status="analysed", flagged=False, ai_priority="", outcome={}, now=utc_now()
        )
        delivery = deliveries.add(connection, result.id, kind="sr", destination="pacs", now=utc_now())
        due = utc_now() + timedelta(seconds=5)
        jobs.schedule(connection, "deliver", str(delivery.id), run_at=due, now=utc_now())
    return str(delivery.id)


def _due_in_s(receiver, kind: str, key: str) -> float:
    with receiver.database.read() as connection:
        job = jobs.get(connection, kind, key)
    assert job is not None
    assert job.state == "SCHEDULED"
    return (job.run_at - utc_now()).total_seconds()


@pytest.mark.requirement("SRS-RCV-201")
def test_a_step_lets_the_report_go_as_soon_as_its_last_image_is_here(modality):
    """In the order of a real examination: step begun, images, step completed."""
    receiver, association = modality
    first, second = _images(2)
    study, uid = first.StudyInstanceUID, generate_uid()
    status, _ = association.send_n_create(step(study=study), MPPS, uid)
    assert status.Status == 0x0000
    assert receiver.send(first).Status == 0x0000
    deadline = time.monotonic() + 30  # the association's end hastens it, whatever the step says
    while _due_in_s(receiver, "analyze", study) > 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _due_in_s(receiver, "analyze", study) < 1
    report = _report(receiver, study)
    status, _ = association.send_n_set(step(first, status="IN PROGRESS"), MPPS, uid)
    assert status.Status == 0x0000
    assert _due_in_s(receiver, "deliver", report) > 250
    status, _ = association.send_n_set(step(first, second, status="COMPLETED"), MPPS, uid)
    assert status.Status == 0x0000
    assert _due_in_s(receiver, "deliver", report) > 250, "an image is missing"
    assert 250 < _due_in_s(receiver, "analyze", study) < 301, "looked at once more when the wait is over"
    assert receiver.send(second).Status == 0x0000
    assert _due_in_s(receiver, "analyze", study) < 1, "complete: no quiet period"
    assert _awaited(receiver, study).is_complete
    with receiver.database.read() as connection:
        told = [item.detail for item in audit.events(connection, study_instance_uid=study)]
    assert {"source": "mpps", "state": "COMPLETED", "announced": 2, "missing": 1} in told


@pytest.mark.requirement("SRS-RCV-201")
def test_a_notification_that_everything_is_here_ends_the_wait(modality):
    """An archive tells after it has sent: the report need not settle."""
    receiver, association = modality
    (image,) = _images(1)
    receiver.send(image)
    report = _report(receiver, image.StudyInstanceUID)
    status, _ = association.send_n_create(notification(image.StudyInstanceUID, image), IAN, generate_uid())
    assert status.Status == 0x0000
    assert _due_in_s(receiver, "deliver", report) < 1


@pytest.mark.requirement("SRS-RCV-201")
def test_what_an_archive_cannot_give_is_not_waited_for(modality):
    """An instance that is UNAVAILABLE will not be sent; a report in the list is none of the images."""
    receiver, association = modality
    gone, report = _images(2)
    report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.34"
    study = gone.StudyInstanceUID
    for dataset in (notification(study, gone, availability="UNAVAILABLE"), notification(study, report)):
        status, _ = association.send_n_create(dataset, IAN, generate_uid())
        assert status.Status == 0x0000
    assert (_awaited(receiver, study).announced, _awaited(receiver, study).missing) == (0, 0)


@pytest.mark.requirement("SRS-RCV-201")
def test_a_discontinued_step_waits_for_nothing(modality):
    """The patient left: what was announced does not come."""
    receiver, association = modality
    first, second = _images(2)
    study, uid = first.StudyInstanceUID, generate_uid()
    receiver.send(first)
    report = _report(receiver, study)
    association.send_n_create(step(first, second, study=study), MPPS, uid)
    assert _due_in_s(receiver, "deliver", report) > 250
    status, _ = association.send_n_set(step(first, second, status="DISCONTINUED"), MPPS, uid)
    assert status.Status == 0x0000
    assert _due_in_s(receiver, "deliver", report) < 6


@pytest.mark.requirement("SRS-RCV-202")
def test_the_statuses_of_a_step_are_those_of_the_standard(modality):
    """PS3.4 F.7.2: a modality acts on them."""
    _, association = modality
    study, uid = generate_uid(), generate_uid()
    assert association.send_n_set(step(status="COMPLETED"), MPPS, uid)[0].Status == 0x0112
    assert association.send_n_create(step(study=study), MPPS, uid)[0].Status == 0x0000
    assert association.send_n_create(step(study=study), MPPS, uid)[0].Status == 0x0111
    assert association.send_n_set(step(status="DONE"), MPPS, uid)[0].Status == 0x0106
    assert association.send_n_set(step(status="COMPLETED"), MPPS, uid)[0].Status == 0x0000
    status = association.send_n_set(step(status="IN PROGRESS"), MPPS, uid)[0]
    assert (status.Status, status.ErrorID) == (0x0110, 0xA710)
    assert "no longer be updated" in status.ErrorComment


@pytest.mark.requirement("SRS-RCV-202")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"PerformedProcedureStepStatus": None}, 0x0120),
        ({"PerformedProcedureStepStatus": "COMPLETED"}, 0x0106),
        ({"ScheduledStepAttributesSequence": None}, 0x0120),
        ({"ScheduledStepAttributesSequence": []}, 0x0121),
        ({"ScheduledStepAttributesSequence": [Dataset()]}, 0x0120),
    ],
)
def test_a_step_that_lacks_what_it_must_say_is_refused(start_receiver, changes, expected):
    """Kept, it would be of no study."""
    receiver = start_receiver()
    ae = AE(ae_title="CR_ROOM_1")
    ae.add_requested_context(MPPS)
    association = associate(ae, "127.0.0.1", receiver.port, ae_title="CXR_NODE")
    uid = generate_uid()
    status, _ = association.send_n_create(step(study="1.2.3", **changes), MPPS, uid)
    association.release()
    assert status.Status == expected
    with receiver.database.read() as connection:
        assert manifests.get(connection, "mpps", uid) == []


@pytest.mark.requirement("SRS-RCV-202")
def test_a_notification_has_a_study_a_series_and_its_own_uid(modality):
    """PS3.4 R.3.2: all three are of type 1."""
    receiver, association = modality
    (image,) = _images(1)
    uid = generate_uid()
    dataset = notification(image.StudyInstanceUID, image)
    assert association.send_n_create(dataset, IAN, uid)[0].Status == 0x0000
    assert association.send_n_create(dataset, IAN, uid)[0].Status == 0x0111
    assert association.send_n_create(notification("1.2.3"), IAN, generate_uid())[0].Status == 0x0121
    del dataset.StudyInstanceUID
    assert association.send_n_create(dataset, IAN, generate_uid())[0].Status == 0x0120
    dataset.StudyInstanceUID = ""
    assert association.send_n_create(dataset, IAN, generate_uid())[0].Status == 0x0121
    with receiver.database.read() as connection:
        assert len(manifests.of_study(connection, image.StudyInstanceUID)) == 1


@pytest.mark.requirement("SRS-RCV-202")
def test_a_manifest_without_a_uid_gets_one(modality):
    """PS3.7 10.1.5.1.4: the SCU may leave the name to us, and hears it."""
    receiver, association = modality
    status, _ = association.send_n_create(step(study="1.2.3"), MPPS, None)
    assert status.Status == 0x0000
    with receiver.database.read() as connection:
        (found,) = manifests.of_study(connection, "1.2.3")
    assert found.sop_instance_uid


@pytest.mark.requirement("SRS-RCV-203")
def test_a_manifest_that_is_here_before_the_images_counts(modality):
    """A modality may complete its step while its images still wait in its queue."""
    receiver, association = modality
    first, second = _images(2)
    uid = generate_uid()
    association.send_n_create(step(study=first.StudyInstanceUID), MPPS, uid)
    association.send_n_set(step(first, second, status="COMPLETED"), MPPS, uid)
    assert _awaited(receiver, first.StudyInstanceUID).missing == 2
    receiver.send(first)
    receiver.send(second)
    assert _awaited(receiver, first.StudyInstanceUID).is_complete


@pytest.mark.requirement("SRS-RCV-203")
def test_only_listed_callers_may_tell(start_receiver):
    """A manifest can hold a report back."""
    receiver = start_receiver(caller='[{ae_title="CR_ROOM_2", hosts=["127.0.0.1"]}]')
    ae = AE(ae_title="CR_ROOM_1")
    ae.add_requested_context(MPPS)
    association = associate(ae, "127.0.0.1", receiver.port, ae_title="CXR_NODE")
    assert association.is_rejected


@pytest.mark.requirement("SRS-RCV-203")
def test_storage_that_takes_nothing_is_answered_with_a_failure(modality, monkeypatch):
    """The modality tries again later; what was not kept must not look kept."""
    from storage.errors import StorageBusy

    _, association = modality

    def busy(*_, **__):
        raise StorageBusy("database is locked")

    monkeypatch.setattr("cxr_node.receive.manifests.manifests.add", busy)
    status, _ = association.send_n_create(step(study="1.2.3"), MPPS, generate_uid())
    assert status.Status == 0x0110
    assert association.is_established
