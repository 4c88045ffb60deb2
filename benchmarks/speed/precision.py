"""Whether bf16 pays on this processor.

    python benchmarks/speed/precision.py [--size small|sd15] [--repeats 5]

A training step in single precision and under bf16 autocast, the same weights and batch, in turn, in one run: of
Siamese-Diffusion after the gate, and of two segmentation networks. A processor without AMX or AVX-512 BF16 emulates
bf16 and is slower with it. JSON on standard output, with how far the losses of the first step are apart.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from bench import GATES, SIZES, Bench
from torch import Tensor, nn

from siamese_diffusion.config import Config, LoopConfig
from siamese_diffusion.diffusion.backbone import small_backbone
from siamese_diffusion.diffusion.checkpoint import assemble
from siamese_diffusion.optimizer import make_optimizer
from siamese_diffusion.segmentation import networks
from siamese_diffusion.segmentation.training import Segmenter

Loss = Callable[[], Tensor]
BATCH = 8


def small(side: int = 96) -> tuple[nn.Module, Loss]:
    """Siamese-Diffusion on the small backbone, as `train` builds it by default."""
    images = torch.rand(BATCH, 3, side, side) * 2 - 1
    base = small_backbone(Config().backbone, images)
    model = assemble(base, Config())
    latents, text = base.encode(images)[0], base.embed(["A photo of polyp"] * BATCH)
    t = torch.linspace(50, 950, BATCH).long()
    masks = (torch.rand(BATCH, 1, side, side) > 0.7).float().expand(-1, 3, -1, -1)
    noise = torch.randn_like(latents)
    return model, lambda: model(latents, noise, t, text, masks, images / 2 + 0.5, GATES["after the gate"]).total


def large() -> tuple[nn.Module, Loss]:
    """The same at Stable Diffusion 1.5's size, 384 px, batch 1."""
    bench = Bench(SIZES["sd15"], "ours")
    return bench.model, lambda: bench.ours(GATES["after the gate"])


def segmentation(name: str, side: int) -> tuple[nn.Module, Loss]:
    """A segmentation network with its loss."""
    model = Segmenter(networks.create(name))
    images, masks = torch.rand(BATCH, 3, side, side), (torch.rand(BATCH, 1, side, side) > 0.7).float()
    return model, lambda: model(images, masks).total


CASES: dict[str, dict[str, Callable[[], tuple[nn.Module, Loss]]]] = {
    "small": {
        "siamese, 96 px, batch 8": small,
        "unet, 64 px, batch 8": lambda: segmentation("unet", 64),
        "unet, 96 px, batch 8": lambda: segmentation("unet", 96),
        "sanet, 96 px, batch 8": lambda: segmentation("sanet", 96),
    },
    "sd15": {"siamese, Stable Diffusion 1.5, 384 px, batch 1": large},
}


def compare(build: Callable[[], tuple[nn.Module, Loss]], repeats: int) -> dict[str, Any]:
    """Seconds of a step in either precision, and the ratio in each repeat."""
    torch.manual_seed(0)
    model, loss = build()
    model.train().to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, LoopConfig(learning_rate=1e-12))

    def step(bf16: bool) -> tuple[float, float]:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start, float(value.detach())

    losses = [step(bf16)[1] for bf16 in (False, True)]  # and a warm-up
    pairs = [(step(False)[0], step(True)[0]) for _ in range(repeats)]
    ratios = [single / half for single, half in pairs]
    return {
        "single": statistics.median(single for single, _ in pairs),
        "bf16": statistics.median(half for _, half in pairs),
        "faster": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
        "losses": losses,
    }


def main(size: str, repeats: int) -> list[dict[str, Any]]:
    """Run the cases of a size; print a line for each on standard error."""
    rows = []
    for name, build in CASES[size].items():
        row = {"case": name, "threads": torch.get_num_threads(), **compare(build, repeats)}
        rows.append(row)
        print(
            f"{name:48} {row['single']:7.3f} s  bf16 {row['bf16']:7.3f} s  {row['faster']:.2f} times as fast "
            f"({row['range'][0]:.2f} to {row['range'][1]:.2f}), losses {row['losses'][0]:.4f} {row['losses'][1]:.4f}",
            file=sys.stderr,
        )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=CASES, default="small")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print(json.dumps(main(arguments.size, arguments.repeats)))
