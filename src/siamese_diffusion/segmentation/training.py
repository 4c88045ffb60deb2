"""A run of `segment` from its claim to its report: one network, trained, chosen by validation pairs and scored.

Design note: what a run works with is chosen before (`Material`), so that a plain run and each fold of a
cross-validation go the same way, and each is claimed and resumed by itself.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NotRequired

import torch
from accelerate import PartialState
from pydantic import FiniteFloat, PositiveInt
from torch import Tensor, nn
from typing_extensions import TypedDict

from siamese_diffusion import loop, progress
from siamese_diffusion.checkpoints import latest_checkpoint
from siamese_diffusion.claim import Claim, begun_earlier
from siamese_diffusion.config import READING, Config, SegmentConfig
from siamese_diffusion.data.arrays import remove_arrays, require_lesions
from siamese_diffusion.data.classes import class_names
from siamese_diffusion.data.decoding import announce
from siamese_diffusion.data.leakage import warn_of_copies
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, require_kind, write_json
from siamese_diffusion.prefetch import BatchAt
from siamese_diffusion.segmentation import networks
from siamese_diffusion.segmentation.batches import Arrays, batches, heaviest, load
from siamese_diffusion.segmentation.best_step import Selection
from siamese_diffusion.segmentation.curves import Curves
from siamese_diffusion.segmentation.inference import (
    draw_samples,
    validate,
)
from siamese_diffusion.segmentation.losses import LOSSES, bce_dice, classes_dice
from siamese_diffusion.segmentation.material import Material
from siamese_diffusion.segmentation.scoring import metrics_of, score_all, write_page

DEPENDS = {"data": {"split", "limit", "limit_seed", *READING}, "segment": None}
"""Settings that a run depends on."""


class Segmenter(nn.Module):
    """A network with its loss, by name in `losses.LOSSES`; `lesion_weight` is of bce-dice, and with several classes
    that is `losses.classes_dice`."""

    def __init__(
        self, network: nn.Module, loss: str = "bce-dice", lesion_weight: float = 1.0, classes: int = 1
    ) -> None:
        super().__init__()
        self.network = network
        self.loss: Callable[..., Any] = LOSSES[loss] if classes == 1 else classes_dice
        if lesion_weight != 1:
            self.loss = partial(bce_dice if classes == 1 else classes_dice, lesion_weight=lesion_weight)

    def forward(self, images: Tensor, masks: Tensor) -> Any:
        """`images` (B, 3, R, R) in [0, 1], `masks` (B, 1, R, R) in [0, 1], or labels 0 to K of several classes ->
        scalars, one of them `total`."""
        return self.loss(networks.outputs(self.network, images), masks)


def run(material: Material, out: Path, config: Config, resume: bool, device: str) -> dict[str, Any]:
    """Train a network and score it; see `segment.segment` for what is returned and raised.

    Args:
        material: the pairs.
        out: the run's folder, which this process holds.
        config: resolved settings.
        resume: go on with the run in `out`; a finished one is returned as it is.
        device: "auto", "cpu", "cuda" ...
    """
    settings, begun = config.segment, time.monotonic()
    rate = rates(settings)
    claim = Claim(out, config, DEPENDS, material.inputs(), resume, earlier=lambda: begun_earlier(out, "segment"))
    if (out / "metrics.json").exists():
        return read_result(out)
    held, batch_at = _read(claim, material, settings)
    classes = class_names(config.data)
    network, start = _begin(settings, out, max(1, len(classes)))
    segmenter = Segmenter(network, settings.loss, settings.lesion_weight, max(1, len(classes)))
    watch = _Watch(out, settings, held, Selection(out), Curves(out), classes)
    loop.run(
        segmenter,
        batch_at,
        settings,
        out,
        resume=resume,
        device=device,
        observe=watch,
        description=f"training {settings.network}" + (f", fold {material.fold.index}" if material.fold else ""),
        rate=rate,
        factor=lambda step: 0.5 ** sum(step >= share * settings.steps for share in settings.halve_at),
        clip_value=settings.clip_value,
        heaviest=heaviest(batch_at, settings),
        enough=watch.enough if settings.patience else None,
    )
    with PartialState().main_process_first():  # the other processes wait, then read what the first one wrote
        if not (out / "metrics.json").exists():
            trained = time.monotonic()
            best = watch.selection.finish(segmenter.network)
            tests, own = score_all(segmenter.network, material, out, settings)
            metrics = metrics_of(segmenter.network, dict(start), best, watch.selection, tests, own, material, settings)
            times = {"training": trained - begun, "scoring": time.monotonic() - trained}
            write_page(segmenter.network, metrics, tests, own, watch.curves, out, config, times)
            remove_arrays(out / "cache")
            write_json(out / "metrics.json", metrics)  # last: with it the run is finished
    return read_result(out)


class _Validation(TypedDict):
    mDice: FiniteFloat
    count: PositiveInt


class Result(TypedDict):
    """The part of `metrics.json` that other commands take."""

    val: _Validation
    test: dict[str, dict[str, Any]]


def read_result(run: Path) -> dict[str, Any]:
    """What `segment` returned when it made `run`.

    Raises:
        InputError: there is no `metrics.json`, or it is not what `segment` writes.
    """
    found: dict[str, Any] = read_json(run / "metrics.json", dict[str, Any])
    require_kind(found, Result, str(run / "metrics.json"))
    return found


def _read(claim: Claim, material: Material, settings: SegmentConfig) -> tuple[Arrays, BatchAt]:
    """The validation pairs and the batches; once all can be read the claim is written, and the folder cleared."""
    claim.mark()
    cache = claim.out / "cache"
    held = load(material.validation, settings.resolution, cache)
    if not any(mask.any() for mask in held.masks):
        raise InputError(
            f"{material.folder.path}: none of the {len(material.validation)} pairs that pick the best step has a "
            f"lesion at {settings.resolution} pixels; put some that have one into split val"
        )
    seen = load(material.real, settings.resolution, cache)
    require_lesions(seen.masks, material.folder)
    announce(material.folder.decoding, material.folder.path)
    made = load(material.made, settings.resolution, cache) if material.made else None
    batch_at = batches(seen, made, settings, [pair.name for pair in material.real])
    claim.write()
    if claim.first and not material.searched:
        warn_of_copies([*material.real, *material.validation], material.made, material.tests)
    return held, batch_at


@dataclass
class _Watch:
    """What is done at each validation, and what comes of it: the best step, pictures, whether to go on."""

    out: Path
    settings: SegmentConfig
    held: Arrays
    selection: Selection
    curves: Curves
    classes: tuple[str, ...] = ()

    def __call__(self, step: int, module: nn.Module) -> dict[str, float]:
        assert isinstance(module, Segmenter)
        scores, probabilities = validate(module.network, self.held, self.settings.batch_size, self.classes)
        means = scores.means()
        self.selection.add(step, means, module.network)
        draw_samples(self.out / "samples" / f"step-{step:06d}.png", self.held, probabilities)
        self.curves.draw_now_and_then(self.selection.best()["step"])
        told = {"val_dice": means["mDice"], "val_iou": means["mIoU"]}
        return told | ({"since_best": self.selection.since_best()} if self.settings.patience else {})

    def enough(self) -> bool:
        """Whether the last `patience` validations brought nothing."""
        return bool(self.selection.rows) and self.selection.since_best() >= (self.settings.patience or 0)


class Start(TypedDict):
    """With which weights a network began."""

    imagenet: bool
    weights: NotRequired[dict[str, str]]


def _begin(settings: SegmentConfig, out: Path, classes: int) -> tuple[nn.Module, Start]:
    """The network as training begins, and with which weights; where a checkpoint is there, that replaces them."""
    note = out / "start.json"
    wanted = networks.begins_pretrained(settings)
    if wanted and latest_checkpoint(out) is not None and note.exists():
        return _fresh(settings, False, classes), read_json(note, Start)
    network, start = None, Start(imagenet=False)
    if wanted:
        try:
            network = _fresh(settings, True, classes)
        except InputError as error:
            if wanted != "auto":
                raise
            progress.notify(f"{str(error).partition('; ')[0]}; {settings.network} starts from random weights")
        start = Start(imagenet=network is not None)
        if settings.network == "smp":
            found = networks.weights_note(settings)
            start = Start(imagenet=found["of"] == "imagenet", weights=found)
        write_json(note, start)
    return network or _fresh(settings, False, classes), start


def _fresh(settings: SegmentConfig, pretrained: bool, classes: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return networks.of(settings, pretrained, classes)


def require_consistent(settings: SegmentConfig, classes: int = 1) -> None:
    """Raise `InputError` where a setting makes no difference, or none that was meant, before anything is written."""
    if classes > 1 and settings.loss != "bce-dice" and settings.network not in networks.BINARY:
        raise InputError(
            f"segment.loss = {settings.loss}: is of one class, and data.classes names {classes}; set it to bce-dice"
        )
    if classes > 1 and settings.correction and settings.network not in networks.BINARY:
        raise InputError("segment.correction: is for one class; leave it out, or data.classes")
    if settings.resolution % 32:
        raise InputError(f"segment.resolution = {settings.resolution}: must be a multiple of 32")
    if settings.lesion_weight != 1 and settings.loss != "bce-dice":
        raise InputError(
            f"segment.lesion_weight = {settings.lesion_weight:g}: makes no difference to segment.loss = "
            f"{settings.loss}; set that to bce-dice, or leave the weight at 1"
        )
    rates(settings)


def rates(settings: SegmentConfig) -> Callable[[str], float]:
    """Name of a parameter of the `Segmenter` to a factor on its learning rate; refused where it has no encoder."""
    prefix = networks.BACKBONES.get(settings.network)
    if settings.backbone_rate == 1:
        return lambda name: 1.0
    if prefix is None:
        raise InputError(
            f"segment.backbone_rate = {settings.backbone_rate}: {settings.network} has no encoder apart; set it to 1"
        )
    return lambda name: settings.backbone_rate if name.startswith(f"network.{prefix}") else 1.0
