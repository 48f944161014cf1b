"""`cxr-node audit`: is the trail what was sealed, where does its chain end, and how is its beginning cut off."""

import argparse
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from cxr_node.cli.user import ACTOR, open_database
from cxr_node.clock import utc_now
from cxr_node.errors import CxrNodeError
from cxr_node.settings import Settings
from storage import Database, audit, audit_chain, audit_verification
from storage.audit_chain import Seal
from storage.audit_verification import Verification


def verify(settings: Settings, arguments: argparse.Namespace) -> int:
    """Verify the whole chain, while the node runs; 0 when it is whole, 1 when it is not."""
    with open_database(settings) as database:
        found = audit_verification.verify(database, head=arguments.head.strip().lower())
    assert found is not None  # only who asks to stop is given None
    for line in sentences(found, arguments.head.strip().lower()):
        print(line)
    return 0 if found.is_whole else 1


def sentences(found: Verification, head: str) -> list[str]:
    """Return what a verification found, a sentence a line."""
    lines = [f"{found.entries:,} entries under {found.seals:,} seals."]
    if found.inherited:
        lines.append(
            f"{found.inherited:,} of them are older than the chain: sealed as they were found, not vouched for."
        )
    if found.cut_before:
        lines.append(f"The beginning was cut off: the first seal that is left is number {found.cut_before}.")
    if found.unsealed:
        since = "" if found.unsealed_since is None else f", the first of {found.unsealed_since:%Y-%m-%d %H:%M:%S} UTC"
        lines.append(f"{found.unsealed:,} entries are not sealed yet{since}: nothing is said of them.")
    if found.late:
        lines.append(
            f"{found.late:,} entries were sealed more than an hour after the time they bear, the first is entry "
            f"{found.first_late}: upkeep stood still then, or somebody added them with an old time."
        )
    for item in found.breaks:
        lines.append(f"BROKEN  {item}")
    if found.broken > len(found.breaks):
        lines.append(f"BROKEN  and {found.broken - len(found.breaks):,} more")
    if found.is_head_known is False:
        lines.append(
            f"BROKEN  no seal has the digest {head}: entries were cut off at the end of the trail, or the chain was "
            "made anew, or an older copy of the database was restored."
        )
    if found.broken and found.good_to is not None:
        lines.append(f"Whole up to the seal of {found.good_to:%Y-%m-%d %H:%M:%S} UTC.")
    if found.is_whole:
        lines.append(f"Whole. Its end: seal {found.head_number}, {found.head}")
        if not head:
            lines.append(
                "That nothing was cut off at the end shows only with --head and a digest kept outside the node."
            )
    return lines


def head(settings: Settings, arguments: argparse.Namespace) -> int:
    """Seal what is new and print the digest of the chain's end, to be kept where nobody who administers the node may
    write."""
    with open_database(settings) as database:
        link = _sealed(database)
    print(f"{link.digest}  seal {link.number}, {link.created_at:%Y-%m-%d %H:%M:%S} UTC")
    return 0


def _sealed(database: Database) -> Seal:
    while True:
        with database.read() as connection:
            if not audit_chain.has_unsealed(connection):
                return audit_chain.head(connection)
        with database.begin() as connection:
            audit_chain.seal(connection, now=utc_now())


def cut(settings: Settings, arguments: argparse.Namespace) -> int:
    """Write the links made before that day to a file, then take them away; the trail itself tells of it."""
    before = arguments.before if arguments.before.tzinfo else arguments.before.replace(tzinfo=UTC)
    with open_database(settings) as database:
        found = audit_verification.verify(database)
        if found is None or not found.is_whole:
            raise CxrNodeError("the audit trail is not whole (cxr-node audit verify): nothing was cut off")
        with database.read() as connection:
            last = audit_chain.last_before(connection, before=before)
        if last is None:
            print(f"nothing was sealed before {before:%Y-%m-%d %H:%M} UTC")
            return 0
        entries = _archive(database, last, arguments.to)
        _take_away(database, last, entries, arguments.to, utc_now())
        _sealed(database)
    print(f"{entries:,} entries up to seal {last.number} are in {arguments.to} and no longer in the trail")
    return 0


def _archive(database: Database, last: Seal, path: Path) -> int:
    entries = 0
    try:
        with path.open("x", encoding="utf-8") as out:
            os.fchmod(out.fileno(), 0o600)
            with database.read() as connection:
                for rows in audit_chain.sealed_up_to(connection, last.number):
                    for row in rows:
                        out.write(json.dumps({**row._mapping, "created_at": _time(row.created_at)}) + "\n")
                    entries += len(rows)
            out.write(json.dumps({"cut": {"seal": last.number, "digest": last.digest}}) + "\n")
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise CxrNodeError(f"{path}: {error.strerror}, expected a file that is not there yet") from error
    return entries


def _time(value: object) -> str:
    try:
        return audit_chain.moment(value).isoformat() if isinstance(value, (str, datetime)) else str(value)
    except ValueError:
        return str(value)


def _take_away(database: Database, last: Seal, entries: int, path: Path, now: datetime) -> None:
    with database.begin() as connection:
        gone = audit_chain.cut(connection, last.number)
        if gone != entries:
            raise CxrNodeError(f"{gone} entries would be taken away and {entries} are in {path}: nothing was cut off")
        detail = {"seal": last.number, "digest": last.digest, "entries": entries, "file": path.name}
        audit.record(connection, audit_verification.CUT, actor=ACTOR, now=now, detail=detail)
