"""What a first stage keeps of held-out images.

    python benchmarks/experiments/first_stage.py DATA --out DIR [--resolution 96]
    python benchmarks/experiments/first_stage.py DATA --out DIR --resolution 128 --stages linear learned --seeds 0 1 \
        --set first_stage.steps=1000

DATA has the splits train and val; a training that was interrupted goes on in DIR. Without `--stages`, the linear one
for patch sizes, channels, whitening and the latent error that the decoder expects. With them each named one as
`pretrain` makes it, fitted to train and measured on val, with and without an error of 0.1 in the latents, as generated
ones have: dB; sharpness and edge strength (real = 1); the distance of ImageNet features (LPIPS's, on EfficientNet-Lite0
with equal weights) at the strides that training compares, and at stride 16, which it does not look at; how rough the
latents are (squared difference of neighbours over variance, white noise: 2); and the seconds of the processor that this
call took to make it.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siamese_diffusion.config import Config, load_config
from siamese_diffusion.data.arrays import Images, map_images, to_images, to_tensor
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.diffusion.firststage import fit, psnr
from siamese_diffusion.diffusion.reconstruction import STRIDES, feature_distance, train_first_stage
from siamese_diffusion.evaluation.metrics.appearance import statistics
from siamese_diffusion.imagenet import ImageNetFeatures

ERROR = 0.1
"""Standard deviation of the error that latents get, in units of the latents' own."""


def linear_ones(fitted: Tensor, held_out: Tensor) -> None:
    """Print dB and sharpness (real = 1) for patch sizes, channels, whitening and the latent error the decoder
    expects."""
    real = statistics(to_images(held_out))["sharpness"]
    print("patch channels whitening noise    dB sharpness")
    for patch, channels in ((4, 8), (4, 12), (4, 16), (4, 24), (8, 24)):
        for whitening in (1.0, 0.5):
            for noise in (0.01, 0.1, 0.3):
                model = fit(fitted, patch, channels, whitening, noise)
                with torch.no_grad():
                    back = model.decode(model.encode(held_out).latent_dist.mode()).sample.clamp(-1, 1)
                kept = statistics(to_images(back))["sharpness"] / real
                print(f"{patch:5} {channels:8} {whitening:9} {noise:5} {psnr(model, held_out):5.2f} {kept:9.2f}")


def made(config: Config, images: Images, out: Path) -> tuple[Any, float]:
    """The first stage of `config`, fitted to the images, and the processor's seconds that took."""
    shape, begun = config.backbone, time.process_time()
    vae: Any = fit(to_tensor(images), shape.patch, shape.latent_channels, shape.whitening)
    if shape.first_stage == "learned":
        vae = train_first_stage(vae, images, np.arange(len(images)), out, config, "cpu")
    return vae, time.process_time() - begun


@torch.no_grad()
def measured(vae: Any, images: Tensor, error: float, seed: int = 0) -> dict[str, float]:
    """The figures, with an error in the latents."""
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in images.split(16)])
    random = torch.Generator().manual_seed(seed)
    noisy = latents + error * latents.std() * torch.randn(latents.shape, generator=random)
    back = torch.cat([vae.decode(part).sample.clamp(-1, 1) for part in noisy.split(16)])
    ours, real = statistics(to_images(back)), statistics(to_images(images))
    network = ImageNetFeatures((*STRIDES, 16), "--stages")
    pairs = [(network(a), network(b)) for a, b in zip(back.split(16), images.split(16), strict=True)]
    weights = torch.tensor([len(part) for part in images.split(16)]) / len(images)
    near, coarse = (
        float((torch.stack([feature_distance(a[part], b[part]) for a, b in pairs]) * weights).sum())
        for part in (slice(0, -1), slice(-1, None))
    )
    return {
        "psnr": float((-10 * ((back - images) / 2).square().flatten(1).mean(1).log10()).mean()),
        "sharpness": ours["sharpness"] / real["sharpness"],
        "edges": ours["gradient"] / real["gradient"],
        "features": near,
        "features_16": coarse,
        "roughness": float((latents[..., 1:] - latents[..., :-1]).square().mean() / latents.var()),
    }


def main(
    folder: Path, out: Path, resolution: int, stages: list[str], seeds: list[int], settings: list[str], count: int
) -> None:
    """Print a line a first stage, error and seed."""
    data = DataFolder(folder)
    train, val = (map_images(data.images(split), resolution, out / "cache") for split in ("train", "val"))
    held_out = to_tensor(val[:count])
    if not stages:
        linear_ones(to_tensor(train), held_out)
    for stage in stages:
        for seed in seeds if stage == "learned" else [0]:
            given = [f"data.resolution={resolution}", f"backbone.first_stage={stage}", f"first_stage.seed={seed}"]
            vae, seconds = made(load_config(None, [*given, *settings]), train, out / f"{stage}-{seed}")
            for error in (0.0, ERROR):
                row = {"stage": stage, "seed": seed, "error": error, "seconds": round(seconds, 1)}
                figures = {name: round(value, 4) for name, value in measured(vae, held_out, error).items()}
                print(json.dumps(row | figures), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DATA", help="images with the splits train and val")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--resolution", type=int, default=96, help="side in pixels")
    parser.add_argument("--stages", nargs="+", default=[], choices=["linear", "learned"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--count", type=int, default=100, help="held-out images")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="SECTION.KEY=VALUE")
    main(**vars(parser.parse_args()))
