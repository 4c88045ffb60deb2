"""Random draws that depend on a seed and a key only, never on what was drawn before: so any of them can be made
again."""

import hashlib

import torch
from torch import Tensor


def generator(seed: int, *key: int | str) -> torch.Generator:
    """A CPU generator whose state depends on `seed` and `key` only."""
    return torch.Generator().manual_seed(mix(seed, *key))


def rows_of_epochs(step: int, rows: range, batch_size: int, count: int, seed: int) -> list[int]:
    """Indices into `count` samples of these rows of a step, each epoch a new permutation, no sample left out.

    Args:
        step: number of the step, from 0.
        rows: rows of its global batch.
        batch_size: size of that global batch.
        count: samples in the data set.
    """
    orders: dict[int, Tensor] = {}
    indices = []
    for row in rows:
        epoch, place = divmod(step * batch_size + row, count)
        if epoch not in orders:
            orders[epoch] = torch.randperm(count, generator=generator(seed, 1, epoch))
        indices.append(int(orders[epoch][place]))
    return indices


def mix(seed: int, *key: int | str) -> int:
    return int.from_bytes(hashlib.sha256(repr((seed, *key)).encode()).digest()[:8], "big") >> 1
