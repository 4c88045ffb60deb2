"""Is a synthetic image a copy of a real one: the nearest training image, and a flag whose false alarms are measured.

An image is looked for among the training images as a whole and by its details. As a whole: the phases of its spatial
frequencies, which brightness, contrast, blur and noise leave alone and which survive a blend; against every training
image in its four flips. The distance to the nearest one means little by itself, since some images have many relatives;
so it is divided by the mean distance of that training image to its own nearest real neighbours (after Carlini et al.,
arXiv:2301.13188, section 4.2). By its details: see `local_matches`, which finds crops, turns, shifts and parts. Each
gives a ratio, near 0 for a copy and near 1 for a new image.

Each ratio has a threshold, a low quantile of the ratios that training images have against the other ones, within limits
that hold for any set. The score of an image is the smallest of its ratios, each over its threshold: below 1 it is
flagged. The share of other real images that would be flagged is measured on images that the generator never saw.

Design note: real images that are plainly the same scene as a training image say nothing about the flag. They are taken
out of both measurements, and listed.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siamese_diffusion.evaluation.features import Extractor
from siamese_diffusion.evaluation.metrics.local_matches import Details, LocalSearch, Match
from siamese_diffusion.evaluation.metrics.neighbours import nearest

SIDE = 64
CYCLES = 3, 22
"""Spatial frequencies that count, in cycles a side: below are the field of view and the lighting, above is noise."""
NEIGHBOURS = 10
LEAST = 4
"""Training images that a ratio needs: one, its neighbours, and one left out."""
CHANCE = 10
"""Details in common that halve that ratio; unrelated images have fewer, about."""
WHOLE_LIMITS = 0.75, 0.88
DETAIL_LIMITS = CHANCE / (CHANCE + 20), CHANCE / (CHANCE + 12)
"""The least and the largest threshold of a ratio: with few training images, or many relatives among them, the quantile
alone would flag everything or nothing. At the lower one two real images are taken to be the same scene."""


class Novelty(NamedTuple):
    """What was found for N images, each (N,)."""

    place: NDArray[np.intp]
    """Index of the nearest training image by the description with the smallest score."""
    flip: NDArray[np.intp]
    """Which flip of it is nearest, a place in `features.FLIPS`."""
    description: NDArray[np.intp]
    """Which description that is, in the order given; the details come last."""
    ratios: NDArray[np.float64]
    """(N, descriptions)."""
    score: NDArray[np.float64]
    """The smallest ratio over its threshold; below 1 the image is flagged."""
    same: NDArray[np.bool_]
    """Whether a ratio is so small that chance is ruled out."""

    def rows(self, which: NDArray[Any]) -> "Novelty":
        """The same of some of the images."""
        return Novelty(*(part[which] for part in self))


class Calibration(NamedTuple):
    """Thresholds and what they do to real images."""

    thresholds: NDArray[np.float64]
    """One a description."""
    false_alarm_rate: float
    measured: Novelty
    """Of the real images that the rate was measured on, the same scenes left out."""
    rows: NDArray[np.intp]
    """Which of them those are."""
    held_out: bool
    """Whether they were outside the training images; otherwise they are one half of them, the thresholds the other's.
    """
    base: int
    """Training images that gave the thresholds."""
    own: Novelty
    """Of every training image, against the other ones."""
    apart: Novelty | None
    """Of every held-out image, the same scenes too."""


def phases(images: Tensor) -> Tensor:
    """Phases of the grey image's spatial frequencies, (B, D) of unit length, of uint8 (B, 3, R, R).

    Each frequency within `CYCLES` has a real and an imaginary part, all frequencies the same weight; for two images
    their product is the phase correlation at no shift (Kuglin and Hines, 1975). A flat image is all zeros.
    """
    grey = (images.float() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)  # ITU-R BT.601 luma
    side = grey.shape[-1]
    window = torch.hann_window(side, periodic=False).sqrt()  # or the jump between opposite borders would dominate
    spectrum = torch.fft.rfft2((grey - grey.mean((1, 2), keepdim=True)) * window[:, None] * window)
    down, across = torch.fft.fftfreq(side)[:, None] * side, torch.fft.rfftfreq(side)[None] * side
    radius = torch.hypot(down, across)
    once = (across > 0) | (down > 0)  # the other half is its mirror image
    kept = spectrum[:, (radius >= CYCLES[0]) & (radius <= CYCLES[1]) & once]
    length = kept.abs()
    kept = torch.where(length > 1e-3 * side, kept / length.clamp(min=1e-9), 0)
    return torch.nn.functional.normalize(torch.cat([kept.real, kept.imag], 1), dim=1)


def whole_image() -> Extractor:
    """`phases` at 64 px as an extractor."""
    key = f"phases-{SIDE}-{CYCLES[0]}-{CYCLES[1]}"
    return Extractor("whole", phases, key, "none", resolution=SIDE)


class CopySearch:
    """The training images that others are compared with.

    Args:
        real: for each description of the whole image (M, F, D): the M training images in F flips, the first of which
            is none.
        details: of the M training images, read one by one; None: details are not looked at.

    Raises:
        ValueError: fewer than `LEAST` training images.
    """

    def __init__(self, real: Sequence[NDArray[np.floating[Any]]], details: Iterable[Details] | None = None) -> None:
        self.count = len(real[0])
        if self.count < LEAST:
            raise ValueError(f"{self.count} training images; a ratio needs at least {LEAST}")
        self.centres = [np.asarray(array, np.float32).mean((0, 1)) for array in real]
        self.variants = [
            [_Directions(array[:, flip], centre) for flip in range(array.shape[1])]
            for array, centre in zip(real, self.centres, strict=True)
        ]
        self.k = min(NEIGHBOURS, self.count - 2)
        itself = np.arange(self.count)
        self.around = [nearest(flips[0], flips, self.k + 1, exclude=itself) for flips in self.variants]
        self.local = LocalSearch(details, self.count) if details is not None else None
        limits = [WHOLE_LIMITS] * len(real) + [DETAIL_LIMITS] * (self.local is not None)
        self.limits = np.array(limits)  # (descriptions, 2)
        self.thresholds = self.limits[:, 1]

    def score(
        self,
        queries: Sequence[NDArray[np.floating[Any]]],
        matches: Sequence[Match] | None = None,
        exclude: NDArray[np.intp] | None = None,
    ) -> Novelty:
        """Score images against the training images.

        Args:
            queries: for each description (N, D).
            matches: of the images' details, `self.local.match(...)`, where details are looked at.
            exclude: for each query the index of the training image that it is, (N,): it does not count, neither as
                the nearest nor as a neighbour of that one.
        """
        found = [
            self._ratios(number, _Directions(rows, self.centres[number]), exclude)
            for number, rows in enumerate(queries)
        ]
        if matches is not None:
            found.append(_of_details(matches))
        ratios, index, flip = (np.stack(parts, 1) for parts in zip(*found, strict=True))
        scores = ratios / self.thresholds
        which = scores.argmin(1)
        rows = np.arange(len(ratios))
        same = np.asarray((ratios < self.limits[:, 0]).any(1))
        return Novelty(index[rows, which], flip[rows, which], which, ratios, scores[rows, which], same)

    def calibrate(
        self,
        own_matches: Sequence[Match] | None,
        held_out: Sequence[NDArray[np.floating[Any]]] | None,
        held_matches: Sequence[Match] | None = None,
        target: float = 0.01,
        seed: int = 0,
    ) -> Calibration:
        """Set the thresholds that flag about the share `target` of real images, and measure their false-alarm rate.

        Args:
            own_matches: of the training images' details, each without itself.
            held_out: for each description (H, D) of real images outside the training ones; None or empty: one half of
                the training images gives the thresholds, the other half the rate.
            held_matches: of the held-out images' details.
            target: share of the training images, each scored against the others, below a threshold; each of the
                descriptions has an equal part of it.
            seed: of the halves.
        """
        everything = np.arange(self.count)
        rows = [flips[0].array for flips in self.variants]
        own = self.score(rows, own_matches, exclude=everything)
        apart = held_out is not None and len(held_out[0]) > 0
        order = everything if apart else np.random.default_rng(seed).permutation(self.count)
        half = self.count if apart else self.count // 2
        base = own.ratios[order[:half]][~own.same[order[:half]]]
        low = np.quantile(base, target / base.shape[1], axis=0, method="lower") if len(base) else self.limits[:, 1]
        self.thresholds = np.clip(low, self.limits[:, 0], self.limits[:, 1])
        own = self.score(rows, own_matches, exclude=everything)
        others = self.score(held_out, held_matches) if apart and held_out is not None else None
        measured = others if others is not None else own.rows(order[half:])
        places = np.arange(len(measured.score)) if apart else order[half:]
        kept = ~measured.same
        rate = float((measured.score[kept] < 1).mean()) if kept.any() else 0.0
        return Calibration(self.thresholds, rate, measured.rows(kept), places[kept], apart, len(base), own, others)

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


def _of_details(matches: Sequence[Match]) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
    """Ratio, training image and flip (left to right, or none) by details in common, each (N,)."""
    count = np.array([match.common for match in matches], float)
    place = np.array([max(match.place, 0) for match in matches], np.intp)
    return CHANCE / (CHANCE + count), place, np.array([match.mirrored for match in matches], np.intp)


class _Directions:
    """Rows less a centre at unit length, made as they are read: their angle counts, not how strongly a network
    responds."""

    def __init__(self, array: NDArray[np.floating[Any]], centre: NDArray[np.float32]) -> None:
        self.array, self.centre = array, centre

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, which: Any, /) -> NDArray[np.float32]:
        values = np.asarray(self.array[which], np.float32) - self.centre
        return np.asarray(values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12))
