"""Hostile inputs for every way in, the same each time: dozens where one takes long, and a hundred and more elsewhere.

Many more by hand: `python -m tests.fuzz.run`.
"""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxr_node.errors import UnreadableDataset
from cxr_node.imaging import read_header
from cxr_node.receive.intake import patient_context
from tests.builders import to_part_10
from tests.fuzz import seeds
from tests.fuzz.mutate import DATASETS, elements, mutated
from tests.fuzz.run import fuzz
from tests.fuzz.targets import TARGETS

INPUTS = {"storage-scp": 60, "worklist-scp": 60, "look": 24, "decoders": 24, "intake": 50}
TEXTS = st.text(st.characters(codec="utf-8"), max_size=80)
KEYWORDS = [
    "PatientName",
    "PatientID",
    "PatientAge",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ViewPosition",
    "BodyPartExamined",
    "Modality",
    "StudyDescription",
    "ReferringPhysicianName",
    "IssuerOfPatientID",
    "StudyID",
    "SpecificCharacterSet",
]


@pytest.mark.requirement("SRS-FUZ-001")
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_no_input_raises_hangs_or_stops_a_server(target):
    """By structure: lengths that lie, values of another kind, sequences without end, units out of order."""
    row = fuzz(target, INPUTS.get(target.name, 150), seed=7)
    assert row["defects"] == []
    assert row["inputs"] == INPUTS.get(target.name, 150)


@pytest.mark.requirement("SRS-FUZ-001")
@given(values=st.dictionaries(st.sampled_from(KEYWORDS), TEXTS, max_size=8), rng=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_a_header_holds_becomes_texts_whatever_it_holds(tmp_path, values, rng):
    """Any text in any attribute, then changes to the bytes: the worklist's columns are texts or empty."""
    dataset = seeds.radiograph()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in values.items():
        try:
            setattr(dataset, keyword, value)
            data = to_part_10(dataset)
        except (ValueError, TypeError, OverflowError, LookupError, UnicodeError):
            delattr(dataset, keyword)  # the library does not write it: no sender that uses it can send it
    data = mutated(to_part_10(dataset), rng, DATASETS)
    path = tmp_path / "input.dcm"
    path.write_bytes(data)
    try:
        header = read_header(path)
    except UnreadableDataset:
        return
    context = patient_context(header)
    assert all(isinstance(getattr(context, name), str) for name in ("patient_name", "patient_id", "study_date"))


@pytest.mark.requirement("SRS-FUZ-002")
def test_changes_know_the_structure():
    """A change of a value leaves every length right: what is tested then is the value."""
    from tests.fuzz.mutate import change_value

    valid = seeds.files()[0]
    assert len(elements(valid, 132)) > 30
    reached = 0
    for number in range(50):
        changed = change_value(valid, random.Random(number))
        [last] = elements(changed, 132)[-1:]
        reached += last[2] == len(changed)
    assert reached > 40


@pytest.mark.requirement("SRS-FUZ-002")
def test_a_defect_is_found_and_kept(tmp_path):
    """Fuzzing that cannot fail proves nothing: a target with a fault in it is caught, and its input kept."""
    import contextlib
    from dataclasses import replace

    @contextlib.contextmanager
    def start(folder):
        def run(data):
            if len(data) % 2:
                raise RuntimeError("fault")
            return "fine"

        yield run

    [header] = [target for target in TARGETS if target.name == "header"]
    row = fuzz(replace(header, start=start, seeds=lambda: seeds.files()[:1]), 300, seed=1, keep=tmp_path / "kept")
    assert row["defects"]
    assert "fault" in next((tmp_path / "kept").glob("*.txt")).read_text()
    assert isinstance(row["outcomes"], dict)
