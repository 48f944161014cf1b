"""What leaves for research names nobody: PS3.15 Annex E, and no byte of what was planted."""

from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import JPEG2000Lossless

from cxr_node.errors import UnreadablePixels
from cxr_node.imaging.decode import stored_values
from cxr_node.imaging.deidentify import Pseudonyms, action_for, deidentify, doubt_about_pixels
from tests.builders import make_radiograph_dataset, to_part_10

pytestmark = pytest.mark.requirement("SRS-CLI-321")

NAME = "PLANTED"
KEY = Pseudonyms(b"k" * 32)

# A place for a name in every VR that has room for one.
TEXT = {
    "PatientName": "PN",
    "OtherPatientNames": "PN",
    "ReferringPhysicianName": "PN",
    "OperatorsName": "PN",
    "PatientID": "LO",
    "InstitutionName": "LO",
    "StudyDescription": "LO",
    "SeriesDescription": "LO",
    "StationName": "SH",
    "AccessionNumber": "SH",
    "InstitutionAddress": "ST",
    "PatientAddress": "LO",
    "PatientComments": "LT",
    "ImageComments": "LT",
    "AdditionalPatientHistory": "LT",
    "TextComments": "LT",
    "TextValue": "UT",
    "LongCodeValue": "UC",
    "URNCodeValue": "UR",
    "RetrieveURL": "UR",
    "RetrieveAETitle": "AE",
    "ScheduledStationAETitle": "AE",
    "BodyPartExamined": "CS",
    "ViewPosition": "CS",
    "PatientBirthDate": "DA",
    "StudyTime": "TM",
    "AcquisitionDateTime": "DT",
    "PatientAge": "AS",
    "DistanceSourceToDetector": "DS",
    "InstanceNumber": "IS",
    "StudyInstanceUID": "UI",
    "FrameOfReferenceUID": "UI",
    "AcquisitionProtocolDescription": "LO",
    "WindowCenterWidthExplanation": "LO",
}


def names_in(data: bytes) -> list[bytes]:
    """Return what was planted, in each encoding that could hide it."""
    found = [NAME.encode(), NAME.encode("utf-16-le"), NAME.lower().encode()]
    return [text for text in found if text in data]


def plant(dataset: Dataset, depth: int = 0) -> Dataset:
    """Put the name everywhere, two sequences deep."""
    for keyword, vr in TEXT.items():
        text = f"{NAME}^JANE" if vr == "PN" else NAME
        # As raw bytes would bring it: no check of the value.
        dataset[keyword] = DataElement(Tag(keyword), vr, text, validation_mode=0) if vr not in ("DS", "IS") else (
            DataElement(Tag(keyword), "LO", text)
        )  # fmt: skip
    private = dataset.private_block(0x0011, f"{NAME} CREATOR", create=True)
    private.add_new(0x01, "LO", NAME)
    private.add_new(0x02, "UN", NAME.encode() + b" ")
    item = Dataset()
    item.PatientName = f"{NAME}^NESTED"
    private.add_new(0x03, "SQ", [item])
    dataset.add_new(0x00091234, "LO", NAME)
    dataset.add_new(0x00189999, "UN", NAME.encode() + b" ")
    dataset.add_new(0x60003000, "OW", (NAME * 2).encode())
    dataset.add_new(0x60004000, "LT", NAME)
    dataset.add_new(0x50003000, "OW", (NAME * 2).encode())
    dataset.add_new(0xFFFCFFFC, "OB", NAME.encode() + b" ")
    dataset.add_new(0x00420011, "OB", NAME.encode() + b" ")
    if depth < 2:
        for keyword in ("RequestAttributesSequence", "ReferencedImageSequence", "AnatomicRegionSequence",
                        "OriginalAttributesSequence", "IconImageSequence", "ViewCodeSequence"):  # fmt: skip
            inner = plant(Dataset(), depth + 1)
            inner.CodeValue, inner.CodingSchemeDesignator, inner.CodeMeaning = NAME + " X", NAME + "?", NAME
            setattr(dataset, keyword, Sequence([inner]))
    return dataset


