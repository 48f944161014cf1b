"""C-STORE read and written without the library: the same bytes in the file and on the wire, or it is left to it."""

import struct
import threading
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from pydicom.uid import DigitalXRayImageStorageForPresentation as DX
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.dsutils import decode
from pynetdicom.dul import DULServiceProvider

from cxr_node.receive.messages import StoreRequest, read_store_request, write_store_response
from cxr_node.receive.transport import StreamDul
from tests.builders import make_radiograph_dataset
from tests.cxr_node.receive import wire
from tests.cxr_node.receive.conftest import Receiver

INSTANCE = "1.2.3.4"


class Context:
    """An accepted presentation context."""

    abstract_syntax = DX
    transfer_syntax = (ExplicitVRLittleEndian,)


def element(number: int, value: bytes, group: int = 0) -> bytes:
    return struct.pack("<HHL", group, number, len(value)) + value


def us(value: int) -> bytes:
    return struct.pack("<H", value)


def command(**changes: bytes | None) -> bytes:
    """A C-STORE-RQ; an element is left out where it is None, and added where it is none of its own."""
    values: dict[str, bytes | None] = {
        "0002": DX.encode() + b"\0" * (len(DX) % 2),
        "0100": us(1),
        "0110": us(7),
        "0700": us(0),
        "0800": us(1),
        "1000": INSTANCE.encode() + b"\0",
    }
    values.update({name.removeprefix("e"): value for name, value in changes.items()})
    return b"".join(element(int(name, 16), value) for name, value in sorted(values.items()) if value is not None)


def whole(data: bytes) -> bytes:
    return element(0, struct.pack("<L", len(data))) + data


def read(data: bytes, context_id: int = 1) -> tuple[StoreRequest, str] | None:
    return read_store_request(data, context_id, {1: Context()})


@pytest.mark.requirement("SRS-RCV-902")
@pytest.mark.parametrize("moved", [{}, {"e1030": b"MOVER ", "e1031": us(3)}])
def test_a_request_as_every_sender_forms_it_is_read(moved):
    """With the elements of a C-MOVE too, which change nothing for who receives."""
    expected = (StoreRequest(DX, INSTANCE, 7), ExplicitVRLittleEndian)
    assert read(whole(command(**moved))) == expected


