"""How received bytes get from the socket to the disk; the one module that uses names pynetdicom does not publish.

Stock pynetdicom asks the kernel for 4096 bytes at a time, copies every byte seven times and polls each association
every millisecond. Here the fragments of a dataset go from one receive buffer per association to the file with
``writev``, and an association without traffic sleeps in ``poll``. Everything else, negotiation, commands, release and
abort, stays pynetdicom's: the last fragment is handed to it as an empty one, and it then calls the C-STORE handler as
ever.

Names used of pynetdicom 3.0.4 that it does not publish: ``AssociationSocket._is_connected``; of ``DULServiceProvider``
``_read_pdu_data``, ``_is_transport_event``, ``_run_loop_delay``, ``_idle_timer``, ``_kill_thread``; of ``DIMSEMessage``
``_data_set_file``, ``_data_set_path``; ``C_STORE._dataset_file``; ``RequestHandler._create_association``.
``receive.transport = "stock"`` does without them but for the two that name the file of an unfinished dataset; one test
holds both to the same behavior.
"""

import contextlib
import ctypes
import os
import queue
import select
import socket
import ssl
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket, RequestHandler

from cxr_node.log import get_logger
from cxr_node.seldom import Seldom

log = get_logger("receive")
seldom = Seldom(log)

P_DATA_TF = 4  # PS3.8 9.3.5
_PDU_HEADER = 6  # type, reserved, length
_PDV = struct.Struct(">IBB")  # length, presentation context id, message control header
_LENGTH = struct.Struct(">I")
_COMMAND, _LAST = 1, 2  # bits of the message control header, PS3.8 E.2
_LAST_FRAGMENT = b"\x02"
_BUFFER = 1 << 20  # 1 MiB measured best, a fifth faster than 128 KiB
_SHORT_BUFFER = 1 << 18
_MOST_LONG_BUFFERS = 4  # more associations that send at once wait for the processor, not for their buffers
_SMALL_BUFFER = 1 << 14  # until a dataset comes: most associations of a day are C-ECHO, or idle
_LONGEST_CONTROL = 1 << 20  # an A-ASSOCIATE-RQ of 128 presentation contexts takes 150 KB; the length field allows 4 GB
_LONGEST_IN_MEMORY = 1 << 24  # a commitment request of 100,000 instances takes 13 MB
_PATIENCE_BYTES = 131072  # as much of a PDU must arrive within the idle time
_MOST_FRAGMENTS = 512  # in one writev; the kernel takes 1024
_LONGEST_SLEEP_MS = 2000  # then a look at the timers
_SLEEPS_PER_TIMEOUT = 10
_DRAINED_READS = 16
_LONGEST_COMMAND = 1 << 16  # a command set of the standard takes a few hundred bytes
_TCP_QUICKACK = getattr(socket, "TCP_QUICKACK", None)

_BEGIN_TO_SYNC = 4 << 20
_SYNC_FILE_RANGE_WRITE = 2  # sync_file_range(2), which Python does not offer


def _find_sync_file_range() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


_sync_file_range = _find_sync_file_range()

# Of a command set that is none, or of a presentation context that was not accepted.
_MALFORMED = (KeyError, IndexError, AttributeError, ValueError, TypeError, NotImplementedError, struct.error)


def is_streaming_possible() -> bool:
    """Whether this system has what the `stream` transport is made of (Linux)."""
    return hasattr(os, "eventfd") and hasattr(os, "writev") and hasattr(select, "poll")


def write_failed(association: Any, path: Path) -> bool:
    """Whether the disk refused a part of this file, and the rest of its bytes was read to no end."""
    return isinstance(association.dul, StreamDul) and str(path) in association.dul.failed


def discard_unfinished(association: Any) -> None:
    """Remove the file of a dataset whose sender left in the middle of it."""
    _remove(_file_of(association.dimse.message))


def discard_unserved(association: Any) -> None:
    """Remove the files of datasets that came whole and that nobody will look at any more."""
    with contextlib.suppress(queue.Empty):
        while True:
            _, message = association.dimse.msg_queue.get_nowait()
            _remove(getattr(message, "_dataset_file", None))


def cut(association: Any) -> None:
    """Close the connection under an association that does not end by itself: who reads from it hears the end."""
    link = association.dul.socket
    connection = link.socket if link is not None else None
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def _file_of(message: Any) -> Any:
    return getattr(message, "_data_set_file", None)


def _remove(file: Any) -> None:
    if file is None:
        return
    with contextlib.suppress(OSError):
        file.close()
    with contextlib.suppress(OSError):
        os.unlink(file.name)


_long_buffers = threading.BoundedSemaphore(_MOST_LONG_BUFFERS)


def _sleep_ms(timeout_s: float | None) -> float:
    """Return how long a thread may sleep that must notice when `timeout_s` is over."""
    return min(_LONGEST_SLEEP_MS, 1000 * (timeout_s or 60.0) / _SLEEPS_PER_TIMEOUT)


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


