"""The worklist as a query: the same order as the rule, filters that agree with what a row says, exact counts."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from cxr_node.worklist.order import URGENT_RANK, arrange
from storage import deliveries, results, studies, worklist_query
from storage.folding import fold, searched
from storage.studies import PatientContext
from storage.tables import studies as studies_table
from storage.worklist_query import Bounds, Filter, in_turn, page

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MAX_WAIT_MIN = 120.0
MAX_WAIT = timedelta(minutes=MAX_WAIT_MIN)
BOUNDS = Bounds(NOON - timedelta(hours=72), NOON - MAX_WAIT, URGENT_RANK, MAX_WAIT)


def row(uid: str, waited_min: float = 10, rank: int = 1, **more: object) -> dict[str, object]:
    """Return a row of a study that waits to be read."""
    at = NOON - timedelta(minutes=waited_min)
    values = {"status": "analysed", "flagged": False, "modality": "DX", "ordered_rank": 1, "opened_at": None}
    values |= {"verdict": "", "search": "", "revision": 1, "read_at": None, "retired_at": None, "origin": ""}
    times = {"first_received_at": at, "last_received_at": at}
    return {"study_instance_uid": uid, "priority_rank": rank, **values, **times, **more}


def put(connection, *rows: dict[str, object]) -> None:
    connection.execute(studies_table.insert(), list(rows))


def uids(connection, wanted: Filter | None = None, limit: int = 100, **more) -> list[str]:
    return page(connection, wanted or Filter(), BOUNDS, limit=limit, **more).study_instance_uids


@st.composite
def lists(draw: st.DrawFn) -> list[dict[str, object]]:
    """Lists with equal arrival times, clocks that run ahead, and every filter met by some."""
    found = draw(
        st.lists(
            st.tuples(
                st.integers(-5, 300),
                st.integers(0, 4),
                st.sampled_from(["pending", "analysed", "not_analysed", "failed"]),
                st.booleans(),
                st.sampled_from(["CR", "DX"]),
                st.booleans(),
                st.sampled_from(["", "", "agree", "disagree", "unsure"]),
            ),
            max_size=25,
        )
    )
    return [
        row(
            f"1.{number}",
            waited,
            rank,
            status=status,
            flagged=flagged,
            modality=modality,
            opened_at=NOON if opened else None,
            verdict=verdict,
        )
        for number, (waited, rank, status, flagged, modality, opened, verdict) in enumerate(found)
    ]


def meets(found: dict[str, object], wanted: Filter) -> bool:
    """Say of one row what the query says of all."""
    state = "flagged" if found["flagged"] else {"analysed": "not_flagged"}.get(found["status"], found["status"])
    reader = {"agree": "agreed", "disagree": "disagreed", "unsure": "unsure"}.get(
        found["verdict"], "opened" if found["opened_at"] else "new"
    )
    return (
        wanted.state in ("", state)
        and wanted.reader in ("", reader)
        and wanted.modality in ("", found["modality"])
        and (not wanted.overdue or found["first_received_at"] <= BOUNDS.overdue_at)
    )


FILTERS = st.builds(
    Filter,
    state=st.sampled_from(["", *worklist_query.STATES]),
    reader=st.sampled_from(["", *worklist_query.READER_STATES]),
    modality=st.sampled_from(["", "CR"]),
    overdue=st.booleans(),
)


@pytest.mark.requirement("SRS-WLT-501")
@pytest.mark.parametrize("few", [0, 1000])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lists(), FILTERS, st.integers(1, 9))
def test_pages_of_the_query_are_those_of_the_rule(sqlite_database, monkeypatch, few, rows, wanted, limit):
    """What `arrange` proves of the order (nobody starves, nobody flagged is buried) holds of the page, however many
    match."""
    monkeypatch.setattr(worklist_query, "FEW", few)
    with sqlite_database.begin() as connection:
        connection.execute(delete(studies_table))
        if rows:
            put(connection, *rows)
        kept = [item["study_instance_uid"] for item in rows if meets(item, wanted)]
        known = studies.of_uids(connection, kept)
        expected = [study.study_instance_uid for study in arrange(known.values(), NOON, MAX_WAIT_MIN)]
        found = []
        for offset in range(0, len(expected) + limit, limit):
            part = page(connection, wanted, BOUNDS, limit=limit, offset=offset)
            assert part.total == len(expected)
            found += part.study_instance_uids
    assert found == expected
    without_state = Filter(reader=wanted.reader, modality=wanted.modality, overdue=wanted.overdue)
    counted = Counter(
        "flagged" if item["flagged"] else {"analysed": "not_flagged"}.get(item["status"], item["status"])
        for item in rows
        if meets(item, without_state)
    )
    assert part.counts == {state: counted[state] for state in worklist_query.STATES}


@pytest.mark.requirement("SRS-WLT-501")
def test_both_databases_merge_the_queues_alike(database):
    """Urgent and overdue in turn, then the rest; a page deep in the list is the same list."""
    with database.begin() as connection:
        put(connection, *(row(f"urgent{n}", 30 - n, 3) for n in range(3)), row("stat", 1, 4))
        put(connection, *(row(f"overdue{n}", 200 - n) for n in range(2)), row("both", 199.5, 3))
        put(connection, row("medium", 5, 2), row("old", 100), row("young", 50))
        expected = ["stat", "overdue0", "both", "urgent0", "overdue1", "urgent1", "urgent2", "medium", "old", "young"]
        assert uids(connection) == expected
        assert worklist_query.everything(connection, BOUNDS) == expected
        for offset in range(len(expected)):
            assert uids(connection, limit=3, offset=offset) == expected[offset : offset + 3]


@pytest.mark.requirement("SRS-WLT-501")
@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 6), st.integers(1, 14))
def test_the_first_of_each_queue_tell_the_first_of_both(urgent, overdue, shared, length):
    """A page must not have to read the queues to their ends."""
    both = [f"b{n}" for n in range(shared)]
    first = [f"u{n}" for n in range(urgent)] + both
    second = both + [f"o{n}" for n in range(overdue)]
    for turn in (False, True):
        merged = in_turn(first, second, overdue_first=turn)
        assert in_turn(first[:length], second[:length], overdue_first=turn)[:length] == merged[:length]


@pytest.mark.requirement("SRS-WLT-507")
def test_who_always_takes_the_first_line_reads_urgent_and_overdue_in_turn(database):
    """A list is made anew after each reading, and flags arrive all day: without memory nobody else were ever read."""
    taken = []
    with database.begin() as connection:
        put(
            connection,
            *(row(f"urgent{n}", 30 - n, 3) for n in range(4)),
            *(row(f"overdue{n}", 200 - n) for n in range(3)),
        )
        for minute in range(7):
            first = uids(connection, limit=1)[0]
            taken.append(first)
            studies.mark_read(connection, first, NOON + timedelta(seconds=minute))
    assert taken == ["urgent0", "overdue0", "urgent1", "overdue1", "urgent2", "overdue2", "urgent3"]


@pytest.mark.requirement("SRS-WLT-507")
def test_a_study_picked_by_hand_changes_no_turn(database):
    """Neither urgent nor overdue, it was in nobody's place; and of one in both queues the overdue ones had theirs."""
    with database.begin() as connection:
        put(connection, row("urgent", 30, 3), row("overdue", 200), row("other", 10), row("both", 300, 3))
        assert uids(connection)[0] == "both"
        studies.mark_read(connection, "both", NOON)
        assert uids(connection)[:2] == ["urgent", "overdue"]
        studies.mark_read(connection, "other", NOON + timedelta(seconds=1))
        assert uids(connection)[:2] == ["urgent", "overdue"]


