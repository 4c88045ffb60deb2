"""Bytes a training step at Stable Diffusion 1.5's size needs, counted without running it.

    python benchmarks/speed/memory.py [--resolution 384]

The step runs on fake tensors, which have shapes and no data; every storage is counted from its birth to its end. What
an allocator adds (fragments, a CUDA context of about half a GiB, workspaces of convolutions) is not in the figures.
"""

import argparse
import json
import sys
from contextlib import nullcontext
from itertools import product
from typing import Literal

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from siamese_diffusion.config import LoopConfig, MethodConfig
from siamese_diffusion.diffusion.control import DenseControlNet
from siamese_diffusion.diffusion.siamese import SiameseDiffusion
from siamese_diffusion.memory import Live
from siamese_diffusion.optimizer import make_optimizer, state_bytes

GIB = 2**30


def step(
    batch: int,
    resolution: int,
    method: Literal["siamese", "mask-only", "adc"],
    checkpointing: bool | Literal["selective"],
    bf16: bool,
    optimizer: str,
) -> dict[str, float]:
    """GiB of weights, gradients, optimiser state, and of the step's peak, all of these included.

    Args:
        batch: samples of one forward pass.
        resolution: side in pixels.
        method: of `MethodConfig`.
        checkpointing: recompute activations: none, the cheap ones or all.
        bf16: autocast.
        optimizer: "adamw" or "adafactor".
    """
    side = resolution // 8
    live = Live()
    with FakeTensorMode(), live:
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)  # Stable Diffusion 1.5's shape
        model = SiameseDiffusion(unet, DenseControlNet(), torch.ones(1000), method=MethodConfig(name=method)).train()
        if checkpointing:
            model.enable_gradient_checkpointing(checkpointing == "selective")
        live.peak = live.bytes
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            losses = model(
                torch.randn(batch, 4, side, side),
                torch.randn(batch, 4, side, side),
                torch.full((batch,), 500),
                torch.randn(batch, 77, 768),
                torch.rand(batch, 3, resolution, resolution),
                torch.rand(batch, 3, resolution, resolution),
                0.2,
            )
        losses.total.backward()
        peak = live.peak
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = sum(parameter.nbytes for parameter in model.parameters())
    gradients = sum(parameter.nbytes for parameter in trained)
    state = sum(state_bytes(parameter, optimizer) for parameter in trained)
    return {
        "weights": weights / GIB,
        "gradients": gradients / GIB,
        "state": state / GIB,
        "peak": (peak + state) / GIB,
    }


def check_state_bytes() -> None:
    """`state_bytes` against the optimisers themselves, on a small network."""
    for optimizer in ("adamw", "adafactor"):
        net = nn.Sequential(nn.Conv2d(6, 10, 3), nn.Flatten(), nn.LazyLinear(7))
        net(torch.rand(2, 6, 5, 5)).sum().backward()
        update = make_optimizer(net, LoopConfig.model_validate({"optimizer": optimizer}))
        update.step()
        kept = sum(
            value.nbytes
            for entry in update.state.values()
            for value in entry.values()
            if value.dim() or value.numel() > 1
        )
        assert kept == sum(state_bytes(parameter, optimizer) for parameter in net.parameters())


def main(resolution: int) -> None:
    """Print a table on standard error and JSON on standard output."""
    check_state_bytes()
    rows = []
    print("method     batch checkpointing bf16 optimizer  weights  grads   state    peak GiB", file=sys.stderr)
    ways: list[bool | Literal["selective"]] = [False, "selective", True]
    for checkpointing, bf16, optimizer, batch in product(ways, (False, True), ("adamw", "adafactor"), (1, 4)):
        row = step(batch, resolution, "siamese", checkpointing, bf16, optimizer)
        rows.append({"batch": batch, "checkpointing": checkpointing, "bf16": bf16, "optimizer": optimizer, **row})
        figures = "".join(f"{value:8.2f}" for value in row.values())
        print(f"siamese    {batch:5} {checkpointing!s:13} {bf16!s:5} {optimizer:9} {figures}", file=sys.stderr)
    print(json.dumps(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, default=384, help="side in pixels")
    main(**vars(parser.parse_args()))
