"""Images of several studies through preparation and scoring at once: while one is scored the next ones are prepared.

Nothing waits for a batch to fill: whatever is prepared when the engine is free is scored together. What lies between
preparation and scoring is bounded by a number of images, whatever the size of a study.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from pydicom.dataset import Dataset

from cxr_node.analyze.analyzer import Analyzed
from cxr_node.analyze.prepare import Prepared, Wanted

K = TypeVar("K")

LARGEST_BATCH = 32  # images in one call of an engine

_Place = tuple[int, int]  # number of the study, number of the image in it
_Event = list[tuple[_Place, Analyzed | Exception]]


@dataclass
class _Open(Generic[K]):
    """A study under way. `headers` are those of excluded images, one for all that say the same."""

    key: K
    found: list[Analyzed | None]
    missing: int
    error: Exception | None = None
    headers: dict[tuple[Any, ...], Dataset] = field(default_factory=dict)


class Flow(Generic[K]):
    """One pass over some studies.

    Parameters
    ----------
    prepare : gives the image to whoever reads it
    score : as `Analyzer.analyze`; called by one thread at a time
    scorer : the thread that scores
    window : most images between being read and being scored
    """

    def __init__(
        self,
        prepare: Callable[[Wanted], Future[Prepared]],
        score: Callable[[Sequence[Prepared]], list[Analyzed]],
        scorer: ThreadPoolExecutor,
        *,
        window: int,
    ) -> None:
        self._prepare, self._score, self._scorer = prepare, score, scorer
        self._window = window
        self._open: dict[int, _Open[K]] = {}
        self._in_flight = 0
        self._events: SimpleQueue[_Event] = SimpleQueue()
        self._lock = threading.Lock()
        self._prepared: deque[tuple[_Place, Prepared]] = deque()
        self._is_scoring = False

    def run(self, studies: Iterable[tuple[K, Sequence[Wanted]]]) -> Iterator[tuple[K, list[Analyzed] | Exception]]:
        """Yield each study's images, in their order, as soon as all are analysed, or the first exception of one.

        `studies` is asked for the next one when there is room for its images.
        """
        for number, (key, images) in enumerate(studies):
            self._open[number] = _Open(key, [None] * len(images), len(images))
            if not images:
                yield self._close(number)
            for place, wanted in enumerate(images):
                while self._in_flight >= self._window:
                    yield from self._take(self._events.get())
                self._in_flight += 1
                self._prepare(wanted).add_done_callback(partial(self._on_prepared, (number, place)))
            yield from self._take_what_is_there()
        while self._in_flight:
            yield from self._take(self._events.get())

    def _take_what_is_there(self) -> Iterator[tuple[K, list[Analyzed] | Exception]]:
        while True:
            try:
                event = self._events.get_nowait()
            except Empty:
                return
            yield from self._take(event)

    def _take(self, event: _Event) -> Iterator[tuple[K, list[Analyzed] | Exception]]:
        self._in_flight -= len(event)
        for (number, place), found in event:
            study = self._open[number]
            study.missing -= 1
            if isinstance(found, Exception):
                study.error = study.error or found
            else:
                study.found[place] = _shared(found, study.headers)
            if not study.missing:
                yield self._close(number)

    def _close(self, number: int) -> tuple[K, list[Analyzed] | Exception]:
        study = self._open.pop(number)
        return study.key, study.error or [item for item in study.found if item is not None]

    def _on_prepared(self, place: _Place, future: Future[Prepared]) -> None:
        """In the thread that prepared it: hand it on to the scorer, without waiting for whoever takes results."""
        try:
            prepared = future.result()
        except Exception as error:  # noqa: BLE001  # the study's outcome, and `work` decides what becomes of it
            self._events.put([(place, error)])
            return
        with self._lock:
            self._prepared.append((place, prepared))
            if self._is_scoring:
                return
            self._is_scoring = True
        self._scorer.submit(self._score_all)

    def _score_all(self) -> None:
        while True:
            with self._lock:
                batch = [self._prepared.popleft() for _ in range(min(LARGEST_BATCH, len(self._prepared)))]
                if not batch:
                    self._is_scoring = False
                    return
            try:
                scored: Sequence[Analyzed | Exception] = self._score([prepared for _, prepared in batch])
            except Exception as error:  # noqa: BLE001  # likewise
                scored = [error] * len(batch)
            self._events.put([(place, found) for (place, _), found in zip(batch, scored, strict=True)])


def _shared(found: Analyzed, headers: dict[tuple[Any, ...], Dataset]) -> Analyzed:
    """Keep one header for all excluded images of a study that say the same: a study may have ten thousand."""
    header = found.prepared.header
    if header is None or found.analysis.exclusion is None:
        return found
    key = tuple((int(element.tag), str(element.value)) for element in header)
    known = headers.setdefault(key, header)
    if known is header:
        return found
    return Analyzed(_with_header(found.prepared, known), found.analysis, found.shadow, found.raw)


def _with_header(prepared: Prepared, header: Dataset) -> Prepared:
    return replace(prepared, header=header)
