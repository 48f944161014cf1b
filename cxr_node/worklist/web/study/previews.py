"""Previews of stored images, made in a process of their own: no image can take the worklist down.

One process serves all readers in turn; it starts with the first preview asked for, and the next one after it died.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_node.log import get_logger

log = get_logger("worklist")

TIMEOUT_S = 30.0  # a 40-megapixel JPEG 2000 takes 4 s on a slow core
CACHE_BYTES = 48 << 20
MOST_WAITING = 6  # each holds one of the threads that serve the list too
_COMMAND = (sys.executable, "-m", "cxr_node.imaging.preview_worker")
_LONGEST_HEAD = 1 << 16
_MOST_VALUES = 40_000_000


@dataclass(frozen=True)
class PreviewImage:
    """`description` as in `imaging.preview.PreviewDescription`; `values` rows x columns little-endian uint16."""

    description: dict[str, Any]
    rows: int
    columns: int
    values: bytes


class NoPreview(Exception):
    """The image has no preview; the message says why, for a person."""


class PreviewsBusy(Exception):
    """Others' previews are still being made."""


class _Gone(Exception):
    """The process ended or does not answer."""


class Previews:
    """Makes previews, and keeps the newest few.

    Parameters
    ----------
    command : of the process, for tests
    """

    def __init__(self, command: Sequence[str] = _COMMAND, timeout_s: float = TIMEOUT_S) -> None:
        self._command = tuple(command)
        self._timeout_s = timeout_s
        self._turn = threading.Lock()
        self._places = threading.BoundedSemaphore(MOST_WAITING)
        self._process: subprocess.Popen[bytes] | None = None
        self._kept: OrderedDict[tuple[str, int], PreviewImage] = OrderedDict()
        self._kept_lock = threading.Lock()

    @property
    def has_place(self) -> bool:
        """Whether one more may wait."""
        if not self._places.acquire(blocking=False):
            return False
        self._places.release()
        return True

    def preview(self, path: Path, longest_side: int) -> PreviewImage:
        """Return the image at `path`, its longer side at most `longest_side`.

        A stored file never changes, so a preview of it is good for ever.

        Raises
        ------
        NoPreview
            The image is none that can be shown, or its codec ended the process or took too long.
        PreviewsBusy
            Too many wait already, or the process was not free in time.
        """
        return self.preview_of(str(path), lambda: contextlib.nullcontext(path), longest_side)

    def preview_of(
        self, key: str, lend: Callable[[], contextlib.AbstractContextManager[Path]], longest_side: int
    ) -> PreviewImage:
        """As `preview`, of an image that is lent when its preview is not known; `key` is its own for ever.

        Raises
        ------
        StorageError
            From `lend`.
        """
        known_as = (key, longest_side)
        with self._kept_lock:
            found = self._kept.get(known_as)
            if found is not None:
                self._kept.move_to_end(known_as)
                return found
        with lend() as path:
            made = self._in_turn(path, longest_side)
        with self._kept_lock:
            self._kept[known_as] = made
            while sum(len(item.values) for item in self._kept.values()) > CACHE_BYTES and len(self._kept) > 1:
                self._kept.popitem(last=False)
        return made

    def _in_turn(self, path: Path, longest_side: int) -> PreviewImage:
        if not self._places.acquire(blocking=False):
            raise PreviewsBusy
        try:
            if not self._turn.acquire(timeout=self._timeout_s):
                raise PreviewsBusy
            try:
                return self._made(path, longest_side)
            finally:
                self._turn.release()
        finally:
            self._places.release()

    def close(self) -> None:
        """End the process."""
        with self._turn:
            self._end()

    def _made(self, path: Path, longest_side: int) -> PreviewImage:
        request = json.dumps({"path": str(path), "longest_side": longest_side}).encode() + b"\n"
        # Twice only where the process had ended by itself, having had nothing to do for a while.
        for is_last in (False, True):
            is_fresh = self._process is None
            try:
                return self._asked(request)
            except _Gone as error:
                code = self._end()
                if is_fresh or is_last or code != 0:
                    log.warning("preview_process_ended", exit_code=code, reason=str(error))
                    raise NoPreview(f"the image could not be decoded: {error}") from error
        raise AssertionError("unreachable")

    def _asked(self, request: bytes) -> PreviewImage:
        if self._process is None:
            # Nothing of it is logged: what a codec prints may quote the image's dataset.
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
            )
        process, ends_at = self._process, time.monotonic() + self._timeout_s
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(request)
        except OSError as error:
            raise _Gone("the decoder had ended") from error
        head, rest = self._head(process.stdout.fileno(), ends_at)
        if "problem" in head:
            raise NoPreview(str(head["problem"]))
        try:
            description, rows, columns = dict(head["description"]), int(head["rows"]), int(head["columns"])
        except (KeyError, ValueError, TypeError) as error:
            raise _Gone("the decoder's answer is none") from error
        if rows < 1 or columns < 1 or rows * columns > _MOST_VALUES:
            raise _Gone("the decoder told an impossible size")
        body = bytearray(rest)
        while len(body) < 2 * rows * columns:
            body += _read(process.stdout.fileno(), ends_at)
        if len(body) > 2 * rows * columns:
            raise _Gone("the decoder answered more than was asked")
        return PreviewImage(description, rows, columns, bytes(body))

    @staticmethod
    def _head(descriptor: int, ends_at: float) -> tuple[dict[str, Any], bytes]:
        data = b""
        while b"\n" not in data:
            if len(data) > _LONGEST_HEAD:
                raise _Gone("the decoder's answer has no end")
            data += _read(descriptor, ends_at)
        line, _, rest = data.partition(b"\n")
        try:
            head = json.loads(line)
        except ValueError as error:
            raise _Gone("the decoder's answer is none") from error
        if not isinstance(head, dict):
            raise _Gone("the decoder's answer is none")
        return head, rest

    def _end(self) -> int | None:
        """End the process, whatever it does; return its exit code, None where it had to be killed."""
        process, self._process = self._process, None
        if process is None:
            return None
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            return process.wait(0.5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None


def _read(descriptor: int, ends_at: float) -> bytes:
    if not select.select([descriptor], [], [], max(0.0, ends_at - time.monotonic()))[0]:
        raise _Gone("it took too long")
    data = os.read(descriptor, 1 << 20)
    if not data:
        raise _Gone("the decoder ended on it")
    return data
