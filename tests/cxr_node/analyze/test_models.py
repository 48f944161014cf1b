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
from storage import Doorbell, InstanceFiles, audit, jobs, model_changes, studies
from storage.studies import PatientContext
from tests.cxr_node.analyze.conftest import DEVICE, NOON
from tests.cxr_node.inference.conftest import make_manifest, tiny_network, write_manifest  # noqa: F401  # a fixture
from tests.databases import migrated

pytestmark = pytest.mark.requirement("SRS-ADM-204")

SIZE = (16, 12)
SCORES = {"old": 0.25, "new": 0.75, "wrong": 0.5}


class FixedEngine:
    """Gives every image the score of its package; `made` counts how often one was loaded."""

    made: list[str] = []  # noqa: RUF012  # of this class on purpose, emptied by the fixture
    device = "CPU"

    name = "fixed"
    trouble = ""

    def __init__(self, package, **options):
        self.package = package
        self.options = options
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
        self.database = migrated(self.settings.database_url)

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
        def __init__(self, package, **options):
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


@pytest.mark.requirement("SRS-INF-208")
def test_a_package_that_scores_otherwise_than_it_was_released_with_stops_the_start(site):
    """Every file may be whole and the computer still compute something else."""
    shutil.rmtree(site.packages / "old")
    put_package(site.packages, "old", golden=0.5)
    with pytest.raises(PackageError, match=r"golden inputs differ by 0\.25"):
        site.models().load()
    assert site.told("models_not_loaded")[0]["serving"] is False


@pytest.mark.requirement("SRS-INF-208")
@pytest.mark.parametrize("name", ["weights.npz", "architecture.json", "golden.npz", "manifest.json"])
def test_a_package_that_is_damaged_at_the_start_is_refused_and_the_jobs_wait(site, name):
    """A study is analysed by the network that was measured, or it waits and somebody is told why."""
    from cxr_node.worklist.web.health import ModelCheck

    with site.database.begin() as connection:
        studies.touch(connection, "1.2", PatientContext(), ordered_rank=0, calling_ae_title="CR", now=NOON)
        jobs.schedule(connection, "analyze", "1.2", run_at=NOON, now=NOON)
    file = site.packages / "old" / name
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(PackageError, match=name.replace(".", r"\.")):
        site.models().load()
    (reason,) = ModelCheck(site.settings, site.database).reasons()
    assert name in reason
    assert name in site.told("models_not_loaded")[0]["reason"]
    with site.database.read() as connection:
        assert jobs.counts(connection) == {("analyze", "SCHEDULED"): 1}


@pytest.mark.requirement("SRS-INF-208")
def test_a_file_that_changes_while_the_node_runs_changes_no_score_and_is_told(site, tiny_network, monkeypatch):  # noqa: F811
    """What runs is what was verified; what lies there now is refused by readiness and by the next start."""
    from cxr_node.inference import Engine
    from cxr_node.worklist.web import health
    from trainer.export import write_network

    shutil.rmtree(site.packages / "old")
    folder = site.packages / "old"
    folder.mkdir(parents=True)
    write_network(tiny_network, folder)
    inputs = np.linspace(0, 1, 3 * 16 * 12, dtype=np.float32).reshape(3, 16, 12, 1)
    np.savez(folder / "golden.npz", inputs=inputs, scores=tiny_network(inputs, training=False).numpy())
    write_manifest(folder, make_manifest(name="old"))
    check = health.ModelCheck(site.settings, site.database)
    monkeypatch.setattr(health, "VERIFY_AGAIN_AFTER_S", 0.0)
    models = site.models(Engine)
    models.load()
    engine = models.analyzer().engine(models.analyzer().packages[0])
    before = engine.scores(inputs)
    assert check.reasons() == []

    weights = folder / "weights.npz"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + b"x")
    for converted in (site.settings.data_dir / "cache").rglob("*"):
        if converted.is_file():
            converted.write_bytes(b"")
    assert np.array_equal(engine.scores(inputs), before)
    assert "the file was altered" in check.reasons()[0]
    assert not models.refresh()
    with pytest.raises(PackageError, match="the file was altered"):
        site.models(Engine).load()

    weights.write_bytes(kept)
    assert check.reasons() == []
    again = site.models(Engine)
    again.load()  # the conversions, damaged as well, are made anew
    assert np.array_equal(again.analyzer().engine(again.analyzer().packages[0]).scores(inputs), before)


@pytest.mark.requirement("SRS-INF-201")
def test_the_engine_is_the_one_of_node_toml(tmp_path):
    """A site that validated one implementation can keep it."""
    found = Site(tmp_path)
    analyze = found.settings.analyze.model_copy(update={"engine": "savedmodel", "batch_size": 4, "workers": 1000})
    found.settings = found.settings.model_copy(update={"analyze": analyze})
    put_package(found.packages, "old")
    models = found.models()
    models.load()
    options = models.analyzer().engine(models.analyzer().packages[0]).options
    assert (options["choice"], options["batch"], options["threads"]) == ("savedmodel", 4, 1)


@pytest.mark.requirement("SRS-INF-205")
def test_what_an_engine_tells_is_logged_counted_and_shown_while_it_starts(site):
    """An alarm is set on the metric; and who waits for a first start reads what it is at."""
    from cxr_node import metrics

    seen = []

    class Telling(FixedEngine):
        def __init__(self, package, **options):
            super().__init__(package, **options)
            seen.append(models.doing)
            options["report"]("package_conversion_started", package="old")
            seen.append(models.doing)
            options["report"]("package_converted", package="old")
            seen.append(models.doing)
            options["report"]("gpu_lost", package="old", reason="the GPU is no longer used")

    counter = metrics.ENGINE_TROUBLES.labels("gpu_lost")
    before = counter._value.get()
    models = site.models(Telling)
    models.load()
    assert seen == ["loading models", "converting old for this computer, once", "loading models"]
    assert counter._value.get() == before + 1
