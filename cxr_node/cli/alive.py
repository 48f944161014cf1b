"""Whether a stage on this host gives signs of life: for the probes of a cluster, or a monitor that asks by command."""

import argparse
import socket
from datetime import timedelta

from cxr_node.clock import utc_now
from cxr_node.errors import CxrNodeError
from cxr_node.settings import Settings
from storage import Database, heartbeats


class NoSignOfLife(CxrNodeError):
    """The stage does not run on this host, or hangs."""


def alive(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print when the stage was last seen.

    Raises
    ------
    NoSignOfLife
        No process of the stage on this host wrote a heartbeat within ``--within`` seconds.
    """
    host, stage, now = socket.gethostname(), arguments.stage, utc_now()
    database = Database(settings.database_url)
    try:
        if not database.is_current():
            raise NoSignOfLife("the database's tables are not those of this release: no stage has started with it")
        with database.read() as connection:
            found = [
                beat
                for beat in heartbeats.listed(connection)
                if beat.stage == stage and beat.process.partition(":")[0] == host
            ]
    finally:
        database.dispose()
    if not found:
        raise NoSignOfLife(f"no process of the stage {stage} on {host}")
    silent_for = now - max(beat.seen_at for beat in found)
    if silent_for > timedelta(seconds=arguments.within):
        raise NoSignOfLife(
            f"the stage {stage} on {host} was last seen {silent_for.total_seconds():.0f} s ago, "
            f"expected within {arguments.within:g} s"
        )
    print(f"{stage} on {host}: {len(found)} process(es), last seen {silent_for.total_seconds():.0f} s ago")
    return 0
