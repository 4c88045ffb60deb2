"""Compare synthetic images with real ones in features: the quality figures, and the search for copies.

A step of `evaluate`, which hands in the extractors: one of them is the judge, and networks of `segmentation` are not
known to `evaluation`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from siamese_diffusion.config import Config
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.evaluation.features import FLIP_NAMES, FLIPS, PLAIN, Extractor, contents, features
from siamese_diffusion.evaluation.metrics.copies import CopySearch, Novelty, thumbnails
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
    """Quality by every extractor, and novelty by the first one and thumbnails.

    Args:
        sets: at least `memorization.LEAST` real and 2 synthetic pairs.
        extractors: at least one.
        lpips: the perceptual distance, or None to leave it out.
        cache: folder of features.
        config: its `data.resolution` and `evaluate` count.

    Raises:
        InputError: an image cannot be read, or the disk is full.
    """
    seed = config.evaluate.seed
    source = CachedFeatures(sets, cache, config)
    quality: dict[str, dict[str, Any]] = {}
    for number, extractor in enumerate(extractors):
        real, made, apart = source.of(extractor, flipped=number == 0)
        found = panel(extractor.name, extractor.family, real[:, 0], made, apart if len(apart) else None, seed)
        quality = merge(quality, found, extractor.name)
        if number == 0:
            first = [real, made, apart]
    if lpips is not None:
        quality["lpips"] = _lpips(source, lpips, config)

    described = [extractors[0], thumbnails()]
    views = [first, source.of(described[1], flipped=True)]
    archive = CopySearch([view[0] for view in views])
    held = [view[2] for view in views] if sets.held_out else None
    calibration = archive.calibrate(held, config.evaluate.false_alarms, seed)
    names = [extractor.name for extractor in described]
    nearest = _nearest(archive.score([view[1] for view in views]), sets.synthetic, sets.real, names)
    scores = np.array([row["distance"] for row in nearest])
    measured = calibration.measured
    alarms = _nearest(measured, sets.held_out, sets.real, names) if calibration.held_out else []
    novelty = {
        "share_flagged": float((scores < calibration.threshold).mean()),
        "threshold": calibration.threshold,
        "false_alarm_rate": calibration.false_alarm_rate,
        "target": config.evaluate.false_alarms,
        "measured_on": {
            "images": "held-out real" if calibration.held_out else "half of the training images",
            "count": len(measured.score),
        },
        "score": interval(scores),
        "flagged": _below(nearest, calibration.threshold, "synthetic"),
        "alarms": _below(alarms, calibration.threshold, "held_out"),
    }
    places: list[Array] = [*principal(first[0][:, 0], first[1:], seed)]
    return Comparison(quality, novelty, nearest, measured.score, places)


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
        for pair, score, index, flip, which, ratios in zip(queries, *found, strict=True)
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
