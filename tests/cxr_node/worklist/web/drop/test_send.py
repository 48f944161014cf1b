"""A tried file on its way to the worklist: by a person with a name, through the intake, told of on the page."""

import pytest

from cxr_node.receive.intake import Intake
from cxr_node.receive.watch import CALLING_DROP, WatchedFolder
from storage import Doorbell, InstanceFiles, audit, instances, studies
from tests.builders import make_radiograph_dataset, to_part_10
from tests.cxr_node.worklist.web.drop.conftest import PNG

pytestmark = pytest.mark.requirement("SRS-DRP-008")


@pytest.fixture
def inbox(settings, database):
    """What the stage of receiving does with the folder, one look at a time."""
    folder = settings.data_dir / "inbox"
    folder.mkdir()
    files = InstanceFiles(settings.instances_dir)
    intake = Intake(database, files, Doorbell(settings.data_dir / "run"), quiet_period_s=60.0, min_free_bytes=1.0)
    return WatchedFolder(
        folder,
        intake,
        files,
        called_ae_title="CXR_NODE",
        settle_s=0.0,
        keep=False,
        calling_ae_title=CALLING_DROP,
    )


def send(tried, file_id: int):
    return tried.client.post(f"/api/drops/{tried.key}/files/{file_id}/send")


def test_an_image_that_is_sent_is_received_like_any_other(tried, inbox, database):
    """The bytes are those that were dropped, and who did it is written down."""
    dataset = make_radiograph_dataset()
    (file,) = tried.add(to_part_10(dataset))
    uids = {"study_instance_uid": dataset.StudyInstanceUID, "sop_instance_uid": dataset.SOPInstanceUID}
    tried.settle(file["id"], "flagged", **uids)
    answer = send(tried, file["id"])
    assert (answer.status_code, answer.json()["sent"]) == (200, "on its way")
    assert inbox.look() == 1
    assert tried.read()["files"][0]["sent"] == "taken"
    with database.read() as connection:
        (received,) = instances.of_study(connection, dataset.StudyInstanceUID)
        study = studies.get(connection, dataset.StudyInstanceUID)
        events = [event for event in audit.events(connection) if event.event == "image_sent_to_worklist"]
    assert received.calling_ae_title == study.calling_ae_title == CALLING_DROP
    assert [(event.actor, event.study_instance_uid) for event in events] == [("dr.lee", dataset.StudyInstanceUID)]
    assert send(tried, file["id"]).status_code == 409


def test_why_the_intake_refuses_is_told(tried, inbox):
    """And it can be sent again once the reason is gone."""
    (file,) = tried.add(to_part_10(make_radiograph_dataset(SOPInstanceUID="not a uid")))
    tried.settle(file["id"])
    send(tried, file["id"])
    assert inbox.look() == 1
    (told,) = tried.read()["files"]
    assert told["sent"] == "refused"
    assert told["sent_reason"]
    assert send(tried, file["id"]).json()["sent"] == "on its way"


def test_a_picture_is_not_sent(tried, settings):
    """It belongs to nobody."""
    (file,) = tried.add(PNG)
    tried.settle(file["id"], kind="PNG")
    assert send(tried, file["id"]).status_code == 409
    assert not (settings.data_dir / "inbox").exists()


def test_a_file_that_was_not_looked_at_is_not_sent(tried):
    """Whatever it is."""
    (file,) = tried.add(to_part_10(make_radiograph_dataset()))
    assert send(tried, file["id"]).status_code == 409


def test_where_nobody_signs_in_nothing_is_sent(client, open_drop):
    """The trail needs a name; the page does not offer it either."""
    tried = open_drop(client)
    (file,) = tried.add(to_part_10(make_radiograph_dataset()))
    tried.settle(file["id"])
    answer = send(tried, file["id"])
    assert (answer.status_code, "sign in first" in answer.text) == (403, True)
    assert "Send to the worklist" not in client.get(f"/drop/results?key={tried.key}").text


def test_the_page_sends_and_shows_what_comes_of_it(tried):
    """One click, asked twice."""
    (file,) = tried.add(to_part_10(make_radiograph_dataset()))
    tried.settle(file["id"])
    page = tried.client.get(f"/drop/results?key={tried.key}").text
    assert "Send to the worklist" in page
    assert "hx-confirm" in page
    answer = tried.client.post(f"/drop/files/{file['id']}/send?key={tried.key}")
    assert "on its way" in answer.text
