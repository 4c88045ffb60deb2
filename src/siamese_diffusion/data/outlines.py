"""Masks that are outlines: thin closed lines around what is meant, as the ellipses around the skulls of HC18."""

import cv2
import numpy as np
from numpy.typing import NDArray

from siamese_diffusion.errors import InputError

THIN = 0.25
"""Largest share of what an outline encloses, itself included, that the line may take up."""
ALONG = 0.9
"""Least share of a line's pixels that lie next to the outside or to what is enclosed: a line has nothing but edges."""


def is_outline(mask: NDArray[np.bool_]) -> bool:
    """Whether what a mask (H, W) marks is thin closed lines, and nothing else."""
    marked = int(np.count_nonzero(mask))
    if not marked or marked > 0.2 * mask.size:
        return False
    radius = 1 + max(mask.shape) // 200
    if not _thin(mask, radius):
        return False
    filled = enclosed(mask)
    if marked > THIN * np.count_nonzero(filled):
        return False
    # Vessels may enclose areas too, but most of their pixels lie inside what is filled: an outline's lie on its rim.
    width = 2 * radius + 1
    inner = cv2.erode(filled.astype(np.uint8), np.ones((2 * width + 1, 2 * width + 1), np.uint8), borderValue=0)
    return bool(np.count_nonzero(mask & (inner > 0)) <= (1 - ALONG) * marked)


def enclosed(mask: NDArray[np.bool_], by_frame: bool = False) -> NDArray[np.bool_]:
    """The mask (H, W) with everything that its lines enclose; `by_frame`: its lines and the frame of the image."""
    _, parts, figures, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    rim = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    outside = [int(part) for part in rim if part != 0]
    if by_frame and outside:
        outside = [max(outside, key=lambda part: int(figures[part, cv2.CC_STAT_AREA]))]
    return ~np.isin(parts, outside)


def fill(mask: NDArray[np.bool_], path: object) -> NDArray[np.bool_]:
    """What the outlines of a mask (H, W) enclose, with the frame where they reach it, the lines included.

    A mask that is no line stays as it is, and so does an empty one.

    Raises:
        InputError: a line that is not closed.
    """
    for by_frame in (False, True):
        filled = enclosed(mask, by_frame)
        if np.count_nonzero(filled) > 1.2 * np.count_nonzero(mask):
            return filled
    if mask.any() and _thin(mask, 1 + max(mask.shape) // 200):
        raise InputError(
            f"{path}: its outline is not closed, so that data.outline=fill finds nothing inside; close the line"
        )
    return mask


def _thin(mask: NDArray[np.bool_], radius: int) -> bool:
    """Whether nearly nothing of a mask is left when `radius` pixels are taken off its edges."""
    left = cv2.erode(mask.astype(np.uint8), np.ones((2 * radius + 1, 2 * radius + 1), np.uint8))
    return bool(cv2.countNonZero(left) <= (1 - ALONG) * np.count_nonzero(mask))
