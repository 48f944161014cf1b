"""The stage: one acceptor, or several processes of them on one port, until it is told to stop."""

import contextlib
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from prometheus_client import multiprocess

from cxr_node.errors import SettingsError
from cxr_node.log import configure_logging, get_logger
from cxr_node.receive.intake import Intake
from cxr_node.receive.recorder import Recorder
from cxr_node.receive.scp import ENDS_WITHIN_S, StorageScp
from cxr_node.receive.stow import Stow, create_app
from cxr_node.receive.watch import CALLING_DROP, WatchedFolder
from cxr_node.receive.web_server import WebServer
from cxr_node.settings import Settings
from cxr_node.signals import stop_on_signals
from cxr_node.work.heartbeat import beating
from storage import Database, Doorbell, InstanceFiles

log = get_logger("receive")

HEALTHY_AFTER_S = 60.0  # an acceptor that ran this long starts its backoff anew
LONGEST_BACKOFF_S = 30.0
_LOOK_EVERY_S = 0.2


def run_receive(settings: Settings, stop: threading.Event) -> None:
    """Serve until `stop` is set.

    Raises
    ------
    SettingsError
        The address cannot be listened on, or a caller or TLS file is not what it must be.
    """
    with _other_ways_in(settings):
        if settings.receive.processes == 1:
            _accept(settings, stop)
        else:
            _Acceptors(settings).run(stop)


@contextlib.contextmanager
def _other_ways_in(settings: Settings) -> Iterator[None]:
    """Serve STOW-RS and watch the folders for the block, where node.toml says so: once, however many acceptors."""
    receive, has_inbox = settings.receive, settings.worklist.drop.enabled
    if not (receive.dicomweb.port or receive.watch.path or has_inbox):
        yield
        return
    database = Database(settings.database_url)
    database.migrate()
    files = InstanceFiles(settings.instances_dir)
    intake = _intake(settings, database, files)
    with contextlib.ExitStack() as stack:
        stack.callback(database.dispose)
        if receive.dicomweb.port:
            recorder = Recorder(database)
            stack.callback(recorder.close)
            app = create_app(Stow(settings, intake, database, files, recorder=recorder))
            server = WebServer(app, receive.dicomweb.host, receive.dicomweb.port)
            stack.callback(server.close)
            server.start()
            log.info("stow_ready", host=receive.dicomweb.host, port=server.port)
        if receive.watch.path:
            folder = WatchedFolder(
                settings.path(receive.watch.path),
                intake,
                files,
                called_ae_title=receive.ae_title.strip(),
                settle_s=receive.watch.settle_s,
                keep=receive.watch.keep,
            )
            stack.callback(folder.close)
            folder.start()
            log.info("watch_ready")
        if has_inbox:
            inbox = _inbox(settings, intake, files)
            stack.callback(inbox.close)
            inbox.start()
        yield


def _inbox(settings: Settings, intake: Intake, files: InstanceFiles) -> WatchedFolder:
    """Return what takes in the images that somebody sent to the worklist from the page where images are tried.

    The page renames them into the folder, so that they are whole when they are seen.
    """
    folder = settings.data_dir / "inbox"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return WatchedFolder(
        folder,
        intake,
        files,
        called_ae_title=settings.receive.ae_title.strip(),
        settle_s=0.0,
        keep=False,
        calling_ae_title=CALLING_DROP,
    )


def _intake(settings: Settings, database: Database, files: InstanceFiles) -> Intake:
    return Intake(
        database,
        files,
        Doorbell(settings.data_dir / "run"),
        quiet_period_s=settings.receive.quiet_period_s,
        min_free_bytes=settings.receive.min_free_gb * 1e9,
        asks_for_orders=settings.orders.enabled,
    )


def _accept(
    settings: Settings, stop: threading.Event, port: int | None = None, ready: Connection | None = None
) -> None:
    """Run one acceptor in this process; with `port`, beside others."""
    database = Database(settings.database_url)
    database.migrate()
    files = InstanceFiles(settings.instances_dir)
    intake = _intake(settings, database, files)
    try:
        scp = StorageScp(
            settings, intake, database, files.new_temporary().parent, reuse_port=port is not None, port=port
        )
    except OSError as error:
        raise _cannot_listen(settings, error) from error
    scp.start()
    if ready is None:
        log.info("receive_ready", ae_title=settings.receive.ae_title, host=settings.receive.host, port=scp.port)
    else:
        with contextlib.suppress(OSError):  # nobody listens any more: `stop` follows
            ready.send(True)
    try:
        with beating(database, "receive", lambda: {"open_associations": scp.open_associations}):
            stop.wait()
    finally:
        scp.close()
        database.dispose()


