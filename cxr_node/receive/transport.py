"""How received bytes get from the socket to the disk.

Stock pynetdicom asks the kernel for 4096 bytes at a time, copies every byte seven times and polls each association
every millisecond. Here the fragments of a dataset go from one receive buffer per association to the file with
``writev``, and an association without traffic sleeps in ``poll``. A C-STORE as every sender forms it is read, kept and
answered by the thread that reads (`messages`); every other message, release and abort stay pynetdicom's, and it calls
its handlers as ever. What was negotiated before is looked up (`negotiation`).

With `buffered_socket` and `negotiation` the only module that uses names pynetdicom does not publish. Here, of 3.0.4: of
``DULServiceProvider`` ``_read_pdu_data``, ``_decode_pdu``, ``_send``, ``_is_transport_event``, ``_idle_timer``,
``_run_loop_delay``, ``_kill_thread``; of ``DIMSEMessage`` ``_data_set_file``, ``_data_set_path``; of ``C_STORE``
``_dataset_file``; ``Association._accepted_cx``, ``Association._server``; ``RequestHandler._create_association``.
``receive.transport = "stock"`` does without them but for the two that name the file of an unfinished dataset; one test
holds both to the same behavior.
"""

import contextlib
import ctypes
import os
import queue
import select
import struct
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import RequestHandler

from cxr_node.log import get_logger
from cxr_node.receive.buffered_socket import BufferedSocket
from cxr_node.receive.messages import (
    StoreContext,
    StoreEvent,
    StoreRequest,
    part_10_head,
    read_store_request,
    write_store_response,
)
from cxr_node.receive.negotiation import Proposal, Proposals, RememberingAcse, Request, with_results, without_results
from cxr_node.seldom import Seldom

log = get_logger("receive")
seldom = Seldom(log)

A_ASSOCIATE_RQ, P_DATA_TF = 1, 4  # PS3.8 9.3.2, 9.3.5
_PDU_HEADER = 6  # type, reserved, length
_PDV = struct.Struct(">IBB")  # length, presentation context id, message control header
_LENGTH = struct.Struct(">I")
_COMMAND, _LAST = 1, 2  # bits of the message control header, PS3.8 E.2
_LAST_FRAGMENT = b"\x02"
_LONGEST_IN_MEMORY = 1 << 24  # a commitment request of 100,000 instances takes 13 MB
_MOST_FRAGMENTS = 512  # in one writev; the kernel takes 1024
_LONGEST_SLEEP_MS = 2000  # then a look at the timers
_SLEEPS_PER_TIMEOUT = 10
_LONGEST_COMMAND = 1 << 16  # a command set of the standard takes a few hundred bytes

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
    if isinstance(association.dul, StreamDul):
        association.dul.discard_unfinished()


def wait_until_served(association: Any, timeout_s: float) -> None:
    """Wait until the instance that is being kept for this association is answered, at most so long."""
    if isinstance(association.dul, StreamDul) and association.dul.is_serving.acquire(timeout=timeout_s):
        association.dul.is_serving.release()


def discard_unserved(association: Any) -> None:
    """Remove the files of datasets that came whole and that nobody will look at any more."""
    with contextlib.suppress(queue.Empty):
        while True:
            _, message = association.dimse.msg_queue.get_nowait()
            _remove(getattr(message, "_dataset_file", None))


def _file_of(message: Any) -> Any:
    return getattr(message, "_data_set_file", None)


def _remove(file: Any) -> None:
    if file is None:
        return
    with contextlib.suppress(OSError):
        file.close()
    with contextlib.suppress(OSError):
        os.unlink(file.name)


def _sleep_ms(timeout_s: float | None) -> float:
    """Return how long a thread may sleep that must notice when `timeout_s` is over."""
    return min(_LONGEST_SLEEP_MS, 1000 * (timeout_s or 60.0) / _SLEEPS_PER_TIMEOUT)


