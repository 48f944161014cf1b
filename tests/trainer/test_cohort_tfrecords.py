"""NIH ChestX-ray14 as TFRecords: which record is which patient, and what a damaged file does."""

import struct

import numpy as np
import pytest

from trainer.cohorts import COHORTS, CohortError
from trainer.cohorts.tfrecords import BrokenRecords, masked_crc32c, records
from trainer.split import split

from .cohort_builders import (
    example,
    jpeg,
    nih_shipped,
    nih_tfrecords,
    place_of,
    tfrecord,
)

nih = COHORTS["nih"]


@pytest.mark.requirement("SRS-TRN-111")
def test_the_tfrecords_say_what_nihs_own_files_say(tmp_path):
    """The same images in two forms: same names, patients, labels, ages and parts."""
    nih_shipped(tmp_path / "files")
    nih_tfrecords(tmp_path / "records")
    files = {case.identifier: case for case in nih(tmp_path / "files").cases}
    cohort = nih(tmp_path / "records")
    assert cohort.problems == ()
    assert {case.identifier for case in cohort.cases} == set(files)
    for case in cohort.cases:
        same = files[case.identifier]
        assert (case.labels, case.patient, case.part, case.subset) == (
            same.labels,
            same.patient,
            same.part,
            same.subset,
        )
        assert (case.age, case.sex, case.view, case.follow_up) == (same.age, same.sex, same.view, same.follow_up)
        assert case.content().startswith(b"\xff\xd8\xff")
        assert case.content().endswith(b"\xff\xd9")


@pytest.mark.requirement("SRS-TRN-111")
def test_without_nihs_table_the_patients_are_known_and_what_is_not_is_said(tmp_path):
    nih_tfrecords(tmp_path, official=False)
    cohort = nih(tmp_path)
    assert {case.patient for case in cohort.cases} == {f"nih-{number}" for number in range(1, 25)}
    assert {case.part for case in cohort.cases} == {"train", "tune", "test"}
    assert any("age, sex and view are unknown, and children are among the cases" in said for said in cohort.problems)
    assert any("test_list.txt" in said for said in cohort.problems)


@pytest.mark.requirement("SRS-TRN-112")
def test_records_without_a_name_take_it_from_the_table_only_if_every_label_agrees(tmp_path):
    """A table in another order would give each image a stranger's name."""
    nih_tfrecords(tmp_path, named=False)
    named = nih(tmp_path)
    assert {case.patient for case in named.cases} == {f"nih-{number}" for number in range(1, 25)}
    lines = (tmp_path / "preprocessed_data.csv").read_text().splitlines()
    lines[1], lines[3] = lines[3], lines[1]
    (tmp_path / "preprocessed_data.csv").write_text("\n".join(lines))
    nameless = nih(tmp_path)
    assert {case.part for case in nameless.cases} == {"apart"}
    assert any("no honest split" in said for said in nameless.problems)
    assert len({case.identifier for case in nameless.cases}) == 48


@pytest.mark.requirement("SRS-TRN-112")
def test_what_cannot_be_split_by_patient_is_not_split(tmp_path):
    """`apart` cases stay apart: there is nothing to deal out."""
    nih_tfrecords(tmp_path, named=False)
    (tmp_path / "preprocessed_data.csv").unlink()
    cohort = nih(tmp_path)
    assert {case.part for case in cohort.cases} == {"apart"}
    with pytest.raises(CohortError, match="no case may be used"):
        split(cohort, "pneumonia", seed=1, fractions=(0.7, 0.1, 0.2), keep_official=False)


@pytest.mark.requirement("SRS-TRN-113")
def test_a_file_that_ends_early_is_reported_and_the_rest_is_read(tmp_path):
    nih_tfrecords(tmp_path)
    path = tmp_path / "data" / "001-16.tfrec"
    path.write_bytes(path.read_bytes()[:-40])
    cohort = nih(tmp_path)
    assert len(cohort.cases) == 47
    assert len(cohort.problems) == 2
    assert "001-16.tfrec: record 15 at byte" in cohort.problems[0]
    assert cohort.problems[1] == "001-16.tfrec: expected 16 records by the file's name, found 15"


