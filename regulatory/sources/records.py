"""What the trainer committed of each released package: manifest, run, log, evaluation; read once, and held together.

An evaluation counts only while it is of the package that lies beside it: same name, version, threshold, calibration
and figures. Otherwise every figure of it reads "not measured" with that reason, and no page can show old results for a
new threshold.
"""

import csv
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cxr_node.settings import Settings
from regulatory.results import ResultsError, read_evaluation
from trainer.config import Config, ConfigError, config_of_run, load_config
from trainer.report.words import mapping

PACKAGES = "cxr_node/packages"
RUNS = "trainer/runs"
CONFIGS = "trainer/configs"
NOT_RUN = "not run"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Released:
    """A package and the records of how it was made and measured; `why_not` says why there is no evaluation, "" if so.

    `manifest`, `run`, `shadow` and `evaluation` are as their JSON holds them, empty where the file is not there.
    """

    root: Path
    name: str
    manifest: Mapping[str, Any]
    run: Mapping[str, Any] = field(repr=False)
    log: tuple[Mapping[str, Any], ...] = field(repr=False)
    shadow: Mapping[str, Any] = field(repr=False)
    evaluation: Mapping[str, Any] = field(repr=False)
    why_not: str = ""
    digest: str = ""

    @property
    def manifest_path(self) -> str:
        return f"{PACKAGES}/{self.name}/manifest.json"

    @property
    def run_path(self) -> str:
        return f"{RUNS}/{self.name}/run.json"

    @property
    def log_path(self) -> str:
        return f"{RUNS}/{self.name}/log.csv"

    @property
    def evaluation_path(self) -> str:
        return f"{RUNS}/{self.name}/evaluation.json"

    @property
    def config_path(self) -> str:
        return f"{CONFIGS}/{self.name}.toml"

    @property
    def train_command(self) -> str:
        return f"cxr-train train {self.name} --data DIR --out {RUNS}/{self.name}"

    @property
    def export_command(self) -> str:
        """The command that wrote the manifest; a reason to release all the same is part of it."""
        despite = next((" --despite-gate REASON" for row in self.criteria if row.get("released_despite")), "")
        return (
            f"cxr-train export {self.name} {RUNS}/{self.name} --data DIR --to {PACKAGES} "
            f"--version {self.manifest['version']}{despite}"
        )

    @property
    def evaluate_command(self) -> str:
        other = next(iter(mapping(self.evaluation.get("cross_population"))), "")
        return (
            f"cxr-train evaluate {PACKAGES}/{self.name} --data DIR --part test"
            f"{f' --other {other}' if other else ''} --out {RUNS}/{self.name}"
        )

    @property
    def figures(self) -> Mapping[str, Any]:
        return mapping(self.manifest.get("figures"))

    @property
    def criteria(self) -> tuple[Mapping[str, Any], ...]:
        """What was to be reached and what came of it, the gate first; as the manifest holds it."""
        return tuple(self.figures.get("criteria", ()))

    @property
    def finding(self) -> str:
        return str(self.manifest["findings"][0])

    @property
    def point(self) -> Mapping[str, Any]:
        """The operating point of the first finding, which the pages are about."""
        return mapping(self.manifest["operating_points"][self.finding])

    @property
    def main_set(self) -> str:
        return str(mapping(self.figures.get("baselines")).get("set", ""))

    @property
    def sets(self) -> Mapping[str, Mapping[str, Any]]:
        """Every set of the package's own cohort by name; without an evaluation each is empty and reads so."""
        if self.evaluation:
            return mapping(self.evaluation["sets"])
        return {name: {} for name in ("tune", *mapping(self.figures.get("test")))}

    @property
    def cross(self) -> Mapping[str, Mapping[str, Any]]:
        return mapping(self.evaluation.get("cross_population"))

    @property
    def absent(self) -> str:
        """What is printed for a figure that is not there."""
        return NOT_RUN if self.why_not.startswith(NOT_RUN) else NOT_MEASURED

    @property
    def same_bytes(self) -> bool:
        """Whether the evaluation names the manifest as it is today, byte for byte."""
        return bool(self.evaluation) and self.evaluation["model"]["sha256"] == self.digest

    @cached_property
    def config_sha256(self) -> str:
        """SHA-256 of the configuration file today, "" where there is none."""
        path = self.root / self.config_path
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""

    @cached_property
    def config_differences(self) -> tuple[str, ...]:
        """What a reader would train otherwise today than the run was trained, by name; NOT_RUN where none can say."""
        try:
            now = load_config(str(self.root / self.config_path))
            then = config_of_run(self.run, self.root / self.run_path)
        except (ConfigError, OSError):
            return (NOT_RUN,)
        return tuple(name for name in _TRAINED_WITH if getattr(now, name) != getattr(then, name))


