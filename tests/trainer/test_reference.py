"""What a package says its own images looked like: from the tune part, under the package's hashes, and no other part."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cxr_node.errors import PackageError
from cxr_node.findings.monitoring.reference import MEASURES
from cxr_node.imaging import PreprocessSpec, Radiograph, look_at, preprocess
from cxr_node.inference import BUILTIN, IntendedUse, Manifest, OperatingPoint, load_package, probability
from cxr_node.inference.package import REFERENCE, reference_of
from trainer import reference as reference_module
from trainer.record import cases_sha256
from trainer.reference import NoReference, add_reference, make_reference, told

RELEASED = sorted(folder.name for folder in BUILTIN.iterdir() if folder.is_dir())
MANIFEST = Manifest(
    name="drawn",
    version="1.0.0",
    title="",
    findings=("pneumonia",),
    intended_use=IntendedUse((1, 5), ("AP",), ("DX",), ("CHEST",)),
    preprocess=PreprocessSpec((16, 16)),
    operating_points={"pneumonia": OperatingPoint("test", 0.5, 0.9, 0.8, "drawn")},
    calibration={"pneumonia": {"slope": 2.0, "intercept": 0.5}},
    architecture="none",
    training={},
    figures={},
    limitations=(),
    files={},
)


def brightness(images: np.ndarray) -> np.ndarray:
    """A model whose score is the mean gray value: (n, rows, columns, 1) to (n, 1)."""
    return images.mean(axis=(1, 2))


@pytest.mark.requirement("SRS-MON-001")
def test_a_reference_counts_what_gate_and_model_make_of_the_cases(drawn_cohort, monkeypatch):
    """Counted again here, picture by picture; what the gate excludes is in no histogram."""
    cases = drawn_cohort.part("tune")
    excluded = {id(cases[0])}
    real = {}

    def look(radiograph: Radiograph):
        seen = look_at(radiograph)
        # The drawings are no chests: of the plain ones all pass but the first, of the inverted ones none.
        is_plain = any(np.array_equal(radiograph.grayscale, item) for item in real.values())
        is_first = np.array_equal(radiograph.grayscale, real[id(cases[0])])
        reason = None if is_plain and not is_first else look_at(Radiograph(np.zeros((64, 64), np.float32))).exclusion
        return replace(seen, exclusion=reason)

    real = {id(case): case.radiograph().grayscale for case in cases}
    monkeypatch.setattr(reference_module, "look_at", look)
    made = make_reference(MANIFEST, brightness, cases, "kermany")
    kept = [case for case in cases if id(case) not in excluded]
    expected = [
        probability(MANIFEST, "pneumonia", float(preprocess(case.radiograph(), MANIFEST.preprocess).mean()))
        for case in kept
    ]
    score = made.scores["pneumonia"]
    assert (made.images, made.excluded, score.of) == (len(cases), {"blank": 1}, len(kept))
    assert score.mean == pytest.approx(np.mean(expected), abs=1e-5)
    assert score.flagged == sum(value >= 0.5 for value in expected)
    assert score.histogram.total == len(kept)
    assert made.measures["mean-gray"].total == len(kept)
    assert made.measures["modality"].unknown == len(kept)
    assert made.inverted.images == made.inverted.excluded == len(cases)
    assert made.inverted.scores["pneumonia"].of == len(cases)
    assert made.inverted.scores["pneumonia"].mean != score.mean
    assert made.cases_sha256 == cases_sha256(cases)


@pytest.mark.requirement("SRS-MON-001")
@pytest.mark.parametrize("name", RELEASED)
def test_a_released_package_carries_the_reference_of_its_own_tune_part(name):
    """Threshold and reference are of the same images: the hash of the part, and the flags counted at the release."""
    package = load_package(BUILTIN / name)
    reference = reference_of(package)
    manifest = package.manifest
    assert reference is not None
    assert reference.cases_sha256 == manifest.training["cohort"]["parts"]["tune"]["sha256"]
    finding = manifest.findings[0]
    confusion = manifest.figures["tune"]["confusion"]
    of_labelled = confusion["true_positive"] + confusion["false_positive"]
    score = reference.scores[finding]
    unlabelled = reference.images - manifest.figures["tune"]["images"]
    assert of_labelled <= score.flagged <= of_labelled + unlabelled
    assert set(reference.measures) == set(MEASURES)
    assert score.histogram.total + sum(reference.excluded.values()) == reference.images
    assert name in told(package.path, reference)


@pytest.mark.requirement("SRS-MON-001")
def test_another_tune_part_is_refused(drawn_cohort, tmp_path, monkeypatch):
    """A reference of other patients than the threshold's would make every comparison wrong, silently."""
    package = load_package(BUILTIN / "pneumonia-paediatric")
    with pytest.raises(NoReference, match="that its operating point was set on"):
        add_reference(package, drawn_cohort)


@pytest.mark.requirement("SRS-MON-002")
def test_a_package_of_old_has_none_and_one_that_is_damaged_says_so(tmp_path):
    """It goes on working; a reference that was altered is no reference."""
    package = load_package(BUILTIN / "pneumonia-adult")
    files = {name: digest for name, digest in package.manifest.files.items() if name != REFERENCE}
    old = replace(package, manifest=replace(package.manifest, files=files))
    assert reference_of(old) is None
    damaged = tmp_path / "pneumonia-adult"
    damaged.mkdir()
    value = json.loads((package.path / REFERENCE).read_text())
    value["scores"] = {"edema": value["scores"]["pneumonia"]}
    (damaged / REFERENCE).write_text(json.dumps(value))
    with pytest.raises(PackageError, match="expected scores of pneumonia, found edema"):
        reference_of(replace(package, path=damaged))
    (damaged / REFERENCE).write_text("{}")
    with pytest.raises(PackageError, match="expected the key 'schema'"):
        reference_of(replace(package, path=damaged))
