"""One stage in this process: signals, logging, and an end when the supervisor ends."""

import argparse
import contextlib
import ctypes
import gc
import importlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator

from cxr_node.cli.privilege import root_trouble
from cxr_node.errors import SettingsError
from cxr_node.heaps import share_heaps
from cxr_node.log import configure_logging, get_logger
from cxr_node.settings import Settings
from cxr_node.signals import stop_on_signals
from storage import faults

PR_SET_PDEATHSIG = 1


def run_stage(settings: Settings, arguments: argparse.Namespace) -> int:
    """Run the stage named on the command line until SIGTERM or SIGINT."""
    stage: str = arguments.stage
    configure_logging(settings.node.log_level, stage)
    if stage != "analyze":  # there several threads work on large arrays at once
        share_heaps()
    stop = threading.Event()
    stop_on_signals(stop)
    if arguments.parent:
        end_with(arguments.parent)
    log = get_logger("stage")
    log.info("stage_started", pid=os.getpid())
    if not arguments.parent and (trouble := root_trouble()):
        log.warning("runs_as_root", reason=trouble)
    if faults.named():
        # Nobody means this on a machine with patients: it is for the tests of what a fault leads to.
        log.critical("fault_points_named", variable=faults.VARIABLE, points=faults.named())
    with contextlib.ExitStack() as stack:
        if not arguments.parent and settings.node.metrics_port:
            stack.enter_context(own_metrics(settings))
        # What loading makes stays: to look through it for what does not would only delay the start.
        gc.disable()
        try:
            run = getattr(importlib.import_module(f"cxr_node.{stage}"), f"run_{stage}")
        finally:
            gc.enable()
        run(settings, stop)
    log.info("stage_stopped", pid=os.getpid())
    return 0


@contextlib.contextmanager
def own_metrics(settings: Settings) -> Iterator[None]:
    """Serve the metrics of this stage and its processes on `node.metrics_port` for the block.

    Raises
    ------
    SettingsError
        The address cannot be listened on.
    """
    run_dir = settings.data_dir / "run"
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="metrics-", dir=run_dir, ignore_cleanup_errors=True) as folder:
        # Read when the library is first loaded, by this process and by those that it starts.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        from prometheus_client import CollectorRegistry, start_http_server
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        host, port = settings.node.metrics_host, settings.node.metrics_port
        try:
            server, _ = start_http_server(port, host, registry)
        except OSError as error:
            raise SettingsError(f"node.metrics_port: cannot listen on {host}:{port}: {error.strerror}") from error
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()


def end_with(parent: int) -> None:
    """Have the kernel send SIGTERM when the supervisor dies, however it dies: no orphan keeps a port."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
