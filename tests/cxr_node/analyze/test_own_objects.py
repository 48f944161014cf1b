"""What the node made of a study and a PACS sends back to it."""

from datetime import UTC, datetime
from io import BytesIO

import pytest
from pydicom import dcmread

from cxr_node.analyze.study import load_study
from cxr_node.imaging import is_image
from cxr_node.reporting import encode
from storage import InstanceFiles, instances, jobs, results, studies
from tests.builders import make_material, make_objects, make_radiograph_dataset, to_part_10
from tests.databases import migrated

pytestmark = pytest.mark.requirement("SRS-RPT-102")

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def database(tmp_path):
    database = migrated(f"sqlite:///{tmp_path / 'node.db'}")
    yield database
    database.dispose()


def test_a_card_that_comes_back_is_no_image_of_the_study(database, tmp_path):
    """It would be a late image: a new revision that excludes it, a new card, and so on for ever."""
    files = InstanceFiles(tmp_path / "files")
    radiograph = make_radiograph_dataset()
    uid = str(radiograph.StudyInstanceUID)
    card = make_objects(make_material(radiograph))["sc"]
    came_back = dcmread(BytesIO(encode(card)))
    other = make_radiograph_dataset(kind="SC", StudyInstanceUID=uid)
    assert is_image(str(came_back.SOPClassUID))
    with database.begin() as connection:
        context = studies.PatientContext(patient_id="P1", ordered_priority="ROUTINE")
        studies.touch(connection, uid, context, ordered_rank=1, calling_ae_title="PACS", now=NOON)
        result = results.add(connection, uid, status="analysed", flagged=True, ai_priority="HIGH", outcome={}, now=NOON)
        results.add_object(
            connection,
            result.id,
            kind="sc",
            sop_class_uid=str(card.SOPClassUID),
            sop_instance_uid=str(card.SOPInstanceUID),
            location=files.write_object(str(card.SOPInstanceUID), encode(card)),
            now=NOON,
        )
        for dataset in (radiograph, came_back, other):
            instances.add(
                connection,
                sop_instance_uid=str(dataset.SOPInstanceUID),
                series_instance_uid=str(dataset.SeriesInstanceUID),
                study_instance_uid=uid,
                sop_class_uid=str(dataset.SOPClassUID),
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                variant=0,
                size=1,
                location=files.write_object(f"{dataset.SOPInstanceUID}.1", to_part_10(dataset)),
                calling_ae_title="PACS",
                called_ae_title="CXR_NODE",
                peer_address="127.0.0.1",
                association_id="a",
                received_at=NOON,
            )
        jobs.schedule(connection, "analyze", uid, run_at=NOON, now=NOON)
        (job,) = jobs.claim(connection, ["analyze"], owner="t:1:", now=NOON)
    opened = load_study(database, files, job)
    assert opened is not None
    assert {item.sop_instance_uid for item in opened.images} == {radiograph.SOPInstanceUID, other.SOPInstanceUID}
    with database.read() as connection:
        assert results.object_uids(connection, uid) == {str(card.SOPInstanceUID)}
        assert results.object_uids(connection, "1.2.3") == frozenset()
