"""The worklist as a query: a page costs what stands before it and on it, never what stands behind.

Reading order merges two queues by index (see `in_turn`), so a page needs the first studies of each and no other row.
What a filter leaves is counted in indexes; few studies are then ordered by themselves, many by walking the queues.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, and_, exists, false, func, or_, select, text, true
from sqlalchemy.engine import Connection

from storage.deliveries import FAILED as DELIVERY_FAILED
from storage.deliveries import SCHEDULED, SUPERSEDED
from storage.studies import ANALYSED, FAILED, NOT_ANALYSED, PENDING
from storage.tables import ON_LIST, deliveries, studies

FLAGGED = "flagged"
NOT_FLAGGED = "not_flagged"
STATES = (FLAGGED, PENDING, NOT_FLAGGED, NOT_ANALYSED, FAILED)
_STATUS_OF = {PENDING: PENDING, NOT_FLAGGED: ANALYSED, NOT_ANALYSED: NOT_ANALYSED, FAILED: FAILED}

NEW, OPENED, AGREED, DISAGREED, UNSURE = "new", "opened", "agreed", "disagreed", "unsure"
READER_STATES = (NEW, OPENED, AGREED, DISAGREED, UNSURE)
VERDICT_OF = {AGREED: "agree", DISAGREED: "disagree", UNSURE: "unsure"}

Sort = Literal["order", "newest", "oldest", "patient", "state"]

Conditions = list[ColumnElement[bool]]
_ON_LIST: Any = text(ON_LIST)  # word for word as the partial indexes say it
# True of every row. SQLite does not see that a partial index holds all that is asked, and would read the rows; a
# condition on its first column has it read the index.
_BY_STATE: Conditions = [studies.c.flagged.in_([False, True])]
_BY_NAME: Conditions = [studies.c.search >= ""]

FEW = 1000  # so many matches are named one by one; more are met soon by walking the list


@dataclass(frozen=True)
class Bounds:
    """Where the list ends and what stands at its top.

    `since`: what received nothing from then on is off the list. `overdue_at`: whose first image came then or before
    has waited for the maximum, which is `max_wait`. `urgent_rank`: from this priority rank on a study is urgent.
    """

    since: datetime
    overdue_at: datetime
    urgent_rank: int
    max_wait: timedelta


@dataclass(frozen=True)
class Filter:
    """Which studies are shown; what is empty leaves out none.

    `state` is one of STATES, each study in exactly one: a flagged one stays flagged while a later image waits or
    fails. `status` is the column. `reader` is one of READER_STATES. `words` are folded, all of them must be in name,
    patient ID or accession number; `study_instance_uid` is another way to be found, matched whole. `delivery_problem`:
    a result object of the current revision failed to reach its destination, or waits after a failed try.
    """

    state: str = ""
    status: str = ""
    modality: str = ""
    reader: str = ""
    ordered_rank: int | None = None
    overdue: bool = False
    delivery_problem: bool = False
    words: tuple[str, ...] = ()
    study_instance_uid: str = ""


@dataclass(frozen=True)
class Found:
    """A page: UIDs in order, how many studies the filter leaves, and how many in each state if it asked for none."""

    study_instance_uids: list[str]
    total: int
    counts: dict[str, int]


def in_turn(urgent: Sequence[str], overdue: Sequence[str], *, overdue_first: bool = False) -> list[str]:
    """Merge two queues, urgent first: the n-th urgent one has the place 2n - 1, the n-th overdue one 2n, and who stands
    in both queues the smaller of its places. With `overdue_first` the two change places.

    Of the first n of each queue the first n of the merged one can be told: nobody behind them comes sooner.
    """
    first, second = (overdue, urgent) if overdue_first else (urgent, overdue)
    places = {uid: 2 * index + 1 for index, uid in enumerate(second)}
    for index, uid in enumerate(first):
        places[uid] = min(2 * index, places.get(uid, 2 * index))
    return sorted(places, key=places.__getitem__)


def is_turn_of_overdue(connection: Connection, urgent_rank: int, max_wait: timedelta) -> bool:
    """Whether an overdue study is to be read next: the one read last was urgent, and had not waited for the maximum.

    So a reader who always takes the first line of a list that is made anew serves both queues in turn, too.
    """
    read = (
        select(studies.c.priority_rank, studies.c.first_received_at, studies.c.read_at)
        .where(studies.c.read_at.is_not(None))
        .order_by(studies.c.read_at.desc())
        .limit(1)
    )
    last = connection.execute(read).first()
    return last is not None and last.priority_rank >= urgent_rank and last.read_at - last.first_received_at < max_wait


def page(
    connection: Connection, wanted: Filter, bounds: Bounds, *, sort: Sort = "order", limit: int, offset: int = 0
) -> Found:
    """Return a page of the studies that wait to be read, and the counts that belong to it.

    Reading order holds among the studies that are shown: the rule of the whole list, applied to what the filter leaves.
    """
    query = _Query(connection, bounds)
    narrow = query.narrow(wanted)
    counts = query.counts(wanted, narrow)
    total = counts[wanted.state] if wanted.state else sum(counts.values())
    if narrow is None and total <= FEW and wanted != Filter():
        conditions: Conditions = [studies.c.id.in_(query.ids(_conditions(wanted, bounds, None)))]
    else:
        # Many match, so the first of them are met soon on the way through the list; sorting all would take longer.
        conditions = _conditions(wanted, bounds, narrow, is_indexed=False)
    return Found(query.ordered(conditions, sort, limit, offset), total, counts)


def everything(connection: Connection, bounds: Bounds) -> list[str]:
    """Return the UIDs of the whole list, in reading order."""
    return _Query(connection, bounds).ordered([], "order", None, 0)


class _Query:
    """Asks about the list as it stands within one transaction."""

    def __init__(self, connection: Connection, bounds: Bounds) -> None:
        self._connection = connection
        self._bounds = bounds
        self._stay: Conditions = [_ON_LIST]
        # Upkeep retires studies every minute. Only where one is past its time and still there is every row asked, and
        # no index tells enough any more.
        past = select(studies.c.id).where(_ON_LIST, studies.c.last_received_at < bounds.since).limit(1)
        if connection.execute(past).first() is not None:
            self._stay.append(studies.c.last_received_at >= bounds.since)

    def narrow(self, wanted: Filter) -> Conditions | None:
        """Return the conditions on text, UID and deliveries, which no index of the list answers in order; None without
        them. Few matches are named by their ids."""
        problem: Conditions = [_has_delivery_problem()] if wanted.delivery_problem else []
        named: Conditions = [studies.c.search.contains(word, autoescape=True) for word in wanted.words]
        of_uid: Conditions = []
        if wanted.study_instance_uid:
            of_uid = [studies.c.study_instance_uid == wanted.study_instance_uid]
        if not problem and not named and not of_uid:
            return None
        found = []
        if named or not of_uid:
            by_name = [] if problem else _BY_NAME
            found = self._all(select(studies.c.id).where(*self._stay, *by_name, *problem, *named).limit(FEW + 1))
        if len(found) > FEW:
            return problem + named
        if of_uid:
            found += self._all(select(studies.c.id).where(*self._stay, *problem, *of_uid))
        return [studies.c.id.in_(found)]

    def counts(self, wanted: Filter, narrow: Conditions | None) -> dict[str, int]:
        """Return how many studies each state has under all other filters."""
        conditions = _conditions(replace(wanted, state=""), self._bounds, narrow)
        if not conditions:
            # The commonest state by what the others leave: to count all is a third of a walk that looks at each.
            rare = [state for state in STATES if state != NOT_FLAGGED]
            counts = {state: self._count(_conditions(Filter(state=state), self._bounds, None)) for state in rare}
            return {**counts, NOT_FLAGGED: self._count([]) - sum(counts.values())}
        if narrow is None:
            conditions += _BY_STATE
        elif len(conditions) == len(narrow) and not wanted.delivery_problem:
            conditions += _BY_NAME
        # Not grouped: that would sort.
        columns = [func.count().filter(*_conditions(Filter(state=state), self._bounds, None)) for state in STATES]
        row = self._connection.execute(select(*columns).select_from(studies).where(*self._stay, *conditions)).one()
        return dict(zip(STATES, row, strict=True))

    def ids(self, conditions: Conditions) -> list[int]:
        """Return the rows that meet the conditions, which must be on columns of the index by state."""
        return self._all(select(studies.c.id).where(*self._stay, *_BY_STATE, *conditions))

    def ordered(self, conditions: Conditions, sort: Sort, limit: int | None, offset: int) -> list[str]:
        """Return the UIDs of a page."""
        uid, first = studies.c.study_instance_uid, studies.c.first_received_at
        plain = select(uid).where(*self._stay, *conditions)
        if sort != "order":
            columns: dict[str, tuple[Any, ...]] = {
                "newest": (first.desc(), uid.desc()),
                "oldest": (first, uid),
                "patient": (studies.c.search, uid),
                "state": (studies.c.flagged.desc(), studies.c.status.desc(), first, uid),
            }
            return self._all(plain.order_by(*columns[sort]).limit(limit).offset(offset))
        end = None if limit is None else offset + limit
        is_urgent = studies.c.priority_rank >= self._bounds.urgent_rank
        is_overdue = first <= self._bounds.overdue_at
        by_priority = (studies.c.priority_rank.desc(), first, uid)
        top = in_turn(
            self._all(plain.where(is_urgent).order_by(*by_priority).limit(end)),
            self._all(plain.where(is_overdue).order_by(first, uid).limit(end)),
            overdue_first=is_turn_of_overdue(self._connection, self._bounds.urgent_rank, self._bounds.max_wait),
        )
        chosen = top[offset:end]
        if end is None or len(top) < end:
            # Both queues are used up: the rest is who stands in neither.
            rest = plain.where(~is_urgent, ~is_overdue).order_by(*by_priority)
            left = None if limit is None else limit - len(chosen)
            chosen += self._all(rest.limit(left).offset(max(0, offset - len(top))))
        return chosen

    def _count(self, conditions: Conditions) -> int:
        statement = select(func.count()).select_from(studies).where(*self._stay, *conditions)
        return int(self._connection.execute(statement).scalar_one())

    def _all(self, statement: Select[Any]) -> list[Any]:
        return list(self._connection.execute(statement).scalars())


def _has_delivery_problem() -> ColumnElement[bool]:
    problem = or_(
        deliveries.c.state == DELIVERY_FAILED, and_(deliveries.c.state == SCHEDULED, deliveries.c.attempts > 0)
    )
    # Of the current revision; where that is a failed analysis, of an earlier one that stands.
    of_now = or_(
        deliveries.c.revision == studies.c.revision,
        and_(studies.c.status == FAILED, deliveries.c.revision < studies.c.revision, deliveries.c.state != SUPERSEDED),
    )
    of_study = deliveries.c.study_instance_uid == studies.c.study_instance_uid
    return and_(
        studies.c.study_instance_uid.in_(select(deliveries.c.study_instance_uid).where(problem)),
        exists().where(of_study, of_now, problem),
    )


def _conditions(wanted: Filter, bounds: Bounds, narrow: Conditions | None, *, is_indexed: bool = True) -> Conditions:
    """Return what the rows must meet; not `is_indexed` keeps a database from taking the index by state for it."""
    found: Conditions = list(narrow or ())
    flagged = studies.c.flagged if is_indexed else func.coalesce(studies.c.flagged, false())
    if wanted.state == FLAGGED:
        found.append(flagged == true())
    elif wanted.state:
        found += [flagged == false(), studies.c.status == _STATUS_OF[wanted.state]]
    if wanted.status:
        found.append(studies.c.status == wanted.status)
    if wanted.modality:
        found.append(studies.c.modality == wanted.modality)
    if wanted.ordered_rank is not None:
        found.append(studies.c.ordered_rank == wanted.ordered_rank)
    if wanted.overdue:
        found.append(studies.c.first_received_at <= bounds.overdue_at)
    if wanted.reader in VERDICT_OF:
        found.append(studies.c.verdict == VERDICT_OF[wanted.reader])
    elif wanted.reader:
        is_new = studies.c.opened_at.is_(None)
        found += [studies.c.verdict == "", is_new if wanted.reader == NEW else ~is_new]
    return found
