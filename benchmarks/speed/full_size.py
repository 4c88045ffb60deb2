"""Stable Diffusion 1.5's exact shape with random weights: a step before the gate, one after it, and a sampled image.

    python benchmarks/speed/full_size.py [--steps 50] [--out image.png]

Prints seconds, peak memory and parameter counts as JSON. It runs the paper's setting (384 px, AdamW, DDIM, guidance 9)
at batch 1 with checkpointing, in 32 bits.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from siamese_diffusion.config import load_config
from siamese_diffusion.diffusion.backbone import sd15_scheduler
from siamese_diffusion.diffusion.control import controlnet_for
from siamese_diffusion.diffusion.grids import save_grid
from siamese_diffusion.diffusion.sampler import denoise, guided
from siamese_diffusion.diffusion.siamese import SiameseDiffusion
from siamese_diffusion.optimizer import make_optimizer

SCALE = 0.18215


def main(steps: int, out: Path | None, optimizer: str) -> dict[str, Any]:
    """Run it; the figures, seconds by stage, memory in GiB."""
    config = load_config("sd15-paper", [f"train.optimizer={optimizer}"])
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        scaling_factor=SCALE,
    ).eval()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    ).eval()
    unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    model = SiameseDiffusion(
        unet, controlnet_for(unet, 8), sd15_scheduler().alphas_cumprod, method=config.method
    ).train()
    model.enable_gradient_checkpointing()
    parts = {"unet": unet, "controlnet": model.controlnet, "vae": vae, "text_encoder": text_encoder}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    update = make_optimizer(model, config.train)
    seconds: dict[str, float] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = call()
        seconds[name] = round(time.perf_counter() - start, 1)
        print(f"{name}: {seconds[name]} s, peak {peak():.1f} GiB", file=sys.stderr, flush=True)
        return result

    image = torch.rand(1, 3, 384, 384)
    mask = torch.zeros(1, 3, 384, 384)
    mask[..., 100:200, 120:260] = 1
    with torch.no_grad():
        latents = timed("VAE encode", lambda: vae.encode(image * 2 - 1).latent_dist.mean * SCALE)
        tokens = torch.randint(49000, (2, 77))
        text = timed("text encoder, two prompts", lambda: text_encoder(tokens).last_hidden_state)

    def train_step(progress: float) -> dict[str, float]:
        losses = model(latents, torch.randn_like(latents), torch.tensor([100]), text[:1], mask, image, progress)
        losses.total.backward()
        update.step()
        update.zero_grad()
        return {name: float(value.detach()) for name, value in losses._asdict().items()}

    before = timed("step before the gate", lambda: train_step(0.2))
    after = timed("step after the gate", lambda: train_step(0.9))
    assert before["augmentation"] == 0
    assert after["augmentation"] > 0
    training_peak = peak()
    model.eval()
    predict = guided(model, mask, text[:1], text[1:], config.sample.guidance)
    noise = torch.randn_like(latents)
    drawn = timed(
        f"sampling, {steps} guided DDIM steps", lambda: denoise(predict, noise, sd15_scheduler(), "ddim", steps)
    )
    with torch.no_grad():
        decoded = timed("VAE decode", lambda: vae.decode(drawn / SCALE).sample.clamp(-1, 1))
    assert decoded.isfinite().all()
    if out is not None:
        save_grid([mask * 2 - 1, decoded], out)
    return {
        "seconds": seconds,
        "peak_gib": {"training": round(training_peak, 2), "all": round(peak(), 2)},
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
        "trained": sum(parameter.numel() for parameter in trained),
        "losses": {"before": before, "after": after},
        "optimizer": optimizer,
        "threads": torch.get_num_threads(),
    }


def peak() -> float:
    """Largest resident size of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps")
    parser.add_argument("--out", type=Path, default=None, help="PNG of the mask and the image")
    parser.add_argument("--optimizer", default="adamw", choices=("adamw", "adafactor"))
    arguments = parser.parse_args()
    print(json.dumps(main(arguments.steps, arguments.out, arguments.optimizer)))
