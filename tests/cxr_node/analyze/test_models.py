"""Models change while the node runs: loaded beside the old ones, tested, swapped; or not, and why."""

import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest

from cxr_node.analyze.models import Models
from cxr_node.analyze.stage import AnalyzeStage
from cxr_node.errors import PackageError
from cxr_node.inference import load_package
from cxr_node.settings import Settings
from storage import Database, Doorbell, InstanceFiles, audit, jobs, model_changes, studies
from storage.studies import PatientContext
from tests.cxr_node.analyze.conftest import DEVICE, NOON
from tests.cxr_node.inference.conftest import make_manifest, tiny_network, write_manifest  # noqa: F401  # a fixture

pytestmark = pytest.mark.requirement("SRS-ADM-204")

SIZE = (16, 12)
SCORES = {"old": 0.25, "new": 0.75, "wrong": 0.5}


class FixedEngine:
    """Gives every image the score of its package; `made` counts how often one was loaded."""

    made: list[str] = []  # noqa: RUF012  # of this class on purpose, emptied by the fixture
    device = "CPU"

    def __init__(self, package, *, cache_dir=None):
        self.package = package
        FixedEngine.made.append(package.manifest.name)

    def warm(self):
        pass

    def scores(self, batch):
        return np.full((len(batch), 1), SCORES[self.package.manifest.name.split("-")[0]], np.float32)


def put_package(folder, name, *, golden=None, version="1.0.0"):
    """Write a package whose golden scores are those of FixedEngine, or `golden`."""
    package = folder / name
    package.mkdir(parents=True)
    for file in ("architecture.json", "weights.npz"):
        (package / file).write_bytes(f"{name} {version}".encode())
    score = SCORES[name] if golden is None else golden
    np.savez(package / "golden.npz", inputs=np.zeros((3, *SIZE, 1)), scores=np.full((3, 1), score, np.float32))
    write_manifest(package, make_manifest(name=name, version=version))
    return load_package(package)


class Site:
    """A node's database and packages."""

    def __init__(self, folder):
        self.settings = Settings.model_validate(
            {"base_dir": str(folder), "node": {"data_dir": str(folder)}, "analyze": {"models": ["old"]}}
        )
        self.packages = folder / "packages"
        self.database = Database(self.settings.database_url)
        self.database.migrate()

    def models(self, engine=FixedEngine):
        return Models(self.settings, self.database, engine=engine, now=lambda: NOON)

    def decide(self, name, state, digest=""):
        with self.database.begin() as connection:
            model_changes.add(connection, name, state, digest=digest, changed_by="ada", now=NOON)

    def told(self, event):
        with self.database.read() as connection:
            return [item.detail for item in audit.newest(connection, event, limit=9)]


@pytest.fixture
def site(tmp_path):
    FixedEngine.made.clear()
    made = Site(tmp_path)
    put_package(made.packages, "old")
    yield made
    made.database.dispose()


def running(models):
    analyzer = models.analyzer()
    return [item.manifest.name for item in analyzer.packages], [item.manifest.name for item in analyzer.shadow]


def test_a_confirmed_package_is_loaded_and_swapped_in_and_said_so(site):
    """No restart, no pause; what ran goes on until the new one has passed its golden inputs."""
    new = put_package(site.packages, "new")
    models = site.models()
    models.load()
    before = models.analyzer()
    assert not models.refresh()
    site.decide("old", "shadow")
    site.decide("new", "active", new.digest)
    assert models.refresh()
    assert running(models) == (["new"], ["old"])
    assert running_of(before) == (["old"], [])
    assert FixedEngine.made == ["old", "new"], "what is loaded already is not loaded again"
    newest = site.told("models_loaded")[0]
    assert newest["active"] == {"new": {"version": "1.0.0", "digest": new.digest}}
    assert not models.refresh()


def running_of(analyzer):
    return [item.manifest.name for item in analyzer.packages], [item.manifest.name for item in analyzer.shadow]


def without_golden(site):
    package = put_package(site.packages, "new")
    (package.path / "golden.npz").unlink()
    write_manifest(package.path, replace(package.manifest, files={}))


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda site: put_package(site.packages, "new", golden=0.5), "golden inputs differ by 0.25"),
        (lambda site: None, "no model package new"),
        (lambda site: spoil(site, put_package(site.packages, "new")), "the file was altered"),
        (without_golden, "expected golden inputs"),
    ],
)
def test_where_the_new_package_does_not_pass_the_old_ones_go_on_and_the_reason_is_kept(site, prepare, says):
    """A study must not wait for somebody to notice that a package is broken."""
    models = site.models()
    models.load()
    prepare(site)
    site.decide("new", "active")
    assert not models.refresh()
    assert running(models) == (["old"], [])
    (reason,) = site.told("models_not_loaded")
    assert says in reason["reason"]
    assert not models.refresh()
    assert len(site.told("models_not_loaded")) == 1, "told once, not every few seconds"


