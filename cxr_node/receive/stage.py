"""The stage: acceptor processes on one port, until it is told to stop."""

import threading

from cxr_node.log import get_logger
from cxr_node.receive.intake import Intake
from cxr_node.receive.scp import StorageScp
from cxr_node.settings import Settings
from storage import Database, Doorbell, InstanceFiles

log = get_logger("receive")


def run_receive(settings: Settings, stop: threading.Event) -> None:
    """Serve until `stop` is set."""
    database = Database(settings.database_url)
    database.migrate()
    files = InstanceFiles(settings.instances_dir)
    intake = Intake(
        database,
        files,
        Doorbell(settings.data_dir / "run"),
        quiet_period_s=settings.receive.quiet_period_s,
        min_free_bytes=settings.receive.min_free_gb * 1e9,
    )
    scp = StorageScp(settings, intake, database, files.new_temporary().parent)
    scp.start()
    log.info("receive_ready", ae_title=settings.receive.ae_title, host=settings.receive.host, port=scp.port)
    try:
        stop.wait()
    finally:
        scp.close()
        database.dispose()
