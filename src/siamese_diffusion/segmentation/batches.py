"""Batches of real, or real and synthetic, pairs: each a pure function of the seed and the step."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siamese_diffusion.config import SegmentConfig
from siamese_diffusion.data.loading import load_pairs
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.loop import Batch, BatchAt, generator, rows_of_epochs
from siamese_diffusion.segmentation.augment import augment, draw


class Arrays(NamedTuple):
    """Square pairs in memory."""

    images: NDArray[np.uint8]  # (N, R, R, 3)
    masks: NDArray[np.bool_]  # (N, R, R)


def load(pairs: Sequence[Pair], resolution: int) -> Arrays:
    """Read and square pairs; errors as in `data.loading.load_pairs`."""
    return Arrays(*load_pairs(pairs, resolution))


def batches(real: Arrays, synthetic: Arrays | None, settings: SegmentConfig) -> BatchAt:
    """What `loop.run` asks for: augmented `images` (B, 3, R, R) in [0, 1] and `masks` (B, 1, R, R) of 0 and 1.

    With `synthetic`, each row of a batch is real with probability 1 - `settings.synthetic_share`. So runs with and
    without synthetic pairs take equally many steps of equal size. Each kind goes through epochs, no pair left out.
    """
    sources = [_tensors(real)] + ([_tensors(synthetic)] if synthetic is not None else [])
    size = settings.batch_size
    drawn = torch.rand(settings.steps * size, generator=generator(settings.seed, 3))
    kinds = (drawn < settings.synthetic_share).long() if synthetic is not None else torch.zeros(len(drawn)).long()
    places = torch.where(kinds == 1, kinds.cumsum(0), (1 - kinds).cumsum(0)) - 1  # how many of its kind came before

    def batch_at(step: int, rows: range) -> Batch:
        chosen = []
        for row in rows:
            kind, place = int(kinds[step * size + row]), int(places[step * size + row])
            images, masks = sources[kind]
            (index,) = rows_of_epochs(place, range(1), 1, len(images), settings.seed + kind)
            chosen.append((images[index], masks[index]))
        how = draw(size, generator(settings.seed, 4, step)).rows(rows)
        images, masks = augment(torch.stack([pair[0] for pair in chosen]), torch.stack([pair[1] for pair in chosen]), how)
        return {"images": images, "masks": masks}

    return batch_at


def _tensors(arrays: Arrays) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(arrays.images).movedim(3, 1).contiguous(), torch.from_numpy(arrays.masks)[:, None]
