"""Mask fit where a mask holds several classes: of each of them, their mean, and the worst.

Two figures say whether a generator tells the classes apart: the fit with other pairs' masks, and with the same masks
with their classes exchanged, which one that draws the right shape in any class reaches.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from siamese_diffusion.evaluation.metrics.mask_fit import Scores, boundary_distance, interval
from siamese_diffusion.segmentation.metrics import score_labels

DICE = "dice "
"""What the columns of single classes begin with."""
WORST = "worst"


def class_scores(seen: NDArray[np.uint8], masks: NDArray[np.uint8], names: Sequence[str]) -> dict[str, Scores]:
    """Scores of every pair.

    Args:
        seen: labels (N, R, R) that the judge sees.
        masks: labels (N, R, R) that were asked for.
        names: of the classes.

    Returns:
        (N,) each: `dice`, `iou` and `boundary`, means over the classes that are there or seen; `worst`, the lowest Dice
        of them; "dice NAME" of each class, NaN where it is neither there nor seen; and where some masks are empty
        `lesion`, 1 or 0.
    """
    found = score_labels(torch.from_numpy(np.asarray(seen)), torch.from_numpy(np.array(masks)), names)
    assert found.classes is not None
    assert found.lesion is not None
    each = found.classes.dice.numpy()
    lesion = found.lesion.numpy()
    worst = np.where(np.isnan(each), 2.0, each).min(1)
    return {
        "dice": found.dice.numpy(),
        "iou": found.iou.numpy(),
        "boundary": np.array([_boundary(a, b, len(names)) for a, b in zip(seen, masks, strict=True)], float),
        WORST: np.minimum(worst, 1.0),
        **{f"{DICE}{name}": each[:, i] for i, name in enumerate(names)},
        **({} if lesion.all() else {"lesion": lesion.astype(float)}),
    }


def exchanged(masks: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """The masks with each class as the next one, and the last as the first."""
    table = np.arange(256, dtype=np.uint8)
    table[1 : count + 1] = np.roll(np.arange(1, count + 1), -1)
    return np.asarray(table[masks])


def of_classes(scores: Mapping[str, Scores], own: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Of each class `dice` {mean, low, high}, over the pairs in which it is or is seen, their number `count`, and
    `judge`, what the judge reaches on real images; empty for one class."""
    found = {}
    for column, values in scores.items():
        if column.startswith(DICE) and not np.isnan(values).all():
            name = column.removeprefix(DICE)
            known = values[~np.isnan(values)]
            found[name] = {"dice": interval(known), "count": len(known), "judge": own.get("classes", {}).get(name)}
    return found


def means_of_classes(scores: Mapping[str, Scores]) -> dict[str, float]:
    """The mean Dice of each class by name; empty for one class."""
    columns = {name: values for name, values in scores.items() if name.startswith(DICE)}
    return {
        name.removeprefix(DICE): float(np.nanmean(values))
        for name, values in columns.items()
        if not np.isnan(values).all()
    }


def _boundary(seen: NDArray[np.uint8], mask: NDArray[np.uint8], count: int) -> float:
    """Mean `boundary_distance` of the classes that are there or seen; 0 without any."""
    held = [label for label in range(1, count + 1) if (seen == label).any() or (mask == label).any()]
    return float(np.mean([boundary_distance(seen == label, mask == label) for label in held])) if held else 0.0
