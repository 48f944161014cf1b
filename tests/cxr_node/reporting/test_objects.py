"""The contract of every kind of result object, over the table of builders."""

from dataclasses import replace
from datetime import timedelta
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from pypdf import PdfReader

from cxr_node.findings import Exclusion
from cxr_node.reporting import BUILDERS, encode, render_text
from cxr_node.reporting.document import SERIES
from cxr_node.settings import DICOM_OBJECTS
from tests.builders import NOON, make_material, make_objects, make_pixels, make_radiograph_dataset

LATERAL = Exclusion("view", "View Position is LL, expected PA or AP", "(0018,5101) View Position", "LL")


@pytest.fixture(scope="module")
def everything():
    """A study in profile research has every kind of object."""
    dataset = make_radiograph_dataset(
        IssuerOfPatientID="HOSPITAL", StudyDescription="Chest PA", PatientName="M\u00fcller^J\u00f6rg"
    )
    dataset.SpecificCharacterSet = "ISO_IR 100"
    return make_material(dataset, profile="research")


@pytest.mark.requirement("SRS-RPT-102")
def test_the_table_holds_every_kind_that_a_site_can_ask_for():
    """A kind in node.toml without a builder would never arrive; feedback is built when a reader speaks."""
    assert set(BUILDERS) | {"feedback"} == set(DICOM_OBJECTS) == set(SERIES)
    assert list(BUILDERS).index("sc") < list(BUILDERS).index("sr"), "the report refers to the card"


@pytest.mark.requirement("SRS-RPT-005")
@pytest.mark.parametrize("kind", BUILDERS)
def test_equal_material_is_equal_bytes(everything, kind):
    """A resend must be the same object, and a build after a crash too."""
    assert encode(make_objects(everything)[kind]) == encode(make_objects(everything)[kind])


@pytest.mark.requirement("SRS-RPT-005")
def test_objects_of_different_kinds_and_revisions_have_uids_of_their_own(everything):
    """A PACS drops a different object with a known UID and answers Success."""
    objects = [*make_objects(everything).values(), *make_objects(replace(everything, revision=2)).values()]
    uids = [str(made.SOPInstanceUID) for made in objects]
    assert len(set(uids)) == len(uids) == 2 * len(BUILDERS)
    assert all(len(uid) <= 64 for uid in uids)


@pytest.mark.requirement("SRS-RPT-102")
@pytest.mark.parametrize("kind", BUILDERS)
def test_an_object_is_filed_with_its_study_in_a_series_of_its_own(everything, kind):
    """Under the same person, never among the images, and readable as what it is before it is opened."""
    made = dcmread(BytesIO(encode(make_objects(everything)[kind])))
    later = make_objects(replace(everything, revision=2, content_time=NOON + timedelta(hours=1)))[kind]
    assert made.SpecificCharacterSet == "ISO_IR 192"
    assert (str(made.PatientName), made.PatientID) == ("M\u00fcller^J\u00f6rg", "P1")
    assert (made.IssuerOfPatientID, made.AccessionNumber) == ("HOSPITAL", "A1")
    assert made.StudyInstanceUID == everything.outcome.study_instance_uid
    assert made.SeriesInstanceUID not in {item.image.series_instance_uid for item in everything.outcome.images}
    assert made.SeriesInstanceUID == later.SeriesInstanceUID
    assert made.SeriesNumber > 9000
    assert "AI triage" in made.SeriesDescription
    assert "preliminary, not reviewed" in made.SeriesDescription
    assert len(made.SeriesDescription) <= 64
    assert (made.Modality, made.InstanceNumber, later.InstanceNumber) == (SERIES[kind].modality, 1, 2)
    assert made.InstanceCreationDate + made.InstanceCreationTime == "20260101120000"
    assert (made.Manufacturer, made.DeviceSerialNumber) == ("cxr-node project", "0001")
    assert made.SoftwareVersions == "0.1.0"


@pytest.mark.requirement("SRS-RPT-102")
def test_series_of_kinds_differ():
    """Each is hidden or shown by itself."""
    assert len({series.number for series in SERIES.values()}) == len(SERIES)


