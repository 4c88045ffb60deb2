"""Batches of real, or real and synthetic, pairs: each a pure function of the seed and the step."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from siamese_diffusion.config import SegmentConfig
from siamese_diffusion.data.arrays import Masks, load_pairs, map_pairs
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.errors import InputError
from siamese_diffusion.prefetch import Batch, BatchAt
from siamese_diffusion.randomness import generator, rows_of_epochs
from siamese_diffusion.segmentation.augment import Augmentation, augment, draw, draw_flips, identity, rescale

if TYPE_CHECKING:
    from siamese_diffusion.segmentation.colour import Statistics

NUMBERED = 0.7
"""Probability that a donor of colours is a pair named by digits alone (in PraNet's training set: CVC-ClinicDB)."""


def share_of_made(settings: SegmentConfig, real: int, made: int) -> float:
    """Expected share of synthetic pairs in each batch: `segment.synthetic_share`, or less where they are few.

    No synthetic pair is seen more often than the mean real one. A handful of them, repeated until they fill half of
    every batch, teaches the network that handful.

    Args:
        settings: whose `synthetic_share` is the upper bound.
        real: number of real training pairs.
        made: number of synthetic ones.
    """
    return min(settings.synthetic_share, made / (real + made)) if made else 0.0


class Arrays(NamedTuple):
    """Square pairs, in memory or mapped from files."""

    images: NDArray[np.uint8]  # (N, R, R, 3)
    masks: Masks  # (N, R, R)


def load(pairs: Sequence[Pair], resolution: int, cache: Path | None = None) -> Arrays:
    """Read and square pairs, through files in folder `cache` where there is one; errors as in
    `data.arrays.map_pairs`."""
    return Arrays(*(load_pairs(pairs, resolution) if cache is None else map_pairs(pairs, resolution, cache)))


def batches(
    real: Arrays, synthetic: Arrays | None, settings: SegmentConfig, names: Sequence[str] | None = None
) -> BatchAt:
    """What `loop.run` asks for: augmented `images` (B, 3, S, S) in [0, 1] and `masks` (B, 1, S, S) in [0, 1], or labels
    of several classes.

    S is the resolution, or with `settings.multiscale` the size of the step; masks are 0 and 1 unless "cycle" resizes
    them. With `synthetic`, each row of a batch is synthetic with probability `share_of_made`. So runs with and without
    synthetic pairs take equally many steps of equal size. Each kind goes through epochs, no pair left out.

    Args:
        names: base names of the real pairs, which tell the two lists of donors of SANet's colour exchange apart.

    Raises:
        InputError: the scales and their weights do not fit together.
    """
    sources = [real] + ([synthetic] if synthetic is not None else [])
    size = settings.batch_size
    drawn = torch.rand(settings.steps * size, generator=generator(settings.seed, 3))
    share = share_of_made(settings, len(real.images), 0 if synthetic is None else len(synthetic.images))
    kinds = (drawn < share).long()
    places = torch.where(kinds == 1, kinds.cumsum(0), (1 - kinds).cumsum(0)) - 1  # how many of its kind came before
    sides = sides_of(settings)
    soft = settings.multiscale == "cycle" and real.masks.dtype == np.bool_  # no label lies between two
    donors = Donors(real.images, names or [""] * len(real.images)) if settings.colour_exchange else None

    def batch_at(step: int, rows: range) -> Batch:
        turn, side = _turn(step, settings, sides)  # a turn is a batch; "cycle" uses it once at every size
        chosen = []
        for row in rows:
            kind, place = int(kinds[turn * size + row]), int(places[turn * size + row])
            source = sources[kind]
            (index,) = rows_of_epochs(place, range(1), 1, len(source.images), settings.seed + kind)
            image = (
                torch.from_numpy(np.array(source.images[index])).movedim(2, 0).contiguous()
            )  # copied: maps are read-only
            if donors is not None:
                image = donors.recolour(image, settings, generator(settings.seed, 6, turn, row))
            chosen.append((image, torch.from_numpy(np.array(source.masks[index]))[None]))
        how = _draws()[settings.augmentation](size, generator(settings.seed, 4, turn)).rows(rows)
        images, masks = augment(
            torch.stack([pair[0] for pair in chosen]), torch.stack([pair[1] for pair in chosen]), how
        )
        images, masks = rescale(images, masks, side, soft)
        return {"images": images, "masks": masks}

    return batch_at


def heaviest(batch_at: BatchAt, settings: SegmentConfig) -> Callable[[range], Batch]:
    """(rows) -> a batch at the largest of the sizes trained at."""
    side = max(sides_of(settings))

    def at_most(rows: range) -> Batch:
        batch = batch_at(settings.steps - 1, rows)
        return {name: F.interpolate(value, size=(side, side)) for name, value in batch.items()}

    return at_most


class Donors:
    """The real images whose colours SANet's colour exchange hands on.

    As in the authors' code, one list holds the images whose names are digits alone, the other the rest, and the first
    is chosen with probability `NUMBERED`; where one is empty, the other serves. Theirs then takes the donor by the
    sample's place in the folder, always the same one; here it is drawn anew, so that data of one source gain from it
    too.

    Args:
        images: (N, R, R, 3).
        names: base name of each.
    """

    def __init__(self, images: NDArray[np.uint8], names: Sequence[str]) -> None:
        self.images = images
        digits = [i for i, name in enumerate(names) if name.isdecimal()]
        others = [i for i, name in enumerate(names) if not name.isdecimal()]
        self.lists = (digits or others, others or digits)
        self.known: dict[int, Statistics] = {}

    def recolour(self, image: Tensor, settings: SegmentConfig, random: torch.Generator) -> Tensor:
        """(3, R, R) uint8 -> the same, with a donor's colours at probability `settings.colour_exchange`."""
        from siamese_diffusion.segmentation.colour import exchange, statistics

        applied, which, place = torch.rand(3, generator=random, dtype=torch.float64).tolist()
        if applied >= settings.colour_exchange:
            return image
        listed = self.lists[0] if which < NUMBERED else self.lists[1]
        donor = listed[int(place * len(listed))]
        if donor not in self.known:
            self.known[donor] = statistics(np.array(self.images[donor]))
        pixels = np.ascontiguousarray(image.movedim(0, 2).numpy())
        return torch.from_numpy(exchange(pixels, self.known[donor], settings.colour_overflow)).movedim(2, 0)


def _draws() -> dict[str, Callable[[int, torch.Generator], Augmentation]]:
    return {"affine": draw, "flip-turn": draw_flips, "none": lambda count, random: identity(count)}


def sides_of(settings: SegmentConfig) -> list[int]:
    """The sizes that a network is trained at, in pixels."""
    if settings.multiscale == "none":
        return [settings.resolution]
    weights = settings.scale_weights
    if settings.multiscale == "drawn" and weights is not None and len(weights) != len(settings.scales):
        raise InputError(f"segment.scale_weights: {len(weights)} for {len(settings.scales)} of segment.scales")
    return [max(32, 32 * round(settings.resolution * scale / 32)) for scale in settings.scales]


def _turn(step: int, settings: SegmentConfig, sides: list[int]) -> tuple[int, int]:
    """Which batch a step takes, and at which size."""
    if settings.multiscale == "cycle":
        turn, place = divmod(step, len(sides))
        return turn, sides[place]
    if settings.multiscale == "none":
        return step, sides[0]
    weights = torch.tensor(settings.scale_weights or [1.0] * len(sides), dtype=torch.float64)
    return step, sides[int(torch.multinomial(weights, 1, generator=generator(settings.seed, 7, step)))]
