"""How each released package was trained: settings, changes to images, layers frozen, tuned and added, threshold.

Read from the run's record, its log and the package's own network and weights.
"""

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from regulatory.figures import Figure, Material, Table, Text
from regulatory.sources.intended_use import OLDEST
from regulatory.sources.records import NOT_RUN, PACKAGES, RUNS, Released, read_json, released
from regulatory.sources.validation import shown
from trainer.architectures import BLOCKS
from trainer.cohorts import PARTS
from trainer.report.words import count, decimal, estimate, mapping, p_value, plain

# What each key of the run's record means; a test holds both to the fields of `trainer.config` and `trainer.augment`.
SETTINGS = {
    "epochs": "epochs",
    "batch": "batch size, images",
    "learning_rate": "learning rate at its highest (AdamW, cosine decay)",
    "warmup": "share of all steps in which the learning rate rises",
    "weight_decay": "weight decay, not of normalisation and biases",
    "label_smoothing": "label smoothing",
    "mixup": "mixup, Beta(a, a) of two images and labels; nought is off",
    "dropout": "dropout before the scores",
    "average": "share that the running average of the weights keeps each step; the average is what is released",
    "balance": "groups within which both labels weigh alike",
    "sampling": "how the images of an epoch are drawn",
    "probe": "ridge of the logistic regression that the last layer starts from; nought starts it at random",
    "freeze": "block up to which nothing is trained",
    "freeze_normalisation": "normalisation layers keep the start weights' values and statistics",
    "keep": "which epoch is released",
    "patience": "epochs without a better tune AUC before it stops; nought never",
    "seed": "seed",
    "weights": "start weights asked for",
    "precision": "precision of training",
    "distribute": "machines and devices",
    "fold": "fold of the train part that is left out",
    "teachers": "finished runs whose mean score is taught beside the label",
    "teach": "share of the teachers in what is taught, where there are any",
}
AUGMENT = {
    "rotate_degrees": "turned by up to so many degrees",
    "scale": "each axis stretched or shrunk by up to this share",
    "shift": "moved by up to this share of the size",
    "flip": "left to right, one time in two",
    "gamma": "gamma, exponent within exp(± value)",
    "contrast": "contrast changed by up to this share",
    "brightness": "brightness changed by up to this share of the range",
    "equalize": "probability of local histogram equalisation",
    "blur": "probability of a loss of sharpness",
    "sharpen": "probability of unsharp masking",
    "noise": "largest standard deviation of added noise",
    "jpeg": "probability of a round trip through JPEG",
    "erase": "probability of a gray rectangle, as a marker or lead would cover",
}
_PACKAGE_TABLE = re.compile(r"^\[package\]", re.MULTILINE)
_WITH_BIAS = {"Conv2D": ("use_bias", 1), "DepthwiseConv2D": ("use_bias", 1), "Dense": ("use_bias", 1)}


class NetworkError(Exception):
    """The weights of a package are not those of its network; says which were found and expected."""


def gather(root: Path) -> Material:
    """Return what 07_model/*_training.md and the tables of the cards are made of."""
    figures: list[Figure] = []
    tables: list[Table] = []
    texts: list[Text] = []
    for package in released(root):
        figures += list(_figures(package))
        tables += [
            _settings(package, "training", SETTINGS, "settings of training"),
            _settings(package, "augment", AUGMENT, "changes that an image may undergo in training; nought is off"),
            _identity(package),
            _layers(package),
            _log(package),
            _threshold(package),
            _shadow(package),
        ]
        if mapping(mapping(package.run.get("config")).get("training")).get("teachers"):
            tables.append(_teachers(package))
        texts.append(_experiment(package))
    return Material(tuple(figures), tuple(tables), (), tuple(texts))


