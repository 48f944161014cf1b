"""Whether headers can be of one patient."""

import pytest
from pydicom.dataset import Dataset

from cxr_node.imaging import are_of_one_patient

pytestmark = pytest.mark.requirement("SRS-IMG-201")


def header(**attributes: str) -> Dataset:
    """A header that says this of its patient; a key in snake case is not DICOM's, so keywords it is."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"PatientID": "P1"}, {"PatientID": "P1"}, True),
        ({"PatientID": "P1"}, {"PatientID": " P1 "}, True),
        ({"PatientID": "P1"}, {"PatientID": "P2"}, False),
        ({"PatientID": "p1"}, {"PatientID": "P1"}, False),
        ({"PatientID": "P1", "PatientName": "DOE^JANE"}, {"PatientID": "P1", "PatientName": "ROE^JANE"}, True),
        ({"PatientID": "P1", "IssuerOfPatientID": "A"}, {"PatientID": "P1", "IssuerOfPatientID": "B"}, False),
        ({"PatientID": "P1", "IssuerOfPatientID": "A"}, {"PatientID": "P1"}, True),
        ({"PatientID": "P1", "PatientName": "DOE^JANE"}, {"PatientName": "DOE^JANE^^^"}, True),
        ({"PatientID": "P1", "PatientName": "DOE^JANE"}, {"PatientName": "DOE^JANE^^="}, True),
        ({"PatientID": "P1", "PatientName": "DOE^JANE"}, {"PatientName": "Doe^Jane"}, False),
        ({"PatientID": "P1", "PatientName": "DOE^JANE"}, {}, False),
        ({"PatientName": "DOE^JANE"}, {"PatientName": "JANE^DOE"}, False),
        (
            {"PatientName": "DOE^JANE", "PatientBirthDate": "19600101"},
            {"PatientName": "DOE^JANE", "PatientBirthDate": "19600102"},
            False,
        ),
        ({"PatientName": "DOE^JANE", "PatientBirthDate": "19600101"}, {"PatientName": "DOE^JANE"}, True),
        ({}, {}, True),
    ],
)
def test_two_headers_are_of_one_patient_unless_they_say_otherwise(one, other, expected):
    """A score under another's name harms two people; a study refused for a space harms nobody, and helps nobody."""
    assert are_of_one_patient([header(**one), header(**other)]) is expected
    assert are_of_one_patient([header(**other), header(**one)]) is expected


def test_one_stranger_among_many_is_enough():
    """The third image of a study, from the modality's next patient."""
    assert are_of_one_patient([header(PatientID="P1")] * 3)
    assert not are_of_one_patient([header(PatientID="P1"), header(PatientID="P1"), header(PatientID="P2")])
    assert are_of_one_patient([])
