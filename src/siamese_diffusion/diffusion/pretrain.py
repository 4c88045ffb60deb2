"""Train a small backbone from unlabelled images, for users without Stable Diffusion's weights."""

import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor, nn

from siamese_diffusion.arguments import Settings, StrPath, to_config, to_path
from siamese_diffusion.claim import Claim, begun_earlier, require_apart
from siamese_diffusion.config import READING, READING_IMAGES, Config, update
from siamese_diffusion.data.arrays import Images, cache_key, map_images, remove_arrays, to_tensor
from siamese_diffusion.data.classes import class_names, prompt_for
from siamese_diffusion.data.clinical.unmarked import unmarked
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.hashing import note_files
from siamese_diffusion.data.pairs import ImageFile, prompt_of, reading
from siamese_diffusion.device import find_device, make_accelerator, precision_on
from siamese_diffusion.diffusion.backbone import Backbone, require_shape, small_backbone
from siamese_diffusion.diffusion.compiling import compile_blocks
from siamese_diffusion.diffusion.firststage import psnr
from siamese_diffusion.diffusion.grids import save_grid
from siamese_diffusion.diffusion.latents import LatentData, build_latents, of_flips
from siamese_diffusion.diffusion.passes import decode, encode
from siamese_diffusion.diffusion.recompute import run_part
from siamese_diffusion.diffusion.reconstruction import require_features, train_first_stage
from siamese_diffusion.diffusion.repa import Alignment, CleanFeatures, alignment_for, stride_near
from siamese_diffusion.diffusion.sampler import denoise
from siamese_diffusion.diffusion.schedule import Schedule
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import write_json
from siamese_diffusion.lock import hold
from siamese_diffusion.loop import run
from siamese_diffusion.prefetch import Batch
from siamese_diffusion.randomness import generator

FITTED = 2**27
"""The first stage is fitted to, and measured on, no more pixels than this: 14,500 images of 96, 910 of 384 pixels a
side."""


class BackboneLosses(NamedTuple):
    total: Tensor


class AlignedLosses(NamedTuple):
    """The error of the prediction, the alignment, unweighted, and their weighted sum."""

    prediction: Tensor
    alignment: Tensor
    total: Tensor


