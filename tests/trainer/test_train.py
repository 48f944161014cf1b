"""A run can be stopped, gone on with, and made again; it says what it was made from."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from trainer import train as train_module
from trainer.architectures import ARCHITECTURES
from trainer.cohorts import COHORTS, Case
from trainer.config import CONFIGS, ConfigError, load_config
from trainer.inputs import prepare
from trainer.predictor import run_predictor
from trainer.record import cases_sha256, read_log
from trainer.targets import case_weights, chosen_cases, make_batches, patient_fold, taught_scores
from trainer.train import learning_rate, log_row, train


@pytest.fixture(scope="module")
def finished(drawn_cohort, config_file, tmp_path_factory):
    """A run of two epochs without a stop."""
    return train(load_config(str(config_file)), drawn_cohort, tmp_path_factory.mktemp("runs") / "whole")


@pytest.mark.requirement("SRS-TRN-005")
def test_a_run_that_was_stopped_ends_with_the_same_weights(finished, drawn_cohort, config_file, tmp_path, monkeypatch):
    """Hours of training must survive a restart, and a restart must not make another model."""
    append = train_module.append_log

    def stopped(run, row):
        append(run, row)
        raise KeyboardInterrupt

    config = load_config(str(config_file))
    monkeypatch.setattr(train_module, "append_log", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(config, drawn_cohort, tmp_path)
    assert [row["epoch"] for row in read_log(tmp_path)] == ["1"]
    monkeypatch.setattr(train_module, "append_log", append)
    train(config, drawn_cohort, tmp_path)
    assert [row["epoch"] for row in read_log(tmp_path)] == ["1", "2"]
    with np.load(finished / "checkpoint.npz") as whole, np.load(tmp_path / "checkpoint.npz") as parts:
        assert sorted(whole.files) == sorted(parts.files)
        for name in whole.files:
            assert np.allclose(whole[name], parts[name], atol=1e-4), name


@pytest.mark.requirement("SRS-TRN-005")
def test_a_probe_starts_the_last_layer_and_frozen_normalisation_stays(drawn_cohort, config_file, tmp_path):
    """On a few hundred images a random last layer would first spoil the features that it is to read."""
    config = load_config(str(config_file))
    settings = replace(config.training, probe=1.0, freeze_normalisation=True, epochs=1, learning_rate=1e-9, keep="last")
    train(replace(config, training=settings), drawn_cohort, tmp_path)
    log = read_log(tmp_path)
    assert [row["epoch"] for row in log] == ["0", "1"]
    assert float(log[0]["tune_auc"]) == 1.0
    with np.load(tmp_path / "average.npz") as stored:
        shapes = [stored[name].shape for name in sorted(stored.files)]
        statistics = [stored[name] for name in sorted(stored.files) if stored[name].shape == (8,)]
    assert len(shapes) == 10
    # bias, then gamma, beta, mean and variance as they were made, then bias
    assert np.array_equal(statistics[3], np.zeros(8))
    assert np.array_equal(statistics[4], np.ones(8))


@pytest.mark.requirement("SRS-TRN-005")
def test_the_epoch_that_is_kept_is_the_best_or_the_last_as_asked(drawn_cohort, config_file, tmp_path, monkeypatch):
    """Where the tune part shares a clue with the train part, the best epoch is the one that reads the clue."""
    config = load_config(str(config_file))
    values = iter([0.9, 0.6, 0.9, 0.6])
    monkeypatch.setattr(train_module, "mean_auc", lambda labels, scores: next(values))
    kept = {}
    for keep in ("best", "last"):
        out = tmp_path / keep
        train(replace(config, training=replace(config.training, keep=keep)), drawn_cohort, out)
        with np.load(out / "average.npz") as released, np.load(out / "checkpoint.npz") as checkpoint:
            kept[keep] = all(
                np.array_equal(released[name], checkpoint[f"average-{name}"]) for name in sorted(released.files)
            )
    assert kept == {"best": False, "last": True}


@pytest.mark.requirement("SRS-TRN-005")
def test_a_run_tells_data_code_seed_and_machine(finished, drawn_cohort, config_file):
    record = json.loads((finished / "run.json").read_text())
    assert record["config"]["training"]["seed"] == 5
    assert record["config"]["sha256"] == hashlib.sha256(config_file.read_bytes()).hexdigest()
    assert record["start_weights"] == {"source": "none", "sha256": ""}
    parts = record["cohort"]["parts"]
    assert {part: parts[part]["images"] for part in parts} == {"train": 48, "tune": 8, "test": 24, "apart": 0}
    assert len(record["code"]["sources_sha256"]) == 64
    assert {"python", "keras", "tensorflow", "numpy", "cores"} <= set(record["environment"])


@pytest.mark.requirement("SRS-TRN-005")
def test_the_data_hash_follows_a_label_and_a_byte(drawn_cohort, tmp_path):
    """A run on quietly changed data must not look like the same run."""
    cases = drawn_cohort.part("train")[:3]
    before = cases_sha256(cases)
    assert cases_sha256(cases[::-1]) == before
    assert cases_sha256([replace(cases[0], labels={"pneumonia": 0.5}), *cases[1:]]) != before
    other = tmp_path / cases[0].path.name
    other.write_bytes(cases[0].path.read_bytes() + b" ")
    assert cases_sha256([replace(cases[0], path=other), *cases[1:]]) != before


@pytest.mark.requirement("SRS-TRN-005")
def test_within_every_group_present_and_absent_weigh_the_same(tmp_path):
    """Else the network may answer with the view, which tells the label in this cohort."""
    counts = {("PA", 1.0): 10, ("PA", 0.0): 30, ("AP", 1.0): 20, ("AP", 0.0): 10}
    cases = [
        Case(f"{view}{label}{n}", tmp_path, {"pneumonia": label}, "p", "train", view=view)
        for (view, label), count in counts.items()
        for n in range(count)
    ]
    cases.append(Case("unknown", tmp_path, {"pneumonia": float("nan")}, "p", "train", view="PA"))
    weights = case_weights(cases, np.array([case.labels["pneumonia"] for case in cases]), ("view",))
    assert weights[-1] == 0
    for view in ("PA", "AP"):
        sums = [
            weights[[case.view == view and case.labels["pneumonia"] == label for case in cases]].sum()
            for label in (0.0, 1.0)
        ]
        assert sums[0] == pytest.approx(sums[1], rel=1e-5)


@pytest.mark.requirement("SRS-TRN-005")
def test_the_learning_rate_rises_and_then_falls_to_a_hundredth(config_file):
    config = load_config(str(config_file))
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates.index(max(rates)) in (9, 10)
    assert max(rates) == pytest.approx(config.training.learning_rate)
    assert rates[-1] == pytest.approx(config.training.learning_rate / 100, rel=0.1)


@pytest.mark.requirement("SRS-TRN-005")
@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_configuration_of_the_trainer_reads(path):
    config = load_config(path.stem)
    assert config.name == path.stem
    assert config.cohort in COHORTS
    assert config.architecture in ARCHITECTURES
    assert not config.package or config.package["limitations"]


@pytest.mark.requirement("SRS-TRN-005")
@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("seed = 5", "sead = 5", "unknown key training.sead"),
        ("size = [24, 24]", "", "expected the key 'size'"),
        ("seed = 5", 'seed = "five"', "training.seed: expected a int, found 'five'"),
        ("seed = 5", 'fold = "4/3"', "expected one like '2/4', found '4/3'"),
        ("sensitivity = 0.9", 'rule = "best"', "operating_point.rule: expected one of"),
        ('finding = "pneumonia"', "findings = []", "expected a list of findings"),
        ('architecture = "tiny"', 'architecture = "tiny"\nactivation = "relu"', "unknown key model.activation"),
        ('cohort = "kermany"', "cohort = ", "drawn.toml"),
        ("seed = 5", 'keep = "first"', "training.keep: expected one of best, last"),
    ],
)
def test_a_configuration_with_a_slip_is_refused_with_the_key(config_file, tmp_path, old, new, says):
    path = tmp_path / "drawn.toml"
    path.write_text(config_file.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=says):
        load_config(str(path))


@pytest.mark.requirement("SRS-TRN-005")
def test_a_configuration_that_is_nowhere_lists_the_trainers_own():
    with pytest.raises(ConfigError, match="pneumonia-adult"):
        load_config("nothing")


@pytest.mark.requirement("SRS-TRN-005")
def test_a_run_stops_when_the_tune_part_has_not_improved_for_the_patience(
    drawn_cohort, config_file, tmp_path, monkeypatch
):
    """Epochs after the best one cost hours and are not kept."""
    config = load_config(str(config_file))
    values = iter([0.5, 0.9, 0.8, 0.9, 0.7, 0.7])
    monkeypatch.setattr(train_module, "mean_auc", lambda labels, scores: next(values))
    train(replace(config, training=replace(config.training, epochs=6, patience=2)), drawn_cohort, tmp_path)
    assert [row["tune_auc"] for row in read_log(tmp_path)] == ["0.5", "0.9", "0.8", "0.9"]


@pytest.mark.requirement("SRS-TRN-005")
def test_a_fold_left_out_is_not_shown_and_every_case_is_left_out_once(drawn_cohort, config_file, tmp_path, monkeypatch):
    """A teacher that was shown a case would only repeat its label."""
    config = load_config(str(config_file))
    shown = []
    for fold in ("1/3", "2/3", "3/3"):
        cases, _ = chosen_cases(replace(config, training=replace(config.training, fold=fold)), drawn_cohort)
        shown.append({case.identifier for case in cases})
    everything = {case.identifier for case in drawn_cohort.part("train")}
    assert all(sum(identifier in part for part in shown) == 2 for identifier in everything)
    twins = [replace(drawn_cohort.cases[0], patient=f"p{n}", duplicate_group="7") for n in range(9)]
    assert len({patient_fold(case, 3) for case in twins}) == 1


@pytest.mark.requirement("SRS-TRN-005")
def test_teachers_are_heard_on_cases_that_they_were_not_shown(drawn_cohort, config_file, tmp_path):
    """Taught are the label and the mean of the teachers, in the share that the configuration gives."""
    config = load_config(str(config_file))
    for fold in ("1/2", "2/2"):
        teacher = replace(config, training=replace(config.training, fold=fold, epochs=1))
        train(teacher, drawn_cohort, tmp_path / f"teacher-{fold[0]}", cache=tmp_path / "cache")
    settings = replace(config.training, teachers=("teacher-1", "teacher-2"), teach=0.5)
    student = replace(config, training=settings)
    cases = drawn_cohort.part("train")
    taught = taught_scores(student, "pneumonia", cases, tmp_path)
    by_fold = {fold: run_predictor(tmp_path / f"teacher-{fold + 1}").score(cases).of("pneumonia") for fold in (0, 1)}
    expected = [by_fold[patient_fold(case, 2)][index] for index, case in enumerate(cases)]
    assert taught == pytest.approx(expected, abs=1e-5)
    inputs = prepare(cases, config.spec, tmp_path / "cache", "train")
    batches = make_batches(student, inputs, tmp_path / "cache", 1, tmp_path)
    labels = np.array([case.labels["pneumonia"] for case in cases])
    assert batches.targets[:, 0] == pytest.approx(0.5 * labels + 0.5 * taught, abs=1e-5)
    one = replace(config, training=replace(settings, teachers=("teacher-1",)))
    assert np.isnan(taught_scores(one, "pneumonia", cases, tmp_path)).any()


@pytest.mark.requirement("SRS-TRN-009")
def test_an_unknown_label_teaches_nothing_and_is_not_measured(drawn_cohort, config_file, tmp_path):
    """Of fourteen findings most data sets label a few: the others are unknown, not absent."""
    config = replace(load_config(str(config_file)), findings=("pneumonia", "effusion"))
    cases = tuple(replace(case, labels={**case.labels, "effusion": float("nan")}) for case in drawn_cohort.cases)
    train(replace(config, training=replace(config.training, epochs=1)), replace(drawn_cohort, cases=cases), tmp_path)
    model = run_predictor(tmp_path)
    assert model.score(cases[:3]).values.shape == (3, 2)
    # Nothing moved the second output but weight decay: its bias, which has none, stays at zero.
    bias = model.network().get_layer("scores").get_weights()[1]
    assert bias[0] != 0
    assert bias[1] == 0
    labels = np.array([[1, np.nan], [0, np.nan]])
    row = log_row(1, 0.1, 0.1, labels, np.array([[0.9, 0.1], [0.1, 0.9]]), 1.0)
    assert row["tune_auc"] == 1.0
    assert row["tune_loss"] == pytest.approx(-np.log(0.9), abs=1e-4)


@pytest.mark.requirement("SRS-TRN-005")
def test_mixed_precision_trains_float32_weights_and_ends_with_the_run(drawn_cohort, config_file, tmp_path):
    """What is scored afterwards in the same process must not be computed in sixteen bits."""
    import keras

    config = load_config(str(config_file))
    settings = replace(config.training, precision="mixed_bfloat16", epochs=1)
    train(replace(config, training=settings), drawn_cohort, tmp_path)
    assert keras.config.dtype_policy().name == "float32"
    with np.load(tmp_path / "average.npz") as stored:
        assert {stored[name].dtype for name in stored.files} == {np.dtype(np.float32)}
    assert float(read_log(tmp_path)[0]["tune_auc"]) > 0.5


@pytest.mark.requirement("SRS-TRN-005")
def test_balanced_sampling_shows_the_rare_label_as_often_and_leaves_tune_as_it_is(drawn_cohort, config_file, tmp_path):
    """Tune and test keep the prevalence that a threshold will meet."""
    config = load_config(str(config_file))
    config = replace(config, training=replace(config.training, sampling="balanced"))
    train_cases = drawn_cohort.part("train")
    few = [case for case in train_cases if case.labels["pneumonia"] == 1][:6]
    cases = [case for case in train_cases if case.labels["pneumonia"] == 0] + few
    inputs = prepare(cases, config.spec, tmp_path, "train")
    batches = make_batches(config, inputs, tmp_path, 1, tmp_path)
    shown = np.concatenate([batches.targets[batches.order(epoch), 0] for epoch in range(50)])
    assert shown.mean() == pytest.approx(0.5, abs=0.05)
    assert set(np.unique(batches.weights)) == {1.0}
    cohort = replace(drawn_cohort, cases=(*cases, *drawn_cohort.part("tune")))
    assert len(chosen_cases(config, cohort)[1]) == len(drawn_cohort.part("tune"))
