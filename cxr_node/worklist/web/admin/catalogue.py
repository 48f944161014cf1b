"""The model packages on the disk, and what their manifests say of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_node.errors import PackageError
from cxr_node.inference.package import (
    BUILTIN,
    MANIFEST,
    MODEL_CARD,
    IntendedUse,
    ModelPackage,
    find_package,
    package_folders,
)

_LARGEST_CARD = 200_000


@dataclass(frozen=True)
class Found:
    """A package folder. `package` is None where it does not verify, and `problem` says why."""

    name: str
    is_released: bool
    package: ModelPackage | None
    problem: str = ""


@dataclass(frozen=True)
class Measured:
    """What was measured on one set of cases; each figure a value with its 95 % interval, in words."""

    cases: str
    images: str
    auc: str
    sensitivity: str
    specificity: str


@dataclass(frozen=True)
class Criterion:
    """What a package had to reach to be released; `despite` is why it was released without."""

    says: str
    found: str
    is_met: bool
    despite: str


def found_packages(data_dir: Path) -> dict[str, Found]:
    """Return all packages by name; a site's own stands before a released one of the same name. Verifies each."""
    folders = package_folders(data_dir)
    names = sorted({entry.parent.name for folder in folders for entry in folder.glob(f"*/{MANIFEST}")})
    return {name: _found(name, folders) for name in names}


def _found(name: str, folders: Sequence[Path]) -> Found:
    try:
        package = find_package(name, folders)
    except PackageError as error:
        return Found(name, not (folders[0] / name).is_dir(), None, str(error))
    return Found(name, package.path.parent == BUILTIN, package)


def population(use: IntendedUse) -> str:
    """Return the intended use in words."""
    low, high = use.age_years
    ages = f"{low:g} years and older" if high >= 120 else f"{low:g} to {high:g} years"
    return f"{ages}; {', '.join(use.views)}; {', '.join(use.modalities)}; {', '.join(use.body_parts).lower()}"


def overlap(one: ModelPackage, other: ModelPackage) -> tuple[str, ...]:
    """Return the findings that both look for in the same patients."""
    a, b = one.manifest.intended_use, other.manifest.intended_use
    is_shared = (
        a.age_years[0] <= b.age_years[1]
        and b.age_years[0] <= a.age_years[1]
        and bool(set(a.views) & set(b.views))
        and bool(set(a.modalities) & set(b.modalities))
    )
    return tuple(finding for finding in one.manifest.findings if is_shared and finding in other.manifest.findings)


def measured(package: ModelPackage) -> list[Measured]:
    """Return what the manifest says was measured; nothing where it says it in another form."""
    figures = _figures(package)
    sets: dict[str, Any] = {"tune (used to lock the threshold)": figures.get("tune")}
    tests = figures.get("test")
    sets |= tests if isinstance(tests, Mapping) else {}
    return [
        Measured(
            str(cases),
            str(values.get("images", "–")),
            *(_interval(values.get(key)) for key in ("auc", "sensitivity", "specificity")),
        )
        for cases, values in sets.items()
        if isinstance(values, Mapping)
    ]


def criteria(package: ModelPackage) -> list[Criterion]:
    """Return what it had to reach, met or not."""
    listed = _figures(package).get("criteria")
    return [
        Criterion(
            str(item.get("says", "")),
            _number(item.get("found")),
            item.get("passed") is True,
            str(item.get("released_despite", "")),
        )
        for item in (listed if isinstance(listed, list) else [])
        if isinstance(item, Mapping)
    ]


def baselines(package: ModelPackage) -> list[tuple[str, str, str]]:
    """Return (name, what it is, AUC) of what needs no model."""
    listed = _figures(package).get("baselines")
    return [
        (str(name), str(item.get("says", "")), _interval(item.get("auc")))
        for name, item in (listed.items() if isinstance(listed, Mapping) else ())
        if isinstance(item, Mapping)
    ]


def card(package: ModelPackage) -> str:
    """Return the model card, empty where there is none."""
    try:
        with (package.path / MODEL_CARD).open(encoding="utf-8", errors="replace") as file:
            return file.read(_LARGEST_CARD)
    except OSError:
        return ""


def _figures(package: ModelPackage) -> Mapping[str, Any]:
    """A site's package may say what it likes here: the manifest is checked for what the node needs."""
    figures: object = package.manifest.figures
    return figures if isinstance(figures, Mapping) else {}


def _interval(value: object) -> str:
    if not isinstance(value, Mapping) or not isinstance(value.get("value"), int | float):
        return "–"
    low, high = _number(value.get("low")), _number(value.get("high"))
    return f"{value['value']:.3f} ({low} to {high})"


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) and not isinstance(value, bool) else "–"
