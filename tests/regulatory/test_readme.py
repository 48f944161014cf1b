"""The README's figures are the manifests' figures."""

import json

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.requirement("SRS-TRN-006")


PACKAGES = ROOT / "cxr_node" / "packages"


def _row(name: str) -> str:
    manifest = json.loads((ROOT / "cxr_node" / "packages" / name / "manifest.json").read_text())
    low, high = manifest["intended_use"]["age_years"]
    ages = f"{low:g} years and older" if high >= 120 else f"{low:g} to {high:g} years"
    figures = manifest["figures"]
    part = figures["baselines"]["set"]
    test = figures["test"][part]
    best = max(
        value["auc"]["value"]
        for value in figures["baselines"].values()
        if isinstance(value, dict) and isinstance(value["auc"], dict)
    )

    def shown(figure: dict[str, float]) -> str:
        return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"

    met = f"{sum(item['passed'] for item in figures['criteria'])} of {len(figures['criteria'])}"
    return (
        f"| `{name}` {manifest['version']} | {ages} | {part}, {test['present']} with, {test['absent']} without "
        f"| {shown(test['auc'])} | {shown(test['sensitivity'])} | {shown(test['specificity'])} | {best:.3f} | {met} |"
    )


@pytest.mark.parametrize("name", sorted(path.parent.name for path in PACKAGES.glob("*/manifest.json")))
def test_the_table_of_models_is_the_manifests(name):
    """A figure in a README outlives the model it was measured on, unless something holds it."""
    assert _row(name) in (ROOT / "README.md").read_text()


def test_the_sentence_on_the_adult_model_is_its_figure_against_radiologists():
    """The weakest figure is the one a reader needs most."""
    manifest = json.loads((ROOT / "cxr_node" / "packages" / "pneumonia-adult" / "manifest.json").read_text())
    figure = manifest["figures"]["test"]["rsna-readers"]["auc"]["value"]
    assert f"against radiologists' readings its AUC is {figure:.3f}" in (ROOT / "README.md").read_text()
