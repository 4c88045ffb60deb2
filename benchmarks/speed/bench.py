"""What the benchmarks of speed measure: the networks and a batch at three sizes, and a training step of either side.

Both sides hold the same weights. `plain` is the step as the original runs it, `ours` as we do, `shared` what lies
between. Nothing is measured here, and no benchmark imports another one: what two of them need is in this file or in
`drawing.py`.
"""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import flop_registry
from transformers import CLIPTextConfig, CLIPTextModel

from siamese_diffusion.config import LoopConfig
from siamese_diffusion.diffusion.backbone import sd15_scheduler
from siamese_diffusion.diffusion.control import controlnet_for
from siamese_diffusion.diffusion.reference import control, reference_losses, squared_error
from siamese_diffusion.diffusion.siamese import SiameseDiffusion
from siamese_diffusion.memory import Live
from siamese_diffusion.optimizer import make_optimizer, release_gradients

SCALE = 0.18215
GATES = {"before the gate": 0.2, "after the gate": 0.9}
"""Progress (step / max_steps) on either side of the step from which L_a counts."""
Kept = Literal["none", "costly", "all"]
"""Activations: checkpointed, checkpointed selectively, or not."""


@dataclass(frozen=True)
class Size:
    channels: tuple[int, ...]
    vae: tuple[int, ...]
    text: int  # width of the text encoder
    layers: int  # its depth
    resolution: int
    batch: int
    groups: int = 32


SIZES = {
    "tiny": Size((32, 64), (32, 32, 32, 32), 32, 1, 64, 4, 16),
    "medium": Size((64, 128, 256, 256), (32, 64, 128, 128), 64, 4, 128, 4),
    "sd15": Size((320, 640, 1280, 1280), (128, 256, 512, 512), 768, 12, 384, 1),
}


@dataclass(frozen=True)
class Variant:
    side: str
    kept: Kept
    release: bool = False


VARIANTS = {
    "plain": Variant("plain", "none"),
    "plain, not checkpointed": Variant("plain", "all"),
    "ours": Variant("ours", "all"),
    "ours, lean": Variant("ours", "costly", release=True),
}


