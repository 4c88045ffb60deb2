"""Sampling: masks in, image-mask pairs out, by Mask-Diffusion alone.

Design note: an image depends on the seed, its mask's name and its copy number only, not on the batch it was drawn in,
so an interrupted run goes on exactly, and the work can be shared out in any way. While the device draws a batch, one
thread reads the masks of the next and another writes the images of the last.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from siamese_diffusion import progress
from siamese_diffusion.arguments import Settings, StrPath, to_config, to_path
from siamese_diffusion.cards import ABOUT, write_data_card
from siamese_diffusion.claim import Claim, require_apart
from siamese_diffusion.config import Config, DataConfig, SampleConfig, update
from siamese_diffusion.data.arrays import Images, Masks, to_images, to_tensor
from siamese_diffusion.data.classes import AnyMask, class_names
from siamese_diffusion.data.fetch.hub import local
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.hashing import note_files
from siamese_diffusion.data.images import Pixels, unsquare
from siamese_diffusion.data.masks import MASK_RECIPES, transform_mask
from siamese_diffusion.data.pairs import MaskFile, prompt_of_mask
from siamese_diffusion.data.prepared import write_classes
from siamese_diffusion.data.shards import ShardWriter, read_shard_rows, shards_written_earlier
from siamese_diffusion.data.writer import PairWriter, encoded, read_rows, written_earlier
from siamese_diffusion.device import SIXTEEN_BITS, make_accelerator, precision_on
from siamese_diffusion.diffusion.checkpoint import Trained, load_trained
from siamese_diffusion.diffusion.compiling import compile_blocks
from siamese_diffusion.diffusion.drawn_masks import DrawnMask, PriorMasks, prior_of
from siamese_diffusion.diffusion.grids import save_grid
from siamese_diffusion.diffusion.into import Backgrounds, Scene, keep_outside
from siamese_diffusion.diffusion.latents import mask_hint
from siamese_diffusion.diffusion.sampler import denoise, guided
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import hash_json, write_json
from siamese_diffusion.lock import hold
from siamese_diffusion.memory import MOST_TOGETHER, fitting, free_bytes, powers_of_two
from siamese_diffusion.randomness import generator

FORMATS = ("folder", "webdataset")

DEPENDS: dict[str, set[str] | None] = {"data": {"split", "limit", "limit_seed", "label"}, "sample": None}
"""Settings that the pairs of a folder depend on."""

ENCODERS = 4
"""Threads that encode the PNG files of a batch: one encodes 26 pairs of 384 pixels a second, a GPU may draw as many."""

Keep = Callable[[Tensor, int | None], Tensor]
Writer = PairWriter | ShardWriter
Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Wanted:
    """One pair to draw."""

    name: str
    source: str
    mask: MaskFile | DrawnMask
    copy: int


@dataclass(frozen=True)
class Ready:
    """What a batch of B pairs is drawn from."""

    masks: Masks
    transforms: list[dict[str, Any]]
    prompts: list[str]
    noise: Tensor  # (B, C, h, w)
    scenes: list[Scene | None] | None = None
    """With `--into`: where each lesion comes; None: there is no place for it, and it is not written."""


def sample(
    checkpoint: StrPath,
    masks: StrPath | DataFolder,
    out: StrPath,
    per_mask: int = 1,
    random_masks: str | None = None,
    scheduler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    mask_guidance: float | None = None,
    seed: int | None = None,
    config: Settings = None,
    resume: bool = False,
    device: str = "auto",
    format: str = "folder",
    into: StrPath | DataFolder | None = None,
    count: int | None = None,
    condition: str | None = None,
) -> dict[str, Any]:
    """Draw images for masks and write them as a folder of pairs; with `into`, lesions into existing images.

    Args:
        checkpoint: a finished run of `train`; see `load_trained` for what else.
        masks: a folder of pairs, whose masks are taken (`data.split`, `data.limit`), or of mask images; or the hub id
            of a data set; or a finished run of `train-masks`, a prior that draws masks of its own.
        out: folder of pairs to write; also `grid.png`, the first pairs, the settings, `config.yaml`, a card of the
            data, `README.md`, and `metadata.jsonl`, by which Hugging Face `datasets` loads the folder.
        per_mask: images for each mask.
        random_masks: recipe of `data.masks` that varies each mask first.
        scheduler, steps, guidance, mask_guidance, seed: override `sample` of the settings.
        config: settings; default: the run's own.
        resume: go on with an interrupted run; the folder ends up the same as if it had not been interrupted.
        device: "auto", "cpu", "cuda" ...
        into: a folder of real pairs (`data.split`), or of images without lesions: each lesion is drawn into one of
            them, at a place that is free, and outside a band around it nothing changes. The mask holds every lesion of
            the result. Masks without a lesion, and lesions that fit nowhere, are left out. See `into.py`.
        count: masks to draw from a prior; default: as many as it was learned from.
        condition: what is asked of these, "area=0.02..0.05" for lesions that cover 2 to 5 % of the frame.
        format: "folder" (a PNG file for each image and mask) or "webdataset" (tar files of `sample.shard_size` pairs).

    Returns:
        `out`, `pairs` (how many it holds), `drawn` (how many of them by this call), `checkpoint`, its hash, and with
        `into` `left_out`.

    Raises:
        InputError: no such run, no masks, an unknown recipe or format, a condition that no training mask of the prior
            meets, or an `out` that holds pairs already, or other
            pairs than these, or anything else.
    """
    if format not in FORMATS:
        raise InputError(f"--format {format}: unknown; choose {' or '.join(FORMATS)}")
    out, masks = to_path(out), local(masks, "--masks")
    require_apart(out, masks=masks, into=into)
    trained = load_trained(checkpoint)
    overrides = {
        "scheduler": scheduler,
        "steps": steps,
        "guidance": guidance,
        "mask_guidance": mask_guidance,
        "seed": seed,
    }
    config = update(to_config(config, lambda: trained.config), "sample", **overrides)
    fit = trained.config.data.fit  # the network knows images that were squared in this way
    config = update(config, "data", fit=fit)
    if config.data.classes == "all":
        config = update(config, "data", classes=class_names(trained.config.data))
    if config.sample.aspect == "source" and fit == "crop":
        raise InputError(
            "sample.aspect = source: the run's data.fit = crop leaves nothing to fill the rest with; use square"
        )
    # Nothing large occurs in sampling, so that fp16 is as safe as bf16 and nearer to fp32 (docs/performance.md).
    engine = make_accelerator(config.sample.precision, device, "fp16")
    config = update(config, "sample", precision=precision_on(engine.device, config.sample.precision, "fp16"))
    prior = prior_of(masks, count, condition, random_masks, config, trained.config.data)
    wanted = _wanted(prior or masks, per_mask, random_masks, config, trained)
    options: dict[str, Any] = {"--per-mask": per_mask, "--random-masks": random_masks or "none", "--format": format}
    options |= {} if prior is None else prior.noted
    backgrounds = _backgrounds(into, trained, config) if into is not None else None
    if backgrounds is not None:
        options["into"] = hash_json(note_files(backgrounds.files))
    with hold(out):
        claim = _claim(out, trained, wanted, config, options, resume)
        drawing = Drawing(trained, config.sample, engine, str(checkpoint), config.data, backgrounds)
        with engine.main_process_first():  # it clears away what a killed run left
            claim.write()
            if engine.is_main_process:
                write_classes(out, class_names(trained.config.data))
            writer = _open(out, format, config.sample, engine)
        if prior is not None:
            prior.draw(engine.device)
        with writer:
            size = _batch_size(config.sample, writer, drawing, len(wanted))
            origin = origin_of(trained, config.sample) | {"batch_size": size}
            # Whole batches are redone, since rounding depends on the batch an image is drawn in.
            batches = [wanted[i : i + size] for i in range(0, len(wanted), size)]
            batches = batches[engine.process_index :: engine.num_processes]
            todo = [batch for batch in batches if any(one.name not in writer.done for one in batch)]
            drawn = _draw_all(todo, drawing, random_masks or "none", writer, origin)
            writer.flush()
            engine.wait_for_everyone()
        drawn = int(engine.reduce(torch.tensor(drawn, device=engine.device), "sum"))
        result: dict[str, Any] = {"out": str(out), "pairs": len(wanted), "drawn": drawn, "checkpoint": trained.hash}
        if backgrounds is not None:
            left_out = int(engine.reduce(torch.tensor(drawing.left_out, device=engine.device), "sum"))
            result |= {"pairs": len(wanted) - left_out, "left_out": left_out}
            _tell_left_out(left_out, len(wanted), out)
        if engine.is_main_process:
            _picture(out, drawing)
            _card(out, trained, config, masks, options, result["pairs"])
        return result


def _card(
    out: Path, trained: Trained, config: Config, masks: StrPath | DataFolder, options: dict[str, Any], pairs: int
) -> None:
    """The card of the data, and what it is made of."""
    about = {
        "checkpoint": trained.hash,
        "method": trained.config.method.name,
        "data": trained.about.get("data", {}),
        "trained_on": trained.about.get("pairs"),
        "masks": Path(masks).resolve().name,
        "random_masks": options["--random-masks"],
        "into": "into" in options,
        "pairs": pairs,
        "label": " and ".join(class_names(trained.config.data)) or config.data.label,
        "classes": list(class_names(trained.config.data)),
        "sampler": origin_of(trained, config.sample)["sampler"],
        "seed": config.sample.seed,
    }
    write_json(out / ABOUT, about)
    write_data_card(out)


def _backgrounds(into: StrPath | DataFolder, trained: Trained, config: Config) -> Backgrounds:
    if config.sample.aspect == "source":
        raise InputError("sample.aspect = source: with --into a pair has the shape of the run's squares; use square")
    folder = DataFolder.of(into, "--into", config.data).require_real()
    return Backgrounds(folder, config.data, trained.config.data.resolution, config.sample.seed)


def _tell_left_out(left_out: int, of: int, out: Path) -> None:
    if left_out == of:
        raise InputError(
            f"--into: not one of {of} lesions finds a place; give images with more room beside their own lesions, or "
            f"smaller masks ({out} holds no pairs)"
        )
    if left_out:
        progress.notify(f"{left_out} of {of} masks are left out: they have no lesion, or it fits into no image")


def _claim(
    out: Path, trained: Trained, wanted: Sequence[Wanted], config: Config, options: dict[str, Any], resume: bool
) -> Claim:
    """The right to `out`, which holds none of these pairs yet, or some, and no others."""
    files = note_files([path for one in wanted if isinstance(one.mask, MaskFile) for path in one.mask.files])
    inputs = {"command": "sample", **options, "checkpoint": trained.hash, "pairs": len(wanted), **files}
    loose = options["--format"] == "folder"
    claim = Claim(
        out,
        config,
        DEPENDS,
        inputs,
        resume,
        earlier=lambda: (written_earlier if loose else shards_written_earlier)(out),
    )
    if claim.first:
        rows = read_rows(out) if loose else read_shard_rows(out)
        together = config.sample.batch_size if config.sample.batch_size != "auto" else _batch_size_before(rows)
        _require_own_rows(rows, wanted, origin_of(trained, config.sample) | {"batch_size": together}, out)
    return claim


class Drawing:
    """Mask-Diffusion on its device, ready to draw.

    Args:
        trained: the run.
        settings: how to draw, with the precision resolved.
        engine: the device, and the other processes.
        origin: the run as the user names it, for errors.
        data: what the masks mark, for the prompts.
        backgrounds: images that lesions are drawn into; None: whole images are drawn.
    """

    def __init__(
        self,
        trained: Trained,
        settings: SampleConfig,
        engine: Accelerator,
        origin: str,
        data: DataConfig,
        backgrounds: Backgrounds | None = None,
    ) -> None:
        self.backgrounds, self.left_out = backgrounds, 0
        self.settings, self.engine, self.origin = settings, engine, origin
        self.model, self.backbone = trained.model, trained.backbone
        self.backbone.to(engine.device)
        self.model.to(engine.device)
        self.label, self.classes = data.label, class_names(data)
        self.embeddings: dict[str, Tensor] = {}
        self._embed([""])
        if settings.precision in SIXTEEN_BITS:
            for network in (self.model.unet, self.model.controlnet, self.backbone.vae):
                nn.Module.to(
                    network, SIXTEEN_BITS[settings.precision]
                )  # diffusers' own `to` warns of what does not matter
        if settings.compile:
            compile_blocks(self.model)
            compile_blocks(self.backbone.vae)
        self.resolution, self.fit = trained.config.data.resolution, trained.config.data.fit
        side = self.resolution // self.backbone.factor
        self.shape = (self.backbone.unet.config.in_channels, side, side)  # of a latent image

    def read(self, batch: Sequence[Wanted], recipe: str) -> Ready:
        """What a batch is drawn from, on the CPU."""
        seed = self.settings.seed
        shapes = [
            one.mask.drawn()
            if isinstance(one.mask, DrawnMask)
            else transform_mask(one.mask.squared(self.resolution), recipe, seed, one.source, one.copy)
            for one in batch
        ]
        noise = [torch.randn(self.shape, generator=generator(seed, "noise", one.source, one.copy)) for one in batch]
        masks, told = [mask for mask, _ in shapes], [told for _, told in shapes]
        prompts = [prompt_of_mask(mask, self.label, self.classes) for mask in masks]
        ready = Ready(np.stack(masks), told, prompts, torch.stack(noise))
        return ready if self.backgrounds is None else self._placed(batch, ready, self.backgrounds)

    def _placed(self, batch: Sequence[Wanted], ready: Ready, backgrounds: Backgrounds) -> Ready:
        """The same with a place for each lesion."""
        scenes = [backgrounds.scene(mask, one.source, one.copy) for one, mask in zip(batch, ready.masks, strict=True)]
        masks = [mask if scene is None else scene.mask for mask, scene in zip(ready.masks, scenes, strict=True)]
        told = [
            transform if scene is None else {**transform, **scene.transform}
            for transform, scene in zip(ready.transforms, scenes, strict=True)
        ]
        self.left_out += scenes.count(None)
        prompts = [prompt_of_mask(mask, self.label, self.classes) for mask in masks]
        return Ready(np.stack(masks), told, prompts, ready.noise, scenes)

    def draw(self, ready: Ready, watch: Callable[[int], None] | None = None) -> Images:
        """The images (B, R, R, 3); waits for the device. `watch` is told the number of each step that is done."""
        device = self.engine.device
        hint = mask_hint(torch.from_numpy(ready.masks)).to(device)
        self._embed(ready.prompts)
        text = torch.stack([self.embeddings[prompt] for prompt in ready.prompts])
        noise = ready.noise.to(device)
        keep = self._keep(ready.scenes, noise) if ready.scenes is not None else None
        if watch is not None:
            keep = _watched(keep, watch)
        return to_images(self._draw(hint, noise, text, self.settings, keep))

    def _embed(self, prompts: Sequence[str]) -> None:
        for prompt in {*prompts} - self.embeddings.keys():
            self.embeddings[prompt] = self.backbone.embed([prompt])[0]

    def _keep(self, scenes: Sequence[Scene | None], noise: Tensor) -> Keep:
        """The images' latents outside the regions; a lesion without a place is drawn for nothing."""
        side = self.resolution
        region = np.stack([np.ones((side, side), bool) if scene is None else scene.region for scene in scenes])
        pixels = np.stack([np.zeros((side, side, 3), np.uint8) if scene is None else scene.image for scene in scenes])
        clean, _ = self.backbone.encode(to_tensor(pixels).to(noise.device, self.backbone.vae.dtype))
        return keep_outside(region, clean.float(), noise, self.model.schedule)

    def shaped(self, one: Wanted, image: Pixels, mask: AnyMask) -> tuple[Pixels, AnyMask]:
        """A pair as it is written: square, or in the shape of its source mask, the longer side as it is."""
        if self.settings.aspect == "square":
            return image, mask
        assert isinstance(one.mask, MaskFile)  # a drawn mask has no other shape, see `prior_of`
        source = one.mask.size()
        width, height = (max(1, round(side * self.resolution / max(source))) for side in source)
        return unsquare(image, (width, height), self.fit), unsquare(mask, (width, height), self.fit)

    def probe(self, count: int) -> None:
        """A step with all that a step may hold."""
        device = self.engine.device
        hint = torch.zeros(count, 3, self.resolution, self.resolution, device=device)
        one = self.settings.model_copy(update={"steps": 1, "guidance_interval": (0.0, 1.0)})
        text = self.embeddings[""].expand(count, -1, -1)
        self._draw(hint, torch.zeros(count, *self.shape, device=device), text, one)

    def _draw(
        self, hint: Tensor, noise: Tensor, text: Tensor, settings: SampleConfig, keep: Keep | None = None
    ) -> Tensor:
        empty = self.embeddings[""].expand_as(text)
        predict = guided(
            self.model, hint, text, empty, settings.guidance, settings.mask_guidance, settings.guidance_interval
        )
        latents = denoise(predict, noise, self.backbone.scheduler, settings.scheduler, settings.steps, keep)
        images = self.backbone.decode(latents)
        if not images.isfinite().all():
            single = settings.precision in ("fp32", "tf32")
            remedy = "the run has diverged" if single else "set sample.precision=fp32"
            raise InputError(
                f"--checkpoint {self.origin}: draws values that are not finite in {settings.precision}; {remedy}"
            )
        return images


