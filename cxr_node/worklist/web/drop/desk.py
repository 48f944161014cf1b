"""Takes what somebody tries, keeps it for minutes, and hands it to the stage that looks at images."""

import contextlib
import os
import secrets
import shutil
import socket
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from fastapi import HTTPException
from sqlalchemy.engine import Connection
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from cxr_node.worklist.services import Services
from cxr_node.worklist.web.access import Person
from cxr_node.worklist.web.drop.unpack import ZIP, sniff, unpack
from storage import Doorbell, audit, drops, heartbeats, jobs
from storage.drops import DONE, REFUSED, WAITING, Drop, DropFile, DropFolder, kind_here

GONE = "there is nothing under this key: it was cleared, or its time is up"
NOT_HERE = (
    "images are tried on the host that takes them, and no {stage} process runs on this one ({host}): "
    "open the page on a host that runs it"
)
SILENT_AFTER = timedelta(seconds=60)  # a process gives a sign of life every five
MOST_AT_ONCE = 6  # uploads of one person; a page sends three
MOST_OPEN = 4  # of one person; the oldest goes when there is one more
PRIORITY = -1  # after what somebody waits for on a study's page
LONGEST_NAME = 255
_LOOK_AT_DISK_EVERY = 16 << 20
_PICTURES = ("PNG", "JPEG")

_under_way: Counter[str] = Counter()  # uploads by owner, in this process

Sent = Literal["", "on its way", "taken", "refused"]


@dataclass(frozen=True)
class Sending:
    """What became of a file that was sent to the worklist; empty where it was not."""

    state: Sent = ""
    reason: str = ""


