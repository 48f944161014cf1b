"""Which model package an accepted image goes to: by the intended use in its manifest, age first."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from pydicom.dataset import Dataset

from cxr_node.analyze.acceptance import FRONTAL, Profile, view_of
from cxr_node.findings import Exclusion
from cxr_node.inference import ModelPackage

AGE_ATTRIBUTE = "(0010,1010) Patient's Age"
_DAYS = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}


@dataclass(frozen=True)
class Age:
    """Age at the study in completed years, and the sentence that says how it was found where a rule had to help."""

    years: float
    note: str = ""


def age_at_study(header: Dataset, profile: Profile) -> Age | None:
    """Return the patient's age, or None where nothing tells it.

    Patient's Age (VR AS: ``nnnD``, ``nnnW``, ``nnnM``, ``nnnY``, PS3.5 6.2) first; otherwise Birth Date and the date of
    the study, series, acquisition or content. In profile research digits without a unit are read as years.
    """
    text = str(header.get("PatientAge") or "").strip().upper()
    match = re.fullmatch(r"(\d{1,3})([DWMY]?)", text)
    if match and match[2]:
        if match[2] == "Y":
            return Age(float(int(match[1])))
        return Age(int(match[1]) * _DAYS[match[2]] / 365.25)
    if match and profile == "research":
        return Age(float(int(match[1])), f"{AGE_ATTRIBUTE} is {match[1]} without a unit: read as years")
    born = _date(header.get("PatientBirthDate"))
    at = next(
        (
            day
            for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
            if (day := _date(header.get(keyword))) is not None
        ),
        None,
    )
    if born is None or at is None or at < born:
        return None
    years = at.year - born.year - ((at.month, at.day) < (born.month, born.day))
    return Age(float(years)) if years <= 120 else None


def _date(value: object) -> date | None:
    digits = re.fullmatch(r"(\d{4})\.?(\d{2})\.?(\d{2})", str(value or "").strip())
    if digits is None:
        return None
    try:
        return date(int(digits[1]), int(digits[2]), int(digits[3]))
    except ValueError:
        return None


@dataclass(frozen=True)
class Route:
    """The packages an image goes to, and which stated rules filled what was missing."""

    packages: tuple[ModelPackage, ...]
    notes: tuple[str, ...] = ()


def route(header: Dataset, profile: Profile, packages: Sequence[ModelPackage]) -> Route | Exclusion:
    """Return the packages whose intended use covers the image, or the reason why none does.

    A missing age excludes in profile triage; in profile research the image is taken as an adult's, and says so.
    """
    if not packages:
        return Exclusion("no-model", "no model is active on this node: an admin has to activate one")
    notes: list[str] = []
    age = age_at_study(header, profile)
    if age is None:
        if profile == "triage":
            return Exclusion(
                "age-unknown", "the patient's age is not known: neither age nor birth date is usable", AGE_ATTRIBUTE
            )
        age = Age(18.0, "the patient's age is not known: taken as an adult")
    if age.note:
        notes.append(age.note)
    view, attribute = view_of(header, profile)
    if attribute.startswith("(0018,5100)"):
        notes.append(f"the view was taken from {attribute}")
    fitting = tuple(
        package
        for package in packages
        if _covers(package.manifest.intended_use.age_years, age.years) and view in package.manifest.intended_use.views
    )
    if fitting:
        return Route(fitting, tuple(notes))
    ranges = ", ".join(
        f"{package.manifest.name} {_range(package.manifest.intended_use.age_years)}" for package in packages
    )
    shown = f"{int(age.years)} years" if age.years >= 1 else "under 1 year"
    return Exclusion("age", f"no model is meant for this age: {shown} ({ranges})", AGE_ATTRIBUTE, shown)


# Whom a person may say that a picture without a header shows: ages in completed years, both ends included.
POPULATIONS: dict[str, tuple[float, float]] = {"adult": (18.0, 18.0), "child": (1.0, 5.0)}


def route_stated(population: str, packages: Sequence[ModelPackage]) -> Route | Exclusion:
    """Return the packages for a picture of which a person said whom it shows, and that it is a frontal chest."""
    if population not in POPULATIONS:
        return Exclusion(
            "not-stated", "a picture carries no age and no view: say whom it shows, and that it is a frontal chest"
        )
    low, high = POPULATIONS[population]
    fitting = tuple(
        package
        for package in packages
        if _covers(package.manifest.intended_use.age_years, low)
        and _covers(package.manifest.intended_use.age_years, high)
        and set(FRONTAL).intersection(package.manifest.intended_use.views)
    )
    if not fitting:
        return Exclusion("age", "no model that runs here is meant for whom the picture was said to show")
    return Route(fitting, ("age and view are not in the picture: somebody stated them",))


def _covers(bounds: tuple[float, float], years: float) -> bool:
    """Bounds are completed years, both included: (1, 5) ends on the day before the sixth birthday."""
    return bounds[0] <= years < bounds[1] + 1


def _range(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:g} years and older" if bounds[1] >= 120 else f"{bounds[0]:g} to {bounds[1]:g} years"
