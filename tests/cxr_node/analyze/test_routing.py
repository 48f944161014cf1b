"""Which model looks at an image: by age, as the manifests say."""

from types import SimpleNamespace

import pytest
from pydicom.dataset import Dataset

from cxr_node.analyze.routing import Route, age_at_study, route
from cxr_node.findings import Exclusion

pytestmark = pytest.mark.requirement("SRS-ANA-003")


def _package(name: str, low: float, high: float) -> SimpleNamespace:
    use = SimpleNamespace(age_years=(low, high), views=("PA", "AP"))
    return SimpleNamespace(manifest=SimpleNamespace(name=name, intended_use=use))


PACKAGES = (_package("adult", 18, 120), _package("paediatric", 1, 5))


def _header(**attributes: str) -> Dataset:
    header = Dataset()
    header.ViewPosition = "PA"
    for keyword, value in attributes.items():
        setattr(header, keyword, value)
    return header


@pytest.mark.parametrize(
    ("age", "name"),
    [("018Y", "adult"), ("120Y", "adult"), ("001Y", "paediatric"), ("005Y", "paediatric"), ("012M", "paediatric")],
)
def test_an_age_inside_a_model_goes_to_it(age, name):
    """Bounds are completed years, both included."""
    found = route(_header(PatientAge=age), "triage", PACKAGES)
    assert isinstance(found, Route)
    assert [package.manifest.name for package in found.packages] == [name]


@pytest.mark.parametrize("age", ["017Y", "006Y", "011M", "030D", "052W"])
def test_an_age_between_the_models_is_excluded_and_says_which_there_are(age):
    """52 weeks are one day short of a year."""
    found = route(_header(PatientAge=age), "triage", PACKAGES)
    assert isinstance(found, Exclusion)
    assert found.reason == "age"
    assert "18 years and older" in found.message
    assert "1 to 5 years" in found.message


@pytest.mark.parametrize(
    ("born", "study", "years"),
    [
        ("20200615", "20260614", 5),
        ("20200615", "20260615", 6),
        ("1960.01.02", "20260101", 65),
        ("20200229", "20210301", 1),
    ],
)
def test_without_an_age_the_dates_tell_it(born, study, years):
    """Completed years, as a person counts birthdays."""
    found = age_at_study(_header(PatientBirthDate=born, StudyDate=study), "triage")
    assert found is not None
    assert found.years == years


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"PatientBirthDate": "19600101"},
        {"PatientBirthDate": "20270101", "StudyDate": "20260101"},
        {"PatientBirthDate": "18000101", "StudyDate": "20260101"},
        {"PatientBirthDate": "1960", "StudyDate": "20260101"},
        {"PatientBirthDate": "19601341", "StudyDate": "20260101"},
    ],
)
def test_an_unknown_age_excludes_in_triage_and_is_said_in_research(attributes):
    """The stated rule for a missing age, in both profiles."""
    strict = route(_header(**attributes), "triage", PACKAGES)
    assert isinstance(strict, Exclusion)
    assert strict.reason == "age-unknown"
    loose = route(_header(**attributes), "research", PACKAGES)
    assert isinstance(loose, Route)
    assert "taken as an adult" in loose.notes[0]


def test_an_age_without_a_unit_is_years_in_research_only():
    """`81` is no legal Age String; a strict node does not guess what it counts."""
    assert age_at_study(_header(PatientAge="81"), "triage") is None
    found = age_at_study(_header(PatientAge="81"), "research")
    assert found is not None
    assert found.years == 81
    assert "without a unit" in found.note


def test_a_view_outside_the_manifest_is_not_scored():
    """A package for PA only does not take AP."""
    only_pa = SimpleNamespace(
        manifest=SimpleNamespace(name="pa", intended_use=SimpleNamespace(age_years=(0, 120), views=("PA",)))
    )
    assert isinstance(route(_header(PatientAge="040Y", ViewPosition="AP"), "triage", (only_pa,)), Exclusion)