def _figures(package: Released) -> Iterator[Figure]:
    training = mapping(mapping(package.run.get("config")).get("training"))
    parts = mapping(mapping(package.run.get("cohort")).get("parts"))

    def of_run(key: str, value: Any, says: str, pointer: str) -> Figure:
        words = count(value) if isinstance(value, int) and not isinstance(value, bool) else plain(value)
        text = words if value is not None else NOT_RUN
        return Figure(f"{package.name}.{key}", value, text, package.run_path, pointer, package.train_command, says)

    yield of_run("architecture", mapping(package.run.get("config")).get("architecture"), "network", "/config")
    yield of_run("parameters", package.run.get("parameters"), "weights of the network", "/parameters")
    for key in ("batch", "epochs", "learning_rate", "dropout"):
        yield of_run(key.replace("_", "-"), training.get(key), SETTINGS[key], f"/config/training/{key}")
    teachers = len(training["teachers"]) if "teachers" in training else None
    yield of_run("teachers", teachers, SETTINGS["teachers"], "/config/training/teachers")
    start = mapping(package.run.get("start_weights")).get("source")
    yield of_run("start-weights", start, "what the network started from", "/start_weights")
    yield of_run("cohort", mapping(package.run.get("cohort")).get("name"), "cohort", "/cohort/name")
    for part in PARTS:
        for key in ("images", "patients", "present", "absent"):
            says = f"{part} part: {key}"
            value = mapping(parts.get(part)).get(key)
            yield of_run(f"{part}-part.{key}", value, says, f"/cohort/parts/{part}/{key}")
    size = package.manifest["preprocess"]["size"]
    low, high = package.manifest["intended_use"]["age_years"]
    ages = f"{low:g} years and older" if high >= OLDEST else f"{low:g} to {high:g} years"
    for key, value, text, says, pointer in (
        ("input-size", size, f"{size[0]} x {size[1]}", "input, rows and columns", "/preprocess/size"),
        ("ages", (low, high), ages, "ages of the intended use, both ends included", "/intended_use/age_years"),
    ):
        source, command = package.manifest_path, package.export_command
        yield Figure(f"{package.name}.{key}", value, text, source, pointer, command, says)


def _table(package: Released, key: str, title: str, header: tuple[str, ...], rows: Any, **where: Any) -> Table:
    rows = tuple(rows) or ((NOT_RUN, *("" for _ in header[1:])),)
    source, command = where.get("source", package.run_path), where.get("command", package.train_command)
    title = f"{package.name} {package.manifest['version']}: {title}"
    pointer, numeric = where.get("pointer", ""), where.get("numeric", ())
    return Table(f"{package.name}.{key}", title, header, rows, source, pointer, command, numeric)


def _settings(package: Released, key: str, names: Mapping[str, str], title: str) -> Table:
    values = mapping(mapping(package.run.get("config")).get(key))
    rows = [(f"`{name}`", names.get(name, ""), _setting(value)) for name, value in values.items()]
    return _table(package, f"{key}-settings", title, ("setting", "what it is", "value"), rows, pointer=f"/config/{key}")


def _setting(value: Any) -> str:
    return "none" if value in ("", None) or value == [] else plain(value)


def _identity(package: Released) -> Table:
    """What was trained from what, by name and hash."""
    run, manifest = package.run, package.manifest
    files = mapping(manifest.get("files"))
    spec = mapping(manifest["preprocess"])
    between = spec.get("intermediate")
    by_way = f", by way of {between[0]} x {between[1]}" if between else ""
    rows = [
        ("package", f"{manifest['name']} {manifest['version']}"),
        ("network", str(manifest["architecture"])),
        ("findings", ", ".join(manifest["findings"])),
        ("input", f"{spec['size'][0]} x {spec['size'][1]}{by_way}, gray values from nought to one"),
        ("start weights", plain(mapping(run.get("start_weights")).get("source", NOT_RUN))),
        ("start weights, SHA-256", f"`{plain(mapping(run.get('start_weights')).get('sha256', NOT_RUN))}`"),
        ("released weights (float16), SHA-256", f"`{files.get('weights.npz', NOT_RUN)}`"),
        ("code of training and preprocessing, SHA-256", f"`{mapping(run.get('code')).get('sources_sha256', NOT_RUN)}`"),
        ("commit when trained", f"`{mapping(run.get('code')).get('commit') or NOT_RUN}`"),
        ("trained with", plain(run.get("environment")) if run.get("environment") else NOT_RUN),
    ]
    rows += [
        (f"{name} part, SHA-256 over images and labels", f"`{part.get('sha256', 'not read')}`")
        for name, part in mapping(mapping(run.get("cohort")).get("parts")).items()
    ]
    source = f"{package.run_path}, {package.manifest_path}"
    return _table(package, "identity", "what was trained from what", ("", "as recorded"), rows, source=source)


