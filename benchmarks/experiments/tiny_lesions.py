"""Does `segment.lesion_weight` find lesions that are otherwise missed?

    python benchmarks/experiments/tiny_lesions.py --out DIR [--weights 1 5 20] [--steps 200] [--seeds 0]

The network is a small one, of dilated convolutions at full resolution, so that a processor does it in minutes.
Phantoms with one lesion of 0.1 to 0.6 % of the image, and as many without any, train a network with each weight. Told
are the mean Dice on test phantoms with a lesion, the share of them in which nothing of the lesion was marked, and the
share of the healthy ones in which something was.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from siamese_diffusion.config import Config, update
from siamese_diffusion.data import phantom
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.writer import PairWriter
from siamese_diffusion.segmentation import networks
from siamese_diffusion.segmentation.batches import load
from siamese_diffusion.segmentation.inference import probabilities
from siamese_diffusion.segmentation.metrics import dice
from siamese_diffusion.segmentation.segment import segment
from siamese_diffusion.segmentation.trained import load_network

SHARES = (0.001, 0.006)
"""Of an image, that its lesion covers."""


def small(name: str, pretrained: bool = False, classes: int = 1, **parts: str | None) -> nn.Module:
    """Six convolutions that see 39 x 39 pixels; like `networks.create`."""
    layers: list[nn.Module] = []
    channels = 3
    for dilation in (1, 2, 4, 8, 4):
        layers += [nn.Conv2d(channels, 24, 3, padding=dilation, dilation=dilation), nn.BatchNorm2d(24), nn.ReLU()]
        channels = 24
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 1))


def make(folder: Path, count: int, size: int, seed: int) -> None:
    """Phantoms whose lesion is tiny; in every second one the picture around it is all there is, moved over it."""
    if folder.exists():
        return
    phantom.AREA = SHARES
    done = index = 0
    with PairWriter(folder, resume=True) as writer:
        while done < count:
            image, mask = phantom.phantom(seed, index, size)
            index += 1
            if not SHARES[0] <= mask.mean() <= SHARES[1]:  # several lesions may be larger
                continue
            if done % 2:
                image, mask = healthy(image, mask)
            writer.write(f"p{done:04d}", image, mask, phantom.PROMPT, extra={})
            done += 1


def healthy(image: Any, mask: Any) -> tuple[Any, Any]:
    """Without its lesion, painted over from its surroundings."""
    import cv2

    hole = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8))
    return cv2.inpaint(image, hole, 5, cv2.INPAINT_TELEA), np.zeros_like(mask)


def measure(data: Path, test: Path, out: Path, config: Config) -> dict[str, float]:
    """Train, then look at the test phantoms."""
    segment(data, out, [], config=config, resume=True, device="cpu")
    network = load_network(out)
    arrays = load(DataFolder(test).pairs(), network.resolution)
    seen = torch.from_numpy(probabilities(network.network, arrays.images) > 0.5)
    masks = torch.from_numpy(arrays.masks)
    ill = masks.flatten(1).any(1)
    hit = (seen & masks).flatten(1).any(1)
    return {
        "Dice": float(dice(seen[ill], masks[ill]).mean()),
        "missed": float((~hit[ill]).float().mean()),
        "false alarms": float(seen[~ill].flatten(1).any(1).float().mean()),
    }


def main(out: Path, weights: list[float], steps: int, seeds: list[int], size: int) -> None:
    """A line on standard error for each run; JSON on standard output."""
    networks.create = small
    make(out / "train", 80, size, 0)
    make(out / "test", 80, size, 1)
    rows = []
    for seed in seeds:
        for weight in weights:
            config = update(update(Config(), "data", split=None), "segment", resolution=size)
            config = update(config, "segment", steps=steps, batch_size=8, lesion_weight=weight, seed=seed)
            config = update(config, "segment", sample_every=max(1, steps // 8), validation=0.2)
            found = measure(out / "train", out / "test", out / f"w{weight:g}-{seed}", config)
            rows.append({"weight": weight, "seed": seed, **found})
            print("  ".join(f"{name} {value:.3g}" for name, value in rows[-1].items()), file=sys.stderr)
    print(json.dumps(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=float, nargs="+", default=[1, 5, 20])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--size", type=int, default=96)
    main(**vars(parser.parse_args()))
