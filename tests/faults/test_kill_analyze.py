"""kill -9 of the analysis at each durable step: one result of a study, its objects whole, each delivery once."""

from io import BytesIO

import pytest
from pydicom import dcmread

from storage import results
from tests.faults.conftest import Box, small_radiograph
from tests.faults.points import POINTS

pytestmark = [pytest.mark.requirement("SRS-FLT-002"), pytest.mark.timeout(120)]

KILLED_AT = (
    "work.claimed",
    "analyze.claimed",
    "analyze.predicted",
    "storage.synced",
    "storage.renamed",
    "analyze.objects-written",
    "analyze.before-commit",
    "work.settled",
)
FOLDERS = [
    {"name": "pacs", "kind": "folder", "path": "out", "objects": ["sr"]},
    {"name": "second", "kind": "folder", "path": "out2", "objects": ["sr", "pdf"]},
]


def check_one_result(box: Box, study_instance_uid: str) -> None:
    """Revision 1 and no other; of each kind one object, whole; of each object one delivery to each destination."""
    (result,) = box.results_of(study_instance_uid)
    assert (result.revision, result.status) == (1, "analysed")
    objects = box.objects_of(study_instance_uid)
    assert sorted(item.kind for item in objects) == ["pdf", "priority", "sr"]
    for item in objects:
        data = box.files.read(item.location)
        assert data
        if item.sop_class_uid:
            assert dcmread(BytesIO(data)).SOPInstanceUID == item.sop_instance_uid
    planned = sorted((item.kind, item.destination) for item in box.deliveries_of(study_instance_uid))
    assert planned == [("pdf", "second"), ("sr", "pacs"), ("sr", "second")]
    with box.database.read() as connection:
        (current,) = results.current_of(connection, [study_instance_uid]).values()
    assert current.id == result.id


@pytest.mark.parametrize("point", KILLED_AT)
def test_a_study_has_one_result_however_its_analysis_was_killed(box, point):
    """Two results would contradict one another, and none would look like normal."""
    box.configure(destination=FOLDERS)
    dataset = small_radiograph()
    box.keep(dataset)
    box.start("analyze", f"{point}:kill")
    box.wait_for_kill(point)
    job = box.wait_until_settled("analyze", dataset.StudyInstanceUID)
    assert job.state == "COMPLETED"
    check_one_result(box, dataset.StudyInstanceUID)
    assert set(box.open_jobs()) == {("deliver", "SCHEDULED")}


def test_every_point_of_the_stage_is_killed_here():
    """A new point needs its test."""
    assert set(KILLED_AT) >= {point.name for point in POINTS if point.stage == "analyze"}
