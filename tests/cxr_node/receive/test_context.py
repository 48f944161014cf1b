"""What is read of a header is what the rows need: the rest is left unread, and nothing that is needed is."""

import pytest
from pydicom.dataset import Dataset

from cxr_node.errors import UnreadableDataset
from cxr_node.imaging import read_header
from cxr_node.receive.context import names_priority, patient_context
from cxr_node.receive.intake import _header
from tests.builders import make_radiograph_dataset, to_part_10

PATIENT = {
    "PatientName": "Müller^Änne",
    "PatientID": "P1",
    "IssuerOfPatientID": "SITE",
    "PatientBirthDate": "19700102",
    "PatientSex": "F",
    "PatientAge": "055Y",
    "AccessionNumber": "A1",
    "StudyID": "7",
    "StudyDate": "20260101",
    "StudyTime": "120000",
    "StudyDescription": "Thorax",
    "ReferringPhysicianName": "Größe^Ö",
    "Modality": "DX",
    "BodyPartExamined": "CHEST",
    "ViewPosition": "PA",
    "WindowCenter": ["1", "2"],
}


@pytest.mark.requirement("SRS-RCV-904")
def test_the_worklist_shows_what_it_would_of_a_header_that_was_read_whole(tmp_path):
    """An attribute that is missing among those that are read would be missing on every list, and nowhere else."""
    dataset = make_radiograph_dataset(SpecificCharacterSet="ISO_IR 100", **PATIENT)
    item = Dataset()
    item.RequestedProcedurePriority = "STAT"
    dataset.RequestAttributesSequence = [item]
    path = tmp_path / "whole.dcm"
    path.write_bytes(to_part_10(dataset))
    whole, read = read_header(path), _header(path)
    assert patient_context(read) == patient_context(whole)
    assert all(vars(patient_context(read)).values())
    assert names_priority(read)
    assert "WindowCenter" in whole
    assert "WindowCenter" not in read


@pytest.mark.requirement("SRS-RCV-904")
def test_nonsense_is_told_from_a_dataset_that_lacks_what_is_needed(tmp_path):
    """The one is answered "cannot understand", the other with the name of the UID that is absent."""
    path = tmp_path / "file.dcm"
    dataset = make_radiograph_dataset(WindowCenter="1")
    for keyword in [element.keyword for element in dataset if element.keyword != "WindowCenter"]:
        delattr(dataset, keyword)
    meta = dataset.file_meta
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2", "1.2.3"
    path.write_bytes(to_part_10(dataset))
    assert "WindowCenter" in _header(path)
    path.write_bytes(b"x" * 200)
    with pytest.raises(UnreadableDataset):
        _header(path)