class Denoiser(nn.Module):
    """The backbone's own objective: the mean squared error of its prediction.

    Args:
        unet: what is trained.
        schedule: the noise schedule, and what the UNet predicts.
        min_snr: gamma of the losses' weights, see `Schedule.weights`; None: all timesteps count alike.
        alignment: of the UNet's middle block with features of the clean images; None: none.
        align: its weight, lambda of L = L_prediction + lambda L_REPA (arXiv 2410.06940).
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        schedule: Schedule,
        min_snr: float | None = None,
        alignment: Alignment | None = None,
        align: float = 0.0,
    ) -> None:
        super().__init__()
        self.unet, self.schedule, self.alignment = unet, schedule, alignment
        self.min_snr, self.align = min_snr, align

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        prediction: Tensor = self.unet(noisy, timesteps, text).sample
        return prediction

    def forward(
        self, latents: Tensor, noise: Tensor, timesteps: Tensor, text: Tensor, features: Tensor | None = None
    ) -> BackboneLosses | AlignedLosses:
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        target = self.schedule.target(latents, noise, timesteps)
        if self.alignment is None or features is None:
            return BackboneLosses(self._error(self.predict(noisy, timesteps, text), target, timesteps))
        encoded = encode(self.unet, self.unet.conv_in(noisy), timesteps, text)  # in parts, for its middle
        error = self._error(decode(self.unet, encoded, text, partial(run_part, None, False)), target, timesteps)
        alignment = self.alignment(encoded.middle, features)
        return AlignedLosses(error, alignment, error + self.align * alignment)

    def _error(self, prediction: Tensor, target: Tensor, timesteps: Tensor) -> Tensor:
        squares = (prediction.float() - target).square()
        weights = self.schedule.weights(timesteps, self.min_snr)
        return squares.mean() if weights is None else (weights * squares.mean((1, 2, 3))).mean()


def pretrain(
    images: StrPath | DataFolder, out: StrPath, config: Settings = None, resume: bool = False, device: str = "auto"
) -> dict[str, Any]:
    """Train a small backbone on unlabelled images.

    Args:
        images: any folder of images, or a folder of pairs (its masks are not read; with splits.json, `data.split`); or
            of DICOM or NIfTI files, every slice of which is an image.
        out: the backbone's folder, in diffusers' layout; also log, sample grids and checkpoints.
        config: settings; `data`, `backbone`, `first_stage` and `pretrain` are read.
        resume: go on with an interrupted run.
        device: "auto", "cpu", "cuda" ...

    Returns:
        Where the backbone is, its parameters, the images it saw and the first stage's PSNR in dB on every tenth image
        (which the first stage was not fitted to).

    Raises:
        InputError: no images, settings that do not fit or need an extra that is not installed, or an `out` that holds a
            run already or another command is writing.
        KeyboardInterrupt: interrupted; the state is saved first.
    """
    out, settings = to_path(out), to_config(config)
    require_apart(out, images=images)
    with hold(out):
        return _pretrain(images, out, settings, resume, device)


def _pretrain(images: StrPath | DataFolder, out: Path, config: Config, resume: bool, device: str) -> dict[str, Any]:
    config = update(config, "pretrain", precision=precision_on(find_device(device), config.pretrain.precision))
    require_shape(config.backbone, config.data.resolution)
    require_features(config)
    folder = DataFolder.of(images, "--images", config.data)
    clinical = unmarked(folder, config.data)
    seen = [] if clinical is not None else _several(folder, config)
    paths = clinical.files if clinical is not None else [image.path for image in seen]
    inputs = {"command": "pretrain", "images": len(paths), **note_files(paths), **reading(images=seen)}
    # of the data: pairs may be limited, images are not
    relevant = {"resolution", "split", "label", "prompt_dropout", "flip", *READING_IMAGES}
    depends = {"data": relevant, "backbone": None, "pretrain": None}
    if config.backbone.first_stage == "learned":
        depends["first_stage"] = None
    claim = Claim(out, config, depends, inputs, resume, earlier=lambda: begun_earlier(out, "pretrain"))
    claim.mark()
    slices = out / "cache" / "slices"
    if clinical is not None:
        seen = _several(clinical.write(slices), config)
        paths = [image.path for image in seen]

    # The first stage is fitted, or trained; the rest begins at random.
    arrays = map_images(seen, config.data.resolution, out / "cache")
    claim.write()
    backbone, quality = _begin(arrays, config, out / "first-stage", device)
    accelerator = make_accelerator(config.pretrain.precision, device)
    backbone.to(accelerator.device)

    # What the UNet learns from: latents, encoded once.
    how = config.data.model_dump(exclude={*READING, "class_dropout"}) | reading(images=seen)
    learned = [config.first_stage.model_dump()] if config.backbone.first_stage == "learned" else []
    key = cache_key(paths, how, config.backbone.model_dump(), config.pretrain.seed, *learned)
    prompts = [_prompt(config)] * len(arrays)
    cache = out / "cache" / f"latents-{key}.npy"
    latents = build_latents(
        arrays, prompts, backbone.encode, backbone.embed, config.data.flip, cache, device=accelerator.device
    )
    model = _denoiser(backbone, latents, arrays, config, cache.with_name(f"features-{key}.npy"), accelerator.device)
    if config.pretrain.compile:
        compile_blocks(model)

    def batch_at(step: int, rows: range) -> Batch:
        return latents.batch(step, rows, config.pretrain, config.data)

    def observe(step: int, module: nn.Module) -> dict[str, float]:
        _grid(latents, backbone, model, config, out / "samples" / f"step-{step:06d}.png")
        return {}

    run(model, batch_at, config.pretrain, out, resume=resume, device=device, observe=observe, description="backbone")

    result = {
        "backbone": str(out / "backbone"),
        "parameters": sum(p.numel() for p in backbone.unet.parameters()),
        "images": len(paths),
        "psnr": round(quality, 2),
        "steps": config.pretrain.steps,
    }
    if accelerator.is_main_process:
        remove_arrays(out / "cache")
        shutil.rmtree(slices, ignore_errors=True)
        backbone.to("cpu").save(out / "backbone")
        write_json(out / "summary.json", result)
    PartialState().wait_for_everyone()  # the others are about to read it
    return result


def _several(folder: DataFolder, config: Config) -> list[ImageFile]:
    seen = folder.images(config.data.split)
    if len(seen) < 2:
        raise InputError(f"--images {folder.path}: one image is not enough to train on")
    return seen


def _begin(arrays: Images, config: Config, out: Path, device: str) -> tuple[Backbone, float]:
    """The backbone as training begins, and its first stage's PSNR in dB, on images that it was not fitted to.

    Args:
        arrays: the images.
        config: the settings.
        out: run folder of a learned first stage.
        device: where that is trained.
    """
    held_out = np.arange(len(arrays)) % 10 == 9 if len(arrays) >= 20 else np.zeros(len(arrays), bool)
    fitted, measured = np.flatnonzero(~held_out), np.flatnonzero(held_out if held_out.any() else ~held_out)
    backbone = small_backbone(config.backbone, _some(arrays, fitted), config.pretrain.seed)
    if config.backbone.first_stage == "learned":
        backbone.vae = train_first_stage(backbone.vae, arrays, fitted, out, config, device)
    return backbone, psnr(backbone.vae, _some(arrays, measured))


def _denoiser(
    backbone: Backbone, latents: LatentData, arrays: Images, config: Config, cache: Path, device: torch.device
) -> Denoiser:
    """What is trained; where it is aligned, `latents` get the clean images' features, through the file `cache`."""
    alignment = None
    if config.backbone.align:
        make = CleanFeatures(stride_near(backbone.divisor), device)
        latents.features = of_flips(arrays, config.data.flip, make, 3, cache, "features of the images", device)
        alignment = alignment_for(config.backbone.channels[-1], latents, config.pretrain.seed)
    schedule = Schedule(backbone.scheduler.alphas_cumprod, backbone.scheduler.config.prediction_type)
    return Denoiser(backbone.unet, schedule, config.pretrain.min_snr, alignment, config.backbone.align)


def _some(images: Images, chosen: NDArray[np.intp]) -> Tensor:
    """The chosen images (N, 3, R, R) in [-1, 1]; evenly spaced ones among them where they have more pixels than
    `FITTED`."""
    most = max(1, FITTED // images[0, ..., 0].size)
    return to_tensor(images[chosen[:: math.ceil(len(chosen) / most)]])


def _grid(data: LatentData, backbone: Backbone, model: Denoiser, config: Config, path: Path) -> None:
    """Sixteen images that the backbone draws."""
    text = backbone.embed([_prompt(config)]).expand(16, -1, -1)
    noise = torch.randn(16, *data.moments.shape[-3:], generator=generator(config.pretrain.seed, 4))

    def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
        return model.predict(noisy, timesteps, text)

    drawn = denoise(predict, noise.to(text.device), backbone.scheduler, "ddim", 50)
    save_grid([backbone.decode(drawn)], path)


def _prompt(config: Config) -> str:
    """What every image shows, as far as is known."""
    names = class_names(config.data)
    return prompt_for(names) if names else prompt_of(config.data.label)
