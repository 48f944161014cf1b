"""The input pipeline: pictures decoded once into a file of model inputs, batches changed and made ahead by threads.

A cohort larger than memory is read lazily: the file is mapped, and the system keeps in memory what fits.
"""

import hashlib
import json
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from cxr_node.errors import UnreadablePixels
from cxr_node.imaging import PreprocessSpec, preprocess
from trainer.augment import Augment, augmented
from trainer.cohorts import Case

# A stored level is a 65535th: preprocessing's float32 gray values are kept to 1e-5, a fortieth of an 8-bit step.
_LEVELS = 65535
_AHEAD = 4


@dataclass(frozen=True)
class Inputs:
    """Model inputs of the cases that could be decoded, in their order, and a sentence for each that could not."""

    cases: tuple[Case, ...]
    stored: np.ndarray  # (n, rows, columns) uint16, mapped from disk
    problems: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.cases)

    def image(self, index: int) -> np.ndarray:
        """Return (rows, columns) float32 in [0, 1]."""
        return self.stored[index].astype(np.float32) / np.float32(_LEVELS)

    def images(self, start: int, stop: int) -> np.ndarray:
        """Return (n, rows, columns, 1) float32 in [0, 1]."""
        return (self.stored[start:stop].astype(np.float32) / np.float32(_LEVELS))[..., np.newaxis]


def prepare(cases: Sequence[Case], spec: PreprocessSpec, cache: Path, what: str, *, threads: int = 2) -> Inputs:
    """Decode every case by the one way to a model's input, or take what an earlier call with the same cases left.

    A broken picture is counted and named, not fatal. `cache` is a folder; its files are named by a hash over the
    spec and every case's identifier, file size and time, so a changed picture is decoded again.
    """
    digest = hashlib.sha256(json.dumps(spec.to_json(), sort_keys=True).encode())
    for case in cases:
        try:
            status = case.path.stat()
            digest.update(f"{case.identifier} {case.span} {status.st_size} {status.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(f"{case.identifier} missing\n".encode())
    cache.mkdir(parents=True, exist_ok=True)
    file, notes = (cache / f"{digest.hexdigest()[:24]}{suffix}" for suffix in (".npy", ".json"))
    if not (file.is_file() and notes.is_file()):
        _decode(cases, spec, file, notes, what, threads)
    problems: dict[str, str] = json.loads(notes.read_text("utf-8"))
    good = tuple(case for case in cases if case.identifier not in problems)
    stored = np.load(file, mmap_mode="r") if good else np.empty((0, *spec.size), np.uint16)
    return Inputs(good, stored[: len(good)], tuple(f"{name}: {says}" for name, says in problems.items()))


def _decode(cases: Sequence[Case], spec: PreprocessSpec, file: Path, notes: Path, what: str, threads: int) -> None:
    problems: dict[str, str] = {}
    # Workers and runs share the folder and may decode the same cases at once: each writes files of its own name.
    temporary = file.with_suffix(f".{uuid.uuid4().hex}.part")
    stored = np.lib.format.open_memmap(temporary, "w+", np.uint16, (max(1, len(cases)), *spec.size))

    def decoded(case: Case) -> np.ndarray | str:
        try:
            return np.rint(preprocess(case.radiograph(), spec)[..., 0] * _LEVELS).astype(np.uint16)
        except (UnreadablePixels, OSError) as error:
            return str(error)

    filled = 0
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[Case, Future[np.ndarray | str]]] = deque()
        for case in track([*cases, *[None] * (2 * threads)], what, transient=True):
            if case is not None:
                waiting.append((case, pool.submit(decoded, case)))
            if waiting and (case is None or len(waiting) > 2 * threads):
                done, future = waiting.popleft()
                result = future.result()
                if isinstance(result, str):
                    problems[done.identifier] = result
                else:
                    stored[filled] = result
                    filled += 1
    stored.flush()
    del stored
    said = temporary.with_suffix(".json")
    said.write_text(json.dumps(problems, ensure_ascii=False), "utf-8")
    # Whoever finds the inputs must find the notes: they tell which cases the rows belong to.
    said.replace(notes)
    temporary.replace(file)


