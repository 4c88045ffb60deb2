"""The objective of Siamese-Diffusion as the paper states it: slow, plain, and what `siamese.py` is measured against.

Nothing is shared or saved: every branch has passes of its own through diffusers' networks, what is held constant is a
copy, and the augmentation runs on the whole batch. Tests and benchmarks take it as the truth; training does not use it.
Source: arXiv 2505.06068 (CVPR 2025).
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor

from siamese_diffusion.config import MethodConfig
from siamese_diffusion.diffusion.control import DenseControlNet
from siamese_diffusion.diffusion.schedule import Schedule
from siamese_diffusion.diffusion.siamese import Losses


def control(net: DenseControlNet, noisy: Tensor, timesteps: Tensor, text: Tensor, hint: Tensor) -> list[Tensor]:
    """CN(z_t, t, text, hint) by diffusers: residuals for the skips, and for the middle block, last.

    Args:
        net: the ControlNet.
        noisy: (B, C, h, w).
        timesteps: (B,) integers.
        text: (B, L, D).
        hint: (B, 3, H, W) in [0, 1].
    """
    down, middle = net(noisy, timesteps, text, hint, return_dict=False)
    return [*down, middle]


def predict(
    net: UNet2DConditionModel, noisy: Tensor, timesteps: Tensor, text: Tensor, residuals: Sequence[Tensor]
) -> Tensor:
    """D(E(z_t), residuals) by diffusers: the network's prediction (noise or v), (B, C, h, w); `residuals` of
    `control`."""
    *down, middle = residuals
    result: Tensor = net(
        noisy, timesteps, text, down_block_additional_residuals=tuple(down), mid_block_additional_residual=middle
    ).sample
    return result


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """(B,), of (B, C, h, w) each: the mean over C, h, w."""
    return (prediction - target).square().mean((1, 2, 3))


def reference_losses(
    unet: UNet2DConditionModel,
    controlnet: DenseControlNet,
    schedule: Schedule,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    text: Tensor,
    mask_hint: Tensor,
    image_hint: Tensor,
    progress: float,
    method: MethodConfig | None = None,
    copy: Callable[[Any], Any] = deepcopy,
) -> Losses:
    """The losses of one batch, for either prediction. Below, "eps" stands for what the backbone predicts: noise or v.

    Args:
        unet: E and D; which of its parameters are trained is the caller's to set.
        controlnet: CN.
        schedule: the noise schedule, and what the backbone predicts.
        latents: (B, C, h, w) scaled latents z0 of the images.
        noise: (B, C, h, w) standard normal.
        timesteps: (B,) integers t.
        text: (B, L, D) prompt embeddings.
        mask_hint: (B, 3, H, W), 0 or 1.
        image_hint: (B, 3, H, W) in [0, 1].
        progress: step / max_steps, in [0, 1].
        method: weights and gate; None for the paper's.
        copy: makes the network of equal weights that is held constant.

    Raises:
        ValueError: the method is not `siamese`.
    """
    method = method or MethodConfig()
    if method.name != "siamese":
        raise ValueError(f"method.name = {method.name!r}: the reference is of siamese alone")
    image_weight = method.image_weight
    if image_weight is None or image_weight == "linear":
        image_weight = progress  # w_i = step / max_steps
    held_unet, held_controlnet = copy(unet).requires_grad_(False), copy(controlnet).requires_grad_(False)
    noisy = schedule.add_noise(latents, noise, timesteps)  # z_t
    target = schedule.target(latents, noise, timesteps)

    # c_m from the mask, and once more held constant: sg(c_m). c_i from the image. c_mix = w_m sg(c_m) + w_i c_i.
    from_mask = control(controlnet, noisy, timesteps, text, mask_hint)
    held_mask = control(held_controlnet, noisy, timesteps, text, mask_hint)
    from_image = control(controlnet, noisy, timesteps, text, image_hint)
    mixed = [method.mask_weight * m + image_weight * i for m, i in zip(held_mask, from_image, strict=True)]

    # Mask-Diffusion, eps_m = D(E(z_t), c_m), and Image-Diffusion, eps_mix = D'(E(z_t), c_mix), D' held constant.
    by_mask = predict(unet, noisy, timesteps, text, from_mask)
    by_mixed = predict(held_unet, noisy, timesteps, text, mixed)

    # L_m = |eps - eps_m|^2: the error of Mask-Diffusion, which trains CN and D.
    mask = squared_error(by_mask, target).mean()
    # L_i = |eps - eps_mix|^2: the error of Image-Diffusion, which trains CN through c_i alone.
    image = squared_error(by_mixed, target).mean()
    # L_c = |eps_m - sg(eps_mix)|^2: noise consistency, which draws Mask-Diffusion to Image-Diffusion.
    consistency = squared_error(by_mask, by_mixed.detach()).mean()
    # L_a = |eps - D(E(z_t'), CN(z_t', mask))|^2: online augmentation. z0' = sg of Image-Diffusion's one-step estimate
    # of z0; z_t' from it with the same noise and t. [step > max_steps/3] [t <= 200]: later samples add 0 to the mean.
    augmentation = target.new_zeros(())
    if method.augmentation > 0 and progress > method.augmentation_start:
        estimate = schedule.clean(noisy, by_mixed, timesteps).detach()
        redrawn = schedule.add_noise(estimate, noise, timesteps)
        by_redrawn = predict(unet, redrawn, timesteps, text, control(controlnet, redrawn, timesteps, text, mask_hint))
        errors = squared_error(by_redrawn, schedule.target(estimate, noise, timesteps))
        augmentation = ((timesteps <= method.augmentation_timesteps) * errors).mean()

    # L = L_m + L_i + L_c + L_a, with the method's weights, which are 1 in the paper.
    total = mask + image + method.consistency * consistency + method.augmentation * augmentation
    return Losses(mask, image, consistency, augmentation, total)
