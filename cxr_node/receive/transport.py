"""How received bytes get from the socket to the disk; the one module that uses names pynetdicom does not publish.

Stock pynetdicom asks the kernel for 4096 bytes at a time, copies every byte seven times and polls each association
every millisecond. Here a P-DATA fragment goes from one receive buffer per association to the file in one write, and an
association without traffic sleeps in poll. Everything else, negotiation, commands, release and abort, stays
pynetdicom's: the last fragment is handed to it as an empty one, and it then calls the C-STORE handler as ever.

Names used of pynetdicom 3.0.4: ``AssociationSocket``, ``DULServiceProvider._read_pdu_data``, ``._is_transport_event``,
``._run_loop_delay``, ``DIMSEMessage._data_set_file``. ``receive.transport = "stock"`` does without this module; the
tests hold both to the same behaviour.
"""

import contextlib
import os
import queue
import select
import socket
import ssl
import struct
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket, RequestHandler

P_DATA_TF = 4  # PS3.8 9.3.5
_PDU_HEADER = 6  # type, reserved, length
_PDV = struct.Struct(">IBB")  # length, presentation context id, message control header
_LENGTH = struct.Struct(">I")
_COMMAND, _LAST = 1, 2  # bits of the message control header, PS3.8 E.2
_LAST_FRAGMENT = b"\x02"
_BUFFER = 1 << 20
_AWAKE_EVERY_MS = 500  # to look at the idle timers
_TCP_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


