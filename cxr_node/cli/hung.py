"""The supervisor's look at processes that run and say nothing: ended, so that they are started anew.

A process that died is seen at once. One that is stuck (stopped, or held in a native library that never gives the
interpreter back) keeps its port, its leases and, where several accept, its share of the connections.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cxr_node.log import get_logger
from cxr_node.work.pulse import EVERY_S, FOLDER, pulses

log = get_logger("supervisor")

# Twelve signs that did not come. The thread that gives them does nothing else, so only what keeps a whole process from
# running delays one: no job, however long, and no database.
HUNG_AFTER_S = 60.0
KILL_AFTER_S = 5.0  # after SIGTERM, which a process that is stopped never sees
METRIC = "cxr_hung_processes"


class HungWatch:
    """Looks at the signs of the processes below this one.

    Parameters
    ----------
    run_dir : the signs lie in a folder below it, emptied now: those of an earlier supervisor say nothing
    metrics_dir : multiprocess files of prometheus-client, where the supervisor counts beside its stages
    """

    def __init__(
        self,
        run_dir: Path,
        metrics_dir: Path,
        *,
        after_s: float = HUNG_AFTER_S,
        kill_after_s: float = KILL_AFTER_S,
        look_every_s: float = EVERY_S,
        is_ours: Callable[[int], bool] | None = None,
        send: Callable[[int, int], None] = os.kill,
    ) -> None:
        self._folder, self._metrics_dir = run_dir / "pulses", metrics_dir
        self._after_s, self._kill_after_s, self._look_every_s = after_s, kill_after_s, look_every_s
        self._is_ours, self._send = is_ours or _descends_from_us, send
        self._looked_at, self._judged_from = float("-inf"), float("-inf")
        self._terminated: dict[int, float] = {}  # when; infinity: killed as well
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.environment = {FOLDER: str(self._folder)}

    def look(self, now: float | None = None) -> None:
        """End what is stuck, if it is time to look; `now` is of the monotonic clock, s."""
        now = time.monotonic() if now is None else now
        if now - self._looked_at < self._look_every_s:
            return
        if now - self._looked_at > 3 * self._look_every_s:
            # This process did not run either: a machine that was suspended, or a container that was frozen. Everybody
            # has the whole time again.
            self._judged_from = now
        self._looked_at = now
        for stage, pid, seen_at, path in list(pulses(self._folder)):
            silent_s = now - max(seen_at, self._judged_from)
            if silent_s < self._after_s:
                self._terminated.pop(pid, None)
            elif not self._is_ours(pid):
                path.unlink(missing_ok=True)  # it was killed and could not take its file with it
                self._terminated.pop(pid, None)
            elif self._can_write():
                self._end(stage, pid, now, silent_s)
            else:
                self._judged_from = now  # the folder takes no sign from anybody

    def _end(self, stage: str, pid: int, now: float, silent_s: float) -> None:
        since = self._terminated.get(pid)
        with contextlib.suppress(ProcessLookupError):
            if since is None:
                self._send(pid, signal.SIGTERM)
                self._terminated[pid] = now
                log.error("stage_hung", stage_name=stage, pid=pid, silent_s=round(silent_s, 1))
                _count(self._metrics_dir, stage)
            elif now - since >= self._kill_after_s:
                self._send(pid, signal.SIGKILL)
                self._terminated[pid] = float("inf")
                log.error("stage_killed", stage_name=stage, pid=pid, reason="hung, and SIGTERM did not end it")

    def _can_write(self) -> bool:
        probe = self._folder / "probe"
        try:
            probe.write_bytes(b"0")
            probe.unlink()
        except OSError:
            return False
        return True


def _descends_from_us(pid: int) -> bool:
    """Whether the process is a child of this one, or of a child: a number may have gone to somebody else since."""
    if sys.platform != "linux":
        return False  # nobody is ended on a guess
    ours = os.getpid()
    while pid > 1:
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        # The name stands in parentheses and may hold anything; state and parent follow it. Source: proc(5).
        pid = int(status.rpartition(")")[2].split()[1])
        if pid == ours:
            return True
    return False


def _count(metrics_dir: Path, stage: str) -> None:
    """Add one to `cxr_hung_processes_total`.

    By the library's file, not by its counter: whether a counter is shared is settled when the library is loaded, and
    the folder is made later.
    """
    from prometheus_client.mmap_dict import MmapedDict, mmap_key

    from cxr_node import metrics

    path = metrics_dir / f"counter_{os.getpid()}.db"
    key = mmap_key(
        METRIC, f"{METRIC}_total", ["stage"], [stage], next(iter(metrics.HUNG_PROCESSES.describe())).documentation
    )
    try:
        values = MmapedDict(str(path))  # type: ignore[no-untyped-call]
        try:
            value, _ = values.read_value(key)  # type: ignore[no-untyped-call]
            values.write_value(key, value + 1, time.time())  # type: ignore[no-untyped-call]
        finally:
            values.close()  # type: ignore[no-untyped-call]
    except OSError as error:
        log.warning("hung_not_counted", stage_name=stage, error_type=type(error).__name__)
