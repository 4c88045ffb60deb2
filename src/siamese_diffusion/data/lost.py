"""Lesions that a model does not see at its resolution: too small, too thin, or cut away."""

from typing import NamedTuple

import cv2
import numpy as np

from siamese_diffusion.data.images import Fit, Mask, padded_box, square

SPECK = 5
"""Fewer pixels are no lesion but a slip of the hand, unless there is nothing else."""
KEPT = 0.5
"""Share of a lesion's pixels that has to be left."""
RESOLUTIONS = (64, 96, 128, 160, 192, 224, 256, 320, 352, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048)
"""Those that are proposed."""


class Losses(NamedTuple):
    """What becomes of the lesions of a mask, its connected parts."""

    lesions: int
    lost: int
    cut_off: int
    """Of the lost, those that lie outside the square that `crop` cuts out."""


NO_LOSSES = Losses(0, 0, 0)


def losses(mask: Mask, squared: Mask, fit: Fit) -> Losses:
    """Count the lesions of a mask (H, W) that are lost in `squared` (R, R).

    A lesion is lost where less than half of its pixels are lesion there.
    """
    if not mask.any():
        return NO_LOSSES
    left, top, across, down = cv2.boundingRect(mask.view(np.uint8))
    inner = np.ascontiguousarray(mask[top : top + down, left : left + across]).view(np.uint8)
    count, parts, figures, _ = cv2.connectedComponentsWithStats(inner, connectivity=8)
    areas = figures[1:, cv2.CC_STAT_AREA]
    large = areas >= min(SPECK, areas.max())
    height, width = mask.shape
    resolution = len(squared)
    if count == 2 and fit == "squash" and squared.sum() * height * width >= KEPT * areas[0] * resolution**2:
        return Losses(1, 0, 0)  # the common case, without a look at each pixel
    rows, columns = np.nonzero(inner)
    y, x, inside = _places(rows + top, columns + left, (height, width), resolution, fit)
    which = parts[rows, columns] - 1
    seen = inside & squared[y, x]
    lost = large & (np.bincount(which[seen], minlength=count - 1) < KEPT * areas)
    cut_off = lost & (np.bincount(which[inside], minlength=count - 1) < KEPT * areas)
    return Losses(int(large.sum()), int(lost.sum()), int(cut_off.sum()))


def first_keeping(mask: Mask, resolution: int, fit: Fit) -> int | None:
    """The first of `RESOLUTIONS` above `resolution` at which no lesion is lost but those cut off; None: none of
    them."""
    for larger in RESOLUTIONS:
        if larger > resolution:
            found = losses(mask, square(mask, larger, fit), fit)
            if found.lost == found.cut_off:
                return larger
    return None


def _places(
    rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int], resolution: int, fit: Fit
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where pixels lie in the square, and whether they do."""
    height, width = shape
    if fit == "pad":
        box = padded_box(height, width, resolution)
        y, x = (
            part.start + place * (part.stop - part.start) // side
            for part, place, side in zip(box, (rows, columns), shape, strict=True)
        )
    elif fit == "crop":
        side = min(shape)
        y, x = (
            (place - (whole - side) // 2) * resolution // side
            for place, whole in zip((rows, columns), shape, strict=True)
        )
    else:
        y, x = rows * resolution // height, columns * resolution // width
    inside = (y >= 0) & (y < resolution) & (x >= 0) & (x < resolution)
    return y.clip(0, resolution - 1), x.clip(0, resolution - 1), inside
