"""Signals that come together."""

import subprocess
import sys

import pytest

STORM = """
import os, signal, sys, threading
from cxr_node.signals import stop_on_signals

def naive(stop):
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

stop = threading.Event()
(naive if sys.argv[1] == "naive" else stop_on_signals)(stop)
over = threading.Event()

def storm():
    while not over.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=storm, daemon=True).start()
for _ in range(50):
    assert stop.wait(30), "a signal was not heard"
    stop.clear()
for _ in range(20000):  # a signal in the middle of these is what a second signal in a handler is
    stop.set()
    stop.clear()
over.set()
print("ended")
"""

TWICE = """
import signal, threading
from cxr_node.signals import stop_on_signals

stop = threading.Event()
stop_on_signals(stop, tell="stopping", second_interrupts=True)
print("ready", flush=True)
try:
    assert stop.wait(30)
    print("stopped", flush=True)
    signal.pause()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.requirement("SRS-CLI-003")
def test_a_storm_of_signals_sets_the_event_and_locks_nothing():
    """A service manager and a terminal may both end the node at the same moment."""
    done = subprocess.run([sys.executable, "-c", STORM, "ours"], capture_output=True, text=True, timeout=60)
    assert done.stdout == "ended\n", done.stderr


@pytest.mark.requirement("SRS-CLI-003")
def test_a_second_signal_interrupts_where_that_is_asked_for():
    """The first lets the work at hand end; who sends a second does not want to wait for it."""
    with subprocess.Popen(
        [sys.executable, "-c", TWICE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.readline() == "stopped\n"
        assert process.stderr.readline() == "stopping\n"
        process.terminate()
        assert process.stdout.readline() == "interrupted\n"
        assert process.wait(30) == 0