def _watched(keep: Keep | None, watch: Callable[[int], None]) -> Keep:
    """`keep`, after which the step's number is told."""
    steps = count(1)

    def after_step(latents: Tensor, at: int | None) -> Tensor:
        kept = latents if keep is None else keep(latents, at)
        watch(next(steps))
        return kept

    return after_step


def _open(out: Path, format: str, settings: SampleConfig, engine: Accelerator) -> Writer:
    if format == "folder":
        return PairWriter(out, resume=True, process=engine.process_index)
    return ShardWriter(out, resume=True, process=engine.process_index, size=settings.shard_size)


def origin_of(trained: Trained, settings: SampleConfig) -> dict[str, Any]:
    """What the row of every pair says of where it comes from, but for the batch's size."""
    solver = {"scheduler", "steps", "guidance", "mask_guidance", "guidance_interval"}
    return {
        "synthetic": True,
        "checkpoint": trained.hash,
        "method": trained.config.method.name,
        "seed": settings.seed,
        "sampler": settings.model_dump(mode="json", include=solver),
        **({"precision": settings.precision} if settings.precision != "fp32" else {}),
        **({"aspect": settings.aspect} if settings.aspect != "square" else {}),
    }


def _draw_all(todo: list[list[Wanted]], drawing: Drawing, recipe: str, writer: Writer, origin: dict[str, Any]) -> int:
    """Draw the batches; one thread reads ahead, and one writes behind. Returns how many pairs were written."""
    drawn = 0
    with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as writing:
        ahead = reading.submit(drawing.read, todo[0], recipe) if todo else None
        behind: Future[int] | None = None
        for number, batch in enumerate(progress.track(todo, "sampling")):
            assert ahead is not None
            ready = ahead.result()
            ahead = reading.submit(drawing.read, todo[number + 1], recipe) if number + 1 < len(todo) else None
            images = drawing.draw(ready)
            drawn += behind.result() if behind is not None else 0
            behind = writing.submit(_write, writer, drawing, batch, ready, images, origin)
        drawn += behind.result() if behind is not None else 0
    return drawn


