import numpy as np
import pytest
import torch

from siamese_diffusion.diffusion.distance_maps import Labels, areas, to_labels, to_maps

SIZE, SIDE = 128, 32  # a finer map than the command's loses nothing either
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE] + 0.5


def disc(y: float, x: float, radius: float) -> np.ndarray:
    return np.asarray(np.hypot(ROWS - y, COLUMNS - x) < radius)


def there_and_back(labels: Labels, classes: int) -> Labels:
    return to_labels(torch.from_numpy(to_maps(labels, classes, SIDE)), SIZE)


@pytest.mark.parametrize(("y", "x", "radius"), [(64, 64, 30), (40, 90, 8), (10, 64, 20), (0, 0, 40), (64, 64, 55)])
def test_an_outline_is_kept_though_the_map_is_coarse(y: float, x: float, radius: float) -> None:
    mask = disc(y, x, radius)[None].astype(np.uint8)
    back = there_and_back(mask, 1)
    assert back.dtype == np.uint8
    assert (mask & back).sum() / (mask | back).sum() > 0.95


def test_signs_and_range() -> None:
    maps = to_maps(disc(64, 64, 30)[None].astype(np.uint8), 1, SIDE)
    assert maps.shape == (1, 1, SIDE, SIDE)
    assert maps.dtype == np.float32
    assert maps[0, 0, 16, 16] > 0.5
    assert maps[0, 0, 0, 0] < -0.8
    assert np.abs(maps).max() <= 1


def test_empty_and_full_masks() -> None:
    labels = np.stack([np.zeros((SIZE, SIZE)), np.ones((SIZE, SIZE))]).astype(np.uint8)
    assert (there_and_back(labels, 1) == labels).all()


def test_parts_stay_apart() -> None:
    mask = (disc(40, 40, 15) | disc(90, 90, 12))[None].astype(np.uint8)
    back = there_and_back(mask, 1)
    assert back[0, 66, 66] == 0
    assert back[0, 40, 40] == back[0, 90, 90] == 1


def test_classes_that_touch_have_no_background_between_them() -> None:
    """A nucleus in its cell; and next to it a cell of one class alone."""
    labels = np.where(disc(64, 44, 16), 2, np.where(disc(64, 44, 34), 1, 0)).astype(np.uint8)
    labels[disc(64, 108, 12)] = 2
    back = there_and_back(labels[None], 2)[0]
    assert (back[disc(64, 44, 31)] > 0).all()
    assert (back != labels).mean() < 0.02
    assert set(np.unique(back)) == {0, 1, 2}


def test_a_class_that_is_absent_stays_so() -> None:
    labels = disc(64, 64, 20)[None].astype(np.uint8) * 2
    back = there_and_back(labels, 3)
    assert set(np.unique(back)) == {0, 2}
    assert areas(labels, 3)[0] == pytest.approx([0, (labels > 0).mean(), 0])