class DropDesk:
    """What the routes do. A drop belongs to who opened it: to others it is not there."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._database = services.database
        self._settings = services.settings.worklist.drop
        self.folder = DropFolder(services.settings.data_dir / "drops")
        self._inbox = services.settings.data_dir / "inbox"

    @property
    def largest(self) -> int:
        """The bytes that one drop may hold together."""
        return int(self._settings.max_upload_mb * 1e6)

    def open(self, person: Person, *, purpose: str, population: str) -> Drop:
        """Open a drop; of those that the person left open, the oldest may go.

        Raises
        ------
        HTTPException
            503: nothing looks at images on this host.
        """
        if not self._runs_here("analyze"):
            raise HTTPException(503, NOT_HERE.format(host=socket.gethostname(), stage="analyze"))
        now, owner = self._services.now(), _owner(person)
        gone: list[str] = []
        with self._database.begin() as connection:
            for old in drops.of_owner(connection, owner)[: -MOST_OPEN + 1]:
                gone += drops.remove(connection, old.id)
            drop = drops.add(
                connection,
                owner=owner,
                purpose=purpose,
                options={"population": population},
                now=now,
                expires_at=self._until(now),
            )
        self.folder.delete(gone)
        self._services.audit.record("images_tried", actor=person.name, role=person.role, purpose=purpose)
        return drop

    def find(self, person: Person, key: str) -> Drop:
        """Return the person's drop of that key; 404 where there is none."""
        with self._database.read() as connection:
            drop = drops.find(connection, key, now=self._services.now())
        if drop is None or drop.owner != _owner(person):
            raise HTTPException(404, GONE)
        return drop

    def files(self, drop: Drop) -> list[DropFile]:
        """Return its files in the order they came."""
        with self._database.read() as connection:
            return drops.files(connection, drop.id)

    def file(self, drop: Drop, file_id: int) -> DropFile:
        """Return one file of it; 404 where there is none."""
        with self._database.read() as connection:
            found = drops.get_file(connection, file_id)
        if found is None or found[1].drop_id != drop.id:
            raise HTTPException(404, GONE)
        return found[1]

    def clear(self, drop: Drop) -> None:
        """Delete everything of it."""
        with self._database.begin() as connection:
            gone = drops.remove(connection, drop.id)
        self.folder.delete(gone)

    def state_population(self, drop: Drop, population: str) -> None:
        """Take note of whom the pictures show, and have those looked at again that were."""
        now = self._services.now()
        with self._database.begin() as connection:
            drops.change(connection, drop.id, options={**drop.options, "population": population})
            for file in drops.files(connection, drop.id):
                was_looked_at = file.state == DONE and file.result.get("kind") in _PICTURES
                if was_looked_at:
                    drops.settle(connection, file.id, state=WAITING, now=now)
                if was_looked_at or file.state == WAITING:  # it may be looked at just now, by what was said before
                    self._schedule(connection, file, now)
        self._ring()

    async def take(self, drop: Drop, name: str, size: int | None, body: AsyncIterator[bytes]) -> list[DropFile]:
        """Take one file as it comes, and return what it became: itself, or the files of a zip.

        Raises
        ------
        HTTPException
            413: it is larger than what the drop may still hold, or there are too many; 429: too many at once; 507: the
            disk is full.
        """
        if _under_way[drop.owner] >= MOST_AT_ONCE:
            raise HTTPException(429, f"at most {MOST_AT_ONCE} uploads at a time")
        _under_way[drop.owner] += 1
        try:
            return await self._take(drop, name, size, body)
        except ClientDisconnect:
            raise HTTPException(400, "the upload was cut off") from None
        except OSError as error:
            raise self._full() from error
        finally:
            _under_way[drop.owner] -= 1

    async def _take(self, drop: Drop, name: str, size: int | None, body: AsyncIterator[bytes]) -> list[DropFile]:
        count, used = await run_in_threadpool(self._used, drop)
        if count >= self._settings.max_files:
            raise HTTPException(413, f"at most {self._settings.max_files} files can be tried at a time")
        left = self.largest - used
        if size is not None and size > left:
            raise self._too_large()
        location = self.folder.new()
        path = self.folder.path(location)
        rows: list[DropFile] = []
        try:
            await self._write(path, body, left)
            rows = await run_in_threadpool(self._sort, drop, _printable(name), location, left, count)
        finally:
            if not any(row.location == location for row in rows):
                path.unlink(missing_ok=True)
        return rows

    def _used(self, drop: Drop) -> tuple[int, int]:
        with self._database.read() as connection:
            return drops.used(connection, drop.id)

    async def _write(self, path: Path, body: AsyncIterator[bytes], left: int) -> None:
        written, looked_at = 0, -_LOOK_AT_DISK_EVERY
        with path.open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            async for chunk in body:
                if written - looked_at >= _LOOK_AT_DISK_EVERY:
                    looked_at = written
                    if self._is_nearly_full():
                        raise self._full()
                written += len(chunk)
                if written > left:
                    raise self._too_large()
                await run_in_threadpool(file.write, chunk)

    def _is_nearly_full(self) -> bool:
        """Room is for studies: below what receiving asks for, nothing more is tried."""
        return self.folder.free_bytes() < self._services.settings.receive.min_free_gb * 1e9

    @staticmethod
    def _full() -> HTTPException:
        return HTTPException(507, "the node's disk is nearly full; nothing more can be tried now")

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"at most {self._settings.max_upload_mb:g} MB can be tried at a time")

    def _sort(self, drop: Drop, name: str, location: str, left: int, count: int) -> list[DropFile]:
        """Decide by the first bytes what becomes of a file that is here."""
        path = self.folder.path(location)
        size = path.stat().st_size
        found = sniff(path) if size else "empty"
        if found == ZIP:
            return self._unpack(drop, name, path, left, count)
        if found:
            reason = f"{found}; DICOM, PNG, JPEG and zip are looked at" if size else "the file is empty"
            return [self._add(drop, name, reason=reason)]
        return [self._add(drop, name, location=location, size=size)]

    def _unpack(self, drop: Drop, name: str, path: Path, left: int, count: int) -> list[DropFile]:
        made: list[str] = []

        def new_path() -> Path:
            made.append(self.folder.new())
            return self.folder.path(made[-1])

        rows: list[DropFile] = []
        most = self._settings.max_files - count
        for entry in unpack(path, new_path, most_files=most, most_bytes=left):
            shown = _printable(f"{name}/{entry.name}" if entry.name else name)
            if entry.path is None:
                rows.append(self._add(drop, shown, reason=entry.reason))
                continue
            if self._is_nearly_full():
                entry.path.unlink()
                raise self._full()
            found = sniff(entry.path) if entry.size else "empty"
            if found:
                entry.path.unlink()
                reason = f"{found}; DICOM, PNG and JPEG are looked at" if entry.size else "the file is empty"
                rows.append(self._add(drop, shown, reason=reason))
                continue
            rows.append(self._add(drop, shown, location=entry.path.name, size=entry.size))
        return rows

    def _add(self, drop: Drop, name: str, *, location: str = "", size: int = 0, reason: str = "") -> DropFile:
        """Add a file that waits under `location`, or one that is refused with `reason`."""
        now = self._services.now()
        with self._database.begin() as connection:
            is_there = drops.find(connection, drop.key, now=now) is not None
            count, used = drops.used(connection, drop.id)
            # Uploads run beside one another: each alone may have had room.
            has_room = count < self._settings.max_files and used + size <= self.largest
            is_taken = bool(location) and is_there and has_room
            if is_there:
                file = drops.add_file(
                    connection,
                    drop.id,
                    name=name,
                    state=WAITING if is_taken else REFUSED,
                    now=now,
                    location=location if is_taken else "",
                    size=size if is_taken else 0,
                    reason=reason if has_room or not location else "with it there would be too much",
                )
                drops.change(connection, drop.id, expires_at=self._until(now))
            if is_taken:
                self._schedule(connection, file, now)
        if is_taken:
            self._ring()
        elif location:
            self.folder.delete([location])
        if not is_there:
            raise HTTPException(404, GONE)
        return file

    def _until(self, now: datetime) -> datetime:
        return now + timedelta(minutes=self._settings.keep_min)

    def _schedule(self, connection: Connection, file: DropFile, now: datetime) -> None:
        kind = kind_here(self._database, self._services.settings.data_dir / "run")
        jobs.schedule(connection, kind, str(file.id), run_at=now, now=now, priority=PRIORITY)

    def _runs_here(self, stage: str) -> bool:
        """Whether a process of the stage lives on this host: with a database of one file there is no other."""
        if self._database.dialect == "sqlite":
            return True
        host, since = socket.gethostname(), self._services.now() - SILENT_AFTER
        with self._database.read() as connection:
            living = [beat for beat in heartbeats.listed(connection) if beat.stage == stage and beat.seen_at >= since]
        return any(beat.process.rpartition(":")[0] == host for beat in living)

    def _ring(self) -> None:
        Doorbell(self._services.settings.data_dir / "run", self._database).ring("side")

    def send(self, person: Person, file: DropFile) -> DropFile:
        """Put a DICOM file where the intake looks: from there on it is received like any other.

        Raises
        ------
        HTTPException
            403: nobody signed in, and what is received needs a name that did it; 409: no DICOM, or sent already; 503:
            nothing receives on this host.
        """
        if person.via == "open":
            raise HTTPException(403, "sign in first: it is written down who sends an image to the worklist")
        if file.result.get("kind") != "DICOM":
            raise HTTPException(409, "only a DICOM file can be sent to the worklist")
        if self.sending(file).state in ("on its way", "taken"):
            raise HTTPException(409, "it was sent already")
        if not self._runs_here("receive"):
            raise HTTPException(503, NOT_HERE.format(host=socket.gethostname(), stage="receive"))
        now, name = self._services.now(), f"{secrets.token_hex(8)}.dcm"
        result = {**file.result, "sent": {"name": name, "by": person.name}}
        with self._database.begin() as connection:
            drops.settle(connection, file.id, state=file.state, now=now, result=result)
            audit.record(
                connection,
                "image_sent_to_worklist",
                actor=person.name,
                now=now,
                study_instance_uid=str(file.result.get("study_instance_uid") or ""),
                detail={"role": person.role, "sop_instance_uid": file.result.get("sop_instance_uid")},
            )
            # Last, so that what is received was written down; a crash in between leaves an entry and no image.
            self._put(self.folder.path(file.location), name)
        return self._again(file.id)

    def _put(self, source: Path, name: str) -> None:
        self._inbox.mkdir(mode=0o700, parents=True, exist_ok=True)
        hidden = self._inbox / f".{name}"
        shutil.copyfile(source, hidden)
        hidden.rename(self._inbox / name)

    def sending(self, file: DropFile) -> Sending:
        """Return what became of a file that was sent: the intake takes it away, or puts it aside with a reason."""
        sent: dict[str, Any] = file.result.get("sent") or {}
        if not sent:
            return Sending()
        name = str(sent["name"])
        reason = self._inbox / ".failed" / f"{name}.reason.txt"
        with contextlib.suppress(OSError):
            told = reason.read_text(encoding="utf-8").partition("\n")[0]
            return Sending("refused", told.removeprefix("Not taken by cxr-node: "))
        return Sending("on its way" if (self._inbox / name).exists() else "taken")

    def _again(self, file_id: int) -> DropFile:
        with self._database.read() as connection:
            found = drops.get_file(connection, file_id)
        if found is None:
            raise HTTPException(404, GONE)
        return found[1]


def _owner(person: Person) -> str:
    return f"{person.via}:{person.name}"


def _printable(name: str) -> str:
    """A name for people: of what it was the end, if it is long; never part of a path."""
    clean = "".join(sign if sign.isprintable() else "\ufffd" for sign in name)
    return clean if len(clean) <= LONGEST_NAME else f"…{clean[-LONGEST_NAME + 1 :]}"
