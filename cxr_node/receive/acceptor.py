"""One acceptor: a Storage SCP over the storage of node.toml, until it is told to stop."""

import threading
from collections.abc import Callable

from cxr_node.log import get_logger
from cxr_node.receive.intake import Intake
from cxr_node.receive.scp import StorageScp
from cxr_node.receive.stage import cannot_listen
from cxr_node.settings import Settings
from cxr_node.work.files import instance_files
from cxr_node.work.heartbeat import beating
from storage import Database, Doorbell, InstanceFiles

log = get_logger("receive")


def make_intake(settings: Settings, database: Database, files: InstanceFiles) -> Intake:
    """Return the intake as node.toml wants it."""
    return Intake(
        database,
        files,
        Doorbell(settings.data_dir / "run", database),
        quiet_period_s=settings.receive.quiet_period_s,
        min_free_bytes=settings.receive.min_free_gb * 1e9,
        asks_for_orders=settings.orders.enabled,
    )


def accept(
    settings: Settings, stop: threading.Event, port: int | None = None, tell: Callable[[int], None] | None = None
) -> None:
    """Accept in this process until `stop`.

    Parameters
    ----------
    port : shared with other acceptors; None for that of node.toml, alone
    tell : called with the port once it answers

    Raises
    ------
    SettingsError
        The address cannot be listened on, or a caller or TLS file is not what it must be.
    StorageError
        The database or the folder cannot be opened.
    """
    database = Database(settings.database_url)
    try:
        database.migrate()
        files = instance_files(settings)
        intake = make_intake(settings, database, files)
        try:
            scp = StorageScp(
                settings, intake, database, files.new_temporary().parent, reuse_port=port is not None, port=port
            )
        except OSError as error:
            raise cannot_listen(settings, error) from error
        scp.start()
        if tell is not None:
            tell(scp.port)
        try:
            with beating(database, "receive", lambda: {"open_associations": scp.open_associations}):
                stop.wait()
        finally:
            scp.close()
    finally:
        database.dispose()