def exported(dataset: Dataset, **options: bool) -> bytes:
    target = BytesIO()
    deidentify(dataset, KEY, **options).save_as(target, enforce_file_format=True)
    return target.getvalue()


@pytest.mark.parametrize("shift_dates", [False, True])
def test_no_planted_name_is_found_in_the_bytes(shift_dates):
    """In every VR, in private attributes, in sequences, in overlays, before the dataset and after the pixels."""
    dataset = plant(make_radiograph_dataset(kind="DX"))
    dataset.preamble = (NAME * 20).encode()[:128]
    dataset.file_meta.SourceApplicationEntityTitle = NAME
    dataset.file_meta.PrivateInformationCreatorUID = "1.2.3"
    dataset.file_meta.PrivateInformation = NAME.encode() + b" "
    dataset.PixelData += NAME.encode() + b" "
    target = BytesIO()
    dataset.save_as(target, enforce_file_format=False)
    received = target.getvalue()
    assert received.count(NAME.encode()) > 1000, "it was planted"
    assert names_in(exported(dcmread(BytesIO(received)), shift_dates=shift_dates)) == []


def test_a_comment_inside_a_compressed_image_does_not_leave():
    """JPEG 2000 has a marker for it, and every viewer of bytes shows it."""
    dataset = make_radiograph_dataset(kind="DX")
    dataset.compress(JPEG2000Lossless)
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    # After the SIZ marker segment, which stands second. Source: ITU-T T.800 A.9.2.
    after = 4 + int.from_bytes(frame[4:6], "big")
    comment = b"\xff\x64" + (4 + len(NAME)).to_bytes(2, "big") + b"\x00\x01" + NAME.encode()
    dataset.PixelData = encapsulate([frame[:after] + comment + frame[after:]])
    data = to_part_10(dataset)
    assert names_in(data)
    received = dcmread(BytesIO(data))
    assert names_in(exported(received)) == []
    assert np.array_equal(stored_values(dcmread(BytesIO(exported(received)))), stored_values(received))


