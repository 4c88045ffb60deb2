"""Evaluation in the straightforward way against ours.

    python benchmarks/speed/evaluation.py [--data DIR --synthetic DIR]

Both take the same figures of the same images: Fréchet and kernel distance, similarity, precision and recall, density
and coverage, and the nearest training image of every synthetic one in four flips. The straightforward side computes
features anew for each of them, image by image, and searches by a loop over queries and flips in 64 bits. Ours computes
features once, in batches, into a cache, and searches by blocks. They run in turn in one run; the results are asserted
equal.

Bootstrap intervals, which the straightforward side would not take, are left out of both. The network is the judge's
U-Net with random weights: what its features are worth does not change what they cost.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.pairs import ImageFile
from siamese_diffusion.data.phantom import make_phantoms
from siamese_diffusion.evaluation.features import FLIPS, PLAIN, Extractor, features
from siamese_diffusion.evaluation.judge import Judge, embedder
from siamese_diffusion.evaluation.metrics import distances as quality
from siamese_diffusion.evaluation.metrics.neighbours import nearest
from siamese_diffusion.segmentation import networks

RESOLUTION = 96
K_MANIFOLD, K_COVERAGE = 3, 5
Array = NDArray[np.floating[Any]]
Seconds = dict[str, float]


@contextmanager
def timed(seconds: Seconds, stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start


def straightforward(
    real: Sequence[ImageFile], made: Sequence[ImageFile], extractor: Extractor, seconds: Seconds
) -> dict[str, Any]:
    """Every figure on its own."""

    def both() -> tuple[Array, Array]:
        with timed(seconds, "features"):
            return one_by_one(real, extractor), one_by_one(made, extractor)

    found: dict[str, Any] = {}
    for name, call in DISTANCES.items():
        a, b = both()
        with timed(seconds, "distances"):
            found[name] = call(a, b)
    a, b = both()
    with timed(seconds, "neighbours"):
        inside = [counts(query, a, reach_by_loop(a, K_MANIFOLD)) > 0 for query in b]
        reached = [counts(query, b, reach_by_loop(b, K_MANIFOLD)) > 0 for query in a]
        found |= {"precision": np.mean(inside), "recall": np.mean(reached)}
    a, b = both()
    with timed(seconds, "neighbours"):
        reach = reach_by_loop(a, K_COVERAGE)
        found["density"] = np.mean([counts(query, a, reach) / K_COVERAGE for query in b])
        found["coverage"] = np.mean([away(real_one, b).min() <= far for real_one, far in zip(a, reach, strict=True)])
    with timed(seconds, "features"):
        flipped, b = one_by_one(real, extractor, FLIPS), one_by_one(made, extractor)
    with timed(seconds, "neighbours"):
        places = []
        for query in b:
            by_flip = np.stack([away(query, flipped[:, flip]) for flip in range(flipped.shape[1])])
            places.append(int(by_flip.min(0).argmin()))
        found["nearest"] = np.array(places)
    return found


def ours(
    real: Sequence[ImageFile], made: Sequence[ImageFile], extractor: Extractor, seconds: Seconds, cache: Path
) -> dict[str, Any]:
    """All figures from features that are computed once."""
    with timed(seconds, "features"):
        flipped = features(real, extractor, cache, RESOLUTION, flips=FLIPS)
        a, b = flipped[:, 0], features(made, extractor, cache, RESOLUTION)[:, 0]
    with timed(seconds, "distances"):
        found: dict[str, Any] = {name: call(a, b) for name, call in DISTANCES.items()}
    with timed(seconds, "neighbours"), patch.object(quality, "_bootstrap", value_only):
        estimates = quality.precision_recall(a, b, K_MANIFOLD) | quality.density_coverage(a, b, K_COVERAGE)
        found |= {name: estimate.value for name, estimate in estimates.items()}
        found["nearest"] = nearest(b, [flipped[:, flip] for flip in range(flipped.shape[1])]).place[:, 0]
    return found


def value_only(statistic: Any, value: float, *rest: Any, **options: Any) -> quality.Estimate:
    """In place of the bootstrap."""
    return quality.Estimate(value, value, value)


def without_interval(call: Callable[..., Any]) -> Callable[[Array, Array], float]:
    def value(a: Array, b: Array) -> float:
        with patch.object(quality, "_bootstrap", value_only):
            found = call(a, b)
        return float(getattr(found, "estimate", found).value)

    return value


DISTANCES = {
    name: without_interval(call)
    for name, call in (
        ("frechet", quality.frechet),
        ("kernel", quality.kernel_distance),
        ("similarity", quality.similarity),
    )
}
"""The same arithmetic on both sides."""


def one_by_one(files: Sequence[ImageFile], extractor: Extractor, flips: Sequence[tuple[int, ...]] = PLAIN) -> Array:
    """Features (N, D), or (N, F, D) for several flips."""
    rows = []
    with torch.inference_mode():
        for file in files:
            image = torch.from_numpy(file.squared(RESOLUTION)[None]).movedim(3, 1)
            rows.append([extractor.embed(image.flip(axes))[0].numpy() for axes in flips])
    found = np.array(rows, np.float64)
    return found[:, 0] if len(flips) == 1 else found


def away(query: Array, rows: Array) -> Array:
    """Distances (N,) of one image."""
    return np.asarray(np.sqrt(np.square(rows - query).sum(1)))


def reach_by_loop(rows: Array, k: int) -> Array:
    """Distance of each row to its k-th nearest other one; the row itself is the 0-th."""
    return np.array([np.sort(away(row, rows))[k] for row in rows])


def counts(query: Array, rows: Array, reach: Array) -> int:
    return int((away(query, rows) <= reach).sum())


def same(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Figures agree to float32's rounding; a share may differ by one image that lies on an edge."""
    images = len(first["nearest"])
    assert np.mean(first["nearest"] == second["nearest"]) > 0.99
    for name in DISTANCES:
        assert abs(first[name] - second[name]) <= 1e-3 * abs(first[name]) + 1e-5, (name, first[name], second[name])
    for name in ("precision", "recall", "density", "coverage"):
        assert abs(first[name] - second[name]) <= 1.001 / images, (name, first[name], second[name])


