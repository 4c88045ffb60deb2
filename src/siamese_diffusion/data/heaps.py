"""Grey masks of two heaps of values, dark and bright, with little between: what JPEG or interpolation makes of binary
ones.

Design note: labels must never pass for noise. Noise lies along edges and spreads over many values; a label fills areas,
and is one value that its neighbours are not.
"""

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

FAR_SHARE = 0.05
"""Share of the lesion's size that may be grey and yet not lie along an edge."""
SENSITIVE = 0.2
"""Share of the lesion's area that depends on where grey is cut, a quarter or three quarters, above which this is
told."""
FILLS = 0.2
"""Share of a value's pixels that lie amid others of the same value where it is a label's."""
USUAL = 127.0
"""Where grey is cut wherever that lies between the heaps."""
DRIFT = 3
"""Black may come out of a lossy format as a value up to this."""
NOTHING = 16
"""Values up to this are black to a lossy format."""


def not_two_heaps(values: NDArray[np.uint8], counts: Mapping[int, int]) -> str | None:
    """Why the values (H, W) of a mask are not two heaps; None where they are, or are all dark.

    Args:
        values: grey, 0 to 255.
        counts: pixels of each value.
    """
    histogram = _histogram(counts)
    top = _top(histogram)
    if top is None:
        mode = int(histogram.argmax())
        brightest = max(counts, default=0)
        if mode <= DRIFT and brightest <= 2 * NOTHING and values.size - histogram[mode] <= 0.01 * values.size:
            return None
        return f"its brightest value is {brightest} of 255, and a lossy format keeps no labels"
    spread = _spread(histogram, top)
    if spread is not None:
        return spread
    high = values > 0.75 * top
    lesion = max(1, int(np.count_nonzero(high)))
    spike = _spike(values, histogram, top, lesion)
    if spike is not None:
        return f"{spike} is a value of its own, no edge between dark and bright"
    radius = 3 + max(values.shape) // 100
    near = cv2.dilate(high.astype(np.uint8), np.ones((2 * radius + 1, 2 * radius + 1), np.uint8))
    far = np.count_nonzero((values > top / 4) & (near == 0))
    if far > FAR_SHARE * lesion:
        return f"{100 * far / values.size:.1f} % of its pixels are grey, away from any edge"
    return None


def cut_at(counts: Mapping[int, int]) -> float:
    """Where two heaps are parted: values above it are bright."""
    top = _top(_histogram(counts))
    if top is None:
        return 255.0
    return USUAL if top >= 1.4 * USUAL else top / 2


def sensitivity(counts: Mapping[int, int]) -> float:
    """How much of the bright area depends on where grey is cut: between a quarter and three quarters, over that at
    half."""
    histogram = _histogram(counts)
    top = _top(histogram)
    if top is None:
        return 0.0
    places = np.arange(256)
    low, half, high = (int(histogram[places > share * top].sum()) for share in (0.25, 0.5, 0.75))
    return (low - high) / max(1, half)


def _histogram(counts: Mapping[int, int]) -> NDArray[np.int64]:
    histogram = np.zeros(256, np.int64)
    for value, count in counts.items():
        histogram[value] = count
    return histogram


def _top(histogram: NDArray[np.int64]) -> int | None:
    """The brightest value that many pixels have; None where all are dark. Nearly white means white: grey is cut at
    127."""
    bright = histogram[64:]
    if not bright.any():
        return None
    common = np.flatnonzero(bright >= 0.1 * bright.max()) + 64
    top = int(common[-1])
    return 255 if top >= 240 else top


def _spread(histogram: NDArray[np.int64], top: int) -> str | None:
    """Large areas of a mask are all of one value; those of a picture, or of a soft map, are not."""
    total = histogram.sum()
    for name, part in (("dark", slice(0, int(top / 4) + 1)), ("bright", slice(int(top / 4) + 1, 256))):
        heap = histogram[part]
        if heap.sum() < 0.05 * total:
            continue
        mode = int(heap.argmax())
        if heap[max(0, mode - 3) : mode + 4].sum() < 0.4 * heap.sum():
            return f"its {name} pixels have no value in common"
    return None


def _spike(values: NDArray[np.uint8], histogram: NDArray[np.int64], top: int, lesion: int) -> int | None:
    """A value beside the two heaps that is far commoner than its neighbours and fills areas, as a label's does."""
    black = int(histogram[: top // 4].argmax())
    for value in range(1, min(255, int(0.9 * top))):
        count = int(histogram[value])
        if count <= max(4, 0.05 * lesion) or value == black <= DRIFT:
            continue
        around = [*histogram[max(1, value - 4) : value], *histogram[value + 1 : value + 5]]
        if count > 8 * max(1.0, float(np.mean(around))):
            inner = cv2.erode((values == value).astype(np.uint8), np.ones((3, 3), np.uint8))
            if cv2.countNonZero(inner) > FILLS * count:
                return value
    return None
