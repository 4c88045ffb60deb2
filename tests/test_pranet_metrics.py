import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from recorded import recording
from scipy.ndimage import correlate, distance_transform_edt

from siamese_diffusion.segmentation.metrics import join, score, summary
from siamese_diffusion.segmentation.pranet_metrics import FIGURES, field_scores, stretch, sweep


def maps(count: int = 6, side: int = 40) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Blurred discs as maps, other discs as masks."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    found, masks = [], []
    for _ in range(count):
        centre, radius = random.uniform(0.35, 0.65, 2) * side, random.uniform(0.15, 0.3) * side
        distance = np.hypot(y - centre[0], x - centre[1]) - radius
        found.append(1 / (1 + np.exp(distance / 3 + random.normal(0, 0.5, (side, side)))))
        masks.append(np.hypot(y - centre[0] - 2, x - centre[1] + 3) < radius)
    return np.stack(found), np.stack(masks)


@pytest.mark.parametrize(("kind", "stretched"), [("minmax", True), ("plain", False)])
def test_sweep_is_the_recorded_one_but_for_exact_ties(kind: str, stretched: bool) -> None:
    stored = recording("eval_metrics")
    masks = stored["masks"] > 127
    for i, (picture, mask) in enumerate(zip(stored["maps"], masks, strict=True)):
        values = stretch(picture) if stretched else picture / 255.0
        recorded = np.array([_overlap(values >= threshold, mask) for threshold in np.linspace(1, 0, 256)])
        # by the definition, with the rounded thresholds of the recording
        np.testing.assert_allclose(recorded[:, 0], stored[f"{kind}.dice_curve"][i], atol=1e-9)
        tied = [np.isclose(values, k / 255, rtol=0, atol=1e-12).any() for k in range(255, -1, -1)]
        dice, iou = sweep(picture, mask, stretched)
        free = ~np.array(tied)
        np.testing.assert_allclose(dice[free], stored[f"{kind}.dice_curve"][i][free], atol=1e-9)
        np.testing.assert_allclose(iou[free], stored[f"{kind}.iou_curve"][i][free], atol=1e-9)
    means = np.mean([sweep(picture, mask, stretched)[0] for picture, mask in zip(stored["maps"], masks, strict=True)])
    assert means == pytest.approx({"minmax": 0.54334, "plain": 0.47030}[kind], abs=1e-5)  # with whole numbers
    assert means == pytest.approx(float(stored[f"{kind}.meanDic"]), abs=5e-4)


def test_ties_pass() -> None:
    picture = np.arange(256, dtype=np.uint8).reshape(16, 16)
    mask = np.ones((16, 16), bool)
    dice, iou = sweep(picture, mask)
    np.testing.assert_allclose(iou, np.arange(1, 257) / 256)
    np.testing.assert_allclose(dice, 2 * iou / (1 + iou))


def test_figures_agree_with_their_definitions() -> None:
    probabilities, masks = maps()
    columns = field_scores(probabilities, masks).columns()
    for i, mask in enumerate(masks):
        values = stretch(np.rint(probabilities[i] * 255).astype(np.uint8))
        curves = np.array([_overlap(values >= k / 255 - 1e-12, mask) for k in range(256)])
        assert columns["meanDic"][i] == pytest.approx(curves[:, 0].mean())
        assert columns["meanIoU"][i] == pytest.approx(curves[:, 1].mean())
        assert columns["MAE"][i] == pytest.approx(np.abs(values - mask).mean())
        assert columns["Sm"][i] == pytest.approx(_s_measure(values, mask), abs=1e-6)
        assert columns["wFm"][i] == pytest.approx(_weighted_f(values, mask), abs=1e-6)
        cut = [_e_measure(values >= k / 255 - 1e-12, mask) for k in range(256)]
        assert columns["meanEm"][i] == pytest.approx(np.mean(cut), abs=2e-3)  # the library truncates to 8 bits


def test_best_threshold_is_of_the_mean_curve() -> None:
    probabilities, masks = maps()
    scores = field_scores(probabilities, masks)
    means = scores.means()
    pictures = np.rint(probabilities * 255).astype(np.uint8)
    curves = np.stack([sweep(*each)[0] for each in zip(pictures, masks, strict=True)])
    assert means["maxDic"] == pytest.approx(curves.mean(0).max())
    assert means["maxDic"] <= curves.max(1).mean()
    assert means["meanDic"] < means["maxDic"]
    assert means["maxEm"] > means["meanEm"]


def test_an_image_costs_a_few_bytes_however_many_thresholds() -> None:
    probabilities, masks = maps(8, 16)

    def size(count: int) -> int:
        one = score(torch.from_numpy(probabilities[:count]), torch.from_numpy(masks[:count]), field=True)
        whole = join([one, one])
        assert whole.field is not None
        assert whole.lesion is not None
        assert whole.marked is not None
        arrays = [*whole.field, *(each.numpy() for each in (whole.dice, whole.iou, whole.lesion, whole.marked))]
        return sum(each.nbytes for each in arrays)

    assert (size(8) - size(4)) / 8 <= 80