@pytest.mark.requirement("SRS-WLT-501")
def test_what_is_off_the_list_is_on_no_page(database):
    """Read, retired, of a back-catalogue run, or past its time although nobody has retired it yet."""
    with database.begin() as connection:
        put(
            connection,
            row("here"),
            row("read", read_at=NOON),
            row("retired", retired_at=NOON),
            row("backfill", origin="backfill"),
        )
        assert uids(connection) == ["here"]
        put(connection, row("past", 72 * 60 + 1, 4, flagged=True, search="past "))
        found = page(connection, Filter(), BOUNDS, limit=10)
        assert (found.study_instance_uids, found.total, found.counts["flagged"]) == (["here"], 1, 0)
        assert uids(connection, Filter(words=("past",))) == []
        assert uids(connection, Filter(study_instance_uid="past")) == []


@pytest.mark.requirement("SRS-WLT-502")
def test_a_study_past_its_time_is_retired_and_comes_back_with_an_image(database):
    """History must not slow the list, and a late image must not be missed."""
    with database.begin() as connection:
        put(connection, row("old", 72 * 60 + 1), row("new"))
        assert studies.retire(connection, before=BOUNDS.since, now=NOON, limit=10) == 1
        assert studies.retire(connection, before=BOUNDS.since, now=NOON, limit=10) == 0
        old = studies.get(connection, "old")
        assert old is not None
        assert old.retired_at == NOON
        assert not studies.is_listed(old, NOON - timedelta(days=99))
        studies.touch(connection, "old", PatientContext(), ordered_rank=1, calling_ae_title="", now=NOON)
        assert uids(connection) == ["old", "new"]


@pytest.mark.requirement("SRS-WLT-503")
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("müller", ["1.1"]),
        ("MULLER jurg", ["1.1"]),
        ("太郎", ["1.2"]),
        ("ﾔﾏﾀﾞ", ["1.2"]),
        ("yamada 山田", ["1.2"]),
        ("p-77", ["1.1"]),
        ("acc9", ["1.2"]),
        ("sorensen", ["1.3"]),
        ("100%", []),
        ("_", ["1.3"]),
        ("jurgen taro", []),
        ("", ["1.1", "1.2", "1.3"]),
    ],
)
def test_a_study_is_found_by_parts_of_name_id_and_accession_number(database, query, found):
    """People type what they remember, on the keyboard they have."""
    known = {
        "1.1": ("Müller^Jürgen", "P-77", "A1"),
        "1.2": ("Yamada^Tarou=山田^太郎=ヤマダ^タロウ", "P2", "ACC9"),
        "1.3": ("Sørensen^Åse", "P_3", "A3"),
    }
    with database.begin() as connection:
        for uid, (name, patient_id, accession_number) in known.items():
            context = PatientContext(patient_name=name, patient_id=patient_id, accession_number=accession_number)
            studies.touch(connection, uid, context, ordered_rank=1, calling_ae_title="", now=NOON)
        assert sorted(uids(connection, Filter(words=tuple(fold(query).split())))) == found
        assert uids(connection, Filter(words=("1.2",), study_instance_uid="1.2")) == ["1.2"]


