import numpy as np
import pytest
import torch

from siamese_diffusion.evaluation.metrics.mask_fit import (
    boundary_distance,
    derangement,
    interval,
    join,
    mask_fit,
    of_healthy,
    of_lesions,
    pair_scores,
    shuffled_fit,
)
from siamese_diffusion.segmentation import metrics


def random_masks(count: int = 40) -> np.ndarray:
    """Each in a place of its own, so that another's mask does not fit."""
    masks = np.zeros((count, 16, 16), bool)
    for i, (y, x) in enumerate(np.random.default_rng(0).integers(0, 10, (count, 2))):
        masks[i, y : y + 6, x : x + 6] = True
    return masks


def test_agrees_with_the_metrics_of_segmentation() -> None:
    random = np.random.default_rng(0)
    predictions, masks = random.random((12, 8, 8)), random.random((12, 8, 8)) < 0.3
    predictions[0], masks[0] = 0, False
    scores = pair_scores(predictions, masks)
    expected = metrics.score(torch.from_numpy(predictions), torch.from_numpy(masks))
    np.testing.assert_allclose(scores["dice"], expected.dice)
    np.testing.assert_allclose(scores["iou"], expected.iou)


def test_boundary_distance_by_brute_force() -> None:
    random = np.random.default_rng(0)
    for _ in range(5):
        masks = [np.kron(random.random((6, 8)) < 0.4, np.ones((3, 3))).astype(bool) for _ in range(2)]
        borders = []
        for mask in masks:
            padded = np.pad(mask, 1)
            inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
            borders.append(np.argwhere(mask & ~inner))
        away = np.linalg.norm(borders[0][:, None] - borders[1][None], axis=-1)
        expected = (away.min(1).sum() + away.min(0).sum()) / sum(away.shape) / np.hypot(18, 24)
        assert boundary_distance(*masks) == pytest.approx(expected)


def test_boundary_distance_of_known_masks() -> None:
    mask = np.zeros((32, 32), bool)
    mask[4:20, 6] = True
    moved = np.roll(mask, 5, 1)
    assert boundary_distance(mask, mask) == 0
    assert boundary_distance(mask, moved) == pytest.approx(5 / np.hypot(32, 32))
    nothing = np.zeros_like(mask)
    assert boundary_distance(nothing, nothing) == 0
    assert boundary_distance(mask, nothing) == boundary_distance(nothing, mask) == 1
    full = np.ones_like(mask)  # the image's edge is a border too
    assert 0 < boundary_distance(full, mask) < 0.5
    scores = pair_scores(np.stack([mask, nothing]).astype(float), np.stack([moved, mask]))
    assert scores["boundary"].tolist() == [boundary_distance(mask, moved), 1]


def test_perfect_images_fit_their_masks_and_not_those_of_others() -> None:
    masks = random_masks()
    fit = mask_fit(masks.astype(np.float32), masks)
    assert fit["dice"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    shuffled = shuffled_fit(masks.astype(np.float32), masks)
    assert shuffled["dice"]["high"] < 0.6
    assert shuffled == shuffled_fit(masks.astype(np.float32), masks)
    assert shuffled != shuffled_fit(masks.astype(np.float32), masks, seed=1)


def test_derangement_moves_every_index() -> None:
    for count in (2, 3, 10, 101):
        for seed in range(5):
            order = derangement(count, seed)
            assert sorted(order) == list(range(count))
            assert not (order == np.arange(count)).any()
    with pytest.raises(ValueError, match="two"):
        derangement(1)


def test_interval_covers_the_mean_of_the_population() -> None:
    covered = 0
    for seed in range(40):
        values = np.random.default_rng(seed).normal(0.7, 0.1, 50)
        found = interval(values)
        assert found["low"] < found["mean"] < found["high"]
        assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(50), rel=0.5)
        covered += found["low"] <= 0.7 <= found["high"]
    assert covered >= 34  # 95 % of 40 is 38


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="differ"):
        pair_scores(np.zeros((2, 4, 4)), np.zeros((2, 4, 5), bool))


def test_healthy_pairs_are_counted_apart() -> None:
    """Their Dice is 1 or 0 by a single pixel, so they would raise the fit of a generator that draws many of them."""
    masks = np.zeros((5, 8, 8), bool)
    masks[:2, 2:6, 2:6] = True
    seen = np.zeros((5, 8, 8), np.float32)
    seen[0] = masks[0]
    seen[4, 0, 0] = 1.0
    first, second = pair_scores(seen[:2], masks[:2]), pair_scores(seen[2:], masks[2:])
    assert "lesion" not in first
    scores = join([first, second])
    assert scores["lesion"].tolist() == [1, 1, 0, 0, 0]
    assert scores["dice"].tolist() == [1, 0, 1, 1, 0]
    assert of_lesions(scores)["dice"].tolist() == [1, 0]
    assert of_healthy(scores) == {"count": 3, "specificity": pytest.approx(2 / 3)}
    assert of_healthy(first) is None
    assert mask_fit(seen, masks)["dice"]["mean"] == 0.5
    alone = pair_scores(seen[2:], masks[2:])
    assert of_lesions(alone)["dice"].tolist() == [1, 1, 0]  # where none has a lesion, all there is
