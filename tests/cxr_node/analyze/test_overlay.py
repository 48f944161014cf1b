"""Heat maps that a reader asked for: made beside the studies, by the model that gave the score."""

import cv2
import numpy as np
import pytest

from cxr_node.analyze.analyzer import Analyzer
from cxr_node.analyze.overlay import LONGEST_SIDE, Overlays
from cxr_node.inference import ModelPackage
from cxr_node.settings import Settings
from storage import InstanceFiles, heat_maps, instances, jobs
from storage.heat_maps import HeatMap
from tests.builders import make_pixels, make_radiograph_dataset, to_part_10
from tests.cxr_node.analyze.conftest import NOON
from tests.cxr_node.inference.conftest import make_manifest
from tests.databases import migrated

pytestmark = pytest.mark.requirement("SRS-STU-007")

DIGEST = "d" * 64


class Brightness:
    """An engine that scores how bright the right half is."""

    device = "CPU"

    def __init__(self, package, *, cache_dir=None) -> None:
        pass

    def scores(self, batch: np.ndarray) -> np.ndarray:
        return batch[:, :, batch.shape[2] // 2 :].mean(axis=(1, 2))


@pytest.fixture
def database(tmp_path):
    opened = migrated(f"sqlite:///{tmp_path / 'node.db'}")
    yield opened
    opened.dispose()


@pytest.fixture
def files(tmp_path):
    return InstanceFiles(tmp_path / "data")


@pytest.fixture
def ask(database, files):
    """Keep an image, ask for its map, and return the job."""

    def asked(pixels: np.ndarray | None = None, *, digest: str = DIGEST, data: bytes = b""):
        temporary = files.new_temporary()
        temporary.write_bytes(data or to_part_10(make_radiograph_dataset(pixels)))
        with database.begin() as connection:
            kept = instances.add(
                connection,
                sop_instance_uid="1.2.1",
                series_instance_uid="1.2.0",
                study_instance_uid="1.2",
                sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                variant=0,
                size=1,
                location=files.keep(temporary, "1.2.1", 0),
                calling_ae_title="CR",
                called_ae_title="NODE",
                peer_address="10.0.0.7",
                association_id="",
                received_at=NOON,
            )
            heat_maps.ask(connection, kept.id, model_digest=digest, finding="pneumonia", now=NOON)
            (job,) = jobs.claim(connection, [heat_maps.HEAT_MAP], owner="test", now=NOON)
        return job

    return asked


@pytest.fixture
def make(tmp_path, database, files):
    """Do a job and return the map's row as it is left."""
    analyzer = Analyzer([ModelPackage(make_manifest(), tmp_path, DIGEST)], profile="research", engine=Brightness)

    def made(job, profile: str = "research") -> HeatMap:
        settings = Settings.model_validate({"base_dir": str(tmp_path), "node": {"profile": profile}})
        outcome = Overlays(settings, database, files, lambda: analyzer).handle(job)
        assert not isinstance(outcome, Exception)
        with database.begin() as connection:
            outcome(connection)
            found = heat_maps.get(connection, int(job.key))
        assert found is not None
        return found

    return made


def test_a_map_is_a_small_picture_over_the_whole_image(ask, make, files):
    """White where covering the image lowers the score: here the bright half."""
    pixels = np.full((600, 300), 200, np.uint16)
    pixels[:, 150:] = 3500
    found = make(ask(pixels))
    assert (found.state, found.reason) == (heat_maps.MADE, "")
    picture = cv2.imdecode(np.frombuffer(files.read(found.location), np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (LONGEST_SIDE, LONGEST_SIDE // 2)
    assert picture.dtype == np.uint8
    assert picture[:, 90:].mean() > 3 * picture[:, :40].mean()


def test_an_image_with_nothing_to_show_says_so(ask, make):
    """The score of a black image falls nowhere."""
    found = make(ask(np.zeros((300, 300), np.uint16)))
    assert (found.state, found.location) == (heat_maps.MADE, "")


@pytest.mark.parametrize(
    ("asked", "profile", "reason"),
    [
        ({"digest": "e" * 64}, "research", "runs no longer"),
        ({"data": to_part_10(make_radiograph_dataset(make_pixels(64, 64)))[:-999]}, "research", "Pixel Data"),
        ({}, "triage", "triage has no heat maps"),
    ],
)
def test_a_map_that_cannot_be_made_is_told_with_the_reason(ask, make, asked, profile, reason):
    """No second try would do better."""
    found = make(ask(**asked), profile)
    assert found.state == heat_maps.FAILED
    assert reason in found.reason


def test_a_job_whose_image_is_gone_or_whose_map_is_made_ends(ask, make, database):
    """Retention and a second worker may both have been faster."""
    job = ask()
    with database.begin() as connection:
        wanted = heat_maps.get(connection, int(job.key))
        assert wanted is not None
        instances.mark_deleted(connection, [wanted.instance_id], now=NOON)
    assert make(job).reason == "the image is no longer kept"
    with database.begin() as connection:
        heat_maps.settle(connection, int(job.key), location="objects/00/x.dcm")
    assert make(job).location == "objects/00/x.dcm"


def test_a_job_that_is_given_up_marks_its_map(ask, database):
    """Else a reader would wait for ever."""
    job = ask()
    with database.begin() as connection:
        Overlays.on_failed(connection, job, "two workers died on it")
        found = heat_maps.get(connection, int(job.key))
    assert found is not None
    assert (found.state, found.reason) == (heat_maps.FAILED, "two workers died on it")
