"""From a folder of pictures to a package that the node serves, by the commands of the README, on a drawn cohort."""

import csv
import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime

import cv2
import numpy as np
import pytest

from cxr_node.cli.phantom import draw_phantom, phantom_dataset
from tests.conftest import ROOT
from tests.system.conftest import Node
from trainer.cli import main

DRAWINGS = 22  # half of them with haze

CONFIG = """
cohort = "folder"
[model]
architecture = "cnn"
finding = "pneumonia"
size = [64, 64]
[training]
epochs = 8
batch = 16
learning_rate = 2e-3
mixup = 0.0
dropout = 0.1
average = 0.8
label_smoothing = 0.0
keep = "last"
weights = "none"
[augment]
flip = true
[operating_point]
rule = "youden"
[package]
name = "phantoms"
title = "Haze in drawn chests"
limitations = ["It was never shown a radiograph."]
[package.intended_use]
age_years = [18, 120]
views = ["PA", "AP"]
modalities = ["DX"]
body_parts = ["CHEST"]
"""


@pytest.fixture
def train_command(capsys, monkeypatch):
    """Return a function that runs a command of `cxr-train` as the program does and returns what it said.

    In this process: of eight programs one after the other each would load TensorFlow anew, which takes longer than what
    it does with it. `as_program` starts one all the same.
    """
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")  # as the program sets it; here it must not stay

    def run(*arguments, as_program=False):
        given = [str(argument) for argument in arguments]
        if as_program:
            done = subprocess.run(
                [sys.executable, "-m", "trainer.cli", *given], capture_output=True, text=True, cwd=ROOT, timeout=150
            )
            status, said, complaint = done.returncode, done.stdout, done.stderr
        else:
            capsys.readouterr()
            status = main(given)
            said, complaint = capsys.readouterr()
        assert status == 0, f"cxr-train {given[0]}: {said[-2000:]}{complaint[-3000:]}"
        return said

    return run


def write_cohort(data, count=110):
    """Draw phantoms with and without haze, exposed at random so that a mean gray value does not tell.

    Each of a few drawings serves several cases, moved and with noise of its own: drawing one takes longer than training
    on it.
    """
    rng = np.random.default_rng(11)
    drawings = [
        cv2.resize(
            (draw_phantom(rng, opacity=float(number % 2)) / 4095.0).astype(np.float32),
            (128, 128),
            interpolation=cv2.INTER_AREA,
        )
        for number in range(DRAWINGS)
    ]
    data.mkdir()
    with (data / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "patient", "age", "sex", "view", "pneumonia"])
        for number in range(count):
            present = number % 2
            moved = np.roll(drawings[number % DRAWINGS], rng.integers(-12, 13, 2), (0, 1))
            image = moved ** rng.uniform(0.6, 1.6) + rng.normal(0, 0.02, moved.shape)
            cv2.imwrite(str(data / f"p{number}.png"), (np.clip(image, 0, 1) * 255).astype(np.uint8))
            writer.writerow(
                [f"p{number}.png", f"patient{number}", 30 + number % 50, "FM"[number % 3 == 0], "PA", present]
            )


@pytest.mark.requirement("SRS-TRN-013")
@pytest.mark.timeout(400)
def test_pictures_become_a_package_that_the_node_serves(tmp_path, train_command):
    """Every step is one command, each leaves files for people and programs, and the last thing is a flagged study."""
    data, out = tmp_path / "data", tmp_path / "out"
    write_cohort(data)
    config = tmp_path / "phantoms.toml"
    config.write_text(CONFIG)
    common = ("--data", data)
    train_command("eda", "folder", *common, "--out", out / "eda")
    assert json.loads((out / "eda" / "eda.json").read_text())
    split = out / "split.csv"
    said = train_command(
        "split",
        "folder",
        *common,
        "--finding",
        "pneumonia",
        "--anew",
        "--fractions",
        "0.6",
        "0.2",
        "0.2",
        "--out",
        split,
        as_program=True,
    )
    assert "train 6" in said
    run = out / "runs" / "phantoms"
    train_command("train", config, *common, "--split", split, "--out", run)
    train_command("evaluate", run, *common, "--split", split, "--part", "test", "--out", out / "evaluation")
    evaluation = json.loads((out / "evaluation" / "evaluation.json").read_text())
    assert evaluation["sets"]["test"]["auc"]["value"] > 0.9
    train_command("compare", run, *common, "--split", split, "--part", "test", "--out", out / "comparison")
    train_command("report", out / "eda", out / "evaluation", out / "comparison", "--out", out / "report")
    for name in ("report.html", "report.pdf", "slides.pdf"):
        assert (out / "report" / name).stat().st_size > 10_000
    node = Node(tmp_path / "node", profile="research", extra='[analyze]\nmodels = ["phantoms"]\n')
    packages = tmp_path / "node" / "data" / "packages"
    train_command(
        "export", config, run, *common, "--split", split, "--to", packages, "--version", "1.2.3",
        "--despite-gate", "drawn pictures",
    )  # fmt: skip
    node.start()
    try:
        rng = np.random.default_rng(3)
        drawn = {}
        for opacity in (0.0, 1.0):
            drawn[opacity] = phantom_dataset(
                datetime.now(UTC), rng, opacity=opacity, accession_number=f"T{opacity:.0f}"
            )
            drawn[opacity].save_as(tmp_path / f"{opacity:.0f}.dcm", enforce_file_format=True)
        subprocess.run(
            [sys.executable, "-m", "cxr_node", "send", "--to", f"CXR_NODE@127.0.0.1:{node.port}"]
            + [str(tmp_path / name) for name in ("0.dcm", "1.dcm")],
            check=True,
            cwd=ROOT,
            timeout=60,
        )
        sent = {opacity: node.wait_for(dataset.StudyInstanceUID) for opacity, dataset in drawn.items()}
    finally:
        node.stop()
    assert [study["status"] for study in sent.values()] == ["analysed", "analysed"], sent
    assert sent[1.0]["flagged"], sent
    assert "phantoms" in json.dumps(sent[1.0])
    assert not sent[0.0]["flagged"], sent
    shutil.rmtree(packages)