def _layers(package: Released) -> Table:
    """Blocks of the network with their weights: frozen, tuned from the start weights, added for the scores."""
    training = mapping(mapping(package.run.get("config")).get("training"))
    rows = []
    totals = np.zeros(3, int)
    found = blocks(package) if training else {}
    for block, kinds in found.items():
        weights = np.array([kinds[kind] for kind in ("frozen", "tuned", "added")])
        totals += weights
        rows.append((block, count(kinds["layers"]), *(count(int(value)) if value else "–" for value in weights)))
    if rows:
        layers = sum(kinds["layers"] for kinds in found.values())
        rows.append(("**all**", f"**{layers}**", *(f"**{count(int(value))}**" for value in totals)))
    return _table(
        package,
        "layers",
        "weights that were frozen (normalisation with its statistics), tuned from the start weights, and added",
        ("block", "layers", "frozen", "tuned", "added"),
        rows,
        source=f"{PACKAGES}/{package.name}/architecture.json, {PACKAGES}/{package.name}/weights.npz",
        command=package.export_command,
        numeric=(1, 2, 3, 4),
    )


def blocks(package: Released) -> dict[str, dict[str, int]]:
    """Return for each block its layers and its weights that were frozen, tuned and added.

    Raises
    ------
    NetworkError
        The arrays of `weights.npz` are more or fewer than the network's.
    """
    folder = package.root / PACKAGES / package.name
    training = mapping(mapping(package.run.get("config")).get("training"))
    layers = json.loads((folder / "architecture.json").read_text("utf-8"))["config"]["layers"]
    sizes = iter(_sizes(folder / "weights.npz"))
    ends = {last: block for block, last in BLOCKS.get(str(package.manifest["architecture"]), {}).items()}
    order = list(ends.values())
    frozen_until = order.index(training["freeze"]) if training.get("freeze") in order else -1
    found: dict[str, dict[str, int]] = {}
    place = 0
    for layer in layers:
        name, kind = layer["config"]["name"], layer["class_name"]
        block = order[place] if place < len(order) else "scores"
        entry = found.setdefault(block, {"layers": 0, "frozen": 0, "tuned": 0, "added": 0})
        entry["layers"] += 1
        own = list(islice(sizes, _arrays(layer)))
        if len(own) < _arrays(layer):
            raise NetworkError(
                f"{package.name}: weights.npz has {len(own)} arrays for layer {name}, not {_arrays(layer)}"
            )
        still = place <= frozen_until or (kind == "BatchNormalization" and training.get("freeze_normalisation"))
        entry["added" if name == "scores" else "frozen" if still else "tuned"] += sum(own)
        place += name in ends
    if next(sizes, None) is not None:
        raise NetworkError(f"{package.name}: weights.npz has more arrays than the network")
    return found


def _arrays(layer: Mapping[str, Any]) -> int:
    """Return how many arrays a Keras layer has: gamma, beta, mean, variance; kernel and bias."""
    if layer["class_name"] == "BatchNormalization":
        return 4
    key, extra = _WITH_BIAS.get(layer["class_name"], ("", 0))
    return 1 + extra * bool(layer["config"].get(key)) if key else 0


def _sizes(path: Path) -> list[int]:
    """Return the number of values of each array, in order, from the headers alone."""
    sizes = []
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            with archive.open(name) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, _ = read(file)
                sizes.append(int(np.prod(shape)))
    return sizes


