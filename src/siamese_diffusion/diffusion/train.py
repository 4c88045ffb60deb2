"""Train Siamese-Diffusion, or the mask-only baseline, on image-mask pairs."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from os import fspath
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, nn

from siamese_diffusion import progress
from siamese_diffusion.arguments import Settings, StrPath, to_config, to_path
from siamese_diffusion.cards import write_model_card
from siamese_diffusion.claim import Claim, begun_earlier, require_apart
from siamese_diffusion.config import READING, Config, TrainConfig, default_config, update
from siamese_diffusion.data.arrays import (
    Images,
    Masks,
    cache_key,
    map_pairs,
    remove_arrays,
    require_lesions,
    to_tensor,
)
from siamese_diffusion.data.classes import class_names, every_prompt
from siamese_diffusion.data.decoding import announce
from siamese_diffusion.data.described import describe
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.hashing import hash_weights, note_files
from siamese_diffusion.data.pairs import Pair, prompt_of_mask, reading
from siamese_diffusion.data.splits import share_apart, validation_list
from siamese_diffusion.device import find_device, make_accelerator, precision_on
from siamese_diffusion.diffusion.backbone import Backbone, load_backbone, require_divisible, require_shape
from siamese_diffusion.diffusion.checkpoint import assemble, save_pipeline
from siamese_diffusion.diffusion.compiling import compile_blocks
from siamese_diffusion.diffusion.grids import save_grid
from siamese_diffusion.diffusion.judging import judge_training, write_page
from siamese_diffusion.diffusion.latents import LatentData, build_latents, mask_hint
from siamese_diffusion.diffusion.pretrain import pretrain
from siamese_diffusion.diffusion.probe import IMAGES, Probe
from siamese_diffusion.diffusion.reconstruction import require_features
from siamese_diffusion.diffusion.sampler import denoise, guided
from siamese_diffusion.diffusion.siamese import SiameseDiffusion, is_decoder, is_hint
from siamese_diffusion.extras import has_tensorboard
from siamese_diffusion.files import read_json, write_json
from siamese_diffusion.lock import hold
from siamese_diffusion.loop import run
from siamese_diffusion.prefetch import Batch
from siamese_diffusion.randomness import generator

ENOUGH = 40
"""Pairs from which some are held out where no split says which."""

UNSEEN = 1e-3
"""Hint strength (`SiameseDiffusion.hint_strength`) below which masks are as good as not given; alive it is 0.1 to 1."""


def train(
    data: StrPath | DataFolder,
    out: StrPath,
    backbone: StrPath = "small",
    method: str | None = None,
    config: Settings = None,
    resume: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """Train on image-mask pairs.

    Args:
        data: folder of pairs, in any layout that `check` knows.
        out: run folder; gets `config.yaml`, `log.jsonl`, `samples/`, `checkpoints/` and, when done, `pipeline/`, with a
            card of the model, and `report.html`.
        backbone: "small" (trained first, on the images of `data`), "sd15", a folder from `pretrain`, any folder in
            diffusers' layout, or a hub id.
        method: "siamese", "mask-only" or "adc"; default: `method.name`.
        config: settings; `data`, `backbone`, `method`, `train` and `sample` are read.
        resume: go on with an interrupted run; the result is the same as if it had not been interrupted.
        device: "auto", "cpu", "cuda" ...

    Returns:
        `run`, its folder; `method`; `pairs` trained on, and `held_out`, looked at to tell when those are learned by
        heart; `steps`; `trained_parameters` and `parameters`; `data` {name, licence, source}, as far as the folder says
        so; `backbone`; `verdicts`, see `judging.judge_training`; and `checkpoint`, the hash of the weights.

    Raises:
        InputError: bad pairs, no such backbone, settings that do not fit, or an `out` that holds a run already or
            another command is writing.
        KeyboardInterrupt: interrupted; the state is saved first.
    """
    out, backbone = to_path(out), fspath(backbone)
    require_apart(out, data=data)
    settings = to_config(config, partial(default_config, backbone))
    with hold(out):
        return _train(data, out, backbone, method, settings, resume, device)


def _train(
    data: StrPath | DataFolder, out: Path, backbone: str, method: str | None, config: Config, resume: bool, device: str
) -> dict[str, Any]:
    if method is not None:
        config = update(config, "method", name=method)
    config = update(config, "train", precision=precision_on(find_device(device), config.train.precision))
    folder = DataFolder.of(data, "--data", config.data).require_real()
    config = folder.resolved(config)
    pairs, held = _hold_out(folder, config)
    claim = _claim(out, backbone, config, pairs, resume)

    # The backbone: the one named, or a small one, trained first. Bad settings and images should be known before that.
    named, small = backbone, backbone == "small"
    if small:
        require_shape(config.backbone, config.data.resolution)
        require_features(config)
        backbone = str(out / "pretrain")
    base = None if small else load_base(backbone, config.data.resolution)
    images, masks = _read(claim, folder, pairs, config.data.resolution)
    if base is None:
        base = _trained_first(backbone, folder, config, device)

    # Latents and prompt embeddings, once; then the first stage and the text encoder leave the device.
    accelerator = make_accelerator(config.train.precision, device)
    base.to(accelerator.device)
    cache = out / "cache"
    latents = _latents(base, backbone, pairs, images, masks, config, cache, accelerator.device)
    probe = Probe(latents, None, base.scheduler.config.num_train_timesteps, config.train.seed)
    if held:
        apart = map_pairs(held, config.data.resolution, cache)
        probe.held = _latents(base, backbone, held, *apart, config, cache, accelerator.device)
    base.text_encoder.to("cpu")
    base.vae.to("cpu")

    # The two diffusions over it, trained.
    model = _model(base, config)
    if accelerator.is_main_process:
        _say_where(out, config)
    run(
        model,
        partial(_batch, latents, config, probe.timesteps),
        config.train,
        out,
        resume=resume,
        device=device,
        observe=partial(_observe, probe, base, model, config, out / "samples", accelerator.device),
        description=config.method.name,
        rate=partial(_rate, config.train),
        heaviest=partial(_heaviest, latents, config, probe.timesteps),
        lighten=partial(model.enable_gradient_checkpointing, True) if config.train.checkpointing == "auto" else None,
    )
    about = {"data": describe(folder), "backbone": named}
    return _finish(model, base, probe, out, config, accelerator, about)


def _hold_out(folder: DataFolder, config: Config) -> tuple[list[Pair], list[Pair]]:
    """The pairs to train on, and up to `IMAGES` that tell when they are learned by heart.

    The latter are of split `val`; without one, where there are `ENOUGH` pairs, a share of them is held out: by the draw
    that `segment` makes, so that the two diffusions have not seen what picks its best step. A small backbone that is
    trained first, on all images of the split, has seen these images, but no masks.
    """
    pairs = folder.pairs(config.data.split, config.data.limit, config.data.limit_seed)
    held = validation_list(folder)
    if held is not None:
        used = {pair.image.path for pair in pairs}
        held = [pair for pair in held if pair.image.path not in used]
    elif len(pairs) >= ENOUGH and config.train.set_aside > 0:
        pairs, held = share_apart(folder, pairs, config.train.set_aside, config.segment.seed)
        progress.notify(
            f"{folder.path}: {len(held)} of {len(pairs) + len(held)} pairs are held out, to tell when the others are "
            "learned by heart (train.set_aside)"
        )
    order = np.random.default_rng(config.train.seed).permutation(len(held or []))[:IMAGES]
    return pairs, [held[i] for i in sorted(order)] if held else []


def _claim(out: Path, backbone: str, config: Config, pairs: Sequence[Pair], resume: bool) -> Claim:
    inputs = {
        "command": "train",
        "backbone": Path(backbone).name,
        "pairs": len(pairs),
        **note_files([path for pair in pairs for path in pair.files]),
        **reading(pairs),
    }
    depends = dict.fromkeys(("data", "backbone", "method", "train"))
    return Claim(out, config, depends, inputs, resume, earlier=lambda: begun_earlier(out, "train"))


def _read(claim: Claim, folder: DataFolder, pairs: Sequence[Pair], resolution: int) -> tuple[Images, Masks]:
    """The squared pairs, mapped; once they can be read the claim is written, and what a killed call left cleared."""
    claim.mark()
    images, masks = map_pairs(pairs, resolution, claim.out / "cache")
    require_lesions(masks, folder)
    announce(folder.decoding, folder.path)
    claim.write()
    return images, masks


def _trained_first(backbone: str, folder: DataFolder, config: Config, device: str) -> Backbone:
    """The small backbone, in its folder, where an earlier call may have finished it."""
    if not (Path(backbone) / "summary.json").exists():
        pretrain(folder, Path(backbone), config, resume=True, device=device)
    return load_base(backbone, config.data.resolution)


def _latents(
    base: Backbone,
    backbone: str,
    pairs: Sequence[Pair],
    images: Images,
    masks: Masks,
    config: Config,
    cache: Path,
    device: torch.device,
) -> LatentData:
    """What training reads, from the cache where it is there."""
    names = class_names(config.data)
    prompts = [
        pair.prompt or prompt_of_mask(mask, config.data.label, names) for pair, mask in zip(pairs, masks, strict=True)
    ]
    more = every_prompt(names) if config.data.class_dropout else []
    own = [bool(pair.prompt) for pair in pairs]
    files = [*(pair.image.path for pair in pairs), *_weights(backbone)]
    how = config.data.model_dump(exclude={*READING, "class_dropout"}) | reading(pairs)
    path = cache / f"latents-{cache_key(files, str(backbone), how)}.npy"
    flip = config.data.flip
    return build_latents(images, prompts, base.encode, base.embed, flip, path, masks, device, more, own)


def _finish(
    model: SiameseDiffusion,
    base: Backbone,
    probe: Probe,
    out: Path,
    config: Config,
    accelerator: Accelerator,
    about: dict[str, Any],
) -> dict[str, Any]:
    """Write what `sample` takes, and say what it is and whether it is any good; of several processes the first one
    writes."""
    result = {
        "run": str(out),
        "method": config.method.name,
        "pairs": len(probe.seen.moments),
        "held_out": 0 if probe.held is None else len(probe.held.moments),
        "steps": config.train.steps,
        **_sizes(model),
        **about,
    }
    if accelerator.is_main_process:
        verdicts = judge_training(probe, model.to(accelerator.device), out / "log.jsonl", accelerator.device)
        result["verdicts"] = [asdict(verdict) for verdict in verdicts]
        write_page(out, result, verdicts, config)
    model.to("cpu")
    if accelerator.is_main_process:
        remove_arrays(out / "cache")
        save_pipeline(model, base.to("cpu"), out / "pipeline")
        result["checkpoint"] = hash_weights(out / "pipeline")
        write_json(out / "summary.json", result)
        write_model_card(out)
    PartialState().wait_for_everyone()
    return result if accelerator.is_main_process else read_json(out / "summary.json", dict[str, Any])


def _model(base: Backbone, config: Config) -> SiameseDiffusion:
    """The two diffusions as training begins."""
    settings = config.train
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = assemble(base, config)
    if settings.checkpointing and settings.checkpointing != "auto":
        model.enable_gradient_checkpointing(settings.checkpointing == "selective")
    if settings.compile:
        compile_blocks(model)
    model.single_pass = settings.release_gradients
    model.min_snr = settings.min_snr
    return model


def _sizes(model: nn.Module) -> dict[str, int]:
    return {
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _say_where(out: Path, config: Config) -> None:
    """Where to look while it trains."""
    every = min(config.train.sample_every, config.train.steps)
    progress.notify(f"pictures: {out / 'samples'} gets what it draws for training masks, every {every} steps")
    folder = shlex.quote(str(out))
    board = f"tensorboard --logdir {folder}" if has_tensorboard() else "pip install tensorboard shows them in a browser"
    progress.notify(f"curves: siamese-diffusion status {folder}, or {board}")


def _batch(latents: LatentData, config: Config, timesteps: int, step: int, rows: range) -> Batch:
    batch = latents.batch(step, rows, config.train, config.data, timesteps, config.method.hint_dropout)
    limit = config.method.augmentation_timesteps
    batch["augmented_rows"] = [
        row for row, t in enumerate(batch["timesteps"].tolist()) if t <= limit
    ]  # known on the CPU
    return batch


def _heaviest(latents: LatentData, config: Config, timesteps: int, rows: range) -> Batch:
    """A batch of the last step whose rows are all augmented."""
    batch = _batch(latents, config, timesteps, config.train.steps - 1, rows)
    early = torch.zeros_like(batch["timesteps"])
    return batch | {"timesteps": early, "progress": 1.0, "augmented_rows": list(range(len(rows)))}


def _observe(
    probe: Probe,
    base: Backbone,
    model: SiameseDiffusion,
    config: Config,
    samples: Path,
    device: torch.device,
    step: int,
    module: nn.Module,
) -> dict[str, float]:
    """Draw a grid, look at fixed losses, and say so where the ControlNet does not see its masks."""
    base.vae.to(device)
    _grid(probe.seen, base, model, config, samples / f"step-{step:06d}.png", device)
    base.vae.to("cpu")
    strength = model.hint_strength(_first_hints(probe.seen).to(device))
    if strength < UNSEEN:
        progress.notify(
            f"step {step}: the ControlNet does not see its masks (hint strength {strength:.1e}), so no image can obey "
            f"them. Its hint embedding has not begun to learn (more steps), or has died (lower train.hint_rate, now "
            f"{config.train.hint_rate:g})"
        )
    return {"hint": strength, **probe.figures(model, device)}


def _inner(backbone: str) -> Path:
    """Where the backbone itself is: a run of `pretrain` holds it in a folder."""
    inner = Path(backbone) / "backbone"
    return inner if inner.is_dir() else Path(backbone)


def _weights(backbone: str) -> list[Path]:
    """The files that the latents depend on: the backbone's own, or its first stage's."""
    return [path for path in (Path(backbone), *sorted((_inner(backbone) / "vae").glob("*"))) if path.is_file()]


def load_base(backbone: str, resolution: int) -> Backbone:
    """The backbone that `train` names: a run of `pretrain`, a folder, a file, or a name on a hub; errors as there."""
    inner = _inner(backbone)
    base = load_backbone(inner if inner.is_dir() else backbone)  # or the name of one on a hub
    require_divisible(resolution, base.divisor)
    return base


def _rate(settings: TrainConfig, name: str) -> float:
    """Factor on the learning rate of a parameter."""
    if is_hint(name):
        return settings.hint_rate
    return settings.decoder_rate if is_decoder(name) else 1.0


def _first_hints(data: LatentData) -> Tensor:
    """Hints of up to eight training masks, (B, 3, H, W)."""
    assert data.masks is not None
    return mask_hint(torch.from_numpy(np.array(data.masks[:8])))


def _grid(data: LatentData, base: Backbone, model: Any, config: Config, path: Path, device: torch.device) -> None:
    """Up to eight training masks, the images Mask-Diffusion draws for them, and the real ones."""
    assert data.images is not None
    hint = _first_hints(data).to(device)
    count = len(hint)
    text = data.embeddings[data.prompts[:count]].to(device)
    empty = data.embeddings[-1:].to(device).expand_as(text)
    noise = torch.randn(count, *data.moments.shape[-3:], generator=generator(config.train.seed, 4)).to(device)

    predict = guided(
        model, hint, text, empty, config.sample.guidance, config.sample.mask_guidance, config.sample.guidance_interval
    )
    drawn = denoise(predict, noise, base.scheduler, config.sample.scheduler, config.sample.steps)
    real: Tensor = to_tensor(data.images[:count])
    save_grid([hint * 2 - 1, base.decode(drawn), real], path)
