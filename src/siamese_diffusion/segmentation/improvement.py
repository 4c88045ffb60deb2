"""Whether synthetic pairs helped: two arms' scores, their differences, and the sentence that follows from them.

Design note: a difference is held against both things that might have made it. Another training would give other
figures, so the trainings of the two arms are paired and Student's t interval is of those pairs; other images would
too, so images are resampled with the trainings as they are. Only where neither interval holds 0 is it called a
difference; one training alone cannot say what another would have given.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from siamese_diffusion.differences import over_images, paired
from siamese_diffusion.files import read_csv
from siamese_diffusion.report import Verdict, Word

OVER = "mean of the sets"
"""Several sets together, each counting once."""

PER_IMAGE = {"mDice": "dice", "mIoU": "iou"}
"""Figures that are means over images with a lesion, and their columns in a table of images."""

QUESTION = "Does segmentation improve with the synthetic pairs?"
RULE = (
    "The difference of the mean Dice, its 95 % interval over trainings (Student's t, paired) and that over images "
    "(bootstrap) both clear of zero; at least two trainings of each arm."
)


class Outcome(NamedTuple):
    """What came of an arm."""

    figures: Sequence[Mapping[str, Mapping[str, float]]]
    """Of each training: {set: {figure: value}}."""
    images: Mapping[str, Mapping[str, NDArray[np.float64]]]
    """{set: {figure: (N,) of the images with a lesion, mean over the trainings}}."""
    names: Mapping[str, Sequence[str]]
    """{set: (N,) names of these images}."""


def read_images(tables: Sequence[Path]) -> tuple[list[str], dict[str, NDArray[np.float64]]]:
    """Names of the images with a lesion, and {figure: (N,)}, mean over tables of the same images, one a training."""
    found, names = [], []
    for table in tables:
        rows = [row for row in read_csv(table, ["name", *PER_IMAGE.values()]) if float(row.get("lesion", 1)) > 0]
        found.append({name: np.array([float(row[column]) for row in rows]) for name, column in PER_IMAGE.items()})
        names = [row["name"] for row in rows]
    return names, {name: np.mean([each[name] for each in found], axis=0) for name in PER_IMAGE}


def differences(real: Outcome, mixed: Outcome) -> dict[str, dict[str, dict[str, Any]]]:
    """{set: {figure: difference}}, the arm with synthetic pairs less that without; with several sets `OVER` too.

    A difference is what `differences.paired` returns, over trainings; of figures in `PER_IMAGE` also `images`, {low,
    high}, the 95 % bootstrap interval over images.
    """
    sets = [name for name in real.figures[0] if name in mixed.figures[0]]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for part in [[name] for name in sets] + ([sets] if len(sets) > 1 else []):
        first, second = (_over(part, arm.figures) for arm in (real, mixed))
        shared = [name for name in first[0] if all(name in row for row in [*first, *second])]
        entries = {name: paired([row[name] for row in second], [row[name] for row in first]) for name in shared}
        for name in PER_IMAGE:
            if name in entries:
                changes = [mixed.images[each][name] - real.images[each][name] for each in part]
                changes = [change for change in changes if len(change)]
                entries[name]["images"] = (
                    dict(zip(("low", "high"), over_images(changes), strict=True)) if changes else None
                )
        found[OVER if len(part) > 1 else part[0]] = entries
    return found


def _over(sets: Sequence[str], trainings: Sequence[Mapping[str, Mapping[str, float]]]) -> list[dict[str, float]]:
    """Of each training the mean over sets of the figures that all of them have."""
    rows = []
    for training in trainings:
        parts = [training[name] for name in sets]
        names = [name for name in parts[0] if all(name in part for part in parts)]
        rows.append({name: float(np.mean([part[name] for part in parts])) for name in names})
    return rows


def verdict(difference: Mapping[str, Any], count: int, where: str, unit: str, validation: bool) -> Verdict:
    """The answer.

    Args:
        difference: of the mean Dice, from `differences`.
        count: images it was measured on.
        where: what these are, "test images" say.
        unit: what the trainings are called, "trainings" or "folds".
        validation: they picked the steps, so that they cannot be the last word.
    """
    mean, low, high, images = (difference[name] for name in ("mean", "low", "high", "images"))
    what = f"Dice is {abs(100 * mean):.1f} points {'higher' if mean >= 0 else 'lower'} with the synthetic pairs"
    of_images = f"{_range(images['low'], images['high'])} over the {count} {where}" if images else ""
    if low is None:
        because = f"{what} ({of_images}, 95 %). One training of each cannot tell what another would give: --seeds 3."
        return Verdict(QUESTION, "cannot tell", because, RULE)
    told = f"{_range(low, high)} over {difference['n']} {unit}"
    because = f"{what} ({told}, {of_images}, 95 %)." if images else f"{what} ({told}, 95 %)."
    sides = [_side(low, high), _side(images["low"], images["high"]) if images else 0]
    word: Word = "cannot tell"
    if sides == [1, 1]:
        word = "doubtful" if validation else "good"
        because = f"Yes: {because}"
    elif sides == [-1, -1]:
        word = "not good"
        because = f"No, it gets worse: {because}"
    else:
        because = f"No difference can be shown: {because} More {unit} or more test images would narrow this."
    if validation:
        because += " These pairs picked the best steps: give test pairs for figures that can be quoted."
    return Verdict(QUESTION, word, because, RULE)


def _side(low: float, high: float) -> int:
    """1: above zero, -1: below, 0: neither."""
    return 1 if low > 0 else -1 if high < 0 else 0


def _range(low: float, high: float) -> str:
    return f"{100 * low:+.1f} to {100 * high:+.1f}"