class BufferedSocket(AssociationSocket):
    """A socket with a receive buffer of its own, so that a whole PDU is read at once."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.buffer = bytearray(_BUFFER)
        self.view = memoryview(self.buffer)
        self.start = self.end = 0  # unread bytes

    @property
    def ready(self) -> bool:
        """Whether something can be read without waiting."""
        return self.end > self.start or super().ready

    def pending(self) -> int:
        """Bytes that TLS has decrypted and nobody has read: poll does not see them."""
        return self.socket.pending() if isinstance(self.socket, ssl.SSLSocket) else 0

    def receive_into(self, view: memoryview) -> int:
        """Read what is there, at least a byte; 0 at the end of the stream.

        Raises
        ------
        OSError
            Also when the peer stays silent for longer than the socket's time-out.
        """
        assert self.socket is not None
        count = self.socket.recv_into(view)
        if _TCP_QUICKACK is not None:
            # Re-armed after each read: a sender with Nagle's algorithm waits 40 ms for a delayed acknowledgement.
            with contextlib.suppress(OSError):
                self.socket.setsockopt(socket.IPPROTO_TCP, _TCP_QUICKACK, 1)
        return count

    def fill(self, need: int) -> bool:
        """Have `need` unread bytes in the buffer; False at the end of the stream."""
        if self.start == self.end:
            self.start = self.end = 0
        elif self.start + need > len(self.buffer):
            left = self.end - self.start
            self.buffer[:left] = self.buffer[self.start : self.end]
            self.start, self.end = 0, left
        while self.end - self.start < need:
            count = self.receive_into(self.view[self.end :])
            if not count:
                return False
            self.end += count
        return True

    def recv(self, nr_bytes: int) -> bytearray:
        """Return that many bytes, fewer at the end of the stream."""
        out = bytearray()
        while len(out) < nr_bytes:
            if self.start == self.end and not self.fill(1):
                break
            count = min(nr_bytes - len(out), self.end - self.start)
            out += self.view[self.start : self.start + count]
            self.start += count
        return out


class StreamDul(DULServiceProvider):
    """Waits in poll instead of sleeping, and writes dataset fragments straight to the file."""

    def __init__(self, association: Association) -> None:
        super().__init__(association)
        self._run_loop_delay = 0
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll: Any = None
        self.write_failed = False  # of the message that is being received

    def run(self) -> None:
        """Run until the association is over, then give the descriptor back."""
        try:
            super().run()
        finally:
            self._discard()
            wake, self._wake = self._wake, -1
            os.close(wake)

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # closed: nobody waits any more
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def send_pdu(self, primitive: Any) -> None:
        super().send_pdu(primitive)
        self._ring()

    def kill_dul(self) -> None:
        super().kill_dul()
        self._ring()

    def _is_transport_event(self) -> bool:
        link: Any = self.socket
        if (
            link is not None
            and link.socket is not None
            and link.start == link.end
            and not link.pending()
            and self.event_queue.empty()
            and self.state_machine.current_state != "Sta13"
            and self._nothing_to_send_or_told_to_stop()
        ):
            if self._poll is None:
                self._poll = select.poll()
                self._poll.register(link.socket, select.POLLIN)
                self._poll.register(self._wake, select.POLLIN)
            ready = [descriptor for descriptor, _ in self._poll.poll(_AWAKE_EVERY_MS)]
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
                return False  # a primitive to send, or time to stop
            if not ready:
                return False
        return bool(super()._is_transport_event())

    def _nothing_to_send_or_told_to_stop(self) -> bool:
        return bool(self.to_provider_queue.empty()) and not self._kill_thread

    def _read_pdu_data(self) -> None:
        if self.state_machine.current_state != "Sta6":
            super()._read_pdu_data()
            return
        try:
            connected = self._pump()
        except OSError:
            connected = False
        if not connected:
            self.event_queue.put("Evt17")  # transport connection closed, PS3.8 9.2

    def _pump(self) -> bool:
        """Read PDUs until a message is complete; False when the connection is gone."""
        link: Any = self.socket
        while True:
            if not link.fill(_PDU_HEADER):
                return False
            if link.buffer[link.start] != P_DATA_TF:
                super()._read_pdu_data()  # release, abort or nonsense
                return True
            (left,) = _LENGTH.unpack_from(link.buffer, link.start + 2)
            link.start += _PDU_HEADER
            done = False
            while left > 0:
                if not link.fill(_PDV.size):
                    return False
                length, context, control = _PDV.unpack_from(link.buffer, link.start)
                if length < 2 or length + 4 > left:
                    self.event_queue.put("Evt19")  # unrecognised or invalid PDU
                    return True
                link.start += _PDV.size
                left -= length + 4
                target = self._open_file()
                if control & _COMMAND or target is None:
                    self.write_failed = False
                    data = bytes((control,)) + bytes(link.recv(length - 2))
                    if len(data) != length - 1:
                        return False
                    self._hand_over(context, data)
                    done = control & _LAST != 0 and self.assoc.dimse.message is None
                elif not self._write(link, target, length - 2):
                    return False
                elif control & _LAST:
                    self._hand_over(context, _LAST_FRAGMENT)
                    done = True
            if done:
                return True

    def _open_file(self) -> Any:
        """Return the file that fragments of the message go to, None while there is none."""
        message = self.assoc.dimse.message
        return message._data_set_file if message is not None else None

    def _hand_over(self, context: int, data: bytes) -> None:
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context, data))
        self.assoc.dimse.receive_primitive(primitive)
        file = self._open_file()
        if file is not None:
            file.flush()  # the file meta information, before fragments go past the file's buffer

    def _write(self, link: Any, file: Any, count: int) -> bool:
        """Move `count` bytes from socket to file; a disk that takes no more is remembered, and the rest is read."""
        descriptor = file.fileno()
        while count:
            if link.start == link.end:
                link.start = 0
                link.end = link.receive_into(link.view)
                if not link.end:
                    return False
            taken = min(count, link.end - link.start)
            if not self.write_failed:
                try:
                    _write_all(descriptor, link.view[link.start : link.start + taken])
                except OSError:
                    self.write_failed = True
            link.start += taken
            count -= taken
        return True

    def _discard(self) -> None:
        """Remove the file of a message whose sender left in the middle of it."""
        file = self._open_file()
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()
            with contextlib.suppress(OSError):
                os.unlink(file.name)


def _write_all(descriptor: int, view: memoryview) -> None:
    while view:
        view = view[os.write(descriptor, view) :]


class _WakingQueue(queue.Queue[Any]):
    """Primitives for the association, which sleeps on the queue of messages: a put wakes it."""

    def __init__(self, dimse: DIMSEServiceProvider) -> None:
        super().__init__()
        self._dimse = dimse

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._dimse.msg_queue.put((None, None))


class StreamDimse(DIMSEServiceProvider):
    """Sleeps until there is a message, instead of asking a thousand times a second."""

    def get_msg(self, block: bool = False) -> Any:
        """Return a message and its context id, two Nones where there is none yet."""
        if block:
            return super().get_msg(block)
        try:
            return self.msg_queue.get(timeout=_AWAKE_EVERY_MS / 1000)
        except queue.Empty:
            return None, None


class StreamHandler(RequestHandler):
    """Makes acceptor associations whose bytes take the short way."""

    def _create_association(self) -> Association:
        association: Any = super()._create_association()
        association.dimse = StreamDimse(association)
        association.dul = StreamDul(association)
        association.dul.to_user_queue = _WakingQueue(association.dimse)
        association.set_socket(BufferedSocket(association, client_socket=self.request))
        association.network_timeout = self.ae.network_timeout
        return association  # type: ignore[no-any-return]
