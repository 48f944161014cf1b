"""The log says what happened, never to whom."""

import io
import json
import logging

import pytest

from cxr_node.errors import UnreadablePixels
from cxr_node.log import IDENTIFYING_KEYS, configure_logging, get_logger

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
