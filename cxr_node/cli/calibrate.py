"""`cxr-node calibrate LABELS.csv`: a model held against labels of this site, over studies that the node analysed.

Nothing is changed: a threshold belongs to a model package, and a package is changed in two steps by an admin
(regulatory/decisions/0014 and 0029).
"""

import argparse
import csv
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from cxr_node.cli.user import open_database
from cxr_node.errors import SettingsError
from cxr_node.findings.monitoring.site import AtThreshold, SiteStudy, site_study
from cxr_node.inference import ModelPackage, find_package, package_folders
from cxr_node.settings import Settings
from storage import Database, model_changes, monitoring


def calibrate(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print the study; exit status 1 where it has too few cases for a proposal."""
    labels = read_labels(arguments.labels)
    with open_database(settings) as database:
        package = _package(settings, database, arguments.model)
        finding = arguments.finding or package.manifest.findings[0]
        if finding not in package.manifest.findings:
            known = ", ".join(package.manifest.findings)
            raise SettingsError(f"--finding: {package.manifest.name} knows {known}, found {finding}")
        with database.read() as connection:
            found = monitoring.probabilities(connection, package.digest, finding, list(labels))
    matched = [uid for uid in labels if uid in found]
    if not matched:
        raise SettingsError(
            f"{arguments.labels}: none of its {len(labels)} cases was analysed here by {package.manifest.name} "
            f"{package.manifest.version} ({package.digest[:12]})"
        )
    try:
        study = site_study(
            np.array([labels[uid] for uid in matched], np.float64),
            np.array([found[uid] for uid in matched], np.float64),
            threshold=package.manifest.operating_points[finding].threshold,
            wanted=arguments.sensitivity,
            prevalence=arguments.prevalence,
        )
    except ValueError as error:
        raise SettingsError(f"calibrate: {error}") from error
    if arguments.json:
        about = {"model": package.manifest.name, "digest": package.digest, "finding": finding}
        print(json.dumps({**about, "labels": len(labels), **study.to_json()}, indent=1))
    else:
        for line in told(study, package, finding, len(labels)):
            print(line)
    return 1 if study.is_too_small else 0


def read_labels(path: Path) -> dict[str, int]:
    """Read a CSV with the columns `uid` and `label`.

    Raises
    ------
    SettingsError
        The file cannot be read, lacks a column, or has a label other than 1 and 0, or two for one case; names the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = {"uid", "label"} - set(reader.fieldnames or ())
            if missing:
                raise SettingsError(
                    f"{path}: expected the columns uid and label, found {', '.join(reader.fieldnames or ()) or 'none'}"
                )
            rows = [(reader.line_num, (row["uid"] or "").strip(), (row["label"] or "").strip()) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    labels: dict[str, int] = {}
    for line, uid, label in rows:
        if not uid or label not in ("0", "1"):
            raise SettingsError(
                f"{path}, line {line}: expected a UID and the label 1 or 0, found {uid!r} and {label!r}"
            )
        if labels.get(uid, int(label)) != int(label):
            raise SettingsError(f"{path}, line {line}: {uid} has both labels")
        labels[uid] = int(label)
    if not labels:
        raise SettingsError(f"{path}: expected cases, found none")
    return labels


def told(study: SiteStudy, package: ModelPackage, finding: str, labels: int) -> list[str]:
    """Return the study in lines for people."""
    manifest = package.manifest
    lines = [
        f"{manifest.name} {manifest.version} ({package.digest[:12]}), {finding}: {study.cases} of {labels} labelled "
        f"cases were analysed by it, {study.present} with the finding and {study.cases - study.present} without.",
        *_figures("now", study.now),
    ]
    if study.line is not None:
        line = study.line
        lines.append(
            f"  calibration: slope {line.slope:.2f} ({line.slope_low:.2f} to {line.slope_high:.2f}), intercept "
            f"{line.intercept:.2f} ({line.intercept_low:.2f} to {line.intercept_high:.2f}); 1 and 0 fit this site"
        )
    if study.proposed is None:
        lines.append(
            f"Too few cases for a proposal: at least 30 of either class are needed, and {study.needed} with the "
            f"finding for a sensitivity of {study.wanted:g} known within 5 points."
        )
        return lines
    lines += _figures(f"for a sensitivity of {study.wanted:g}", study.proposed)
    lines.append(
        f"  threshold {study.proposed.threshold:.6f}, 95 % interval {study.threshold_low:.4f} to "
        f"{study.threshold_high:.4f}; chosen and measured on the same cases, so a little better than it will be"
    )
    if study.present < study.needed:
        lines.append(
            f"  {study.needed - study.present} more cases with the finding are needed for a sensitivity known within 5 "
            "points"
        )
    return [*lines, *_proposal(study, package, finding)]


def _figures(name: str, found: AtThreshold) -> list[str]:
    at = found.predictive
    ppv, npv = ("not measured" if math.isnan(value) else f"{value:.3f}" for value in (at.ppv, at.npv))
    return [
        f"Threshold {name}, {found.threshold:.4f}:",
        f"  sensitivity {found.sensitivity}",
        f"  specificity {found.specificity}",
        f"  at a prevalence of {at.prevalence:.3f}: PPV {ppv}, NPV {npv}",
    ]


def _proposal(study: SiteStudy, package: ModelPackage, finding: str) -> list[str]:
    """Return what an admin would do: a threshold is a package's, never a key of node.toml."""
    assert study.proposed is not None
    name = f"{package.manifest.name}-site"
    point = replace(
        package.manifest.operating_points[finding],
        name=f"site-sensitivity-{study.wanted:g}",
        threshold=round(study.proposed.threshold, 6),
        sensitivity=round(study.proposed.sensitivity.value, 4),
        specificity=round(study.proposed.specificity.value, 4),
        source=f"{study.cases} labelled cases of this site ({study.present} with the finding): the highest threshold "
        f"with a sensitivity of at least {study.wanted:g} there",
    )
    return [
        "",
        "Nothing was changed. To propose it for use: copy the package to data_dir/packages/"
        f"{name}, and in its manifest.json set name to {name}, a version of its own, and",
        f'  "operating_points": {json.dumps({finding: asdict(point)})}',
        "Run it as a shadow first, in node.toml",
        "  [analyze]",
        f'  shadow = ["{name}"]',
        f"and put it in the place of {package.manifest.name} on /admin/models, which shows the change to be confirmed.",
    ]


def _package(settings: Settings, database: Database, name: str | None) -> ModelPackage:
    with database.read() as connection:
        chosen = model_changes.effective(connection, settings.analyze.models, settings.analyze.shadow)
    names = [item.name for item in (*chosen.active, *chosen.shadow)]
    if name is None and len(names) != 1:
        raise SettingsError(f"--model: expected one of {', '.join(names) or 'none'}, as several run")
    wanted = names[0] if name is None else name
    if wanted not in names:
        raise SettingsError(f"--model: expected one that runs ({', '.join(names) or 'none'}), found {wanted}")
    return find_package(wanted, package_folders(settings.data_dir))
