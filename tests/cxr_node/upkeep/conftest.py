"""A storage with received, analysed and delivered studies of any age."""

import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cxr_node.settings import Settings
from cxr_node.upkeep.stage import Upkeep
from storage import Database, InstanceFiles, deliveries, instances, results, studies
from storage.studies import PatientContext
from tests.databases import migrated

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Site:
    """A data folder, and what a test puts into it."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(node={"data_dir": str(folder / "var")})
        self.database = Database(self.settings.database_url)
        self.files = InstanceFiles(self.settings.instances_dir)
        self.stop = threading.Event()

    def upkeep(self, **keys: object) -> Upkeep:
        section = {**self.settings.upkeep.model_dump(), **keys}
        settings = Settings.model_validate({**self.settings.model_dump(), "upkeep": section})
        return Upkeep(settings, self.database, self.files, self.stop)

    def study(
        self,
        uid: str,
        *,
        age_days: float,
        status: str | None = "analysed",
        delivery: str | None = "DELIVERED",
        images: int = 2,
    ) -> list[str]:
        """Store a study that old, with its result and its delivery; return the locations of its instances."""
        at = NOW - timedelta(days=age_days)
        locations = []
        with self.database.begin() as connection:
            studies.touch(connection, uid, PatientContext(), ordered_rank=0, calling_ae_title="CR_1", now=at)
            for number in range(images):
                temporary = self.files.new_temporary()
                temporary.write_bytes(b"pixels")
                locations.append(self.files.keep(temporary, f"{uid}.{number}", 0))
                instances.add(
                    connection,
                    sop_instance_uid=f"{uid}.{number}",
                    series_instance_uid=f"{uid}.0",
                    study_instance_uid=uid,
                    sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
                    transfer_syntax_uid="1.2.840.10008.1.2.1",
                    variant=0,
                    size=6,
                    location=locations[-1],
                    calling_ae_title="CR_1",
                    called_ae_title="CXR_NODE",
                    peer_address="127.0.0.1",
                    association_id="a",
                    received_at=at,
                )
            if status is not None:
                result = results.add(connection, uid, status=status, flagged=False, ai_priority="", outcome={}, now=at)
                studies.set_outcome(
                    connection,
                    uid,
                    status=status,
                    flagged=False,
                    ai_priority="",
                    effective_priority="",
                    priority_rank=0,
                    notified_at=at,
                    revision=result.revision,
                )
                if delivery is not None:
                    planned = deliveries.add(connection, result.id, kind="sr", destination="pacs", now=at)
                    deliveries.set_state(connection, planned.id, delivery, now=at)
        return locations

    def held(self, locations: list[str]) -> list[bool]:
        return [self.files.path(location).exists() for location in locations]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database without rows; a copy takes a hundredth of the time."""
    path = tmp_path_factory.mktemp("empty") / "cxr-node.db"
    database = migrated(f"sqlite:///{path}")
    database.dispose()
    return path


@pytest.fixture
def site(tmp_path: Path, empty_database: Path) -> Iterator[Site]:
    (tmp_path / "var").mkdir()
    shutil.copy(empty_database, tmp_path / "var")
    made = Site(tmp_path)
    yield made
    made.database.dispose()
