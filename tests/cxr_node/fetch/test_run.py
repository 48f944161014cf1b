"""A run against a source that does as told."""

import threading
import time
from datetime import UTC, date, datetime

import pytest

from cxr_node.errors import SettingsError, SourceRefused, SourceUnavailable
from cxr_node.fetch import Runner, parse_dates
from cxr_node.fetch.query import Fetched
from cxr_node.fetch.run import ATTEMPTS, IN_A_ROW, missing, only_one
from storage import backfills, instances, studies
from storage.backfills import COMPLETED, FAILED, FETCHED, FETCHING, PLANNED, SKIPPED
from storage.studies import BACKFILL, PatientContext
from tests.databases import migrated

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Source:
    """Does for each study what its list says: an error to raise, or how many instances arrive."""

    def __init__(self, database, **plans) -> None:
        self.database, self.plans, self.asked = database, plans, []

    def find(self, query):
        raise AssertionError

    def fetch(self, uid):
        self.asked.append(uid)
        plan = self.plans.get("s" + uid.replace(".", "_"), [1])
        step = plan.pop(0) if len(plan) > 1 else plan[0]
        if isinstance(step, Exception):
            raise step
        with self.database.begin() as connection:
            studies.touch(connection, uid, PatientContext(), ordered_rank=0, calling_ae_title="PACS", now=NOON)
            studies.set_origin(connection, uid, BACKFILL)
            for number in range(step):
                if not instances.by_sop_instance_uid(connection, f"{uid}.{number}"):
                    add_instance(connection, uid, f"{uid}.{number}")
        return Fetched(step)


def add_instance(connection, study, uid):
    instances.add(
        connection,
        sop_instance_uid=uid,
        series_instance_uid="1.9",
        study_instance_uid=study,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        variant=0,
        size=1,
        location=f"instances/aa/{uid}",
        calling_ae_title="PACS",
        called_ae_title="",
        peer_address="",
        association_id="",
        received_at=NOON,
    )


@pytest.fixture
def database(tmp_path):
    opened = migrated(f"sqlite:///{tmp_path / 'node.db'}")
    yield opened
    opened.dispose()


def plan(database, **expected):
    uids = {name[1:].replace("_", "."): number for name, number in expected.items()}
    with database.begin() as connection:
        return backfills.plan(connection, "pacs", {}, uids, now=NOON).id


def make_runner(database, source, told, *, rate_per_min=0.0, stop=None):
    return Runner(
        database,
        source,
        rate_per_min=rate_per_min,
        now=lambda: NOON,
        tell=told.append,
        stop=stop or threading.Event(),
        pauses_s=(0.0,),
    )


def states(database, run):
    with database.read() as connection:
        return {study.study_instance_uid: study.state for study in backfills.studies_of(connection, run)}


@pytest.mark.requirement("SRS-FET-002")
def test_a_study_is_fetched_when_all_of_it_is_here(database):
    """Short ones are asked for again, a bounded number of times; the run ends all the same."""
    run = plan(database, s1_1=2, s1_2=2, s1_3=0)
    source = Source(database, s1_1=[1, 2], s1_2=[1], s1_3=[3])
    told = []
    assert make_runner(database, source, told).run(run)
    assert states(database, run) == {"1.1": FETCHED, "1.2": FAILED, "1.3": FETCHED}
    assert source.asked == ["1.1", "1.1", *["1.2"] * ATTEMPTS, "1.3"]
    assert [progress.reason for progress in told] == ["", "1 of 2 instances are here", ""]
    with database.read() as connection:
        assert backfills.get(connection, run).state == COMPLETED


@pytest.mark.requirement("SRS-FET-002")
@pytest.mark.parametrize(
    ("expected", "here", "fetched", "said"),
    [
        (2, 2, Fetched(2), ""),
        (0, 2, Fetched(2), ""),
        (0, 1, Fetched(None), ""),
        (2, 3, Fetched(2), ""),
        (0, 0, Fetched(0), "no instance arrived"),
        (0, 1, Fetched(2), "1 of 2 instances are here"),
        (2, 1, Fetched(1, 1, "pacs could not send 1 of 2"), "1 of 2 instances are here: pacs could not send 1 of 2"),
    ],
)
def test_what_is_missing_is_told(expected, here, fetched, said):
    """The database counts, not what the source says it sent."""
    assert missing(expected, here, fetched) == said


