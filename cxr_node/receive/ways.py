"""The other ways in beside C-STORE: STOW-RS and watched folders, where node.toml asks for them."""

import contextlib
from collections.abc import Iterator

from cxr_node.log import get_logger
from cxr_node.receive.acceptor import make_intake
from cxr_node.receive.intake import Intake
from cxr_node.receive.watch import CALLING_DROP, WatchedFolder
from cxr_node.settings import Settings
from cxr_node.work.files import instance_files
from cxr_node.work.recorder import Recorder
from storage import Database, InstanceFiles

log = get_logger("receive")


@contextlib.contextmanager
def stow(settings: Settings) -> Iterator[None]:
    """Serve STOW-RS for the block."""
    # Loaded here: most nodes have no web server in this stage, and it takes 20 MB.
    from cxr_node.receive.stow import Stow, create_app
    from cxr_node.receive.web_server import WebServer, tls_context

    dicomweb = settings.receive.dicomweb
    with contextlib.ExitStack() as stack:
        database, files, intake = _storage_of(settings, stack)
        recorder = Recorder(database)
        stack.callback(recorder.close)
        app = create_app(Stow(settings, intake, database, files, recorder=recorder))
        server = WebServer(app, dicomweb.host, dicomweb.port, context=tls_context(settings))
        stack.callback(server.close)
        server.start()
        log.info("stow_ready", host=dicomweb.host, port=server.port)
        yield


@contextlib.contextmanager
def watched_folders(settings: Settings) -> Iterator[None]:
    """Watch the folder of node.toml, and that of the page where images are tried, for the block."""
    receive = settings.receive
    with contextlib.ExitStack() as stack:
        _, files, intake = _storage_of(settings, stack)
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
        if settings.worklist.drop.enabled:
            inbox = _inbox(settings, intake, files)
            stack.callback(inbox.close)
            inbox.start()
        yield


def _storage_of(settings: Settings, stack: contextlib.ExitStack) -> tuple[Database, InstanceFiles, Intake]:
    database = Database(settings.database_url)
    stack.callback(database.dispose)
    database.migrate()
    files = instance_files(settings)
    return database, files, make_intake(settings, database, files)


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
