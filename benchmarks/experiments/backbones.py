"""What the images that backbones draw are like, before any ControlNet.

    python benchmarks/experiments/backbones.py DATA BACKBONE [BACKBONE ...] --count 200

DATA has the split train; each BACKBONE is a finished run of `pretrain` on it. Draws images with the same noise for all
(8 steps of UniPC), and prints for each the kernel distance to the training images (features of EfficientNet-Lite0's
ImageNet weights, 95 % interval), what that of two disjoint halves of these stays below in 95 % of splits, and sharpness
and edge strength (real = 1).
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from siamese_diffusion.config import load_config
from siamese_diffusion.data.arrays import Images, load_images, to_images
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.pairs import prompt_of
from siamese_diffusion.diffusion.sampler import denoise
from siamese_diffusion.diffusion.train import load_base
from siamese_diffusion.evaluation.extractors import create
from siamese_diffusion.evaluation.metrics.appearance import statistics
from siamese_diffusion.evaluation.metrics.distances import halves_distance, kernel_distance

EXTRACTOR = "timm:tf_efficientnet_lite0"


@torch.no_grad()
def drawn(run: Path, count: int, seed: int, batch: int = 20) -> Images:
    """Images (N, R, R, 3) of a backbone."""
    config = load_config(run / "config.yaml")
    base = load_base(str(run), config.data.resolution)
    side = config.data.resolution // base.factor
    text = base.embed([prompt_of(config.data.label)])
    found = []
    for start in range(0, count, batch):
        size = min(batch, count - start)
        random = torch.Generator().manual_seed(seed * 100_000 + start)
        noise = torch.randn(size, base.unet.config.in_channels, side, side, generator=random)
        words = text.expand(size, -1, -1)
        latents = denoise(
            lambda noisy, t, words=words: base.unet(noisy, t, words).sample,  # type: ignore[misc]
            noise,
            base.scheduler,
            "unipc",
            8,
        )
        found.append(to_images(base.decode(latents)))
    return np.concatenate(found)


@torch.no_grad()
def features(images: Images) -> NDArray[np.float32]:
    """(N, 1280)."""
    extractor = create(EXTRACTOR, torch.device("cpu"))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    return torch.cat([extractor.embed(part) for part in pixels.split(20)]).numpy()


def main(folder: Path, runs: list[Path], count: int, seed: int, most: int) -> None:
    """Print a line a backbone."""
    resolution = load_config(runs[0] / "config.yaml").data.resolution
    listed = DataFolder(folder).images("train")
    order = np.random.default_rng(0).permutation(len(listed))[:most]
    real = load_images([listed[i] for i in sorted(order)], resolution)
    seen, looks = features(real), statistics(real)
    print(json.dumps({"real": len(real), "halves_stay_below": round(halves_distance(seen), 4)}), flush=True)
    for run in runs:
        images = drawn(run, count, seed)
        distance = kernel_distance(seen, features(images), seed=seed).estimate
        own = statistics(images)
        row = {
            "run": str(run),
            "images": count,
            "kernel_distance": [round(value, 4) for value in distance],
            "sharpness": round(own["sharpness"] / looks["sharpness"], 3),
            "edges": round(own["gradient"] / looks["gradient"], 3),
        }
        print(json.dumps(row), flush=True)
        np.save(run / f"drawn-{seed}.npy", images)
    print("saved as RUN/drawn-SEED.npy", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DATA")
    parser.add_argument("runs", type=Path, nargs="+", metavar="BACKBONE")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=400, help="real images that are compared with")
    main(**vars(parser.parse_args()))
