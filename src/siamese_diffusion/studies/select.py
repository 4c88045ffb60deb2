"""Choose synthetic pairs from rounds of drawing: those that obey their masks, and as many as an arm asks for.

A round holds one pair for each real mask. Rounds are used in order, the pairs of each in one fixed random order, so a
smaller set is part of a larger one.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from siamese_diffusion.data.folder import open_as_written
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.data.prepared import write_classes
from siamese_diffusion.errors import InputError
from siamese_diffusion.evaluation.scores import read_fits
from siamese_diffusion.files import whole_folder, write_jsonl


def select(
    rounds: list[Path], out: Path, count: int, scores: list[Path] | None = None, min_fit: float | None = None
) -> dict[str, Any]:
    """Write the first `count` pairs of the rounds that are good enough, as a folder of pairs.

    Args:
        rounds: folders of pairs.
        out: gets `images/`, `masks/` (hard links where the disk allows) and `pairs.jsonl` with `round` and `fit`.
        count: pairs wanted; there may be fewer that are good enough.
        scores: folders that `evaluate` wrote, one a round.
        min_fit: smallest Dice of a pair, from `scores`.

    Returns:
        `wanted`, `considered` (pairs looked at until there were enough), `kept`, and the `fit` of the kept, mean Dice
        in [0, 1] (None without scores).

    Raises:
        InputError: not one pair is good enough.
    """
    kept: list[tuple[int, Pair, float | None]] = []
    considered, best = 0, 0.0
    for number, folder in enumerate(rounds):
        pairs = open_as_written(folder).pairs()
        fits = read_fits(scores[number] / "fit.csv") if scores is not None else {}
        for index in np.random.default_rng(number).permutation(len(pairs)):
            if len(kept) == count:
                break
            pair = pairs[index]
            fit = fits[pair.name][0] if pair.name in fits else None
            considered += 1
            best = max(best, fit or 0.0)
            if min_fit is None or (fit is not None and fit >= min_fit):
                kept.append((number, pair, fit))
    if not kept:
        raise InputError(
            f"min_fit = {min_fit}: not one of {considered} pairs reaches it (the best: {best:.3f}); lower it"
        )
    rows = []
    with whole_folder(out) as folder:
        write_classes(folder, kept[0][1].mask.decoding.class_names)
        for number, pair, fit in kept:
            row: dict[str, Any] = {"prompt": pair.prompt, **pair.extra, "round": number, "fit": fit}
            for key, source in (("image", pair.image.path), ("mask", pair.mask.path)):
                row[key] = f"{key}s/{pair.name}-{number:02d}{source.suffix}"
                _link(source, folder / row[key])
            rows.append(row)
        write_jsonl(folder / "pairs.jsonl", sorted(rows, key=lambda row: str(row["image"])))
    known = [fit for _, _, fit in kept if fit is not None]
    mean = float(np.mean(known)) if known else None
    return {"wanted": count, "considered": considered, "kept": len(kept), "fit": mean}


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
