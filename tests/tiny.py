"""Tiny networks with random weights everywhere, so that nothing is zero by construction."""

from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from siamese_diffusion.config import MethodConfig
from siamese_diffusion.diffusion.control import controlnet_for
from siamese_diffusion.diffusion.siamese import SiameseDiffusion

TINY: dict[str, Any] = {
    "data": {"resolution": 32, "split": None},
    "backbone": {"channels": [16, 32], "attention": [False, True], "hint_channels": [4, 8], "text_dim": 8},
    "pretrain": {"steps": 3, "batch_size": 4, "sample_every": 100, "log_every": 1, "warmup": 0},
    "train": {"steps": 6, "batch_size": 4, "sample_every": 100, "checkpoint_every": 2, "log_every": 1, "warmup": 0},
    "train_masks": {
        **{"side": 8, "components": 8, "width": 16, "layers": 1, "draw_steps": 3, "report_masks": 6},
        **{"steps": 6, "batch_size": 4, "sample_every": 100, "checkpoint_every": 2, "log_every": 1, "warmup": 0},
    },
    "sample": {"steps": 3, "batch_size": 3},
}
"""Settings that make every stage of the diffusion run in seconds."""


def tiny_unet(seed: int = 0) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=8,
        norm_num_groups=8,
    ).eval()


def randomise_zeros(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1)


def tiny_siamese(method: MethodConfig | None = None, prediction: str = "epsilon", seed: int = 0) -> SiameseDiffusion:
    """4-channel 8x8 latents, 32x32 hints."""
    unet = tiny_unet(seed)
    control = controlnet_for(unet, hint_factor=4, hint_channels=(4, 8))
    randomise_zeros(control)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return SiameseDiffusion(unet, control, (1 - betas).cumprod(0), prediction, method)


def tiny_batch(timesteps: tuple[int, ...] = (20, 200, 201, 900), seed: int = 1) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    count = len(timesteps)
    return {
        "latents": torch.randn(count, 4, 8, 8, generator=random),
        "noise": torch.randn(count, 4, 8, 8, generator=random),
        "timesteps": torch.tensor(timesteps),
        "text": torch.randn(count, 5, 8, generator=random),
        "mask_hint": (torch.rand(count, 1, 32, 32, generator=random) > 0.5).float().repeat(1, 3, 1, 1),
        "image_hint": torch.rand(count, 3, 32, 32, generator=random),
    }


def sd15_schedule() -> DDIMScheduler:
    """Stable Diffusion 1.5's noise schedule, with the original's end at the alpha of timestep 0."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