@pytest.mark.requirement("SRS-TRN-113")
def test_a_damaged_length_ends_its_file_and_a_damaged_record_only_itself(tmp_path):
    nih_tfrecords(tmp_path)
    path = tmp_path / "data" / "000-16.tfrec"
    places = [record.offset for record in records(path)]
    data = bytearray(path.read_bytes())
    data[places[2] : places[2] + 40] = b"\xff" * 40  # the Example's own bytes
    path.write_bytes(data)
    cohort = nih(tmp_path)
    assert len(cohort.cases) == 47
    assert cohort.problems == (
        f"000-16.tfrec, record 2 at byte {places[2]}: expected an Example, found bytes that do not parse",
    )
    data[places[5] - 12] ^= 1  # a length
    path.write_bytes(data)
    cohort = nih(tmp_path)
    assert len(cohort.cases) == 32 + 4
    assert any(f"record 5 at byte {places[5] - 12}: the checksum of its length is wrong" in p for p in cohort.problems)


@pytest.mark.requirement("SRS-TRN-113")
def test_a_length_that_is_no_records_is_not_allocated(tmp_path):
    path = tmp_path / "000-1.tfrec"
    length = struct.pack("<Q", 1 << 60)
    path.write_bytes(length + struct.pack("<I", masked_crc32c(length)) + b"\0" * 100)
    with pytest.raises(BrokenRecords, match="expected at most"):
        list(records(path))
    path.write_bytes(b"\0" * 5)
    with pytest.raises(BrokenRecords, match="expected 12 bytes of length, found 5"):
        list(records(path))


@pytest.mark.requirement("SRS-TRN-113")
def test_an_empty_set_of_records_and_records_without_a_picture(tmp_path):
    tfrecord(tmp_path / "000-2.tfrec", [example(None, place_of("00000001_000.png"), "Mass"), b""])
    cohort = nih(tmp_path)
    assert cohort.cases == ()
    assert sum("expected one picture in the feature image, found 0" in said for said in cohort.problems) == 2


@pytest.mark.requirement("SRS-TRN-111")
def test_a_label_that_a_record_does_not_have_is_unknown(tmp_path):
    rng = np.random.default_rng(0)
    tfrecord(
        tmp_path / "000-2.tfrec",
        [
            example(jpeg(False, rng), "00000001_000", None),
            example(jpeg(False, rng), r"C:\data\00000002_000.png", "Pleural_Thickening"),
        ],
    )
    unknown, known = sorted(nih(tmp_path).cases, key=lambda case: case.identifier)
    assert unknown.identifier == "00000001_000.png"
    assert all(np.isnan(label) for label in unknown.labels.values())
    assert {finding for finding, label in known.labels.items() if label == 1} == {"pleural_thickening", "abnormal"}
    assert known.patient == "nih-2"


@pytest.mark.requirement("SRS-TRN-112")
def test_an_image_in_two_records_is_an_error(tmp_path):
    rng = np.random.default_rng(0)
    tfrecord(tmp_path / "000-2.tfrec", [example(jpeg(False, rng), place_of("00000001_000.png"), "Mass")] * 2)
    with pytest.raises(CohortError, match=r"stands in two records: 00000001_000\.png"):
        nih(tmp_path)


@pytest.mark.requirement("SRS-TRN-112")
def test_records_that_some_name_and_some_do_not_are_used_where_they_do(tmp_path):
    rng = np.random.default_rng(0)
    tfrecord(
        tmp_path / "000-2.tfrec",
        [
            example(jpeg(False, rng), place_of("00000001_000.png"), "Mass"),
            example(jpeg(False, rng), "holiday.jpg", "Mass"),
        ],
    )
    cohort = nih(tmp_path)
    assert sorted(case.part == "apart" for case in cohort.cases) == [False, True]
    assert any("1 of 2 records have no image_id" in said for said in cohort.problems)


@pytest.mark.requirement("SRS-TRN-113")
def test_the_checksum_is_that_of_the_rfc():
    """RFC 3720 B.4: 32 bytes of zeros have the CRC-32C 8a9136aa, 32 of ones 62a8ab43."""

    def unmasked(value: int) -> int:
        rotated = (value - 0xA282EAD8) & 0xFFFFFFFF
        return ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF

    assert unmasked(masked_crc32c(b"\0" * 32)) == 0x8A9136AA
    assert unmasked(masked_crc32c(b"\xff" * 32)) == 0x62A8AB43


@pytest.mark.requirement("SRS-TRN-111")
def test_a_child_of_the_records_is_used_for_nothing(tmp_path):
    nih_tfrecords(tmp_path)
    assert {case.part for case in nih(tmp_path).cases if case.patient == "nih-5"} == {"apart"}
