"""Does an image obey its mask: agreement of a trained segmentation network's prediction with the conditioning mask.

The network is a judge trained on real pairs only. Read its figure beside two others: the judge's own Dice on real test
pairs, which a perfect generator would reach, and the fit against shuffled masks, which one that ignores its mask
reaches.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from siamese_diffusion.segmentation.metrics import dice, iou

Scores = NDArray[np.float64]

RESAMPLES = 2000


def pair_scores(predictions: NDArray[np.floating[Any]], masks: NDArray[np.bool_]) -> dict[str, Scores]:
    """Dice and IoU of every pair, predictions cut at 0.5.

    Args:
        predictions: probabilities (N, R, R) in [0, 1].
        masks: bool (N, R, R).

    Returns:
        `dice` and `iou`, (N,) each in [0, 1]; 1 where prediction and mask are both empty. `boundary`, (N,) in [0, 1],
        is `boundary_distance`. Where some masks are empty, `lesion`, (N,), 1 or 0, says which are not.
    """
    if predictions.shape != masks.shape:
        raise ValueError(f"predictions {predictions.shape} and masks {masks.shape} differ in shape")
    cut = predictions > 0.5
    both = torch.from_numpy(cut), torch.from_numpy(np.asarray(masks))
    lesion = masks.any((1, 2))
    return {
        "dice": dice(*both).numpy(),
        "iou": iou(*both).numpy(),
        "boundary": np.array([boundary_distance(a, b) for a, b in zip(cut, masks, strict=True)], float),
        **({} if lesion.all() else {"lesion": lesion.astype(float)}),
    }


def join(parts: Sequence[dict[str, Scores]]) -> dict[str, Scores]:
    """The scores of a set from those of its parts."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: np.concatenate([part.get(name, np.ones(len(part["dice"]))) for part in parts]) for name in names}


def of_lesions(scores: Mapping[str, Scores]) -> dict[str, Scores]:
    """`dice`, `iou` and `boundary` of the pairs with a lesion; of all, where none has one.

    A healthy pair has no overlap to measure: its Dice is 1 or 0 by a single pixel.
    """
    lesion = scores.get("lesion")
    kept = slice(None) if lesion is None or not lesion.any() else lesion > 0
    return {name: scores[name][kept] for name in ("dice", "iou", "boundary") if name in scores}


def of_healthy(scores: Mapping[str, Scores]) -> dict[str, float] | None:
    """`count` of healthy pairs, and `specificity`, the share of them in which nothing is seen; None without any."""
    lesion = scores.get("lesion")
    if lesion is None:
        return None
    healthy = scores["dice"][lesion == 0]
    return {"count": len(healthy), "specificity": float((healthy == 1).mean())}


def boundary_distance(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Average symmetric surface distance of two masks (H, W), as a share of the image's diagonal; lower is better.

    The mean, over the border pixels of both masks, of the distance to the other's border (Heimann et al., 2009). 0
    where both are empty; 1, the whole diagonal, where one is: no border of it is anywhere in the image.
    """
    from scipy.ndimage import binary_erosion, distance_transform_edt

    if not first.any() or not second.any():
        return float(first.any() != second.any())
    borders = [mask & ~binary_erosion(mask, border_value=0) for mask in (first, second)]
    away = [distance_transform_edt(~border) for border in borders]
    total = away[1][borders[0]].sum() + away[0][borders[1]].sum()
    return float(total / sum(border.sum() for border in borders) / np.hypot(*first.shape))


def interval(values: Scores, seed: int = 0) -> dict[str, float]:
    """Mean of (N,) values with its 95 % percentile bootstrap interval (Efron, 1979): `mean`, `low`, `high`."""
    if len(values) == 0:
        raise ValueError("no values to average")
    generator = np.random.default_rng(seed)
    means = [float(values[generator.integers(len(values), size=len(values))].mean()) for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def mask_fit(
    predictions: NDArray[np.floating[Any]], masks: NDArray[np.bool_], seed: int = 0
) -> dict[str, dict[str, float]]:
    """Mean `dice`, `iou` and `boundary` of predictions and their masks, each with `mean`, `low` and `high` (95 %).

    Args:
        predictions: the judge's probabilities on the images, (N, R, R) in [0, 1].
        masks: the masks that the images were drawn from, bool (N, R, R).
        seed: of the bootstrap.
    """
    return {name: interval(values, seed) for name, values in of_lesions(pair_scores(predictions, masks)).items()}


def shuffled_fit(
    predictions: NDArray[np.floating[Any]], masks: NDArray[np.bool_], seed: int = 0
) -> dict[str, dict[str, float]]:
    """`mask_fit` of every prediction with the mask of another pair: what is reached without obeying the mask.

    Where several images share one mask, some of these pairs can still be right, so the figure is a little too high.

    Raises:
        ValueError: there is only one pair.
    """
    return mask_fit(predictions, masks[derangement(len(masks), seed)], seed)


def derangement(count: int, seed: int = 0) -> NDArray[np.intp]:
    """A random permutation of `count` indices, one cycle, so that none stays in its place.

    Raises:
        ValueError: `count` is less than 2.
    """
    if count < 2:
        raise ValueError("a derangement needs at least two")
    order = np.random.default_rng(seed).permutation(count)
    result = np.empty(count, dtype=np.intp)
    result[order] = np.roll(order, 1)
    return result
