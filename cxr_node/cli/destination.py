"""`cxr-node destination`: where results go. Works on the database, so it needs no running node; a running one obeys."""

import argparse
import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from cxr_node.access import shown_url
from cxr_node.clock import utc_now
from cxr_node.deliver import DESTINATIONS, Shelf
from cxr_node.errors import SettingsError
from cxr_node.settings import Destination, Settings
from cxr_node.work.files import instance_files
from storage import Database, Doorbell, deliveries, destination_states, lanes
from storage.destination_states import Counts, DestinationState


def show(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print a paragraph for each destination."""
    if not settings.destination:
        print("no destinations: results stay on the worklist; add a [[destination]] to node.toml")
        return 0
    now = utc_now()
    with _opened(settings) as database, database.read() as connection:
        counts = destination_states.counts(connection, now=now)
        states = {item.name: destination_states.get(connection, item.name) for item in settings.destination}
    for destination in settings.destination:
        name = destination.name
        for line in _lines(destination, states[name], counts.get(name, Counts()), now):
            print(line)
    return 0


def test(settings: Settings, arguments: argparse.Namespace) -> int:
    """Test from this process and say what is wrong; exit status 1 where something is."""
    destination = _named(settings, arguments.name)
    found = trouble_with(settings, destination)
    print(found or f"{destination.name}: {destination.kind} {address_of(destination)}: ready")
    return 1 if found else 0


def pause(settings: Settings, arguments: argparse.Namespace) -> int:
    """Have its lane send nothing more."""
    name = _named(settings, arguments.name).name
    with _opened(settings) as database, database.begin() as connection:
        is_new = lanes.pause(connection, name, by=who(), now=utc_now())
    print(f"{name}: paused; what is being sent now is finished" if is_new else f"{name}: was paused already")
    return 0


def resume(settings: Settings, arguments: argparse.Namespace) -> int:
    """Have its lane go on."""
    name = _named(settings, arguments.name).name
    with _opened(settings) as database:
        with database.begin() as connection:
            was_paused = lanes.resume(connection, name, by=who(), now=utc_now())
        _ring(settings, database)
    print(f"{name}: resumed" if was_paused else f"{name}: was not paused; what waits there is tried at once")
    return 0


def resend(settings: Settings, arguments: argparse.Namespace) -> int:
    """Have deliveries sent again, the same bytes; exit status 1 where the one asked for is not."""
    name = _named(settings, arguments.name).name
    with _opened(settings) as database:
        if arguments.failed:
            number = lanes.resend_failed(database, name, by=who(), now=utc_now())
            said, status = f"{name}: {number} failed {'delivery' if number == 1 else 'deliveries'} sent again", 0
        else:
            said, status = _resend_one(database, name, arguments.delivery)
        _ring(settings, database)
    print(said)
    return status


def _resend_one(database: Database, name: str, delivery_id: int) -> tuple[str, int]:
    with database.begin() as connection:
        delivery = deliveries.get(connection, delivery_id)
        if delivery is None or delivery.destination != name:
            return f"{name}: there is no delivery {delivery_id} to this destination", 1
        done = lanes.resend(connection, delivery_id, by=who(), now=utc_now())
    return (f"{name}: delivery {delivery_id} is sent again", 0) if done.is_sent else (f"{name}: {done.reason}", 1)


def trouble_with(settings: Settings, destination: Destination) -> str:
    """Return what would keep results from getting there, in a sentence; empty where nothing does."""
    database = Database(settings.database_url)
    try:
        shelf = Shelf(database, instance_files(settings))
        return DESTINATIONS[destination.kind](destination, settings=settings, shelf=shelf).test()
    finally:
        database.dispose()


def address_of(destination: Destination) -> str:
    """Return where it is, in the form of its kind."""
    if destination.path or destination.url:
        return destination.path or shown_url(destination.url)
    place = f"{destination.host}:{destination.port}"
    return f"{destination.ae_title}@{place}" if destination.ae_title.strip() else place


def _named(settings: Settings, name: str) -> Destination:
    found = next((item for item in settings.destination if item.name == name), None)
    if found is None:
        known = ", ".join(item.name for item in settings.destination) or "none"
        raise SettingsError(f"{name}: node.toml has no destination of this name, it has {known}")
    return found


def _lines(destination: Destination, state: DestinationState, counts: Counts, now: datetime) -> Iterator[str]:
    yield f"{destination.name}  {destination.kind} {address_of(destination)}  takes {', '.join(destination.sends)}"
    yield f"  state       {_state(state, now)}"
    yield f"  deliveries  {counts.waiting} waiting, {counts.failed} failed, {counts.delivered} arrived in 24 h"
    if state.last_success_at is not None:
        yield f"  arrived     {_time(state.last_success_at)}"
    if state.last_failure_at is not None:
        yield f"  last error  {_time(state.last_failure_at)}  {state.last_error}"
    if state.last_test_at is not None:
        yield f"  last test   {_time(state.last_test_at)}  {state.last_test or 'ready'}"


def _state(state: DestinationState, now: datetime) -> str:
    if state.paused:
        return f"paused by {state.paused_by}"
    if state.resting_until is not None and state.resting_until > now:
        wait_s = (state.resting_until - now).total_seconds()
        return f"left alone for {wait_s:.0f} s after {state.failures} failures in a row"
    return "sending"


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%SZ")


def who() -> str:
    """Return who asks, for the audit trail."""
    try:
        return f"command line ({getpass.getuser()})"
    except (KeyError, OSError):  # a user without a name, as containers have
        return "command line"


def _ring(settings: Settings, database: Database) -> None:
    for topic in ("deliver", "worklist"):
        Doorbell(settings.data_dir / "run", database).ring(topic)


@contextmanager
def _opened(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database_url)
    try:
        database.migrate()
        yield database
    finally:
        database.dispose()
