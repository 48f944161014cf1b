"""Data cards and training records: what they count is what the records count."""

import json
import tomllib
from dataclasses import fields

import pytest

from regulatory.sources import cohorts, cohorts_leaks, models
from regulatory.sources.records import PACKAGES, RUNS, released
from tests.conftest import ROOT
from tests.regulatory.committed import NAMES, PACKAGE, changed, copy_records, figures, table
from trainer.augment import Augment
from trainer.config import Training


@pytest.fixture
def copied(tmp_path):
    return copy_records(tmp_path)


@pytest.mark.requirement("SRS-REG-024")
@pytest.mark.parametrize(("cohort", "run"), [("kermany", "pneumonia-paediatric"), ("nih", "abnormal-adult")])
def test_a_data_card_counts_what_the_run_counted(cohort, run):
    """Exploration and training read the cohort by the same reader; a card of other images would show here."""
    explored = json.loads((ROOT / RUNS / f"exploration-{cohort}.json").read_text())
    trained = json.loads((ROOT / RUNS / run / "run.json").read_text())["cohort"]
    for part, counts in explored["counts"]["parts"].items():
        assert counts == {key: trained["parts"][part][key] for key in ("images", "patients")}, part
    assert explored["cohort"]["split_rule"] == trained["split_rule"]


@pytest.mark.requirement("SRS-REG-024")
def test_age_bands_add_up_to_the_images_with_an_age():
    rows = [row for row in table(cohorts.gather(ROOT), "nih.demographics").rows if row[0] == "age" and row[3]]
    counted = sum(int(row[2].replace(",", "")) for row in rows)
    record = json.loads((ROOT / RUNS / "exploration-nih.json").read_text())["age"]
    assert counted == record["known"] - record["above_120"] - record["below_0"]


@pytest.mark.requirement("SRS-REG-024")
def test_a_leak_between_parts_stands_on_the_page(copied):
    def leak(value):
        value["overlap"]["patients"]["train and test"] = 3
        value["duplicates"]["bytes"]["over_parts"] = 1

    changed(copied / RUNS / "exploration-kermany.json", leak)
    material = cohorts_leaks.gather(copied)
    assert figures(material)["kermany.shared-patients"].shown == "3"
    assert ("train and test", "3", "0") in table(material, "kermany.overlap").rows
    consistency = dict(table(cohorts.gather(copied), "kermany.consistency").rows)
    assert consistency["… of them in different parts"] == "1"


@pytest.mark.requirement("SRS-REG-024")
def test_completeness_falls_with_each_value_that_is_missing(copied):
    def forget(value):
        value["age"]["unknown"] = 193

    changed(copied / RUNS / "exploration-nih.json", forget)
    rows = {row[0]: row[1] for row in table(cohorts.gather(copied), "nih.completeness").rows}
    assert rows["age"] == "1,737 of 1,930"


@pytest.mark.requirement("SRS-REG-024")
def test_a_cohort_that_was_not_explored_reads_not_run(copied):
    (copied / RUNS / "exploration-nih.json").unlink()
    material, leaks = cohorts.gather(copied), cohorts_leaks.gather(copied)
    for key in ("parts", "demographics", "completeness", "coverage", "consistency"):
        assert table(material, f"nih.{key}").rows[0][0] == "not run", key
    assert table(leaks, "nih.shortcuts").rows[0][0] == "not run"
    assert figures(leaks)["nih.shared-patients"].shown == "not run"


@pytest.mark.requirement("SRS-REG-024")
def test_every_cohort_that_a_package_learned_from_has_a_card():
    words = tomllib.loads((ROOT / cohorts.WORDS).read_text())
    for package in released(ROOT):
        assert package.name in words[package.run["cohort"]["name"]]["used_by"]


@pytest.mark.requirement("SRS-REG-025")
@pytest.mark.parametrize("name", NAMES)
def test_frozen_tuned_and_added_weights_are_all_of_the_network(name):
    package = next(item for item in released(ROOT) if item.name == name)
    kinds = models.blocks(package).values()
    total = sum(entry[kind] for entry in kinds for kind in ("frozen", "tuned", "added"))
    assert total == package.run["parameters"]
    assert sum(entry["added"] for entry in kinds) == 1281 * len(package.manifest["findings"])


@pytest.mark.requirement("SRS-REG-025")
def test_a_block_that_was_frozen_is_printed_as_frozen(copied):
    def freeze(value):
        value["config"]["training"]["freeze"] = "block3"

    changed(copied / RUNS / PACKAGE / "run.json", freeze)
    package = next(item for item in released(copied) if item.name == PACKAGE)
    found = models.blocks(package)
    assert [name for name, entry in found.items() if not entry["tuned"]] == [
        "stem",
        "block1",
        "block2",
        "block3",
        "scores",
    ]


@pytest.mark.requirement("SRS-REG-025")
def test_weights_of_another_network_are_refused(copied):
    def add_a_layer(value):
        value["config"]["layers"].append({"class_name": "Dense", "config": {"name": "more", "use_bias": True}})

    changed(copied / PACKAGES / PACKAGE / "architecture.json", add_a_layer)
    with pytest.raises(models.NetworkError, match=r"0 arrays for layer more, not 2"):
        models.gather(copied)


@pytest.mark.requirement("SRS-REG-025")
def test_every_setting_of_training_and_augmentation_is_named():
    """A setting that comes anew must not be printed without what it is."""
    assert set(models.SETTINGS) == {field.name for field in fields(Training)}
    assert set(models.AUGMENT) == {field.name for field in fields(Augment)}


@pytest.mark.requirement("SRS-REG-025")
def test_another_learning_rate_changes_the_training_record(copied):
    def slower(value):
        value["config"]["training"]["learning_rate"] = 0.00005

    changed(copied / RUNS / PACKAGE / "run.json", slower)
    material = models.gather(copied)
    assert figures(material)[f"{PACKAGE}.learning-rate"].shown == "5e-05"
    rows = {row[0]: row[2] for row in table(material, f"{PACKAGE}.training-settings").rows}
    assert rows["`learning_rate`"] == "5e-05"


@pytest.mark.requirement("SRS-REG-025")
def test_without_a_run_the_training_record_reads_not_run(copied):
    (copied / RUNS / PACKAGE / "run.json").unlink()
    (copied / RUNS / PACKAGE / "log.csv").unlink()
    material = models.gather(copied)
    assert figures(material)[f"{PACKAGE}.batch"].shown == "not run"
    for key in ("training-settings", "layers", "log"):
        assert table(material, f"{PACKAGE}.{key}").rows[0][0] == "not run", key