def main(data: Path | None, synthetic: Path | None, count: int, repeats: int) -> list[dict[str, Any]]:
    """Seconds by stage of each side; prints a table on standard error."""
    torch.manual_seed(0)
    network = networks.create("unet").eval()
    extractor = embedder(Judge(Path(), network, RESOLUTION, 32, torch.device("cpu")))
    runs: dict[str, list[Seconds]] = {"straightforward": [], "ours": [], "ours, features cached": []}
    with tempfile.TemporaryDirectory() as scratch:
        folders = data or Path(scratch) / "real", synthetic or Path(scratch) / "synthetic"
        for seed, folder in enumerate(folders):
            if not folder.exists():
                make_phantoms(folder, count, RESOLUTION, seed)
        real, made = ([pair.image for pair in DataFolder(folder).pairs()][:count] for folder in folders)
        ours(real[:8], made[:8], extractor, {}, Path(scratch) / "warm")
        for repeat in range(repeats):
            cache, seconds = Path(scratch) / f"cache-{repeat}", [Seconds() for _ in runs]
            plain = straightforward(real, made, extractor, seconds[0])
            same(plain, ours(real, made, extractor, seconds[1], cache))
            same(plain, ours(real, made, extractor, seconds[2], cache))
            for taken, spent in zip(runs.values(), seconds, strict=True):
                taken.append({**spent, "all": sum(spent.values())})
    rows = []
    print(f"{len(real)} real and {len(made)} synthetic images\n{'':24}{'':14}seconds  faster (range)", file=sys.stderr)
    for name, taken in runs.items():
        for stage in taken[0]:
            ratios = [a[stage] / b[stage] for a, b in zip(runs["straightforward"], taken, strict=True)]
            median = statistics.median(spent[stage] for spent in taken)
            row = {"side": name, "stage": stage, "seconds": median, "faster": statistics.median(ratios)}
            rows.append({**row, "range": [min(ratios), max(ratios)], "real": len(real), "synthetic": len(made)})
            spread = f"({min(ratios):.1f} to {max(ratios):.1f})"
            print(f"{name:24}{stage:14}{median:7.2f} {row['faster']:7.1f} {spread}", file=sys.stderr)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of real pairs; default: phantoms")
    parser.add_argument("--synthetic", type=Path, help="folder of synthetic pairs; default: other phantoms")
    parser.add_argument("--count", type=int, default=400, help="images of each kind, at most")
    parser.add_argument("--repeats", type=int, default=3)
    print(json.dumps(main(**vars(parser.parse_args()))))
