"""What a segmentation network sees in images, and its scores: part by part, so that few images are in memory at a
time."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_diffusion import pictures, progress
from siamese_diffusion.config import SegmentConfig
from siamese_diffusion.data.arrays import Masks, read_squared
from siamese_diffusion.data.classes import AnyMask
from siamese_diffusion.data.images import Fit, padded_box
from siamese_diffusion.data.pairs import MaskFile, Pair
from siamese_diffusion.device import SIXTEEN_BITS, autocast
from siamese_diffusion.errors import InputError, reason
from siamese_diffusion.files import to_csv, write_text, write_whole
from siamese_diffusion.segmentation.batches import Arrays
from siamese_diffusion.segmentation.ensemble import Ensemble
from siamese_diffusion.segmentation.label_png import label_png
from siamese_diffusion.segmentation.metrics import SetScores, join, score

FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""Axes of an image, channels first, that each flip reverses."""

SHOWN = 8
"""Validation pairs in `samples/`."""

Also = Callable[[Sequence[Pair], Masks, NDArray[np.float32]], None]
"""(pairs, masks (N, R, R), probabilities) of a part of a set that is scored."""


def probabilities(
    network: nn.Module,
    images: NDArray[np.uint8],
    batch_size: int = 32,
    correction: bool = False,
    precision: str = "fp32",
    flips: bool = False,
) -> NDArray[np.float32]:
    """Probabilities of the mask, where `network` lies and in its eval mode.

    Args:
        network: (B, 3, R, R) in [0, 1] -> logits (B, 1, R, R), or of several classes (B, K + 1, R, R).
        images: uint8 (N, R, R, 3).
        batch_size: images in one forward pass.
        correction: apply SANet's probability correction, which changes no mask cut at 0.5.
        precision: "bf16" or "fp16" run the network under autocast.
        flips: average over the four flips of each image.

    Returns:
        float32 (N, R, R) in [0, 1]; of several classes (N, K + 1, R, R), the background first.

    Raises:
        InputError: the network answers with a value that is not finite.
    """
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    parts = []
    with torch.inference_mode(), autocast(device, precision):
        for start in range(0, len(images), batch_size):
            part = torch.from_numpy(np.array(images[start : start + batch_size])).to(device).movedim(3, 1) / 255.0
            seen = [_seen(network, part.flip(axes), correction).flip(axes) for axes in (FLIPS if flips else FLIPS[:1])]
            mean = torch.stack(seen).mean(0)
            parts.append((mean[:, 0] if mean.shape[1] == 1 else mean).cpu().numpy())
    network.train(training)
    if not all(np.isfinite(part).all() for part in parts):
        remedy = f"precision = {precision}: set it to fp32, " if precision in SIXTEEN_BITS else ""
        raise InputError(
            f"{remedy}the network answers with values that are not finite: they overflow, or it has diverged"
        )
    return np.concatenate(parts) if parts else np.empty(images.shape[:3], np.float32)


def _seen(network: nn.Module, images: Tensor, correction: bool) -> Tensor:
    """Probabilities (B, 1 or K + 1, R, R); of an ensemble their mean over its members."""
    if isinstance(network, Ensemble):
        return torch.stack([_seen(member, images, correction) for member in network.members]).mean(0)
    logits: Tensor = network(images).float()
    if correction:
        from siamese_diffusion.segmentation.colour import correct

        logits = correct(logits)
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def at_size(found: NDArray[np.float32], shape: tuple[int, ...], fit: Fit) -> NDArray[np.float32]:
    """Probabilities (R, R), or (K + 1, R, R), of a square at its image's `shape` (H, W); background where `crop` cut
    the image off."""
    height, width = shape
    side = min(height, width)
    if fit == "pad":
        rows, columns = padded_box(height, width, found.shape[-1])
        found = found[..., rows, columns]
    inner = (side, side) if fit == "crop" else (height, width)
    maps = torch.from_numpy(np.array(found)).reshape(1, -1, *found.shape[-2:])
    resized = F.interpolate(maps, size=inner, mode="bilinear")[0].numpy().reshape(*found.shape[:-2], *inner)
    if fit != "crop":
        return np.asarray(resized)
    whole = np.zeros((*found.shape[:-2], height, width), np.float32)
    if found.ndim == 3:
        whole[0] = 1
    top, left = (height - side) // 2, (width - side) // 2
    whole[..., top : top + side, left : left + side] = resized
    return whole


