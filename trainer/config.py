"""An experiment as one TOML file: what to learn from, how, and what the released package will say of itself."""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cxr_node.imaging import PreprocessSpec
from trainer.augment import Augment

CONFIGS = Path(__file__).resolve().parent / "configs"


class ConfigError(Exception):
    """The configuration holds an unknown key or a bad value; names the file, the key and what was expected."""


@dataclass(frozen=True)
class Training:
    """How to train.

    `balance` names what a case's weight is evened out over: each label within each group alike. `probe` is the ridge of
    a logistic regression on the start weights' features that the last layer starts from, for cohorts too small to move
    a whole network far; 0 starts it at random. `freeze_normalisation` keeps the start weights' statistics. `keep`
    says which epoch is released: "best" has the highest AUC on the tune part; "last" where that would choose by a clue
    that the tune part shares with the train part.
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
    probe: float = 0.0
    freeze_normalisation: bool = False
    keep: str = "best"
    seed: int = 1
    weights: str = "imagenet"


@dataclass(frozen=True)
class Config:
    """A whole experiment. `package` is what the manifest says in words and cannot be measured."""

    path: Path
    cohort: str
    finding: str
    architecture: str
    spec: PreprocessSpec
    training: Training
    augment: Augment
    sensitivity: float  # the operating point is the highest threshold that reaches this on the tune part
    package: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.package["name"])


def load_config(choice: str) -> Config:
    """Read a file, or one of the trainer's own by its name without ``.toml``.

    Raises
    ------
    ConfigError
        The file is not there, or a key is unknown, missing or of another type.
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
    try:
        model = value["model"]
        if value["training"].get("keep", "best") not in ("best", "last"):
            raise ConfigError(f"{path}: training.keep is {value['training']['keep']!r}, expected best or last")
        return Config(
            path=path,
            cohort=str(value["cohort"]),
            finding=str(model["finding"]),
            architecture=str(model["architecture"]),
            spec=PreprocessSpec.from_json(model),
            training=_filled(path, Training, value["training"]),
            augment=_filled(path, Augment, value.get("augment", {})),
            sensitivity=float(value["operating_point"]["sensitivity"]),
            package=value["package"],
        )
    except KeyError as error:
        raise ConfigError(f"{path}: expected the key {error}, found none") from error


def _filled(path: Path, kind: type[Any], table: dict[str, Any]) -> Any:
    known = {field.name for field in fields(kind)}
    unknown = sorted(set(table) - known)
    if unknown:
        raise ConfigError(f"{path}: unknown key {unknown[0]}; expected one of {', '.join(sorted(known))}")
    return kind(**{key: tuple(item) if isinstance(item, list) else item for key, item in table.items()})