@pytest.mark.requirement("SRS-RPT-102")
def test_times_keep_to_the_offset_that_the_images_state():
    """(0008,0201) in the object holds for all its times, also for those that the node writes."""
    dataset = make_radiograph_dataset(TimezoneOffsetFromUTC="-0530")
    made = make_objects(make_material(dataset))["sr"]
    assert (made.TimezoneOffsetFromUTC, made.ContentDate, made.ContentTime) == ("-0530", "20260101", "063000")


@pytest.mark.requirement("SRS-RPT-102")
def test_the_patient_is_taken_from_the_image_that_names_them_best():
    """A modality that leaves the issuer out must not make a second patient of them."""
    first = make_radiograph_dataset()
    second = make_radiograph_dataset(StudyInstanceUID=first.StudyInstanceUID, IssuerOfPatientID="HOSPITAL")
    for made in make_objects(make_material(first, second)).values():
        assert made.IssuerOfPatientID == "HOSPITAL"


@pytest.mark.requirement("SRS-RPT-007")
@pytest.mark.parametrize("kind", BUILDERS)
def test_no_object_is_made_of_two_patients(kind):
    """One patient's result under the other's name."""
    first = make_radiograph_dataset()
    second = make_radiograph_dataset(StudyInstanceUID=first.StudyInstanceUID, PatientID="P2")
    with pytest.raises(ValueError, match="more than one patient"):
        BUILDERS[kind](make_material(first, second, profile="research"))


@pytest.mark.requirement("SRS-RPT-103")
@pytest.mark.parametrize(
    ("material", "kinds"),
    [
        ({"probability": 0.9}, {"sc", "sr", "kos", "pdf"}),
        ({"probability": 0.9, "profile": "research"}, {"sc", "sr", "gsps", "kos", "pdf"}),
        ({"probability": 0.1}, {"sr", "pdf"}),
        ({"probability": 0.1, "profile": "research"}, {"sr", "pdf"}),
        ({"probability": 0.1, "was_flagged": True, "revision": 2}, {"sc", "sr", "pdf"}),
        ({"exclusions": {0: LATERAL}}, {"sc", "sr", "pdf"}),
    ],
)
def test_a_study_has_the_objects_that_it_gives_cause_for(material, kinds):
    """A card "not flagged" would be read as normal (regulatory/decisions/0006)."""
    assert set(make_objects(make_material(**material))) == kinds


@pytest.mark.requirement("SRS-RPT-103")
def test_no_heat_map_leaves_a_node_in_profile_triage():
    """Not even where one was handed in by mistake: the builders are the last gate."""
    dataset = make_radiograph_dataset()
    given = make_material(dataset, profile="research")
    material, bare = replace(given, profile="triage"), make_material(dataset)
    objects = make_objects(material)
    assert "gsps" not in objects
    assert {kind: encode(made) for kind, made in objects.items()} == {
        kind: encode(made) for kind, made in make_objects(bare).items()
    }
    assert "region" not in render_text(objects["sr"])
    shown = render_text(make_objects(given)["sr"])
    assert "points (POLYLINE, column and row)" in shown
    assert "Visual explanation: image " in shown


@pytest.mark.requirement("SRS-RPT-103")
@pytest.mark.parametrize("profile", ["triage", "research"])
@pytest.mark.parametrize("probability", [0.1, 0.876])
def test_what_is_read_in_passing_holds_no_probability_and_no_absence(profile, probability):
    """CADt: it speaks of the case, and never says that disease is absent."""
    made = make_objects(make_material(probability=probability, profile=profile))["pdf"]
    text = PdfReader(BytesIO(made.EncapsulatedDocument)).pages[0].extract_text()
    for word in ("87.6", "10.0", "%", "negative", "Normal", "Absent", "lung", "left", "right"):
        assert word not in text
    assert "Not reviewed by a physician" in text
    assert "Research prototype, not cleared for clinical use" in text
    assert "may still be abnormal" in text


@pytest.mark.requirement("SRS-RPT-103")
def test_the_card_of_profile_triage_shows_nothing_of_the_radiograph():
    """It is text: the same whatever the pixels are."""
    first = make_radiograph_dataset(make_pixels())
    second = make_radiograph_dataset(
        np.full((256, 256), 4095, np.uint16),
        **{name: first[name].value for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")},
    )
    cards = [make_objects(make_material(dataset))["sc"] for dataset in (first, second)]
    assert encode(cards[0]) == encode(cards[1])
