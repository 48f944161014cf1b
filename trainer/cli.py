"""`cxr-train`: train a network from a configuration, release it as a model package, evaluate a package."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cxr_node.errors import CxrNodeError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 where it did what was asked, 2 where the reason it could not is on standard error."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Loaded here: --help must not wait for what only a command needs.
    from trainer.cohorts import CohortError
    from trainer.config import ConfigError
    from trainer.release import ReleaseError
    from trainer.weights import WeightsError

    try:
        return int(options.run(options))
    except (CohortError, ConfigError, CxrNodeError, ReleaseError, WeightsError) as error:
        print(f"cxr-train: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cxr-train", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train from a configuration; goes on from a checkpoint in --out")
    train.add_argument("config", metavar="CONFIG", help="a TOML file, or the name of one in trainer/configs")
    _data(train)
    train.add_argument("--out", required=True, type=Path, metavar="RUN", help="folder of the run, e.g. runs/first")
    train.add_argument("--weights", metavar="imagenet|FILE|none", help="start weights, instead of the configuration's")
    train.add_argument("--epochs", type=int, help="instead of the configuration's")
    train.add_argument("--from-scratch", action="store_true", help="do not go on from a checkpoint")
    train.set_defaults(run=_train)

    release = commands.add_parser("release", help="write a model package from a run; looks at the test part")
    release.add_argument("config", metavar="CONFIG")
    release.add_argument("out", type=Path, metavar="RUN")
    _data(release)
    release.add_argument("--to", required=True, type=Path, metavar="FOLDER", help="where the folder NAME is written")
    release.add_argument("--version", required=True)
    release.set_defaults(run=_release)

    evaluate = commands.add_parser("evaluate", help="measure a package on a part of its cohort; prints JSON")
    evaluate.add_argument("package", type=Path, metavar="PACKAGE")
    _data(evaluate)
    evaluate.add_argument("--part", choices=("tune", "test"), default="tune", help="default: tune")
    evaluate.add_argument("--scores", type=Path, metavar="CSV", help="also write every case's score here")
    evaluate.set_defaults(run=_evaluate)
    return parser


def _data(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", required=True, type=Path, metavar="DIR", help="folder of the cohorts")


def _train(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from trainer.config import load_config
    from trainer.train import train

    config = load_config(options.config)
    changes = {key: value for key in ("weights", "epochs") if (value := getattr(options, key)) is not None}
    config = replace(config, training=replace(config.training, **changes))
    train(config, options.data, options.out, resume=not options.from_scratch)
    return 0


def _release(options: argparse.Namespace) -> int:
    from trainer.config import load_config
    from trainer.release import release

    package = release(load_config(options.config), options.out, options.data, options.to, version=options.version)
    print(f"{package.path}: {package.manifest.name} {package.manifest.version}, digest {package.digest}")
    for criterion in package.manifest.figures["criteria"]:
        print(f"{'met' if criterion['passed'] else 'NOT MET'}: {criterion['says']}; found {criterion['found']:.4f}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    import csv

    from cxr_node.inference import Engine, load_package, probability
    from trainer.cohorts import COHORTS
    from trainer.evaluate import EvaluationSet, evaluation_sets, measure, score_cases

    package = load_package(options.package.resolve())
    manifest, finding = package.manifest, package.manifest.findings[0]
    cohort = COHORTS[manifest.training["cohort"]["name"]](options.data)
    scored = score_cases(Engine(package), cohort.part(options.part))
    if options.part == "test":
        sets = evaluation_sets(cohort, scored, finding)
    else:
        import numpy as np

        labels = np.array([case.labels[finding] for case in scored.cases])
        sets = [EvaluationSet("tune", "Used to lock calibration and threshold.", scored, labels)]
    print(json.dumps({item.name: measure(item, manifest, finding) for item in sets}, indent=2))
    if options.scores:
        with options.scores.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["case", "patient", "view", "label", "score", "probability"])
            for case, score in zip(scored.cases, scored.scores, strict=True):
                value = probability(manifest, finding, float(score))
                writer.writerow(
                    [case.identifier, case.patient, case.view, case.labels[finding], f"{score:.6f}", f"{value:.6f}"]
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
