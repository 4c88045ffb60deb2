"""The `predict` command: masks of new images by a trained segmentation network.

Design note: images are read, looked at and written part by part, so that a thousand of them need no more memory than
one part. A part is redone whole after a kill, since rounding depends on the images of a part.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import FiniteFloat, NonNegativeInt, PositiveInt
from typing_extensions import TypedDict

from siamese_diffusion import pictures, progress
from siamese_diffusion.claim import Claim, require_apart
from siamese_diffusion.config import DataConfig
from siamese_diffusion.data.decoding import Decoding
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.hashing import fingerprint
from siamese_diffusion.data.images import SUFFIXES, Fit, Mask, Pixels, square
from siamese_diffusion.data.pairs import ImageFile, MaskFile
from siamese_diffusion.device import find_device
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_jsonl, to_csv, to_json, write_json, write_text, write_whole
from siamese_diffusion.lock import hold
from siamese_diffusion.segmentation.inference import at_size, probabilities
from siamese_diffusion.segmentation.metrics import SetScores, join, score
from siamese_diffusion.segmentation.trained import TrainedNetwork, load_network

VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".mpg", ".mpeg", ".webm", ".wmv", ".m4v"})

ROWS, TABLE = "predictions.jsonl", "predictions.csv"

BACKGROUND, LESION = (0, 0, 0), (255, 255, 255)
"""Colours that a viewer shows for the labels 0 and 1."""


@dataclass(frozen=True)
class Options:
    """What `predict` writes, and how it looks."""

    flips: bool
    maps: bool
    overlays: bool
    threshold: float
    batch_size: int


def predict(
    network: Path,
    images: Path,
    out: Path,
    masks: Path | None = None,
    tta: bool = False,
    probability_maps: bool = False,
    overlays: bool = True,
    threshold: float = 0.5,
    batch_size: int = 16,
    resume: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """Draw the mask that a trained network sees in each image, at the image's own size.

    Args:
        network: a finished run of `segment`.
        images: an image, a video, or a folder of images or of pairs.
        out: gets `masks/NAME.png` (a palette PNG: index 0 background, 1 lesion), `overlays/NAME.jpg`, on request
            `probabilities/NAME.png` (8 bits: 255 is certain), `predictions.csv` (a line an image), and with `masks`
            `metrics.json`. Frames of a video are called NAME-000001 and so on.
        masks: folder of masks, or of pairs, with the images' names: take the figures that `segment` takes.
        tta: average over the four flips of each image (test-time augmentation), in four times the time.
        probability_maps: write them.
        overlays: write them.
        threshold: probability above which a pixel is lesion, between 0 and 1.
        batch_size: images in one pass.
        resume: go on with an interrupted call; the folder ends up the same.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".

    Returns:
        `out`, `images`, `healthy` (images in which nothing is seen), `share` (mean share of the image), and with
        `masks` `scores` {mDice, mIoU, count, ...}.

    Raises:
        InputError: no finished run, an image that cannot be read, images without a mask, or an `out` in use.
    """
    if not 0 < threshold < 1:
        raise InputError(f"--threshold {threshold}: must be between 0 and 1")
    if batch_size < 1:
        raise InputError(f"--batch-size {batch_size}: must be at least 1")
    require_apart(out, images=images, masks=masks, network=network)
    options = Options(tta, probability_maps, overlays, threshold, batch_size)
    trained = load_network(network).to(find_device(device))
    source = open_source(images, trained.data)
    truth = _truth(masks, source, trained.data) if masks is not None else None
    inputs = {
        "command": "predict",
        "--tta": tta,
        "--threshold": threshold,
        "--batch-size": batch_size,
        **fingerprint([*source.files, network / "best.safetensors"]),
    }
    with hold(out):
        claim = Claim(out, None, {}, inputs, resume, result=TABLE)
        claim.write()
        rows, scores = _predict_all(trained, source, truth, out, options)
        _write_table(out / TABLE, rows)
        result = {
            "out": str(out),
            "images": len(rows),
            "healthy": sum(row["area"] == 0 for row in rows),
            "share": float(np.mean([row["share"] for row in rows])),
        }
        if scores is not None:
            result["scores"] = scores.means()
            write_json(out / "metrics.json", {"network": str(network.resolve()), **result})
    return result


@dataclass(frozen=True)
class Source:
    """Named images, in a fixed order."""

    files: list[Path]
    count: int
    images: dict[str, ImageFile]
    """By name; empty for a video."""

    def __iter__(self) -> Iterator[tuple[str, Pixels | ImageFile]]:
        if self.images:
            yield from self.images.items()
        else:
            yield from _frames(self.files[0])


def open_source(path: Path, settings: DataConfig) -> Source:
    """An image, a video, or a folder of images, read as `settings` say, which are those the network was trained with.

    Raises:
        InputError: there is no such file, or nothing in it can be read as an image.
    """
    if path.is_dir():
        found = DataFolder(path, "--images", settings).images()
        named: dict[str, ImageFile] = {}
        for image in found:
            inside = image.path.relative_to(path) if image.path.is_relative_to(path) else Path(image.path.name)
            name = image.path.stem if len(found) == len({each.path.stem for each in found}) else _flat(inside)
            if name in named:
                raise InputError(f"{image.path}: has the base name of {named[name].path}; rename one of them")
            named[name] = image
        return Source([image.path for image in found], len(found), named)
    if not path.exists():
        raise InputError(f"--images {path}: no such file or folder")
    if path.suffix.lower() in VIDEOS:
        return Source([path], _frame_count(path), {})
    if path.suffix.lower() not in SUFFIXES:
        known = ", ".join(sorted(SUFFIXES | VIDEOS))
        raise InputError(f"--images {path}: neither an image nor a video by its extension (known: {known})")
    return Source([path], 1, {path.stem: ImageFile(path, Decoding(settings, [path]))})


def _flat(inside: Path) -> str:
    return "-".join(inside.with_suffix("").parts)


def _frame_count(path: Path) -> int:
    import cv2

    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise InputError(f"--images {path}: the video cannot be read")
        return max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
    finally:
        video.release()


def _frames(path: Path) -> Iterator[tuple[str, Pixels]]:
    import cv2

    video = cv2.VideoCapture(str(path))
    try:
        number = 0
        while True:
            there, frame = video.read()
            if not there:
                break
            number += 1
            yield f"{path.stem}-{number:06d}", np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
        if not number:
            raise InputError(f"--images {path}: the video has no frame that can be read")
    finally:
        video.release()


def _truth(masks: Path, source: Source, settings: DataConfig) -> dict[str, MaskFile]:
    found = dict(DataFolder(masks, "--masks", settings).masks())
    lost = [name for name in source.images if name not in found]
    if lost or not source.images:
        which = f"has no mask called {lost[0]}" if lost else "a video has no masks"
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise InputError(f"--masks {masks}: {which}{more}")
    return found


class _Row(TypedDict):
    """A line of `predictions.jsonl`."""

    name: str
    width: PositiveInt
    height: PositiveInt
    area: NonNegativeInt
    share: FiniteFloat
    components: NonNegativeInt
    mean_probability: FiniteFloat | None


def _predict_all(
    trained: TrainedNetwork, source: Source, truth: dict[str, MaskFile] | None, out: Path, options: Options
) -> tuple[list[dict[str, Any]], SetScores | None]:
    """Look at all images and write what is seen; what an earlier call has written is kept where nothing is scored."""
    earlier = read_jsonl(out / ROWS, _Row) if (out / ROWS).exists() else []
    rows: dict[str, dict[str, Any]] = {row["name"]: dict(row) for row in earlier}
    write_text(out / ROWS, "".join(to_json(row) + "\n" for row in rows.values()))
    for folder in ("masks", *(["overlays"] * options.overlays), *(["probabilities"] * options.maps)):
        (out / folder).mkdir(parents=True, exist_ok=True)
    scores: list[SetScores] = []
    images = iter(source)
    with progress.bar() as shown, ThreadPoolExecutor() as pool, (out / ROWS).open("a", encoding="utf-8") as file:
        task = shown.add_task("predicting", total=source.count or None)
        while part := list(islice(images, options.batch_size)):
            if truth is not None or any(name not in rows for name, _ in part):
                pixels = list(pool.map(_pixels, (image for _, image in part)))
                seen = _see(trained, pixels, options)
                if truth is not None:
                    scores += _scored(trained, [truth[name] for name, _ in part], seen)
                write = partial(_write_one, out, options=options, fit=trained.data.fit)
                for row in pool.map(write, (name for name, _ in part), pixels, seen):
                    if row["name"] not in rows:
                        file.write(to_json(row) + "\n")
                    rows[row["name"]] = row
                file.flush()
            shown.advance(task, len(part))
    return list(rows.values()), join(scores) if truth is not None else None


def _pixels(image: Pixels | ImageFile) -> Pixels:
    return image.read() if isinstance(image, ImageFile) else image


def _see(trained: TrainedNetwork, pixels: Sequence[Pixels], options: Options) -> NDArray[np.float32]:
    """Probabilities (N, R, R) at the network's resolution."""
    squared = np.stack([square(image, trained.resolution, trained.data.fit) for image in pixels])
    return probabilities(trained.network, squared, options.batch_size, trained.settings.correction, flips=options.flips)