@pytest.mark.requirement("SRS-WLT-503")
def test_what_a_later_image_tells_first_is_found_too(database):
    """A name that comes with the second image stands where names stand; what is known is not replaced."""
    with database.begin() as connection:
        for context in (
            PatientContext(patient_id="P1"),
            PatientContext(patient_name="Doe^Jane", patient_id="P2", accession_number="A1"),
            PatientContext(patient_name="Roe^Richard"),
        ):
            studies.touch(connection, "1.1", context, ordered_rank=1, calling_ae_title="", now=NOON)
        (kept,) = connection.execute(studies_table.select()).all()
    assert kept.search == searched("Doe^Jane", "P1", "A1") == "doe jane p1 a1 "


@pytest.mark.requirement("SRS-WLT-503")
@given(st.text(max_size=60))
def test_folding_twice_is_folding_once_and_makes_no_separator(text):
    """Query and row are folded by one rule, whatever was written."""
    folded = fold(text)
    assert fold(folded) == folded
    assert "  " not in folded
    assert len(searched(text * 40, text * 40, text * 40).encode()) < 2700 - 64


@pytest.mark.requirement("SRS-WLT-503")
def test_delivery_problems_are_those_of_the_result_that_stands(database):
    """A failed delivery of a superseded revision is nobody's concern any more."""
    with database.begin() as connection:
        for uid, state in (("failed", "FAILED"), ("fine", "DELIVERED"), ("tried", "SCHEDULED"), ("new", "SCHEDULED")):
            put(connection, row(uid))
            result = results.add(
                connection, uid, status="analysed", flagged=False, ai_priority="", outcome={}, now=NOON
            )
            item = deliveries.add(connection, result.id, kind="sr", destination="pacs", now=NOON)
            deliveries.set_state(connection, item.id, state, now=NOON)
        connection.exec_driver_sql("UPDATE deliveries SET attempts = 0 WHERE study_instance_uid = 'new'")
        wanted = Filter(delivery_problem=True)
        assert sorted(uids(connection, wanted)) == ["failed", "tried"]
        assert uids(connection, Filter(delivery_problem=True, study_instance_uid="fine")) == []
        connection.execute(studies_table.update().values(revision=2))
        assert uids(connection, wanted) == []
        connection.execute(studies_table.update().values(status="failed"))
        assert sorted(uids(connection, wanted)) == ["failed", "tried"]


@pytest.mark.requirement("SRS-WLT-503")
@pytest.mark.parametrize(
    ("sort", "found"),
    [
        ("newest", ["d", "c", "b", "a"]),
        ("oldest", ["a", "b", "c", "d"]),
        ("patient", ["b", "d", "a", "c"]),
        ("state", ["c", "d", "a", "b"]),
    ],
)
def test_a_list_can_be_sorted_otherwise(database, sort, found):
    """By arrival, by name, by what the AI says."""
    with database.begin() as connection:
        put(
            connection,
            row("a", 40, search="meier "),
            row("b", 30, search="aal "),
            row("c", 20, search="zorn ", flagged=True),
            row("d", 10, search="beck ", status="pending"),
        )
        assert uids(connection, sort=sort) == found
        assert uids(connection, sort=sort, limit=2, offset=1) == found[1:3]


@pytest.mark.requirement("SRS-WLT-504")
def test_a_reader_s_state_is_kept_until_the_result_changes(database):
    """Who looked first counts; what was said of a result says nothing of the next one; a failed analysis makes none."""

    def outcome(connection, revision: int, status: str = "analysed") -> None:
        studies.set_outcome(
            connection,
            "1.1",
            status=status,
            flagged=False,
            ai_priority="",
            effective_priority="ROUTINE",
            priority_rank=1,
            notified_at=NOON,
            revision=revision,
        )

    with database.begin() as connection:
        put(connection, row("1.1"))
        assert studies.mark_opened(connection, "1.1", "dr.first", NOON)
        assert not studies.mark_opened(connection, "1.1", "dr.second", NOON + timedelta(minutes=1))
        studies.set_verdict(connection, "1.1", "disagree")
        outcome(connection, 1)
        outcome(connection, 2, "failed")
        study = studies.get(connection, "1.1")
        assert study is not None
        assert (study.opened_at, study.opened_by, study.verdict) == (NOON, "dr.first", "disagree")
        outcome(connection, 3)
        study = studies.get(connection, "1.1")
        assert study is not None
        assert (study.opened_by, study.verdict) == ("dr.first", "")
