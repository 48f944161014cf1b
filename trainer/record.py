"""What a run was made from: data, code, start weights and machine, each with a hash."""

import contextlib
import csv
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from trainer.cohorts import PARTS, Case, Cohort, Part
from trainer.config import Config

CHECKPOINT = "checkpoint.npz"
AVERAGE = "average.npz"
RUN = "run.json"
LOG = "log.csv"


def run_record(
    config: Config, cohort: Cohort, weights_source: str, weights_sha256: str, problems: Sequence[str]
) -> dict[str, Any]:
    """Return what a reader needs to know, and to train the same again: configuration, data, start, code, machine."""
    return {
        "config": {
            "file": config.path.name,
            "sha256": hashlib.sha256(config.path.read_bytes()).hexdigest(),
            "findings": list(config.findings),
            "sources": list(config.sources),
            "training": asdict(config.training),
            "augment": asdict(config.augment),
            "preprocess": config.spec.to_json(),
            "architecture": config.architecture,
            "operating_point": asdict(config.operating_point),
        },
        "cohort": cohort_record(cohort, config.finding, problems),
        "start_weights": {"source": weights_source, "sha256": weights_sha256},
        "code": code_state(),
        "environment": environment(),
    }


def cohort_record(
    cohort: Cohort, finding: str, problems: Sequence[str] = (), hashed: Collection[Part] = PARTS
) -> dict[str, Any]:
    """Return the cohort's name, split and counts, with a SHA-256 over the cases of the parts that were used.

    Hashing reads every picture: a part that was not looked at has none.
    """
    parts = {}
    for part in PARTS:
        cases = cohort.part(part)
        parts[part] = {
            "images": len(cases),
            "patients": len({case.patient for case in cases}),
            "present": sum(case.labels.get(finding) == 1 for case in cases),
            "absent": sum(case.labels.get(finding) == 0 for case in cases),
            **({"sha256": cases_sha256(cases)} if part in hashed else {}),
        }
    return {
        "name": cohort.name,
        "title": cohort.title,
        "split_rule": cohort.split_rule,
        "parts": parts,
        "problems": [*cohort.problems, *problems],
    }


def environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "backend": os.environ.get("KERAS_BACKEND", "tensorflow"),
        **_versions("numpy", "keras", "tensorflow", "jax", "opencv-python-headless"),
    }


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def cases_sha256(cases: Sequence[Case]) -> str:
    """Return one SHA-256 over identifiers, labels and bytes of all cases, in the order of their identifiers.

    A picture that cannot be read counts with its identifier only.
    """
    digest = hashlib.sha256()
    for case in sorted(cases, key=lambda case: case.identifier):
        digest.update(f"{case.identifier} {sorted(case.labels.items())} ".encode())
        with contextlib.suppress(OSError):
            digest.update(hashlib.sha256(case.content()).digest())
    return digest.hexdigest()


def code_state() -> dict[str, str]:
    """Return the commit, where there is one, and a SHA-256 over the sources that training and preprocessing run."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for folder in ("trainer", "cxr_node/imaging"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
        revision = commit.stdout.strip() if commit.returncode == 0 else ""
    except OSError:
        revision = ""
    return {"commit": revision, "sources_sha256": digest.hexdigest()}


def numbered(arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{index:04d}": value for index, value in enumerate(arrays)}


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    temporary = path.with_suffix(".new.npz")
    np.savez(temporary, allow_pickle=False, **arrays)
    temporary.replace(path)  # a stop in the middle leaves the last epoch's file


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_log(run: Path) -> list[dict[str, str]]:
    """Return the rows of a run's log, one for each epoch."""
    if not (run / LOG).is_file():
        return []
    with (run / LOG).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def append_log(run: Path, row: dict[str, Any]) -> None:
    path = run / LOG
    new = not path.is_file()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, row.keys())
        if new:
            writer.writeheader()
        writer.writerow(row)
