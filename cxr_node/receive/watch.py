"""A watched folder, the third way in: files put there are taken by the same intake, and removed once it has them.

A file is removed only after the commit that names its bytes, so a kill at any moment loses none; one that was taken
and not removed is known when it is taken again. Files that nobody can take go to ``.failed``, each beside a text that
says why. Names of files are never logged, for they may be names of patients: an inode number stands for a file.
"""

import contextlib
import errno
import os
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cxr_node import metrics
from cxr_node.clock import utc_now
from cxr_node.log import get_logger
from cxr_node.receive.intake import Intake
from cxr_node.receive.part10 import describe, is_part_10, write_part_10_head
from cxr_node.receive.records import Sender
from cxr_node.receive.statuses import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, SUCCESS, UNEXPECTED, Answer
from storage import InstanceFiles
from storage.errors import StorageError
from storage.faults import fault_point

log = get_logger("receive")

CALLING = "FOLDER"  # calling AE title of what comes this way
CALLING_DROP = "DROP_PAGE"  # of what somebody sent from the page where images are tried
FAILED, DONE = ".failed", ".done"
POLL_S = 1.0
FULL_PAUSE_S = 10.0  # before a full disk is tried again
TROUBLE_PAUSE_S = 60.0  # before a file is tried again that could not be read or moved
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNFINISHED = (".part", ".tmp", ".partial", ".filepart", ".crdownload")


@dataclass(frozen=True)
class _State:
    """What tells one content of a file from another."""

    device: int
    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "_State":
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass
class _Seen:
    """A file that lies in the folder. `is_told` once the log says that it cannot be taken."""

    state: _State
    since: float
    is_told: bool = False


