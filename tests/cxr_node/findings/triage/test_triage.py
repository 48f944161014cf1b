"""Waiting times with triage: formula against the oracle, simulation against the formula, the list's own rule."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from cxr_node.findings.triage import (
    Accuracy,
    Day,
    Discipline,
    Given,
    Poisson,
    Reading,
    Scenario,
    Service,
    Studies,
    closed_form,
    hours_of,
    rate_for_load,
    run,
    simulate,
)
from cxr_node.findings.triage.closed_form import erlang_c
from cxr_node.findings.triage.experiment import interval, student_975
from cxr_node.worklist.order import arrange
from storage.studies import PatientContext, Study

ONE = (1,) * 24
ORACLE = Accuracy(0.95, 0.88, 0.1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def scenario(accuracy: Accuracy = ORACLE, **more: object) -> Scenario:
    """A steady list of one reader, readings of 10 min, load 0.8."""
    given: dict[str, object] = {
        "accuracy": accuracy,
        "service": Service("exponential", 10.0),
        "arrivals": Poisson(0.08, 6000),
        "readers": ONE,
        "replications": 12,
        "seed": 3,
    }
    return Scenario(**{**given, **more})  # type: ignore[arg-type]


@pytest.mark.requirement("SRS-TRI-001")
@pytest.mark.parametrize(
    ("discipline", "part", "expected"),
    [
        (Discipline.FIFO, "diseased", "40.00"),
        (Discipline.PREEMPTIVE, "diseased", "4.33"),
        (Discipline.PREEMPTIVE, "non_diseased", "43.96"),
        (Discipline.PREEMPTIVE, "unflagged", "49.69"),
        (Discipline.NON_PREEMPTIVE, "diseased", "11.46"),
        (Discipline.NON_PREEMPTIVE, "non_diseased", "43.17"),
    ],
)
def test_the_closed_form_gives_all_printed_digits_of_the_oracle(discipline, part, expected):
    """FDA's QuCAD printed 40.0, 4.33, 43.96 and 49.69 for this case; the non-pre-emptive values are 11.5 and 43.2."""
    found = closed_form(ORACLE, mean_read_min=10, load=0.8, discipline=discipline)
    assert f"{getattr(found, part):.2f}" == expected


@pytest.mark.requirement("SRS-TRI-001")
def test_a_missed_patient_waits_longer_than_without_the_model():
    """The published quality of an NIH pneumonia model: 20 min become 11.5 for the diseased and 31.9 for the missed."""
    found = closed_form(Accuracy(0.80, 0.57, 0.1), mean_read_min=5, load=0.8, discipline=Discipline.NON_PREEMPTIVE)
    assert f"{found.fifo:.1f} {found.diseased:.1f} {found.missed:.1f}" == "20.0 11.5 31.9"