def _write(
    writer: Writer, drawing: Drawing, batch: Sequence[Wanted], ready: Ready, images: Images, origin: dict[str, Any]
) -> int:
    scenes = ready.scenes or [None] * len(batch)
    drawn = zip(batch, images, ready.masks, ready.prompts, ready.transforms, scenes, strict=True)
    wanted = [
        each for each in drawn if each[0].name not in writer.done and (each[-1] is not None or ready.scenes is None)
    ]

    def encode(each: tuple[Wanted, Pixels, AnyMask, str, dict[str, Any], Scene | None]) -> tuple[bytes, bytes]:
        one, image, mask, *_, scene = each
        return encoded(*drawing.shaped(one, image if scene is None else scene.finish(image), mask))

    with ThreadPoolExecutor(ENCODERS) as pool:
        for (one, _, _, prompt, transform, scene), files in zip(wanted, pool.map(encode, wanted), strict=True):
            provenance = {**origin, "copy": one.copy, "source_mask": one.source, "mask_transform": transform}
            writer.add(one.name, *files, {"prompt": prompt, **provenance, **(scene.told if scene else {})})
    return len(wanted)


def _batch_size(settings: SampleConfig, writer: Writer, drawing: Drawing, wanted: int) -> int:
    """Images that are drawn together; of a folder that is resumed, as many as then, since rounding depends on it."""
    if settings.batch_size != "auto":
        return settings.batch_size
    return _batch_size_before(writer.rows) or _fitting(drawing.probe, drawing.engine, wanted)


