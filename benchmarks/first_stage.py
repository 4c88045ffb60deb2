"""PSNR of the linear first stage on held-out images: `python benchmarks/first_stage.py DATA [RESOLUTION]`."""

import sys
from pathlib import Path

from siamese_diffusion.data.loading import load_images, to_tensor
from siamese_diffusion.data.pairs import find_images
from siamese_diffusion.diffusion.firststage import fit, psnr


def main(folder: Path, resolution: int = 96) -> None:
    """Print dB for patch sizes, channels, whitening and the latent error the decoder expects."""
    fitted, held_out = (to_tensor(load_images(find_images(folder, split), resolution)) for split in ("train", "val"))
    print("patch channels whitening noise   dB")
    for patch, channels in ((4, 8), (4, 12), (4, 16), (8, 24)):
        for whitening in (1.0, 0.5):
            for noise in (0.01, 0.1, 0.3):
                decibel = psnr(fit(fitted, patch, channels, whitening, noise), held_out)
                print(f"{patch:5} {channels:8} {whitening:9} {noise:5} {decibel:5.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
