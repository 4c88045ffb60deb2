"""What a training step costs many devices, counted without running it.

    python benchmarks/speed/scale.py [--resolution 384]

At Stable Diffusion 1.5's size: trained parameters and the bytes of gradients that are all-reduced, FLOPs by what
PyTorch's counter knows (matrix products, convolutions, attention; forward and backward), bytes of the cached latents of
an image, and the bandwidth that each device needs for an efficiency, by

    bandwidth = 2 (N - 1) / N x gradient bytes / (step seconds x (1 - efficiency) / efficiency)

for a ring all-reduce over N devices that hides behind nothing; PyTorch overlaps it with the backward pass, so the need
is lower. The step runs on fake tensors, which have shapes and no data.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from siamese_diffusion.config import MethodConfig
from siamese_diffusion.diffusion.control import DenseControlNet
from siamese_diffusion.diffusion.latents import build_latents
from siamese_diffusion.diffusion.siamese import SiameseDiffusion

SAMPLES, DEVICES = (1, 6, 48), (2, 8, 64)


def count(resolution: int) -> dict[str, Any]:
    """Parameters, gradient bytes, and TFLOP a sample before and after the augmentation loss counts.

    After the gate is a sample whose timestep counts (t <= 200, a fifth of all); the others cost what they did before
    it.
    """
    side = resolution // 8
    with FakeTensorMode():
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)  # Stable Diffusion 1.5's shape
        model = SiameseDiffusion(unet, DenseControlNet(), torch.ones(1000), method=MethodConfig()).train()
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        found = {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "trained": trained,
            "gradient_bytes": 4 * trained,
            "tflop": _tflop(model, side, resolution),
        }
    return found


def _tflop(model: SiameseDiffusion, side: int, resolution: int) -> dict[str, float]:
    latents, noise, text = torch.randn(1, 4, side, side), torch.randn(1, 4, side, side), torch.randn(1, 77, 768)
    mask, image = torch.rand(1, 3, resolution, resolution), torch.rand(1, 3, resolution, resolution)
    timesteps = torch.full((1,), 100)

    def counted(loss: Callable[[], Tensor]) -> float:
        with FlopCounterMode(display=False) as counter:
            loss().backward()
        return float(counter.get_total_flops()) / 1e12

    def augmentation() -> Tensor:
        """The pass that the gate adds; `forward` asks which timesteps count, which a fake tensor cannot tell."""
        return model.predict(noise, timesteps, text, model.control(noise, timesteps, text, mask)).square().mean()

    before = counted(lambda: model(latents, noise, timesteps, text, mask, image, 0.2).total)
    return {"before the gate": before, "after the gate": before + counted(augmentation)}


def latent_bytes(resolution: int) -> int:
    """Bytes on disk of an image's cached latents, one flip, from the cache that training writes."""

    def encode(images: Tensor) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(len(images), 4, resolution // 8, resolution // 8)
        return zeros, zeros

    sizes = []
    with tempfile.TemporaryDirectory() as folder:
        for number in (1, 2):
            cache = Path(folder) / f"{number}.npy"
            images = np.zeros((number, resolution, resolution, 3), np.uint8)
            build_latents(
                images, ["a"] * number, encode, lambda prompts: torch.zeros(len(prompts), 1, 1), "none", cache
            )
            sizes.append(cache.stat().st_size)
    return sizes[1] - sizes[0]


def bandwidth(gradient_bytes: int, seconds: float, devices: int, efficiency: float = 0.9) -> float:
    """Bytes a second that each device must send, and receive, for that efficiency if nothing overlaps."""
    return 2 * (devices - 1) / devices * gradient_bytes / (seconds * (1 - efficiency) / efficiency)


def main(resolution: int, achieved: float) -> dict[str, Any]:
    """Print the figures on standard error; `achieved` is in TFLOP/s."""
    found = count(resolution)
    found["latent_bytes"] = {side: latent_bytes(side) for side in (384, 512)}
    before, after = found["tflop"].values()
    found["mean_tflop"] = mean = before + (after - before) * 201 / 1000  # t <= 200 of 1000
    found["steps"] = [
        {
            "devices": devices,
            "samples": samples,
            "seconds": samples * mean / achieved,
            "gbit": 8e-9 * bandwidth(found["gradient_bytes"], samples * mean / achieved, devices),
        }
        for samples in SAMPLES
        for devices in DEVICES
    ]
    millions, trained = found["parameters"] / 1e6, found["trained"] / 1e6
    print(f"parameters {millions:.1f} M, trained {trained:.1f} M", file=sys.stderr)
    print(f"gradients all-reduced a step: {found['gradient_bytes'] / 1e9:.2f} GB", file=sys.stderr)
    for gate, tflop in found["tflop"].items():
        print(f"a sample at {resolution} px {gate}: {tflop:.2f} TFLOP", file=sys.stderr)
    for side, size in found["latent_bytes"].items():
        print(f"latents at {side} px: {size} bytes an image and flip", file=sys.stderr)
    print(f"on average {mean:.2f} TFLOP; at {achieved:g} TFLOP/s, for 90 % efficiency:", file=sys.stderr)
    for row in found["steps"]:
        print(
            "{samples:4} samples a device, {seconds:6.3f} s, {devices:3} devices: {gbit:8.0f} Gbit/s".format(**row),
            file=sys.stderr,
        )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, default=384)
    parser.add_argument(
        "--achieved", type=float, default=100, help="TFLOP/s that a device reaches: measure it on yours"
    )
    print(json.dumps(main(**vars(parser.parse_args()))))
