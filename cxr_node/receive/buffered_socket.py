"""The socket of an association, with a receive buffer of its own: a PDU is read at once, a dataset without a copy.

Name used of pynetdicom 3.0.4 that it does not publish: ``AssociationSocket._is_connected``.
"""

import contextlib
import select
import socket
import ssl
import threading
import time
from typing import Any

from pynetdicom.transport import AssociationSocket

_BUFFER = 1 << 20  # 1 MiB measured best, a fifth faster than 128 KiB
_SHORT_BUFFER = 1 << 18
_MOST_LONG_BUFFERS = 4  # more associations that send at once wait for the processor, not for their buffers
_SMALL_BUFFER = 1 << 14  # until a dataset comes: most associations of a day are C-ECHO, or idle
_LONGEST_CONTROL = 1 << 20  # an A-ASSOCIATE-RQ of 128 presentation contexts takes 150 KB; the length field allows 4 GB
_PATIENCE_BYTES = 131072  # as much of a PDU must arrive within the idle time
_DRAINED_READS = 16
_TCP_QUICKACK = getattr(socket, "TCP_QUICKACK", None)

_long_buffers = threading.BoundedSemaphore(_MOST_LONG_BUFFERS)


class BufferedSocket(AssociationSocket):
    """A socket with a receive buffer of its own, so that a whole PDU is read at once."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.buffer = bytearray(_SMALL_BUFFER)
        self.view = memoryview(self.buffer)
        self.start = self.end = 0  # unread bytes
        self._deadline = float("inf")
        self._has_long_buffer = False

    @property
    def unread(self) -> int:
        """Bytes that can be had without asking the kernel; poll does not see what TLS has decrypted already."""
        waiting = self.socket.pending() if isinstance(self.socket, ssl.SSLSocket) else 0
        return self.end - self.start + waiting

    @property
    def ready(self) -> bool:
        """Whether something can be read without waiting. Not by select, which ends at descriptor 1023."""
        if self.end > self.start:
            return True
        if self.socket is None or not self._is_connected:
            return False
        try:
            poll = select.poll()
            poll.register(self.socket, select.POLLIN)
            return self.unread > 0 or bool(poll.poll(0))
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # transport connection closed, PS3.8 9.2
            return False

    def begin_pdu(self, length: int = 0) -> None:
        """Give the peer the idle time for what comes, once more for every 128 KiB of it.

        Each byte may come within the socket's own time-out, and a PDU still never end.
        """
        patience_s = self.socket.gettimeout() if self.socket is not None else None
        if patience_s is not None:
            self._deadline = time.monotonic() + patience_s * (1 + length // _PATIENCE_BYTES)

    def grow(self) -> None:
        """Make room for a dataset. Nothing may refer to the buffer."""
        if len(self.buffer) > _SMALL_BUFFER:
            return
        self._has_long_buffer = _long_buffers.acquire(blocking=False)
        buffer = bytearray(_BUFFER if self._has_long_buffer else _SHORT_BUFFER)
        unread = self.end - self.start
        buffer[:unread] = self.buffer[self.start : self.end]
        self.buffer, self.view = buffer, memoryview(buffer)
        self.start, self.end = 0, unread

    def shrink(self) -> None:
        """Give the room back: the association is over."""
        if self._has_long_buffer:
            self._has_long_buffer = False
            _long_buffers.release()
        self.buffer, self.view = bytearray(), memoryview(b"")
        self.start = self.end = 0

    def drain(self) -> None:
        """Throw away some of what waits. The association is over; the library would read on for PDUs, for as long as
        the peer sends, and a connection closed over unread bytes takes the abort before it along."""
        self.start = self.end = 0
        connection = self.socket
        if connection is None:
            return
        with contextlib.suppress(OSError):
            connection.settimeout(0)
            for _ in range(_DRAINED_READS):
                if not connection.recv_into(self.view):
                    return

    def receive_into(self, view: memoryview) -> int:
        """Read what is there, at least a byte; 0 at the end of the stream.

        Raises
        ------
        OSError
            Also when the peer is silent, or slower than `begin_pdu` allows.
        """
        if self.socket is None:
            raise ConnectionError("the connection was closed here")
        count = self.socket.recv_into(view)
        if time.monotonic() > self._deadline:
            raise TimeoutError("the peer sends too slowly")
        if _TCP_QUICKACK is not None:
            # Re-armed after each read: a sender with Nagle's algorithm waits 40 ms for a delayed acknowledgement.
            with contextlib.suppress(OSError):
                self.socket.setsockopt(socket.IPPROTO_TCP, _TCP_QUICKACK, 1)
        return count

    def fill(self, need: int) -> bool:
        """Have `need` unread bytes in the buffer; False at the end of the stream. Moves what is in the buffer."""
        if self.start == self.end:
            self.start = self.end = 0
        elif self.start + need > len(self.buffer):
            unread = self.end - self.start
            self.buffer[:unread] = self.buffer[self.start : self.end]
            self.start, self.end = 0, unread
        while self.end - self.start < need:
            count = self.receive_into(self.view[self.end :])
            if not count:
                return False
            self.end += count
        return True

    def recv(self, nr_bytes: int) -> bytearray:
        """Return that many bytes, fewer at the end of the stream.

        Raises
        ------
        OSError
            Also for more than any command or association request takes.
        """
        if nr_bytes > _LONGEST_CONTROL:
            raise ConnectionError(f"a PDU of {nr_bytes} bytes, at most {_LONGEST_CONTROL} expected")
        if self.unread < nr_bytes:
            self.begin_pdu(nr_bytes)
        out = bytearray()
        while len(out) < nr_bytes:
            if self.start == self.end and not self.fill(1):
                break
            count = min(nr_bytes - len(out), self.end - self.start)
            out += self.view[self.start : self.start + count]
            self.start += count
        return out
