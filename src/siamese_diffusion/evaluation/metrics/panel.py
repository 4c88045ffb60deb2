"""The quality figures of one extractor, under names that say what they are.

FID and KID are names of Inception's features, CLIP-I and CMMD of CLIP's. With other features the same formulas are
called `fd`, `kd` and `cosine`, and their figures compare only with those of the same extractor.
"""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese_diffusion.evaluation.metrics import distances
from siamese_diffusion.evaluation.metrics.distances import Estimate, Features

NAMES = {"inception": {"kd": "kid", "fd": "fid"}, "clip": {"cosine": "clip_i"}}

MEANING = {
    "kid": "Kernel distance of Inception features; 0 is indistinguishable, and it may fall a little below. Lower is "
    "better.",
    "kd": "Kernel distance of the features; 0 is indistinguishable, and it may fall a little below. Lower is better.",
    "fid": "Fréchet distance of Inception features. Lower is better; small sets raise it whatever they show.",
    "fd": "Fréchet distance of the features. Lower is better; small sets raise it whatever they show.",
    "clip_i": "Mean cosine similarity of CLIP embeddings of synthetic and real images. Higher is nearer.",
    "cosine": "Mean cosine similarity of the features of synthetic and real images. Higher is nearer.",
    "cmmd": "CLIP maximum mean discrepancy, times 1000. Lower is better.",
    "precision": "Fidelity: share of the synthetic images that look like some real image.",
    "recall": "Diversity: share of the real images that look like some synthetic image.",
    "density": "Fidelity, weighted by how crowded with real images the place is; about 1 for real images.",
    "coverage": "Diversity: share of the real images with a synthetic image close by.",
    "diversity": "Mean cosine distance between two synthetic images; 0 if all were the same. Should match the real "
    "images'.",
    "lpips": "Mean perceptual distance (LPIPS) of two synthetic images. Should match the real images'.",
}


def panel(
    extractor: str,
    family: str,
    real: Features,
    synthetic: Features,
    held_out: Features | None,
    seed: int = 0,
    aside: NDArray[np.intp] | None = None,
) -> dict[str, dict[str, Any]]:
    """Every figure that this extractor gives, the kernel distance first.

    Args:
        extractor: its name.
        family: "inception", "clip" or "other".
        real: (N, D), N at least 4.
        synthetic: (M, D), M at least 2; the kernel distance is left out below 4.
        held_out: real images that are not among `real`, (H, D): the same figures for them in the synthetic images'
            place are the yardstick. None, or fewer than 4: no yardstick.
        seed: of subsets and resamples.
        aside: places of real images that stand in for held-out ones where there are none: the others are compared
            with them.

    Returns:
        By metric: `value`, `low`, `high` (95 %), `extractor`, and `real`, the yardstick or None. Kernel distances have
        `std`, over `subsets` of `subset_size`, and `halves`, `distances.halves_distance` (None below 8 images), too.
    """
    found = _estimates(family, real, synthetic, seed)
    reference = {}
    if held_out is not None and len(held_out) >= 4:
        reference = _estimates(family, real, held_out, seed)
    elif aside is not None and min(len(aside), len(real) - len(aside)) >= 4:
        reference = _estimates(family, np.delete(real, aside, 0), real[aside], seed)
    names = NAMES.get(family, {})
    result: dict[str, dict[str, Any]] = {}
    for key, figure in found.items():
        estimate = figure.estimate if isinstance(figure, distances.Kernel) else figure
        other = reference.get(key)
        yardstick = other.estimate if isinstance(other, distances.Kernel) else other
        entry: dict[str, Any] = {**estimate._asdict(), "extractor": extractor, "real": yardstick and yardstick.value}
        if isinstance(figure, distances.Kernel):
            entry |= {"std": figure.deviation, "subsets": figure.subsets, "subset_size": figure.subset_size}
            entry["halves"] = distances.halves_distance(real, seed) if len(real) >= 8 else None
        result[names.get(key, key)] = entry
    result["diversity"]["real"] = distances.diversity(real, seed).value  # the set that it should match is at hand
    return result


def merge(
    first: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]], extractor: str
) -> dict[str, dict[str, Any]]:
    """Both; a metric that `first` has too gets the other extractor's name in front."""
    prefix = re.sub(r"[^a-z0-9]+", "_", extractor.lower()).strip("_")
    return first | {f"{prefix}_{name}" if name in first else name: entry for name, entry in other.items()}


def meaning(name: str) -> str:
    """What a metric says, in a sentence; `name` may have an extractor's name in front."""
    return next(text for key, text in MEANING.items() if name == key or name.endswith(f"_{key}"))


def principal(real: Features, others: list[Features], seed: int = 0, most: int = 1000) -> list[NDArray[np.float64]]:
    """Coordinates (n, 2) on the first two principal components of `real`, of at most `most` images of each set."""
    sets = [distances.sample_rows(rows, seed, most) for rows in (real, *others)]
    mean = sets[0].mean(0)
    axes = np.linalg.svd(sets[0] - mean, full_matrices=False)[2][:2]
    return [(rows - mean) @ axes.T for rows in sets]


def _estimates(family: str, real: Features, synthetic: Features, seed: int) -> dict[str, Estimate | distances.Kernel]:
    found: dict[str, Estimate | distances.Kernel] = {}
    if len(synthetic) >= 4:
        found["kd"] = distances.kernel_distance(real, synthetic, seed=seed)
    found["fd"] = distances.frechet(real, synthetic, seed)
    if family == "clip":
        found["cmmd"] = distances.cmmd(real, synthetic, seed)
    found["cosine"] = distances.similarity(real, synthetic, seed)
    found |= distances.precision_recall(real, synthetic, seed=seed)
    found |= distances.density_coverage(real, synthetic, seed=seed)
    found["diversity"] = distances.diversity(synthetic, seed)
    return found
