"""The colours that masks are drawn in: each is a label, and what a lossy format puts between them belongs to the
nearest.

Design note: a photograph has colours too. Those of a drawn mask are few and fill areas, so each is exact in most of its
pixels, and black, the background, is one of them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from siamese_diffusion.data.stored import hexadecimal

APART = 48
"""Least difference of two colours, in one channel, where a lossy format may have blurred them."""
MOST = 12
EXACT = 0.2
"""Least share of the pixels around a colour that have it within `LOOSE`."""
LOOSE = 3
DARK = 16
STRAY = 0.05
"""Share of the coloured pixels that may be far from every colour and from the blends of any two."""


def channels(packed: NDArray[np.int32]) -> NDArray[np.int32]:
    """0xRRGGBB (...) to (..., 3)."""
    return np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=-1)


def find_colours(counts: Mapping[int, int], exact: bool) -> list[int] | str:
    """The colours that masks are drawn in, the commonest first; or why there are none.

    Args:
        counts: pixels of each colour over all masks.
        exact: no mask is of a lossy format.
    """
    ordered = sorted(counts, key=lambda colour: (-counts[colour], colour))
    if exact and len(counts) <= MOST:
        return ordered
    packed = np.array(ordered, np.int32)
    sizes = np.array([counts[int(colour)] for colour in packed])
    points = channels(packed)
    least = 0.001 * sizes.sum()
    centres: list[int] = []
    for place in range(len(packed)):
        if sizes[place] < least and centres:
            break
        if all(np.abs(points[place] - points[other]).max() > APART for other in centres):
            centres.append(place)
        if len(centres) > MOST:
            return f"more than {MOST} colours, none of which fills an area; are these photographs?"
    nearest, distance = _nearest(points, points[centres])
    for number, centre in enumerate(centres):
        own = nearest == number
        near = own & (np.abs(points - points[centre]).max(1) <= LOOSE)
        if sizes[near].sum() < EXACT * sizes[own].sum():
            return f"the colours around {hexadecimal(int(packed[centre]))} are spread, as those of a photograph are"
    marked = points.max(1) > APART
    stray = marked & (distance > APART) & ~_blends(points, points[centres])
    if sizes[stray].sum() > STRAY * max(1, sizes[marked].sum()):
        return f"{100 * sizes[stray].sum() / sizes.sum():.1f} % of the pixels are near none of the commonest colours"
    return [int(packed[centre]) for centre in centres]


def is_black(colour: int) -> bool:
    """Whether a colour is black, as far as a lossy format keeps it."""
    return max(colour >> 16, colour >> 8 & 255, colour & 255) <= DARK


def nearest_colour(packed: NDArray[np.int32], colours: Sequence[int]) -> NDArray[np.intp]:
    """The place in `colours` of the nearest to each of (N,) 0xRRGGBB."""
    return _nearest(channels(packed), channels(np.array(colours, np.int32)))[0]


def strays(packed: NDArray[np.int32], colours: Sequence[int]) -> NDArray[np.bool_]:
    """Which of (N,) colours are near none of `colours`, and no blend of two."""
    points, centres = channels(packed), channels(np.array(colours, np.int32))
    return np.asarray((_nearest(points, centres)[1] > APART) & ~_blends(points, centres))


def _nearest(points: NDArray[np.int32], centres: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """The nearest centre by Euclidean distance, and its largest difference in a channel."""
    differences = points[:, None] - centres[None]
    nearest = (differences**2).sum(-1).argmin(1)
    return nearest, np.abs(points - centres[nearest]).max(1)


def _blends(points: NDArray[np.int32], centres: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which points lie near a line between two of the centres."""
    found = np.zeros(len(points), bool)
    for i in range(len(centres)):
        for j in range(i):
            along = (centres[j] - centres[i]).astype(np.float64)
            share = ((points - centres[i]) @ along / max(1.0, float(along @ along))).clip(0, 1)
            found |= np.abs(points - centres[i] - share[:, None] * along).max(1) <= APART
    return found
