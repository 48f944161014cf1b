"""What training may do to an image, and what it may not."""

import numpy as np
import pytest

from trainer.augment import Augment, augmented

pytestmark = pytest.mark.requirement("SRS-TRN-007")


@pytest.fixture(scope="module")
def image():
    y, x = np.meshgrid(np.linspace(0, 1, 40), np.linspace(0, 1, 32), indexing="ij")
    return (0.2 + 0.6 * y + 0.1 * x).astype(np.float32)


def test_a_changed_image_is_still_an_input_and_the_original_is_left_alone(image):
    before = image.copy()
    for seed in range(60):
        changed = augmented(image, Augment(), np.random.default_rng(seed))
        assert changed.shape == image.shape
        assert changed.dtype == np.float32
        assert changed.min() >= 0
        assert changed.max() <= 1
    assert np.array_equal(image, before)


def test_the_same_seed_makes_the_same_change(image):
    """A run can be made again."""
    first, again = (augmented(image, Augment(), np.random.default_rng(9)) for _ in range(2))
    assert np.array_equal(first, again)


def test_up_stays_up(image):
    """The image brightens downwards; whatever is done to it, it does so afterwards."""
    calm = Augment(erase=0, equalize=0, brightness=0, contrast=0)
    for seed in range(60):
        middle = augmented(image, calm, np.random.default_rng(seed))[:, 12:20]
        assert middle[25:32].mean() > middle[8:15].mean()


def test_nothing_is_changed_where_all_is_off(image):
    off = Augment(0, 0, 0, False, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    assert np.abs(augmented(image, off, np.random.default_rng(0)) - image).max() < 1e-5