@pytest.mark.requirement("SRS-TRI-001")
def test_what_has_no_closed_form_is_refused_with_the_reason():
    """A formula used where it does not hold gives a figure all the same."""
    for more, told in (
        ({"load": 1.0}, "without end"),
        ({"readers": 2, "discipline": Discipline.PREEMPTIVE}, "interruption"),
        ({"readers": 2, "cv": 0.5}, "not exponential"),
    ):
        given = {"mean_read_min": 10.0, "load": 0.8, "discipline": Discipline.NON_PREEMPTIVE, **more}
        with pytest.raises(ValueError, match=told):
            closed_form(ORACLE, **given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sensitivity"):
        Accuracy(1.2, 0.9, 0.1)


@pytest.mark.requirement("SRS-TRI-001")
def test_with_one_reader_the_chance_to_wait_is_the_load_and_more_readers_lower_it():
    """Erlang C for two readers at load rho is 2 rho^2 / (1 + rho)."""
    assert erlang_c(1, 0.8) == pytest.approx(0.8)
    assert erlang_c(2, 0.8) == pytest.approx(2 * 0.64 / 1.8)


@pytest.mark.requirement("SRS-TRI-002")
@pytest.mark.parametrize("discipline", [Discipline.PREEMPTIVE, Discipline.NON_PREEMPTIVE])
def test_the_simulation_agrees_with_the_closed_form(discipline):
    """The simulation knows no formula; both orders of reading, each group, within its interval widened by half."""
    found = run(scenario(discipline=discipline))
    formula = closed_form(ORACLE, mean_read_min=10, load=0.8, discipline=discipline)
    for name in ("diseased", "non_diseased", "flagged", "unflagged"):
        for measured, expected in ((found.triage[name], getattr(formula, name)), (found.fifo[name], formula.fifo)):
            half = 1.5 * (measured.high - measured.low) / 2
            assert abs(measured.value - expected) < half, (name, measured, expected)
    assert found.triage["missed"].value > found.fifo["missed"].value


@pytest.mark.requirement("SRS-TRI-002")
def test_several_readers_and_other_readings_agree_with_their_closed_forms():
    """Erlang C with two readers; Pollaczek and Khinchine with log-normal readings."""
    for readers, service, cv in ((2, Service("exponential", 10.0), 1.0), (1, Service("lognormal", 10.0, 0.5), 0.5)):
        hours = (readers,) * 24
        found = run(scenario(service=service, readers=hours, arrivals=Poisson(rate_for_load(0.8, 10.0, hours), 6000)))
        formula = closed_form(
            ORACLE, mean_read_min=10, load=0.8, discipline=Discipline.NON_PREEMPTIVE, readers=readers, cv=cv
        )
        for name in ("diseased", "unflagged"):
            measured = found.triage[name]
            assert abs(measured.value - getattr(formula, name)) < 1.5 * (measured.high - measured.low) / 2


@pytest.mark.requirement("SRS-TRI-002")
def test_the_mean_over_all_studies_is_the_same_with_and_without_triage():
    """Somebody pays for every minute that another is spared."""
    found = run(scenario()).difference["all"]
    assert found.low < 0.3
    assert found.high > -0.3


@pytest.mark.requirement("SRS-TRI-003")
def test_a_seed_gives_the_same_outcome_and_another_seed_another():
    """Evidence that is committed must be what the command makes."""
    first, again, other = (run(scenario(arrivals=Poisson(0.08, 400), seed=seed)) for seed in (5, 5, 6))
    assert first == again
    assert first != other


@pytest.mark.requirement("SRS-TRI-004")
def test_a_handful_of_studies_is_read_in_the_order_that_can_be_worked_out_by_hand():
    """Study 1 is flagged. Without interruption it follows the first; with interruption the first goes on afterwards."""
    studies = Studies(np.array([0.0, 2.0, 3.0]), np.array([False, True, False]), np.array([10.0, 4.0, 1.0]))
    waits = {
        discipline: simulate(studies, readers=ONE, discipline=discipline).tolist()
        for discipline in (Discipline.FIFO, Discipline.NON_PREEMPTIVE, Discipline.PREEMPTIVE)
    }
    assert waits[Discipline.FIFO] == [0.0, 8.0, 11.0]
    assert waits[Discipline.NON_PREEMPTIVE] == [0.0, 8.0, 11.0]
    assert waits[Discipline.PREEMPTIVE] == [4.0, 0.0, 11.0]
    late = Studies(np.array([0.0, 1.0, 2.0]), np.array([False, False, True]), np.array([10.0, 5.0, 4.0]))
    assert simulate(late, readers=ONE, discipline=Discipline.NON_PREEMPTIVE).tolist() == [0.0, 13.0, 8.0]


@pytest.mark.requirement("SRS-TRI-004")
def test_nobody_reads_outside_of_the_shifts_and_a_reading_begun_is_finished():
    """A study of the evening waits for the morning; the reader of a shift's end stays until the study is done."""
    readers = hours_of("08-18:1")
    studies = Studies(np.array([17.5 * 60, 20.0 * 60]), np.zeros(2, bool), np.array([60.0, 10.0]))
    waits = simulate(studies, readers=readers, discipline=Discipline.FIFO)
    assert waits.tolist() == [0.0, 12 * 60.0]


@pytest.mark.requirement("SRS-TRI-004")
def test_shifts_are_read_and_wrong_ones_are_named():
    """A shift may cross midnight; hours that nobody names are empty."""
    hours = hours_of("08-18:3,18-08:1")
    assert (hours[7], hours[8], hours[17], hours[18], sum(hours)) == (1, 3, 3, 1, 44)
    assert hours_of("2") == (2,) * 24
    assert hours_of("08-10:1")[11] == 0
    for text, told in (("eight", "HH-HH:COUNT"), ("08-30:1", "0 to 24"), ("0", "at least 1"), ("08-10:0", "somebody")):
        with pytest.raises(ValueError, match=told):
            hours_of(text)


def make_study(uid: str, waited_min: float, flagged: bool) -> Study:
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
        effective_priority="HIGH" if flagged else "ROUTINE",
        priority_rank=3 if flagged else 1,
        notified_at=at,
        revision=1,
        images=1,
        conflicts=0,
        calling_ae_title="CR",
    )