def test_degenerate_maps_and_masks_have_figures() -> None:
    probabilities = np.zeros((6, 12, 12))
    masks = np.zeros((6, 12, 12), bool)
    probabilities[0] = 0.3  # nothing to find, a constant map
    masks[1] = True
    masks[2, -1] = True  # the centroid is in the last row: two quarters of the S-measure are empty
    masks[3, -1, -1] = True
    probabilities[3, 3, 3] = masks[4, 3, 3] = True
    probabilities[5] = masks[5] = True
    scores = field_scores(probabilities, masks)
    for values in scores.columns().values():
        assert np.isfinite(values).all()
    assert all(math.isfinite(value) for value in scores.means().values())
    assert scores.columns()["meanDic"][0] == 0
    assert scores.columns()["meanDic"][5] == 1


def test_they_join_the_plain_scores_and_the_summary() -> None:
    probabilities, masks = (torch.from_numpy(each) for each in maps())
    whole = score(probabilities, masks, field=True)
    parts = join([score(probabilities[i : i + 2], masks[i : i + 2], field=True) for i in (0, 2, 4)])
    assert parts.means() == pytest.approx(whole.means())
    assert list(whole.columns()) == ["dice", "iou", "meanDic", "meanIoU", "wFm", "Sm", "meanEm", "MAE"]
    small = score(probabilities[:2], masks[:2], field=True)
    result = summary({"whole": whole, "small": small})
    assert result["mean"] is not None
    assert result["weighted"] is not None
    assert set(FIGURES) == whole.means().keys() - {"mDice", "mIoU", "count"}
    for name in ("mDice", "mIoU", *FIGURES):
        large, little = whole.means()[name], small.means()[name]
        assert result["mean"][name] == pytest.approx((large + little) / 2)
        assert result["weighted"][name] == pytest.approx((6 * large + 2 * little) / 8)
    plain = summary({"whole": whole, "small": score(probabilities[:2], masks[:2])})
    assert plain["mean"] is not None
    assert list(plain["mean"]) == ["mDice", "mIoU"]


def _overlap(cut: NDArray[np.bool_], mask: NDArray[np.bool_]) -> tuple[float, float]:
    hit = int((cut & mask).sum())
    both = int(cut.sum() + mask.sum())
    return (2 * hit / both, hit / (both - hit)) if hit else (0.0, 0.0)


def _s_measure(values: NDArray[np.float64], mask: NDArray[np.bool_]) -> float:
    """Fan et al., arXiv:1708.00786, equations 2 to 9."""

    def of_object(part: NDArray[np.float64]) -> float:
        return float(2 * part.mean() / (part.mean() ** 2 + 1 + part.std(ddof=1)))

    share = mask.mean()
    objects = share * of_object(values[mask]) + (1 - share) * of_object(1 - values[~mask])
    rows, columns = np.nonzero(mask)
    row, column = round(float(rows.mean())) + 1, round(float(columns.mean())) + 1
    regions = 0.0
    for vertical in (slice(0, row), slice(row, None)):
        for horizontal in (slice(0, column), slice(column, None)):
            x, y = values[vertical, horizontal].ravel(), mask[vertical, horizontal].ravel().astype(float)
            together = np.cov(x, y)
            top = 4 * x.mean() * y.mean() * together[0, 1]
            below = (x.mean() ** 2 + y.mean() ** 2) * (together[0, 0] + together[1, 1])
            regions += len(x) / mask.size * (top / below if top else float(below == 0))
    return max(0.0, float(0.5 * objects + 0.5 * regions))


def _weighted_f(values: NDArray[np.float64], mask: NDArray[np.bool_]) -> float:
    """Margolin et al., CVPR 2014, as in their code."""
    distance, nearest = distance_transform_edt(~mask, return_indices=True)
    error = np.abs(values - mask)
    spread = np.where(mask, error, error[nearest[0], nearest[1]])
    line = np.exp(-(np.arange(-3, 4) ** 2) / 50)
    kernel = np.outer(line, line)
    smooth = correlate(spread, kernel / kernel.sum(), mode="constant")
    least = np.where(mask & (smooth < error), smooth, error)
    weighted = least * np.where(mask, 1.0, 2 - 0.5 ** (distance / 5))
    recall = 1 - weighted[mask].mean()
    hit = mask.sum() - weighted[mask].sum()
    precision = hit / (hit + weighted[~mask].sum())
    return float(2 * recall * precision / (recall + precision))


def _e_measure(cut: NDArray[np.bool_], mask: NDArray[np.bool_]) -> float:
    """Fan et al., arXiv:1805.10421, equations 1 to 4."""
    p, m = cut - cut.mean(), mask - mask.mean()
    aligned = 2 * p * m / (p**2 + m**2 + np.finfo(float).eps)
    return float(((aligned + 1) ** 2 / 4).sum() / (mask.size - 1))