def _log(package: Released) -> Table:
    # Seconds are of the machine and its load that day: not shown.
    keys = ("epoch", "loss", "tune_loss", "tune_auc", "tune_mean_score_present", "tune_mean_score_absent")
    rows = [
        tuple(
            "" if row.get(key) is None else f"{row[key]:.0f}" if key == "epoch" else decimal(row[key], 4)
            for key in keys
        )
        for row in package.log
    ]
    header = tuple(key.replace("_", " ") for key in keys)
    title = "training log; epoch nought is the start, its last layer from a probe where one was asked for"
    return _table(package, "log", title, header, rows, source=package.log_path, numeric=tuple(range(len(keys))))


def _threshold(package: Released) -> Table:
    point, main = package.point, mapping(package.sets.get(package.main_set))
    rule = mapping(mapping(package.run.get("config")).get("operating_point"))
    slope = mapping(package.manifest["calibration"][package.finding])
    rows = [
        ("rule, in the experiment", plain(rule) if rule else NOT_RUN),
        ("rule, in the package", str(point["name"])),
        ("threshold of the calibrated probability", decimal(point["threshold"], 5)),
        ("locked on", str(point["source"])),
        (
            "there: sensitivity, specificity",
            f"{decimal(point['sensitivity'])}, {decimal(point['specificity'])}",
        ),
        (f"on {package.main_set}: sensitivity", shown(package, main, "sensitivity", estimate)),
        (f"on {package.main_set}: specificity", shown(package, main, "specificity", estimate)),
        ("calibration map on the logit: slope, intercept", f"{slope['slope']:.4f}, {slope['intercept']:.4f}"),
    ]
    source = f"{package.manifest_path}, {package.evaluation_path}"
    command = f"{package.export_command}; {package.evaluate_command}"
    title = "the operating point, and what it came to where it was not chosen"
    return _table(package, "threshold-record", title, ("", "as recorded"), rows, source=source, command=command)


def _teachers(package: Released) -> Table:
    """The runs that taught beside the labels; each was not shown the fold that it taught on."""
    names = mapping(mapping(package.run.get("config")).get("training")).get("teachers", ())
    rows = []
    for name in names:
        record = read_json(package.root / RUNS / name / "run.json")
        config = mapping(record.get("config"))
        training = mapping(config.get("training"))
        rows.append(
            (
                f"`{name}`",
                str(config.get("architecture", NOT_RUN)),
                str(training.get("fold", NOT_RUN)),
                str(training.get("epochs", NOT_RUN)),
                str(mapping(record.get("start_weights")).get("source", NOT_RUN)),
            )
        )
    header = ("run", "network", "fold left out", "epochs", "start weights")
    return _table(package, "teacher-runs", "runs that taught beside the labels", header, rows)


def _shadow(package: Released) -> Table:
    rows = [
        (finding, key.replace("_", " "), _difference(value))
        for finding, found in mapping(package.shadow.get("findings")).items()
        for key, value in mapping(found).items()
    ]
    old = mapping(package.shadow.get("old")).get("version", "")
    title = f"beside release {old}, on the tune part" if old else "beside an older release"
    path = f"{RUNS}/{package.name}/shadow.json"
    source = path if package.shadow else package.manifest_path
    command = f"{package.export_command} --shadow OLD"
    return _table(package, "shadow", title, ("finding", "figure", "value"), rows, source=source, command=command)


def _difference(value: Any) -> str:
    """Return a count, a figure, or a paired difference with its interval and p."""
    found = mapping(value)
    return f"{estimate(found, 4)}, p {p_value(found.get('p'))}" if found else plain(value)


def _experiment(package: Released) -> Text:
    """The experiment's file up to the words of the package: its comments are the reasons for its settings."""
    path = package.root / package.config_path
    if not path.is_file():
        return Text(
            f"{package.name}.experiment", f"{NOT_RUN}: the experiment's file is not there.", package.config_path
        )
    words = _PACKAGE_TABLE.split(path.read_text("utf-8"))[0].rstrip()
    return Text(f"{package.name}.experiment", f"```toml\n{words}\n```", package.config_path)