@pytest.mark.requirement("SRS-TRI-005")
@pytest.mark.parametrize("seed", range(12))
def test_a_reader_who_works_down_the_list_is_simulated_as_the_worklist_lays_it_out(seed):
    """The simulation must have the node's own rule: here it reads a standing list, and `arrange` says in what order."""
    rng = np.random.default_rng(seed)
    ages = np.sort(rng.choice(np.arange(1, 240), 14, replace=False))[::-1].astype(float)
    # Flagged ones are young, as they are on a list that is worked on; a list may also hold none.
    flagged = (ages < 120) & (rng.random(14) < 0.6)
    listed = arrange([make_study(f"{i:02d}", ages[i], bool(flagged[i])) for i in range(14)], NOON, 120.0)
    expected = [int(study.study_instance_uid) for study in listed]
    # All arrive before the reader begins at minute 240, and readings take no time to speak of.
    minutes = np.append(240.0 - ages, 0.0)
    order = np.argsort(minutes, kind="stable")
    studies = Studies(minutes[order], np.append(flagged, False)[order], np.where(order == 14, 240.0, 1e-6))
    waits = simulate(studies, readers=ONE, discipline=Discipline.NON_PREEMPTIVE, max_wait_min=120.0)
    ends = waits + studies.arrival_min + studies.read_min
    read = [int(order[i]) for i in np.argsort(ends) if order[i] != 14]
    assert read == expected


@pytest.mark.requirement("SRS-TRI-005")
def test_on_a_list_that_knows_the_priority_only_the_maximum_wait_changes_nothing():
    """The node's own list remembers whose turn it is; a list elsewhere does not, and the page must not claim more."""
    studies = [make_study("overdue", 600, False), make_study("flagged", 1, True)]
    first = [arrange(studies, NOON, 120.0, overdue_first=turn)[0].study_instance_uid for turn in (False, True)]
    assert first == ["flagged", "overdue"]
    common = {"arrivals": Poisson(0.08, 2500), "accuracy": Accuracy(0.9, 0.3, 0.1), "replications": 5}
    without = run(scenario(**common))
    top = run(scenario(**common, max_wait_min=60.0, reading=Reading.TOP))
    in_turn = run(scenario(**common, max_wait_min=60.0, reading=Reading.IN_TURN))
    assert top.triage == without.triage
    assert in_turn.triage["maximum"].value < without.triage["maximum"].value
    assert in_turn.triage["flagged"].value > without.triage["flagged"].value


@pytest.mark.requirement("SRS-TRI-005")
def test_an_overdue_study_that_is_being_read_is_not_interrupted():
    """Otherwise, with interruption, an overdue study would be begun again and again and never read."""
    flagged = np.array([False, True, True, True])
    studies = Studies(np.array([0.0, 0.5, 1.0, 70.0]), flagged, np.array([100.0, 60.0, 1.0, 1.0]))
    waits = simulate(studies, readers=ONE, discipline=Discipline.PREEMPTIVE, max_wait_min=30.0)
    # Interrupted at 0.5 for an hour, overdue then; it goes on after study 2, at 61.5, to the end at 161.
    assert waits[0] == pytest.approx(61.0)
    assert waits[3] == pytest.approx(91.0)


@pytest.mark.requirement("SRS-TRI-006")
def test_a_day_has_its_hours_and_recorded_arrivals_stay_as_they_are():
    """Nights are empty where the weights say so; a log is the same in every replication."""
    rng = np.random.default_rng(1)
    hours = tuple(float(8 <= hour < 10) for hour in range(24))
    minutes = Day(200.0, hours, 3).draw(rng)
    assert 400 < len(minutes) < 800
    assert set((minutes // 60 % 24).astype(int)) == {8, 9}
    assert Given((30.0, 10.0)).draw(rng).tolist() == [10.0, 30.0]
    with pytest.raises(ValueError, match="24 weights"):
        Day(10.0, (1.0,), 1)


@pytest.mark.requirement("SRS-TRI-006")
def test_readings_have_the_mean_and_variation_that_were_asked_for():
    """A log-normal's parameters are not its mean and deviation."""
    drawn = Service("lognormal", 5.0, 0.8).draw(np.random.default_rng(2), 200_000)
    assert drawn.mean() == pytest.approx(5.0, rel=0.01)
    assert drawn.std() / drawn.mean() == pytest.approx(0.8, rel=0.02)
    assert set(Service("observed", 2.0, observed=(1.0, 3.0)).draw(np.random.default_rng(2), 50)) == {1.0, 3.0}


@pytest.mark.requirement("SRS-TRI-003")
def test_intervals_are_students_and_hold_the_truth_as_often_as_they_say():
    """Twenty replications are few: the normal's 1.96 would be too narrow."""
    assert student_975(4) == 2.7764
    assert student_975(19) == 2.0930
    assert student_975(40) == pytest.approx(2.0211, abs=2e-4)
    rng = np.random.default_rng(8)
    held = sum((found := interval(rng.normal(1, 1, 6).tolist())).low < 1 < found.high for _ in range(2000))
    assert 0.93 < held / 2000 < 0.97
    assert math.isnan(interval([math.nan]).value)
    with pytest.raises(ValueError, match="at least 5"):
        run(scenario(replications=4))