class Bench:
    """The networks, a batch, and a step of either side."""

    def __init__(self, size: Size, side: str, fake: bool = False, device: str = "cpu") -> None:
        torch.manual_seed(0)
        self.fake = fake
        with torch.device(device):
            self._build(size)
        if side == "ours":
            del self.vae, self.text_encoder  # what the cache is for

    def _build(self, size: Size) -> None:
        levels = len(size.channels)
        self.vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=size.vae,
            layers_per_block=2,
        ).eval()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=size.text,
                intermediate_size=4 * size.text,
                num_hidden_layers=size.layers,
                num_attention_heads=max(1, size.text // 64),
            )
        ).eval()
        unet = UNet2DConditionModel(
            down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
            block_out_channels=size.channels,
            cross_attention_dim=size.text,
            attention_head_dim=8,
            norm_num_groups=size.groups,
        )
        controlnet = controlnet_for(unet, 8)
        with torch.no_grad():
            for parameter in controlnet.parameters():
                if not self.fake and not parameter.any():
                    parameter.normal_(0, 0.02)  # zeros would leave the control, and half of the gradients, at zero
        self.model = SiameseDiffusion(unet, controlnet, sd15_scheduler().alphas_cumprod).train()
        self.optimizer = make_optimizer(self.model, LoopConfig(learning_rate=1e-12))  # steps that move no loss
        side_ = size.resolution // 8
        self.image = torch.rand(size.batch, 3, size.resolution, size.resolution)
        self.mask = (torch.rand(size.batch, 1, size.resolution, size.resolution) > 0.7).float().expand(-1, 3, -1, -1)
        self.tokens = torch.randint(49000, (size.batch, 77))
        self.noise = torch.randn(size.batch, 4, side_, side_)
        spread = (
            [100, 400, 600, 900] if size.batch <= 4 else [(2 * i + 1) * 500 // size.batch for i in range(size.batch)]
        )
        self.timesteps = torch.tensor(spread[: size.batch])  # t <= 200 for a fifth of all samples; of four, a quarter
        self.augmented_rows = [row for row, t in enumerate(spread[: size.batch]) if t <= 200]
        with torch.no_grad():
            self.latents, self.text = self.encode()

    def encode(self) -> tuple[Tensor, Tensor]:
        latents = self.vae.encode(self.image * 2 - 1).latent_dist.mean * SCALE
        return latents, self.text_encoder(self.tokens).last_hidden_state

    def copy(self, net: Any) -> Any:
        """The original's deep copy; tensors without data cannot be copied, and weigh as much when made anew."""
        made = type(net).from_config(net.config) if self.fake else copy.deepcopy(net)
        return made.requires_grad_(False)

    def ours(self, progress: float) -> Tensor:
        batch = (self.latents, self.noise, self.timesteps, self.text, self.mask, self.image)
        losses = self.model(*batch, progress, self.augmented_rows)
        return losses.total  # type: ignore[no-any-return]

    def plain(self, progress: float, cached: bool = False) -> Tensor:
        """The objective as the original runs it: the reference. `cached`: latents and text embeddings are there
        already."""
        with torch.no_grad():
            latents, text = (self.latents, self.text) if cached else self.encode()
        return reference_losses(
            self.model.unet,
            self.model.controlnet,
            self.model.schedule,
            latents,
            self.noise,
            self.timesteps,
            text,
            self.mask,
            self.image,
            progress,
            copy=self.copy,
        ).total

    def shared(self, progress: float, once: bool = False) -> Tensor:
        """Towards ours: the frozen encoder runs once, and Image-Diffusion's decoder is not a copy but held constant.

        Args:
            progress: step / max_steps.
            once: the mask passes the ControlNet once, in one batch with the image.
        """
        model, schedule, t, text = self.model, self.model.schedule, self.timesteps, self.text
        net = model.controlnet
        noisy = schedule.add_noise(self.latents, self.noise, t)
        if once:
            both = model.control(
                noisy.repeat(2, 1, 1, 1), t.repeat(2), text.repeat(2, 1, 1), torch.cat([self.mask, self.image])
            )
            mask, image = ([residual.chunk(2)[side] for residual in both] for side in (0, 1))
            again = [residual.detach() for residual in mask]
        else:
            held = self.copy(net)
            mask = control(net, noisy, t, text, self.mask)
            again = control(held, noisy, t, text, self.mask)
            image = control(net, noisy, t, text, self.image)
        mixed = [a + progress * b for a, b in zip(again, image, strict=True)]
        encoded = model.encode(noisy, t, text)
        by_mask, by_mixed = model.decode(encoded, text, mask), model.decode(encoded, text, mixed, constant=True)
        loss = squared_error(by_mask, self.noise) + squared_error(by_mixed, self.noise)
        loss = loss + squared_error(by_mask, by_mixed.detach())
        if progress > 1 / 3:
            estimate = schedule.clean(noisy, by_mixed, t).detach()
            redrawn = schedule.add_noise(estimate, self.noise, t)
            third = model.predict(redrawn, t, text, control(net, redrawn, t, text, self.mask))
            loss = loss + (t <= 200) * squared_error(third, self.noise)
        return loss.mean()

    def checkpointing(self, kept: Kept, side: str) -> None:
        """Of both networks; our own decoder passes do it themselves, so that the recomputation holds what they held."""
        self.model.recompute = None
        for net in (self.model.unet, self.model.controlnet):
            net.disable_gradient_checkpointing()
        if kept == "none" and side == "plain":
            self.model.unet.enable_gradient_checkpointing()
            self.model.controlnet.enable_gradient_checkpointing()
        elif kept != "all":
            self.model.enable_gradient_checkpointing(selective=kept == "costly")

    def step(self, variant: Variant, progress: float) -> float:
        """One step with its optimiser; the loss."""
        self.checkpointing(variant.kept, variant.side)
        self.model.single_pass = variant.release
        loss: Tensor = getattr(self, variant.side)(progress)
        hooks = release_gradients(self.optimizer) if variant.release else []
        loss.backward()
        for hook in hooks:
            hook.remove()
        if not variant.release:
            self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())


class Counted(Live):
    """And the FLOPs of matrix products and convolutions: PyTorch's own counter fails at checkpoints of such tensors."""

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if flops := flop_registry.get(func._overloadpacket):
            self.flops += flops(*args, **(kwargs or {}), out_val=out)
        return out
