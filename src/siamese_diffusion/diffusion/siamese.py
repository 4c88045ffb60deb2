"""Noise-consistent Siamese-Diffusion: two diffusions that share one ControlNet, and their loss terms.

Design note: Image-Diffusion's decoder D' is not a copy but the same blocks run with detached parameters, so its loss
reaches the ControlNet and never the decoder; the frozen encoder runs once for both; both hints pass through the
ControlNet as one batch. Source: arXiv 2505.06068 (CVPR 2025); equations in the docstrings. The authors' follow-up, ADC
(arXiv 2507.23652), gives Image-Diffusion a ControlNet and a decoder of its own and shares everything else.

What the network predicts is the backbone's: the noise, or v (Salimans & Ho 2022). "Prediction" below means either.
"""

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_diffusion.config import MethodConfig
from siamese_diffusion.diffusion.control import DenseControlNet
from siamese_diffusion.diffusion.passes import Encoded, decode, embed, encode, join, residuals, steer
from siamese_diffusion.diffusion.recompute import (
    RECOMPUTE,
    Recompute,
    early_backward,
    run_part,
    with_casts_of_their_own,
)
from siamese_diffusion.diffusion.schedule import Schedule


class Losses(NamedTuple):
    """Batch means of the terms, unweighted, and their weighted sum. A term that is not in force is 0."""

    mask: Tensor
    image: Tensor
    consistency: Tensor
    augmentation: Tensor
    total: Tensor


class Inputs(NamedTuple):
    """What one pass of the ControlNet sees, B rows of each."""

    noisy: Tensor
    timesteps: Tensor
    text: Tensor
    hint: Tensor


def is_decoder(name: str) -> bool:
    """Whether a parameter of `SiameseDiffusion`, by its name, belongs to a decoder and not to a ControlNet."""
    return name.startswith(("unet.", "teacher.")) and not name.startswith("teacher.controlnet.")


def is_hint(name: str) -> bool:
    """Whether a parameter of `SiameseDiffusion`, by its name, belongs to a hint embedding."""
    return "controlnet.controlnet_cond_embedding." in name


class Teacher(nn.Module):
    """ADC's Image-Diffusion: a ControlNet for the image and a decoder, both trained, both begun from
    Mask-Diffusion's."""

    def __init__(self, unet: UNet2DConditionModel, controlnet: DenseControlNet) -> None:
        super().__init__()
        self.controlnet = deepcopy(controlnet)
        self.up_blocks = deepcopy(unet.up_blocks)
        self.conv_norm_out = deepcopy(unet.conv_norm_out)
        self.conv_act = unet.conv_act
        self.conv_out = deepcopy(unet.conv_out)


