"""One stage in this process: signals, logging, and an end when the supervisor ends."""

import argparse
import ctypes
import importlib
import os
import signal
import sys
import threading

from cxr_node.log import configure_logging, get_logger
from cxr_node.settings import Settings
from cxr_node.signals import stop_on_signals

PR_SET_PDEATHSIG = 1


def run_stage(settings: Settings, arguments: argparse.Namespace) -> int:
    """Run the stage named on the command line until SIGTERM or SIGINT."""
    stage: str = arguments.stage
    configure_logging(settings.node.log_level, stage)
    stop = threading.Event()
    stop_on_signals(stop)
    if arguments.parent:
        end_with(arguments.parent)
    log = get_logger("stage")
    log.info("stage_started", pid=os.getpid())
    run = getattr(importlib.import_module(f"cxr_node.{stage}"), f"run_{stage}")
    run(settings, stop)
    log.info("stage_stopped", pid=os.getpid())
    return 0


def end_with(parent: int) -> None:
    """Have the kernel send SIGTERM when the supervisor dies, however it dies: no orphan keeps a port."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
