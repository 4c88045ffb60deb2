"""What the decision about a folder's masks is made from: a few figures of each mask in a sample, never its pixels."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from siamese_diffusion.data.heaps import USUAL, cut_at, not_two_heaps
from siamese_diffusion.data.outlines import is_outline
from siamese_diffusion.data.stored import Form, Stored, hexadecimal

FEW = 12
"""So many values can be labels, whatever they are."""
INDEX = 63
"""Values up to this are taken for numbers of labels."""
SHOWN = 8
"""Values that an error lists."""


@dataclass(frozen=True)
class Census:
    """One mask of the sample."""

    path: Path
    form: Form
    mode: str
    lossy: bool
    counts: Mapping[int, int]
    """Pixels of each value, void left out."""
    soft: str | None
    """Of more values than labels have: why they are not two heaps either, "" where they are. None: labels, or two
    values."""
    cut: float | None
    """Where two heaps are parted."""
    outline: bool
    """What it marks is a thin closed line."""
    palette: Mapping[int, int] = field(default_factory=dict)

    @property
    def marks(self) -> frozenset[int]:
        """Its values but 0."""
        return frozenset(self.counts) - {0}


def take(stored: Stored, void: Iterable[int] = ()) -> Census:
    """The figures of a mask; `void` are values that are left out."""
    outside = set(void)
    counts = {value: count for value, count in stored.counts.items() if value not in outside}
    soft = cut = None
    lesion = stored.values != 0
    narrow = stored.values.dtype == np.uint8
    if stored.form in ("grey", "alpha") and narrow and not _plainly_labels(stored, counts):
        reason = not_two_heaps(stored.values, stored.counts)
        if reason is None or stored.share:
            soft, cut = "", USUAL if stored.share else cut_at(stored.counts)
            lesion = stored.values > cut
        elif not _in_areas(stored, counts):
            soft = reason
    return Census(
        stored.path, stored.form, stored.mode, stored.lossy, counts, soft, cut, is_outline(lesion), dict(stored.palette)
    )


def _plainly_labels(stored: Stored, counts: Mapping[int, int]) -> bool:
    """Whether the values need no other explanation: one or two, or small whole numbers."""
    marks = set(counts) - {0}
    if stored.lossy and marks:
        return False  # a lossy format keeps no labels
    if len(marks) <= 1:
        return True
    if stored.fractions:
        return False
    return len(marks) <= 2 or (max(marks) <= INDEX and (len(marks) <= FEW or _in_areas(stored, counts)))


def _in_areas(stored: Stored, counts: Mapping[int, int]) -> bool:
    """Few values, or small ones, each of which fills areas: no noise."""
    if stored.lossy or stored.fractions or not (len(counts) <= FEW or max(counts) <= INDEX):
        return False
    values = stored.values
    return bool((values[:, 1:] == values[:, :-1]).mean() > 0.75) if values.shape[1] > 1 else True


def pooled(censuses: Iterable[Census]) -> Counter[int]:
    """Pixels of each value over several masks."""
    total: Counter[int] = Counter()
    for census in censuses:
        total.update(census.counts)
    return total


def shares(censuses: Sequence[Census]) -> str:
    """The commonest values with their share of the pixels, for an error."""
    total = pooled(censuses)
    everything = max(1, sum(total.values()))
    coloured = any(census.form == "colour" for census in censuses)
    common = sorted(value for value, _ in total.most_common(SHOWN))
    listed = [f"{hexadecimal(v) if coloured else v} ({_percent(total[v] / everything)})" for v in common]
    more = f" and {len(total) - SHOWN} more values" if len(total) > SHOWN else ""
    return ", ".join(listed) + more


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else "under 0.1 %"