@pytest.mark.requirement("SRS-RCV-902")
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(whole(command(e0100=us(0x0030))), id="a C-ECHO"),
        pytest.param(whole(command(e0100=us(0x8001))), id="a response"),
        pytest.param(whole(command(e0800=us(0x0101))), id="no dataset"),
        pytest.param(whole(command(e0700=us(3))), id="a priority that is none"),
        pytest.param(whole(command(e0700=None)), id="no priority"),
        pytest.param(whole(command(e0110=None)), id="no message id"),
        pytest.param(whole(command(e0110=b"\x01\0\0\0")), id="a number of another length"),
        pytest.param(whole(command(e1000=None)), id="no instance"),
        pytest.param(whole(command(e1000=b"")), id="an empty UID"),
        pytest.param(whole(command(e1000=b"1.2.x4")), id="letters in a UID"),
        pytest.param(whole(command(e1000=b"../../etc/passwd")), id="a path in a UID"),
        pytest.param(whole(command(e1000=b"1" * 66)), id="a UID too long"),
        pytest.param(whole(command(e0002=b"1.2.840.10008.1.1\0")), id="another class than the context's"),
        pytest.param(whole(command(e0902=b"hello ")), id="an element that is none of a request"),
        pytest.param(whole(command() + element(0x0110, us(8))), id="an element twice"),
        pytest.param(whole(command() + element(0x0010, b"DOE^J ", group=0x0010)), id="an element of a dataset"),
        pytest.param(whole(command())[:-1], id="a value cut"),
        pytest.param(whole(command()) + b"\0\0\0", id="a head cut"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_any_other_is_left_to_the_library(data):
    """It knows what to answer, and does so as before."""
    assert read(data) is None


@pytest.mark.requirement("SRS-RCV-902")
def test_a_request_in_a_context_that_was_not_accepted_is_left_to_the_library():
    """It ends the association."""
    assert read(whole(command()), context_id=3) is None


@pytest.mark.requirement("SRS-RCV-902")
@pytest.mark.parametrize("maximum_length", [0, 16382, 20, 7])
def test_an_answer_fits_into_the_pdus_that_the_sender_takes(maximum_length):
    """PS3.8 D.1: no P-DATA-TF is longer than the peer said, its own head of six bytes aside."""
    data = write_store_response(StoreRequest(DX, INSTANCE, 7), 5, 0xA700, "the disk is full", maximum_length)
    said, controls = b"", []
    while data:
        kind, length, item, context, control = struct.unpack_from(">BxLLBB", data)
        assert (kind, item, context) == (4, length - 4, 5)
        assert not maximum_length or length <= maximum_length
        said += data[12 : 6 + length]
        controls.append(control)
        data = data[6 + length :]
    assert controls == [1] * (len(controls) - 1) + [3]
    response = decode(BytesIO(said), True, True)
    assert response.CommandGroupLength == len(said) - 12
    assert (response.CommandField, response.MessageIDBeingRespondedTo) == (0x8001, 7)
    assert (response.Status, response.ErrorComment) == (0xA700, "the disk is full")
    assert (response.AffectedSOPClassUID, response.AffectedSOPInstanceUID) == (DX, INSTANCE)


def exchange(receiver: Receiver, pdus: list[bytes]) -> tuple[int, bytes]:
    with wire.associate(receiver.port, DX) as connection:
        for pdu in pdus:
            connection.sendall(pdu)
        return wire.receive_pdu(connection)


@pytest.mark.requirement("SRS-RCV-902")
def test_file_and_answers_are_those_of_the_plain_transport(start_receiver: Callable[..., Receiver]):
    """Preamble, file meta information and every byte after it; Success, and a failure with its comment."""
    stream, stock = (start_receiver(receive__transport=name) for name in ("stream", "stock"))
    dataset = make_radiograph_dataset()
    right, wrong = wire.store_pdus(dataset), wire.store_pdus(dataset, sop_instance_uid="1.2.3")
    assert exchange(stream, wrong) == exchange(stock, wrong)
    assert exchange(stream, right) == exchange(stock, right)
    kept: list[Any] = []
    for receiver in (stream, stock):
        (row,) = receiver.of(dataset.SOPInstanceUID)
        kept.append((receiver.files.read(row.location), row.size, row.transfer_syntax_uid))
        assert receiver.incoming() == []
    assert kept[0] == kept[1]


@pytest.mark.requirement("SRS-RCV-902")
def test_a_command_in_two_fragments_makes_the_same_instance(start_receiver: Callable[..., Receiver]):
    """No sender does so, and the standard allows it: it goes the library's way."""
    receiver = start_receiver(receive__transport="stream")
    dataset = make_radiograph_dataset()
    first, *rest = wire.store_pdus(dataset)
    data = first[12:]
    parts = [wire.p_data(wire.fragment(data[:40], 1)), wire.p_data(wire.fragment(data[40:], 3))]
    with wire.associate(receiver.port, DX) as connection:
        connection.sendall(b"".join([*parts, *rest]))
        assert wire.receive_status(connection) == 0x0000
    assert len(receiver.of(dataset.SOPInstanceUID)) == 1


@pytest.mark.requirement("SRS-RCV-902")
def test_while_an_instance_is_kept_its_sender_is_not_silent(monkeypatch):
    """It waits for us: a slow disk must not end the association before the answer."""
    monkeypatch.setattr(DULServiceProvider, "idle_timer_expired", lambda self: True)
    dul = object.__new__(StreamDul)
    dul.is_serving = threading.Lock()
    assert dul.idle_timer_expired()
    with dul.is_serving:
        assert not dul.idle_timer_expired()
