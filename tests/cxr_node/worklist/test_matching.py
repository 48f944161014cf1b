"""C-FIND matching, rule by rule (PS3.4 C.2.2.2)."""

import time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from cxr_node.worklist.matching import answer, has_unsupported_keys, matches, repair_text, values_of, zone_of

pytestmark = pytest.mark.requirement("SRS-WLT-011")

UTC = ZoneInfo("UTC")


def make(**values: object) -> Dataset:
    """Return a dataset; a list of datasets becomes a sequence."""
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, DicomSequence(value) if isinstance(value, list) else value)
    return dataset


def fits(keyword: str, wanted: object, found: object) -> bool:
    """Whether one key matches one attribute."""
    return matches(make(**{keyword: wanted}), make(**{keyword: found}), UTC)


@pytest.mark.parametrize(
    ("wanted", "found", "expected"),
    [
        ("Yamada^Tarou", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("YAMADA*", "Yamada^Tarou=山田^太郎", True),
        ("*山田*", "Yamada^Tarou=山田^太郎", True),
        ("=山田*", "Yamada^Tarou=山田^太郎", True),
        ("山田*=Yamada*", "Yamada^Tarou=山田^太郎", False),
        ("müller*", "MÜLLER^Jürgen", True),
        ("Mu\u0308ller*", "Müller^Jürgen", True),
        ("SM?TH^A*", "Smith^Anna", True),
        ("Smith", "Smith^Anna", False),
        ("Smith^Anna", "Smith^Anna^^^", True),
        ("*", "", True),
        ("", "Smith", True),
        ("Smith", "", False),
        ("[a-z]*", "Smith", False),
    ],
)
def test_names_match_without_case_in_any_component_group(wanted, found, expected):
    """Who types a name knows no capitals and no groups."""
    assert fits("PatientName", wanted, found) is expected


@pytest.mark.parametrize(
    ("keyword", "wanted", "found", "expected"),
    [
        ("AccessionNumber", "A1", "A1", True),
        ("AccessionNumber", "a1", "A1", False),
        ("AccessionNumber", "A?", "A1", True),
        ("AccessionNumber", "A?", "A12", False),
        ("AccessionNumber", "*2", "A12", True),
        ("PatientID", "A.1", "AX1", False),
        ("PatientID", ["P1", "P2"], "P2", True),
        ("StudyInstanceUID", "1.2.3", "1.2.3", True),
        ("StudyInstanceUID", "1.2.*", "1.2.3", False),
        ("StudyInstanceUID", ["1.2.4", "1.2.3"], "1.2.3", True),
        ("StudyInstanceUID", "1.2", "1.2.3", False),
        ("PatientSex", "F", "M", False),
        ("ScheduledProcedureStepPriority", "HIGH", "HIGH", True),
        ("ScheduledProcedureStepPriority", "HI*", "HIGH", True),
        ("PregnancyStatus", 4, 4, True),
        ("PregnancyStatus", 4, 3, False),
    ],
)
def test_single_values_wildcards_and_uid_lists(keyword, wanted, found, expected):
    """Only text has wildcards, only names ignore case."""
    if isinstance(wanted, list):
        keys = Dataset()
        setattr(keys, keyword, "\\".join(wanted))
        assert matches(keys, make(**{keyword: found}), UTC) is expected
        return
    assert fits(keyword, wanted, found) is expected


@pytest.mark.parametrize(
    ("keyword", "wanted", "found", "expected"),
    [
        ("StudyDate", "20260302", "20260302", True),
        ("StudyDate", "20260301-20260302", "20260302", True),
        ("StudyDate", "20260303-", "20260302", False),
        ("StudyDate", "-20260301", "20260302", False),
        ("StudyDate", "-20260302", "20260302", True),
        ("StudyDate", "20260301-", "", False),
        ("StudyTime", "0900-1000", "095959", True),
        ("StudyTime", "0900-1000", "100001.5", True),
        ("StudyTime", "0900-100000", "100001", False),
        ("StudyTime", "10", "103000", True),
        ("StudyTime", "-0900", "093000", False),
        ("ScheduledProcedureStepStartDateTime", "20260302", "20260302120000", True),
        ("ScheduledProcedureStepStartDateTime", "20260302110000-20260302130000", "20260302120000", True),
        ("ScheduledProcedureStepStartDateTime", "20260302130000-", "20260302120000", False),
        ("ScheduledProcedureStepStartDateTime", "-20260302130000", "20260302120000", True),
        ("ScheduledProcedureStepStartDateTime", "202603021400+0200", "20260302120000", True),
        ("ScheduledProcedureStepStartDateTime", "202603021400+0200-202603021500+0200", "20260302120000", True),
        ("ScheduledProcedureStepStartDateTime", "202603021200-0500", "20260302120000", False),
    ],
)
def test_dates_and_times_match_as_ranges_with_both_ends(keyword, wanted, found, expected):
    """Less precision covers more: an hour is all its minutes."""
    assert fits(keyword, wanted, found) is expected


def test_a_sequence_matches_when_one_item_fits_all_keys():
    """Two keys that fit two different items do not match."""
    item = make(
        ScheduledProcedureStepSequence=[
            make(Modality="CR", ScheduledStationAETitle="A"),
            make(Modality="DX", ScheduledStationAETitle="B"),
        ]
    )
    both = make(ScheduledProcedureStepSequence=[make(Modality="DX", ScheduledStationAETitle="B")])
    crossed = make(ScheduledProcedureStepSequence=[make(Modality="DX", ScheduledStationAETitle="A")])
    assert matches(both, item, UTC)
    assert not matches(crossed, item, UTC)
    assert [step.Modality for step in answer(both, item, UTC).ScheduledProcedureStepSequence] == ["DX"]


@pytest.mark.parametrize("keys", [[], [Dataset()], [make(Modality="")]])
def test_a_sequence_without_values_matches_all(keys):
    """Zero items, an empty item and empty keys all mean: any."""
    item = make(ScheduledProcedureStepSequence=[make(Modality="CR", ScheduledStationAETitle="A")])
    assert matches(make(ScheduledProcedureStepSequence=keys), item, UTC)
    assert matches(make(ScheduledProcedureStepSequence=keys), make(ScheduledProcedureStepSequence=[]), UTC)
    assert answer(make(ScheduledProcedureStepSequence=keys), item, UTC).ScheduledProcedureStepSequence[0].Modality


def test_the_answer_holds_what_was_asked_and_always_the_character_set():
    """Without it a name outside ASCII arrives as question marks."""
    item = make(PatientName="Müller^Jürgen", PatientID="P1", PatientSex="M")
    found = answer(make(PatientName="", PatientSex=""), item, UTC)
    assert (str(found.PatientName), found.PatientSex, found.SpecificCharacterSet) == (
        "Müller^Jürgen",
        "M",
        "ISO_IR 192",
    )
    assert "PatientID" not in found


def test_a_key_that_items_do_not_have_is_ignored_and_told():
    """An unsupported optional key must not hide every study (PS3.4 C.2.2.1.3)."""
    keys = make(PatientID="P1", EthnicGroup="x")
    item = make(PatientID="P1")
    assert matches(keys, item, UTC)
    assert has_unsupported_keys(keys, item)
    assert "EthnicGroup" not in answer(keys, item, UTC)
    assert not has_unsupported_keys(make(PatientID="P1", SpecificCharacterSet="ISO_IR 100"), item)


def test_text_without_a_character_set_is_read_as_utf_8():
    """Command-line tools send the terminal's bytes and name no character set."""
    keys = make(
        PatientName="müller*".encode().decode("latin-1"),
        ReferencedRequestSequence=[make(ReferringPhysicianName="山田".encode().decode("latin-1"))],
    )
    repair_text(keys)
    assert str(keys.PatientName) == "müller*"
    assert str(keys.ReferencedRequestSequence[0].ReferringPhysicianName) == "山田"


def test_text_with_a_character_set_is_left_alone():
    """What looks like broken UTF-8 may be a name in Latin-1."""
    keys = make(SpecificCharacterSet="ISO_IR 100", PatientName="Ã¼")
    repair_text(keys)
    assert str(keys.PatientName) == "Ã¼"


def test_a_hostile_pattern_costs_no_time():
    """A regular expression of such stars would run for hours in the worklist's process."""
    started = time.monotonic()
    assert not fits("PatientID", "*a" * 30 + "*b", "a" * 64)
    assert time.monotonic() - started < 1


@given(st.text(st.characters(blacklist_characters="\\*?", blacklist_categories=("Cc", "Cs")), max_size=20))
def test_every_text_matches_itself_and_its_wildcards(text):
    """No character is special by accident."""
    text = text.strip()
    assert fits("PatientComments", text, text)
    assert fits("PatientComments", text[:3] + "*", text)
    assert fits("PatientComments", "?" * len(text), text)


@pytest.mark.requirement("SRS-WLS-501")
@pytest.mark.parametrize(
    ("keyword", "wanted", "found", "expected"),
    [
        ("PatientID", '""', "", True),
        ("PatientID", '""', "P1", False),
        ("PatientName", '""', "", True),
        ("PatientName", '""', "Smith", False),
        ("StudyDate", '""', "", True),
        ("StudyDate", '""', "20260302", False),
        ("ScheduledProcedureStepPriority", "HIGH\\MEDIUM", "MEDIUM", True),
        ("ScheduledProcedureStepPriority", "HIGH\\MEDIUM", "LOW", False),
        ("PatientName", "Smith*\\Müller*", "Müller^Jürgen", True),
        ("PatientWeight", "70", "70.0", True),
        ("PatientWeight", "70", "71", False),
        ("StudyTime", "09:00-10:00", "0930", True),
        ("StudyDate", "2026.03.02", "20260302", True),
    ],
)
def test_empty_values_lists_and_numbers(keyword, wanted, found, expected):
    """PS3.4 C.2.2.2.7 and C.2.2.2.8; a number is its value, however it is written."""
    assert fits(keyword, wanted, found) is expected


@pytest.mark.requirement("SRS-WLS-501")
@pytest.mark.parametrize(
    ("dates", "times", "expected"),
    [
        ("20260705-20260707", "1000-1800", True),
        ("20260706-20260707", "1300-1800", False),
        ("20260705-20260706", "1000-1100", False),
        ("20260705-20260706", "1000-1230", True),
        ("20260706-", "1159-", True),
        ("-20260706", "-1159", False),
        ("-20260706", "-1200", True),
        ("20260706", "1000-1300", True),
        ("20260705", "1000-1300", False),
        ("20260705-20260707", "", True),
        ("", "1000-1100", False),
    ],
)
def test_date_and_time_of_a_step_are_one_range(dates, times, expected):
    """PS3.4 table K.6-1: from the 5th, 10:00 to the 7th, 18:00 includes the 6th at 12:00, and 23:00 too."""
    step = make(ScheduledProcedureStepStartDate="20260706", ScheduledProcedureStepStartTime="120000")
    keys = make(ScheduledProcedureStepStartDate=dates, ScheduledProcedureStepStartTime=times)
    assert matches(keys, step, UTC) is expected
    nested = make(ScheduledProcedureStepSequence=[step])
    assert matches(make(ScheduledProcedureStepSequence=[keys]), nested, UTC) is expected


@pytest.mark.requirement("SRS-WLS-501")
def test_study_date_and_time_are_matched_apart():
    """Only the start of a step is one range by the standard; a study's needs a negotiation that is not offered."""
    keys = make(StudyDate="20260705-20260707", StudyTime="1000-1800")
    assert not matches(keys, make(StudyDate="20260706", StudyTime="2300"), UTC)


@pytest.mark.requirement("SRS-WLS-502")
@pytest.mark.parametrize(("value", "hours"), [("+0100", 1), ("-0530", -5.5), ("+0000", 0)])
def test_the_time_zone_of_the_identifier_is_read(value, hours):
    """(0008,0201): the keys' times are of that zone."""
    zone = zone_of(make(TimezoneOffsetFromUTC=value))
    assert zone is not None
    assert zone.utcoffset(None).total_seconds() == hours * 3600
    assert zone_of(make(PatientID="1")) is None
    with pytest.raises(ValueError, match=r"\(0008,0201\)"):
        zone_of(make(TimezoneOffsetFromUTC="CET"))


@pytest.mark.requirement("SRS-UPS-010")
def test_only_plain_values_are_looked_up():
    """A wildcard has to be matched, not looked up."""
    assert values_of(make(StudyInstanceUID="1.2\\1.3"), "StudyInstanceUID") == ["1.2", "1.3"]
    assert values_of(make(ProcedureStepState="SCHED*"), "ProcedureStepState") == []
    assert values_of(make(ProcedureStepState=""), "ProcedureStepState") == []
    assert values_of(Dataset(), "ProcedureStepState") == []
