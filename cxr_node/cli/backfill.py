"""`cxr-node backfill`: have the node fetch and analyse studies of the past, in the foreground."""

import argparse
import getpass
import itertools
import json
import socket
import sys
import threading
from typing import Any

from cxr_node.clock import utc_now
from cxr_node.errors import CxrNodeError, SettingsError
from cxr_node.fetch import Query, Runner, make_source, parse_dates
from cxr_node.fetch.own import own_host
from cxr_node.fetch.run import ACTOR, Progress, only_one
from cxr_node.settings import Settings
from cxr_node.signals import stop_on_signals
from storage import Database, audit, backfills
from storage.backfills import FAILED, STUDY_STATES


def backfill(settings: Settings, arguments: argparse.Namespace) -> int:
    """Plan a run or go on with one; the exit status is 1 where a study failed or the run did not come to its end."""
    _check(arguments)
    database = Database(settings.database_url)
    database.migrate()
    try:
        if arguments.list:
            return _list(database, arguments.json)
        if arguments.dry_run:
            return _dry_run(settings, arguments)
        _check_listener(settings)
        number = arguments.resume if arguments.resume is not None else _plan(settings, database, arguments)
        if number is None:
            print("no such study there")
            return 0
        return _run(settings, database, number, arguments)
    finally:
        database.dispose()


def _check(arguments: argparse.Namespace) -> None:
    if arguments.list or arguments.resume is not None:
        if getattr(arguments, "from") or arguments.dates or (arguments.list and arguments.resume is not None):
            raise SettingsError("expected one of --from with --dates, --resume, --list")
    elif not (getattr(arguments, "from") and arguments.dates):
        raise SettingsError("expected --from NAME and --dates YYYYMMDD-YYYYMMDD, or --resume ID, or --list")
    if arguments.rate < 0 or (arguments.limit is not None and arguments.limit < 1):
        raise SettingsError("expected --rate of 0 or more and --limit of 1 or more")


def _query(arguments: argparse.Namespace) -> Query:
    first, last = parse_dates(arguments.dates)
    return Query(first, last, tuple(arguments.modality or ()), arguments.patient_id)


def _dry_run(settings: Settings, arguments: argparse.Namespace) -> int:
    found = list(
        itertools.islice(make_source(getattr(arguments, "from"), settings).find(_query(arguments)), _most(arguments))
    )
    for study in found:
        print(json.dumps(vars(study)) if arguments.json else f"{study.study_instance_uid}  {study.expected or '?'}")
    if not arguments.json:
        print(f"{len(found)} studies; nothing was fetched")
    return 0


def _most(arguments: argparse.Namespace) -> int | None:
    limit: int | None = arguments.limit
    return limit


def _check_listener(settings: Settings) -> None:
    """Before anything is asked for: what is fetched arrives at the node's own listener."""
    address = (own_host(settings), settings.receive.port)
    try:
        socket.create_connection(address, timeout=5).close()
    except OSError as error:
        raise CxrNodeError(
            f"the node does not listen on {address[0]}:{address[1]} ({error.strerror or error}): start it first"
        ) from error


def _plan(settings: Settings, database: Database, arguments: argparse.Namespace) -> int | None:
    name, query = getattr(arguments, "from"), _query(arguments)
    found = itertools.islice(make_source(name, settings).find(query), _most(arguments))
    expected = {study.study_instance_uid: study.expected for study in found}
    if not expected:
        return None
    record = {**query.record(), "limit": arguments.limit}
    with database.begin() as connection:
        run = backfills.plan(connection, name, record, expected, now=utc_now())
        detail = {"backfill": run.id, "source": name, "studies": len(expected), "by": _user()}
        audit.record(connection, "backfill_planned", actor=ACTOR, now=utc_now(), detail=detail)
    return run.id


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _run(settings: Settings, database: Database, number: int, arguments: argparse.Namespace) -> int:
    with database.read() as connection:
        run = backfills.get(connection, number)
    if run is None:
        raise SettingsError(f"--resume: there is no run {number}; see --list")
    source = make_source(run.source, settings)
    stop = threading.Event()
    stop_on_signals(stop, tell="stopping after this study; once more to stop at once", second_interrupts=True)
    trouble: CxrNodeError | None = None
    is_over = False
    with only_one(settings.data_dir / "run" / f"backfill-{number}.lock"):
        with database.begin() as connection:
            waiting = backfills.resume(connection, number, now=utc_now())
        if not arguments.json:
            print(f"run {number} from {run.source}: {waiting} studies to fetch", flush=True)
        runner = Runner(
            database,
            source,
            rate_per_min=arguments.rate,
            now=utc_now,
            tell=lambda progress: _tell(progress, arguments.json),
            stop=stop,
        )
        try:
            is_over = runner.run(number)
        except CxrNodeError as error:
            trouble = error
    with database.read() as connection:
        counts = backfills.counts(connection, number)
    _summarize(number, counts, is_over, trouble, arguments.json)
    return 0 if is_over and not counts[FAILED] else 1


def _tell(progress: Progress, as_json: bool) -> None:
    study = progress.study.study_instance_uid
    if as_json:
        line = json.dumps({"study_instance_uid": study, "state": progress.state, "reason": progress.reason})
    else:
        reason = f"  {progress.reason}" if progress.reason else ""
        line = f"{progress.number:>6} of {progress.of}  {progress.state:<8} {study}{reason}"
    print(line, flush=True)


def _summarize(number: int, counts: dict[str, int], is_over: bool, trouble: CxrNodeError | None, as_json: bool) -> None:
    if as_json:
        summary: dict[str, Any] = {"run": number, "completed": is_over, "error": str(trouble or ""), **counts}
        print(json.dumps(summary))
    else:
        print("\n".join(f"{state.lower():<10}{counts[state]:>8}" for state in STUDY_STATES))
    if trouble is not None:
        print(trouble, file=sys.stderr)
    if not is_over or counts[FAILED]:
        print(f"go on with: cxr-node backfill --resume {number}", file=sys.stderr)


def _list(database: Database, as_json: bool) -> int:
    with database.read() as connection:
        rows = [(run, backfills.counts(connection, run.id)) for run in backfills.listed(connection)]
    for run, counts in rows:
        if as_json:
            print(json.dumps({"run": run.id, "source": run.source, "state": run.state, **counts}))
        else:
            told = ", ".join(f"{number} {state.lower()}" for state, number in counts.items() if number)
            what = f"{run.source}  {run.query['dates']}  {run.state}  {told}"
            print(f"{run.id:>6}  {run.created_at:%Y-%m-%d %H:%M}Z  {what}")
    return 0
