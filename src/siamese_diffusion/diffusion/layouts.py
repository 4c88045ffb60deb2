"""What a mask shows in a few numbers, sizes and place above all: a distribution learned from a few hundred masks."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from siamese_diffusion.diffusion.distance_maps import Labels, areas

LEAST_SHARE = 1e-5
"""Shares below which all are alike."""
SMOOTHING = 0.5
"""Of Silverman's width: at the whole of it, large lesions would come to lie where they find no room."""
SPECK = 2e-4
"""Parts that cover less of the frame are not counted."""


@dataclass(frozen=True)
class Layouts:
    """Of N masks, all classes together but for the areas."""

    areas: NDArray[np.float64]  # (N, K), as shares of the frame
    places: NDArray[np.float64]  # (N, 2), of the centroid: across and down, 0 to 1
    sides: NDArray[np.float64]  # (N, 4), 1 where a lesion reaches the left, right, upper, lower border
    parts: NDArray[np.float64]  # (N,), how many lie apart

    def __len__(self) -> int:
        return len(self.areas)

    def rows(self, which: Any) -> "Layouts":
        """The same of some masks."""
        return Layouts(self.areas[which], self.places[which], self.sides[which], self.parts[which])

    @property
    def whole(self) -> NDArray[np.float64]:
        """Area of all classes together, (N,)."""
        return np.asarray(self.areas.sum(1))

    def within(self, low: float, high: float) -> int:
        """How many masks have an area in a range."""
        return int(((self.whole >= low) & (self.whole <= high)).sum())

    @property
    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation (K + 2) of areas, where the class is present, and places, on the scale of
        `scaled`."""
        values = scaled(np.concatenate([self.areas, self.places], 1))
        there = np.concatenate([self.areas > 0, np.ones_like(self.places, bool)], 1)
        columns = [column[kept] for column, kept in zip(values.T, there.T, strict=True)]
        mean = np.array([column.mean() if len(column) else 0.0 for column in columns])
        spread = np.array([column.std() if len(column) else 1.0 for column in columns])
        return mean, np.where(spread > 1e-6, spread, 1.0)

    def draw(self, random: np.random.Generator, low: float = 0.0, high: float = 1.0) -> "Layouts":
        """A layout (of one mask) whose area lies in a range: a training mask's, moved a little.

        Areas and place move on the scale on which they are roughly normal, and then towards the mean so that their
        spread stays the training masks'; the rest stays. After a thousand tries it is that of a training mask in the
        range, of which there has to be one.
        """
        mean, spread = self.moments
        dimensions = len(mean)
        width = SMOOTHING * (4 / (dimensions + 2) / len(self)) ** (1 / (dimensions + 4))
        for _ in range(1000):
            row = self.rows([int(random.integers(len(self)))])
            moved = scaled(np.concatenate([row.areas, row.places], 1)[0]) + width * spread * random.standard_normal(
                dimensions
            )
            moved = 1 / (1 + np.exp(-(mean + (moved - mean) / np.sqrt(1 + width**2))))
            found = np.where(row.areas[0] > 0, moved[:-2], 0.0)
            if low <= found.sum() <= min(high, 1.0):
                return Layouts(found[None], moved[None, -2:], row.sides, row.parts)
        inside = np.flatnonzero((self.whole >= low) & (self.whole <= high))
        return self.rows([int(random.choice(inside))])


def scaled(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(share / (1 - share))."""
    kept = np.clip(shares, LEAST_SHARE, 1 - LEAST_SHARE)
    return np.asarray(np.log(kept / (1 - kept)))


def together(layouts: "list[Layouts]") -> Layouts:
    """Layouts one after another."""
    parts = [(each.areas, each.places, each.sides, each.parts) for each in layouts]
    return Layouts(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def layouts_of(labels: Labels, classes: int) -> Layouts:
    """The layouts of label maps uint8 (N, h, w), each with a lesion."""
    lesion = labels > 0
    line = [(np.arange(side) + 0.5) / side for side in labels.shape[1:]]
    count = lesion.sum((1, 2))
    across, down = lesion.sum(1) @ line[1] / count, lesion.sum(2) @ line[0] / count
    sides = np.stack([side.any(1) for side in (lesion[:, :, 0], lesion[:, :, -1], lesion[:, 0], lesion[:, -1])], 1)
    parts = [
        max(1, int((np.bincount(label(one, np.ones((3, 3)))[0].ravel())[1:] >= SPECK * one.size).sum()))
        for one in lesion
    ]
    return Layouts(
        areas(labels, classes), np.stack([across, down], 1), sides.astype(np.float64), np.array(parts, np.float64)
    )