@pytest.mark.parametrize("kind", ["CR", "DX"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_the_pixels_are_those_that_came(kind, bits):
    """Research on other pixels would be of another image."""
    dataset = make_radiograph_dataset(kind=kind, bits_stored=bits)
    made = dcmread(BytesIO(exported(dataset)))
    assert np.array_equal(stored_values(made), stored_values(dataset))
    assert (made.Rows, made.Columns, made.PhotometricInterpretation) == (
        dataset.Rows,
        dataset.Columns,
        dataset.PhotometricInterpretation,
    )


def test_what_lies_in_unused_bits_and_after_the_pixels_is_gone():
    """Old equipment keeps an overlay with the name there."""
    dataset = make_radiograph_dataset(kind="DX", bits_stored=12)
    values = stored_values(dataset).astype(np.uint16)
    dataset.PixelData = (values | 0x8000).tobytes() + b"tail"
    made = dcmread(BytesIO(exported(dataset)))
    assert np.array_equal(np.frombuffer(made.PixelData, "<u2").reshape(values.shape), values)


def test_pixels_that_do_not_decode_are_no_reason_to_send_them_on():
    """What cannot be decoded cannot be cleaned."""
    dataset = make_radiograph_dataset(kind="DX")
    dataset.PixelData = dataset.PixelData[:100]
    with pytest.raises(UnreadablePixels):
        deidentify(dataset, KEY)


def test_pseudonyms_and_uids_are_the_same_each_time_and_of_one_key_only():
    """Studies of one patient belong together, also in an export of next year; another site cannot tell who it is."""
    first = make_radiograph_dataset(kind="DX", PatientID="4711", PatientName="Doe^Jane")
    second = make_radiograph_dataset(kind="CR", PatientID="4711", PatientName="DOE^JANE^^^")
    other = make_radiograph_dataset(kind="CR", PatientID="4712", PatientName="Doe^Jane")
    second.StudyInstanceUID = first.StudyInstanceUID
    one, two, three = (deidentify(item, KEY) for item in (first, second, other))
    assert one.PatientID == two.PatientID != three.PatientID
    assert one.StudyInstanceUID == two.StudyInstanceUID != first.StudyInstanceUID
    assert one.SOPInstanceUID == deidentify(first, KEY).SOPInstanceUID != two.SOPInstanceUID
    assert one.SOPInstanceUID == one.file_meta.MediaStorageSOPInstanceUID
    assert deidentify(first, Pseudonyms(b"x" * 32)).PatientID != one.PatientID
    assert one.SOPClassUID == first.SOPClassUID
    assert len(one.StudyInstanceUID) <= 64


def test_shifted_dates_keep_the_days_between_studies_and_differ_from_patient_to_patient():
    """The course of an illness stays, the day of the accident does not."""
    early = make_radiograph_dataset(PatientID="4711", StudyDate="20240228", AcquisitionDateTime="20240228101112")
    late = make_radiograph_dataset(PatientID="4711", StudyDate="20240301")
    other = make_radiograph_dataset(PatientID="4712", StudyDate="20240228")
    moved = [deidentify(item, KEY, shift_dates=True) for item in (early, late, other)]
    days = [np.datetime64(f"{item.StudyDate[:4]}-{item.StudyDate[4:6]}-{item.StudyDate[6:]}") for item in moved]
    assert days[1] - days[0] == np.timedelta64(2, "D")
    assert days[0] not in (np.datetime64("2024-02-28"), days[2])
    assert moved[0].AcquisitionDateTime == moved[0].StudyDate
    assert moved[0].LongitudinalTemporalInformationModified == "MODIFIED"
    assert [item.CodeValue for item in moved[0].DeidentificationMethodCodeSequence] == ["113100", "113107"]
    assert not moved[0].get("PatientBirthDate")
    assert not deidentify(early, KEY).get("StudyDate")


def test_the_dataset_says_what_was_done_to_it():
    """PS3.15 E.1.1: identity removed, by which profile, dates removed."""
    made = deidentify(make_radiograph_dataset(), KEY)
    assert made.PatientIdentityRemoved == "YES"
    assert [item.CodeValue for item in made.DeidentificationMethodCodeSequence] == ["113100"]
    assert made.LongitudinalTemporalInformationModified == "REMOVED"


@pytest.mark.parametrize(
    ("tag", "action"),
    [
        ("PatientName", "Z"),
        ("StudyDescription", "X"),
        ("SOPInstanceUID", "U"),
        ("ContentDate", "Z/D"),
        ("ReferencedImageSequence", "X/Z/U*"),
        ("Manufacturer", ""),
        (0x60023000, "X"),
        (0x50120010, "X"),
    ],
)
def test_the_actions_are_those_of_the_table(tag, action):
    """A look at the standard's table itself, repeating groups too."""
    assert action_for(Tag(tag)) == action


@pytest.mark.parametrize(
    ("attributes", "doubt"),
    [
        ({"kind": "DX", "BurnedInAnnotation": "NO"}, False),
        ({"kind": "DX", "BurnedInAnnotation": "YES"}, True),
        ({"kind": "SC", "BurnedInAnnotation": "NO"}, True),
        ({"kind": "CR", "BurnedInAnnotation": None, "ImageType": ["ORIGINAL", "PRIMARY"]}, False),
        ({"kind": "CR", "BurnedInAnnotation": None, "ImageType": ["DERIVED", "SECONDARY"]}, True),
        ({"kind": "CR", "BurnedInAnnotation": None, "ImageType": None}, True),
    ],
)
def test_an_image_that_may_show_text_is_doubted(attributes, doubt):
    """The header's word is taken, and its silence is not consent."""
    dataset = make_radiograph_dataset(**attributes)
    assert bool(doubt_about_pixels(dataset)) == doubt