def _scored(trained: TrainedNetwork, masks: Sequence[MaskFile], seen: NDArray[np.float32]) -> list[SetScores]:
    """Scores of each image, at the size that the network's run says."""
    found = []
    for each, mask in zip(seen, masks, strict=True):
        true = mask.read()
        if trained.settings.score_at == "native":
            each = at_size(each, true.shape, trained.data.fit)
        else:
            true = square(true, trained.resolution, trained.data.fit)
        found.append(score(torch.from_numpy(each)[None], torch.from_numpy(true)[None], field=True))
    return found


def _write_one(
    out: Path, name: str, image: Pixels, seen: NDArray[np.float32], options: Options, fit: Fit
) -> dict[str, Any]:
    """Write the files of an image; returns its row."""
    probable = at_size(seen, image.shape[:2], fit)
    mask = np.asarray(probable > options.threshold)
    write_whole(out / "masks" / f"{name}.png", lambda path: _label_png(mask).save(path, "PNG"))
    if options.maps:
        grey = Image.fromarray((probable * 255).round().astype(np.uint8))
        write_whole(out / "probabilities" / f"{name}.png", lambda path: grey.save(path, "PNG"))
    if options.overlays:
        drawn = Image.fromarray(pictures.outline(image, mask, pictures.GREEN))
        write_whole(out / "overlays" / f"{name}.jpg", lambda path: drawn.save(path, "JPEG", quality=92))
    return {"name": name, "width": image.shape[1], "height": image.shape[0], **_measures(mask, probable)}


def _measures(mask: Mask, probable: NDArray[np.float32]) -> dict[str, Any]:
    """`area` in pixels, `share` of the image, `components` that touch at no side or corner, and `mean_probability` in
    the mask, None where it is empty."""
    from scipy.ndimage import label

    return {
        "area": int(mask.sum()),
        "share": float(mask.mean()),
        "components": int(label(mask, np.ones((3, 3)))[1]),
        "mean_probability": float(probable[mask].mean()) if mask.any() else None,
    }


def _label_png(mask: Mask) -> Image.Image:
    picture = Image.fromarray(mask.astype(np.uint8))
    picture.putpalette([*BACKGROUND, *LESION])
    return picture


def _write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    lines = ([f"{value:.6f}" if isinstance(value, float) else value for value in row.values()] for row in rows)
    write_text(path, to_csv(list(rows[0]), lines))
