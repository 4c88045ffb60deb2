"""Compare synthetic images with real ones in features: the quality figures, and the search for copies.

A step of `evaluate`, which hands in the extractors: one of them is the judge, and networks of `segmentation` are not
known to `evaluation`.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from siamese_diffusion import progress
from siamese_diffusion.config import Config
from siamese_diffusion.data.pairs import ImageFile, Pair
from siamese_diffusion.evaluation.features import FLIP_NAMES, FLIPS, PLAIN, Extractor, contents, features
from siamese_diffusion.evaluation.metrics.copies import LEAST, Calibration, CopySearch, Novelty, whole_image
from siamese_diffusion.evaluation.metrics.local_matches import SIDE, Details, details
from siamese_diffusion.evaluation.metrics.lpips import Distance, pair_distances
from siamese_diffusion.evaluation.metrics.mask_fit import interval
from siamese_diffusion.evaluation.metrics.panel import merge, panel, principal

Array = NDArray[np.floating[Any]]


class Sets(NamedTuple):
    """Training images, synthetic images, and real images that are not for training (perhaps none)."""

    real: list[Pair]
    synthetic: list[Pair]
    held_out: list[Pair]


class Comparison(NamedTuple):
    """What `compare` found."""

    quality: dict[str, dict[str, Any]]
    novelty: dict[str, Any]
    nearest: list[dict[str, Any]]
    """For every synthetic image, in order: its `name`, the nearest `real` one and its `index`, `distance` (the score),
    `flip`, `by` (the description that has the smaller ratio), and each description's ratio."""
    real_scores: Array
    """Scores of real images, which the false-alarm rate was measured on."""
    places: list[Array]
    """Coordinates (n, 2) of the real, synthetic and held-out images on the first two principal components."""


class CachedFeatures:
    """CachedFeatures of the three sets, from the cache where they are there."""

    def __init__(self, sets: Sets, cache: Path, config: Config) -> None:
        self.images = [[pair.image for pair in part] for part in sets]
        self.hashes = [contents(images) for images in self.images]
        self.cache, self.config = cache, config

    def of(self, extractor: Extractor, flipped: bool) -> list[Array]:
        """(N, F, D) of the real images, in all flips where `flipped`; (N, D) of the other two kinds."""

        def get(which: int, flips: Sequence[tuple[int, ...]]) -> NDArray[np.float32]:
            return features(
                self.images[which],
                extractor,
                self.cache,
                self.config.data.resolution,
                self.config.evaluate.batch_size,
                flips,
                self.hashes[which],
            )

        real = get(0, FLIPS if flipped else PLAIN)
        others = [get(which, PLAIN)[:, 0] if self.images[which] else np.empty((0, real.shape[2])) for which in (1, 2)]
        return [real, *others]


def compare(
    sets: Sets, extractors: Sequence[Extractor], lpips: Distance | None, cache: Path, config: Config
) -> Comparison:
    """Quality by every extractor; novelty by the image as a whole and by its details, and by the first extractor where
    that is not the judge, which finds no copies.

    Args:
        sets: at least `memorization.LEAST` real and 2 synthetic pairs.
        extractors: at least one.
        lpips: the perceptual distance, or None to leave it out.
        cache: folder of features.
        config: its `data.resolution` and `evaluate` count.

    Raises:
        InputError: an image cannot be read, or the disk is full.
    """
    aside = set_aside(sets, config)
    seed = config.evaluate.seed
    source = CachedFeatures(sets, cache, config)
    quality: dict[str, dict[str, Any]] = {}
    for number, extractor in enumerate(extractors):
        real, made, apart = source.of(extractor, flipped=number == 0 and extractor.name != "judge")
        found = panel(extractor.name, extractor.family, real[:, 0], made, apart if len(apart) else None, seed, aside)
        quality = merge(quality, found, extractor.name)
        if number == 0:
            first = [real, made, apart]
    if lpips is not None:
        quality["lpips"] = _lpips(source, lpips, config)

    known = [extractors[0]] if extractors[0].name != "judge" else []
    views = [source.of(whole_image(), flipped=True), *([first] if known else [])]
    novelty, nearest, real_scores = _copies(sets, views, [each.name for each in known], config)
    places: list[Array] = [*principal(first[0][:, 0], first[1:], seed)]
    return Comparison(quality, novelty, nearest, real_scores, places)


