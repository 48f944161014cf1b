"""What is written here is what the library writes, byte for byte."""

import numpy as np
import pytest
from pydicom.dataset import Dataset

from cxr_node.findings import Exclusion
from cxr_node.reporting.encode import encode, encode_by_library
from tests.builders import make_material, make_objects, make_radiograph_dataset

pytestmark = pytest.mark.requirement("SRS-ANA-307")


def _request() -> Dataset:
    item = Dataset()
    item.AccessionNumber, item.RequestedProcedureID = "A1", "R1"
    item.RequestedProcedureDescription = "Thorax p.a., Übersicht"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "TH", "99X", "Thorax"
    item.RequestedProcedureCodeSequence = [code]
    return item


def _voi_lut() -> Dataset:
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [4, 0, 12], np.array([0, 9, 99, 4095], "<u2").tobytes()
    item["LUTData"].VR = "OW"
    return item


CASES = {
    "plain": {},
    "three scripts": {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう"},
    "with a request": {"SpecificCharacterSet": "ISO_IR 192", "RequestAttributesSequence": [_request()]},
    "with a VOI LUT": {"VOILUTSequence": [_voi_lut()]},
    "empty": {"PatientName": "", "PatientID": "", "AccessionNumber": "", "StudyDescription": ""},
}


@pytest.mark.parametrize("profile", ["triage", "research"])
@pytest.mark.parametrize("case", CASES)
def test_every_object_is_written_as_the_library_writes_it(case, profile):
    """The library's bytes are those that validators and displays were tried with."""
    material = make_material(make_radiograph_dataset(**CASES[case]), profile=profile)
    made = make_objects(material)
    assert {"sr", "sc", "kos", "pdf"} <= made.keys()
    assert ("gsps" in made) == (profile == "research")
    for kind, dataset in made.items():
        assert encode(dataset) == encode_by_library(dataset), kind


def test_an_excluded_image_and_an_odd_text_likewise():
    """Padding is where a writer of its own goes wrong first."""
    for message in ("odd", "even", "ö", "öö", "x" * 70_001):
        material = make_material(make_radiograph_dataset(), exclusions={0: Exclusion("view", message)})
        dataset = make_objects(material)["sr"]
        assert encode(dataset) == encode_by_library(dataset), message[:9]


def test_what_was_read_from_a_file_is_left_to_the_library():
    """Lengths, raw values and character sets of a sender are not this module's."""
    inner = Dataset()
    inner.SpecificCharacterSet, inner.CodeMeaning = "ISO_IR 100", "Übersicht"
    undefined = Dataset()
    undefined.CodeMeaning, undefined.is_undefined_length_sequence_item = "x", True
    dataset = make_objects(make_material())["sr"]
    dataset.OtherPatientIDsSequence = [inner]
    dataset.ReferencedImageSequence = [undefined]
    dataset["ReferencedImageSequence"].is_undefined_length = True
    dataset.OtherPatientIDs = ["1", "2"]
    dataset.PatientWeight = "70.5"
    dataset.add_new(0x00090010, "LO", "PRIVATE")
    dataset.add_new(0x00091001, "UN", b"12")
    assert encode(dataset) == encode_by_library(dataset)
