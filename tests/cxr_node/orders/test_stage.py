"""The stage whole: its listener, its jobs, its end."""

import contextlib
import socket
import threading
import time

import pytest

from cxr_node.cli.serve import stages_of
from cxr_node.orders import run_orders
from cxr_node.settings import load_settings
from storage import Database, jobs, studies
from tests.cxr_node.orders.messages import NOON, ORM, message


def _settings(tmp_path, **overrides):
    return load_settings(
        None, {"CXR_NODE__NODE__DATA_DIR": str(tmp_path), **{f"CXR_NODE__ORDERS__{k}": v for k, v in overrides.items()}}
    )


@pytest.mark.requirement("SRS-ORD-011")
def test_the_stage_takes_orders_and_applies_them_to_studies_that_come_later(tmp_path):
    """First the order, then the images, as on a normal day; and it ends when told."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = _settings(tmp_path, HL7_PORT=str(port))
    stop = threading.Event()
    stage = threading.Thread(target=run_orders, args=(settings, stop), daemon=True)
    stage.start()
    database = Database(settings.database_url)
    try:
        deadline = time.monotonic() + 30
        connection = None
        while connection is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                connection = socket.create_connection(("127.0.0.1", port), timeout=5)
        assert connection is not None
        with connection:
            connection.sendall(b"\x0b" + message(*ORM) + b"\x1c\r")
            assert b"MSA|AA|C1" in connection.recv(4096)
        with database.begin() as opened:
            context = studies.PatientContext(accession_number="A1", patient_id="P1", ordered_priority="ROUTINE")
            studies.touch(opened, "1.2.3", context, ordered_rank=1, calling_ae_title="CR", now=NOON)
            jobs.schedule(opened, "order", "1.2.3", run_at=NOON, now=NOON)
        deadline = time.monotonic() + 30
        found = ""
        while found != "STAT" and time.monotonic() < deadline:
            with database.read() as opened:
                found = studies.get(opened, "1.2.3").effective_priority
            time.sleep(0.02)
        assert found == "STAT"
    finally:
        stop.set()
        stage.join(10)
        database.dispose()
    assert not stage.is_alive()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


@pytest.mark.requirement("SRS-ORD-011")
def test_a_node_without_orders_runs_no_such_stage(tmp_path):
    """Nothing listens that was not asked for."""
    names = [stage.name for stage in stages_of(_settings(tmp_path))]
    assert "orders" not in names
    assert "orders" in [stage.name for stage in stages_of(_settings(tmp_path, HL7_PORT="2575"))]
    assert "orders" in [stage.name for stage in stages_of(_settings(tmp_path, RIS__AE_TITLE="RIS"))]
