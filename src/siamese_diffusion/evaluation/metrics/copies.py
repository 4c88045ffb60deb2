"""Is a synthetic image a copy of a real one: the nearest training image, and a flag whose false alarms are measured.

Two descriptions of an image are searched, each against every training image in its four flips: the features of a
network, and a thumbnail whose brightness and contrast are taken out. The distance to the nearest training image means
little by itself, since some images have many relatives; so it is divided by the mean distance of that training image
to its own nearest real neighbours (after Carlini et al., arXiv:2301.13188, section 4.2). A copy has a ratio near 0, a
new image one near 1. The score of an image is the smaller of its two ratios.

The threshold is a low quantile of the scores that real training images have against the other ones; the share of
other real images that it would flag is measured on images that the generator never saw.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from siamese_diffusion.evaluation.features import Extractor
from siamese_diffusion.evaluation.metrics.neighbours import nearest

THUMBNAIL = 16
NEIGHBOURS = 10
LEAST = 4
"""Training images that a ratio needs: one, its neighbours, and one left out."""


class Novelty(NamedTuple):
    """Scores of N images, each (N,)."""

    score: NDArray[np.float64]
    """The smaller ratio; near 0 for a copy."""
    place: NDArray[np.intp]
    """Index of the nearest training image by the description with the smaller ratio."""
    flip: NDArray[np.intp]
    """Which flip of it is nearest, a place in `features.FLIPS`."""
    description: NDArray[np.intp]
    """Which description that is, in the order given."""
    ratios: NDArray[np.float64]
    """(N, descriptions)."""


class Calibration(NamedTuple):
    """A threshold and what it does to real images."""

    threshold: float
    false_alarm_rate: float
    measured: Novelty
    """Of the real images that the rate was measured on."""
    held_out: bool
    """Whether they were outside the training images; otherwise they are one half of them, the threshold the other's."""


def thumbnail(images: Tensor) -> Tensor:
    """Low-resolution pixels (B, 3 R R) of uint8 (B, 3, R, R), blind to brightness and contrast, of unit length.

    Each channel's mean is taken out, then the length: an image a x + b per channel has the same thumbnail as x, for
    any a > 0 and b, but for clipping. A flat image is all zeros.
    """
    centred = images.float() - images.float().mean((2, 3), keepdim=True)
    flat = centred.flatten(1)
    length: Tensor = flat.norm(dim=1, keepdim=True)
    return flat / length.clamp(min=1e-3)


def thumbnails() -> Extractor:
    """`thumbnail` at 16 px as an extractor."""
    return Extractor("pixels", thumbnail, f"thumbnail-{THUMBNAIL}", "none", resolution=THUMBNAIL)


class CopySearch:
    """The training images that others are compared with.

    Args:
        real: for each description (M, F, D): the M training images in F flips, the first of which is none.

    Raises:
        ValueError: fewer than `LEAST` training images.
    """

    def __init__(self, real: Sequence[NDArray[np.floating[Any]]]) -> None:
        self.count = len(real[0])
        if self.count < LEAST:
            raise ValueError(f"{self.count} training images; a ratio needs at least {LEAST}")
        self.variants = [[_Directions(array[:, flip]) for flip in range(array.shape[1])] for array in real]
        self.k = min(NEIGHBOURS, self.count - 2)
        itself = np.arange(self.count)
        self.around = [nearest(flips[0], flips, self.k + 1, exclude=itself) for flips in self.variants]

    def score(self, queries: Sequence[NDArray[np.floating[Any]]], exclude: NDArray[np.intp] | None = None) -> Novelty:
        """Score images against the training images.

        Args:
            queries: for each description (N, D).
            exclude: for each query the index of the training image that it is, (N,): it does not count, neither as
                the nearest nor as a neighbour of that one.
        """
        found = [self._ratios(number, _Directions(rows), exclude) for number, rows in enumerate(queries)]
        ratios, index, flip = (np.stack(parts, 1) for parts in zip(*found, strict=True))
        which = ratios.argmin(1)
        rows = np.arange(len(ratios))
        return Novelty(ratios[rows, which], index[rows, which], flip[rows, which], which, ratios)

    def calibrate(
        self, held_out: Sequence[NDArray[np.floating[Any]]] | None, target: float = 0.01, seed: int = 0
    ) -> Calibration:
        """The threshold that flags about the share `target` of real images, and its false-alarm rate.

        Args:
            held_out: for each description (H, D) of real images outside the training ones; None or empty: one half of
                the training images gives the threshold, the other half the rate.
            target: share of the training images, each scored against the others, below the threshold.
            seed: of the halves.
        """
        own = self.score([flips[0].array for flips in self.variants], exclude=np.arange(self.count))
        if held_out is not None and len(held_out[0]):
            base, measured, apart = own.score, self.score(held_out), True
        else:
            order = np.random.default_rng(seed).permutation(self.count)
            rest = order[self.count // 2 :]
            base, apart = own.score[order[: self.count // 2]], False
            measured = Novelty(
                own.score[rest], own.place[rest], own.flip[rest], own.description[rest], own.ratios[rest]
            )
        threshold = float(np.quantile(base, target, method="lower"))
        return Calibration(threshold, float((measured.score < threshold).mean()), measured, apart)

    def _ratios(
        self, description: int, queries: "_Directions", exclude: NDArray[np.intp] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
        """Ratio, nearest training image and its flip, each (N,)."""
        found = nearest(queries, self.variants[description], exclude=exclude)
        index, flip = found.place[:, 0], found.variant[:, 0]
        around = self.around[description]
        distances = around.distance[index]  # (N, k + 1)
        counted = np.ones(distances.shape, bool)
        if exclude is not None:  # the query may be among the neighbours of its nearest image; the next takes its place
            counted = around.place[index] != exclude[:, None]
        counted[counted.all(1), -1] = False
        reference = (distances * counted).sum(1) / counted.sum(1)
        return found.distance[:, 0] / np.maximum(reference, 1e-9), index, flip


class _Directions:
    """Rows at unit length, made as they are read: their angle counts, not how strongly a network responds."""

    def __init__(self, array: NDArray[np.floating[Any]]) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, which: Any, /) -> NDArray[np.float32]:
        values = np.asarray(self.array[which], np.float32)
        return np.asarray(values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12))
