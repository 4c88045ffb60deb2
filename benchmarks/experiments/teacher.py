"""What Image-Diffusion knows that Mask-Diffusion does not.

    python benchmarks/experiments/teacher.py DATA RUN [RUN ...]

L_c pulls Mask-Diffusion towards Image-Diffusion, a teacher only if it predicts better, having seen the image. Prints
for each finished run of `train` the losses of both on 64 validation images, the mean over five timesteps, by how much
Image-Diffusion's is lower, and how far the two predictions are apart (L_c). Of `mask-only` and `adc` only L_m counts.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from held_out import TIMESTEPS, control, error, noise, predict

from siamese_diffusion.data.arrays import load_pairs, to_tensor
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.diffusion.checkpoint import load_trained
from siamese_diffusion.diffusion.latents import mask_hint


def losses(run: Path, data: Path, count: int, weight: float) -> dict[str, float]:
    """L_m, L_i with w_i = `weight`, and L_c of a run, as `Losses` has them, on `count` validation images."""
    trained = load_trained(run)
    model, own = trained.model, trained.model.method.mask_weight
    pixels, masks = load_pairs(DataFolder(data).pairs("val", count), trained.config.data.resolution)
    images = to_tensor(pixels)
    sums = {"mask": 0.0, "image": 0.0, "consistency": 0.0}
    for noised in noise(trained, images):
        from_mask = control(model, noised, mask_hint(torch.from_numpy(masks)))
        from_image = control(model, noised, (images + 1) / 2)
        mixed = [own * mask + weight * image for mask, image in zip(from_mask, from_image, strict=True)]
        by_mask, by_mixed = predict(model, noised, from_mask), predict(model, noised, mixed)
        sums["mask"] += error(by_mask, noised.target)
        sums["image"] += error(by_mixed, noised.target)
        sums["consistency"] += error(by_mask, by_mixed)
    return {name: value / len(TIMESTEPS) for name, value in sums.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=64, help="validation images")
    parser.add_argument("--weight", type=float, default=1.0, help="w_i, as at the end of training")
    arguments = parser.parse_args()
    found = {}
    for run in arguments.runs:
        found[str(run)] = row = losses(run, arguments.data, arguments.count, arguments.weight)
        less = 100 * (1 - row["image"] / row["mask"])
        figures = f"L_m {row['mask']:.4f}  L_i {row['image']:.4f} ({less:.1f} % less)  L_c {row['consistency']:.4f}"
        print(f"{figures}  {run}", file=sys.stderr, flush=True)
    print(json.dumps(found))
