"""Tries the change control plan on real images: `python -m regulatory.pccp_trial --data DIR`.

Candidates are made from the released paediatric package, and each is verified against it on the official Kermany test
part, as `cxr-train pccp verify` would. Nothing is released by it; the record is regulatory/evidence/pccp-trial.json.
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cxr_node.inference import Manifest, ModelPackage, load_package
from cxr_node.inference.package import BUILTIN
from trainer.cohorts import COHORTS, Cohort
from trainer.config import OperatingPointRule
from trainer.evaluate import evaluation_sets, measure
from trainer.pccp import lines, load_plan, to_json, verify
from trainer.predictor import lock, package_predictor

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = ROOT / "regulatory" / "evidence" / "pccp-trial.json"
COMMAND = "python -m regulatory.pccp_trial --data DIR"
PACKAGE = "pneumonia-paediatric"
NEXT = "0.2.1"
NOISE = 0.1  # of a weight array's own deviation
SEED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the candidates, verify each, and keep the record."""
    parser = argparse.ArgumentParser(prog="python -m regulatory.pccp_trial", description=__doc__)
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="folder that holds kermany")
    options = parser.parse_args(arguments)
    cohort = COHORTS["kermany"](options.data)
    current, previous = halves(cohort)
    plan, old = load_plan(), load_package(BUILTIN / PACKAGE)
    trials = []
    with tempfile.TemporaryDirectory(prefix="cxr-node-pccp-") as folder:
        to = Path(folder)
        for name, says, package, cases, earlier in (
            (
                "threshold",
                "The same weights; the threshold derived anew on the tune part for a sensitivity of 0.97 there.",
                relocked(old, cohort, 0.97, to / "threshold"),
                cohort,
                None,
            ),
            (
                "threshold-other-way",
                "The same weights; the threshold derived anew on the tune part for a sensitivity of 0.94 there.",
                relocked(old, cohort, 0.94, to / "other-way"),
                cohort,
                None,
            ),
            (
                "changed-weights",
                "Every weight array with noise, calibration and threshold locked anew on the tune part by the "
                "package's own rule: a stand-in for a training that went badly.",
                relocked(noisy(old, to / "noisy"), cohort, 0.95, to / "changed"),
                current,
                previous,
            ),
            (
                "stale-threshold",
                "The same changed weights with the threshold of the released version.",
                noisy(old, to / "stale"),
                cohort,
                None,
            ),
            (
                "another-purpose",
                "The adult package offered as the next version of the paediatric one.",
                load_package(BUILTIN / "pneumonia-adult"),
                cohort,
                None,
            ),
        ):
            found = verify(plan, old, package, cases, earlier)
            told = lines(found)
            sys.stdout.write(f"== {name}: {says}\n" + "\n".join(told) + "\n")
            trials.append({"name": name, "says": says, **to_json(found, plan, old, package)})
    record: dict[str, Any] = {
        "command": COMMAND,
        "says": "The plan tried on real images. Candidates were made for this trial only; none was released.",
        "cohort": cohort.title,
        "trials": trials,
    }
    EVIDENCE.parent.mkdir(exist_ok=True)
    EVIDENCE.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    sys.stdout.write(f"kept in {EVIDENCE.relative_to(ROOT)}\n")
    return 0


def halves(cohort: Cohort) -> tuple[Cohort, Cohort]:
    """Return the cohort twice, each with one half of its test patients, drawn by a hash of the patient."""

    def half(bit: int) -> Cohort:
        def kept(patient: str) -> bool:
            return hashlib.sha256(f"pccp {patient}".encode()).digest()[0] % 2 == bit

        return replace(
            cohort, cases=tuple(case for case in cohort.cases if case.part != "test" or kept(case.patient)), absent=()
        )

    return half(0), half(1)


def relocked(package: ModelPackage, cohort: Cohort, sensitivity: float, to: Path) -> ModelPackage:
    """Write the package as the next version, calibration and threshold locked anew on its cohort's tune part."""
    folder = _copied(package, to)
    draft = load_package(folder)
    model = package_predictor(draft)
    finding = model.findings[0]
    tune, test = (model.score(cohort.part(part)) for part in ("tune", "test"))  # type: ignore[arg-type]
    locked = lock(tune, OperatingPointRule("target-sensitivity", sensitivity), cohort.name)[finding]
    training = json.loads(json.dumps(dict(draft.manifest.training)))
    training["config"]["operating_point"] = {"rule": "target-sensitivity", "sensitivity": sensitivity}
    figures = {
        "measured": draft.manifest.figures["measured"],
        "tune": measure(evaluation_sets(cohort, tune, finding, "tune")[0], finding, locked, curves=False),
        "test": {
            item.name: measure(item, finding, locked, curves=False) for item in evaluation_sets(cohort, test, finding)
        },
    }
    manifest = replace(
        draft.manifest,
        version=NEXT,
        operating_points={finding: locked.point},
        calibration={finding: {"slope": locked.slope, "intercept": locked.intercept}},
        training=training,
        figures=figures,
    )
    return _written(manifest, folder)


def noisy(package: ModelPackage, to: Path) -> ModelPackage:
    """Write the package as the next version with noise on its weights, golden scores made anew, all else kept."""
    folder = _copied(package, to)
    rng = np.random.default_rng(SEED)
    with np.load(folder / "weights.npz", allow_pickle=False) as stored:
        weights = {name: stored[name].astype(np.float64) for name in sorted(stored.files)}
    changed = {
        name: (value + NOISE * value.std() * rng.standard_normal(value.shape)).astype(np.float16)
        for name, value in weights.items()
    }
    # A variance below 0 is none.
    changed = {name: np.abs(value) if (weights[name] >= 0).all() else value for name, value in changed.items()}
    np.savez_compressed(folder / "weights.npz", allow_pickle=False, **changed)
    draft = _written(replace(package.manifest, version=NEXT), folder)
    with np.load(folder / "golden.npz", allow_pickle=False) as golden:
        inputs = golden["inputs"]
    np.savez_compressed(
        folder / "golden.npz", inputs=inputs, scores=package_predictor(draft).forward(inputs.astype(np.float32))
    )
    return _written(draft.manifest, folder)


def _copied(package: ModelPackage, to: Path) -> Path:
    return Path(shutil.copytree(package.path, to / package.manifest.name))


def _written(manifest: Manifest, folder: Path) -> ModelPackage:
    files = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.iterdir())
        if file.name != "manifest.json"
    }
    text = json.dumps(replace(manifest, files=files).to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "manifest.json").write_text(text + "\n", "utf-8")
    return load_package(folder)


if __name__ == "__main__":
    sys.exit(main())
