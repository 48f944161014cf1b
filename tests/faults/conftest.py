"""A node's data folder, stages on it that die and are started again, and what a test asks of both."""

import functools
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE

from cxr_node.cli.phantom import draw_phantom
from cxr_node.clock import utc_now
from cxr_node.receive.intake import Intake, Requested
from cxr_node.receive.records import Sender
from cxr_node.requestor import associate
from cxr_node.settings import Settings
from storage import Database, Doorbell, InstanceFiles, deliveries, instances, jobs, results, studies
from storage.faults import FOLDER_VARIABLE, VARIABLE
from tests.builders import make_radiograph_dataset, to_part_10
from tests.faults.zygote import Stage, Zygote
from tests.system.conftest import free_port, wait_until

WITHIN_S = 60.0


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    made.close()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database without rows, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "cxr-node.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.dispose()
    return path


class Box:
    """One machine: a data folder, the stages that run on it, the faults that are armed."""

    def __init__(self, folder: Path, zygote: Zygote, seen_at: Path | None = None) -> None:
        self.folder = folder
        self.seen_at = seen_at or folder / "var"  # where this process finds what the stages have in `var`
        self.zygote = zygote
        self.armed_in = folder / "armed"
        self.armed_in.mkdir(exist_ok=True)
        self.port, self.web_port, self.dicom_port = free_port(), free_port(), free_port()
        self.values: dict[str, Any] = {
            "node": {"data_dir": str(folder / "var")},
            "receive": {"port": self.port, "quiet_period_s": 0.2, "min_free_gb": 0.01, "idle_timeout_s": 20.0},
            "worklist": {"port": self.web_port, "dicom_port": self.dicom_port, "require_token": "never"},
        }
        self.started: list[Stage] = []
        self._database: Database | None = None

    @property
    def settings(self) -> Settings:
        return Settings.model_validate(self.values)

    @property
    def database(self) -> Database:
        if self._database is None:
            self._database = Database(self.settings.database_url)
        return self._database

    @property
    def files(self) -> InstanceFiles:
        return InstanceFiles(self.seen_at / "instances")

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def configure(self, **sections: Any) -> None:
        """Change sections of node.toml; a dict is merged, anything else replaces."""
        for name, value in sections.items():
            self.values[name] = {**self.values.get(name, {}), **value} if isinstance(value, dict) else value

    def arm(self, *points: str) -> None:
        for point in points:
            (self.armed_in / point).touch()

    def disarm(self, point: str) -> None:
        (self.armed_in / point).unlink(missing_ok=True)

    def is_armed(self, point: str) -> bool:
        return (self.armed_in / point).exists()

    def start(self, name: str, fault: str = "", *, patches: dict[str, Any] | None = None, **more: str) -> Stage:
        """Run a stage until the test ends; `fault` as CXR_NODE_FAULT has it, armed from the start."""
        for item in filter(None, fault.split(",")):
            self.arm(item.partition(":")[0])
        environment = {VARIABLE: fault, FOLDER_VARIABLE: str(self.armed_in), **more}
        stage = Stage(self.zygote, name, self.values, self.log, environment, patches or {})
        self.started.append(stage)
        stage.start()
        return stage

    def wait_for_kill(self, point: str) -> None:
        """Wait until a process has met the armed point and is no more."""
        self.wait(lambda: not self.is_armed(point), f"the kill at {point}")

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def wait(self, condition: Callable[[], Any], what: str, within_s: float = WITHIN_S) -> Any:
        try:
            return wait_until(condition, within_s, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; log:\n{self.tail()}") from None

    def close(self) -> None:
        for stage in self.started:
            stage.stop()
        if self._database is not None:
            self._database.dispose()

    # What it holds.

    def keep(self, dataset: Dataset, calling: str = "CR_ROOM_1") -> None:
        """Take an image in as the receiver does; its study is due at once."""
        intake = Intake(
            self.database, self.files, Doorbell(self.settings.data_dir / "run"), quiet_period_s=0, min_free_bytes=0
        )
        path = self.files.new_temporary()
        path.write_bytes(to_part_10(dataset))
        requested = Requested(dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.file_meta.TransferSyntaxUID)
        answer = intake.accept(path, requested, Sender(calling, "CXR_NODE", "127.0.0.1", "a"), now=utc_now).answer
        assert answer.status == 0
        Doorbell(self.settings.data_dir / "run").ring("analyze")

    def rows_of(self, dataset: Dataset) -> list[Any]:
        with self.database.read() as connection:
            return instances.by_sop_instance_uid(connection, str(dataset.SOPInstanceUID))

    def check_held(self, dataset: Dataset) -> None:
        """One row, of one file with the bytes that were sent, under a study that is waiting or done."""
        (row,) = self.rows_of(dataset)
        held = self.files.read(row.location)
        assert (row.variant, row.size) == (0, len(held))
        assert dataset_of(held) == dataset_of(to_part_10(dataset))
        with self.database.read() as connection:
            study = studies.get(connection, str(dataset.StudyInstanceUID))
            job = jobs.get(connection, "analyze", str(dataset.StudyInstanceUID))
        assert study is not None
        assert job is not None
        assert (study.images, study.conflicts) == (1, 0)

    def job(self, kind: str, key: str) -> Any:
        with self.database.read() as connection:
            return jobs.get(connection, kind, key)

    def wait_until_settled(self, kind: str, key: str) -> Any:
        def settled() -> Any:
            job = self.job(kind, key)
            return job if job is not None and job.state in (jobs.COMPLETED, jobs.FAILED) else None

        return self.wait(settled, f"job {kind} of {key} settled")

    def results_of(self, study_instance_uid: str) -> list[Any]:
        with self.database.read() as connection:
            return results.revisions(connection, study_instance_uid)

    def objects_of(self, study_instance_uid: str) -> list[Any]:
        with self.database.read() as connection:
            return [
                item
                for result in results.revisions(connection, study_instance_uid)
                for item in results.objects(connection, result.id)
            ]

    def deliveries_of(self, study_instance_uid: str) -> list[Any]:
        with self.database.read() as connection:
            return deliveries.of_study(connection, study_instance_uid)

    def open_jobs(self) -> dict[tuple[str, str], int]:
        """What waits, is worked on, or was given up."""
        with self.database.read() as connection:
            found = jobs.counts(connection)
        return {key: count for key, count in found.items() if key[1] != jobs.COMPLETED}


def dataset_of(part_10: bytes) -> bytes:
    """The bytes after preamble and meta information, whose length stands in its first element."""
    return part_10[144 + int.from_bytes(part_10[140:144], "little") :]


@pytest.fixture
def box(tmp_path: Path, zygote: Zygote, migrated: Path) -> Iterator[Box]:
    (tmp_path / "var").mkdir()
    shutil.copy(migrated, tmp_path / "var")
    made = Box(tmp_path, zygote)
    yield made
    made.close()


def store(port: int, dataset: Dataset, calling: str = "CR_ROOM_1") -> int | None:
    """Send by C-STORE over an association of its own; None where no answer came."""
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    ae.connection_timeout = 5
    ae.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = associate(ae, "127.0.0.1", port, ae_title="CXR_NODE")
    if not association.is_established:
        return None
    try:
        answer = association.send_c_store(dataset)
    except (RuntimeError, OSError):
        return None
    finally:
        if association.is_established:
            association.release()
    return int(answer.Status) if "Status" in answer else None


def store_until_success(port: int, dataset: Dataset) -> list[int | None]:
    """Send as a PACS does, again until Success; return what each try brought."""
    tries: list[int | None] = []

    def succeeded() -> bool:
        tries.append(store(port, dataset))
        return tries[-1] == 0

    wait_until(succeeded, WITHIN_S, f"Success; heard {tries[-5:]}", every_s=0.1)
    return tries


def small_radiograph(**attributes: Any) -> Dataset:
    """An adult's chest image, drawn, that the node analyses."""
    return make_radiograph_dataset(_chest(), **attributes)


@functools.cache
def _chest() -> np.ndarray:
    drawn = draw_phantom(np.random.default_rng(1), opacity=0.5)
    return cv2.resize(drawn, (256, 256), interpolation=cv2.INTER_AREA)


def at(days: float = 0.0) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)