class WatchedFolder:
    """Looks into the folder from `start` until `close`.

    Parameters
    ----------
    settle_s : a file is taken once size and time have stayed equal for this long
    keep : move what was taken to ``.done`` in the folder instead of deleting it
    clock : monotonic seconds
    """

    def __init__(
        self,
        folder: Path,
        intake: Intake,
        files: InstanceFiles,
        *,
        called_ae_title: str,
        settle_s: float,
        keep: bool,
        calling_ae_title: str = CALLING,
        now: Callable[[], datetime] = utc_now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._intake, self._files = folder, intake, files
        self._calling_ae_title, self._called_ae_title = calling_ae_title, called_ae_title
        self._settle_s, self._keep, self._now, self._clock = settle_s, keep, now, clock
        self._seen: dict[str, _Seen] = {}
        self._rests_until = 0.0
        self._is_missing = False
        self._unreadable: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="receive-watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """End after the file that is being taken."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(5)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except Exception as error:  # the next look may fare better, and nothing was removed
                log.error("watch_failed", exc_info=error)
            self._stop.wait(POLL_S)

    def look(self) -> int:
        """Take every file that has settled; return how many were taken or put aside."""
        if self._clock() < self._rests_until:
            return 0
        found = dict(self._files_below())
        self._seen = {name: seen for name, seen in self._seen.items() if name in found}
        due = [name for name, status in found.items() if self._is_settled(name, _State.of(status))]
        if not due:
            return 0
        sender = Sender(self._calling_ae_title, self._called_ae_title, "", secrets.token_hex(8))
        studies: set[str] = set()
        ended = 0
        for name in due:
            if self._stop.is_set():
                break
            if not self._intake.has_room():
                self._rest("less free space than min_free_gb")
                break
            ended += self._take(name, self._seen[name], sender, studies)
            if self._clock() < self._rests_until:
                break
        if len(found) == len(due):  # nothing is on its way: what is here need not wait for the quiet period
            self._intake.hasten(studies, now=self._now)
        return ended

    def _files_below(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield path and status of every file to be taken; hidden ones and links are none, nor what is unfinished."""
        waiting = [str(self._folder)]
        while waiting:
            current = waiting.pop()
            try:
                with os.scandir(current) as entries:
                    for entry in entries:
                        if entry.name.startswith(".") or entry.name.lower().endswith(_UNFINISHED):
                            continue
                        with contextlib.suppress(FileNotFoundError):
                            if entry.is_dir(follow_symlinks=False):
                                waiting.append(entry.path)
                            elif entry.is_file(follow_symlinks=False):
                                yield entry.path, entry.stat(follow_symlinks=False)
            except OSError as error:
                self._cannot_list(current, error)
                continue
            self._unreadable.discard(current)
            if current == str(self._folder) and self._is_missing:
                self._is_missing = False
                log.info("watch_folder_back")

    def _cannot_list(self, folder: str, error: OSError) -> None:
        """Once for each; a share that is not mounted must not end the listener beside it."""
        if folder == str(self._folder):
            if not self._is_missing:
                self._is_missing = True
                log.error("watch_folder_missing", errno=error.errno, error_type=type(error).__name__)
        elif folder not in self._unreadable:
            self._unreadable.add(folder)
            log.warning("watch_folder_unreadable", errno=error.errno, error_type=type(error).__name__)

    def _is_settled(self, name: str, state: _State) -> bool:
        seen = self._seen.get(name)
        if seen is None or seen.state != state:
            self._seen[name] = seen = _Seen(state, self._clock())
        return self._clock() - seen.since >= self._settle_s

    def _take(self, name: str, seen: _Seen, sender: Sender, studies: set[str]) -> int:
        """Take one file; return 1 where it is gone from here."""
        source = Path(name)
        try:
            temporary = self._files.new_temporary()
            try:
                has_uids = self._copy(source, temporary, seen.state)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        except _Changed:
            return 0
        except FileNotFoundError:
            return 0  # whoever put it there took it away
        except OSError as error:
            if error.errno in _NO_SPACE:
                self._rest("no space left")
            else:
                self._leave(seen, "watch_file_unreadable", error)
            return 0
        answer = self._answer(temporary, has_uids, sender, studies)
        metrics.INSTANCES.labels(f"0x{answer.status:04X}").inc()
        if answer.status == OUT_OF_RESOURCES:
            self._rest(answer.comment)
            return 0
        try:
            if answer.status == SUCCESS:
                fault_point("receive.before-remove")
                self._remove(source, seen.state)
            else:
                self._put_aside(source, answer)
                log.warning(
                    "watch_file_refused",
                    inode=seen.state.inode,
                    status=f"0x{answer.status:04X}",
                    reason=answer.comment,
                )
        except OSError as error:
            self._leave(seen, "watch_file_not_moved", error)
            return 0
        return 1

    def _copy(self, source: Path, target: Path, state: _State) -> bool:
        """Copy as a Part 10 file; False where the source is no DICOM dataset at all.

        Raises
        ------
        _Changed
            Somebody writes to it after all.
        """
        # Not through a link that took the file's place meanwhile, and not into a pipe.
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as reading, target.open("xb") as writing:
            before = os.fstat(reading.fileno())
            if not stat.S_ISREG(before.st_mode) or _State.of(before) != state:
                raise _Changed
            is_dicom = is_part_10(source) or write_part_10_head(source, writing)
            if is_dicom:
                shutil.copyfileobj(reading, writing, 1 << 20)
            if _State.of(os.fstat(reading.fileno())) != state:
                raise _Changed
        return is_dicom

    def _answer(self, temporary: Path, is_dicom: bool, sender: Sender, studies: set[str]) -> Answer:
        """Give the copy to the intake; it is gone afterwards."""
        try:
            if not is_dicom:
                return Answer(CANNOT_UNDERSTAND, "no DICOM file, and no dataset with UIDs either")
            described = describe(temporary)
            if described.refusal is not None:
                return described.refusal
            with metrics.INTAKE_SECONDS.time():
                accepted = self._intake.accept(temporary, described.requested, sender, now=self._now)
            if accepted.study_instance_uid:
                studies.add(accepted.study_instance_uid)
            return accepted.answer
        except (OSError, StorageError):
            return Answer(OUT_OF_RESOURCES, "storage cannot take the instance now")
        except Exception as error:  # whatever a dataset does to us, the next file has its turn
            log.error("intake_failed", exc_info=error)
            return Answer(UNEXPECTED, "the node failed on this dataset")
        finally:
            temporary.unlink(missing_ok=True)

    def _remove(self, source: Path, state: _State) -> None:
        """What was taken is durable: delete it or move it. Another file that took its place meanwhile stays."""
        if _State.of(source.stat(follow_symlinks=False)) != state:
            return
        if self._keep:
            self._move(source, DONE)
        else:
            source.unlink(missing_ok=True)

    def _put_aside(self, source: Path, answer: Answer) -> None:
        # The text first: killed in between, the file is looked at again and not left without a reason.
        target = self._free_name(source, FAILED)
        reason = target.with_name(target.name + ".reason.txt")
        reason.write_text(
            f"Not taken by cxr-node: {answer.comment}\nStatus 0x{answer.status:04X}, {self._now().isoformat()}\n",
            encoding="utf-8",
        )
        os.rename(source, target)

    def _move(self, source: Path, folder: str) -> None:
        os.rename(source, self._free_name(source, folder))

    def _free_name(self, source: Path, folder: str) -> Path:
        """Return a path below `folder` that is free, of the same subfolder and name where they are."""
        relative = source.relative_to(self._folder)
        parent = self._folder / folder / relative.parent
        parent.mkdir(parents=True, exist_ok=True)
        target, number = parent / relative.name, 0
        while os.path.lexists(target):
            number += 1
            target = parent / f"{relative.stem}-{number}{relative.suffix}"
        return target

    def _leave(self, seen: _Seen, event: str, error: OSError) -> None:
        """It stays where it is and is tried again now and then, for somebody may mend it; told of once."""
        seen.since = self._clock() + TROUBLE_PAUSE_S
        if not seen.is_told:
            seen.is_told = True
            log.warning(event, inode=seen.state.inode, errno=error.errno, error_type=type(error).__name__)

    def _rest(self, reason: str) -> None:
        """Everything stays where it is for a while."""
        self._rests_until = self._clock() + FULL_PAUSE_S
        log.warning("watch_rests", reason=reason, for_s=FULL_PAUSE_S)


class _Changed(Exception):
    """The file is not the one that was looked at."""
