"""Both packages run over labelled cases, on real parts: a drawn cohort, a trained package, a site's folder."""

import csv
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cxr_node.inference import ModelPackage, load_package
from tests.trainer.pccp_builders import PLAN_OF_TESTS
from trainer.cli import main
from trainer.pccp import Verdict, load_plan, to_json, verify


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(PLAN_OF_TESTS, "utf-8")
    return load_plan(path)


@pytest.fixture(scope="module")
def package(drawn_data, config_file, tmp_path_factory) -> ModelPackage:
    folder = tmp_path_factory.mktemp("pccp")
    data = ["--data", str(drawn_data)]
    assert main(["train", str(config_file), *data, "--out", str(folder / "run"), "--weights", "none"]) == 0
    arguments = ["export", str(config_file), str(folder / "run"), *data, "--to", str(folder), "--version", "2.0.1"]
    assert main([*arguments, "--despite-gate", "drawn pictures"]) == 0
    return load_package(folder / "drawn")


@pytest.fixture
def cases(package, drawn_data, tmp_path):
    """The drawn test part as a site's own folder: a table and pictures."""
    folder = tmp_path / "cases"
    folder.mkdir()
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "patient", "pneumonia", "sex"])
        for picture in sorted((drawn_data / "kermany" / "test").rglob("*.png")):
            shutil.copy(picture, folder / picture.name)
            writer.writerow([picture.name, picture.stem, int(picture.parent.name == "PNEUMONIA"), "F"])
    return folder


def changed(package: ModelPackage, to: Path, **changes: object) -> ModelPackage:
    """Write the package as version 2.0.2 with changes to its manifest."""
    folder = Path(shutil.copytree(package.path, to / "drawn"))
    manifest = replace(package.manifest, **{"version": "2.0.2", **changes})  # type: ignore[arg-type]
    files = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.iterdir()
        if file.name != "manifest.json"
    }
    (folder / "manifest.json").write_text(json.dumps(replace(manifest, files=files).to_json()), "utf-8")
    return load_package(folder)


def ask(tmp_path: Path, old: ModelPackage, new: ModelPackage, cases: Path, *more: str) -> int:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN_OF_TESTS, "utf-8")
    return main(["pccp", "verify", str(old.path), str(new.path), "--cases", str(cases), "--plan", str(plan), *more])


@pytest.mark.requirement("SRS-PCP-007")
def test_new_words_for_the_same_model_are_inside_the_plan_and_on_record(package, cases, tmp_path, capsys):
    """Both are run all the same; the record names both digests, the cases by hash, and every limit."""
    new = changed(package, tmp_path / "new", title="Other words")
    record = tmp_path / "out" / "pccp.json"
    assert ask(tmp_path, package, new, cases, "--out", str(record)) == 0
    told = capsys.readouterr().out
    assert "verdict: inside the plan" in told
    assert "not measured: any group by view" in told
    found = json.loads(record.read_text("utf-8"))
    assert (found["old"]["digest"], found["new"]["digest"]) == (package.digest, new.digest)
    assert found["verdict"] == "inside the plan"
    assert found["change"] == "words"
    assert (found["images"], found["present"]) == (24, 12)
    assert len(found["cases_sha256"]) == 64
    assert {item["name"] for item in found["limits"]} == {"auc", "sensitivity", "specificity"}
    (cases / "cases.csv").write_text((cases / "cases.csv").read_text().replace(",0,F", ",1,F", 1))
    assert ask(tmp_path, package, new, cases, "--out", str(record)) == 0
    assert json.loads(record.read_text("utf-8"))["cases_sha256"] != found["cases_sha256"]


@pytest.mark.requirement("SRS-PCP-004")
def test_too_few_cases_decide_nothing(package, cases, tmp_path, capsys):
    """Four images of a site are no evidence; the status is one of its own."""
    rows = (cases / "cases.csv").read_text().splitlines()
    (cases / "cases.csv").write_text("\n".join([rows[0], *rows[1:3], *rows[-3:]]) + "\n")
    new = changed(package, tmp_path / "new", title="Other words")
    assert ask(tmp_path, package, new, cases) == 3
    told = capsys.readouterr().out
    assert "verdict: not enough cases" in told
    assert "5 needed" in told


