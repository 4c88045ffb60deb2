"""What `predict` takes in memory and time, by the number of images.

    python benchmarks/speed/predicting.py [--counts 100 1000] [--size 512] [--network segformer]

Images of `size` pixels are written to a temporary folder, a network of random weights looks at them, and every file is
written that `predict` can write. Each number of images is a process of its own, whose largest resident set the system
tells. What grows with the number of images is the difference between two lines.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import save_file

from siamese_diffusion.config import Config, dump_config, update
from siamese_diffusion.segmentation import networks
from siamese_diffusion.segmentation.predict import predict


def prepare(folder: Path, count: int, size: int, network: str) -> None:
    """A finished run of random weights, and images: blurred noise, which compresses as photographs do."""
    run, images = folder / "run", folder / "images"
    run.mkdir()
    images.mkdir()
    save_file(networks.create(network).state_dict(), run / "best.safetensors")
    (run / "config.yaml").write_text(dump_config(update(Config(), "segment", network=network)))
    (run / "metrics.json").write_text("{}")
    random = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 255, (size // 16, size // 16, 3)).astype(np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(images / f"{i:05d}.jpg", quality=90)


def measure(folder: Path) -> dict[str, float]:
    """Seconds and the largest resident set, MiB, before and after; to be called in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    begun = time.perf_counter()
    result = predict(folder / "run", folder / "images", folder / "out", probability_maps=True, device="cpu")
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"images": result["images"], "seconds": seconds, "MiB before": before, "MiB peak": peak}


def main(counts: list[int], size: int, network: str) -> None:
    """A line on standard error for each number of images; JSON on standard output."""
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            prepare(Path(name), count, size, network)
            command = [sys.executable, __file__, "--measure", name]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            rows.append(json.loads(told.splitlines()[-1]))
            print("  ".join(f"{key} {value:.0f}" for key, value in rows[-1].items()), file=sys.stderr)
    print(json.dumps(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--network", default="segformer")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        print(json.dumps(measure(given.measure)))
    else:
        main(given.counts, given.size, given.network)
