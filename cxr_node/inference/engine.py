"""Runs a model package: chooses what computes it, proves it at the start, splits batches, and outlives its device."""

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cxr_node.errors import PackageError
from cxr_node.inference.conversions import MODEL_FILE, PARITY_TOLERANCE, Report, check_inputs, ensure
from cxr_node.inference.devices import given_up_gpu, visible_gpus
from cxr_node.inference.package import ModelPackage
from cxr_node.inference.runners import (
    CPU,
    GPU,
    LITERT,
    SAVED_MODEL,
    DeviceLost,
    LiteRtRunner,
    OutOfMemory,
    Runner,
    SavedModelRunner,
    UnsavedRunner,
    batch_sizes,
)
from cxr_node.log import get_logger

Choice = Literal["auto", "savedmodel", "litert"]

# A batch above this gains nothing on two cores and only costs memory.
LARGEST_BATCH = 32
# So long a halved batch stays halved: what took the memory may be gone by then, a second try costs one failed call.
RESTORE_AFTER_S = 300.0
_STARTING_INPUTS = 3  # of `check_inputs`, the golden ones; computed at every start, some 30 ms each

log = get_logger("inference")


class Engine:
    """The network of a package, ready to score. Its methods may be called from several threads.

    ``auto`` serves a SavedModel on the GPU where there is one, else LiteRT on the CPU, if its scores were found to
    agree with those of the SavedModel, else the SavedModel on the CPU. A GPU that cannot be used, or that fails while
    the node runs, is left for the CPU. `trouble` says why the engine is not the one that was meant.

    Parameters
    ----------
    package : verified, see `load_package`
    cache_dir : where conversions are kept for the next start; None takes the SavedModel's function without the file,
        for a conversion that is used once is not worth its time. What needs files then, LiteRT if it was chosen or a
        GPU, makes a folder of its own, deleted with its use
    choice : `analyze.engine` of node.toml
    batch : most images in one call, on a GPU those that are warmed
    threads : of LiteRT, None: as many as this process has cores
    report : told what an operator should know, as `report(event, **detail)`; by default the log
    clock : monotonic seconds

    Raises
    ------
    PackageError
        The package cannot be converted or loaded, or computes other scores than the ones it was converted with.
    """

    def __init__(
        self,
        package: ModelPackage,
        *,
        cache_dir: Path | None = None,
        choice: Choice = "auto",
        batch: int = LARGEST_BATCH,
        threads: int | None = None,
        report: Report | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.package = package
        self.trouble = ""
        self._cache_dir = cache_dir
        self._choice = choice
        self._largest = min(batch, LARGEST_BATCH)
        self._threads = threads
        self._batch = self._largest
        self._halved_at = 0.0
        self._report: Report = report or _logged
        self._clock = clock
        self._changing = threading.Lock()
        self._runner = self._start()

    @property
    def device(self) -> str:
        """CPU or GPU. Logical names of devices hold no model, and this text reaches logs and the health page."""
        return self._runner.device

    @property
    def name(self) -> str:
        """`savedmodel` or `litert`."""
        return self._runner.name

    def warm(self) -> None:
        """Score black images, so that the first study does not pay for tracing and memory.

        On a GPU every size of batch that is used is tried: its libraries choose their algorithms for each.
        """
        rows, columns = self.package.manifest.preprocess.size
        for size in batch_sizes(self._largest) if self.device == GPU else (1,):
            self.scores(np.zeros((size, rows, columns, 1), np.float32))

    def scores(self, batch: np.ndarray) -> np.ndarray:
        """Return the network's scores, before calibration.

        Where the device's memory does not take the batch, it is halved, and stays so for a while.

        Parameters
        ----------
        batch : (n, rows, columns, 1) float32 in [0, 1], from `imaging.preprocess` with the package's spec

        Returns
        -------
        (n, findings) float32 in [0, 1], columns in the order of `manifest.findings`
            An image's score does not depend on its neighbours in the batch by more than 1e-5; not at all with LiteRT.

        Raises
        ------
        PackageError
            The batch does not have the shape that the package states, or the network gives something else than
            one score per finding, or no number.
        OutOfMemory
            Memory does not take one image.
        """
        manifest = self.package.manifest
        expected = (*manifest.preprocess.size, 1)
        if batch.ndim != 4 or batch.shape[1:] != expected:
            raise PackageError(f"package {manifest.name}: expected inputs (n, {expected}), found {batch.shape}")
        results = np.empty((len(batch), len(manifest.findings)), np.float32)
        start = 0
        while start < len(batch):
            part = np.ascontiguousarray(batch[start : start + self._allowed()], dtype=np.float32)
            runner = self._runner
            try:
                output = runner.run(part)
            except OutOfMemory as error:
                if len(part) > 1:
                    self._halve(len(part), runner)
                    continue
                if runner.device != GPU:
                    raise
                self._leave(runner, f"its memory does not take one image: {error}")
                continue
            except DeviceLost as error:
                self._leave(runner, str(error))
                continue
            if output.shape != (len(part), len(manifest.findings)):
                raise PackageError(
                    f"package {manifest.name}: expected {len(manifest.findings)} scores per image, "
                    f"found an output of {output.shape}"
                )
            results[start : start + len(part)] = output
            start += len(part)
        if not np.isfinite(results).all():
            raise PackageError(f"package {manifest.name}: expected scores in [0, 1], found one that is no number")
        return results

    def _allowed(self) -> int:
        if self._batch < self._largest and self._clock() - self._halved_at >= RESTORE_AFTER_S:
            self._batch = self._largest
        return self._batch

    def _halve(self, size: int, runner: Runner) -> None:
        self._batch, self._halved_at = size // 2, self._clock()
        self._tell("batch_halved", device=runner.device, batch=self._batch)

    def _leave(self, runner: Runner, reason: str) -> None:
        """Go on with the CPU; another thread may have done so already."""
        with self._changing:
            if self._runner is not runner:
                return
            self._say("gpu_lost", f"the GPU is no longer used: {reason}; the CPU does its work")
            self._runner = self._on_cpu()

    def _start(self) -> Runner:
        given_up = given_up_gpu()
        if given_up:
            self._say("gpu_unavailable", f"GPU {given_up} is not used: workers on it ended again and again")
        elif self._choice != "litert" and visible_gpus():
            try:
                return SavedModelRunner(self._made(SAVED_MODEL).folder, GPU)
            except DeviceLost as error:
                self._say("gpu_unavailable", f"the GPU is not used: {error}; the CPU does its work")
        return self._on_cpu()

    def _on_cpu(self) -> Runner:
        lite = self._choice == "litert" or (self._choice == "auto" and self._cache_dir is not None)
        # A GPU's deputy is the CPU's best, whatever was chosen for the GPU.
        runner = self._lite() if lite or (self.trouble and self._cache_dir is not None) else None
        if runner is not None:
            return runner
        if self._cache_dir is not None:
            return SavedModelRunner(self._made(SAVED_MODEL).folder, CPU)
        from cxr_node.inference.convert import traced

        return UnsavedRunner(traced(self.package))

    def _lite(self) -> Runner | None:
        """Return LiteRT with the package, None where its scores are not those of the SavedModel."""
        if self._cache_dir is None:
            with tempfile.TemporaryDirectory(prefix="cxr-node-model-") as scratch:
                return self._checked_lite(Path(scratch))
        return self._checked_lite(self._cache_dir)

    def _checked_lite(self, cache_dir: Path) -> Runner | None:
        made = self._made(LITERT, cache_dir)
        if made.parity is None or not made.parity.agrees:
            reason = made.parity.reason if made.parity is not None else "it was not compared"
            self._say("litert_refused", f"LiteRT is not used: {reason}")
            return None
        try:
            runner = LiteRtRunner(made.read(MODEL_FILE), self._threads)
            found = runner.run(check_inputs(self.package)[:_STARTING_INPUTS])
            largest = float(np.abs(found - np.asarray(made.reference[: len(found)], np.float32)).max())
        except (PackageError, ValueError) as error:
            self._say("litert_refused", f"LiteRT is not used: {error}")
            return None
        if not largest <= PARITY_TOLERANCE:  # NaN fails too
            self._say(
                "litert_refused",
                f"LiteRT is not used: its scores differ by {largest:.2g} from the SavedModel's on this computer, "
                f"at most {PARITY_TOLERANCE:g} is allowed",
            )
            return None
        return runner

    def _made(self, form: str, cache_dir: Path | None = None) -> Any:
        folder = cache_dir or self._cache_dir
        if folder is not None:
            return ensure(self.package, folder, form, self._report)
        # A GPU without a cache: what is made here lives as long as the engine.
        self._scratch = tempfile.TemporaryDirectory(prefix="cxr-node-model-")
        return ensure(self.package, Path(self._scratch.name), form, self._report)

    def _say(self, event: str, trouble: str) -> None:
        self.trouble = trouble
        self._tell(event, reason=trouble)

    def _tell(self, event: str, **detail: Any) -> None:
        self._report(event, package=self.package.manifest.name, **detail)


# What an operator is told of as it happens, and how loudly.
_LEVELS = {"package_conversion_started": "info", "package_converted": "info", "batch_halved": "warning"}


def _logged(event: str, **detail: Any) -> None:
    getattr(log, _LEVELS.get(event, "error"))(event, **detail)
