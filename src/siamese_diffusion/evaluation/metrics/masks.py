"""Masks as a set: their sizes, places and shapes, whether two sets differ, near copies, and diversity.

Design note: everything is of label maps, so that one class is a special case. A test that two sets differ permutes the
sets' members and takes the largest distance of the two distribution functions (Kolmogorov and Smirnov), so it is exact
also where many masks have the same value, as the number of parts.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label
from scipy.stats import ttest_ind

from siamese_diffusion.evaluation.features import FLIPS

Labels = NDArray[np.uint8]  # (N, h, w), 0 is background, 1..K are classes
Values = NDArray[np.float64]

STATISTICS = {
    "area": "share of the frame",
    "x": "of the centroid, 0 left to 1 right",
    "y": "of the centroid, 0 top to 1 bottom",
    "compactness": "of the largest part: 4 pi area / perimeter², 1 for a disc",
    "parts": "number of separate parts",
    "border": "share of the frame's border that is lesion",
}
"""What is measured of a mask."""

SPECK = 2e-4
"""Parts that cover less of the frame are not counted: two pixels of 96 x 96."""
PERMUTATIONS = 4999
MOST_COMPARED = 1000
"""Masks of a set whose pairs are looked at for its diversity."""
CHUNK = 256


def describe(labels: Labels, names: Mapping[int, str] | None = None) -> dict[str, Values]:
    """The `STATISTICS` of masks that have a lesion; with several classes those of all classes together, then of each.

    Args:
        labels: uint8 (N, h, w), each with a lesion.
        names: of the classes by their value; default: there is one class.

    Returns:
        Name to (n,) values, n = N but for places and shapes of a class, which are of the masks that show it. Those of
        a class are called `area of NAME` and so on; areas count every mask, 0 where the class is absent.
    """
    found = _of_class(labels > 0)
    for value, name in (names or {}).items() if len(names or {}) > 1 else ():
        inside = labels == value
        present = inside.any((1, 2))
        found[f"area of {name}"] = inside.mean((1, 2))
        if present.any():
            more = _of_class(inside[present])
            found |= {f"{each} of {name}": values for each, values in more.items() if each != "area"}
    return found


def _of_class(masks: NDArray[np.bool_]) -> dict[str, Values]:
    rows = [_of_mask(mask) for mask in masks]
    return {name: np.array([row[i] for row in rows], np.float64) for i, name in enumerate(STATISTICS)}


def _of_mask(mask: NDArray[np.bool_]) -> tuple[float, ...]:
    height, width = mask.shape
    down, across = np.nonzero(mask)
    parts, _ = label(mask, np.ones((3, 3)))
    sizes = np.bincount(parts.ravel())[1:]
    largest = int(sizes.argmax()) + 1
    part = parts[find_objects(parts)[largest - 1]] == largest
    border = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    return (
        float(mask.mean()),
        (float(across.mean()) + 0.5) / width,
        (float(down.mean()) + 0.5) / height,
        min(1.0, 4 * np.pi * float(part.sum()) / perimeter(part) ** 2),
        float(max(1, (sizes >= SPECK * mask.size).sum())),
        float(border.mean()),
    )


def perimeter(mask: NDArray[np.bool_]) -> float:
    """Length of the outline of bool (H, W) in pixels, by Crofton's formula over four directions of lines: the frame's
    border is outline where a lesion reaches it."""
    padded = np.pad(mask, 1)
    across, down = (padded[:, 1:] != padded[:, :-1]).sum(), (padded[1:] != padded[:-1]).sum()
    falling = (padded[1:, 1:] != padded[:-1, :-1]).sum()
    rising = (padded[1:, :-1] != padded[:-1, 1:]).sum()
    return float(np.pi / 8 * (across + down + (falling + rising) / np.sqrt(2)))


def ks_test(first: Values, second: Values, seed: int = 0) -> tuple[float, float]:
    """Largest distance of two samples' distribution functions, and its p value by permutation.

    Args:
        first, second: (n,) and (m,).
        seed: of the permutations.

    Returns:
        The distance in [0, 1], and the share of permutations in which it is at least as large; at least 1 / 5000.
    """
    pooled = np.concatenate([first, second])
    order = np.argsort(pooled, kind="stable")
    last = np.append(np.diff(pooled[order]) > 0, True)  # of equal values, where both functions are past them
    of_first = np.zeros(len(pooled), bool)
    of_first[: len(first)] = True

    def distances(members: NDArray[np.bool_]) -> Values:
        inside = np.cumsum(members, 1)[:, last]
        upto = np.flatnonzero(last) + 1
        return np.asarray(np.abs(inside / len(first) - (upto - inside) / len(second)).max(1))

    found = float(distances(of_first[order][None])[0])
    random = np.random.default_rng(seed)
    as_large = 0
    for start in range(0, PERMUTATIONS, CHUNK):
        count = min(CHUNK, PERMUTATIONS - start)
        mixed = random.permuted(np.broadcast_to(of_first, (count, len(pooled))), axis=1)
        as_large += int((distances(mixed) >= found - 1e-12).sum())
    return found, (1 + as_large) / (1 + PERMUTATIONS)


def compare(drawn: Mapping[str, Values], real: Mapping[str, Values], seed: int = 0) -> dict[str, dict[str, Any]]:
    """Where two sets of masks differ, statistic by statistic; those that fewer than two masks of a set have are left
    out.

    Returns:
        By statistic: `drawn` and `real`, the means; `difference` of them with Welch's 95 % interval, `low` and `high`;
        `distance` and `p`, see `ks_test`.
    """
    found = {}
    for name, values in drawn.items():
        other = real.get(name, np.empty(0))
        if min(len(values), len(other)) < 2:
            continue
        distance, p = ks_test(values, other, seed)
        difference = float(values.mean() - other.mean())
        low, high = difference, difference
        if max(values.std(), other.std()) > 1e-9:  # else Welch's interval is not defined
            low, high = map(float, ttest_ind(values, other, equal_var=False).confidence_interval())
        found[name] = {
            "drawn": float(values.mean()),
            "real": float(other.mean()),
            "difference": difference,
            "low": low,
            "high": high,
            "distance": distance,
            "p": p,
        }
    return found


class Nearest(NamedTuple):
    """The most similar of other masks, for N masks."""

    iou: Values  # (N,)
    place: NDArray[np.intp]  # (N,)
    flip: NDArray[np.intp]  # (N,), a place in `features.FLIPS`


def nearest(labels: Labels, others: Labels, apart: bool = False) -> Nearest:
    """The most similar of `others`, in any of its flips, by IoU: pixels of the same class over those of any class.

    Args:
        labels: uint8 (N, h, w).
        others: uint8 (M, h, w).
        apart: both are the same set, and a mask is not compared with itself, flipped or not.
    """
    best = Nearest(np.full(len(labels), -1.0), np.zeros(len(labels), np.intp), np.zeros(len(labels), np.intp))
    for number, axes in enumerate(FLIPS):
        flipped = np.flip(others, axes) if axes else others
        for start in range(0, len(labels), CHUNK):
            rows = slice(start, start + CHUNK)
            iou = ious(labels[rows], flipped)
            if apart:
                each = np.arange(start, start + len(iou))
                iou[each - start, each] = -1.0
            place = iou.argmax(1)
            highest = iou[np.arange(len(iou)), place]
            better = highest > best.iou[rows]
            best.iou[rows][better] = highest[better]
            best.place[rows][better] = place[better]
            best.flip[rows][better] = number
    return best


def ious(first: Labels, second: Labels) -> Values:
    """IoU (N, M) of each of (N, h, w) with each of (M, h, w); two empty masks have 1."""
    both: Any = 0.0
    for value in np.union1d(np.unique(first), np.unique(second)):
        if value:
            both = both + _flat(first == value) @ _flat(second == value).T
    any_first, any_second = _flat(first > 0), _flat(second > 0)
    either = any_first.sum(1)[:, None] + any_second.sum(1)[None] - any_first @ any_second.T
    return np.where(either > 0, both / np.maximum(either, 1), 1.0).astype(np.float64)


def diversity(labels: Labels, seed: int = 0) -> float:
    """Mean of 1 - IoU over pairs of masks, of at most `MOST_COMPARED` of them."""
    if len(labels) > MOST_COMPARED:
        labels = labels[np.random.default_rng(seed).permutation(len(labels))[:MOST_COMPARED]]
    total = sum(float(ious(labels[start : start + CHUNK], labels).sum()) for start in range(0, len(labels), CHUNK))
    count = len(labels)
    return 1 - (total - count) / (count * (count - 1))


def _flat(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    return masks.reshape(len(masks), -1).astype(np.float32)
