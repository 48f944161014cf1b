"""Proof of delivery with a real PACS: Orthanc commits, is read back, and is caught dropping an object."""

import copy
import threading
import time
import urllib.error
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage

from cxr_node.clock import utc_now
from cxr_node.deliver import Shelf, proof
from cxr_node.deliver.c_store import CStore
from cxr_node.deliver.stow_rs import StowRs
from cxr_node.receive.intake import Intake
from cxr_node.receive.scp import StorageScp
from cxr_node.reporting import encode
from cxr_node.settings import Destination, Settings
from storage import Database, Doorbell, InstanceFiles, commitments, deliveries, jobs, results
from tests.cxr_node.deliver.conftest import make_report
from tests.system.conftest import Orthanc, free_port, get_json, wait_until

pytestmark = pytest.mark.peer("Orthanc", "ip")

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass
class WebOrthanc(Orthanc):
    """Orthanc with DICOMweb, that knows the node's listener."""

    def configuration(self) -> dict[str, Any]:
        return super().configuration() | {
            "AuthenticationEnabled": True,
            "RegisteredUsers": {"node": "pass-word"},
            "DicomAlwaysAllowFind": True,
            "DicomCheckCalledAet": True,
            "OverwriteInstances": False,
            "Plugins": [str(PLUGIN)] if PLUGIN.exists() else [],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }

    def is_up(self) -> bool:
        try:
            get_json(f"{self.url}/system")
        except urllib.error.HTTPError as error:
            return error.code == 401
        return False


@dataclass
class Site:
    """A node's storage, listener and deliver stage in this process, in Orthanc's network."""

    settings: Settings
    database: Database
    files: InstanceFiles
    pacs: Orthanc

    @property
    def shelf(self) -> Shelf:
        return Shelf(self.database, self.files)

    def plan(self, destination: str, report=None):
        report = make_report("1.2.3") if report is None else report
        now = utc_now()
        location = self.files.write_object(report.SOPInstanceUID, encode(report))
        with self.database.begin() as connection:
            result = results.add(
                connection,
                report.StudyInstanceUID,
                status="analysed",
                flagged=False,
                ai_priority="",
                outcome={},
                now=now,
            )
            results.add_object(
                connection,
                result.id,
                kind="sr",
                sop_class_uid=report.SOPClassUID,
                sop_instance_uid=report.SOPInstanceUID,
                location=location,
                now=now,
            )
            made = deliveries.add(connection, result.id, kind="sr", destination=destination, now=now)
        return made.id

    def deliver(self, delivery_id: int) -> None:
        """Send, and settle as the lane does."""
        with self.database.read() as connection:
            delivery = deliveries.get(connection, delivery_id)
            stored = self.shelf.load(connection, delivery)
        destination = next(item for item in self.settings.destination if item.name == delivery.destination)
        kind = {"c-store": CStore, "stow-rs": StowRs}[destination.kind]
        sent = kind(destination, settings=self.settings, shelf=self.shelf).send(stored)
        now = utc_now()
        with self.database.begin() as connection:
            deliveries.set_state(
                connection,
                delivery_id,
                deliveries.DELIVERED,
                now=now,
                reason=sent.reason,
                sop_instance_uid=sent.sop_instance_uid,
                sop_class_uid=sent.sop_class_uid,
            )
            proof.plan(connection, delivery_id, destination, now=now)

    def delivery(self, delivery_id: int):
        with self.database.read() as connection:
            return deliveries.get(connection, delivery_id)

    def proved(self, delivery_id: int, within_s: float = 20):
        """Wait until the proof is settled."""
        return wait_until(
            lambda: (found := self.delivery(delivery_id)).proof not in ("asked", "") and found, within_s, "proof"
        )


