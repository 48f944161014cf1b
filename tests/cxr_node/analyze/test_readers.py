"""Images read in processes of their own: the same inputs, and a study that outlives a poisonous image."""

import subprocess
import sys
import threading
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, generate_uid

from cxr_node.analyze.analyzer import Analyzer, prepare_lent
from cxr_node.analyze.apart import Apart, Ended, NotStarted, Stopped
from cxr_node.analyze.prepare import Gate, Wanted
from cxr_node.analyze.readers import Readers, reader_count
from cxr_node.analyze.stage import AnalyzeStage
from cxr_node.clock import utc_now
from cxr_node.findings import ImageReference
from cxr_node.imaging import PreprocessSpec, preprocess, radiograph_from_dicom_file
from cxr_node.inference import BUILTIN, ModelPackage, find_package
from cxr_node.reporting import TOLD_OF_EXCLUDED, Device
from cxr_node.settings import Settings
from cxr_node.work import Worker
from storage import Doorbell, InstanceFiles, instances, jobs, results, studies
from tests.builders import make_radiograph_dataset
from tests.cxr_node.analyze.test_drops import Brightness, chest
from tests.databases import migrated
from tests.system.conftest import wait_until

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DEVICE = Device("cxr-node", "cxr-node project", "cxr-node", "1", "0.1.0", "2.25.1")
PACKAGES = tuple(find_package(name, [BUILTIN]) for name in ("pneumonia-adult", "pneumonia-paediatric"))
GATE = Gate("triage", PACKAGES, told=TOLD_OF_EXCLUDED)


@pytest.fixture(scope="module")
def readers():
    made = Readers(1)
    made.start()
    yield made
    made.close()


