"""The committed records in a folder of their own, for tests that change one and look what becomes of the pages."""

import json
import os
import shutil
from pathlib import Path

from regulatory.figures import Figure, Material, Table
from regulatory.sources.records import PACKAGES, RUNS
from tests.conftest import ROOT

NAMES = sorted(path.parent.name for path in (ROOT / PACKAGES).glob("*/manifest.json"))
PACKAGE = "pneumonia-paediatric"
_NEEDED = (
    PACKAGES,
    RUNS,
    "trainer/configs",
    "cxr_node/imaging/plausibility.json",
    "regulatory/cohorts.toml",
    "regulatory/text",
    "regulatory/chai/card.toml",
    "regulatory/intended_use.toml",
)


def copy_records(to: Path) -> Path:
    """Link every record into a folder; what a test changes it writes anew."""
    for name in _NEEDED:
        source, target = ROOT / name, to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, copy_function=os.symlink)
        else:
            target.symlink_to(source)
    return to


def changed(path: Path, change) -> None:
    """Write a JSON file anew as `change` leaves it."""
    value = json.loads(path.read_text())
    change(value)
    path.unlink()
    path.write_text(json.dumps(value))


def figures(material: Material) -> dict[str, Figure]:
    return {figure.id: figure for figure in material.figures}


def table(material: Material, wanted: str) -> Table:
    return next(table for table in material.tables if table.id == wanted)
