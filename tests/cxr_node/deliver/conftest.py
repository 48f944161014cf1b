"""A storage with a report in it, and Storage SCPs that answer as told."""

import contextlib
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)
from pynetdicom import AE, _config, evt

from cxr_node.clock import utc_now
from cxr_node.deliver import DESTINATIONS, Shelf, StoredObject, run_deliver
from cxr_node.deliver.destinations import Sender
from cxr_node.reporting import encode
from cxr_node.settings import Destination, Settings
from storage import Database, InstanceFiles, deliveries, jobs, results
from storage.deliveries import Delivery
from tests.databases import migrated

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ALL_CLASSES = (Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage)


def make_report(study_instance_uid: str, patient_name: str = "Doe^Jane") -> Dataset:
    """A small Comprehensive 3D SR: header, one container, one text."""
    report = Dataset()
    report.SOPClassUID = Comprehensive3DSRStorage
    report.SOPInstanceUID = generate_uid()
    report.StudyInstanceUID = study_instance_uid
    report.SeriesInstanceUID = generate_uid()
    report.Modality = "SR"
    report.PatientName = patient_name
    report.PatientID = "P1"
    report.ContentDate, report.ContentTime = "20260101", "120000"
    report.CompletionFlag, report.VerificationFlag = "COMPLETE", "UNVERIFIED"
    report.ValueType = "CONTAINER"
    report.ContinuityOfContent = "SEPARATE"
    report.ConceptNameCodeSequence = [_code("126000", "DCM", "Imaging Measurement Report")]
    text = Dataset()
    text.RelationshipType = "CONTAINS"
    text.ValueType = "TEXT"
    text.ConceptNameCodeSequence = [_code("121073", "DCM", "Impression")]
    text.TextValue = "AI: no finding. " * 200
    report.ContentSequence = [text]
    report.file_meta = FileMetaDataset()
    report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID
    report.file_meta.MediaStorageSOPInstanceUID = report.SOPInstanceUID
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    report.file_meta.ImplementationClassUID = "1.2.3.4"
    return report


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


@dataclass
class Node:
    """A data folder, and what a test asks of it."""

    folder: Path

    def __post_init__(self) -> None:
        self.database = Database(self.settings().database_url)
        self.files = InstanceFiles(self.settings().instances_dir)
        self.shelf = Shelf(self.database, self.files)

    def settings(self, *destinations: Destination) -> Settings:
        return Settings(node={"data_dir": str(self.folder / "var")}, destination=destinations)

    def sender(self, destination: Destination) -> Sender:
        return DESTINATIONS[destination.kind](destination, settings=self.settings(destination), shelf=self.shelf)

    def plan(
        self, *destinations: str, study_instance_uid: str | None = None, patient_name: str = "Doe^Jane"
    ) -> list[int]:
        """Store a study's next report and plan its deliveries, as the analyze stage does; return their ids."""
        uid = study_instance_uid or generate_uid()
        report = make_report(uid, patient_name)
        location = self.files.write_object(report.SOPInstanceUID, encode(report))
        with self.database.begin() as connection:
            now = utc_now()
            result = results.add(connection, uid, status="analysed", flagged=False, ai_priority="", outcome={}, now=now)
            deliveries.supersede_older(connection, uid, result.revision, now=now)
            results.add_object(
                connection,
                result.id,
                kind="sr",
                sop_class_uid=report.SOPClassUID,
                sop_instance_uid=report.SOPInstanceUID,
                location=location,
                now=now,
            )
            planned = [
                deliveries.add(connection, result.id, kind="sr", destination=name, now=now).id for name in destinations
            ]
            for delivery_id in planned:
                jobs.schedule(connection, "deliver", str(delivery_id), run_at=now, now=now)
        return planned

    def delivery(self, delivery_id: int) -> Delivery:
        with self.database.read() as connection:
            found = deliveries.get(connection, delivery_id)
        assert found is not None
        return found

    def stored(self, delivery_id: int) -> StoredObject:
        with self.database.read() as connection:
            return self.shelf.load(connection, self.delivery(delivery_id))

    @contextlib.contextmanager
    def delivering(self, *destinations: Destination) -> Iterator[threading.Event]:
        """Run the stage in a thread; a failure of it fails the test."""
        stop = threading.Event()
        raised: list[BaseException] = []

        def run() -> None:
            try:
                run_deliver(self.settings(*destinations), stop)
            except BaseException as error:  # noqa: BLE001  # told to the test below
                raised.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield stop
        finally:
            stop.set()
            thread.join(15)
        assert not thread.is_alive()
        assert raised == []


