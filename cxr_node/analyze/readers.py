"""Processes that read images: header, pixels, preprocessing, beside the process that scores them.

Every codec here holds the interpreter's lock while it decodes, hundreds of milliseconds for a large image, and some end
their process on a broken codestream. In processes of their own they do neither to the stage: two images are read at a
time while a third is scored and a fourth is settled, leases are kept, and an image that ends its reader twice is
excluded with that reason; nothing else of its study waits or is lost (regulatory/decisions/0017).
"""

import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import LifoQueue
from typing import Any

from cxr_node.analyze.apart import Apart, CallFailed, Ended, NotStarted, Stopped
from cxr_node.analyze.prepare import PIXEL_DATA, Gate, Prepared, Wanted, opened, prepare_file
from cxr_node.errors import UnreadableDataset
from cxr_node.findings import Exclusion, ImageReference
from cxr_node.imaging import read_header
from cxr_node.log import get_logger

log = get_logger("analyze")

MOST_READERS = 8
LONGEST_S = 60.0  # for one image; the largest that is decoded takes a few
_IDLE_S = 86_400.0  # then the next image waits for a new one


def reader_count(workers: int = 1) -> int:
    """Return how many processes read for one of `workers` stages on this host."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_READERS, -(-cores // max(1, workers))))


class Readers:
    """A fixed number of processes; each has one image at a time.

    Parameters
    ----------
    longest_s : a reader that takes longer for one image is ended, and the image excluded
    """

    def __init__(self, count: int, *, longest_s: float = LONGEST_S) -> None:
        self.count = count
        self._apart = [Apart(read_apart, longest_s=longest_s, niceness=0, idle_s=_IDLE_S) for _ in range(count)]
        self._free: LifoQueue[Apart] = LifoQueue()
        for one in self._apart:
            self._free.put(one)
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="reader")
        self._slim: tuple[Gate, Gate] | None = None

    def start(self) -> None:
        """Start the processes; nobody waits for them."""
        for one in self._apart:
            self._pool.submit(_greet, one)

    def submit(self, gate: Gate, wanted: Wanted) -> Future[Prepared]:
        """Have an image prepared.

        The future's exceptions are those of the storage, `NotStarted` where no reader comes up, and `Stopped` once
        they are closed: the image was not judged, and another try is due.
        """
        if self._slim is None or self._slim[0] is not gate:
            self._slim = gate, gate.slim()
        return self._pool.submit(self._prepare, gate, self._slim[1], wanted)

    def close(self) -> None:
        """End the processes, and what they read."""
        for one in self._apart:
            one.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _prepare(self, gate: Gate, slim: Gate, wanted: Wanted) -> Prepared:
        try:
            with opened(wanted.file) as path:
                apart = self._free.get()
                try:
                    found = self._read(apart, slim, path, wanted)
                except CallFailed as error:
                    return _unread(gate, path, wanted, str(error))
                finally:
                    self._free.put(apart)
        except UnreadableDataset as error:
            return Prepared(wanted.image, exclusion=Exclusion("unreadable-dataset", str(error)))
        if isinstance(found, OSError):
            raise found
        by_digest = {package.digest: package for package in gate.packages}
        return replace(
            found,
            packages=tuple(by_digest[package.digest] for package in found.packages),
            known=wanted.known if found.packages and not found.inputs else {},
        )

    def _read(self, apart: Apart, slim: Gate, path: Path, wanted: Wanted) -> Any:
        known: Mapping[str, Mapping[str, float]] = {digest: {} for digest in wanted.known}
        arguments = (str(path), slim, wanted.image, known)
        try:
            return apart(*arguments)
        except Ended:
            # Maybe it was not the image's doing: an operator, or the system short of memory. The second time it was.
            log.error("reader_ended", sop_instance_uid=wanted.image.sop_instance_uid)
            return apart(*arguments)


def read_apart(path: str, gate: Gate, image: ImageReference, known: Mapping[str, Mapping[str, float]]) -> Any:
    """In the reader: as `prepare_file`, an OSError returned instead of raised; None for no path, to say hello."""
    import cv2

    cv2.setNumThreads(1)  # there is a reader for every core
    if not path:
        return None
    try:
        return prepare_file(gate, Path(path), Wanted(Path(path), image, known))
    except OSError as error:
        return OSError(error.errno, error.strerror)


def _greet(apart: Apart) -> None:
    try:
        apart("", None, None, {})
    except (CallFailed, NotStarted) as error:
        log.error("reader_not_started", reason=str(error))
    except Stopped:
        pass  # the stage ended before they were needed


def _unread(gate: Gate, path: Path, wanted: Wanted, why: str) -> Prepared:
    """Exclude an image that no reader survives; its header, which no codec touches, is read here."""
    log.error("image_not_readable", sop_instance_uid=wanted.image.sop_instance_uid, reason=why)
    exclusion = Exclusion("unreadable-pixels", f"the image was given up: {why}", PIXEL_DATA)
    try:
        header = read_header(path)
    except (UnreadableDataset, OSError):
        return Prepared(wanted.image, exclusion=exclusion)
    return gate.excluded(wanted.image, header, exclusion)
