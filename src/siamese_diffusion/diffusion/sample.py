"""Sampling: masks in, image-mask pairs out, by Mask-Diffusion alone.

Unusual in it: an image depends on the seed, its mask's name and its copy number only, not on the batch it was drawn in,
so an interrupted run goes on exactly, and the work can be shared out in any way. While the device draws a batch, one
thread reads the masks of the next and another writes the images of the last.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from siamese_diffusion import progress
from siamese_diffusion.config import Config, SampleConfig, update
from siamese_diffusion.data.arrays import Images, Masks, to_images, to_tensor
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.masks import RECIPES, transform_mask
from siamese_diffusion.data.pairs import MaskFile, prompt_of
from siamese_diffusion.data.shards import ShardWriter
from siamese_diffusion.data.writer import PairWriter
from siamese_diffusion.device import SIXTEEN_BITS, make_accelerator, precision_on
from siamese_diffusion.diffusion.compiling import compile_blocks
from siamese_diffusion.diffusion.grids import save_grid
from siamese_diffusion.diffusion.latents import mask_hint
from siamese_diffusion.diffusion.sampler import denoise, guided
from siamese_diffusion.errors import InputError
from siamese_diffusion.memory import LARGEST, fitting, free_bytes, powers_of_two
from siamese_diffusion.randomness import generator


@dataclass(frozen=True)
class Wanted:
    """One pair to draw."""

    name: str
    source: str
    mask: MaskFile
    copy: int
    prompt: str


@dataclass(frozen=True)
class Ready:
    """What a batch of B pairs is drawn from."""

    masks: Masks
    transforms: list[dict[str, Any]]
    noise: Tensor  # (B, C, h, w)


def sample(
    checkpoint: Path,
    masks: Path | DataFolder,
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
    format: str = "folder",
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
        format: "folder" (a PNG file for each image and mask) or "webdataset" (tar files of `sample.shard_size` pairs).

    Returns:
        The folder, how many pairs it holds, and how many of them this call drew.

    Raises:
        InputError: no such run, no masks, an unknown recipe or format, or an `out` that holds pairs already.
    """
    if format not in ("folder", "webdataset"):
        raise InputError(f"--format {format}: unknown; choose folder or webdataset")
    from siamese_diffusion.diffusion.checkpoint import load_trained

    trained = load_trained(checkpoint)
    config = config or trained.config
    config = update(
        config, "sample", scheduler=scheduler, steps=steps, guidance=guidance, mask_guidance=mask_guidance, seed=seed
    )
    settings = config.sample
    wanted = _wanted(masks, per_mask, random_masks, config)
    # Nothing large occurs in sampling, so that fp16 is as safe as bf16 and nearer to fp32 (docs/performance.md).
    engine = make_accelerator(settings.precision, device, "fp16")
    precision = precision_on(engine.device, settings.precision, "fp16")
    trained.backbone.to(engine.device)
    trained.model.to(engine.device)
    model, backbone = trained.model, trained.backbone
    embeddings = {prompt: backbone.embed([prompt])[0] for prompt in {"", *(one.prompt for one in wanted)}}
    if precision in SIXTEEN_BITS:
        for network in (model.unet, model.controlnet, backbone.vae):
            nn.Module.to(network, SIXTEEN_BITS[precision])  # diffusers' own `to` warns of what does not concern these
    if settings.compile:
        compile_blocks(model)
        compile_blocks(backbone.vae)
    resolution = trained.config.data.resolution
    shape = (backbone.unet.config.in_channels, resolution // backbone.factor, resolution // backbone.factor)

    def draw(hint: Tensor, noise: Tensor, text: Tensor, settings: SampleConfig = settings) -> Tensor:
        predict = guided(
            model,
            hint,
            text,
            embeddings[""].expand_as(text),
            settings.guidance,
            settings.mask_guidance,
            settings.guidance_interval,
        )
        images = backbone.decode(denoise(predict, noise, backbone.scheduler, settings.scheduler, settings.steps))
        if not images.isfinite().all():
            remedy = "the run has diverged" if precision in ("fp32", "tf32") else "set sample.precision=fp32"
            raise InputError(f"--checkpoint {checkpoint}: draws values that are not finite in {precision}; {remedy}")
        return images

    def probe(count: int) -> None:
        """A step with all that a step may hold."""
        hint = torch.zeros(count, 3, resolution, resolution, device=engine.device)
        one = settings.model_copy(update={"steps": 1, "guidance_interval": (0.0, 1.0)})
        draw(hint, torch.zeros(count, *shape, device=engine.device), embeddings[""].expand(count, -1, -1), one)

    origin = {
        "synthetic": True,
        "checkpoint": trained.hash,
        "method": trained.config.method.name,
        "seed": settings.seed,
        "sampler": settings.model_dump(
            mode="json", include={"scheduler", "steps", "guidance", "mask_guidance", "guidance_interval"}
        ),
    }
    if precision != "fp32":
        origin["precision"] = precision

    def read(batch: Sequence[Wanted]) -> Ready:
        """What a batch is drawn from, on the CPU."""
        shapes = [
            transform_mask(one.mask.squared(resolution), random_masks or "none", settings.seed, one.source, one.copy)
            for one in batch
        ]
        masks = np.stack([mask for mask, _ in shapes])
        noise = [torch.randn(shape, generator=generator(settings.seed, "noise", one.source, one.copy)) for one in batch]
        return Ready(masks, [transform for _, transform in shapes], torch.stack(noise))

    def write(batch: Sequence[Wanted], ready: Ready, images: Images) -> int:
        written = 0
        for one, image, mask, transform in zip(batch, images, ready.masks, ready.transforms, strict=True):
            if one.name not in writer.done:
                provenance = {**origin, "copy": one.copy, "source_mask": one.source, "mask_transform": transform}
                writer.write(one.name, image, mask, one.prompt, provenance)
                written += 1
        return written

    drawn = 0
    with engine.main_process_first():  # it clears away what a killed run left
        writer: PairWriter | ShardWriter = (
            PairWriter(out, resume, engine.process_index)
            if format == "folder"
            else ShardWriter(out, resume, engine.process_index, settings.shard_size)
        )
    with writer:
        size = settings.batch_size
        if size == "auto":
            drawn_before = next(iter(writer.rows.values()), {})
            size = drawn_before.get("batch_size") or _fitting(probe, engine, len(wanted))
        origin["batch_size"] = size
        _require_same(writer, {**origin, "precision": precision}, out)
        # Whole batches are redone, since rounding depends on the batch an image is drawn in.
        batches = [wanted[i : i + size] for i in range(0, len(wanted), size)]
        batches = batches[engine.process_index :: engine.num_processes]
        todo = [batch for batch in batches if any(one.name not in writer.done for one in batch)]
        with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as writing:
            ahead = reading.submit(read, todo[0]) if todo else None
            behind: Future[int] | None = None
            for number, batch in enumerate(progress.track(todo, "sampling")):
                assert ahead is not None
                ready = ahead.result()
                ahead = reading.submit(read, todo[number + 1]) if number + 1 < len(todo) else None
                hint = mask_hint(torch.from_numpy(ready.masks)).to(engine.device)
                text = torch.stack([embeddings[one.prompt] for one in batch])
                images = to_images(draw(hint, ready.noise.to(engine.device), text))  # waits for the device
                drawn += behind.result() if behind is not None else 0
                behind = writing.submit(write, batch, ready, images)
            drawn += behind.result() if behind is not None else 0
        writer.flush()
        engine.wait_for_everyone()
    drawn = int(engine.reduce(torch.tensor(drawn, device=engine.device), "sum"))
    if engine.is_main_process:
        _picture(out)
    return {"out": str(out), "pairs": len(wanted), "drawn": drawn, "checkpoint": trained.hash}


def _fitting(probe: Callable[[int], None], engine: Accelerator, wanted: int) -> int:
    """The batch that fits the memory of every process, and leaves none of them without work."""
    free = free_bytes(engine.device)
    share = max(1, wanted // engine.num_processes)
    size = fitting(probe, powers_of_two(min(LARGEST, share)), engine.device)
    size = int(engine.gather(torch.tensor([size], device=engine.device)).min())
    if engine.is_main_process:
        progress.say(f"batch_size auto: {size} images together ({free / 2**30:.1f} GiB free on {engine.device})")
    return size


def _picture(out: Path) -> None:
    """`grid.png`: the first pairs."""
    first = DataFolder(out).pairs()[:16]
    arrays = [pair.read() for pair in first]
    save_grid(
        [
            mask_hint(torch.from_numpy(np.stack([mask for _, mask in arrays]))) * 2 - 1,
            to_tensor(np.stack([image for image, _ in arrays])),
        ],
        out / "grid.png",
    )


def _require_same(writer: PairWriter | ShardWriter, origin: dict[str, Any], out: Path) -> None:
    """A resumed folder holds one checkpoint's pairs, drawn in one way."""
    for name, row in writer.rows.items():
        for key, value in origin.items():
            before = row.get(key, "fp32" if key == "precision" else None)
            if before != value:
                raise InputError(f"--out {out}: pair {name} has {key} {before}, not {value}; name another folder")


def _wanted(masks: Path | DataFolder, per_mask: int, recipe: str | None, config: Config) -> list[Wanted]:
    if per_mask < 1:
        raise InputError(f"--per-mask {per_mask}: must be at least 1")
    if recipe is not None and recipe not in RECIPES:
        raise InputError(f"--random-masks {recipe}: unknown; recipes: {', '.join(RECIPES)}")
    data = config.data
    return [
        Wanted(f"{name}-{copy:02d}" if per_mask > 1 else name, name, mask, copy, prompt_of(data.label))
        for name, mask in DataFolder.of(masks, "--masks", data).masks(data.split, data.limit, data.limit_seed)
        for copy in range(per_mask)
    ]