@dataclass(frozen=True)
class Batches:
    """What an epoch is made of: inputs, what is taught of each finding and how much it weighs.

    `targets` and `weights` are (n, findings); a weight of 0 is a label that is not known. `again` holds other pictures
    of some of the cases (`again_of` their indices). With `balanced` an epoch draws cases by `chance` (n,), else it
    shows each once.
    """

    inputs: Inputs
    targets: np.ndarray
    weights: np.ndarray
    augment: Augment
    batch: int
    seed: int
    mixup: float = 0.0
    chance: np.ndarray | None = None
    again: Inputs | None = None
    again_of: np.ndarray | None = None

    @property
    def steps(self) -> int:
        return -(-len(self.inputs) // self.batch)

    def order(self, epoch: int) -> np.ndarray:
        """Return the epoch's case indices (steps * batch,): the same for the same seed and epoch."""
        rng = np.random.default_rng((self.seed, epoch))
        n = len(self.inputs)
        if self.chance is not None:
            return rng.choice(n, self.steps * self.batch, p=self.chance / self.chance.sum())
        order = rng.permutation(n)
        # The last batch is filled up from the front: a batch of a few would upset the normalisation.
        return np.resize(order, self.steps * self.batch)

    def epoch(
        self, epoch: int, *, share: tuple[int, int] = (0, 1), threads: int = 2
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (images (b, rows, columns, 1), targets with weights (b, 2 * findings)), made ahead by threads.

        `share` (index, count) is the part of every batch that this worker makes. Each image is changed by its own
        generator, so that the number of threads or workers changes nothing.
        """
        order = self.order(epoch)
        indices = iter(range(self.steps))
        with ThreadPoolExecutor(threads) as pool:
            ahead = deque(
                pool.submit(self._make, order, epoch, index, share)
                for _, index in zip(range(_AHEAD), indices, strict=False)
            )
            while ahead:
                ready = ahead.popleft().result()
                following = next(indices, None)
                if following is not None:
                    ahead.append(pool.submit(self._make, order, epoch, following, share))
                yield ready

    def _make(self, order: np.ndarray, epoch: int, index: int, share: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        part, parts = share
        size = self.batch // parts
        first = index * self.batch + part * size
        chosen = order[first : first + size]
        images = np.stack(
            [
                augmented(self._picture(case, rng), self.augment, rng)
                for case, rng in (
                    (case, np.random.default_rng((self.seed, epoch, first + position)))
                    for position, case in enumerate(chosen)
                )
            ]
        )[..., np.newaxis].astype(np.float32)
        targets, weights = self.targets[chosen], self.weights[chosen]
        if self.mixup:
            drawn = float(np.random.default_rng((self.seed, epoch, index, 1)).beta(self.mixup, self.mixup))
            keep = np.float32(max(drawn, 1 - drawn))
            images = keep * images + (1 - keep) * images[::-1]
            mixed = keep * weights + (1 - keep) * weights[::-1]
            # Each label counts by its own weight, so that an unknown one lends nothing to its partner.
            summed = keep * weights * targets + (1 - keep) * weights[::-1] * targets[::-1]
            targets = np.divide(summed, mixed, out=np.zeros_like(summed), where=mixed > 0)
            weights = mixed
        return images, np.concatenate([targets, weights], axis=1).astype(np.float32)

    def _picture(self, case: int, rng: np.random.Generator) -> np.ndarray:
        if self.again is not None and self.again_of is not None:
            other = np.searchsorted(self.again_of, case)
            if other < len(self.again_of) and self.again_of[other] == case and rng.random() < 0.5:
                return self.again.image(int(other))
        return self.inputs.image(case)
