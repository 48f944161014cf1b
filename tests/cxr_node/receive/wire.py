"""Upper layer messages made by hand, to send them half, late or wrong."""

import contextlib
import socket
import struct
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.pdu import A_ASSOCIATE_RQ, P_DATA_TF
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification

A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ABORT = 2, 3, 7
ABORT = b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00"
RELEASE_RQ = b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"
COMMAND, LAST = 1, 2


def association_request(sop_class: str, *, calling: str = "CR_ROOM_1", called: str = "CXR_NODE") -> bytes:
    """An A-ASSOCIATE-RQ with one presentation context, id 1, Explicit VR Little Endian."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    context = build_context(sop_class, ExplicitVRLittleEndian)
    context.context_id = 1
    primitive.presentation_context_definition_list = [context]
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = 16382
    implementation.implementation_class_uid = "1.2.3.4"
    primitive.user_information = [length, implementation]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    return pdu.encode()


def store_pdus(dataset: Dataset, *, maximum_length: int = 16382, sop_instance_uid: str | None = None) -> list[bytes]:
    """The P-DATA-TF PDUs of a C-STORE request: first that of the command, then those of the dataset."""
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = dataset.SOPClassUID
    request.AffectedSOPInstanceUID = sop_instance_uid or dataset.SOPInstanceUID
    request.Priority = 2
    request.DataSet = BytesIO(encode(dataset, False, True) or b"")
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    pdus = []
    for primitive in message.encode_msg(1, maximum_length):
        pdu = P_DATA_TF()
        pdu.from_primitive(primitive)
        pdus.append(pdu.encode())
    return pdus


def fragment(data: bytes, control: int, context: int = 1) -> bytes:
    """One presentation data value item."""
    return struct.pack(">IBB", len(data) + 2, context, control) + data


def p_data(*fragments: bytes) -> bytes:
    """A P-DATA-TF PDU of these items."""
    return struct.pack(">BBI", 4, 0, sum(map(len, fragments))) + b"".join(fragments)


def connect(port: int) -> socket.socket:
    """A plain connection."""
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def associate(port: int, sop_class: str, **titles: str) -> socket.socket:
    """A plain connection over which an association is open."""
    connection = connect(port)
    connection.sendall(association_request(sop_class, **titles))
    assert receive_pdu(connection)[0] == A_ASSOCIATE_AC
    return connection


def receive_pdu(connection: socket.socket) -> tuple[int, bytes]:
    """Return type and body of the next PDU; (0, b"") when the peer has closed."""
    head = _receive(connection, 6)
    if len(head) < 6:
        return 0, b""
    kind, _, length = struct.unpack(">BBI", head)
    return kind, _receive(connection, length)


def receive_status(connection: socket.socket) -> Any:
    """Return the Status of the next response."""
    from pynetdicom.dsutils import decode

    kind, body = receive_pdu(connection)
    assert kind == 4, kind
    return decode(BytesIO(body[6:]), True, True).Status


def _receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while len(data) < count and (part := connection.recv(count - len(data))):
            data += part
    return data
