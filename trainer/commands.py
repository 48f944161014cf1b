"""What each command of `cxr-train` does: options in, files out, a few lines that say what came of it."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from cxr_node.inference import load_package
from cxr_node.inference.package import reference_of
from trainer.cohorts import COHORTS, Cohort, CohortError
from trainer.config import ConfigError, load_config


def _read(name: str, data: Path, split: Path | None = None) -> Cohort:
    if name not in COHORTS:
        raise CohortError(f"expected one of the cohorts {', '.join(COHORTS)}, found {name!r}")
    cohort = COHORTS[name](data)
    if split is None:
        return cohort
    from trainer.split import frozen

    return frozen(cohort, split)


def eda(options: argparse.Namespace) -> int:
    from trainer.eda import explore

    cohort = _read(options.cohort, options.data)
    explore(cohort, options.out, pictures=options.pictures, seed=options.seed)
    print(f"{options.out / 'eda.html'}: {len(cohort.rows)} rows, {len(cohort.cases)} pictures")
    return 0


def split(options: argparse.Namespace) -> int:
    from trainer import split as splitting

    cohort = splitting.split(
        _read(options.cohort, options.data),
        options.finding,
        seed=options.seed,
        fractions=tuple(options.fractions),
        keep_official=not options.anew,
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    splitting.freeze(cohort, options.out, seed=options.seed)
    counts = {part: len(cohort.part(part)) for part in ("train", "tune", "test", "apart")}
    print(f"{options.out}: " + ", ".join(f"{part} {count}" for part, count in counts.items()))
    return 0


def train(options: argparse.Namespace) -> int:
    from trainer.targets import used
    from trainer.train import train as run_training

    config = load_config(options.config)
    keys = ("weights", "epochs", "seed", "fold")
    changes = {key: value for key in keys if (value := getattr(options, key)) is not None}
    config = replace(config, training=replace(config.training, **changes))
    cohort = used(config, _read(config.cohort, options.data, options.split))
    run_training(
        config,
        cohort,
        options.out,
        resume=not options.from_scratch,
        cache=options.cache,
        threads=options.threads,
    )
    return 0


def evaluate(options: argparse.Namespace) -> int:
    from trainer.evaluate import evaluate as run_evaluation
    from trainer.predictor import predictor
    from trainer.report.figures import draw_evaluation

    model = predictor(options.model)
    cohort = _read(model.config.cohort, options.data, options.split)
    record = run_evaluation(
        model,
        cohort,
        options.out,
        part=options.part,
        finding=options.finding,
        other=_read(options.other, options.data) if options.other else None,
        run=options.model,
        pictures=not options.no_pictures,
    )
    draw_evaluation(record, options.out / "figures")
    for name, figures in record["sets"].items():
        print(f"{name}: {_line(figures)}")
    return 0


def compare(options: argparse.Namespace) -> int:
    from trainer.compare import compare as run_comparison
    from trainer.predictor import predictor
    from trainer.report.figures import draw_comparison

    models = [predictor(path) for path in options.models]
    cohort = _read(models[0].config.cohort, options.data, options.split)
    record = run_comparison(
        models, cohort, options.out, part=options.part, finding=options.finding, set_name=options.set
    )
    draw_comparison(record, options.out / "figures")
    print(f"{record['title']}, {record['set']}")
    for row in record["rows"]:
        print(f"{row['kind']:>9}  {row['name']:<32} {_line(row)}")
    gate = record["gate"]
    best = gate["best_baseline"]
    print(
        f"gate {'passed' if gate['passed'] else 'NOT PASSED'}: {gate['model']} from {gate['found']:.3f}, "
        f"{best['name']} {best['auc']:.3f}"
    )
    return 1 if options.gate and not gate["passed"] else 0


def report(options: argparse.Namespace) -> int:
    from trainer.report import write_report

    options.out.mkdir(parents=True, exist_ok=True)
    write_report(options.folders, options.out)
    print(f"{options.out}: report.html, report.pdf, slides.pdf")
    return 0


def export(options: argparse.Namespace) -> int:
    from trainer.export import SHADOW, shadow
    from trainer.export import export as write_package

    config = load_config(options.config)
    cohort = _read(config.cohort, options.data, options.split)
    # Read before it is written over, where it is the one that is replaced in place.
    old = load_package(options.shadow.resolve()) if options.shadow else None
    compared: dict[str, Any] | None = None
    if old is not None:
        import shutil
        import tempfile

        kept = Path(tempfile.mkdtemp(prefix="cxr-train-shadow-"))
        old = load_package(Path(shutil.copytree(old.path, kept / old.manifest.name)))
    package = write_package(
        config, options.run, cohort, options.to, version=options.version, despite_gate=options.despite_gate
    )
    print(f"{package.path}: {package.manifest.name} {package.manifest.version}, digest {package.digest}")
    for criterion in package.manifest.figures["criteria"]:
        print(f"{'met' if criterion['passed'] else 'NOT MET'}: {criterion['says']}; found {criterion['found']:.4f}")
    if old is not None:
        compared = shadow(package, old, cohort)
        path = options.run / SHADOW
        path.write_text(json.dumps(compared, indent=2) + "\n", "utf-8")
        for finding, item in compared["findings"].items():
            print(
                f"beside {old.manifest.version} on tune, {finding}: AUC {item['auc_new']} for {item['auc_old']}, "
                f"flags {item['flagged_by_new_only']} more, {item['flagged_by_old_only']} fewer ({path})"
            )
        shutil.rmtree(kept)
    return 0


def reference(options: argparse.Namespace) -> int:
    from trainer.reference import add_reference, told

    package = load_package(options.package.resolve())
    cohort = _read(str(package.manifest.training["cohort"]["name"]), options.data, options.split)
    made = add_reference(package, cohort)
    found = reference_of(made)
    assert found is not None
    print(told(options.package, found))
    print(f"digest {package.digest} is now {made.digest}; weights, calibration and operating points are unchanged")
    return 0


def import_weights(options: argparse.Namespace) -> int:
    from trainer.weights import import_weights as run_import

    if not options.source.is_file():
        raise ConfigError(f"{options.source}: expected a file of weights, found none")
    print(json.dumps(run_import(options.source, options.to), indent=2))
    return 0


def pccp(options: argparse.Namespace) -> int:
    from trainer import pccp as plans
    from trainer.record import write_json

    plan = plans.load_plan(options.plan) if options.plan else plans.load_plan()
    old, new = load_package(options.old.resolve()), load_package(options.new.resolve())
    current = _cases(options.cases, options.data, options.split)
    previous = _cases(options.previous, options.data) if options.previous else None
    found = plans.verify(plan, old, new, current, previous)
    for line in plans.lines(found):
        print(line)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, plans.to_json(found, plan, old, new))
    statuses = {plans.Verdict.INSIDE: 0, plans.Verdict.NOT_ENOUGH: 3}
    return statuses.get(found.verdict, 1)


def _cases(name: str, data: Path | None, split: Path | None = None) -> Cohort:
    """Return a cohort of that name in --data, otherwise the folder of a site's own cases."""
    if name in COHORTS and data is not None:
        return _read(name, data, split)
    return COHORTS["folder"](Path(name))


def _line(figures: dict[str, Any]) -> str:
    cells = []
    for key in ("auc", "accuracy", "sensitivity", "specificity"):
        found = figures.get(key)
        if isinstance(found, dict):
            interval = f" ({found['low']:.3f} to {found['high']:.3f})" if "low" in found else ""
            cells.append(f"{key} {found['value']:.3f}{interval}")
    return ", ".join(cells) or "not measured"