def _save(dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path


def _reference(dataset) -> ImageReference:
    return ImageReference(str(dataset.SOPInstanceUID), str(dataset.SOPClassUID), str(dataset.SeriesInstanceUID))


def _poison(folder: Path, **attributes) -> Path:
    """A chest in JPEG Extended of 12 bits whose JFIF version is none: GDCM ends its process with an abort signal."""
    plain, small = folder / "plain.dcm", folder / "poison.dcm"
    _save(make_radiograph_dataset((chest() // 16).astype(np.uint16), **attributes), plain)
    subprocess.run(["dcmcjpeg", "+ee", "+q", "95", str(plain), str(small)], check=True)
    data = small.read_bytes()
    assert data.count(b"JFIF\0\x01") == 1
    small.write_bytes(data.replace(b"JFIF\0\x01", b"JFIF\0\x80"))
    return small


@pytest.mark.requirement("SRS-ANA-301")
@pytest.mark.parametrize("syntax", [None, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize(
    "attributes", [{}, {"ViewPosition": "LL"}, {"PatientAge": "003Y"}], ids=["taken", "excluded", "child"]
)
def test_a_reader_prepares_what_this_process_would(readers, tmp_path, syntax, attributes):
    """Two ways to an input would be two truths; of an excluded image only what is told of it comes back."""
    dataset = make_radiograph_dataset((chest() // 16).astype(np.uint16), **attributes)
    if syntax:
        plugin = {JPEG2000Lossless: "pylibjpeg", JPEGLSLossless: "pyjpegls"}[syntax]
        dataset.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    wanted = Wanted(_save(dataset, tmp_path / "image.dcm"), _reference(dataset))
    own, found = prepare_lent(GATE, wanted), readers.submit(GATE, wanted).result(60)
    assert (found.image, found.exclusion, found.notes) == (own.image, own.exclusion, own.notes)
    assert [package.manifest.name for package in found.packages] == [package.manifest.name for package in own.packages]
    assert all(any(package is known for known in PACKAGES) for package in found.packages)
    assert found.header == own.header
    assert ("Rows" in found.header) == (own.exclusion is None)
    assert found.inputs.keys() == own.inputs.keys()
    for digest, array in own.inputs.items():
        np.testing.assert_array_equal(found.inputs[digest], array)


@pytest.mark.requirement("SRS-ANA-301")
def test_an_image_whose_scores_are_known_is_not_decoded(readers, tmp_path):
    """A late image costs one inference, not one for every image of its study."""
    dataset = make_radiograph_dataset(chest())
    dataset.PixelData = b""  # would be excluded, were it looked at
    known = {package.digest: {"pneumonia": 0.25} for package in PACKAGES}
    wanted = Wanted(_save(dataset, tmp_path / "image.dcm"), _reference(dataset), known)
    found = readers.submit(GATE, wanted).result(60)
    assert (found.exclusion, found.known, found.inputs) == (None, known, {})


class Site:
    """A queue with studies of real files, and a worker whose images are read apart."""

    def __init__(self, folder: Path, readers: Readers) -> None:
        self.settings = Settings.model_validate({"base_dir": str(folder)})
        self.database = migrated(self.settings.database_url)
        self.files = InstanceFiles(self.settings.instances_dir)
        self.analyzer = Analyzer(PACKAGES, profile="triage", engine=Brightness)
        stage = AnalyzeStage(self.settings, self.database, self.files, lambda: self.analyzer, DEVICE, readers)
        self.worker = Worker(
            database=self.database,
            doorbell=Doorbell(folder / "run"),
            kinds=("analyze",),
            topic="analyze",
            handle=stage.handle,
            owner="analyze:1:test",
            batch=8,
        )

    def store(self, study: str, path: Path) -> None:
        """Keep a file as an image of the study, and queue it, as the receiver does."""
        dataset = dcmread(path, stop_before_pixels=True)
        temporary = self.files.new_temporary()
        temporary.write_bytes(path.read_bytes())
        uid = generate_uid()
        location = self.files.keep(temporary, uid, 0)
        with self.database.begin() as connection:
            instances.add(
                connection,
                sop_instance_uid=uid,
                series_instance_uid=f"{study}.0",
                study_instance_uid=study,
                sop_class_uid=dataset.SOPClassUID,
                transfer_syntax_uid=dataset.file_meta.TransferSyntaxUID,
                variant=0,
                size=path.stat().st_size,
                location=location,
                calling_ae_title="CR",
                called_ae_title="CXR_NODE",
                peer_address="127.0.0.1",
                association_id="a",
                received_at=utc_now(),
            )
            studies.touch(
                connection, study, studies.PatientContext(), ordered_rank=0, calling_ae_title="CR", now=utc_now()
            )
            jobs.schedule(connection, "analyze", study, run_at=utc_now(), now=utc_now())

    def outcome(self, study: str):
        """(attempts, status, reason of each excluded image)."""
        with self.database.read() as connection:
            job, result = jobs.get(connection, "analyze", study), results.current(connection, study)
        assert job is not None
        assert result is not None, job.reason
        reasons = [image["exclusion"]["reason"] for image in result.outcome["images"] if image["exclusion"]]
        return job.attempts, result.status, reasons


@pytest.fixture
def site(tmp_path, readers):
    made = Site(tmp_path / "site", readers)
    yield made
    made.database.dispose()


@pytest.mark.requirement("SRS-ANA-302")
@pytest.mark.peer("dcmcjpeg")
def test_an_image_that_ends_its_reader_is_excluded_and_nothing_else_of_the_claim_is_touched(site, tmp_path):
    """A corrupt file of one modality must not stop the others' studies, nor take its neighbours' results with it."""
    poison, good = _poison(tmp_path), _save(make_radiograph_dataset(chest()), tmp_path / "good.dcm")
    site.store("1.1", poison)
    site.store("1.1", good)
    site.store("1.2", good)
    site.store("1.3", poison)
    assert site.worker.run_once() == 4 - 1
    assert site.outcome("1.1") == (1, "analysed", ["unreadable-pixels"])
    assert site.outcome("1.2") == (1, "analysed", [])
    assert site.outcome("1.3") == (1, "not_analysed", ["unreadable-pixels"])
    with site.database.read() as connection:
        (excluded,) = results.current(connection, "1.3").outcome["exclusions"]
    assert excluded["message"] == "the image was given up: reading it ended the process that read it"


class _EndsOnce:
    """A reader that somebody ends during the first call."""

    def __init__(self, real: Apart) -> None:
        self.real, self.calls = real, 0

    def __call__(self, *arguments):
        self.calls += 1
        if self.calls == 1:
            raise Ended("reading it ended the process that read it")
        return self.real(*arguments)


@pytest.mark.requirement("SRS-ANA-303")
def test_a_reader_that_somebody_ended_costs_the_image_nothing(readers, tmp_path):
    """An operator, or the system short of memory: only an image that ends two readers is to blame."""
    dataset = make_radiograph_dataset(chest())
    wanted = Wanted(_save(dataset, tmp_path / "image.dcm"), _reference(dataset))
    real = readers._free.get()
    readers._free.put(_EndsOnce(real))
    try:
        found = readers.submit(GATE, wanted).result(60)
    finally:
        readers._free.get()
        readers._free.put(real)
    assert found.exclusion is None
    assert len(found.inputs) == 1


@pytest.mark.requirement("SRS-ANA-303")
def test_where_no_reader_comes_up_the_image_is_not_judged(tmp_path, monkeypatch):
    """A broken installation must not exclude every image of the day."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    dataset = make_radiograph_dataset(chest())
    wanted = Wanted(_save(dataset, tmp_path / "image.dcm"), _reference(dataset))
    readers = Readers(1)
    try:
        with pytest.raises(NotStarted, match="did not come up"):
            readers.submit(GATE, wanted).result(60)
    finally:
        readers.close()


@pytest.mark.requirement("SRS-ANA-303")
def test_an_image_of_a_stage_that_ends_is_left_to_another(tmp_path):
    """A stop is no property of the image."""
    dataset = make_radiograph_dataset(chest())
    wanted = Wanted(_save(dataset, tmp_path / "image.dcm"), _reference(dataset))
    readers = Readers(1)
    for one in readers._apart:
        one.close()
    with pytest.raises(Stopped):
        readers.submit(GATE, wanted).result(60)
    readers.close()


@pytest.mark.requirement("SRS-ANA-303")
def test_a_file_that_cannot_be_read_now_is_tried_again(readers, tmp_path):
    """A disk that fails for a moment is no property of the image either."""
    with pytest.raises(FileNotFoundError):
        readers.submit(GATE, Wanted(tmp_path / "gone.dcm", ImageReference("1", "2", "3"))).result(60)


@pytest.mark.requirement("SRS-ANA-302")
def test_an_image_that_takes_too_long_is_excluded_with_its_header(tmp_path):
    """A study is told about in bounded time, and the report names its patient."""
    dataset = make_radiograph_dataset(chest())
    wanted = Wanted(_save(dataset, tmp_path / "image.dcm"), _reference(dataset))
    readers = Readers(1, longest_s=0.0)
    try:
        found = readers.submit(GATE, wanted).result(60)
    finally:
        readers.close()
    assert (found.exclusion.reason, found.header.PatientID) == ("unreadable-pixels", "P1")
    assert "not done after 0 s" in found.exclusion.message


@pytest.mark.requirement("SRS-ANA-301")
@pytest.mark.parametrize(("workers", "at_least"), [(1, 1), (1000, 1)])
def test_there_is_always_a_reader(workers, at_least):
    """On any number of cores, for any number of workers."""
    assert reader_count(workers) >= at_least


@pytest.mark.requirement("SRS-ANA-301")
def test_full_resolution_is_decoded_where_the_site_says_so(readers, tmp_path):
    """A site that validates a model decides with which pixels."""
    dataset = make_radiograph_dataset(chest())
    dataset.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    path = _save(dataset, tmp_path / "image.dcm")
    wanted, small = Wanted(path, _reference(dataset)), replace(GATE, packages=(_wanting(128),))
    lower, full = (
        readers.submit(replace(small, full_decode=decode), wanted).result(60).inputs["small"]
        for decode in (False, True)
    )
    expected = preprocess(radiograph_from_dicom_file(path), PreprocessSpec((128, 128)))
    np.testing.assert_array_equal(full, expected)
    assert not np.array_equal(lower, expected)
    assert np.abs(lower - expected).mean() <= 0.3 / 255


def _wanting(side: int) -> ModelPackage:
    manifest = replace(PACKAGES[0].manifest, preprocess=PreprocessSpec((side, side)))
    return replace(PACKAGES[0], manifest=manifest, digest="small")


class _Noting:
    """Whoever prepares: only notes what is to decide."""

    count = 1

    def __init__(self) -> None:
        self.gates: list[Gate] = []

    def submit(self, gate, wanted):
        self.gates.append(gate)
        return Future()


@pytest.mark.requirement("SRS-ANA-301")
@pytest.mark.parametrize("full_decode", [True, False])
def test_the_sites_word_on_full_resolution_reaches_the_readers(tmp_path, readers, full_decode):
    """`analyze.full_decode` of node.toml."""
    site, noting = Site(tmp_path, readers), _Noting()
    settings = Settings.model_validate({"base_dir": str(tmp_path), "analyze": {"full_decode": full_decode}})
    stage = AnalyzeStage(settings, site.database, site.files, lambda: site.analyzer, DEVICE, noting)
    site.store("1.1", _save(make_radiograph_dataset(), tmp_path / "image.dcm"))
    with site.database.begin() as connection:
        claimed = jobs.claim(connection, ["analyze"], owner="analyze:1:t", now=utc_now())
    handled = stage.handle(claimed)
    threading.Thread(target=lambda: next(handled, None), daemon=True).start()
    wait_until(lambda: noting.gates, 30, "an image given to whoever prepares")
    assert [gate.full_decode for gate in noting.gates] == [full_decode]
    assert noting.gates[0].told == TOLD_OF_EXCLUDED
    site.database.dispose()
