"""A package is what its manifest says, or it is refused with a reason."""

import hashlib
import json
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_node.errors import PackageError
from cxr_node.inference import Manifest, find_package, load_package, package_folders, probability

from .conftest import make_manifest, write_manifest


@pytest.fixture
def folder(tmp_path):
    """A package folder whose files are no network: loading looks at hashes, not inside."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "architecture.json").write_text("{}")
    (folder / "weights.npz").write_bytes(b"numbers")
    write_manifest(folder, make_manifest())
    return folder


@pytest.mark.requirement("SRS-INF-001")
def test_a_package_as_released_loads_and_its_digest_is_that_of_the_manifest(folder):
    """Results name the digest: it must follow from the bytes alone."""
    package = load_package(folder)
    assert package.manifest.name == "tiny"
    assert package.digest == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


@pytest.mark.requirement("SRS-INF-001")
@pytest.mark.parametrize("name", ["architecture.json", "weights.npz"])
def test_an_altered_file_is_refused_with_its_name_and_both_hashes(folder, name):
    """A network that is not the one measured must not score a patient."""
    expected = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    with pytest.raises(PackageError) as error:
        load_package(folder)
    assert all(text in str(error.value) for text in (name, expected, found))


@pytest.mark.requirement("SRS-INF-001")
def test_a_missing_file_is_refused_with_its_name(folder):
    (folder / "weights.npz").unlink()
    with pytest.raises(PackageError, match=r"weights\.npz: expected a file of the package, found none"):
        load_package(folder)


@pytest.mark.requirement("SRS-INF-001")
def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(PackageError, match="expected a manifest, found none"):
        load_package(tmp_path)


@pytest.mark.requirement("SRS-INF-001")
def test_a_package_under_another_name_is_refused(folder):
    """A copied folder would else run under a name that its results do not carry."""
    other = folder.rename(folder.parent / "other")
    with pytest.raises(PackageError, match="expected the name of its folder, other, found tiny"):
        load_package(other)


@pytest.mark.requirement("SRS-INF-002")
def test_a_manifest_reads_back_as_it_was_written():
    manifest = make_manifest()
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


@pytest.mark.requirement("SRS-INF-002")
@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("findings",), [], "findings is empty"),
        (("findings",), ["unicorn"], "'unicorn' is none of"),
        (("name",), "../etc", "name '../etc'"),
        (("intended_use", "age_years"), [5, 1], "5 to 1 is no range"),
        (("intended_use", "age_years"), [5], "does not read"),
        (("operating_points", "pneumonia", "threshold"), 0, "not between 0 and 1"),
        (("operating_points",), {}, "expected the key 'pneumonia'"),
        (("calibration", "pneumonia", "slope"), -1, "not a positive slope"),
        (("calibration", "pneumonia", "slope"), math.nan, "not a positive slope"),
        (("calibration", "pneumonia", "intercept"), math.inf, "not a positive slope"),
        (("files",), {"architecture.json": "0" * 64}, "does not list weights.npz"),
        (("files", "../x"), "0" * 64, "no plain file name"),
        (("files", "weights.npz"), "abc", "no SHA-256"),
        (("preprocess",), {}, "expected the key 'size'"),
    ],
)
def test_a_manifest_that_cannot_be_meant_is_refused_and_says_why(folder, path, value, says):
    """The node routes, thresholds and reports by these values; a wrong one is worse than none."""
    manifest = json.loads((folder / "manifest.json").read_text())
    *parents, last = path
    place = manifest
    for key in parents:
        place = place[key]
    place[last] = value
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PackageError) as error:
        load_package(folder)
    assert says in str(error.value)
    assert "manifest.json" in str(error.value)


@pytest.mark.requirement("SRS-INF-002")
def test_bytes_that_are_no_json_are_refused(folder):
    (folder / "manifest.json").write_bytes(b"\xff{")
    with pytest.raises(PackageError, match="does not read"):
        load_package(folder)


@pytest.mark.requirement("SRS-INF-001")
def test_the_sites_own_package_is_found_before_the_released_one(folder, tmp_path):
    """A site replaces a released model by putting its own under the same name into data_dir."""
    own = tmp_path / "data" / "packages" / "tiny"
    own.parent.mkdir(parents=True)
    own.mkdir()
    for file in folder.iterdir():
        (own / file.name).write_bytes(file.read_bytes())
    search = (package_folders(tmp_path / "data")[0], folder.parent)
    assert find_package("tiny", search).path == own
    assert find_package("tiny", search[1:]).path == folder


@pytest.mark.requirement("SRS-INF-001")
def test_a_package_that_is_nowhere_is_an_error_that_lists_what_is_there(folder):
    with pytest.raises(PackageError, match=r"no model package huge.*found there: tiny"):
        find_package("huge", (folder.parent,))


@pytest.mark.requirement("SRS-INF-001")
def test_a_name_with_path_characters_is_refused(tmp_path):
    """The name comes from a settings file; it must stay inside the folders that are searched."""
    with pytest.raises(PackageError, match="expected a package name"):
        find_package("../tiny", (tmp_path,))


@pytest.mark.requirement("SRS-INF-006")
@given(st.floats(0, 1), st.floats(0, 1))
def test_a_higher_score_never_has_a_lower_probability(first, second):
    """Calibration may stretch, never reorder; the ends of the scale are finite too."""
    manifest = make_manifest()
    low, high = (probability(manifest, "pneumonia", score) for score in sorted((first, second)))
    assert 0 < low <= high < 1


@pytest.mark.requirement("SRS-INF-006")
def test_the_probability_is_the_line_on_the_logit():
    manifest = make_manifest()
    score = 0.8
    expected = 1 / (1 + math.exp(-(1.5 * math.log(score / (1 - score)) - 0.25)))
    assert probability(manifest, "pneumonia", score) == pytest.approx(expected, abs=1e-12)


@pytest.mark.requirement("SRS-INF-006")
@pytest.mark.parametrize(("finding", "score"), [("pneumonia", math.nan), ("abnormal", 0.5)])
def test_no_number_and_a_finding_of_another_model_have_no_probability(finding, score):
    with pytest.raises(PackageError):
        probability(make_manifest(), finding, score)


@pytest.mark.requirement("SRS-INF-008")
def test_reading_packages_loads_no_tensorflow():
    """Every stage may ask for a manifest; only `analyze` may pay three seconds and a gigabyte for it."""
    code = "import sys, cxr_node.inference; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