class SiameseDiffusion(nn.Module):
    """Mask-Diffusion and Image-Diffusion over one UNet and one ControlNet.

    Trained: the ControlNet with its Dense Hint Input, and the UNet's decoder D. Frozen: the UNet's encoder and middle
    block E, with the time embedding. With the method `adc` there is also a `teacher`, trained.

    Args:
        unet: the backbone's UNet.
        controlnet: from `controlnet_for(unet, ...)`.
        alphas_cumprod: (T,) of the backbone's noise schedule.
        prediction: "epsilon" or "v_prediction", the backbone's.
        method: which terms, and their weights.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        controlnet: DenseControlNet,
        alphas_cumprod: Tensor,
        prediction: str = "epsilon",
        method: MethodConfig | None = None,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.controlnet = controlnet
        self.schedule = Schedule(alphas_cumprod, prediction)
        self.method = method or MethodConfig()
        self.vae: Any = None
        """The first stage, frozen, where `load_original` found one; nothing here needs it."""
        self.recompute: Recompute | None = None
        self.single_pass = False
        """Augmented rows pass the ControlNet together with the others, for which it first runs without them: each
        weight is used once, so its gradient is whole as soon as the backward pass comes by it. Dearer by that run."""
        self.min_snr: float | None = None
        """gamma of the losses' weights, see `Schedule.weights`; None: all timesteps count alike."""
        unet.requires_grad_(False)
        for part in (unet.up_blocks, unet.conv_norm_out, unet.conv_out, controlnet):
            part.requires_grad_(True)
        self.teacher = Teacher(unet, controlnet) if self.method.name == "adc" else None

    def enable_gradient_checkpointing(self, selective: bool = False) -> None:
        """Recompute activations in the backward pass: less memory, the same gradients.

        Args:
            selective: keep the results of convolutions, matrix products and attention, and recompute the rest
                (normalisation, activation functions), which takes next to no time.
        """
        self.recompute = RECOMPUTE["selective" if selective else "all"]
        for net in [self.controlnet] if self.teacher is None else [self.controlnet, self.teacher.controlnet]:
            net.enable_gradient_checkpointing(self.recompute)

    def embed_hint(self, hint: Tensor) -> Tensor:
        """The Dense Hint Input alone, which no timestep changes: hint (B, 3, H, W) in [0, 1] to features (B, M, h,
        w)."""
        return embed(self.controlnet, hint, self.recompute)

    @torch.no_grad()
    def hint_strength(self, hint: Tensor) -> float:
        """How much hints (B, 3, H, W) in [0, 1] change the ControlNet's input: RMS against the empty hint. 0: not
        seen."""
        change = self.embed_hint(hint) - self.embed_hint(torch.zeros_like(hint[:1]))
        return float(change.square().mean().sqrt())

    def control(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        text: Tensor,
        hint: Tensor | None = None,
        *,
        features: Tensor | None = None,
    ) -> list[Tensor]:
        """CN(z_t, t, text, hint): residuals for the skips, in the encoder's order, and for the middle block, last.

        Args:
            noisy: (B, C, h, w).
            timesteps: (B,) integers.
            text: (B, L, D).
            hint: (B, 3, H, W) in [0, 1].
            features: of the hint, from `embed_hint`, instead of it.
        """
        if features is None:
            assert hint is not None
            features = self.embed_hint(hint)
        return residuals(self.controlnet, noisy, timesteps, text, features)

    def encode(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Encoded:
        """E(z_t), without gradients."""
        with torch.no_grad():
            return encode(self.unet, self.unet.conv_in(noisy), timesteps, text)

    def decode(
        self,
        encoded: Encoded,
        text: Tensor,
        control: Sequence[Tensor] | None = None,
        *,
        constant: bool = False,
        decoder: nn.Module | None = None,
    ) -> Tensor:
        """D(E(z_t), control): the prediction, (B, C, h, w).

        Args:
            encoded: from `encode`.
            text: (B, L, D).
            control: from `control`; None for the backbone alone.
            constant: run D', the decoder with its parameters held constant.
            decoder: blocks to run instead of the UNet's.
        """
        seen = encoded if control is None else steer(encoded, control)
        return decode(decoder or self.unet, seen, text, partial(run_part, self.recompute, constant))

    def predict(
        self, noisy: Tensor, timesteps: Tensor, text: Tensor, control: Sequence[Tensor] | None = None
    ) -> Tensor:
        """The network's own prediction (noise or v), (B, C, h, w)."""
        return self.decode(self.encode(noisy, timesteps, text), text, control)

    def predict_noise(
        self, noisy: Tensor, timesteps: Tensor, text: Tensor, control: Sequence[Tensor] | None = None
    ) -> Tensor:
        """The predicted noise, (B, C, h, w), whatever the backbone predicts."""
        return self.schedule.noise(noisy, self.predict(noisy, timesteps, text, control), timesteps)

    def image_weight(self, progress: float) -> float:
        """w_i, weight of the image features in the mixed control: as set, or the method's own."""
        weight = self.method.image_weight
        if weight is None:
            weight = 0.25 if self.method.name == "adc" else "linear"
        return progress if weight == "linear" else weight

    @with_casts_of_their_own
    def forward(
        self,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        text: Tensor,
        mask_hint: Tensor,
        image_hint: Tensor,
        progress: float,
        augmented_rows: Sequence[int] | None = None,
        kept: Tensor | None = None,
    ) -> Losses:
        """The losses of one batch.

        Args:
            latents: (B, C, h, w) scaled latents z0 of the images.
            noise: (B, C, h, w) standard normal.
            timesteps: (B,) integers.
            text: (B, L, D) prompt embeddings.
            mask_hint: (B, 3, H, W), 0 or 1.
            image_hint: (B, 3, H, W) in [0, 1].
            progress: step / max_steps, in [0, 1].
            augmented_rows: those with t <= augmentation_timesteps, where the caller knows them already: then nothing
                here waits for the device.
            kept: (B,) bool; where it is false Mask-Diffusion predicts without its mask's control, eps_m = D(E(z_t)),
                as classifier-free guidance learns its other branch (Ho & Salimans, arXiv 2207.12598, algorithm 1), and
                that sample adds 0 to L_c. None: all.

        Returns:
            L_m = |eps - eps_m|^2, L_i = |eps - eps_mix|^2, L_c = |eps_m - sg(eps_mix)|^2 and
            L_a = |eps - D(E(z_t'), CN(z_t', mask))|^2 with z0' = sg of Image-Diffusion's one-step estimate; total is
            L_m + L_i + consistency L_c + [progress > augmentation_start] augmentation L_a. Means over C, H, W, then
            over the batch; a sample with t > augmentation_timesteps adds 0 to L_a and stays in its mean.
            With ADC, L_c is weighted per pixel and there is no L_a; see `_adc`. With `min_snr` each sample's error in
            each term has the weight of its timestep.
        """
        method = self.method
        noisy = self.schedule.add_noise(latents, noise, timesteps)  # z_t
        target = self.schedule.target(latents, noise, timesteps)  # eps
        mask, image = Inputs(noisy, timesteps, text, mask_hint), Inputs(noisy, timesteps, text, image_hint)
        encoded = self.encode(noisy, timesteps, text)  # E(z_t), for every branch
        if method.name == "mask-only":
            return self._mask_only(mask, encoded, target, kept)
        if self.teacher is not None:
            return self._adc(self.teacher, mask, image, encoded, target, progress, kept)
        weights = self.schedule.weights(timesteps, self.min_snr)
        rows = self._augmented(timesteps, progress, augmented_rows)  # those that L_a counts

        # c_m = CN(z_t, t, text, mask), c_i = CN(z_t, t, text, image).
        from_mask, from_image = self._controls(mask, image, passes_again=bool(rows))

        # Image-Diffusion: c_mix = w_m sg(c_m) + w_i c_i, eps_mix = D'(E(z_t), c_mix), D' held constant;
        # L_i = |eps - eps_mix|^2, which trains CN through c_i alone.
        def image_diffusion(from_image: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
            prediction = self.decode(encoded, text, self._mix(from_mask, from_image, progress), constant=True)
            return _mean(_error(prediction, target), weights), prediction

        early = early_backward(image_diffusion, from_image)
        by_mixed = early.prediction  # sg(eps_mix)

        # Mask-Diffusion: eps_m = D(E(z_t), c_m). Online augmentation: the same from z_t', drawn from Image-Diffusion's
        # estimate of z0.
        if rows:
            redrawn, aim = self._redraw(_rows(mask, rows), _pick(by_mixed, rows), _pick(noise, rows))
            from_mask, from_image, from_redrawn = self._controls_of_all(mask, image, redrawn, from_mask, from_image)
            by_mask, by_redrawn = self._decode_both(encoded, text, _keep(from_mask, kept), redrawn, from_redrawn)
        else:
            by_mask = self.decode(encoded, text, _keep(from_mask, kept))

        # L = L_m + L_i + L_c + L_a, weighted.
        image_loss = early.of(from_image)
        mask_loss = _mean(_error(by_mask, target), weights)  # L_m = |eps - eps_m|^2
        consistency = _mean(_error(by_mask, by_mixed), weights, kept)  # L_c = |eps_m - sg(eps_mix)|^2
        augmentation = target.new_zeros(())
        if rows:  # L_a
            errors = _error(by_redrawn, aim)
            augmentation = (errors if weights is None else errors * _pick(weights, rows)).sum() / len(timesteps)
        total = mask_loss + image_loss + method.consistency * consistency + method.augmentation * augmentation
        return Losses(mask_loss, image_loss, consistency, augmentation, total)

    def _mask_only(self, mask: Inputs, encoded: Encoded, target: Tensor, kept: Tensor | None) -> Losses:
        """The baseline: L_m alone."""
        weights = self.schedule.weights(mask.timesteps, self.min_snr)
        loss = _mean(_error(self.decode(encoded, mask.text, _keep(self.control(*mask), kept)), target), weights)
        zero = target.new_zeros(())
        return Losses(mask=loss, image=zero, consistency=zero, augmentation=zero, total=loss)

    def _adc(
        self,
        teacher: Teacher,
        mask: Inputs,
        image: Inputs,
        encoded: Encoded,
        target: Tensor,
        progress: float,
        kept: Tensor | None,
    ) -> Losses:
        """ADC: the mixed control carries gradients to both ControlNets, and the distillation error of each pixel is
        weighted by mask (1 - r) + (1 - mask) r, r the lesion's share, all at latent resolution."""
        method, text = self.method, mask.text
        from_mask = self.control(*mask)
        features = embed(teacher.controlnet, image.hint, self.recompute)
        from_image = residuals(teacher.controlnet, *image[:3], features)
        weight = self.image_weight(progress)
        mixed = [method.mask_weight * m + weight * i for m, i in zip(from_mask, from_image, strict=True)]
        by_mask = self.decode(encoded, text, _keep(from_mask, kept))
        by_mixed = self.decode(encoded, text, mixed, decoder=teacher)

        lesion = F.interpolate(mask.hint[:, :1], size=mask.noisy.shape[-2:], mode="nearest")  # (B, 1, h, w)
        share = lesion.mean((2, 3), keepdim=True)
        pixels = lesion * (1 - share) + (1 - lesion) * share
        weights = self.schedule.weights(mask.timesteps, self.min_snr)
        mask_loss = _mean(_error(by_mask, target), weights)
        image_loss = _mean(_error(by_mixed, target), weights)
        difference = pixels * (by_mask.float() - by_mixed.detach().float()).square()
        plain = weights is None and kept is None
        distillation = difference.mean() if plain else _mean(difference.mean((1, 2, 3)), weights, kept)
        total = mask_loss + image_loss + method.consistency * distillation
        return Losses(mask_loss, image_loss, distillation, target.new_zeros(()), total)

    def _augmented(self, timesteps: Tensor, progress: float, augmented_rows: Sequence[int] | None) -> list[int]:
        """The rows of the batch that L_a counts: [progress > augmentation_start] [t <= augmentation_timesteps]."""
        method = self.method
        if method.augmentation == 0 or progress <= method.augmentation_start:
            return []
        if augmented_rows is None:
            augmented_rows = (timesteps <= method.augmentation_timesteps).nonzero()[:, 0].tolist()
        return list(augmented_rows)

    def _mix(self, from_mask: Sequence[Tensor], from_image: Sequence[Tensor], progress: float) -> list[Tensor]:
        """c_mix = w_m sg(c_m) + w_i c_i."""
        own, weight = self.method.mask_weight, self.image_weight(progress)
        return [own * mask.detach() + weight * image for mask, image in zip(from_mask, from_image, strict=True)]

    def _redraw(self, mask: Inputs, by_mixed: Tensor, noise: Tensor) -> tuple[Inputs, Tensor]:
        """z_t' from z0' = sg of Image-Diffusion's one-step estimate, with the same noise and t; and what to predict."""
        estimate = self.schedule.clean(mask.noisy, by_mixed, mask.timesteps)
        noisy = self.schedule.add_noise(estimate, noise, mask.timesteps)
        return mask._replace(noisy=noisy), self.schedule.target(estimate, noise, mask.timesteps)

    # ---- Fewer passes, and less memory at a time; the values are those of a pass for each.

    def _controls(self, mask: Inputs, image: Inputs, passes_again: bool) -> list[list[Tensor]]:
        """c_m and c_i from one pass of the ControlNet; without gradients where `single_pass` makes it pass again."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not (self.single_pass and passes_again)):
            return self._one_pass(mask, image)

    def _controls_of_all(
        self, mask: Inputs, image: Inputs, redrawn: Inputs, from_mask: list[Tensor], from_image: list[Tensor]
    ) -> list[list[Tensor]]:
        """c_m, c_i and the redrawn rows' own; c_m and c_i are taken as they are, unless all have to come of one
        pass."""
        if self.single_pass:
            return self._one_pass(mask, image, redrawn)
        return [from_mask, from_image, self.control(*redrawn)]

    def _one_pass(self, *inputs: Inputs) -> list[list[Tensor]]:
        """The ControlNet's residuals for each, as one batch."""
        residuals = self.control(*(torch.cat(values) for values in zip(*inputs, strict=True)))
        parts = [residual.split([len(each.noisy) for each in inputs]) for residual in residuals]
        return [list(each) for each in zip(*parts, strict=True)]

    def _decode_both(
        self, encoded: Encoded, text: Tensor, control: Sequence[Tensor], redrawn: Inputs, from_redrawn: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        """D of the batch and of the redrawn rows, as one batch."""
        both = join([steer(encoded, control), steer(self.encode(*redrawn[:3]), from_redrawn)])
        parts: Sequence[Tensor] = self.decode(both, torch.cat([text, redrawn.text])).split(
            [len(text), len(redrawn.text)]
        )
        return parts


def _pick(values: Tensor, rows: Sequence[int]) -> Tensor:
    return torch.stack([values[row] for row in rows])  # by numbers and not by a tensor of them: no copy to the device


def _rows(inputs: Inputs, rows: Sequence[int]) -> Inputs:
    return Inputs(*(_pick(values, rows) for values in inputs))


def _error(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared error of each sample, (B,), its mean over C, H, W."""
    return (prediction.float() - target.float()).square().mean((1, 2, 3))


def _mean(errors: Tensor, weights: Tensor | None, kept: Tensor | None = None) -> Tensor:
    """The batch's mean of the errors (B,), each times its weight; those that are not kept count as 0."""
    if weights is not None:
        errors = errors * weights
    return (errors if kept is None else errors * kept).mean()


def _keep(control: Sequence[Tensor], kept: Tensor | None) -> Sequence[Tensor]:
    """A control that is 0 in the rows that are not kept."""
    if kept is None:
        return control
    return [residual * kept[:, None, None, None].to(residual.dtype) for residual in control]
