"""The input pipeline gives what the node's preprocessing gives, and the same batches to everyone who asks."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from cxr_node.imaging import PreprocessSpec, preprocess
from trainer.augment import Augment
from trainer.inputs import Batches, prepare

SPEC = PreprocessSpec((20, 16))
STILL = Augment(
    flip=False, rotate_degrees=0, scale=0, shift=0, gamma=0, contrast=0, brightness=0, equalize=0, blur=0, sharpen=0,
    noise=0, jpeg=0, erase=0,
)  # fmt: skip


def batches(inputs, **changes):
    n = len(inputs)
    values = {
        "targets": np.arange(n, dtype=np.float32)[:, np.newaxis] / n,
        "weights": np.ones((n, 1), np.float32),
        "augment": Augment(),
        "batch": 8,
        "seed": 3,
        **changes,
    }
    return Batches(inputs=inputs, **values)


@pytest.mark.requirement("SRS-TRN-010")
def test_prepared_inputs_are_the_nodes_preprocessing_to_a_65535th(drawn_cohort, tmp_path):
    """A second way to a model's input is the classic silent failure."""
    cases = drawn_cohort.cases[:5]
    inputs = prepare(cases, SPEC, tmp_path, "train")
    for index, case in enumerate(cases):
        expected = preprocess(case.radiograph(), SPEC)[..., 0]
        assert np.abs(inputs.image(index) - expected).max() <= 0.5001 / 65535
    assert inputs.images(1, 3).shape == (2, 20, 16, 1)


@pytest.mark.requirement("SRS-TRN-010")
def test_a_picture_is_decoded_once_and_again_when_it_changes(drawn_cohort, tmp_path, monkeypatch):
    """The second run of a day must not wait for decoding, and must not learn yesterday's picture."""
    copy = tmp_path / "picture.png"
    copy.write_bytes(drawn_cohort.cases[0].content())
    case = replace(drawn_cohort.cases[0], path=copy)
    first = prepare([case], SPEC, tmp_path / "cache", "train").image(0)
    with monkeypatch.context() as patch:
        patch.setattr("trainer.inputs.preprocess", lambda *_: pytest.fail("decoded again"))
        assert np.array_equal(prepare([case], SPEC, tmp_path / "cache", "train").image(0), first)
    copy.write_bytes(drawn_cohort.cases[-1].content())
    assert not np.array_equal(prepare([case], SPEC, tmp_path / "cache", "train").image(0), first)


@pytest.mark.requirement("SRS-TRN-010")
def test_a_broken_picture_is_counted_and_the_others_keep_their_labels(drawn_cohort, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    cases = [drawn_cohort.cases[0], replace(drawn_cohort.cases[1], path=broken), drawn_cohort.cases[2]]
    inputs = prepare(cases, SPEC, tmp_path / "cache", "train")
    assert [case.identifier for case in inputs.cases] == [cases[0].identifier, cases[2].identifier]
    assert len(inputs.problems) == 1
    assert inputs.problems[0].startswith(cases[1].identifier)
    assert np.abs(inputs.image(1) - preprocess(cases[2].radiograph(), SPEC)[..., 0]).max() < 1e-4


@pytest.mark.requirement("SRS-TRN-010")
def test_batches_are_the_same_for_any_number_of_threads_and_workers(drawn_cohort, tmp_path):
    """Two workers that share a batch must see together what one would have seen."""
    inputs = prepare(drawn_cohort.cases[:21], SPEC, tmp_path, "train")
    made = batches(inputs)
    alone = list(made.epoch(2, threads=1))
    assert len(alone) == made.steps == 3
    assert all(images.shape == (8, 20, 16, 1) and targets.shape == (8, 2) for images, targets in alone)
    for (images, targets), *shares in zip(
        alone, made.epoch(2, share=(0, 2), threads=3), made.epoch(2, share=(1, 2)), strict=True
    ):
        assert np.array_equal(images, np.concatenate([share[0] for share in shares]))
        assert np.array_equal(targets, np.concatenate([share[1] for share in shares]))
    assert not np.array_equal(alone[0][0], next(iter(made.epoch(3)))[0])


@pytest.mark.requirement("SRS-TRN-010")
def test_an_epoch_shows_every_case_once_or_draws_them_by_their_chance(drawn_cohort, tmp_path):
    inputs = prepare(drawn_cohort.cases[:21], SPEC, tmp_path, "train")
    natural = batches(inputs).order(0)
    assert len(natural) == 24
    assert set(natural) == set(range(21))
    assert np.array_equal(natural[21:], natural[:3])
    chance = np.where(np.arange(21) < 3, 9.0, 1.0)
    drawn = np.concatenate([batches(inputs, chance=chance).order(epoch) for epoch in range(40)])
    assert (drawn < 3).mean() == pytest.approx(27 / 45, abs=0.06)


@pytest.mark.requirement("SRS-TRN-010")
def test_mixed_images_carry_mixed_labels_and_an_unknown_label_lends_nothing(drawn_cohort, tmp_path):
    inputs = prepare(drawn_cohort.cases[:8], SPEC, tmp_path, "train")
    weights = np.ones((8, 1), np.float32)
    weights[0] = 0
    targets = (np.arange(8, dtype=np.float32) % 2)[:, np.newaxis]
    made = batches(inputs, targets=targets, weights=weights, mixup=0.4, augment=STILL)
    order = made.order(0)
    (images, joined) = next(iter(made.epoch(0)))
    mixed, weighed = joined[:, 0], joined[:, 1]
    position = int(np.flatnonzero(order == 0)[0])
    partner = order[7 - position]
    assert mixed[position] == pytest.approx(targets[partner, 0], abs=1e-6)
    assert 0 < weighed[position] < 1
    keep = max(weighed[position], 1 - weighed[position])
    assert images[position] == pytest.approx(
        keep * inputs.image(0)[..., np.newaxis] + (1 - keep) * inputs.image(int(partner))[..., np.newaxis], abs=1e-5
    )


@pytest.mark.requirement("SRS-TRN-010")
def test_many_may_prepare_the_same_cases_in_one_folder_at_once(drawn_cohort, tmp_path):
    """Workers of one run share the folder; one that finds its file renamed away would end the run of all."""
    cases = drawn_cohort.cases[:30]
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda _: prepare(cases, SPEC, tmp_path, "train", threads=1), range(6)))
    for inputs in made:
        assert len(inputs) == 30
        assert np.array_equal(inputs.images(0, 30), made[0].images(0, 30))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".npy"]
