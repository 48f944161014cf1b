"""The one promise that everything else is built around: nothing that happens to a study lowers its priority.

Any sequence of arrivals, orders, scores, exclusions, failures, time-outs, revisions, readings and back-catalogue runs,
on a real database, by the node's own steps.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cxr_node.findings import OrderedPriority
from cxr_node.findings.priority import rank_of
from cxr_node.orders.desk import OrderDesk
from cxr_node.orders.ris import Told
from cxr_node.orders.stage import OrderJobs
from storage import Database, Doorbell, InstanceFiles, jobs, manifests, studies
from storage.manifests import COMPLETED, DISCONTINUED, IN_PROGRESS, Listed
from storage.orders import MWL, Order
from tests.cxr_node.analyze.conftest import UID, WAIT_S, Line
from tests.cxr_node.orders.messages import orm
from tests.databases import migrated

PRIORITIES = tuple(str(priority) for priority in OrderedPriority)
CODES = ("S", "A", "R", "T", "", "LOW")

ARRIVALS = st.builds(
    lambda number, probability, ordered, patient: ("arrive", number, probability, ordered, patient),
    st.integers(1, 4),
    st.sampled_from([None, 0.1, 0.4999999, 0.5, 0.9]),
    st.sampled_from(PRIORITIES),
    st.sampled_from(["P1"] * 9 + ["P2"]),
)
STEPS = st.one_of(
    *[ARRIVALS] * 4,
    *[st.just(("analyse",))] * 5,
    st.just(("fail",)),
    st.just(("deliver",)),
    st.just(("read",)),
    st.just(("backfill",)),
    st.tuples(st.just("hl7"), st.sampled_from(CODES), st.sampled_from(["NW", "XO", "CA", "SC"]), st.sampled_from("12")),
    st.tuples(st.just("mwl"), st.sampled_from((*PRIORITIES, ""))),
    st.tuples(st.just("analyse during"), st.sampled_from(CODES)),
    st.tuples(st.just("manifest"), st.sampled_from([IN_PROGRESS, COMPLETED, DISCONTINUED]), st.integers(0, 4)),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 10.0, WAIT_S + 1])),
)


FLAGGED = ("arrive", 1, 0.9, "ROUTINE", "P1")
UNFLAGGED = ("arrive", 1, 0.1, "ROUTINE", "P1")
EXCLUDED = ("arrive", 1, None, "LOW", "P1")
STRANGER = ("arrive", 2, 0.9, "ROUTINE", "P2")


@dataclass
class _Ris:
    """A worklist that answers one priority."""

    priority: str

    def ask(self, study) -> Told:
        order = Order(MWL, f"m-{self.priority}", study_instance_uid=UID, patient_id="P1", priority=self.priority)
        return Told(order)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("template") / "node.db"
    database = migrated(f"sqlite:///{path}")
    database.dispose()
    return path


def _take(line: Line, folder: Path, step: tuple) -> None:
    name = step[0]
    desk = OrderDesk(line.database, Doorbell(folder / "run"), now=lambda: line.now)
    if name == "arrive":
        _, number, probability, ordered, patient = step
        line.arrive(number, probability, ordered=ordered, patient=patient)
    elif name == "analyse":
        line.analyse()
    elif name == "analyse during":
        line.analyse(between=lambda: desk.take(orm(obr5=step[1], control_id=f"C{line.now}"), "ris"))
    elif name == "fail":
        line.fail()
    elif name == "deliver":
        line.deliver()
    elif name == "hl7":
        _, code, control, number = step
        assert b"MSA|AA" in desk.take(orm(obr5=code, orc1=control, pid3=f"P{number}"), "ris")
    elif name == "mwl":
        with line.database.begin() as connection:
            jobs.schedule(connection, "order", UID, run_at=line.now, now=line.now)
            (job,) = jobs.claim(connection, ["order"], owner="o:1:", now=line.now)
        for _, settle in OrderJobs(line.database, _Ris(step[1]), now=lambda: line.now).handle([job]):
            with line.database.begin() as connection:
                settle(connection)
                jobs.complete(connection, job, now=line.now)
    elif name == "manifest":
        _, state, count = step
        listed = [Listed(f"{UID}.{number}", "1", "1", True) for number in range(1, count + 1)]
        with line.database.begin() as connection:
            key = f"7.{len(manifests.of_study(connection, UID))}"
            manifests.add(
                connection, "mpps", key, [UID], state=state, instances=listed, calling_ae_title="CR", now=line.now
            )
    else:
        with line.database.begin() as connection:
            if name == "read":
                studies.mark_read(connection, UID, line.now)
            elif name == "backfill" and studies.get(connection, UID) is None:
                default = studies.PatientContext(ordered_priority="ROUTINE")
                studies.touch(connection, UID, default, ordered_rank=1, calling_ae_title="CR", now=line.now)
                studies.set_origin(connection, UID, studies.BACKFILL)
    line.pass_time(step[1] if name == "wait" else 1.0)


@pytest.mark.requirement("SRS-PRI-101")
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=4, max_size=20))
@example(steps=[FLAGGED, ("analyse",), UNFLAGGED, ("analyse",), ("deliver",), EXCLUDED, ("analyse",)])
@example(steps=[UNFLAGGED, ("analyse during", "S"), ("hl7", "R", "XO", "1"), UNFLAGGED, ("analyse",)])
@example(steps=[UNFLAGGED, ("hl7", "S", "NW", "1"), ("fail",), ("hl7", "S", "CA", "1"), FLAGGED, ("analyse",)])
@example(steps=[UNFLAGGED, ("analyse",), ("read",), FLAGGED, ("analyse",), ("hl7", "S", "NW", "1"), ("mwl", "STAT")])
@example(steps=[("backfill",), FLAGGED, ("analyse",), ("mwl", "MEDIUM"), EXCLUDED, ("analyse",), ("fail",)])
@example(steps=[FLAGGED, ("analyse",), STRANGER, ("analyse",), STRANGER, ("fail",), ("mwl", "LOW")])
def test_no_course_of_events_lowers_a_priority(template, tmp_path_factory, steps):
    """Effective is never below ordered and never sinks; the AI proposes HIGH or nothing; what is told says the same."""
    folder = tmp_path_factory.mktemp("line")
    shutil.copy(template, folder / "node.db")
    line = Line(Database(f"sqlite:///{folder / 'node.db'}"), InstanceFiles(folder / "files"))
    try:
        ordered = effective = -1
        was_read, number = False, 0
        for step in steps:
            _take(line, folder, step)
            with line.database.read() as connection:
                study = studies.get(connection, UID)
            if study is None:
                continue
            now_ordered, now_effective = rank_of(study.ordered_priority), rank_of(study.effective_priority)
            assert now_effective == study.priority_rank
            assert now_effective >= now_ordered >= ordered, step
            assert now_effective >= effective, step
            assert study.ai_priority in ("", "HIGH")
            if not study.flagged:
                assert study.ai_priority == ""
            # An image that comes later opens it again, and may bring its order with it.
            is_read = was_read and study.read_at is not None and step[0] != "arrive"
            if is_read or study.origin == studies.BACKFILL:
                # Nothing but an order speaks for a study of the back catalogue, and nothing for one that was read.
                assert now_effective == (effective if is_read else now_ordered)
            elif step[0].startswith("analyse") and study.flagged and study.status == "analysed":
                assert now_effective >= rank_of("HIGH")
            told = line.notices()
            if len(told) > number:  # what was told is true when it is told
                assert (told[-1].ordered, told[-1].effective) == (study.ordered_priority, study.effective_priority)
            number = len(told)
            ordered, effective, was_read = now_ordered, now_effective, study.read_at is not None
        told = line.notices()
        ranks = [rank_of(notice.effective) for notice in told]
        assert ranks == sorted(ranks)
        assert all(rank_of(notice.effective) >= rank_of(notice.ordered) for notice in told)
        assert all(notice.ai in ("", "HIGH") for notice in told)
    finally:
        line.database.dispose()
        shutil.rmtree(folder, ignore_errors=True)
