"""Whether the Dense Hint Input survives its learning rate.

    python benchmarks/experiments/hint_rate.py DATA BACKBONE --out DIR

Trains on 100 pairs for each method, factor on the hint embedding's learning rate, and seed. A dead embedding gives
every mask the same features, so no image can obey. Prints the hint strength at the end, and the obedience so far: how
much the loss on 64 validation images rises when each gets another one's mask, the mean over five timesteps. Finished
runs are used again.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from held_out import control, error, noise, predict
from torch import Tensor

from siamese_diffusion.config import load_config
from siamese_diffusion.data.arrays import load_pairs, to_tensor
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.diffusion.checkpoint import Trained, load_trained
from siamese_diffusion.diffusion.latents import mask_hint
from siamese_diffusion.diffusion.train import train


def obedience(trained: Trained, images: Tensor, hint: Tensor) -> float:
    """How much wrong masks add to the loss.

    Args:
        images: (N, 3, R, R) in [-1, 1].
        hint: (N, 3, R, R), their masks.
    """
    model, added = trained.model, []
    for noised in noise(trained, images):
        right, wrong = (predict(model, noised, control(model, noised, mask)) for mask in (hint, hint.roll(1, 0)))
        added.append(error(wrong, noised.target) - error(right, noised.target))
    return statistics.fmean(added)


def main(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Train and measure; print a line for each run on standard error."""
    pairs = DataFolder(arguments.data).pairs("val", 64)
    rows = []
    for method in arguments.methods:
        for rate in arguments.rates:
            for seed in range(arguments.seeds):
                run = arguments.out / f"{method}-{rate:g}-{seed}"
                if not (run / "summary.json").exists():
                    fixed = {"data.limit": 100, "train.steps": arguments.steps, "train.schedule": "constant"}
                    last = {"train.sample_every": arguments.steps, "sample.scheduler": "dpm", "sample.steps": 4}
                    changed = {"train.hint_rate": rate, "train.seed": seed, "method.name": method}
                    listed = [f"{key}={value}" for key, value in (fixed | last | changed).items()]
                    config = load_config(None, [*listed, *arguments.settings])
                    train(arguments.data, run, arguments.backbone, config=config, resume=True)
                trained = load_trained(run)
                images, masks = load_pairs(pairs, trained.config.data.resolution)
                hint = mask_hint(torch.from_numpy(masks))
                strength = trained.model.hint_strength(hint)
                row = {"method": method, "rate": rate, "seed": seed, "strength": strength}
                row["obedience"] = obedience(trained, to_tensor(images), hint)
                rows.append(row)
                what = f"{method:10} hint_rate {rate:<4g} seed {seed}"
                print(f"{what}  strength {strength:.4f}  obedience {row['obedience']:.4f}", file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("backbone")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["mask-only", "siamese"])
    parser.add_argument("--rates", type=float, nargs="+", default=[1.0, 0.3, 0.1])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    print(json.dumps(main(parser.parse_args())))