@pytest.fixture(scope="module")
def site(private_network, tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("proof")
    orthanc = WebOrthanc(folder / "pacs", node_port=free_port())
    (folder / "secret").write_text("pass-word\n")
    (folder / "wrong").write_text("guess\n")
    pacs = {"kind": "c-store", "ae_title": "PACS", "host": "127.0.0.1", "port": orthanc.dicom_port}
    web = {"kind": "stow-rs", "url": f"{orthanc.url}/dicom-web", "user": "node", "timeout_s": 10.0}
    settings = Settings(
        node={"data_dir": str(folder / "data")},
        receive={"port": orthanc.node_port, "min_free_gb": 0.1},
        destination=(
            Destination(name="pacs", **pacs, commit_timeout_s=20.0),
            Destination(name="commit", **pacs, proof="storage-commitment", commit_timeout_s=20.0),
            Destination(name="query", **pacs, proof="query"),
            Destination(name="web", **web, secret_file=str(folder / "secret")),
            Destination(name="stranger", **web, secret_file=str(folder / "wrong")),
        ),
    )
    database = Database(settings.database_url)
    database.migrate()
    files = InstanceFiles(settings.instances_dir)
    intake = Intake(database, files, Doorbell(settings.data_dir / "run"), quiet_period_s=1.0, min_free_bytes=1e8)
    listener = StorageScp(settings, intake, database, files.new_temporary().parent)
    listener.start()
    stop = threading.Event()
    workers = proof.make_workers(settings, database, files)
    threads = [threading.Thread(target=worker.run, args=(stop,), daemon=True) for worker in workers]
    orthanc.start()
    for thread in threads:
        thread.start()
    try:
        yield Site(settings, database, files, orthanc)
    finally:
        stop.set()
        Doorbell(settings.data_dir / "run").ring("deliver")
        for thread in threads:
            thread.join(10)
        listener.close()
        orthanc.stop()
        database.dispose()


def send_another(site: Site, report: Dataset) -> None:
    """Put another object of the report's UID and series into Orthanc, in another SR class."""
    other, uid = copy.deepcopy(report), report.SOPInstanceUID
    other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID = ComprehensiveSRStorage
    delivery_id = site.plan("pacs", other)
    with site.database.read() as connection:
        stored = site.shelf.load(connection, deliveries.get(connection, delivery_id))
    assert CStore(site.settings.destination[0], settings=site.settings, shelf=site.shelf).send(stored).reason == ""
    with site.database.begin() as connection:  # the UID is the real report's, from here on
        connection.exec_driver_sql("DELETE FROM deliveries WHERE id = ?", (delivery_id,))
        connection.exec_driver_sql("DELETE FROM result_objects WHERE sop_instance_uid = ?", (uid,))


@pytest.mark.requirement("SRS-SYS-101")
@pytest.mark.parametrize(
    ("destination", "method"),
    [("pacs", "storage-commitment"), ("commit", "storage-commitment"), ("query", "query"), ("web", "query")],
)
def test_orthanc_proves_that_it_holds_the_report(site, destination, method):
    """Its report of commitment comes over an association of its own to the node's listener."""
    if destination == "web" and not PLUGIN.exists():
        pytest.skip("Orthanc has no DICOMweb plugin here")
    started = time.monotonic()
    delivery_id = site.plan(destination)
    site.deliver(delivery_id)
    found = site.proved(delivery_id)
    assert (found.state, found.proof, found.proof_method) == ("COMMITTED", "proved", method), found
    assert time.monotonic() - started < 15, "without waiting for a time-out"
    if method == "storage-commitment":
        with site.database.read() as connection:
            assert commitments.of_delivery(connection, delivery_id)


@pytest.mark.requirement("SRS-SYS-102")
@pytest.mark.parametrize(
    ("destination", "method"), [("pacs", "storage-commitment"), ("query", "query"), ("web", "query")]
)
def test_a_report_that_orthanc_dropped_is_found(site, destination, method):
    """Orthanc answers Success to a second object of a UID, by C-STORE and by STOW-RS, and keeps the first."""
    if destination == "web" and not PLUGIN.exists():
        pytest.skip("Orthanc has no DICOMweb plugin here")
    report = make_report("1.2.4")
    send_another(site, report)
    delivery_id = site.plan(destination, report)
    site.deliver(delivery_id)
    assert site.delivery(delivery_id).state == "DELIVERED", "Success was answered"
    found = site.proved(delivery_id)
    assert (found.state, found.proof, found.proof_method) == ("FAILED", "failed", method)
    assert "another SOP class under this UID" in found.reason


@pytest.mark.requirement("SRS-SYS-102")
def test_a_report_that_orthanc_never_kept_goes_again(site):
    """Its disk was full, or somebody deleted it: 0x0112, and the same bytes are due once more."""
    report = make_report("1.2.5")
    delivery_id = site.plan("commit", report)
    now = utc_now()
    with site.database.begin() as connection:  # Success was answered, as far as the node knows
        deliveries.set_state(
            connection,
            delivery_id,
            deliveries.DELIVERED,
            now=now,
            sop_instance_uid=report.SOPInstanceUID,
            sop_class_uid=report.SOPClassUID,
        )
        proof.plan(connection, delivery_id, site.settings.destination[1], now=now)
    found = wait_until(lambda: (it := site.delivery(delivery_id)).resends == 1 and it, 20, "sent again")
    assert (found.state, found.proof) == ("SCHEDULED", "")
    assert "0x0112, no such SOP Instance" in found.reason
    with site.database.read() as connection:
        assert jobs.get(connection, "deliver", str(delivery_id)).state == jobs.SCHEDULED
    site.deliver(delivery_id)
    assert site.proved(delivery_id).state == "COMMITTED"


@pytest.mark.requirement("SRS-DLV-116")
@pytest.mark.requirement("SRS-DLV-114")
def test_destinations_at_orthanc_test_as_they_are(site):
    """The sentences an administrator reads on the day of the set-up, with the PACS that most sites try first."""

    def test_of(name, **changes):
        destination = next(item for item in site.settings.destination if item.name == name)
        kind = {"c-store": CStore, "stow-rs": StowRs}[destination.kind]
        return kind(destination.model_copy(update=changes), settings=site.settings, shelf=site.shelf).test()

    assert test_of("pacs") == ""
    # A peer that resets the connection behind its rejection is told as one that closed it: the next try hears it.
    wait_until(lambda: "does not go by the AE title PAX" in test_of("pacs", ae_title="PAX"), 20, "it is rejected")
    if PLUGIN.exists():
        assert test_of("web") == ""
        assert "answered QIDO-RS with 401: it refuses these credentials" in test_of("stranger")
        assert "no DICOMweb is served at this address" in test_of("web", url=f"{site.pacs.url}/dicomweb")