def wait_for(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Received:
    """One C-STORE request as it came."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    dataset: bytes


@dataclass
class Pacs:
    """A pynetdicom Storage SCP that keeps what it got and answers as told."""

    port: int
    ae_title: str = "PACS"
    answer: Callable[[Received], int] = lambda received: 0x0000
    received: list[Received] = field(default_factory=list)

    def destination(self, name: str = "pacs", **changes: object) -> Destination:
        values = {"ae_title": self.ae_title, "host": "127.0.0.1", "port": self.port, "timeout_s": 5.0, **changes}
        return Destination.model_validate({"name": name, "kind": "c-store", **values})


@contextlib.contextmanager
def serving(
    pacs: Pacs,
    classes: Sequence[str] = ALL_CLASSES,
    syntaxes: Sequence[str] = (ExplicitVRLittleEndian,),
    known_callers: Sequence[str] = (),
) -> Iterator[Pacs]:
    """Run the SCP; a called AE title other than its own is refused."""

    def store(event: evt.Event) -> int:
        request = event.request
        got = Received(
            str(request.AffectedSOPClassUID),
            str(request.AffectedSOPInstanceUID),
            str(event.context.transfer_syntax),
            request.DataSet.getvalue(),
        )
        pacs.received.append(got)
        return pacs.answer(got)

    ae = AE(ae_title=pacs.ae_title)
    ae.require_called_aet = True
    ae.require_calling_aet = list(known_callers)
    for sop_class_uid in classes:
        ae.add_supported_context(sop_class_uid, list(syntaxes))
    # The node's receiver, if a test of it ran in this process, had the library write datasets to files.
    chunked, _config.STORE_RECV_CHUNKED_DATASET = _config.STORE_RECV_CHUNKED_DATASET, False
    server = ae.start_server(("127.0.0.1", pacs.port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        yield pacs
    finally:
        server.shutdown()
        _config.STORE_RECV_CHUNKED_DATASET = chunked


@contextlib.contextmanager
def storescp(port: int, *options: str) -> Iterator[subprocess.Popen]:
    """Run DCMTK's storescp, which takes every SR class."""
    with tempfile.TemporaryDirectory() as folder:  # where it writes what no option tells it to write elsewhere
        process = subprocess.Popen(
            ["storescp", "--promiscuous", "--disable-host-lookup", *options, str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
        )
        try:
            wait_for(lambda: _listens(port))
            yield process
        finally:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def dataset_of(path: Path) -> bytes:
    """The bytes of a Part 10 file after its meta information, whose length stands in its first element."""
    data = path.read_bytes()
    assert data[128:132] == b"DICM"
    assert data[132:140] == b"\x02\x00\x00\x00UL\x04\x00"
    return data[144 + int.from_bytes(data[140:144], "little") :]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database without rows; a copy takes a hundredth of the time."""
    path = tmp_path_factory.mktemp("empty") / "cxr-node.db"
    database = migrated(f"sqlite:///{path}")
    database.dispose()
    return path


@pytest.fixture
def node(tmp_path: Path, empty_database: Path) -> Iterator[Node]:
    (tmp_path / "var").mkdir()
    shutil.copy(empty_database, tmp_path / "var")
    made = Node(tmp_path)
    yield made
    made.database.dispose()


@pytest.fixture(scope="module")
def pacs_of_module() -> Iterator[Pacs]:
    with serving(Pacs(free_port())) as running:
        yield running


@pytest.fixture
def pacs(pacs_of_module: Pacs) -> Pacs:
    """A PACS that takes everything, until a test gives it another answer."""
    pacs_of_module.received = []
    pacs_of_module.answer = lambda received: 0x0000
    return pacs_of_module