_TRAINED_WITH = ("findings", "architecture", "spec", "training", "augment", "operating_point", "sources")


def released(root: Path) -> tuple[Released, ...]:
    """Return every released package, those that a node runs by default first."""
    names = [path.parent.name for path in (root / PACKAGES).glob("*/manifest.json")]
    return tuple(_read(root, name) for name in sorted(names, key=lambda name: (name not in by_default(), name)))


def by_default() -> tuple[str, ...]:
    """Return the packages that a node runs when its configuration does not say otherwise."""
    # The default itself: a model made by calling would read this machine's environment.
    return tuple(Settings.model_fields["analyze"].annotation.model_fields["models"].default)  # type: ignore[union-attr]


def config_of(package: Released) -> Config:
    """Return the committed experiment of a package.

    Raises
    ------
    ConfigError
        There is no such file, or it cannot be read.
    """
    return load_config(str(package.root / package.config_path))


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file, empty where it is not there."""
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def _read(root: Path, name: str) -> Released:
    manifest_file = root / PACKAGES / name / "manifest.json"
    manifest = json.loads(manifest_file.read_text("utf-8"))
    folder = root / RUNS / name
    log: tuple[Mapping[str, Any], ...] = ()
    if (folder / "log.csv").is_file():
        with (folder / "log.csv").open(encoding="utf-8", newline="") as file:
            log = tuple(
                {key: float(value) if value else None for key, value in row.items()} for row in csv.DictReader(file)
            )
    evaluation, why_not = _evaluation(folder / "evaluation.json", manifest)
    return Released(
        root=root,
        name=name,
        manifest=manifest,
        run=read_json(folder / "run.json"),
        log=log,
        shadow=read_json(folder / "shadow.json"),
        evaluation=evaluation,
        why_not=why_not,
        digest=hashlib.sha256(manifest_file.read_bytes()).hexdigest(),
    )


def _evaluation(path: Path, manifest: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Return an evaluation that is of this package, or nothing and the reason."""
    if not path.is_file():
        return {}, f"{NOT_RUN}: there is no evaluation.json"
    evaluation = read_evaluation(path)
    differences = disagreements(manifest, evaluation)
    if differences:
        return {}, f"{NOT_MEASURED}: the committed evaluation is not of this package: {'; '.join(differences)}"
    return evaluation, ""


def disagreements(manifest: Mapping[str, Any], evaluation: Mapping[str, Any]) -> list[str]:
    """Return in what an evaluation is not of a package: name, version, finding, threshold, calibration, figures."""
    finding = manifest["findings"][0]
    point, slope = manifest["operating_points"][finding], manifest["calibration"][finding]
    pairs = [
        ("model", evaluation["model"]["name"], f"{manifest['name']} {manifest['version']}"),
        ("finding", evaluation["finding"], finding),
        ("threshold", evaluation["operating_point"]["threshold"], point["threshold"]),
        ("threshold's rule", evaluation["operating_point"]["rule"], point["name"]),
        ("calibration", evaluation["calibration"], slope),
        ("input size", list(evaluation["model"]["size"]), list(manifest["preprocess"]["size"])),
    ]
    found = [f"{name} is {there!r} there and {here!r} here" for name, there, here in pairs if there != here]
    released_figures = mapping(manifest.get("figures"))
    for name, figures in {"tune": released_figures.get("tune"), **mapping(released_figures.get("test"))}.items():
        measured = mapping(evaluation["sets"].get(name))
        odd = [key for key in ("auc", "sensitivity", "specificity") if mapping(figures).get(key) != measured.get(key)]
        found += [f"{key} on {name} is another than the manifest's" for key in odd]
    return found


__all__ = ["Released", "ResultsError", "by_default", "config_of", "disagreements", "read_json", "released"]
