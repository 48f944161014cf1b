"""An experiment as one TOML file: what to learn from, how, and what the released package will say of itself."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cxr_node.imaging import PreprocessSpec
from trainer.augment import Augment

CONFIGS = Path(__file__).resolve().parent / "configs"

_CHOICES: dict[str, tuple[str, ...]] = {
    "keep": ("best", "last"),
    "sampling": ("natural", "balanced"),
    "precision": ("float32", "mixed_float16", "mixed_bfloat16"),
    "distribute": ("none", "mirrored", "multi-worker"),
}
_RULES = ("target-sensitivity", "youden", "f1")


class ConfigError(Exception):
    """The configuration holds an unknown key or a bad value; names the file, the key and what was expected."""


@dataclass(frozen=True)
class Training:
    """How to train.

    `balance` names what a case's weight is evened out over: each label within each group alike. `sampling` "balanced"
    draws the cases of an epoch by that weight, "natural" shows each case once and weighs its loss. `probe` is the
    ridge of a logistic regression on the start weights' features that the last layer starts from, for cohorts too
    small to move a whole network far; 0 starts it at random. `freeze` names the block up to which nothing is trained.
    `freeze_normalisation` keeps the start weights' statistics. `keep` says which epoch is released: "best" has the
    highest AUC on the tune part; "last" where that would choose by a clue that the tune part shares with the train
    part. `patience` stops after so many epochs without a better tune AUC; 0 never. `fold` "2/4" leaves the patients of
    the second of four folds out of training, for a teacher of others; `teachers` are finished runs whose mean score on
    cases that they were not shown is taught in the share `teach`, the label in the rest.
    """

    epochs: int
    batch: int = 32
    learning_rate: float = 3e-4
    warmup: float = 0.1  # of all steps
    weight_decay: float = 1e-4
    label_smoothing: float = 0.1
    mixup: float = 0.2  # Beta(mixup, mixup); 0 is off
    dropout: float = 0.3
    average: float = 0.99  # of the weights, for each step; what is released is the average
    balance: tuple[str, ...] = ()
    sampling: str = "natural"
    probe: float = 0.0
    freeze: str = ""
    freeze_normalisation: bool = False
    keep: str = "best"
    patience: int = 0
    seed: int = 1
    weights: str = "imagenet"
    precision: str = "float32"
    distribute: str = "none"
    fold: str = ""
    teachers: tuple[str, ...] = ()
    teach: float = 0.5


@dataclass(frozen=True)
class OperatingPointRule:
    """How the threshold is locked on the tune part; `sensitivity` is what the first rule must reach there."""

    rule: str = "target-sensitivity"
    sensitivity: float = 0.95


@dataclass(frozen=True)
class Config:
    """A whole experiment. `package` is what the manifest says in words and cannot be measured; empty: no release.

    `sources` are the folders of the cohort that are used, all where empty. `findings[0]` is the one that a report is
    about; a cohort's case may lack a label, and then teaches nothing about that finding.
    """

    path: Path
    name: str
    cohort: str
    findings: tuple[str, ...]
    architecture: str
    spec: PreprocessSpec
    training: Training
    augment: Augment
    operating_point: OperatingPointRule = field(default_factory=OperatingPointRule)
    sources: tuple[str, ...] = ()
    package: dict[str, Any] = field(default_factory=dict)

    @property
    def finding(self) -> str:
        return self.findings[0]


def load_config(choice: str) -> Config:
    """Read a file, or one of the trainer's own by its name without ``.toml``.

    Raises
    ------
    ConfigError
        The file is not there, or a key is unknown, missing, of another type or not among its choices.
    """
    path = Path(choice)
    if not path.is_file() and (CONFIGS / f"{choice}.toml").is_file():
        path = CONFIGS / f"{choice}.toml"
    try:
        value = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        own = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.toml")))
        raise ConfigError(f"{choice}: expected a file or one of {own}, found neither") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    _known(path, "", value, ("cohort", "sources", "model", "training", "augment", "operating_point", "package"))
    try:
        model = value["model"]
        _known(path, "model.", model, ("architecture", "finding", "findings", "size", "intermediate"))
        findings = model.get("findings", [model["finding"]] if "finding" in model else None)
        if not isinstance(findings, list) or not findings:
            raise ConfigError(f"{path}: model.findings: expected a list of findings, found {findings!r}")
        training = _filled(path, "training.", Training, value["training"])
        for key, choices in _CHOICES.items():
            _chosen(path, f"training.{key}", getattr(training, key), choices)
        package = value.get("package", {})
        config = Config(
            path=path,
            name=str(package.get("name", path.stem)),
            cohort=str(value["cohort"]),
            findings=tuple(str(finding) for finding in findings),
            architecture=str(model["architecture"]),
            spec=PreprocessSpec.from_json(model),
            training=training,
            augment=_filled(path, "augment.", Augment, value.get("augment", {})),
            operating_point=_filled(path, "operating_point.", OperatingPointRule, value.get("operating_point", {})),
            sources=tuple(value.get("sources", ())),
            package=package,
        )
    except KeyError as error:
        raise ConfigError(f"{path}: expected the key {error}, found none") from error
    _chosen(path, "operating_point.rule", config.operating_point.rule, _RULES)
    fold_of(config)
    return config


def config_of_run(record: Mapping[str, Any], path: Path) -> Config:
    """Return the configuration that a run's record holds; `path` is the record's file, for messages.

    A setting that did not exist when the run was made has its default.
    """
    try:
        used = record["config"]
        return Config(
            path=path,
            name=path.parent.name,
            cohort=str(record["cohort"]["name"]),
            findings=tuple(used["findings"]),
            architecture=str(used["architecture"]),
            spec=PreprocessSpec.from_json(used["preprocess"]),
            training=_filled(path, "training.", Training, used["training"]),
            augment=_filled(path, "augment.", Augment, used["augment"]),
            operating_point=_filled(path, "operating_point.", OperatingPointRule, used.get("operating_point", {})),
            sources=tuple(used["sources"]),
        )
    except KeyError as error:
        raise ConfigError(f"{path}: expected the key {error}, found none") from error


def fold_of(config: Config) -> tuple[int, int] | None:
    """Return (index from 0, count) of the fold that is left out, None where none is.

    Raises
    ------
    ConfigError
        `training.fold` is not like ``2/4``.
    """
    text = config.training.fold
    if not text:
        return None
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second) and int(second) >= 2):
        raise ConfigError(f"{config.path}: training.fold: expected one like '2/4', found {text!r}")
    return int(first) - 1, int(second)


def _chosen(path: Path, key: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{path}: {key}: expected one of {', '.join(choices)}, found {value!r}")


def _known(path: Path, prefix: str, table: dict[str, Any], known: tuple[str, ...]) -> None:
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ConfigError(f"{path}: unknown key {prefix}{unknown[0]}; expected one of {', '.join(sorted(known))}")


def _filled(path: Path, prefix: str, kind: type[Any], table: dict[str, Any]) -> Any:
    declared = {item.name: item.type for item in fields(kind)}
    _known(path, prefix, table, tuple(declared))
    filled = {}
    for key, found in table.items():
        expected = declared[key]
        number = expected is float and isinstance(found, int | float) and not isinstance(found, bool)
        plain = isinstance(expected, type) and expected is not float and type(found) is expected
        listed = not isinstance(expected, type) and isinstance(found, list)
        if not (number or plain or listed):
            name = expected.__name__ if isinstance(expected, type) else "list"
            raise ConfigError(f"{path}: {prefix}{key}: expected a {name}, found {found!r}")
        filled[key] = tuple(found) if listed else float(found) if number else found
    return kind(**filled)
