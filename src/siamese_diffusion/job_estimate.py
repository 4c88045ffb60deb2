"""What `run` would do, and how long it takes on this machine: a few steps of each kind are timed.

`studies.estimate` does the same for a study, by the same steps.
"""

import time
from collections.abc import Callable
from typing import Any

import torch

from siamese_diffusion.config import Config
from siamese_diffusion.data.classes import class_names
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.splits import own_test_pairs
from siamese_diffusion.device import find_device, synchronize
from siamese_diffusion.diffusion.backbone import Backbone, small_backbone
from siamese_diffusion.diffusion.checkpoint import assemble
from siamese_diffusion.diffusion.pretrain import Denoiser
from siamese_diffusion.diffusion.schedule import Schedule
from siamese_diffusion.diffusion.train import load_base
from siamese_diffusion.segmentation import networks
from siamese_diffusion.segmentation.arms import SEEDS
from siamese_diffusion.segmentation.training import Segmenter

TIMED = 2
"""Steps that are timed, after one that is not."""


def estimate(folder: DataFolder, backbone: str, per_mask: int, config: Config, device: str) -> dict[str, Any]:
    """`stages`, {name: {what, hours}}, and `hours` in all; nothing is written.

    Batches are made up, so reading, scoring, pictures and checkpoints are not in it: they take minutes, not hours.
    """
    place = find_device(device)
    own = bool(own_test_pairs(folder))
    count = len(folder.pairs(config.data.split)) if own else round(0.7 * len(folder.pairs()))
    drawn = count * per_mask
    small = backbone == "small"
    base = untrained(config) if small else load_base(backbone, config.data.resolution)
    base.to(place)
    stages: dict[str, dict[str, Any]] = {}

    def add(name: str, what: str, seconds: float) -> None:
        stages[name] = {"what": what, "hours": seconds / 3600}

    if not own:
        add("prepare", f"{len(folder.pairs())} pairs into training, validation and test", 0)
    if small:
        steps, size = config.pretrain.steps, config.pretrain.batch_size
        add("backbone", f"{steps} steps of {size} on {count} images", steps * pretraining(base, config, place))
    forward, step = training(base, config, place)
    settings = config.train
    add(
        "train",
        f"{config.method.name}, {settings.steps} steps of {settings.batch_size} on {count} pairs",
        settings.steps * step,
    )
    add("sample", f"{drawn} images", drawn * passes(config) * forward)
    once = segmenting(config, place)
    judge = config.evaluate.fit_steps * once
    add("evaluate", f"a judge of {config.evaluate.fit_steps} steps, then {drawn} images", judge)
    runs = 2 * SEEDS
    add(
        "segment",
        f"{runs} networks of {config.segment.steps} steps of {config.segment.batch_size}",
        runs * config.segment.steps * once,
    )
    return {"stages": stages, "hours": sum(each["hours"] for each in stages.values())}


def passes(config: Config) -> float:
    """How often one image goes through the networks as it is drawn."""
    return config.sample.steps * (1.5 if config.sample.mask_guidance != 1 else 1)


def untrained(config: Config) -> Backbone:
    """A small backbone as it begins, on made-up images."""
    side = config.data.resolution
    images = torch.rand(16, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return small_backbone(config.backbone, images)


def _timed(step: Callable[[], Any], place: torch.device) -> float:
    """Seconds of a step."""
    step()
    begun = time.perf_counter()
    for _ in range(TIMED):
        step()
    synchronize(place)
    return (time.perf_counter() - begun) / TIMED


def _batch(base: Backbone, count: int, side: int, place: torch.device) -> dict[str, torch.Tensor]:
    shape = (count, base.unet.config.in_channels, side // base.factor, side // base.factor)
    return {
        "latents": torch.randn(shape, device=place),
        "noise": torch.randn(shape, device=place),
        "timesteps": torch.randint(base.scheduler.config.num_train_timesteps, (count,), device=place),
        "text": base.embed(["A photo of it"]).expand(count, -1, -1).to(place),
    }


def pretraining(base: Backbone, config: Config, place: torch.device) -> float:
    """Seconds of a step."""
    schedule = Schedule(base.scheduler.alphas_cumprod, base.scheduler.config.prediction_type)
    model = Denoiser(base.unet, schedule).to(place)
    batch = _batch(base, config.pretrain.batch_size, config.data.resolution, place)
    return _timed(lambda: model(**batch).total.backward(), place)


def training(base: Backbone, config: Config, place: torch.device) -> tuple[float, float]:
    """Seconds of one image's pass without gradients, and of a step."""
    model = assemble(base, config).to(place)
    count, side = config.train.batch_size, config.data.resolution
    batch: dict[str, Any] = dict(_batch(base, count, side, place))
    hints = {name: torch.rand(count, 3, side, side, device=place) for name in ("mask_hint", "image_hint")}
    step = _timed(lambda: model(**batch, **hints, progress=0.5).total.backward(), place)
    text, t = batch["text"], batch["timesteps"]

    def without_gradients() -> None:
        with torch.no_grad():
            control = model.control(batch["noise"], t, text, hints["mask_hint"])
            model.predict(batch["noise"], t, text, control)

    return _timed(without_gradients, place) / count, step


def segmenting(config: Config, place: torch.device) -> float:
    """Seconds of a step."""
    settings = config.segment
    classes = max(1, len(class_names(config.data)))
    module = Segmenter(networks.of(settings, classes=classes), settings.loss, classes=classes).to(place).train()
    count, side = settings.batch_size, settings.resolution
    images = torch.rand(count, 3, side, side, device=place)
    masks = (torch.rand(count, 1, side, side, device=place) > 0.9).float()
    return _timed(lambda: module(images, masks).total.backward(), place)