class StreamDul(DULServiceProvider):
    """Waits in poll instead of sleeping, and writes dataset fragments straight to the file."""

    def __init__(self, association: Association) -> None:
        super().__init__(association)
        self._run_loop_delay = 0
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wake_lock = threading.Lock()
        self._poll_both: Any = None
        self._fragments: list[memoryview] = []
        self._unsynced = 0  # bytes written since the disk was last told to begin
        self._file: Any = None  # where they go
        self.failed: set[str] = set()  # files that the disk did not take whole
        self._link: Any = None
        self._sleep_ms = 0.0

    def run(self) -> None:
        """Run until the association is over, then give back what it held."""
        self._link = self.socket
        timeouts = (self.assoc.network_timeout, self.assoc.acse_timeout)
        self._sleep_ms = min(_sleep_ms(timeout) for timeout in timeouts)
        try:
            super().run()
        finally:
            discard_unfinished(self.assoc)
            with self._wake_lock:
                wake, self._wake = self._wake, -1
                os.close(wake)
            if isinstance(self._link, BufferedSocket):
                self._link.shrink()
            self._wake_association()

    def _ring(self) -> None:
        with self._wake_lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def send_pdu(self, primitive: Any) -> None:
        """Queue it, and wake the thread that sends."""
        super().send_pdu(primitive)
        self._ring()

    def kill_dul(self) -> None:
        """End, and wake the threads for it."""
        super().kill_dul()
        self._ring()
        self._wake_association()

    def _wake_association(self) -> None:
        self.assoc.dimse.msg_queue.put((None, None))  # type: ignore[arg-type]

    def stop_dul(self) -> bool:
        """End if idle (Sta1), and wait for it; the library's own would wait in a busy loop."""
        if self.state_machine.current_state != "Sta1":
            return False
        self.kill_dul()
        if self.is_alive() and self is not threading.current_thread():
            self.join()
        return True

    def _is_transport_event(self) -> bool:
        link: Any = self.socket
        if not self.event_queue.empty() or self._kill_thread:
            return bool(super()._is_transport_event())
        if self.state_machine.current_state == "Sta13":
            if link is not None and link.socket is not None:
                link.drain()
                link.close()
            return True
        if link is None or link.socket is None:
            self._wait_for_word()
            return False
        if not link.unread and not self._wait_for_bytes(link):
            return False
        self._read_pdu_data()
        return True

    def _wait_for_word(self) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if poll.poll(self._sleep_ms):
            self._hear()

    def _wait_for_bytes(self, link: Any) -> bool:
        """Wait for something to read; False when there is something to send, to stop for, or to look at the timers."""
        if self._poll_both is None:
            self._poll_both = select.poll()
            self._poll_both.register(self._wake, select.POLLIN)
            self._poll_both.register(link.socket, select.POLLIN)
        ready = {descriptor for descriptor, _ in self._poll_both.poll(self._sleep_ms)}
        if self._wake in ready:
            self._hear()
            return False
        return bool(ready)

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _read_pdu_data(self) -> None:
        if self.state_machine.current_state != "Sta6":
            super()._read_pdu_data()
            return
        try:
            connected = self._pump()
        except OSError as error:
            seldom.warning("connection_broke", reason=type(error).__name__)
            connected = False
        except _MALFORMED as error:
            seldom.warning("message_malformed", reason=type(error).__name__)
            self.event_queue.put("Evt19")  # unrecognised or invalid PDU
            return
        finally:
            self._fragments.clear()
        if not connected:
            self.event_queue.put("Evt17")  # transport connection closed

    def _pump(self) -> bool:
        """Read PDUs until a message is complete; False when the connection is gone."""
        link: Any = self.socket
        self._file = _file_of(self.assoc.dimse.message)
        while True:
            self._idle_timer.restart()  # else a long object over a slow line would look like silence
            link.begin_pdu()
            if not self._have(link, _PDU_HEADER):
                return False
            if link.buffer[link.start] != P_DATA_TF:
                self._write_out()
                super()._read_pdu_data()  # release, abort or nonsense
                return True
            (left,) = _LENGTH.unpack_from(link.buffer, link.start + 2)
            link.begin_pdu(left)
            link.start += _PDU_HEADER
            done = False
            while left > 0:
                if not self._have(link, _PDV.size):
                    return False
                length, context, control = _PDV.unpack_from(link.buffer, link.start)
                if length < 2 or length + 4 > left:
                    raise ValueError("a PDV longer than its PDU")
                link.start += _PDV.size
                left -= length + 4
                if control & _COMMAND:
                    self._write_out()
                    self._check_command(length - 2)
                    data = bytes((control,)) + bytes(link.recv(length - 2))
                    if len(data) != length - 1:
                        return False
                    self._hand_over(context, data)
                    done = self.assoc.dimse.message is None
                elif self._file is None:
                    if not self._have_small(link, context, control, length - 2):
                        return False
                    done = self.assoc.dimse.message is None
                elif not self._take(link, length - 2):
                    return False
                elif control & _LAST:
                    self._write_out()
                    self._hand_over(context, _LAST_FRAGMENT)
                    done = True
            if done:
                return True

    def _check_command(self, count: int) -> None:
        """Bound a command that comes in more and more fragments, none the last.

        Raises
        ------
        ValueError
            It is longer than any command set, or comes in the middle of a dataset.
        """
        message: Any = self.assoc.dimse.message
        if message is not None and len(message.command_set):
            raise ValueError("a command before the dataset of the last has ended")
        if count + (0 if message is None else message.encoded_command_set.tell()) > _LONGEST_COMMAND:
            raise ValueError("a command too long")

    def _have(self, link: Any, need: int) -> bool:
        if link.end - link.start >= need:
            return True
        self._write_out()  # before `fill` moves the bytes
        return bool(link.fill(need))

    def _have_small(self, link: Any, context: int, control: int, count: int) -> bool:
        """Take a fragment of a dataset that is no instance (N-CREATE, N-ACTION …): kept in memory, so bounded.

        Raises
        ------
        ValueError
            No request came before it, or it is longer than any such dataset.
        """
        message: Any = self.assoc.dimse.message
        if message is None or message.context_id is None:
            raise ValueError("a dataset without a request")
        if message.data_set.tell() + count > _LONGEST_IN_MEMORY:
            raise ValueError("a dataset too long for its message")
        data = bytes((control,)) + bytes(link.recv(count))
        if len(data) != count + 1:
            return False
        self._hand_over(context, data)
        return True

    def _take(self, link: Any, count: int) -> bool:
        """Take `count` bytes of the dataset from the socket; they go to the file when the buffer must be used again."""
        while count:
            if link.start == link.end:
                self._write_out()
                link.grow()
                if not link.fill(1):
                    return False
            taken = min(count, link.end - link.start)
            self._fragments.append(link.view[link.start : link.start + taken])
            link.start += taken
            count -= taken
        if len(self._fragments) >= _MOST_FRAGMENTS:
            self._write_out()
        return True

    def _write_out(self) -> None:
        """Write what was taken. A disk that takes no more is remembered, and the rest of the dataset read to no end:
        the sender hears a status, where the end of the association would tell it nothing."""
        if not self._fragments:
            return
        if self._file.name not in self.failed:
            try:
                _write_all(self._file.fileno(), self._fragments)
                self._begin_to_sync(sum(map(len, self._fragments)))
            except OSError as error:
                log.error("file_not_written", reason=str(error.strerror))
                self.failed.add(self._file.name)
        self._fragments.clear()

    def _begin_to_sync(self, count: int) -> None:
        """Have the disk begin with what is written, while the rest still comes: fsync then has less to wait for."""
        self._unsynced += count
        if self._unsynced >= _BEGIN_TO_SYNC and _sync_file_range is not None:
            self._unsynced = 0
            _sync_file_range(self._file.fileno(), 0, 0, _SYNC_FILE_RANGE_WRITE)  # a hint: fsync tells what fails

    def _hand_over(self, context: int, data: bytes) -> None:
        """Give pynetdicom a fragment. With the last of a C-STORE request it opens the file, with the last of the
        dataset the message is complete."""
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context, data))
        dimse = self.assoc.dimse
        try:
            dimse.receive_primitive(primitive)
            file = _file_of(dimse.message)
            if file is not None:
                file.flush()  # the file meta information, before fragments go past the file's buffer
        except OSError as error:
            log.error("file_not_made", reason=str(error.strerror))
            file = self._replace_file(dimse.message)
        self._file = file

    def _replace_file(self, message: Any) -> "_Nowhere":
        _remove(_file_of(message))
        file = _Nowhere(f"not made for message {id(message):x}")
        message._data_set_file, message._data_set_path = file, Path(file.name)
        self.failed.add(file.name)
        return file


class _Nowhere:
    """Stands for a file that could not be made. The library closes it and removes its name, which does not exist."""

    def __init__(self, name: str) -> None:
        self.name = name

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""

    def write(self, data: bytes) -> int:
        """Take the empty fragment that ends a dataset."""
        return len(data)

    @property
    def file(self) -> "_Nowhere":
        """What a named temporary file calls the file under it."""
        return self


def _write_all(descriptor: int, fragments: list[memoryview]) -> None:
    written = os.writev(descriptor, fragments)
    for fragment in fragments:  # a disk that runs full takes a part
        if written >= len(fragment):
            written -= len(fragment)
            continue
        rest = fragment[written:]
        written = 0
        while rest:
            rest = rest[os.write(descriptor, rest) :]


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
            return self.msg_queue.get(timeout=_sleep_ms(self.assoc.network_timeout) / 1000)
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
        # The timers live in the provider that was just replaced.
        association.acse_timeout = self.ae.acse_timeout
        association.network_timeout = self.ae.network_timeout
        return association  # type: ignore[no-any-return]
