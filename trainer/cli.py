"""`cxr-train`: from a downloaded data set to an explored, split, trained, validated, compared and released model."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cxr_node.errors import CxrNodeError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 where it did what was asked, 1 where a gate refused, 2 where it could not be done.

    The reason is on standard error.
    """
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Loaded here: --help must not wait for what only a command needs.
    from trainer import commands
    from trainer.cohorts import CohortError
    from trainer.config import ConfigError
    from trainer.distribute import DistributionError
    from trainer.export import ExportError
    from trainer.pccp import PlanError
    from trainer.reference import NoReference
    from trainer.weights import WeightsError

    expected = (
        *(CohortError, ConfigError, CxrNodeError, DistributionError),
        *(ExportError, NoReference, PlanError, WeightsError),
    )
    try:
        run: Callable[[argparse.Namespace], int] = getattr(commands, options.command)
        return run(options)
    except expected as error:
        print(f"cxr-train: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cxr-train", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, says: str, function: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=says, description=says)
        made.set_defaults(command=function)
        return made

    eda = command("eda", "explore a cohort: HTML, JSON and figures", "eda")
    _cohort(eda)
    _out(eda)
    eda.add_argument("--pictures", type=int, default=1000, help="how many are looked at; 0 for the table only")
    eda.add_argument("--seed", type=int, default=1, help="of the sample of pictures")

    split = command("split", "draw train, tune and test by patient and freeze them in a file", "split")
    _cohort(split)
    split.add_argument("--finding", required=True, help="what the parts are stratified by")
    split.add_argument("--seed", type=int, default=1)
    split.add_argument("--fractions", type=float, nargs=3, default=(0.7, 0.15, 0.15), metavar=("TRAIN", "TUNE", "TEST"))
    split.add_argument("--anew", action="store_true", help="draw the official test part anew too")
    split.add_argument("--out", required=True, type=Path, metavar="CSV")

    train = command("train", "train from a configuration; goes on from a checkpoint in --out", "train")
    train.add_argument("config", metavar="CONFIG", help="a TOML file, or the name of one in trainer/configs")
    _data(train)
    _out(train)
    _split_file(train)
    train.add_argument("--weights", metavar="imagenet|FILE|none", help="start weights, instead of the configuration's")
    train.add_argument("--epochs", type=int, help="instead of the configuration's")
    train.add_argument("--seed", type=int, help="instead of the configuration's")
    train.add_argument("--fold", metavar="I/N", help="leave the patients of one of N folds out, for a teacher")
    train.add_argument("--from-scratch", action="store_true", help="do not go on from a checkpoint")
    train.add_argument("--cache", type=Path, metavar="DIR", help="decoded pictures; default: cache beside --out")
    train.add_argument("--threads", type=int, default=max(2, os.cpu_count() or 2), help="that make batches")

    evaluate = command("evaluate", "measure a run or a package; writes evaluation.json, scores and figures", "evaluate")
    evaluate.add_argument("model", type=Path, metavar="RUN|PACKAGE")
    _data(evaluate)
    _out(evaluate)
    _split_file(evaluate)
    evaluate.add_argument("--part", choices=("tune", "test"), default="tune", help="default: tune, as often as wanted")
    evaluate.add_argument("--finding", default="", help="default: the model's first")
    evaluate.add_argument("--other", metavar="COHORT", help="another population's cohort in --data, scored as well")
    evaluate.add_argument("--no-pictures", action="store_true", help="no grids of failures, no saliency")

    compare = command("compare", "models, trivial baselines and published figures on the same cases", "compare")
    compare.add_argument("models", type=Path, nargs="+", metavar="RUN|PACKAGE", help="the first is the one judged")
    _data(compare)
    _out(compare)
    _split_file(compare)
    compare.add_argument("--part", choices=("tune", "test"), default="tune")
    compare.add_argument("--finding", default="")
    compare.add_argument("--set", default="", help="a set of that part, default: the main one")
    compare.add_argument("--gate", action="store_true", help="exit status 1 where no baseline is beaten by the CI")

    report = command(
        "report", "HTML and PDF for the expert, slides for everybody, from the JSON of other steps", "report"
    )
    report.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="of eda, evaluate or compare")
    _out(report)

    export = command("export", "write a model package from a run; looks at the test part", "export")
    export.add_argument("config", metavar="CONFIG")
    export.add_argument("run", type=Path, metavar="RUN")
    _data(export)
    _split_file(export)
    export.add_argument("--to", required=True, type=Path, metavar="FOLDER", help="where the folder NAME is written")
    export.add_argument("--version", required=True)
    export.add_argument("--shadow", type=Path, metavar="PACKAGE", help="the package it replaces, compared on tune")
    export.add_argument(
        "--despite-gate",
        default="",
        metavar="REASON",
        help="release although a trivial baseline is not beaten; the reason stands on the card",
    )

    reference = command(
        "reference", "write what the tune part looks like into a released package, for monitoring", "reference"
    )
    reference.add_argument("package", type=Path, metavar="PACKAGE")
    _data(reference)
    _split_file(reference)

    weights = command(
        "import-weights", "torch DenseNet-121 weights (CheXNet, TorchXRayVision) to a file", "import_weights"
    )
    weights.add_argument("source", type=Path, metavar="FILE")
    weights.add_argument("--to", required=True, type=Path, metavar="FILE")

    pccp = command("pccp", "the predetermined change control plan (regulatory/pccp.toml)", "pccp")
    verify = pccp.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "verify",
        help="may NEW replace OLD without a new submission",
        description="Runs both packages over labelled cases. Exit status 0: inside the plan; 1: new submission needed, "
        "or refused; 2: could not be done; 3: not enough cases.",
    )
    verify.add_argument("old", type=Path, metavar="OLD", help="the package that was submitted last")
    verify.add_argument("new", type=Path, metavar="NEW")
    verify.add_argument(
        "--cases", required=True, metavar="COHORT|FOLDER", help="current labelled cases, not trained on"
    )
    verify.add_argument("--previous", metavar="COHORT|FOLDER", help="those of the last release: for retention")
    verify.add_argument("--data", type=Path, metavar="DIR", help="folder of a COHORT")
    verify.add_argument("--split", type=Path, metavar="CSV", help="a frozen split of the COHORT of --cases")
    verify.add_argument("--plan", type=Path, metavar="FILE", help="instead of regulatory/pccp.toml")
    verify.add_argument("--out", type=Path, metavar="JSON", help="write the record there")
    return parser


def _data(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", required=True, type=Path, metavar="DIR", help="folder of the cohort")


def _cohort(command: argparse.ArgumentParser) -> None:
    command.add_argument("cohort", metavar="COHORT", help="nih, kermany, rsna or folder")
    _data(command)


def _out(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", required=True, type=Path, metavar="FOLDER")


def _split_file(command: argparse.ArgumentParser) -> None:
    command.add_argument("--split", type=Path, metavar="CSV", help="a frozen split, instead of the cohort's own")


def options_of(arguments: Sequence[str]) -> Any:
    """Return the parsed options, for those who run a command without the process around it."""
    return _parser().parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
