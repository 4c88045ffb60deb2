"""Sampling: masks in, image-mask pairs out, by Mask-Diffusion alone.

Unusual in it: an image depends on the seed, its mask's name and its copy number only, not on the batch it was drawn in,
so an interrupted run goes on exactly, and the work can be shared out in any way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from siamese_diffusion import progress
from siamese_diffusion.config import Config, SampleConfig, update
from siamese_diffusion.data.loading import mask_hint, prompt_of, to_images, to_tensor
from siamese_diffusion.data.masks import RECIPES, transform_mask
from siamese_diffusion.data.pairs import find_masks, find_pairs, read_mask, read_pair, square
from siamese_diffusion.data.writer import PairWriter
from siamese_diffusion.diffusion.siamese import SiameseDiffusion
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import write_whole
from siamese_diffusion.loop import generator, make_accelerator
from siamese_diffusion.memory import fitting_batch, free_bytes


def denoise(
    predict: Callable[[Tensor, Tensor], Tensor], noise: Tensor, schedule: DDIMScheduler, scheduler: str, steps: int
) -> Tensor:
    """Solve the reverse process from `noise` (B, C, h, w) to latents.

    Args:
        predict: (noisy, timesteps (B,)) to the network's prediction.
        noise: standard normal.
        schedule: the backbone's.
        scheduler: of `SampleConfig`.
        steps: denoising steps.
    """
    solver = make_solver(schedule, scheduler)
    solver.set_timesteps(steps, device=noise.device)
    latents = noise
    with torch.no_grad():
        for t in solver.timesteps:
            prediction = predict(latents, t.expand(len(latents)))
            latents = solver.step(prediction, t, latents, return_dict=False)[0]
    return latents


def make_solver(schedule: DDIMScheduler, scheduler: str) -> Any:
    """A diffusers scheduler for the backbone's noise schedule.

    Args:
        schedule: the backbone's.
        scheduler: "ddim" (eta 0), "dpm" (DPM-Solver++, arXiv:2211.01095) or "unipc" (arXiv:2302.04867), both of second
            order, begun at the last timestep that holds signal: a cosine schedule ends in noise without any.
    """
    if scheduler == "ddim":
        return DDIMScheduler.from_config(schedule.config)
    least = -5.1 if schedule.config.beta_schedule == "squaredcos_cap_v2" else -float("inf")  # half the log SNR
    common: dict[str, Any] = {"solver_order": 2, "timestep_spacing": "trailing", "steps_offset": 0}
    if scheduler == "dpm":
        common |= {"algorithm_type": "dpmsolver++", "lambda_min_clipped": least}
        return DPMSolverMultistepScheduler.from_config(schedule.config, **common)
    # UniPC has no such bound; a schedule that is cut there is the same
    last = int((schedule.alphas_cumprod.logit() / 2 >= least).sum())
    common |= {"trained_betas": schedule.betas[:last].tolist(), "num_train_timesteps": last}
    return UniPCMultistepScheduler.from_config(schedule.config, **common)


def save_grid(rows: list[Tensor], path: Path, columns: int = 8) -> None:
    """A PNG of images (N, 3, H, W) in [-1, 1]: where there are several lists, they alternate line by line."""
    from PIL import Image
    from torchvision.utils import make_grid

    count = len(rows[0])
    lines = [images[start : start + columns].cpu() for start in range(0, count, columns) for images in rows]
    grid = make_grid(torch.cat(lines), nrow=min(columns, count), padding=2, pad_value=1.0)
    write_whole(path, lambda temporary: Image.fromarray(to_images(grid[None])[0]).save(temporary))


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
        model: in evaluation mode.
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
    with torch.no_grad():
        features = model.embed_hint(hint)  # once, and not at every step
    both = features.repeat(2, 1, 1, 1), torch.cat([empty, text])
    last = len(model.schedule.alphas_cumprod) - 1

    def predict(noisy: Tensor, t: Tensor) -> Tensor:
        on = interval[0] <= float(t[0]) / last <= interval[1]
        hints, words = both if on and guidance != 1 else (features, text)
        if on and guidance != 1:
            noisy, t = noisy.repeat(2, 1, 1, 1), t.repeat(2)
        encoded = model.encode(noisy, t, words)
        prediction = model.decode(encoded, words, model.control(noisy, t, words, features=hints))
        if on and mask_guidance != 1:
            free = model.decode(encoded, words)
            prediction = free + mask_guidance * (prediction - free)
        if on and guidance != 1:
            without, given = prediction.chunk(2)
            prediction = without + guidance * (given - without)
        return prediction

    return predict


@dataclass(frozen=True)
class Wanted:
    """One pair to draw."""

    name: str
    source: str
    mask: Path
    copy: int
    prompt: str


def sample(
    checkpoint: Path,
    masks: Path,
    out: Path,
    per_mask: int = 1,
    random_masks: str | None = None,
    scheduler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    mask_guidance: float | None = None,
    seed: int | None = None,
    config: Config | None = None,
    resume: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """Draw images for masks and write them as a folder of pairs.

    Args:
        checkpoint: a finished run of `train`.
        masks: a folder of pairs, whose masks are taken (`data.split`, `data.limit`), or of mask images.
        out: folder of pairs to write; also `grid.png`, the first pairs.
        per_mask: images for each mask.
        random_masks: recipe of `data.masks` that varies each mask first.
        scheduler, steps, guidance, mask_guidance, seed: override `sample` of the settings.
        config: settings; default: the run's own.
        resume: go on with an interrupted run; the folder ends up the same as if it had not been interrupted.
        device: "auto", "cpu", "cuda" ...

    Returns:
        The folder, how many pairs it holds, and how many of them this call drew.

    Raises:
        InputError: no such run, no masks, an unknown recipe, or an `out` that holds pairs already.
    """
    from siamese_diffusion.diffusion.checkpoint import load_trained

    trained = load_trained(checkpoint)
    config = config or trained.config
    config = update(
        config, "sample", scheduler=scheduler, steps=steps, guidance=guidance, mask_guidance=mask_guidance, seed=seed
    )
    settings = config.sample
    wanted = _wanted(masks, per_mask, random_masks, config)
    engine = make_accelerator("no", device)
    trained.backbone.to(engine.device)
    trained.model.to(engine.device)
    model, backbone = trained.model, trained.backbone
    resolution = trained.config.data.resolution
    shape = (backbone.unet.config.in_channels, resolution // backbone.factor, resolution // backbone.factor)
    empty = backbone.embed([""])

    def draw(hint: Tensor, noise: Tensor, text: Tensor, settings: SampleConfig = settings) -> Tensor:
        predict = guided(
            model,
            hint,
            text,
            empty.expand_as(text),
            settings.guidance,
            settings.mask_guidance,
            settings.guidance_interval,
        )
        return backbone.decode(denoise(predict, noise, backbone.scheduler, settings.scheduler, settings.steps))

    def probe(count: int) -> None:
        """A step with all that a step may hold."""
        hint = torch.zeros(count, 3, resolution, resolution, device=engine.device)
        one = settings.model_copy(update={"steps": 1, "guidance_interval": (0.0, 1.0)})
        draw(hint, torch.zeros(count, *shape, device=engine.device), empty.expand(count, -1, -1), one)

    origin = {
        "synthetic": True,
        "checkpoint": trained.hash,
        "method": trained.config.method.name,
        "seed": settings.seed,
        "sampler": settings.model_dump(
            mode="json", include={"scheduler", "steps", "guidance", "mask_guidance", "guidance_interval"}
        ),
    }
    drawn = 0
    with engine.main_process_first():  # it clears away what a killed run left
        writer = PairWriter(out, resume, engine.process_index)
    with writer:
        size = settings.batch_size
        if size == "auto":
            before = next((row.get("batch_size") for row in writer.rows.values()), None)
            size = int(before) if before else _fitting(probe, engine, len(wanted))
        origin["batch_size"] = size
        _require_same(writer, origin, out)
        # Whole batches are redone, since rounding depends on the batch an image is drawn in.
        batches = [wanted[i : i + size] for i in range(0, len(wanted), size)]
        batches = batches[engine.process_index :: engine.num_processes]
        todo = [batch for batch in batches if any(one.name not in writer.done for one in batch)]
        for batch in progress.track(todo, "sampling"):
            shapes = [
                transform_mask(
                    square(read_mask(one.mask), resolution), random_masks or "none", settings.seed, one.source, one.copy
                )
                for one in batch
            ]
            hint = mask_hint(torch.from_numpy(np.stack([mask for mask, _ in shapes]))).to(engine.device)
            noise = torch.stack(
                [torch.randn(shape, generator=generator(settings.seed, "noise", one.source, one.copy)) for one in batch]
            ).to(engine.device)
            text = backbone.embed([one.prompt for one in batch])
            images = to_images(draw(hint, noise, text))
            for one, image, (mask, transform) in zip(batch, images, shapes, strict=True):
                if one.name in writer.done:
                    continue
                provenance = {**origin, "copy": one.copy, "source_mask": one.source, "mask_transform": transform}
                writer.write(one.name, image, mask, one.prompt, provenance)
                drawn += 1
        engine.wait_for_everyone()
    drawn = int(engine.reduce(torch.tensor(drawn, device=engine.device), "sum"))
    if engine.is_main_process:
        _picture(out)
    return {"out": str(out), "pairs": len(wanted), "drawn": drawn, "checkpoint": trained.hash}


def _fitting(probe: Callable[[int], None], engine: Accelerator, wanted: int) -> int:
    """The batch that fits the memory of every process, and leaves none of them without work."""
    free = free_bytes(engine.device)
    size = torch.tensor([fitting_batch(probe, free)], device=engine.device)
    share = max(1, wanted // engine.num_processes)
    fitting: int = min(int(engine.gather(size).min()), 1 << (share.bit_length() - 1))
    if engine.is_main_process:
        progress.say(f"batch_size auto: {fitting} images together ({free / 2**30:.1f} GiB free on {engine.device})")
    return fitting


def _picture(out: Path) -> None:
    """`grid.png`: the first pairs."""
    first = find_pairs(out)[:16]
    arrays = [read_pair(pair) for pair in first]
    save_grid(
        [
            mask_hint(torch.from_numpy(np.stack([mask for _, mask in arrays]))) * 2 - 1,
            to_tensor(np.stack([image for image, _ in arrays])),
        ],
        out / "grid.png",
    )


def _require_same(writer: PairWriter, origin: dict[str, Any], out: Path) -> None:
    """A resumed folder holds one checkpoint's pairs, drawn in one way."""
    for name, row in writer.rows.items():
        for key, value in origin.items():
            if row.get(key) != value:
                raise InputError(f"--out {out}: pair {name} has {key} {row.get(key)}, not {value}; name another folder")


def _wanted(masks: Path, per_mask: int, recipe: str | None, config: Config) -> list[Wanted]:
    if per_mask < 1:
        raise InputError(f"--per-mask {per_mask}: must be at least 1")
    if recipe is not None and recipe not in RECIPES:
        raise InputError(f"--random-masks {recipe}: unknown; recipes: {', '.join(RECIPES)}")
    data = config.data
    return [
        Wanted(f"{name}-{copy:02d}" if per_mask > 1 else name, name, path, copy, prompt_of(data.label))
        for name, path in find_masks(masks, data.split, data.limit, data.limit_seed)
        for copy in range(per_mask)
    ]
