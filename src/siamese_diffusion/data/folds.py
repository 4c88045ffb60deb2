"""Parts of a data set that take turns at being held out: the folds of a cross-validation.

Design note: a fold is made of whole groups (patients, videos), and all folds have their share of healthy images and of
small, middling and large lesions as far as the groups allow. That is a greedy search and not an optimum: the largest
group first, each into the fold that has least of what it brings.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from siamese_diffusion import progress
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.errors import InputError
from siamese_diffusion.randomness import generator

SIZES = 3
"""Classes of lesions by size, of equally many images; healthy images are one more."""

ORIGINS = ("background", "target", "source_mask", "source")
"""Columns of a synthetic pair's row that name the real pairs it was made from, the one whose pixels it has most of
first: what `sample` and copy-paste write."""


def draw_folds(pairs: Sequence[Pair], count: int, seed: int) -> list[list[Pair]]:
    """Divide pairs into folds; each pair is in one of them, and so is each group.

    Args:
        pairs: in the order that they keep within a fold.
        count: of folds, at least 2.
        seed: of the order in which groups of a size are dealt.

    Raises:
        InputError: there are fewer groups (or pairs without one) than folds, a fold has no image with a lesion, or a
            mask cannot be read.
    """
    if count < 2:
        raise InputError(f"--folds {count}: must be at least 2")
    units: dict[str, list[int]] = {}
    for i, pair in enumerate(pairs):
        units.setdefault(f"group {pair.group}" if pair.group is not None else f"pair {i}", []).append(i)
    if len(units) < count:
        what = "groups" if len(units) < len(pairs) else "pairs"
        raise InputError(f"--folds {count}: there are only {len(units)} {what} to divide; give fewer folds")
    shares = _shares(pairs)
    dealt = _deal(list(units.values()), _strata(shares), count, seed)
    ill = {fold for fold, share in zip(dealt, shares, strict=True) if share > 0}
    if len(ill) < count:
        raise InputError(f"--folds {count}: some fold would have no image with a lesion; give fewer folds")
    return [[pair for i, pair in enumerate(pairs) if dealt[i] == fold] for fold in range(count)]


def apart_from(made: Iterable[Pair], held: Sequence[Pair], others: Sequence[Pair]) -> tuple[list[Pair], int]:
    """The synthetic pairs that were not made from a held-out pair, and how many of them name none of the real pairs.

    A name that a held-out pair shares with another one counts as the held-out pair's.

    Args:
        made: synthetic pairs, whose rows say what they were made from.
        held: real pairs of the fold.
        others: the other real pairs.
    """
    hidden, known = _names(held), _names(others)
    kept, unknown = [], 0
    for pair in made:
        origins = set(origins_of(pair))
        if not origins & hidden:
            kept.append(pair)
            unknown += not origins or not origins <= known
    return kept, unknown


def origins_of(pair: Pair) -> list[str]:
    """Names of the real pairs that a synthetic one was made from, in the order of `ORIGINS`."""
    return [str(pair.extra[column]) for column in ORIGINS if pair.extra.get(column) is not None]


def _names(pairs: Iterable[Pair]) -> set[str]:
    """What a pair may be called in the row of a synthetic one: by its own name, or by its mask's file."""
    return {name for pair in pairs for name in (pair.name, pair.mask.path.stem)}


def _shares(pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """Share of its image that each mask covers, (N,)."""
    with ThreadPoolExecutor() as pool:
        shares = pool.map(lambda pair: float(pair.mask.read().mean()), pairs)
        return np.array(list(progress.track(shares, "measuring lesions", len(pairs))))


def _strata(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Class of each pair: 0 for healthy, 1 to `SIZES` by the size of the lesion."""
    found = np.zeros(len(shares), np.int64)
    ill = np.flatnonzero(shares > 0)
    order = ill[np.argsort(shares[ill], kind="stable")]
    found[order] = 1 + np.arange(len(order)) * SIZES // max(1, len(order))
    return found


def _deal(units: Sequence[Sequence[int]], strata: NDArray[np.int64], count: int, seed: int) -> dict[int, int]:
    """Index of a pair to its fold: units in falling size, each to the fold that has least of the classes it brings."""
    classes = np.eye(SIZES + 1, dtype=np.int64)[strata]
    classes = np.hstack([classes, np.ones((len(strata), 1), np.int64)])  # the last column: pairs of any class
    totals = classes.sum(0).clip(min=1)
    totals[-1] = max(1, len(strata) // (SIZES + 1))  # equal sizes matter as much as all classes together
    brings = [classes[list(unit)].sum(0) for unit in units]
    order = torch.randperm(len(units), generator=generator(seed, 8)).tolist()
    order.sort(key=lambda unit: -len(units[unit]))
    has = np.zeros((count, SIZES + 2), np.int64)
    dealt = {}
    for unit in order:
        added = (((has + brings[unit]) ** 2 - has**2) / totals).sum(1)
        fold = min(range(count), key=lambda each: (round(float(added[each]), 9), int(has[each][-1]), each))
        has[fold] += brings[unit]
        dealt.update(dict.fromkeys(units[unit], fold))
    return dealt
