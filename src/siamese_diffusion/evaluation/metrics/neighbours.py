"""Exact nearest neighbours by blocked matrix products: memory stays bounded, and the time is that of the products.

An index (HNSW, inverted lists) would be faster past a million keys, but it misses some neighbours, and a missed copy is
just what must not happen here.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Rows(Protocol):
    """Features (N, D) that are read by slices or by index arrays: an array, or something that makes them on demand."""

    def __len__(self) -> int: ...

    def __getitem__(self, which: Any, /) -> NDArray[Any]: ...


QUERIES, KEYS = 4096, 8192
"""Rows of a block: 128 MiB of distances at a time; for each block of queries all keys are read and centred anew."""


class Nearest(NamedTuple):
    """The `k` nearest keys of each query, nearest first; each (N, k)."""

    distance: NDArray[np.float64]
    place: NDArray[np.intp]
    """Index of the key."""
    variant: NDArray[np.intp]
    """Which of the variants of that key was nearest."""


def nearest(
    queries: Rows,
    keys: NDArray[Any] | Sequence[Rows],
    k: int = 1,
    exclude: NDArray[np.intp] | None = None,
    track: Callable[[range], Iterator[int] | range] = lambda blocks: blocks,
) -> Nearest:
    """Euclidean nearest keys.

    Args:
        queries: (N, D).
        keys: (M, D), or several variants of the same M keys (an image and its flips): the nearest variant counts.
        k: neighbours, at most M less what is excluded.
        exclude: for each query the index of one key that does not count, such as itself, (N,).
        track: wraps the range over blocks of queries, to show progress.

    Raises:
        ValueError: there are fewer than `k` keys.
    """
    variants: list[Rows] = [keys] if isinstance(keys, np.ndarray) else list(keys)
    count = len(variants[0]) - (exclude is not None)
    if not 1 <= k <= count:
        raise ValueError(f"asked for {k} neighbours among {count}")
    centre = np.asarray(variants[0][:KEYS], np.float32).mean(0)  # small numbers keep float32 products exact enough
    distance = np.empty((len(queries), k))
    index, variant = (np.empty((len(queries), k), np.intp) for _ in range(2))
    for start in track(range(0, len(queries), QUERIES)):
        rows = slice(start, min(start + QUERIES, len(queries)))
        found = _block(
            np.asarray(queries[rows], np.float32) - centre,
            variants,
            centre,
            k,
            None if exclude is None else exclude[rows],
        )
        distance[rows], index[rows], variant[rows] = found
    return Nearest(distance, index, variant)


def _block(
    queries: NDArray[np.float32],
    variants: list[Rows],
    centre: NDArray[np.float32],
    k: int,
    exclude: NDArray[np.intp] | None,
) -> Nearest:
    rows = np.arange(len(queries))[:, None]
    best = np.full((len(queries), k), np.inf, np.float32)
    index, variant = (np.zeros((len(queries), k), np.intp) for _ in range(2))
    for start in range(0, len(variants[0]), KEYS):
        squared, which = _closest_variant(queries, [v[start : start + KEYS] for v in variants], centre)
        if exclude is not None:
            at = exclude - start
            inside = (at >= 0) & (at < squared.shape[1])
            squared[np.flatnonzero(inside), at[inside]] = np.inf
        width = min(k, squared.shape[1])
        chosen = np.argpartition(squared, width - 1, axis=1)[:, :width]
        candidates = np.concatenate([best, squared[rows, chosen]], 1)
        order = np.argsort(candidates, axis=1, kind="stable")[:, :k]
        best = candidates[rows, order]
        index = np.concatenate([index, chosen + start], 1)[rows, order]
        variant = np.concatenate([variant, which[rows, chosen]], 1)[rows, order]
    # Products lose what near copies differ by: |q|² + |x|² - 2qx cancels. So the winners' distances are taken anew.
    distance = np.empty(best.shape)
    for column in range(k):
        for v, rows_of in enumerate(variants):
            won = np.flatnonzero(variant[:, column] == v)
            keys = np.asarray(rows_of[index[won, column]], np.float64) - centre
            distance[won, column] = np.linalg.norm(queries[won] - keys, axis=1)
    order = np.argsort(distance, axis=1, kind="stable")
    return Nearest(distance[rows, order], index[rows, order], variant[rows, order])


def _closest_variant(
    queries: NDArray[np.float32], variants: list[Rows], centre: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Squared distances (B, K) to the nearest variant of each key, and which that is."""
    which = np.zeros((len(queries), len(variants[0])), np.int8)
    squared: NDArray[np.float32] | None = None
    for number, rows in enumerate(variants):
        found = squared_distances(queries, np.asarray(rows, np.float32) - centre)
        if squared is None:
            squared = found
        else:
            nearer = found < squared
            which[nearer] = number
            np.minimum(squared, found, out=squared)
    assert squared is not None
    return squared, which


def squared_distances(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared Euclidean distances (N, M) of rows (N, D) and (M, D), never below 0."""
    product = first @ second.T
    product *= -2
    product += np.square(first).sum(1)[:, None]
    product += np.square(second).sum(1)[None]
    np.maximum(product, 0, out=product)
    return product


def within(queries: Rows, keys: Rows, radii: NDArray[np.floating[Any]]) -> NDArray[np.intp]:
    """How many of the keys' balls hold each query: |query - key| <= radius of the key; (N,).

    Args:
        queries: (N, D).
        keys: (M, D).
        radii: (M,).
    """
    centre = np.asarray(keys[:KEYS], np.float32).mean(0)
    counts = np.zeros(len(queries), np.intp)
    squared_radii = np.square(radii).astype(np.float32)
    for start in range(0, len(queries), QUERIES):
        block = np.asarray(queries[start : start + QUERIES], np.float32) - centre
        for first in range(0, len(keys), KEYS):
            part = np.asarray(keys[first : first + KEYS], np.float32) - centre
            counts[start : start + QUERIES] += (
                squared_distances(block, part) <= squared_radii[None, first : first + KEYS]
            ).sum(1)
    return counts