class StreamDul(DULServiceProvider):
    """Waits in poll instead of sleeping, and writes dataset fragments straight to the file."""

    def __init__(self, association: Association, proposals: Proposals) -> None:
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
        self._store: tuple[StoreRequest, StoreContext] | None = None  # whose dataset comes
        self._stored_in: Any = None  # its file
        self.is_serving = threading.Lock()  # held while an instance is kept
        self._proposals = proposals
        self.proposal: Proposal | None = None  # what the sender proposed, while nothing else is negotiated

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
        super().send_pdu(without_results(primitive, self.proposal))
        self._ring()

    def _send(self, pdu: Any) -> None:
        super()._send(with_results(pdu, self.proposal))

    def _decode_pdu(self, bytestream: bytearray) -> Any:
        if bytestream[0] != A_ASSOCIATE_RQ:
            return super()._decode_pdu(bytestream)
        data = bytes(bytestream)
        evt.trigger(self.assoc, evt.EVT_DATA_RECV, {"data": data})
        request = Request(self._proposals)
        request.decode(data)
        self.proposal = request.proposal
        evt.trigger(self.assoc, evt.EVT_PDU_RECV, {"pdu": request})
        return request, "Evt6"

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
        self._file = self._stored_in if self._store is not None else _file_of(self.assoc.dimse.message)
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
                    if control & _LAST and self._begin_store(context, data[1:]):
                        continue
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
                    if self._store is not None:
                        self._serve_store()
                    else:
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
        if self._store is not None or (message is not None and len(message.command_set)):
            raise ValueError("a command before the dataset of the last has ended")
        if count + (0 if message is None else message.encoded_command_set.tell()) > _LONGEST_COMMAND:
            raise ValueError("a command too long")

    def _begin_store(self, context_id: int, command: bytes) -> bool:
        """Make the file of a C-STORE request; False for any other, and for one that pynetdicom must answer."""
        association: Any = self.assoc
        if association._server.answer_store is None or association.dimse.message is not None:
            return False
        found = read_store_request(command, context_id, association._accepted_cx)
        if found is None:
            return False
        request, transfer_syntax = found
        self._store = request, StoreContext(context_id, request.AffectedSOPClassUID, transfer_syntax)
        self._file = self._stored_in = self._make_file(request, transfer_syntax)
        return True

    def _make_file(self, request: StoreRequest, transfer_syntax: str) -> Any:
        file: Any = None
        try:
            descriptor, name = tempfile.mkstemp(suffix=".dcm")
            file = open(descriptor, "wb", buffering=0)  # noqa: SIM115 closed when the dataset is whole, or never will be
            file.name = name
            _write_all(descriptor, [memoryview(part_10_head(request, transfer_syntax))])
        except OSError as error:
            log.error("file_not_made", reason=str(error.strerror))
            _remove(file)
            file = _Nowhere(f"not made for message {id(request):x}")
            self.failed.add(file.name)
        return file

    def _serve_store(self) -> None:
        """Have the instance kept and answer, in this thread: it reads nothing for this sender meanwhile anyway, and
        handing over to another and back takes longer than a small image under load."""
        assert self._store is not None
        association: Any = self.assoc
        (request, context), file = self._store, self._stored_in
        self._store = self._stored_in = self._file = None
        with self.is_serving:
            try:
                try:
                    file.close()
                except OSError as error:
                    log.error("file_not_written", reason=str(error.strerror))
                    self.failed.add(file.name)
                answer = association._server.answer_store(StoreEvent(association, request, context, Path(file.name)))
            finally:
                _remove(file)
        self._idle_timer.restart()
        if association.is_aborted or self.socket is None:
            return
        most = association.requestor.maximum_length or 0
        self.socket.send(write_store_response(request, context.context_id, answer.status, answer.comment, most))

    def discard_unfinished(self) -> None:
        """Remove the file of a dataset that will not become whole."""
        file, self._stored_in, self._store = self._stored_in, None, None
        _remove(file)

    def idle_timer_expired(self) -> bool:
        """Whether the peer was silent for too long; while it waits for our answer, it is not."""
        return not self.is_serving.locked() and super().idle_timer_expired()

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
        proposals = self.server.proposals  # type: ignore[attr-defined]
        association.acse = RememberingAcse(association, proposals)
        association.dul = StreamDul(association, proposals)
        association.dul.to_user_queue = _WakingQueue(association.dimse)
        association.set_socket(BufferedSocket(association, client_socket=self.request))
        # The timers live in the provider that was just replaced.
        association.acse_timeout = self.ae.acse_timeout
        association.network_timeout = self.ae.network_timeout
        return association  # type: ignore[no-any-return]