def marked(probable: NDArray[np.float32], threshold: float = 0.5) -> AnyMask:
    """The mask of one image: of probabilities (H, W) where they are above the threshold; of several classes,
    (K + 1, H, W), the likeliest label."""
    return np.asarray(probable > threshold if probable.ndim == 2 else probable.argmax(0).astype(np.uint8))


def _parts(count: int, batch_size: int) -> range:
    """First places of parts of whole batches: an image is rounded with its batch, and few are in memory at a time."""
    return range(0, count, batch_size * max(1, 256 // batch_size))


def validate(
    network: nn.Module, pairs: Arrays, batch_size: int, names: Sequence[str] = ()
) -> tuple[SetScores, NDArray[np.float32]]:
    """Scores of all pairs, and probabilities of the first `SHOWN`; `names`: of several classes."""
    scores, shown = [], []
    parts = _parts(len(pairs.images), batch_size)
    for start in parts:
        images, masks = pairs.images[start : start + parts.step], pairs.masks[start : start + parts.step]
        seen = probabilities(network, images, batch_size)
        scores.append(score(torch.from_numpy(seen), torch.from_numpy(np.array(masks)), names=names))
        shown.append(seen[: max(0, SHOWN - start)].copy())
    return join(scores), np.concatenate(shown)


def score_set(
    network: nn.Module, pairs: list[Pair], path: Path, settings: SegmentConfig, also: Also | None = None
) -> SetScores:
    """Scores of a test set, also as a table, a line a pair, at `path`.

    Args:
        also: called with each part of the set.

    Raises:
        InputError: a file cannot be read, or an image and its mask differ in size.
    """
    found = []
    parts = _parts(len(pairs), settings.batch_size)
    for start in progress.track(parts, f"testing on {path.stem}"):
        part = pairs[start : start + parts.step]
        images, masks = read_squared(part, settings.resolution)
        seen = probabilities(network, images, settings.batch_size, settings.correction)
        if also is not None:
            also(part, masks, seen)
        if settings.score_at == "native":
            found.append(join([native_scores(each, pair.mask) for each, pair in zip(seen, part, strict=True)]))
        else:
            names = part[0].mask.decoding.class_names
            found.append(score(torch.from_numpy(seen), torch.from_numpy(masks), field=True, names=names))
    scores = join(found)
    columns = {name: [f"{value:.6f}" for value in values] for name, values in scores.columns().items()}
    rows = zip([pair.name for pair in pairs], *columns.values(), strict=True)
    write_text(path, to_csv(["name", *columns], rows))
    return scores


def native_scores(found: NDArray[np.float32], file: MaskFile) -> SetScores:
    """Scores at the mask's own size; what was done to make its image square is undone."""
    mask = file.read()
    resized = at_size(found, mask.shape, file.decoding.settings.fit)
    names = file.decoding.class_names
    return score(torch.from_numpy(resized)[None], torch.from_numpy(mask)[None], field=True, names=names)


def write_label(path: Path, mask: AnyMask) -> None:
    """Write a mask (H, W) as a palette PNG: index 0 background, 1 lesion, which viewers show black and white; or of
    several classes their labels, in colours."""
    write_whole(path, lambda temporary: label_png(mask).save(temporary, "PNG"))


def read_label(path: Path, several: bool = False) -> AnyMask:
    """What `write_label` wrote; `several`: of several classes.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with Image.open(path) as picture:
            return np.array(picture, np.uint8) if several else np.array(picture) > 0
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({reason(error)})") from None


def draw_samples(path: Path, pairs: Arrays, seen: NDArray[np.float32]) -> None:
    """A picture of the first pairs: outlines of their masks, and of what is marked where `seen` are the
    probabilities."""
    tiles = []
    for image, mask, probability in zip(pairs.images[:SHOWN], pairs.masks[:SHOWN], seen, strict=True):
        tiles.append(pictures.outlines(image, mask, marked(probability)))
    rows = [tiles[i : i + 4] for i in range(0, len(tiles), 4)]
    write_whole(path, pictures.grid(rows).save)