def _cannot_listen(settings: Settings, error: OSError) -> SettingsError:
    return SettingsError(f"receive: cannot listen on {settings.receive.host}:{settings.receive.port}: {error.strerror}")


@dataclass
class _Acceptor:
    """A process and its history."""

    process: BaseProcess | None = None
    ready: Connection | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    deaths: int = 0
    is_ready: bool = False

    def hear(self) -> bool:
        """Whether it has said that it accepts."""
        if not self.is_ready and self.ready is not None and self.ready.poll():
            with contextlib.suppress(EOFError):  # it died instead
                self.is_ready = bool(self.ready.recv())
        return self.is_ready


class _Acceptors:
    """Keeps several acceptor processes on one port; the kernel shares the connections out among them.

    This process holds the port but accepts nothing: it stays taken while an acceptor is started anew, and no other
    program gets in between.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # Forked from a server that has loaded the modules and nothing else: threads, locks and database connections of
        # this process are none of theirs, and one that died is back in a tenth of a second instead of several.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        self._acceptors = [_Acceptor() for _ in range(settings.receive.processes)]
        self._is_announced = False

    def run(self, stop: threading.Event) -> None:
        """Start all, mind them until `stop`, end all."""
        database = Database(self._settings.database_url)
        database.migrate()
        database.dispose()
        with _hold_port(self._settings) as holder:
            port = int(holder.getsockname()[1])
            try:
                while not stop.is_set():
                    self._mind(port)
                    self._announce(port)
                    stop.wait(_LOOK_EVERY_S)
            finally:
                self._end()

    def _mind(self, port: int) -> None:
        now = time.monotonic()
        for acceptor in self._acceptors:
            if acceptor.process is not None and not acceptor.process.is_alive():
                self._bury(acceptor, now)
            if acceptor.process is None and now >= acceptor.start_at:
                self._start(acceptor, port, now)

    def _start(self, acceptor: _Acceptor, port: int, now: float) -> None:
        acceptor.ready, theirs = self._context.Pipe(duplex=False)
        acceptor.process = self._context.Process(
            target=_serve, args=(self._settings, port, theirs), name="receive-acceptor", daemon=True
        )
        acceptor.started_at = now
        acceptor.process.start()
        theirs.close()
        log.info("acceptor_started", pid=acceptor.process.pid)

    def _bury(self, acceptor: _Acceptor, now: float) -> None:
        process = acceptor.process
        assert process is not None
        if now - acceptor.started_at >= HEALTHY_AFTER_S:
            acceptor.deaths = 0
        pause = 0.0 if acceptor.deaths == 0 else min(LONGEST_BACKOFF_S, 2.0 ** (acceptor.deaths - 1))
        acceptor.deaths += 1
        acceptor.start_at = now + pause
        log.error("acceptor_died", pid=process.pid, exit_status=process.exitcode, restart_in_s=pause)
        self._forget(acceptor)

    def _forget(self, acceptor: _Acceptor) -> None:
        process, acceptor.process = acceptor.process, None
        if acceptor.ready is not None:
            acceptor.ready.close()
            acceptor.ready, acceptor.is_ready = None, False
        if process is not None:
            if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
                multiprocess.mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
            process.close()

    def _announce(self, port: int) -> None:
        if not self._is_announced and all(acceptor.hear() for acceptor in self._acceptors):
            self._is_announced = True
            receive = self._settings.receive
            log.info(
                "receive_ready",
                ae_title=receive.ae_title,
                host=receive.host,
                port=port,
                pids=[acceptor.process.pid for acceptor in self._acceptors if acceptor.process],
            )

    def _end(self) -> None:
        running = [acceptor.process for acceptor in self._acceptors if acceptor.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + ENDS_WITHIN_S + 2.0
        for process in running:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                log.error("acceptor_killed", pid=process.pid)
                process.kill()
                process.join()
        for acceptor in self._acceptors:
            self._forget(acceptor)


def _hold_port(settings: Settings) -> socket.socket:
    """Bind without listening. First alone, for two nodes that share a port by mistake would share its callers too."""
    address = (settings.receive.host, settings.receive.port)
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        holder = socket.socket(family, socket.SOCK_STREAM)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(address)
    except OSError as error:
        raise _cannot_listen(settings, error) from error
    return holder


def _serve(settings: Settings, port: int, ready: Connection) -> None:
    """An acceptor process: runs until SIGTERM, or until the process that started it is gone, however it went."""
    configure_logging(settings.node.log_level, "receive")
    stop = threading.Event()
    stop_on_signals(stop)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        stop.set()

    threading.Thread(target=follow, name="follow-parent", daemon=True).start()
    _accept(settings, stop, port, ready)
