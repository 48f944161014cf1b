"""The log says what happened, never to whom."""

import io
import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from cxr_node import log as log_module
from cxr_node.errors import UnreadablePixels
from cxr_node.log import IDENTIFYING_KEYS, configure_fallback, configure_logging, get_logger

pytestmark = pytest.mark.requirement("SRS-LOG-001")


@pytest.fixture
def lines():
    stream = io.StringIO()
    configure_logging("info", "receive", stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_object_with_time_level_and_stage(lines):
    """A log collector reads it without a parser of its own."""
    get_logger("test").info("instance_kept", sop_instance_uid="1.2")
    (line,) = lines()
    assert line["event"] == "instance_kept"
    assert line["stage"] == "receive"
    assert line["level"] == "info"
    assert line["timestamp"].endswith("Z")


def test_keys_that_identify_a_patient_are_dropped_whoever_passes_them(lines):
    """The second lock on the door."""
    get_logger("test").info("slip", **dict.fromkeys(IDENTIFYING_KEYS, "PLANTED"), kept=1)
    (line,) = lines()
    assert "PLANTED" not in json.dumps(line)
    assert line["kept"] == 1


def test_a_library_error_is_named_but_not_quoted(lines):
    """pydicom's messages quote element values; a traceback's locals hold datasets."""
    try:
        raise ValueError("Invalid value for VR PN: PLANTED^NAME")
    except ValueError as error:
        get_logger("test").error("failed", exc_info=error)
    (line,) = lines()
    assert "PLANTED" not in json.dumps(line)
    assert line["error_type"] == "ValueError"
    assert "test_log" in line["error_at"]


def test_an_error_of_ours_keeps_its_sentence(lines):
    """It was written to be logged."""
    get_logger("test").error("failed", exc_info=UnreadablePixels("Bits Stored is 12, more than Bits Allocated 8"))
    (line,) = lines()
    assert line["error"] == "Bits Stored is 12, more than Bits Allocated 8"


def test_libraries_log_from_warning_on_and_pydicom_not_at_all(lines):
    """pynetdicom's debug log prints datasets, pydicom's warnings quote them; both are told elsewhere."""
    logging.getLogger("pynetdicom").info("PLANTED")
    logging.getLogger("pydicom").warning("PLANTED")
    logging.getLogger("uvicorn").warning("started late")
    assert [line["event"] for line in lines()] == ["started late"]


class Planted:
    """Prints a name, as a dataset does."""

    def __repr__(self) -> str:
        return "PLANTED^NAME"

    __str__ = __repr__


def fail_with_locals() -> None:
    patient = Planted()
    raise ValueError(f"bad value {patient}")


@pytest.mark.requirement("SRS-LOG-103")
def test_before_logging_is_configured_no_local_variable_is_printed(capfd):
    """structlog by itself prints the locals of every frame where it finds a terminal's library."""
    configure_fallback()
    try:
        fail_with_locals()
    except ValueError:
        get_logger("test").error("failed", exc_info=True, dataset=Planted(), found=Planted())
    told = capfd.readouterr()
    assert told.out == ""
    assert "PLANTED" not in told.err
    assert json.loads(told.err)["error_type"] == "ValueError"


@pytest.mark.requirement("SRS-LOG-103")
def test_importing_the_log_is_enough(tmp_path):
    """In a process of its own, that configured nothing, with a terminal's width set."""
    code = (
        "from cxr_node.log import get_logger\n"
        "def fail():\n    patient = 'PLANTED^NAME'\n    raise ValueError(patient)\n"
        "try:\n    fail()\nexcept ValueError:\n    get_logger('x').exception('failed')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, "FORCE_COLOR": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert "PLANTED" not in done.stdout + done.stderr
    assert json.loads(done.stderr)["event"] == "failed"


@pytest.mark.requirement("SRS-LOG-104")
def test_an_object_is_named_by_its_type_and_a_file_by_nothing(lines):
    """What an object prints may be a dataset, and files are named after patients."""
    log = get_logger("test")
    log.info("slip", one=Planted(), many=[Planted(), 1], inner={"key": Planted(), "patient_id": "PLANTED"}, share=0.5)
    try:
        Path("/nowhere/PLANTED^NAME.dcm").read_bytes()
    except OSError as error:
        log.error("not_read", exc_info=error)
    first, second = lines()
    assert "PLANTED" not in json.dumps([first, second])
    assert (first["one"], first["many"], first["inner"]) == ("Planted", ["Planted", 1], {"key": "Planted"})
    assert first["share"] == 0.5
    assert second["error"] == "No such file or directory"


@pytest.mark.requirement("SRS-LOG-105")
def test_of_what_a_library_says_its_arguments_are_left_out(lines):
    """Their authors could not know what the values are; asyncio adds the text of an exception on further lines."""
    logging.getLogger("sqlalchemy.pool").error("Invalid value %s for %r", "PLANTED", Planted())
    logging.getLogger("asyncio").error("Task exception was never retrieved\nfuture: <Task exception=PLANTED>")
    logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=ValueError("PLANTED"))
    logging.getLogger("httpx").warning("HTTP Request: %s %s", "GET", "https://user:PLANTED@host/?token=PLANTED")
    found = lines()
    assert "PLANTED" not in json.dumps(found)
    assert [line["event"] for line in found] == [
        "Invalid value %s for %r",
        "Task exception was never retrieved",
        "Exception in ASGI application",
        "HTTP Request: %s %s",
    ]


@pytest.mark.requirement("SRS-LOG-105")
def test_a_warning_says_that_and_where_but_not_of_what(lines):
    """pydicom warns of a value by quoting it, in the name of whoever called it."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = log_module._warned
        warnings.warn("Invalid value for VR PN: 'PLANTED^NAME'", UserWarning, stacklevel=1)
    (line,) = lines()
    assert "PLANTED" not in json.dumps(line)
    assert (line["event"], line["category"]) == ("library_warning", "UserWarning")
    assert line["at"].startswith("test_log.py:")


@pytest.mark.requirement("SRS-LOG-106")
def test_what_nobody_catches_is_named_and_not_quoted(tmp_path):
    """In the main thread and in another; Python prints the message and the source lines."""
    code = (
        "import threading\n"
        "from cxr_node.log import configure_logging\n"
        "configure_logging('debug', 'test')\n"
        "def fail():\n    patient = 'PLANTED^NAME'\n    raise ValueError(f'bad {patient}')\n"
        "thread = threading.Thread(target=fail)\nthread.start()\nthread.join()\nfail()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "PLANTED" not in done.stdout + done.stderr
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["event"], line["error_type"]) for line in found] == [("uncaught_exception", "ValueError")] * 2
