"""The order of reading."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_node.findings.priority import OrderedPriority, rank
from cxr_node.worklist.order import URGENT_RANK, arrange, is_overdue, waited
from storage.studies import PatientContext, Study
from tests.cxr_node.worklist.conftest import NOON

pytestmark = pytest.mark.requirement("SRS-WLT-001")

MAX_WAIT_MIN = 120.0


def make_study(uid: str, waited_min: float, priority: str = "ROUTINE", flagged: bool = False) -> Study:
    """Return a study of which the order looks at priority, first image and UID only."""
    at = NOON - timedelta(minutes=waited_min)
    return Study(
        study_instance_uid=uid,
        context=PatientContext(),
        first_received_at=at,
        last_received_at=at,
        status="analysed",
        flagged=flagged,
        ordered_priority="ROUTINE",
        ai_priority="HIGH" if flagged else "",
        effective_priority=priority,
        priority_rank=rank(OrderedPriority(priority)),
        notified_at=at,
        revision=1,
        images=1,
        conflicts=0,
        calling_ae_title="CR",
    )


def order(*studies: Study) -> list[str]:
    """Return the UIDs in reading order."""
    return [study.study_instance_uid for study in arrange(studies, NOON, MAX_WAIT_MIN)]


@st.composite
def lists(draw: st.DrawFn) -> list[Study]:
    """Lists as a busy day makes them, equal arrival times and clocks that run ahead among them."""
    priorities = st.sampled_from([str(priority) for priority in OrderedPriority])
    rows = draw(st.lists(st.tuples(st.integers(-5, 300), priorities, st.booleans()), max_size=30))
    return [make_study(f"1.2.{index}", minutes, *rest) for index, (minutes, *rest) in enumerate(rows)]


def test_the_flagged_study_comes_first_and_then_the_longest_waiting():
    """That is what the list is for."""
    flagged = make_study("flagged", 1, "HIGH", flagged=True)
    assert order(make_study("new", 5), make_study("old", 50), flagged) == ["flagged", "old", "new"]


def test_an_ordered_stat_stays_before_what_the_ai_raised_to_high():
    """The AI adds to the order of a physician and never overrules it."""
    assert order(make_study("flagged", 60, "HIGH", flagged=True), make_study("stat", 1, "STAT")) == ["stat", "flagged"]


def test_a_study_past_its_maximum_wait_rises_among_the_urgent_in_turn():
    """Nobody waits for ever, and a backlog does not bury who was flagged a minute ago."""
    urgent = [make_study(f"u{index}", 30 - index, "HIGH", flagged=True) for index in range(3)]
    overdue = [make_study(f"o{index}", 200 - index) for index in range(3)]
    assert order(make_study("other", 119), *overdue, *urgent) == ["u0", "o0", "u1", "o1", "u2", "o2", "other"]


def test_the_maximum_wait_is_reached_to_the_minute():
    """At the maximum, not after it."""
    assert is_overdue(make_study("at", 120), NOON, MAX_WAIT_MIN)
    assert not is_overdue(make_study("before", 119.99), NOON, MAX_WAIT_MIN)


def test_a_clock_that_runs_ahead_makes_no_negative_wait():
    """Hosts differ by seconds."""
    assert waited(make_study("early", -3), NOON) == timedelta(0)


@given(lists(), st.randoms())
def test_the_order_is_total(studies, rng):
    """The same studies come in the same order, whatever order the database gave them in, each once."""
    shuffled = list(studies)
    rng.shuffle(shuffled)
    found = arrange(shuffled, NOON, MAX_WAIT_MIN)
    assert found == arrange(studies, NOON, MAX_WAIT_MIN)
    assert sorted(study.study_instance_uid for study in found) == sorted(study.study_instance_uid for study in studies)


@given(lists(), st.booleans())
def test_no_overdue_study_starves(studies, overdue_first):
    """However many urgent ones arrive: at most two precede it for each study that waits longer, and one more."""
    found = arrange(studies, NOON, MAX_WAIT_MIN, overdue_first=overdue_first)
    overdue = sorted(
        (study for study in studies if is_overdue(study, NOON, MAX_WAIT_MIN)),
        key=lambda study: (study.first_received_at, study.study_instance_uid),
    )
    for index, study in enumerate(overdue):
        assert found.index(study) <= 2 * index + 1


@given(lists(), st.booleans())
def test_an_urgent_study_is_never_buried_by_a_backlog(studies, overdue_first):
    """The n-th urgent study has at most n that are only overdue before it."""
    found = arrange(studies, NOON, MAX_WAIT_MIN, overdue_first=overdue_first)
    urgent = [study for study in found if study.priority_rank >= URGENT_RANK]
    for study in urgent:
        before = found[: found.index(study)]
        only_overdue = [other for other in before if other.priority_rank < URGENT_RANK]
        assert len(only_overdue) <= len(before) - len(only_overdue) + 1


@given(lists(), st.data())
def test_a_higher_priority_never_moves_a_study_down(studies, data):
    """CADt: what the AI adds may only help the patient it is added to."""
    if not studies:
        return
    index = data.draw(st.integers(0, len(studies) - 1))
    study = studies[index]
    higher = data.draw(st.sampled_from([p for p in OrderedPriority if rank(p) >= study.priority_rank]))
    minutes = (NOON - study.first_received_at).total_seconds() / 60
    raised = make_study(study.study_instance_uid, minutes, str(higher), flagged=True)
    before = order(*studies).index(study.study_instance_uid)
    after = order(*studies[:index], raised, *studies[index + 1 :]).index(study.study_instance_uid)
    assert after <= before


@given(lists(), st.integers(0, 600))
def test_waiting_on_keeps_the_order_within_a_priority(studies, minutes):
    """Of two studies of one priority the one that came first is read first, at any time."""
    found = arrange(studies, NOON + timedelta(minutes=minutes), MAX_WAIT_MIN)
    for rank_found in {study.priority_rank for study in studies}:
        times = [study.first_received_at for study in found if study.priority_rank == rank_found]
        assert times == sorted(times)
