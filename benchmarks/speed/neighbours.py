"""The search for copies at full size: 100,000 synthetic images against 10,000 real ones in four flips.

    python benchmarks/speed/neighbours.py [--queries 100000] [--keys 10000] [--width 1492] [--flips 4] [--side 128]

Draws random features and prints seconds, the peak of memory and the size of the problem as JSON. One run; the features
lie on disk, memory-mapped, as `evaluate` has them. The search by details is done against as many training images, of
`--images` phantoms, and `seconds in all` takes it to be as long for each of the queries. Reading is measured on files
of as many noisy phantoms of `--side` px: their hash, and what the two descriptions read; it counts for queries and
keys. Beside each time on the clock is that of the processors: beside other work the clock says little.
"""

import argparse
import json
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.phantom import phantom
from siamese_diffusion.evaluation.features import contents
from siamese_diffusion.evaluation.metrics import copies
from siamese_diffusion.evaluation.metrics.copies import CopySearch
from siamese_diffusion.evaluation.metrics.local_matches import SIDE, Details, LocalSearch, details

T = TypeVar("T")


def main(queries: int, keys: int, width: int, flips: int, images: int, side: int) -> dict[str, Any]:
    """Search once; seconds by part."""
    with tempfile.TemporaryDirectory() as folder:
        real = drawn(Path(folder) / "real.npy", (keys, flips, width), 0)
        made = drawn(Path(folder) / "synthetic.npy", (queries, 1, width), 1)[:, 0]
        before, watch = peak(), Watch()
        start, spent = time.perf_counter(), time.process_time()
        archive = CopySearch([real])
        prepared = time.perf_counter()
        found = archive.score([made])
        searched, spent = time.perf_counter(), time.process_time() - spent
    assert found.score.shape == (queries,)
    del archive, found
    each = by_details(keys, images) | by_reading(images, side)
    clock, processors = (
        queries * (one["details"] + one["matching"]) + (queries + keys) * one["reading"]
        for one in ({name: pair[place] for name, pair in each.items()} for place in (0, 1))
    )
    return {
        "queries": queries,
        "keys": keys,
        "flips": flips,
        "width": width,
        "seconds": {"real to real": round(prepared - start, 1), "synthetic to real": round(searched - prepared, 1)},
        "peak_gib": {"before": round(before, 2), "after": round(peak(), 2), "own": round(watch.most / 2**30, 2)},
        "milliseconds": {name: {"clock": pair[0], "processors": pair[1]} for name, pair in each.items()},
        "seconds in all": round(searched - start + clock / 1000),
        "seconds of processors in all": round(spent + processors / 1000),
        "threads": torch.get_num_threads(),
    }


Times = dict[str, tuple[float, float]]
"""Milliseconds an image on the clock, and of the processors."""


def by_details(keys: int, images: int) -> Times:
    """Of looking for details and of matching them, on all cores.

    The training images are as many as `keys`: the details of phantoms, moved at random.
    """
    made = [phantom(2, index, SIDE)[0] for index in range(images)]
    some = [details(phantom(1, index, SIDE)[0]) for index in range(200)]
    random = np.random.default_rng(0)

    def moved(i: int) -> Details:
        points, rows = some[i % len(some)]
        rows = np.abs(rows + random.normal(0, 0.03, rows.shape)).astype(np.float32)
        return Details(points, rows / np.linalg.norm(rows, axis=1, keepdims=True))

    search = LocalSearch(map(moved, range(keys)), keys)
    with ThreadPoolExecutor() as pool:
        looked, found = timed(lambda: list(pool.map(details, made)), images)
    matched, _ = timed(lambda: search.match(found), images)
    return {"details": looked, "matching": matched}


def by_reading(images: int, side: int) -> Times:
    """Of reading files for both descriptions, in threads as `evaluate` does."""
    noise = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for index in range(images):
            pixels = phantom(3, index % 100, side)[0] + noise.normal(0, 2, (side, side, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(Path(folder) / f"{index:06d}.png")
        files = DataFolder(Path(folder)).images()
        with ThreadPoolExecutor() as pool:

            def squares(resolution: int) -> None:
                for start in range(0, images, 256):
                    list(pool.map(lambda file: file.squared(resolution), files[start : start + 256]))

            def read() -> None:
                contents(files)
                squares(copies.SIDE)
                squares(SIDE)

            return {"reading": timed(read, images)[0]}


def timed(do: Callable[[], T], images: int) -> tuple[tuple[float, float], T]:
    """Milliseconds an image, and what came of it."""
    clock, processors = time.perf_counter(), time.process_time()
    result = do()
    spent = time.perf_counter() - clock, time.process_time() - processors
    return (round(1000 * spent[0] / images, 2), round(1000 * spent[1] / images, 2)), result


def drawn(path: Path, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Random features in a memory-mapped file."""
    file = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    random = np.random.default_rng(seed)
    for row in range(0, shape[0], 4096):
        file[row : row + 4096] = random.standard_normal(file[row : row + 4096].shape, np.float32)
    file.flush()
    mapped: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return mapped


class Watch:
    """The most memory of its own, without mapped files, that this process has had since; looked at ten times a
    second."""

    def __init__(self) -> None:
        self.most = 0
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            text = Path("/proc/self/status").read_text()
            found = next((line for line in text.splitlines() if line.startswith("RssAnon:")), "RssAnon: 0")
            self.most = max(self.most, 1024 * int(found.split()[1]))
            time.sleep(0.1)


def peak() -> float:
    """Largest resident size of this process so far, GiB; pages of the mapped files count while they are in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=1492, help="numbers a feature; phases have 1492")
    parser.add_argument("--flips", type=int, default=4)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=128, help="of the files that are read, in pixels")
    print(json.dumps(main(**vars(parser.parse_args()))))
