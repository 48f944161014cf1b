"""The stage as a process sees it: it starts, answers on both ports, and ends when told."""

import socket
import threading
import time
import urllib.request

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from cxr_node.errors import SettingsError
from cxr_node.requestor import associate
from cxr_node.worklist.stage import WorklistServer, run_worklist
from tests.cxr_node.worklist.conftest import with_worklist

pytestmark = pytest.mark.requirement("SRS-WLT-013")


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_it_stops_within_five_seconds_with_pages_and_associations_open(settings):
    """A supervisor kills after that; an open page must not make a restart rude."""
    settings = with_worklist(settings, port=free_port(), dicom_port=free_port())
    stop, ended_well = threading.Event(), threading.Event()

    def run() -> None:
        run_worklist(settings, stop)
        ended_well.set()

    thread = threading.Thread(target=run)
    thread.start()
    url = f"http://127.0.0.1:{settings.worklist.port}"
    deadline = time.monotonic() + 30
    while True:
        try:
            assert urllib.request.urlopen(f"{url}/healthz", timeout=60).status == 200
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    page = urllib.request.urlopen(f"{url}/events", timeout=60)
    assert page.readline() == b"retry: 2000\n"
    ae = AE()
    ae.add_requested_context(Verification)
    association = associate(ae, "127.0.0.1", settings.worklist.dicom_port, ae_title="CXR_WORKLIST")
    assert association.is_established
    started = time.monotonic()
    stop.set()
    thread.join(10)
    took = time.monotonic() - started
    assert not thread.is_alive()
    assert took < 5
    assert ended_well.is_set()
    association.abort()
    page.close()


@pytest.mark.parametrize("key", ["port", "dicom_port"])
def test_a_port_that_is_taken_is_named(settings, database, key):
    """The administrator reads which key to change."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = with_worklist(settings, **{key: other.getsockname()[1]})
        server = WorklistServer(taken, database)
        with pytest.raises(SettingsError, match=rf"worklist\.{key}: cannot listen on 127\.0\.0\.1:"):
            server.start()
        server.stop()


def test_a_time_zone_that_is_none_is_named(settings, database):
    """Times on a page in another zone than the reader thinks are worse than no start."""
    with pytest.raises(SettingsError, match=r"worklist\.time_zone"):
        WorklistServer(with_worklist(settings, time_zone="Mars/Olympus"), database)