@pytest.mark.requirement("SRS-PCP-002")
def test_the_threshold_is_derived_again_where_the_tune_part_is_at_hand(
    package, drawn_data, drawn_cohort, tmp_path, plan
):
    """Figures in a manifest can be made to agree; the scores of the tune part cannot."""
    finding = "pneumonia"
    same = verify(plan, package, changed(package, tmp_path / "same", title="Other words"), drawn_cohort)
    assert "derived again from the tune part" in same.threshold
    assert same.verdict is Verdict.INSIDE
    moved = replace(package.manifest.operating_points[finding], threshold=0.97)
    found = verify(plan, package, changed(package, tmp_path / "new", operating_points={finding: moved}), drawn_cohort)
    assert found.verdict is Verdict.REFUSED
    assert "0.970000 stated" in found.threshold
    assert not found.limits


@pytest.mark.requirement("SRS-PCP-006")
def test_another_package_an_older_version_or_another_base_needs_a_new_submission(package, drawn_cohort, tmp_path, plan):
    """Compared with the update before it, small losses would add up unseen."""
    old = changed(package, tmp_path / "old", version="1.9.0")
    for first, second, told in (
        (old, changed(package, tmp_path / "a"), "expected 2.0.1"),
        (package, changed(package, tmp_path / "b", version="2.0.0"), "expected one above 2.0.1"),
    ):
        found = verify(plan, first, second, drawn_cohort)
        assert found.verdict is Verdict.NEW_SUBMISSION
        assert told in " ".join(found.reasons)
        assert not found.limits
    unknown = replace(plan, packages={"other": next(iter(plan.packages.values()))})
    found = verify(unknown, package, package, drawn_cohort)
    assert "drawn is not under the plan" in " ".join(found.reasons)
    assert to_json(found, plan, package, package)["verdict"] == "new submission needed"


def retrained(package: ModelPackage, to: Path, factor: float) -> ModelPackage:
    """Write version 2.0.2 with its last layer's weights times a factor, golden scores anew, and a line of its own.

    Its tune part is one that nobody has at hand, so that only the figures on the cases decide.
    """
    from trainer.predictor import package_predictor

    base = Path(shutil.copytree(package.path, to / "base" / "drawn"))
    with np.load(base / "weights.npz", allow_pickle=False) as stored:
        weights = {name: stored[name] for name in sorted(stored.files)}
    last = max(name for name in weights if weights[name].ndim == 2)
    weights[last] = (weights[last] * factor).astype(np.float16)
    np.savez_compressed(base / "weights.npz", allow_pickle=False, **weights)
    draft = changed(replace(package, path=base), to / "draft")
    with np.load(draft.path / "golden.npz", allow_pickle=False) as golden:
        inputs = golden["inputs"]
    scores = package_predictor(draft).forward(inputs.astype(np.float32))
    np.savez_compressed(draft.path / "golden.npz", inputs=inputs, scores=scores)
    training = json.loads(json.dumps(dict(package.manifest.training)))
    training["cohort"]["parts"]["tune"]["sha256"] = "0" * 64
    calibration = {"pneumonia": {"slope": 1.0, "intercept": 0.01}}
    return changed(replace(package, path=draft.path), to / "new", training=training, calibration=calibration)


@pytest.mark.requirement("SRS-PCP-004")
def test_new_weights_need_previous_cases_and_a_lost_model_is_a_new_submission(package, drawn_cohort, tmp_path, plan):
    """What the submitted version knew must be shown to be kept; scores turned round keep nothing."""
    tight = replace(plan, limits=replace(plan.limits, auc=0.05, retention_auc=0.05))
    near = retrained(package, tmp_path / "near", 1.001)
    found = verify(tight, package, near, drawn_cohort)
    assert found.change is not None
    assert found.change.id == "retrain"
    assert found.verdict is Verdict.NOT_ENOUGH
    assert any("no previous cases" in reason for reason in found.reasons)
    with_previous = verify(tight, package, near, drawn_cohort, drawn_cohort)
    assert "auc on the previous cases" in {item.name for item in with_previous.limits}
    assert not any("no previous cases" in reason for reason in with_previous.reasons)
    lost = verify(tight, package, retrained(package, tmp_path / "lost", -0.2), drawn_cohort)
    assert lost.verdict is Verdict.NEW_SUBMISSION
    assert any("missed" in reason for reason in lost.reasons)
