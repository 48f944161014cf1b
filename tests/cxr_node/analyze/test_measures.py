"""What monitoring keeps of an image comes with its result, and from the pixels that were looked at."""

from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset

from cxr_node.analyze.prepare import measured
from cxr_node.findings import Exclusion
from cxr_node.findings.monitoring.reference import Measures
from cxr_node.imaging import Radiograph, implausible, look_at
from storage import instances, monitoring
from storage.monitoring_tables import image_measures

pytestmark = pytest.mark.requirement("SRS-MON-006")

SEEN = Measures(63.0, "F", "PA", "DX", 0.41, 0.22, 0.98)


def kept(line):
    """Rows by SOP Instance UID."""
    found = {}
    with line.database.read() as connection:
        for row in connection.execute(image_measures.select()):
            found[row.instance_id] = row
        return {
            item.sop_instance_uid: found[item.id] for item in instances.of_study(connection, "1.2") if item.id in found
        }


@pytest.fixture
def looked(line, monkeypatch):
    """The line, with measures on every image as the look at its pixels would leave them."""
    plain = type(line)._analyzed

    def analyzed(self, image):
        made = plain(self, image)
        return replace(made, prepared=replace(made.prepared, measures=SEEN))

    monkeypatch.setattr(type(line), "_analyzed", analyzed)
    return line


def test_measures_are_kept_with_the_result_also_of_an_image_that_is_excluded(looked):
    """The images that are excluded are those that monitoring is about."""
    looked.arrive(1, 0.7)
    looked.arrive(2, None)
    looked.analyse()
    rows = kept(looked)
    assert rows["1.2.1"].exclusion == ""
    assert rows["1.2.2"].exclusion == "lateral"
    assert (rows["1.2.1"].age_years, rows["1.2.1"].sex, rows["1.2.1"].upright) == (63.0, "F", 0.98)


def test_a_late_image_adds_its_own_and_changes_none(looked):
    """An image is one case, however often its study is looked at."""
    looked.arrive(1, 0.7)
    looked.analyse()
    before = kept(looked)["1.2.1"]
    looked.pass_time(60)
    looked.arrive(2, 0.2)
    looked.analyse()
    rows = kept(looked)
    assert rows["1.2.1"] == before
    assert rows["1.2.2"].created_at > before.created_at


def test_nothing_is_kept_of_images_of_two_patients(looked):
    """Age and sex would be of one, the picture of the other."""
    looked.arrive(1, 0.7, patient="P1")
    looked.arrive(2, 0.7, patient="P2")
    looked.analyse()
    assert kept(looked) == {}


def test_an_image_whose_pixels_nobody_looked_at_leaves_none(line):
    """A study of ten thousand slices must not leave ten thousand rows."""
    line.arrive(1, None)
    line.analyse()
    with line.database.read() as connection:
        assert connection.execute(image_measures.select()).all() == []
        since, until = line.now.replace(year=2020), line.now.replace(year=2030)
        assert monitoring.refused(connection, since=since, until=until, limit=9) == []


def test_header_and_pixels_give_the_measures():
    """Age by the rules of the gate, view likewise; gray values of the radiograph."""
    header = Dataset()
    header.PatientAge, header.PatientSex, header.ViewPosition, header.Modality = "063Y", "F", "pa", "DX"
    picture = np.linspace(0.2, 0.8, 64 * 64, dtype=np.float32).reshape(64, 64)
    seen = look_at(Radiograph(picture))
    found = measured(header, seen, "triage")
    assert (found.age_years, found.sex, found.view, found.modality) == (63.0, "F", "PA", "DX")
    assert found.mean_gray == pytest.approx(0.5, abs=1e-3)
    assert found.contrast == pytest.approx(picture.std(), abs=1e-6)
    assert found.upright == seen.upright
    assert measured(Dataset(), seen, "triage").age_years is None


def test_the_look_excludes_what_it_did_before_it_was_measured():
    """One decision, asked for in two ways; a blank picture is not looked at by the network."""
    blank = Radiograph(np.full((64, 64), 0.5, np.float32))
    noise = Radiograph(np.random.default_rng(1).random((64, 64)).astype(np.float32))
    assert look_at(blank).exclusion == implausible(blank)
    assert look_at(blank).exclusion.reason == "blank"
    assert look_at(blank).upright is None
    assert look_at(noise).exclusion == implausible(noise)
    assert isinstance(look_at(noise).exclusion, Exclusion)
