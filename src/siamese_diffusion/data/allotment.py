"""Groups of pairs, and training, validation and test sets that are drawn from them: a group is never parted.

Design note: sets are filled as iterative stratification does it (Sechidis et al., ECML PKDD 2011), but by whole groups:
the largest first, each into the set that lacks most of what the group holds, by size of lesion.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from siamese_diffusion.errors import InputError, brief

Counts = NDArray[np.float64]
"""Pairs of each kind, healthy ones first (`BINS` + 1)."""

SETS = ("train", "val", "test")
BINS = 3
"""Sizes of lesions that are told apart, as many pairs in each; healthy pairs are apart from them."""


def parse_shares(text: str) -> dict[str, float]:
    """Shares of `--split`, "0.8,0.1,0.1", by set; one of 0 is left out.

    Raises:
        InputError: they are not two or three shares from 0 to 1 that sum to 1, the first above 0.
    """
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if not 2 <= len(shares) <= 3 or not all(0 <= share <= 1 for share in shares) or not shares[0] > 0:
        raise InputError(f"--split {text}: expected the shares of train, val and test, for example 0.8,0.1,0.1")
    if abs(sum(shares) - 1) > 1e-6:
        raise InputError(f"--split {text}: the shares sum to {sum(shares):g}, not to 1; for example 0.8,0.1,0.1")
    found = {name: share for name, share in zip(SETS, shares, strict=False) if share > 0}
    if len(found) < 2:
        raise InputError(f"--split {text}: puts all pairs into one set; leave it out, or name a second share")
    return found


def group_by(pattern: str, names: Sequence[str]) -> dict[str, str]:
    """The group of each name: what the pattern's first parentheses hold, wherever it is found.

    Raises:
        InputError: it is no regular expression, has no parentheses, or is not found in every name.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--group-by {pattern}: not a regular expression ({error})") from None
    example = "for example '^([^_]+)_' for what stands before the first _"
    if compiled.groups < 1:
        raise InputError(f"--group-by {pattern}: has no parentheses around what names the group; {example}")
    found = {name: match[1] for name in names if (match := compiled.search(name)) is not None and match[1]}
    lost = [name for name in names if name not in found]
    if lost:
        shown = ", ".join(brief(name) for name in lost[:3]) + (", ..." if len(lost) > 3 else "")
        what = "no name" if not found else f"only {len(found)} of {len(names)} names"
        raise InputError(f"--group-by {pattern}: fits {what}; it does not fit {shown}; {example}")
    return found


def units(names: Sequence[str], groups: Mapping[str, str]) -> dict[str, list[str]]:
    """What is never parted: names by group; one without a group stands alone."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(f"group {groups[name]}" if name in groups else f"pair {name}", []).append(name)
    return found


def require_enough(names: Sequence[str], groups: Mapping[str, str], shares: Mapping[str, float]) -> None:
    """There is a group, or a pair without one, for every set.

    Raises:
        InputError: there are fewer.
    """
    count = len(units(names, groups))
    if count < len(shares):
        raise InputError(
            f"--split: {len(shares)} sets need as many groups, and there are {count}; a group is never parted "
            "(--group-by says what a group is)"
        )


def allot(
    names: Sequence[str], groups: Mapping[str, str], sizes: Mapping[str, float], shares: Mapping[str, float], seed: int
) -> dict[str, list[str]]:
    """Names by set.

    Args:
        names: of the pairs.
        groups: by name.
        sizes: the lesion's share of the image, by name.
        shares: of the sets, which sum to 1.
        seed: of what is drawn, the order of groups of one size and the choice of sets that lack as much.

    Raises:
        InputError: see `require_enough`.
    """
    require_enough(names, groups, shares)
    kinds = _kinds(np.array([sizes[name] for name in names]))
    kind_of = dict(zip(names, kinds.tolist(), strict=True))
    parts = units(names, groups)
    counts = {
        unit: np.bincount([kind_of[name] for name in held], minlength=BINS + 1).astype(np.float64)
        for unit, held in parts.items()
    }
    random = np.random.default_rng(seed)
    order = [list(parts)[index] for index in random.permutation(len(parts))]
    order.sort(key=lambda unit: -len(parts[unit]))
    total = np.sum(list(counts.values()), axis=0)
    wanted = {name: np.maximum(share * total, 1e-9) for name, share in shares.items()}
    filled = {name: np.zeros(BINS + 1) for name in shares}
    sets: dict[str, list[str]] = {name: [] for name in shares}
    for place, unit in enumerate(order):
        empty = [name for name in shares if not sets[name]]
        open_to = empty if len(order) - place <= len(empty) else list(shares)
        own = counts[unit]
        most = [_fill(own, filled[name] + own, wanted[name]) for name in open_to]
        best = [name for name, fill in zip(open_to, most, strict=True) if fill <= min(most) * (1 + 1e-9)]
        chosen = best[int(random.integers(len(best)))]
        filled[chosen] += own
        sets[chosen] += parts[unit]
    return {name: sorted(held) for name, held in sets.items()}


def _fill(own: Counts, after: Counts, wanted: Counts) -> float:
    """How full a set would be with a unit, 1 where it is full: of what the unit holds, and in all, which counts
    double."""
    return float((own * after / wanted).sum() / own.sum() + 2 * after.sum() / wanted.sum())


def _kinds(sizes: NDArray[np.float64]) -> NDArray[np.int64]:
    """0 for a healthy pair, 1 to `BINS` by the size of the lesion."""
    kinds = np.zeros(len(sizes), np.int64)
    marked = np.flatnonzero(sizes > 0)
    ranks = np.argsort(np.argsort(sizes[marked], kind="stable"), kind="stable")
    kinds[marked] = 1 + ranks * BINS // max(1, len(marked))
    return kinds


def overlap(lists: Mapping[str, Sequence[str]], groups: Mapping[str, str]) -> list[str]:
    """Groups of which several lists hold pairs."""
    held = Counter(group for names in lists.values() for group in {groups[name] for name in names if name in groups})
    return sorted(group for group, count in held.items() if count > 1)
