"""Solvers of the reverse process, and guidance on the prompt and the mask: functions on tensors."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from siamese_diffusion.diffusion.siamese import SiameseDiffusion


def denoise(
    predict: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    schedule: DDIMScheduler,
    scheduler: str,
    steps: int,
    keep: Callable[[Tensor, int | None], Tensor] | None = None,
) -> Tensor:
    """Solve the reverse process from `noise` (B, C, h, w) to latents.

    Args:
        predict: (noisy, timesteps (B,)) to the network's prediction.
        noise: standard normal.
        schedule: the backbone's.
        scheduler: of `SampleConfig`.
        steps: denoising steps.
        keep: what becomes of the latents after each step: (latents, the timestep that they are at; None: clean).
    """
    solver = make_solver(schedule, scheduler)
    solver.set_timesteps(steps)  # on the CPU: solvers branch on them, and would wait for a device at every step
    latents = noise
    with torch.no_grad():
        for t, after in zip(solver.timesteps, [*solver.timesteps[1:].tolist(), None], strict=True):
            prediction = predict(latents, torch.full((len(latents),), int(t), device=latents.device))
            latents = solver.step(prediction, t, latents, return_dict=False)[0]
            latents = latents if keep is None else keep(latents, after)
    return latents


def make_solver(schedule: DDIMScheduler, scheduler: str) -> Any:
    """A diffusers scheduler for the backbone's noise schedule.

    Args:
        schedule: the backbone's.
        scheduler: "ddim" (eta 0), "dpm" (DPM-Solver++, arXiv:2211.01095) or "unipc" (arXiv:2302.04867), both of second
            order, begun at the last timestep that holds signal: a cosine schedule ends in noise without any, and so
            does one of zero terminal SNR.
    """
    if scheduler == "ddim":
        return DDIMScheduler.from_config(schedule.config)
    ends_in_noise = schedule.config.beta_schedule == "squaredcos_cap_v2" or schedule.config.rescale_betas_zero_snr
    least = -5.1 if ends_in_noise else -float("inf")  # half the log SNR
    common: dict[str, Any] = {"solver_order": 2, "timestep_spacing": "trailing", "steps_offset": 0}
    if scheduler == "dpm":
        common |= {"algorithm_type": "dpmsolver++", "lambda_min_clipped": least}
        return DPMSolverMultistepScheduler.from_config(schedule.config, **common)
    # UniPC has no such bound; a schedule that is cut there is the same
    last = int((schedule.alphas_cumprod.logit() / 2 >= least).sum())
    common |= {"trained_betas": schedule.betas[:last].tolist(), "num_train_timesteps": last}
    common["rescale_betas_zero_snr"] = False  # these are rescaled already
    return UniPCMultistepScheduler.from_config(schedule.config, **common)


def guided(
    model: SiameseDiffusion,
    hint: Tensor,
    text: Tensor,
    empty: Tensor,
    guidance: float = 1.0,
    mask_guidance: float = 1.0,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Callable[[Tensor, Tensor], Tensor]:
    """Mask-Diffusion with classifier-free guidance on the prompt, and on the mask.

    Args:
        model: in evaluation mode; its networks may hold 16-bit floats. Predictions are mixed, and returned, in 32 bits.
        hint: (B, 3, H, W) mask hints.
        text: (B, L, D) embeddings of the prompts.
        empty: (B, L, D) of the empty prompt.
        guidance: prediction = empty + guidance (prompt - empty), both with the mask, in one batch, as the paper does;
            at 1 the empty branch is not run.
        mask_guidance: the same between the network without and with the mask's control (not in the paper): above 1
            the lesion keeps closer to its mask. At 1 it is off; else it costs one more pass of the decoder.
        interval: shares of the timesteps, from 0 (clean) to 1 (noise), between which both are on; outside, each step is
            one pass (Kynkaanniemi et al., arXiv:2404.07724).
    """
    dtype = model.unet.dtype
    text, empty = text.to(dtype), empty.to(dtype)
    with torch.no_grad():
        features = model.embed_hint(hint.to(dtype))  # once, and not at every step
    both = features.repeat(2, 1, 1, 1), torch.cat([empty, text])
    last = len(model.schedule.alphas_cumprod) - 1

    def predict(noisy: Tensor, t: Tensor) -> Tensor:
        on = interval == (0.0, 1.0) or interval[0] <= float(t[0]) / last <= interval[1]
        hints, words = both if on and guidance != 1 else (features, text)
        noisy = noisy.to(dtype)
        if on and guidance != 1:
            noisy, t = noisy.repeat(2, 1, 1, 1), t.repeat(2)
        encoded = model.encode(noisy, t, words)
        prediction = model.decode(encoded, words, model.control(noisy, t, words, features=hints)).float()
        if on and mask_guidance != 1:
            free = model.decode(encoded, words).float()
            prediction = free + mask_guidance * (prediction - free)
        if on and guidance != 1:
            without, given = prediction.chunk(2)
            prediction = without + guidance * (given - without)
        return prediction

    return predict
