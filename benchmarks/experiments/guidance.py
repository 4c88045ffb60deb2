"""What guidance on the mask does to an image.

    python benchmarks/experiments/guidance.py DATA JUDGE RUN [RUN ...] --at 1 2:0:0.8 2:0:1

Draws images of validation masks with each finished run of `train` and each guidance (weight, and the shares of the
timesteps between which it is on), with the same noise for all. Prints edge strength and sharpness (real = 1), and the
Dice of what JUDGE, a finished run of `segment`, finds with the masks.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from siamese_diffusion import sample
from siamese_diffusion.config import load_config, update
from siamese_diffusion.data.arrays import load_pairs
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.evaluation.metrics.appearance import statistics
from siamese_diffusion.evaluation.metrics.mask_fit import pair_scores
from siamese_diffusion.segmentation.inference import probabilities
from siamese_diffusion.segmentation.trained import load_network


def drawn(run: Path, data: Path, judge: Path, at: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Edge strength, sharpness and fit of `arguments.count` images."""
    weight, *interval = map(float, at.split(":"))
    config = load_config(run / "config.yaml")
    config = update(config, "data", split="val", limit=arguments.count)
    config = update(
        config, "sample", scheduler="unipc", steps=8, guidance_interval=tuple(interval or (0.0, 1.0)), seed=0
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pairs"
        sample(run, data, out, random_masks="flip-scale-shift", mask_guidance=weight, config=config, device="cpu")
        images, masks = load_pairs(DataFolder(out).pairs(), config.data.resolution)
    real, _ = load_pairs(DataFolder(data).pairs("val", arguments.count), config.data.resolution)
    ours, theirs = statistics(images), statistics(real)
    seen = probabilities(load_network(judge).network, images)
    return {
        "edges": ours["gradient"] / theirs["gradient"],
        "sharpness": ours["sharpness"] / theirs["sharpness"],
        "fit": float(pair_scores(seen, masks)["dice"].mean()),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("judge", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--at", nargs="+", default=["1", "2:0:0.8", "2:0:1"], help="WEIGHT or WEIGHT:FROM:TO")
    parser.add_argument("--count", type=int, default=64, help="validation masks")
    arguments = parser.parse_args()
    found = {}
    for run in arguments.runs:
        for at in arguments.at:
            found[f"{run} {at}"] = row = drawn(run, arguments.data, arguments.judge, at, arguments)
            figures = "  ".join(f"{name} {value:.3f}" for name, value in row.items())
            print(f"{figures}  {run} {at}", file=sys.stderr, flush=True)
    print(json.dumps(found))