@pytest.mark.requirement("SRS-FET-002")
def test_a_study_that_came_by_itself_is_not_asked_for(database):
    """It is live."""
    run = plan(database, s1_1=1)
    with database.begin() as connection:
        studies.touch(connection, "1.1", PatientContext(), ordered_rank=0, calling_ae_title="CR", now=NOON)
    source = Source(database)
    assert make_runner(database, source, []).run(run)
    assert (source.asked, states(database, run)) == ([], {"1.1": SKIPPED})


@pytest.mark.requirement("SRS-FET-003")
def test_a_refusal_of_all_ends_the_run_and_leaves_the_rest_planned(database):
    """An unknown move destination is the same for every study: ten thousand failures would say no more."""
    run = plan(database, s1_1=1, s1_2=1)
    with pytest.raises(SourceRefused, match="add the AE"):
        make_runner(database, Source(database, s1_1=[SourceRefused("add the AE")]), []).run(run)
    assert states(database, run) == {"1.1": PLANNED, "1.2": PLANNED}


@pytest.mark.requirement("SRS-FET-003")
def test_a_source_that_went_silent_ends_the_run_after_a_few_studies(database):
    """One that broke off once does not."""
    gone = SourceUnavailable("it does not answer")
    run = plan(database, s1_1=1, s1_2=1, s1_3=1, s1_4=1, s1_5=1)
    source = Source(database, s1_1=[gone, 1], s1_2=[gone], s1_3=[gone], s1_4=[gone])
    with pytest.raises(SourceUnavailable, match=f"{IN_A_ROW} studies in a row"):
        make_runner(database, source, []).run(run)
    assert states(database, run) == {"1.1": FETCHED, "1.2": FAILED, "1.3": FAILED, "1.4": FAILED, "1.5": PLANNED}
    source.plans = {}
    source.asked.clear()
    with database.begin() as connection:
        later = NOON.replace(hour=13)
        assert backfills.resume(connection, run, now=later) == 4
    assert make_runner(database, source, []).run(run)
    assert source.asked == ["1.5", "1.2", "1.3", "1.4"], "what nobody has tried goes first"


@pytest.mark.requirement("SRS-FET-004")
def test_a_run_keeps_to_its_rate(database):
    """600 a minute: the third starts 0.2 s after the first."""
    run = plan(database, s1_1=1, s1_2=1, s1_3=1)
    started = time.monotonic()
    assert make_runner(database, Source(database), [], rate_per_min=600).run(run)
    assert time.monotonic() - started >= 0.19


@pytest.mark.requirement("SRS-FET-004")
def test_a_stop_ends_it_after_the_study_at_hand(database):
    """Which is whole; the others wait for the next process."""
    run, stop = plan(database, s1_1=1, s1_2=1), threading.Event()
    runner = make_runner(database, Source(database), [], stop=stop)
    fetch = runner._source.fetch
    runner._source.fetch = lambda uid: (stop.set(), fetch(uid))[1]
    assert not runner.run(run)
    assert states(database, run) == {"1.1": FETCHED, "1.2": PLANNED}


@pytest.mark.requirement("SRS-FET-004")
def test_what_was_under_way_is_asked_for_again(database):
    """A process that was killed left it so; half of it is here."""
    run = plan(database, s1_1=2)
    with database.begin() as connection:
        backfills.begin(connection, run, "1.1", now=NOON)
    Source(database, s1_1=[1]).fetch("1.1")
    assert states(database, run) == {"1.1": FETCHING}
    assert make_runner(database, Source(database, s1_1=[2]), []).run(run)
    assert states(database, run) == {"1.1": FETCHED}


@pytest.mark.requirement("SRS-FET-004")
def test_a_run_belongs_to_one_process(tmp_path):
    """Two would ask for everything twice."""
    path = tmp_path / "run" / "backfill-1.lock"
    with only_one(path), pytest.raises(SourceRefused, match="another process"), only_one(path):
        pass
    with only_one(path):
        pass


@pytest.mark.requirement("SRS-FET-001")
def test_dates_are_read_or_refused():
    """A slip of the pen must not ask for ten years."""
    assert parse_dates("20240101") == (date(2024, 1, 1), date(2024, 1, 1))
    assert parse_dates("20240101-20240131") == (date(2024, 1, 1), date(2024, 1, 31))
    for text in ("2024-01-01", "20240132", "20240131-20240101", "", "20240101-"):
        with pytest.raises(SettingsError, match="--dates"):
            parse_dates(text)
