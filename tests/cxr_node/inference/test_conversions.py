"""What is made of a package once is what was made, or it is made anew; LiteRT serves only where it agrees."""

import contextlib
import json
import shutil
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from cxr_node.errors import PackageError
from cxr_node.inference import Engine, conversions, load_package
from cxr_node.inference.conversions import MADE, MODEL_FILE, PARITY_TOLERANCE, check_inputs, look
from cxr_node.inference.convert import compare, convert, convert_verified
from cxr_node.inference.converter import Converter
from cxr_node.inference.runners import LITERT, SAVED_MODEL
from tests.system.conftest import wait_until

from .conftest import write_manifest

IMAGES = np.random.default_rng(3).random((5, 16, 12, 1), dtype=np.float32)


@pytest.fixture
def told():
    """What an engine told, as (event, detail)."""
    return []


@pytest.fixture
def engine(tiny_package, tmp_path, told):
    """Return a function that starts the tiny package in one cache."""
    package = tiny_package()

    def make(**options):
        return Engine(
            package,
            cache_dir=tmp_path / "cache",
            report=lambda event, **detail: told.append((event, detail)),
            **options,
        )

    return make


def place(tmp_path, form, name=""):
    """Return the folder of a form in the one package's cache, or a file in it."""
    (folder,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    return folder / form / name


def altered(path):
    """Change one byte in the middle of a file and nothing else of it."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def largest_file(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.mark.requirement("SRS-INF-201")
def test_on_a_processor_litert_serves_once_it_was_held_against_the_saved_model(engine, tmp_path, told):
    """It is several times faster; and it is another implementation of every layer."""
    expected = engine(choice="savedmodel").scores(IMAGES)
    found = engine()
    assert (found.name, found.device, found.trouble) == ("litert", "CPU", "")
    assert np.abs(found.scores(IMAGES) - expected).max() <= PARITY_TOLERANCE
    parity = look(place(tmp_path, LITERT), None).parity
    assert parity.agrees
    assert parity.inputs >= conversions.RANDOM_INPUTS
    assert parity.largest_difference <= PARITY_TOLERANCE
    assert [event for event, _ in told] == ["package_conversion_started", "package_converted"]


@pytest.mark.requirement("SRS-INF-201")
def test_a_conversion_that_does_not_agree_is_not_used(engine, monkeypatch, told):
    """Thresholds were set on the scores of the one: another network's would be held against them."""
    from cxr_node.inference import convert as module

    # The runner is wrong by a tenth, as a broken kernel of one processor would be.
    right = module.LiteRtRunner.run
    monkeypatch.setattr(module.LiteRtRunner, "run", lambda self, images: right(self, images) + 0.1)
    found = engine()
    assert found.name == "savedmodel"
    assert "differ by 0.1" in found.trouble
    assert told[-1][0] == "litert_refused"
    assert np.isfinite(found.scores(IMAGES)).all()
    # It is not converted again at every start: what came of it is kept.
    told.clear()
    assert engine().name == "savedmodel"
    assert [event for event, _ in told] == ["litert_refused"]


@pytest.mark.requirement("SRS-INF-201")
def test_a_network_that_litert_cannot_compute_is_served_by_the_saved_model(engine, monkeypatch):
    """A site's own package may hold a layer that the converter does not know."""
    from cxr_node.inference import convert as module

    def fails(model):
        raise ValueError("no such operation")

    monkeypatch.setattr(module, "LiteRtRunner", fails)
    found = engine()
    assert found.name == "savedmodel"
    assert "cannot be converted (ValueError)" in found.trouble


@pytest.mark.requirement("SRS-INF-201")
def test_a_computer_on_which_the_converted_model_scores_otherwise_does_not_use_it(engine, tmp_path):
    """The data folder may be moved to a machine whose processor takes other instructions."""
    engine()
    statement = place(tmp_path, LITERT, MADE)
    stated = json.loads(statement.read_text())
    stated["reference"][1][0] += 0.01
    statement.write_text(json.dumps(stated))
    found = engine()
    assert found.name == "savedmodel"
    assert "differ by 0.01" in found.trouble


@pytest.mark.requirement("SRS-INF-201")
@pytest.mark.parametrize(
    ("scores", "agrees"),
    [
        ([[0.5], [0.25]], True),
        ([[0.5], [0.25009]], True),
        ([[0.5], [0.2502]], False),
        ([[0.5], [np.nan]], False),
        ([[0.5]], False),
    ],
)
def test_scores_agree_within_the_tolerance_and_nan_with_nothing(scores, agrees):
    parity = compare(np.asarray(scores, np.float32), np.asarray([[0.5], [0.25]], np.float32))
    assert parity.agrees == agrees


@pytest.mark.requirement("SRS-INF-201")
def test_the_inputs_of_the_comparison_are_the_golden_ones_and_images_that_differ(tiny_package):
    """An image of one kind alone would exercise a part of the network."""
    package = tiny_package()
    golden = np.random.default_rng(5).random((3, 16, 12, 1))
    np.savez(package.path / "golden.npz", inputs=golden, scores=np.zeros((3, 1)))
    write_manifest(package.path, package.manifest)
    found = check_inputs(load_package(package.path))
    assert found.shape == (3 + conversions.RANDOM_INPUTS, 16, 12, 1)
    assert np.array_equal(found[:3], golden.astype(np.float32))
    assert np.array_equal(found, check_inputs(load_package(package.path)))
    assert len({image.tobytes() for image in found}) == len(found)
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.requirement("SRS-INF-202")
@pytest.mark.parametrize("form", [SAVED_MODEL, LITERT])
def test_a_damaged_conversion_is_found_and_made_anew(engine, tmp_path, told, form):
    """One flipped bit in a weight gives scores that look like any others."""
    expected = engine(choice=form).scores(IMAGES)
    damaged = largest_file(place(tmp_path, form))
    altered(damaged)
    told.clear()
    found = engine(choice=form)
    assert np.array_equal(found.scores(IMAGES), expected)
    assert found.trouble == ""
    assert [event for event, _ in told] == ["conversion_damaged", "package_conversion_started", "package_converted"]
    assert damaged.name in told[0][1]["reason"]


@pytest.mark.requirement("SRS-INF-202")
@pytest.mark.parametrize("harm", ["statement", "missing", "more", "versions"])
def test_a_conversion_that_is_not_what_its_statement_says_is_made_anew(engine, tmp_path, told, harm):
    """A copy that broke off, a restore into the wrong folder, another release of a library."""
    expected = engine().scores(IMAGES)
    folder = place(tmp_path, LITERT)
    if harm == "statement":
        (folder / MADE).write_text("{")
    elif harm == "missing":
        (folder / MODEL_FILE).unlink()
    elif harm == "more":
        (folder / "other.bin").write_bytes(b"x")
    else:
        stated = json.loads((folder / MADE).read_text())
        stated["versions"]["ai-edge-litert"] = "0.0.1"
        (folder / MADE).write_text(json.dumps(stated))
    told.clear()
    assert np.array_equal(engine().scores(IMAGES), expected)
    assert "package_converted" in [event for event, _ in told]


@pytest.mark.requirement("SRS-INF-202")
def test_what_an_earlier_release_left_in_the_folder_goes_away(engine, tmp_path):
    """A cache that only grows fills the disk that images need."""
    engine()
    folder = place(tmp_path, "")
    (folder / "variables").mkdir()
    (folder / "saved_model.pb").write_bytes(b"half")
    shutil.rmtree(folder / LITERT)
    engine()
    assert sorted(path.name for path in folder.iterdir()) == [LITERT, SAVED_MODEL]


@pytest.mark.requirement("SRS-INF-202")
def test_of_engines_that_start_at_once_one_converts_and_the_others_wait(tiny_package, tmp_path, monkeypatch):
    """Four workers that each convert would take minutes and the memory of the machine."""
    package, made, right = tiny_package(), [], conversions._make
    monkeypatch.setattr(conversions, "_make", lambda *given: made.append(1) or right(*given))
    engines: list[Engine] = []
    gate = threading.Barrier(3)

    def start():
        gate.wait(30)
        engines.append(Engine(package, cache_dir=tmp_path / "cache"))

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [engine.name for engine in engines] == ["litert"] * 3
    assert len(made) == 1


@pytest.mark.requirement("SRS-INF-202")
def test_a_change_of_the_file_under_a_running_engine_changes_no_score(engine, tmp_path):
    """A file mapped into memory would take the network of a running node with it."""
    running = engine()
    expected = running.scores(IMAGES)
    altered(place(tmp_path, LITERT, MODEL_FILE))
    assert np.array_equal(running.scores(IMAGES), expected)


@pytest.mark.requirement("SRS-INF-203")
def test_a_process_that_serves_litert_loads_no_tensorflow(tmp_path, tiny_package):
    """TensorFlow takes seconds to load and the memory of five nodes; once converted, nobody needs it."""
    package = tiny_package()
    convert(package, tmp_path)
    program = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from cxr_node.inference import Engine, load_package, occlusion_sensitivity\n"
        "engine = Engine(load_package(Path(sys.argv[1])), cache_dir=Path(sys.argv[2]))\n"
        "engine.warm(); image = np.random.default_rng(1).random((16, 12, 1), np.float32)\n"
        "occlusion_sensitivity(engine.scores, image, 0, (16, 12))\n"
        "print(engine.name, 'tensorflow' in sys.modules, 'keras' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(package.path), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["litert", "False", "False"]
    assert done.stderr == ""  # where the node's log goes, a line of JSON each


@pytest.mark.requirement("SRS-INF-203")
def test_where_tensorflow_is_not_loaded_a_process_of_its_own_converts(tiny_package, tmp_path):
    """As at the first start of a node: what was needed once leaves with that process."""
    package = tiny_package()
    program = (
        "import sys; from pathlib import Path\n"
        "from cxr_node.inference import Engine, load_package\n"
        "engine = Engine(load_package(Path(sys.argv[1])), cache_dir=Path(sys.argv[2]))\n"
        "print(engine.name, 'tensorflow' in sys.modules, engine.trouble)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(package.path), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-2:] == ["litert", "False"]


@pytest.mark.requirement("SRS-INF-202")
def test_a_package_that_cannot_be_converted_says_why(tiny_package, tmp_path, monkeypatch):
    """Both files may be whole and not belong together: the process that finds it must say so, not only die."""
    package = tiny_package()
    with np.load(package.path / "weights.npz") as stored:
        arrays = dict(stored)
    arrays["0000"] = arrays["0000"][..., :-1]
    np.savez(package.path / "weights.npz", **arrays)
    write_manifest(package.path, package.manifest)
    broken = load_package(package.path)
    assert "expected 0000 of" in convert_verified(broken.path, broken.digest, tmp_path / "cache")
    with contextlib.suppress(FileNotFoundError):
        assert not [path for path in (tmp_path / "cache" / broken.digest).iterdir() if path.name.startswith(".made-")]

    # As the stage sees it, which has no TensorFlow: only the process tells.
    monkeypatch.delitem(sys.modules, "tensorflow")
    monkeypatch.setattr(conversions, "_converter", echoing('print(json.dumps({"error": "weights: 0000"}), flush=True)'))
    with pytest.raises(PackageError, match=r"cannot be converted: weights: 0000"):
        Engine(broken, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(conversions, "_converter", echoing("os.kill(os.getpid(), 9)"))
    with pytest.raises(PackageError, match="ended with status -9"):
        Engine(broken, cache_dir=tmp_path / "cache")


def echoing(answer, **options):
    """Return a converter whose process has no TensorFlow: it does this for each line that it is sent."""
    program = f"import json, os, sys, time\nfor line in sys.stdin:\n    asked = json.loads(line)\n    {answer}\n"
    return Converter(command=(sys.executable, "-c", program), **options)


@pytest.mark.requirement("SRS-INF-203")
def test_packages_that_follow_one_another_are_converted_by_one_process(tmp_path):
    """At a node's first start the time goes into loading TensorFlow: once, not once for each package."""
    converter = echoing('print("a library says hello"); print(json.dumps({"error": str(os.getpid())}), flush=True)')
    first = converter.convert(tmp_path, "1", tmp_path, 60)
    assert first == str(converter.pid)
    assert converter.convert(tmp_path, "2", tmp_path, 60) == first
    converter.close()
    assert converter.pid == 0
    assert converter.convert(tmp_path, "3", tmp_path, 60) not in ("", first)
    converter.close()


@pytest.mark.requirement("SRS-INF-203")
def test_the_process_that_converts_leaves_once_nothing_follows(tmp_path):
    """It holds a gigabyte, which the node that serves LiteRT was to do without."""
    converter = echoing('print(json.dumps({"error": ""}), flush=True)', stays_s=0.05)
    assert converter.convert(tmp_path, "1", tmp_path, 60) == ""
    wait_until(lambda: converter.pid == 0, 60, "its end")


@pytest.mark.requirement("SRS-INF-202")
@pytest.mark.parametrize("answer", ["os._exit(3)", "time.sleep(600)"])
def test_a_process_that_dies_or_hangs_over_a_package_is_an_error_of_that_package_alone(tmp_path, answer):
    """The next package gets another process: one that cannot be converted must not keep the others out."""
    converter = echoing(f'{answer} if asked["digest"] == "bad" else print(json.dumps({{"error": ""}}), flush=True)')
    assert converter.convert(tmp_path, "good", tmp_path, 60) == ""
    assert "ended with status" in converter.convert(tmp_path, "bad", tmp_path, 1.0)
    assert converter.convert(tmp_path, "good", tmp_path, 60) == ""
    converter.close()


@pytest.mark.requirement("SRS-INF-202")
def test_a_package_that_changed_since_it_was_verified_is_not_converted(tiny_package, tmp_path):
    """Between the look at the package and the conversion lie seconds, in which it may be replaced."""
    package = tiny_package()
    write_manifest(package.path, replace(package.manifest, version="2.0.0"))
    assert "expected the package" in convert_verified(package.path, package.digest, tmp_path / "cache")
