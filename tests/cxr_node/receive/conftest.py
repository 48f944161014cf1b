"""A Storage SCP on loopback over a real storage, in this process."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE

from cxr_node.receive.intake import Intake
from cxr_node.receive.scp import StorageScp
from cxr_node.requestor import associate
from cxr_node.settings import Settings, load_settings
from storage import Database, Doorbell, InstanceFiles, instances, jobs, studies
from tests.databases import migrated


@dataclass
class Receiver:
    """A running receiver and what it stored."""

    scp: StorageScp
    database: Database
    files: InstanceFiles
    settings: Settings
    root: Path

    @property
    def port(self) -> int:
        return self.scp.port

    def incoming(self) -> list[Path]:
        return list((self.root / "incoming").iterdir())

    def of(self, sop_instance_uid: str) -> list[Any]:
        with self.database.read() as connection:
            return instances.by_sop_instance_uid(connection, sop_instance_uid)

    def study(self, uid: str) -> Any:
        with self.database.read() as connection:
            return studies.get(connection, uid)

    def jobs(self) -> dict[tuple[str, str], int]:
        with self.database.read() as connection:
            return dict(jobs.counts(connection))

    def send(self, dataset: Any, *, calling: str = "CR_ROOM_1", called: str = "CXR_NODE", syntax: Any = None) -> Any:
        """Send with pynetdicom; return the status dataset, or None without an association."""
        ae = AE(ae_title=calling)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
        ae.add_requested_context(dataset.SOPClassUID, syntax or dataset.file_meta.TransferSyntaxUID)
        association = associate(ae, "127.0.0.1", self.port, ae_title=called)
        if not association.is_established:
            return None
        try:
            return association.send_c_store(dataset)
        finally:
            association.release()


@pytest.fixture(params=["stream", "stock"])
def transport(request: pytest.FixtureRequest) -> str:
    """Both ways from the socket to the disk behave alike."""
    return str(request.param)


@pytest.fixture
def start_receiver(tmp_path: Path) -> Iterator[Callable[..., Receiver]]:
    started: list[Receiver] = []

    def start(**overrides: str) -> Receiver:
        environment = {
            "CXR_NODE__NODE__DATA_DIR": str(tmp_path / f"data{len(started)}"),
            "CXR_NODE__RECEIVE__PORT": "0",
            "CXR_NODE__RECEIVE__MIN_FREE_GB": "0.01",
            **{f"CXR_NODE__{key.upper()}": value for key, value in overrides.items()},
        }
        settings = load_settings(None, environment)
        database = migrated(settings.database_url)
        files = InstanceFiles(settings.instances_dir)
        intake = Intake(
            database,
            files,
            Doorbell(settings.data_dir / "run"),
            quiet_period_s=settings.receive.quiet_period_s,
            min_free_bytes=settings.receive.min_free_gb * 1e9,
        )
        incoming = files.new_temporary().parent
        scp = StorageScp(settings, intake, database, incoming)
        scp.start()
        receiver = Receiver(scp, database, files, settings, settings.instances_dir)
        started.append(receiver)
        return receiver

    yield start
    for receiver in started:
        receiver.scp.close()
        receiver.database.dispose()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("serve_forever")]


@pytest.fixture
def receiver(start_receiver: Callable[..., Receiver], transport: str) -> Receiver:
    return start_receiver(receive__transport=transport)
