"""What the linear first stage keeps of held-out images.

python benchmarks/experiments/first_stage.py DATA [RESOLUTION]
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from siamese_diffusion.data.arrays import load_images, to_tensor
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.diffusion.firststage import fit, psnr
from siamese_diffusion.evaluation.metrics.appearance import statistics


def main(folder: Path, resolution: int) -> None:
    """Print dB and sharpness (real = 1) for patch sizes, channels, whitening and the latent error the decoder
    expects."""
    fitted, held_out = (
        to_tensor(load_images(DataFolder(folder).images(split), resolution)) for split in ("train", "val")
    )
    real = sharpness(held_out)
    print("patch channels whitening noise    dB sharpness")
    for patch, channels in ((4, 8), (4, 12), (4, 16), (4, 24), (8, 24)):
        for whitening in (1.0, 0.5):
            for noise in (0.01, 0.1, 0.3):
                model = fit(fitted, patch, channels, whitening, noise)
                with torch.no_grad():
                    back = model.decode(model.encode(held_out).latent_dist.mode()).sample.clamp(-1, 1)
                kept = sharpness(back) / real
                print(f"{patch:5} {channels:8} {whitening:9} {noise:5} {psnr(model, held_out):5.2f} {kept:9.2f}")


def sharpness(images: Tensor) -> float:
    """Variance of the Laplacian of images (N, 3, R, R) in [-1, 1], as the evaluation has it."""
    pixels = images.add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return float(statistics(pixels)["sharpness"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DATA", help="images with the splits train and val")
    parser.add_argument("resolution", type=int, nargs="?", default=96, help="side in pixels")
    main(**vars(parser.parse_args()))