def spoil(site, package):
    (package.path / "weights.npz").write_bytes(b"another")


def test_another_package_than_the_confirmed_one_is_refused_running_and_at_the_start(site):
    """Somebody copied a newer one over it: nobody has said yes to that."""
    new = put_package(site.packages, "new")
    models = site.models()
    models.load()
    shutil.rmtree(new.path)
    put_package(site.packages, "new", version="6.6.6")
    site.decide("new", "active", new.digest)
    assert not models.refresh()
    assert "expected the one that was confirmed" in site.told("models_not_loaded")[0]["reason"]
    for _ in range(2):
        with pytest.raises(PackageError, match="expected the one that was confirmed"):
            site.models().load()
    assert [item["serving"] for item in site.told("models_not_loaded")] == [False, True]


def test_an_engine_that_fails_in_its_own_way_stops_nothing(site):
    """TensorFlow has exceptions that nobody lists."""

    class Exploding(FixedEngine):
        def __init__(self, package, *, cache_dir=None):
            super().__init__(package)
            if package.manifest.name == "new":
                raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")

    put_package(site.packages, "new")
    models = site.models(Exploding)
    models.load()
    site.decide("new", "shadow")
    assert not models.refresh()
    assert running(models) == (["old"], [])
    assert site.told("models_not_loaded")[0]["reason"] == "RuntimeError while the package was loaded"


def test_a_batch_is_worked_on_with_one_set_of_models(site, monkeypatch):
    """A swap in the middle of a batch would report a threshold of one model on the score of another."""
    put_package(site.packages, "new")
    models = site.models()
    models.load()
    files = InstanceFiles(site.settings.instances_dir)
    with site.database.begin() as connection:
        studies.touch(connection, "1.2", PatientContext(), ordered_rank=0, calling_ae_title="CR", now=NOON)
        jobs.schedule(connection, "analyze", "1.2", run_at=NOON, now=NOON)
        claimed = jobs.claim(connection, ["analyze"], owner="t:", now=NOON)
    asked = []

    def analyzer():
        asked.append(1)
        found = models.analyzer()
        site.decide("new", "active")
        models.refresh()
        return found

    stage = AnalyzeStage(site.settings, site.database, files, analyzer, DEVICE)
    assert len(list(stage.handle(claimed))) == 1
    assert len(asked) == 1


def test_the_watch_takes_a_change_up_when_the_bell_rings(site):
    """Somebody waits in front of the page."""
    put_package(site.packages, "new")
    models = site.models()
    models.load()
    stop, bell = threading.Event(), Doorbell(site.settings.data_dir / "run")
    thread = threading.Thread(target=models.watch, args=(stop,), daemon=True)
    thread.start()
    try:
        site.decide("new", "shadow")
        for _ in range(500):
            bell.ring("models")
            if running(models)[1] == ["new"]:
                break
            stop.wait(0.02)
        assert running(models) == (["old"], ["new"])
    finally:
        stop.set()
        bell.ring("models")
        thread.join(10)
    assert not thread.is_alive()


def test_without_any_active_model_every_image_is_excluded_with_that_reason(site):
    """Silence would look like nothing found."""
    from pydicom.dataset import Dataset

    from cxr_node.analyze.routing import route

    site.decide("old", "off")
    models = site.models()
    models.load()
    assert running(models) == ([], [])
    found = route(Dataset(), "triage", models.analyzer().packages)
    assert found.reason == "no-model"


def test_a_real_network_is_swapped_in_by_tensorflow(site, tiny_network):  # noqa: F811  # the fixture
    """The same, with a package as the trainer writes it and an engine as the node runs it."""
    from cxr_node.inference import Engine
    from trainer.export import write_network

    def write(name, shift):
        folder = site.packages / name
        folder.mkdir(parents=True)
        write_network(tiny_network, folder)
        inputs = np.linspace(0, 1, 3 * 16 * 12, dtype=np.float32).reshape(3, 16, 12, 1)
        scores = tiny_network(inputs, training=False).numpy() + shift
        np.savez(folder / "golden.npz", inputs=inputs, scores=scores)
        write_manifest(folder, make_manifest(name=name))

    shutil.rmtree(site.packages / "old")
    write("old", 0.0)
    write("new", 0.0)
    write("wrong", 0.1)
    models = site.models(Engine)
    models.load()
    site.decide("wrong", "active")
    assert not models.refresh()
    site.decide("wrong", "off")
    site.decide("new", "active")
    assert models.refresh()
    assert running(models) == (["old", "new"], [])
    engine = models.analyzer().engine(models.analyzer().packages[1])
    assert engine.scores(np.zeros((2, 16, 12, 1), np.float32)).shape == (2, 1)