def _copies(
    sets: Sets, views: Sequence[Sequence[Array]], extractors: Sequence[str], config: Config
) -> tuple[dict[str, Any], list[dict[str, Any]], Array]:
    """`novelty`, a row for every synthetic image, and the scores of the real images that the rate was measured on.

    Args:
        sets: the pairs.
        views: for each description of the whole image its features of the three sets.
        extractors: names of those beside the first, `whole`.
        config: its `evaluate` counts.
    """
    names = ["whole", *extractors, "details"]
    search = CopySearch([view[0] for view in views], _details(sets.real, "training images"))
    assert search.local is not None
    own_matches = search.local.match(search.local.own(), np.arange(len(sets.real)))
    held = [view[2] for view in views] if sets.held_out else None
    held_matches = search.local.match(_details(sets.held_out, "held-out images"))
    target = config.evaluate.false_alarms
    found = search.calibrate(own_matches, held, held_matches, target, config.evaluate.seed)
    made = search.score([view[1] for view in views], search.local.match(_details(sets.synthetic, "synthetic images")))
    nearest = _nearest(made, sets.synthetic, sets.real, names)
    scores = made.score
    alarms = _nearest(found.measured, [sets.held_out[i] for i in found.rows], sets.real, names) if held else []
    novelty = {
        "share_flagged": float((scores < 1).mean()),
        "threshold": 1.0,
        "thresholds": dict(zip(names, found.thresholds.tolist(), strict=True)),
        "false_alarm_rate": found.false_alarm_rate,
        "target": target,
        "base": found.base,
        "measured_on": {
            "images": "held-out real" if found.held_out else "half of the training images",
            "count": len(found.measured.score),
        },
        "score": interval(scores),
        "flagged": _below(nearest, 1.0, "synthetic"),
        "alarms": _below(alarms, 1.0, "held_out"),
        "same_scene": _same_scenes(found, sets, names),
    }
    return novelty, nearest, found.measured.score


def _same_scenes(found: Calibration, sets: Sets, names: Sequence[str]) -> list[dict[str, Any]]:
    """Real images that are plainly the same scene as a training image: {first, second, by, split}, each pair once."""
    scenes: dict[tuple[str, str], dict[str, Any]] = {}
    for part, pairs, split in ((found.own, sets.real, "train"), (found.apart, sets.held_out, "held out")):
        for place in np.flatnonzero(part.same) if part is not None else []:
            assert part is not None
            first, second = pairs[place].name, sets.real[part.place[place]].name
            key = (min(first, second), max(first, second)) if split == "train" else (first, second)
            scenes.setdefault(
                key, {"first": first, "second": second, "by": names[part.description[place]], "split": split}
            )
    return list(scenes.values())


def _details(pairs: Sequence[Pair], description: str) -> Iterator[Details]:
    """Details of the images, read ahead in part, in order."""

    def look(image: ImageFile) -> Details:
        return details(image.squared(SIDE))

    with progress.bar() as shown, ThreadPoolExecutor() as pool:
        task = shown.add_task(f"details: {description}", total=len(pairs))
        for start in range(0, len(pairs), 256):
            for each in pool.map(look, [pair.image for pair in pairs[start : start + 256]]):
                shown.advance(task)
                yield each


def set_aside(sets: Sets, config: Config) -> NDArray[np.intp]:
    """Places of the training images that stand in for held-out ones, drawn by the seed.

    None where some are held out already, or with fewer than eight images in all.
    """
    total = len(sets.real)
    if sets.held_out or total < 2 * LEAST:
        return np.empty(0, np.intp)
    count = min(max(round(total * config.evaluate.held_out), LEAST), total - LEAST)
    return np.sort(np.random.default_rng(config.evaluate.seed).permutation(total)[:count])


def _nearest(
    found: Novelty, queries: Sequence[Pair], real: Sequence[Pair], descriptions: Sequence[str]
) -> list[dict[str, Any]]:
    return [
        {
            "name": pair.name,
            "real": real[index].name,
            "distance": float(score),
            "flip": FLIP_NAMES[flip],
            "by": descriptions[which],
            "index": int(index),
            **{name: float(ratio) for name, ratio in zip(descriptions, ratios, strict=True)},
        }
        for pair, index, flip, which, ratios, score in zip(
            queries, found.place, found.flip, found.description, found.ratios, found.score, strict=True
        )
    ]


def _below(rows: list[dict[str, Any]], threshold: float, kind: str) -> list[dict[str, Any]]:
    found = sorted((row for row in rows if row["distance"] < threshold), key=lambda row: float(row["distance"]))
    return [{kind: row["name"]} | {key: row[key] for key in ("real", "distance", "flip", "by")} for row in found]


def _lpips(source: CachedFeatures, distance: Distance, config: Config) -> dict[str, Any]:
    real, made = (
        pair_distances(images, distance, config.data.resolution, seed=config.evaluate.seed)
        for images in source.images[:2]
    )
    found = interval(made)
    return {
        "value": found["mean"],
        "low": found["low"],
        "high": found["high"],
        "extractor": "alexnet",
        "real": float(real.mean()),
    }
