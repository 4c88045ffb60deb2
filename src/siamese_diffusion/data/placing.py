"""Where a lesion may lie in an image that it is not from: whole in the field of view, beside what is there."""

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import binary_opening

from siamese_diffusion.data.images import Mask, Pixels

BAND = 0.04
"""Width of the surroundings that come with a lesion, as a share of the side."""
DARK = 20
"""Pixels whose brightest channel is below this lie outside the field of view."""
PLACES = 8
"""Places that are tried for a lesion in an image."""


def field_of_view(image: Pixels) -> Mask:
    """Where an image (R, R, 3) shows tissue: not the black corners, nor thin bright writing on them."""
    width = max(2, round(0.03 * len(image)))
    return np.asarray(binary_opening(np.pad(image.max(-1) >= DARK, width, mode="edge"), np.ones((width, width))))[
        width:-width, width:-width
    ]


def free_places(
    random: np.random.Generator, lesion: Mask, region: Mask, field: Mask, taken: Mask
) -> Iterator[tuple[int, int]]:
    """Shifts (down, right) of up to `PLACES` draws that put a lesion whole in the field of view, beside what is there.

    Args:
        random: of the draws.
        lesion: bool (R, R).
        region: bool (R, R), the lesion with its surroundings; none where it reaches the frame's border.
        field: bool (R, R), where the image shows tissue.
        taken: bool (R, R), the image's own lesions.
    """
    rows, columns = (np.flatnonzero(region.any(axis)) for axis in (1, 0))
    size = len(field)
    if not len(rows) or min(rows[0], columns[0]) < 1 or max(rows[-1], columns[-1]) > size - 2:
        return
    for _ in range(PLACES):
        down = int(random.integers(1 - rows[0], size - 1 - rows[-1]))
        right = int(random.integers(1 - columns[0], size - 1 - columns[-1]))
        moved = np.roll(region, (down, right), (0, 1))
        if field[moved].mean() >= 0.98 and (taken & moved).sum() <= 0.02 * min(taken.sum(), lesion.sum()):
            yield down, right
