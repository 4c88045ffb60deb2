"""The search for copies at full size: 100,000 synthetic images against 10,000 real ones in four flips.

    python benchmarks/speed/neighbours.py [--queries 100000] [--keys 10000] [--width 512] [--flips 4]

Draws random features and prints seconds, the peak of memory and the size of the problem as JSON. One run; the features
lie on disk, memory-mapped, as `evaluate` has them. The search by details is not done at full size: `milliseconds` says
what an image costs there, of `--images` phantoms of 128 px against as many others, to look for its details and to match
them.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from siamese_diffusion.data.phantom import phantom
from siamese_diffusion.evaluation.metrics.copies import CopySearch
from siamese_diffusion.evaluation.metrics.local_matches import SIDE, LocalSearch, details


def main(queries: int, keys: int, width: int, flips: int, images: int) -> dict[str, Any]:
    """Search once; seconds by part."""
    with tempfile.TemporaryDirectory() as folder:
        real = drawn(Path(folder) / "real.npy", (keys, flips, width), 0)
        made = drawn(Path(folder) / "synthetic.npy", (queries, 1, width), 1)[:, 0]
        before = peak()
        start = time.perf_counter()
        archive = CopySearch([real])
        prepared = time.perf_counter()
        found = archive.score([made])
        searched = time.perf_counter()
    assert found.score.shape == (queries,)
    return {
        "queries": queries,
        "keys": keys,
        "flips": flips,
        "width": width,
        "seconds": {"real to real": round(prepared - start, 1), "synthetic to real": round(searched - prepared, 1)},
        "peak_gib": {"before": round(before, 2), "after": round(peak(), 2)},
        "milliseconds": by_details(images),
        "threads": torch.get_num_threads(),
    }


def by_details(count: int) -> dict[str, float]:
    """Milliseconds of processor time an image, to look for details and to match them."""
    real, made = ([phantom(seed, index, SIDE)[0] for index in range(count)] for seed in (1, 2))
    search = LocalSearch([details(image) for image in real])
    start = time.process_time()
    found = [details(image) for image in made]
    looked = time.process_time()
    search.match(found)
    matched = time.process_time()
    return {
        "details": round(1000 * (looked - start) / count, 1),
        "matching": round(1000 * (matched - looked) / count, 1),
    }


def drawn(path: Path, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Random features in a memory-mapped file."""
    file = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    random = np.random.default_rng(seed)
    for row in range(0, shape[0], 4096):
        file[row : row + 4096] = random.standard_normal(file[row : row + 4096].shape, np.float32)
    file.flush()
    mapped: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return mapped


def peak() -> float:
    """Largest resident size of this process so far, GiB; pages of the mapped files count while they are in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=512, help="numbers a feature; the judge's U-Net has 512")
    parser.add_argument("--flips", type=int, default=4)
    parser.add_argument("--images", type=int, default=200)
    print(json.dumps(main(**vars(parser.parse_args()))))
