"""The stage: web server, DICOM server and UPS events in one process, started together and stopped together."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from datetime import datetime

import pydicom
import uvicorn
from sqlalchemy.exc import SQLAlchemyError

from cxr_node.clock import utc_now
from cxr_node.errors import SettingsError
from cxr_node.log import get_logger, told_by
from cxr_node.settings import Settings
from cxr_node.tls import listener
from cxr_node.tls.loop import BoundedHandshakes
from cxr_node.work.heartbeat import beating
from cxr_node.work.owner import owner
from cxr_node.worklist.dicom_scp import WorklistScp
from cxr_node.worklist.services import make_services
from cxr_node.worklist.ups_sender import EventSender, make_workers
from cxr_node.worklist.web.accounts import people
from cxr_node.worklist.web.app import create_app
from storage import Database, Doorbell
from storage.errors import StorageError

log = get_logger("worklist")

MOST_TLS_CONNECTIONS = 512  # those in their handshake included
_TLS = "worklist.tls"
GRACE_S = 1  # for requests that are being answered when the stop comes
STOP_WITHIN_S = 3.0
STOP_EVENTS_WITHIN_S = 1.0  # a sender that waits for a dead receiver ends with the process; what it had is queued


class WorklistServer:
    """Both servers of one node. `url` and `dicom_port` are known once started."""

    def __init__(self, settings: Settings, database: Database, now: Callable[[], datetime] = utc_now) -> None:
        self._settings = settings
        self._database = database
        self._now = now
        self._services = make_services(settings, database, now)
        self._scp = WorklistScp(settings, self._services)
        config = uvicorn.Config(
            create_app(self._services),
            log_config=None,
            access_log=False,  # it would hold UIDs and say who looked; the audit trail does, and knows the name
            server_header=False,
            proxy_headers=False,  # the application decides whose it believes
            lifespan="on",
            timeout_graceful_shutdown=GRACE_S,
            timeout_keep_alive=30,
        )
        config.load()
        config.ssl = listener(  # the library would make one of its own, from files
            _TLS,
            settings.worklist.tls,
            settings.path,
            minimum=settings.node.tls_minimum,
            tell=told_by(log, _TLS),
            most=MOST_TLS_CONNECTIONS,
        )
        self._server = uvicorn.Server(config)
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._stop_events = threading.Event()
        self._event_threads: list[threading.Thread] = []
        self.url = ""

    @property
    def dicom_port(self) -> int:
        """The port of the DICOM server."""
        return self._scp.port

    def start(self) -> None:
        """Listen on both ports.

        Raises
        ------
        SettingsError
            An address of node.toml cannot be listened on; it says which.
        """
        worklist = self._settings.worklist
        self._socket = _listen(worklist.host, worklist.port)
        try:
            self._scp.start()
        except OSError as error:
            self._socket.close()
            raise SettingsError(
                f"worklist.dicom_port: cannot listen on {worklist.dicom_host}:{worklist.dicom_port}: {error.strerror}"
            ) from error
        host = f"[{worklist.host}]" if ":" in worklist.host else worklist.host
        self.url = f"{'https' if worklist.tls.enabled else 'http'}://{host}:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, name="worklist-web", daemon=True)
        self._thread.start()
        self._start_events()

    @property
    def is_alive(self) -> bool:
        """Whether the web server runs."""
        return self._thread is not None and self._thread.is_alive()

    def stop(self) -> None:
        """End streams, requests and associations, and close both ports."""
        self._services.events.close()  # first: the web server waits for open streams
        self._server.should_exit = True
        self._stop_events.set()
        farewell = threading.Thread(target=self._tell_going_down, name="ups-going-down", daemon=True)
        farewell.start()
        self._scp.stop()
        if self._thread is not None:
            self._thread.join(STOP_WITHIN_S)
        if self._socket is not None:
            self._socket.close()
        for thread in (*self._event_threads, farewell):
            thread.join(STOP_EVENTS_WITHIN_S)

    def _start_events(self) -> None:
        """Tell subscribers of the restart, and start the pump and the senders."""
        settings, services = self._settings, self._services
        with self._database.begin() as connection:
            services.ups.announcer.restarted(connection, self._now())
        doorbell = Doorbell(settings.data_dir / "run", self._database)
        workers = make_workers(
            settings, self._database, doorbell, owner(settings.data_dir, "worklist", "ups"), self._now
        )
        for name, run in [("ups-pump", services.pump.run)] + [(worker.owner, worker.run) for worker in workers]:
            thread = threading.Thread(target=run, args=(self._stop_events,), name=name, daemon=True)
            thread.start()
            self._event_threads.append(thread)

    def _tell_going_down(self) -> None:
        if not self._event_threads or not self._settings.peer:
            return
        try:
            EventSender(self._settings, self._database, self._now).going_down()
        except (StorageError, SQLAlchemyError) as error:
            log.warning("ups_going_down_not_told", error_type=type(error).__name__)

    def _serve(self) -> None:
        assert self._socket is not None
        with asyncio.Runner(loop_factory=BoundedHandshakes) as runner:
            runner.run(self._server.serve(sockets=[self._socket]))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol told: asyncio turns Nagle off where it sees TCP, else each answer on a kept connection takes 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise SettingsError(f"worklist.port: cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listener


def _tell_first_admin(settings: Settings, database: Database, url: str) -> None:
    """Print the first admin's one-time password where nobody may administer the node yet.

    To standard output, where a person started the node, and never to the log, which goes to standard error.
    """
    password = people.first_admin(database, now=utc_now())
    if password:
        print(people.first_admin_told(password, settings.worklist.public_url or url), flush=True)  # noqa: T201


def run_worklist(settings: Settings, stop: threading.Event) -> None:
    """Serve until `stop` is set.

    Raises
    ------
    SettingsError
        An address cannot be listened on, or the time zone is none.
    RuntimeError
        The web server ended by itself.
    """
    # Values that senders wrote are shown as they are; the warnings that pydicom prints about them would quote them.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    database = Database(settings.database_url)
    database.migrate()
    server = WorklistServer(settings, database)
    server.start()
    _tell_first_admin(settings, database, server.url)
    log.info("worklist_ready", url=server.url, dicom_port=server.dicom_port, pid=os.getpid())
    try:
        with beating(database, "worklist"):
            while not stop.wait(0.2):
                if not server.is_alive:
                    raise RuntimeError("the web server ended by itself")
    finally:
        server.stop()
        database.dispose()
