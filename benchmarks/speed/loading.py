"""How fast batches of pairs are made, and in how much memory.

    python benchmarks/speed/loading.py [--data DIR]

Files read and squared anew for every batch against the cache that a run maps into memory, in one process and with two
loader workers, in turn; the batches are asserted equal. Then the peak resident memory of making that cache, and of
holding the arrays in memory, for N and 4 N pairs, each in a process of its own. Files are in the system's cache in both
cases.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from siamese_diffusion.data.arrays import Images, Masks, load_pairs, map_pairs
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.images import square
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.data.phantom import make_phantoms

BATCH = 16
RESOLUTIONS = (96, 384)


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Images (BATCH, 3, R, R) in [0, 1] and masks (BATCH, 1, R, R), of pairs drawn at random."""

    def __init__(self, pairs: list[Pair], resolution: int, count: int, cache: tuple[Images, Masks] | None) -> None:
        self.pairs, self.resolution, self.count, self.cache = pairs, resolution, count, cache

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rows = [self.row(i) for i in np.random.default_rng(step).integers(len(self.pairs), size=BATCH).tolist()]
        images, masks = (torch.stack([row[kind] for row in rows]) for kind in (0, 1))
        return images, masks

    def row(self, i: int) -> tuple[Tensor, Tensor]:
        if self.cache is None:
            image, mask = self.pairs[i].read()
            image, mask = square(image, self.resolution), square(mask, self.resolution)
        else:
            image, mask = np.array(self.cache[0][i]), np.array(self.cache[1][i])
        return torch.from_numpy(image).movedim(2, 0).contiguous() / 255, torch.from_numpy(np.array(mask))[None].float()


def rates(pairs: list[Pair], resolution: int, repeats: int) -> list[dict[str, Any]]:
    """Images a second of both sources, in turn."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        cache = map_pairs(pairs, resolution, Path(folder))
        building = time.perf_counter() - start
        sources = {"files": (8, None), "cache": (64, cache)}
        first = [Batches(pairs, resolution, 1, source)[0] for _, source in sources.values()]
        assert all(torch.equal(one, other) for one, other in zip(*first, strict=True))
        for workers in (0, 2):
            found: dict[str, list[float]] = {name: [] for name in sources}
            for _ in range(repeats):
                for name, (count, source) in sources.items():
                    loader = DataLoader(Batches(pairs, resolution, count, source), batch_size=None, num_workers=workers)
                    batches = iter(loader)
                    next(batches)  # the workers have started
                    start = time.perf_counter()
                    made = sum(len(images) for images, _ in batches)
                    found[name].append(made / (time.perf_counter() - start))
            for name, speeds in found.items():
                rows.append(
                    {
                        "resolution": resolution,
                        "source": name,
                        "workers": workers,
                        "images_per_second": statistics.median(speeds),
                        "range": [min(speeds), max(speeds)],
                        "seconds_to_build": building if name == "cache" else 0.0,
                    }
                )
    return rows


def resident_peak() -> float:
    """MiB at the worst moment so far (Linux). Not `ru_maxrss`, which a child process takes over from its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def peak(data: Path, resolution: int, count: int, how: str) -> dict[str, float]:
    """MiB of resident memory before and at the worst moment of it, for `count` pairs (those of `data`, over and
    over)."""
    pairs = DataFolder(data).pairs(None)
    pairs = [pairs[i % len(pairs)] for i in range(count)]
    before = resident_peak()
    with tempfile.TemporaryDirectory() as folder:
        arrays = map_pairs(pairs, resolution, Path(folder)) if how == "cache" else load_pairs(pairs, resolution)
        after = resident_peak()
        return {"before": before, "peak": after, "arrays": sum(array.nbytes for array in arrays) / 2**20}


def main(data: Path, count: int, repeats: int) -> dict[str, Any]:
    """Print both tables on standard error."""
    pairs = DataFolder(data).pairs(None)
    speeds = [row for resolution in RESOLUTIONS for row in rates(pairs, resolution, repeats)]
    print(f"{len(pairs)} pairs, batches of {BATCH}", file=sys.stderr)
    print("pixels source workers  images/s (range)                 s to build", file=sys.stderr)
    for row in speeds:
        low, high = row["range"]
        print(
            f"{row['resolution']:6} {row['source']:6} {row['workers']:7} {row['images_per_second']:9.0f} "
            f"({low:.0f} to {high:.0f}){'':8} {row['seconds_to_build']:10.1f}",
            file=sys.stderr,
        )
    memory = []
    print("pixels  pairs what      MiB before    peak  arrays", file=sys.stderr)
    for resolution in RESOLUTIONS:
        for how in ("cache", "memory"):
            for number in (count, 4 * count):
                command = [sys.executable, __file__, "--data", data, "--peak", how, "--count", number]
                command += ["--resolution", resolution]
                told = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True, check=True).stdout
                row = {"resolution": resolution, "pairs": number, "what": how, **json.loads(told)}
                memory.append(row)
                print(
                    f"{resolution:6} {number:6} {how:9} {row['before']:10.0f} {row['peak']:7.0f} {row['arrays']:7.0f}",
                    file=sys.stderr,
                )
    return {"rates": speeds, "memory": memory}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of pairs; default: 200 phantoms of 512 px, made first")
    parser.add_argument("--count", type=int, default=500, help="N of the memory's figures")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peak", choices=("cache", "memory"), help="only this figure, for --count pairs")
    parser.add_argument("--resolution", type=int, default=96, help="of that figure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.data
        if folder is None:
            folder = Path(made) / "phantoms"
            make_phantoms(folder, 200, 512)
        if arguments.peak:
            print(json.dumps(peak(folder, arguments.resolution, arguments.count, arguments.peak)))
        else:
            print(json.dumps(main(folder, arguments.count, arguments.repeats)))