def _batch_size_before(rows: Rows) -> int | None:
    """Of the pairs that are there already."""
    size: int | None = next(iter(rows.values()), {}).get("batch_size")
    return size


def _fitting(probe: Callable[[int], None], engine: Accelerator, wanted: int) -> int:
    """The batch that fits the memory of every process, and leaves none of them without work."""
    free = free_bytes(engine.device)
    share = max(1, wanted // engine.num_processes)
    size = fitting(probe, powers_of_two(min(MOST_TOGETHER, share)), engine.device)
    size = int(engine.gather(torch.tensor([size], device=engine.device)).min())
    if engine.is_main_process:
        progress.notify(f"batch_size auto: {size} images together ({free / 2**30:.1f} GiB free on {engine.device})")
    return size


def _picture(out: Path, drawing: Drawing) -> None:
    """`grid.png`: the first pairs."""
    first = DataFolder(out, settings=DataConfig(fit=drawing.fit, classes=drawing.classes)).pairs()[:16]
    arrays = [pair.squared(drawing.resolution) for pair in first]
    save_grid(
        [
            mask_hint(torch.from_numpy(np.stack([mask for _, mask in arrays]))) * 2 - 1,
            to_tensor(np.stack([image for image, _ in arrays])),
        ],
        out / "grid.png",
    )


_UNSAID = {"precision": "fp32", "aspect": "square"}
"""What a row means where it does not say so."""


def _require_own_rows(rows: Rows, wanted: Sequence[Wanted], origin: dict[str, Any], out: Path) -> None:
    """Every pair that is there already is one of those that are wanted, from this checkpoint and drawn in this way."""
    asked = {one.name: {**_UNSAID, **origin, "source_mask": one.source, "copy": one.copy} for one in wanted}
    for name, row in rows.items():
        if name not in asked:
            raise InputError(f"--out {out}: holds pair {name}, which is not one of these; name another folder")
        for key, value in asked[name].items():
            before = row.get(key, _UNSAID.get(key))
            if before != value:
                raise InputError(f"--out {out}: pair {name} has {key} {before}, not {value}; name another folder")


def _wanted(
    masks: StrPath | DataFolder | PriorMasks, per_mask: int, recipe: str | None, config: Config, trained: Trained
) -> list[Wanted]:
    if per_mask < 1:
        raise InputError(f"--per-mask {per_mask}: must be at least 1")
    if recipe is not None and recipe not in MASK_RECIPES:
        raise InputError(f"--random-masks {recipe}: unknown; recipes: {', '.join(MASK_RECIPES)}")
    data = config.data
    found: Sequence[tuple[str, str, MaskFile | DrawnMask]]
    if isinstance(masks, PriorMasks):
        found = masks.named
    else:
        folder = DataFolder.of(masks, "--masks", data)
        found = [(name, name, mask) for name, mask in folder.masks(data.split, data.limit, data.limit_seed)]
        if trained.config.data.classes:
            _require_known_classes(folder, class_names(trained.config.data))
    return [
        Wanted(f"{name}-{copy:02d}" if per_mask > 1 else name, source, mask, copy)
        for name, source, mask in found
        for copy in range(per_mask)
    ]


def _require_known_classes(folder: DataFolder, known: Sequence[str]) -> None:
    """The masks hold no class that the run has not learned, and are read in its order."""
    asked = folder.decoding.class_names
    if asked != tuple(known):
        raise InputError(
            f"data.classes = {', '.join(asked) or '()'}: the run has learned {', '.join(known)}, in this order"
        )
    if more := folder.decoding.unasked():
        raise InputError(
            f"{folder.named}: holds {', '.join(more)}, which the run has not learned (it knows {', '.join(known)}); "
            f"`prepare --foreground {','.join(known)}` leaves other labels out"
        )
