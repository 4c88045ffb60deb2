"""Train a segmentation network on real, or real and synthetic, pairs, and score it on test sets.

Design note: the epoch is picked on validation pairs, never on a test set, and an arm with synthetic pairs takes
exactly as many optimisation steps as the arm without.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from pydantic import FiniteFloat, PositiveInt
from torch import Tensor, nn
from typing_extensions import TypedDict

from siamese_diffusion import loop, progress
from siamese_diffusion.checkpoints import latest_checkpoint
from siamese_diffusion.claim import Claim, begun_earlier, require_apart
from siamese_diffusion.config import READING, Config, SegmentConfig, update
from siamese_diffusion.data.arrays import remove_arrays, require_lesions
from siamese_diffusion.data.decoding import announce, plain_settings
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.hashing import fingerprint
from siamese_diffusion.data.pairs import reading
from siamese_diffusion.data.splits import require_disjoint, sets_for_testing, train_and_validation
from siamese_diffusion.device import find_device, precision_on
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, require_kind, write_json
from siamese_diffusion.lock import hold
from siamese_diffusion.segmentation import networks
from siamese_diffusion.segmentation.batches import batches, heaviest, load
from siamese_diffusion.segmentation.best_step import Selection
from siamese_diffusion.segmentation.inference import draw_samples, score_set, validate
from siamese_diffusion.segmentation.losses import LOSSES
from siamese_diffusion.segmentation.metrics import summary


class Segmenter(nn.Module):
    """A network with its loss, by name in `losses.LOSSES`."""

    def __init__(self, network: nn.Module, loss: str = "bce-dice") -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    def forward(self, images: Tensor, masks: Tensor) -> Any:
        """`images` (B, 3, R, R) in [0, 1], `masks` (B, 1, R, R) in [0, 1] -> scalars, one of them `total`."""
        return LOSSES[self.loss](networks.outputs(self.network, images), masks)


def segment(
    train: Path | DataFolder,
    out: Path,
    test: Sequence[Path | DataFolder],
    synthetic: Sequence[Path | DataFolder] | None = None,
    config: Config | None = None,
    network: str | None = None,
    resume: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """Train a segmentation network and score it.

    What `config` does not set comes from the network's own recipe (`network_recipes.py`).
    Validation pairs are split `val` of `train`'s `splits.json`, or else a share of the training pairs, drawn.
    Images and masks are squared to `segment.resolution`, and scores are taken at that size, or with `segment.score_at`
    of native at each test mask's own, the map resized to it.

    Args:
        train: folder of real pairs.
        out: run folder; gets `config.yaml`, `best.safetensors`, `metrics.json`, `test/SET.csv`, `samples/step-*.png`.
        test: folders of test pairs (split `test` where there is a `splits.json`, else all); may be empty.
        synthetic: folders of synthetic pairs to train on besides.
        config: the settings; default: the defaults.
        network: instead of `segment.network`.
        resume: go on with the run in `out`; a finished one is returned as it is.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".

    Returns:
        `network`, `parameters`, `imagenet` (whether it began with ImageNet weights), `seed`, `train` (folders and
        counts), `step` (the selected one), `val` {mDice, mIoU, count}, `test` {set: {mDice, mIoU, count, ...}}, and
        `mean` (over sets) and `weighted` (by size) {mDice, mIoU, ...}, None without sets; the rest are the field's
        (`pranet_metrics.py`).

    Raises:
        InputError: bad input, a test image among the training ones, `out` holds a run and `resume` is false, or
            `resume` is true and the run was made with other settings or folders, or another command is writing `out`.
        KeyboardInterrupt: interrupted; the state is saved first.
    """
    require_apart(out, train=train, test=test, synthetic=synthetic)
    with hold(out):
        return _segment(train, out, test, synthetic, config or Config(), network, resume, device)


def _segment(
    train: Path | DataFolder,
    out: Path,
    test: Sequence[Path | DataFolder],
    synthetic: Sequence[Path | DataFolder] | None,
    config: Config,
    network: str | None,
    resume: bool,
    device: str,
) -> dict[str, Any]:
    if network is not None:
        config = update(config, "segment", network=network)
    config = update(config, "segment", precision=precision_on(find_device(device), config.segment.precision))
    settings = config.segment
    rate = _rate(settings)
    if settings.resolution % 32:
        raise InputError(f"segment.resolution = {settings.resolution}: must be a multiple of 32")
    data = DataFolder.of(train, "--train", config.data)
    chosen = data.pairs(config.data.split, config.data.limit, config.data.limit_seed)
    real, validation = train_and_validation(data, chosen, settings.validation, settings.seed)
    more = [DataFolder.of(folder, "--synthetic", plain_settings(config.data)) for folder in synthetic or []]
    made = [pair for folder in more for pair in folder.pairs()]
    tests = sets_for_testing([DataFolder.of(folder, "--test", config.data) for folder in test])
    require_disjoint([*real, *validation], tests)
    counts: dict[str, Any] = {
        "folder": str(data.path.resolve()),
        "real": len(real),
        "validation": len(validation),
        "synthetic": len(made),
        "synthetic_folders": [str(folder.path.resolve()) for folder in more],
    }
    inputs = {
        "command": "segment",
        **{name: counts[name] for name in ("real", "validation", "synthetic")},
        **fingerprint([path for pair in (*real, *validation, *made) for path in pair.files]),
        "test": {name: len(pairs) for name, pairs in tests.items()},
        **reading([*real, *validation, *made, *(pair for pairs in tests.values() for pair in pairs)]),
    }
    depends = {"data": {"split", "limit", "limit_seed", *READING}, "segment": None}
    claim = Claim(out, config, depends, inputs, resume, earlier=lambda: begun_earlier(out, "segment"))
    if (out / "metrics.json").exists():
        return read_result(out)

    claim.mark()
    held = load(validation, settings.resolution, out / "cache")
    seen = load(real, settings.resolution, out / "cache")
    require_lesions(seen.masks, data)
    announce(data.decoding, data.path)
    batch_at = batches(
        seen,
        load(made, settings.resolution, out / "cache") if made else None,
        settings,
        [pair.name for pair in real],
    )
    claim.write()
    begun, imagenet = _begin(settings, out)
    segmenter = Segmenter(begun, settings.loss)
    selection = Selection(out)

    def observe(step: int, module: nn.Module) -> dict[str, float]:
        assert isinstance(module, Segmenter)
        scores, probabilities = validate(module.network, held, settings.batch_size)
        means = scores.means()
        selection.add(step, means, module.network)
        draw_samples(out / "samples" / f"step-{step:06d}.png", held, probabilities)
        return {"val_dice": means["mDice"], "val_iou": means["mIoU"]}

    loop.run(
        segmenter,
        batch_at,
        settings,
        out,
        resume=resume,
        device=device,
        observe=observe,
        description=f"training {settings.network}",
        rate=rate,
        factor=lambda step: 0.5 ** sum(step >= share * settings.steps for share in settings.halve_at),
        clip_value=settings.clip_value,
        heaviest=heaviest(batch_at, settings),
    )
    with PartialState().main_process_first():  # the other processes wait, then read what the first one wrote
        if not (out / "metrics.json").exists():
            best = selection.finish(segmenter.network)
            scores = {
                name: score_set(segmenter.network, pairs, out / "test" / f"{name}.csv", settings)
                for name, pairs in tests.items()
            }
            result = summary(scores)
            metrics = {
                "network": settings.network,
                "parameters": sum(parameter.numel() for parameter in segmenter.network.parameters()),
                "imagenet": imagenet,
                "seed": settings.seed,
                "train": counts,
                "step": best["step"],
                "val": {name: best[name] for name in ("mDice", "mIoU", "count")},
                "test": result["sets"],
                "mean": result["mean"],
                "weighted": result["weighted"],
            }
            remove_arrays(out / "cache")
            write_json(out / "metrics.json", metrics)
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


class _Start(TypedDict):
    imagenet: bool


def _begin(settings: SegmentConfig, out: Path) -> tuple[nn.Module, bool]:
    """The network as training begins, and whether with ImageNet weights; where a checkpoint is there, that replaces
    them."""
    note = out / "start.json"
    if settings.pretrained and latest_checkpoint(out) is not None and note.exists():
        return _fresh(settings.network, False, settings.seed), read_json(note, _Start)["imagenet"]
    network = None
    if settings.pretrained:
        try:
            network = _fresh(settings.network, True, settings.seed)
        except InputError as error:
            if settings.pretrained != "auto":
                raise
            progress.notify(f"{str(error).partition('; ')[0]}; {settings.network} starts from random weights")
        write_json(note, {"imagenet": network is not None})
    return network or _fresh(settings.network, False, settings.seed), network is not None


def _fresh(name: str, pretrained: bool, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return networks.create(name, pretrained)


def _rate(settings: SegmentConfig) -> Callable[[str], float]:
    """Name of a parameter of the `Segmenter` to a factor on its learning rate."""
    prefix = networks.BACKBONES.get(settings.network)
    if settings.backbone_rate == 1:
        return lambda name: 1.0
    if prefix is None:
        raise InputError(
            f"segment.backbone_rate = {settings.backbone_rate}: {settings.network} has no encoder apart; set it to 1"
        )
    return lambda name: settings.backbone_rate if name.startswith(f"network.{prefix}") else 1.0
