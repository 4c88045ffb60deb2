"""The `predict` command: masks of new images by a trained segmentation network.

Design note: images are read, looked at and written part by part, so that a thousand of them need no more memory than
one part. A part is redone whole after a kill, since rounding depends on the images of a part.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import FiniteFloat, NonNegativeInt, PositiveInt
from typing_extensions import TypedDict

from siamese_diffusion import pictures, progress
from siamese_diffusion.arguments import StrPath, to_path, to_path_or_none
from siamese_diffusion.claim import Claim, require_apart
from siamese_diffusion.config import DataConfig
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.hashing import note_files
from siamese_diffusion.data.images import Fit, Mask, Pixels, square
from siamese_diffusion.data.pairs import ImageFile, MaskFile
from siamese_diffusion.device import find_device
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_jsonl, to_csv, to_json, write_json, write_text, write_whole
from siamese_diffusion.lock import hold
from siamese_diffusion.segmentation.inference import at_size, marked, probabilities, write_label
from siamese_diffusion.segmentation.metrics import SetScores, join, score
from siamese_diffusion.segmentation.sources import Source, open_source
from siamese_diffusion.segmentation.trained import TrainedNetwork, load_network, run_of, weight_files

ROWS, TABLE = "predictions.jsonl", "predictions.csv"


@dataclass(frozen=True)
class Options:
    """What `predict` writes, and how it looks."""

    flips: bool
    maps: bool
    overlays: bool
    threshold: float
    batch_size: int


def predict(
    network: StrPath | None,
    images: StrPath | None,
    out: StrPath,
    masks: StrPath | None = None,
    tta: bool = False,
    probability_maps: bool = False,
    overlays: bool = True,
    threshold: float = 0.5,
    batch_size: int = 16,
    resume: bool = False,
    device: str = "auto",
    from_nnunet: StrPath | None = None,
    pairs: StrPath | None = None,
) -> dict[str, Any]:
    """Draw the mask that a trained network sees in each image, at the image's own size.

    Args:
        network: a finished run of `segment`; with folds, the mean of their networks' probabilities is taken.
        images: an image, a video, or a folder of images or of pairs.
        out: gets `masks/NAME.png` (a palette PNG: index 0 background, 1 lesion, or the labels of several classes),
            `overlays/NAME.jpg`, on request `probabilities/NAME.png` (8 bits: 255 is certain; of several classes
            `NAME-LABEL.png`), `predictions.csv` (a line an image), and with `masks`
            `metrics.json`. Frames of a video are called NAME-000001 and so on.
        masks: folder of masks, or of pairs, with the images' names: take the figures that `segment` takes.
        tta: average over the four flips of each image (test-time augmentation), in four times the time.
        probability_maps: write them.
        overlays: write them.
        threshold: probability above which a pixel is lesion, between 0 and 1; of several classes the likeliest counts.
        batch_size: images in one pass.
        resume: go on with an interrupted call; the folder ends up the same.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        from_nnunet: instead of `network` and `images`: label maps that nnU-Net predicted, which are scored against
            `masks`; see `nnunet_scores.score_nnunet`.
        pairs: with them, the `pairs.csv` of `export-nnunet`.

    Returns:
        `out`, `images`, `healthy` (images in which nothing is seen), `share` (mean share of the image), and with
        `masks` `scores` {mDice, mIoU, count, ...}.

    Raises:
        InputError: no finished run, an image that cannot be read, images without a mask, or an `out` in use.
    """
    out, network = to_path(out), to_path_or_none(network, "--network")
    images, masks = to_path_or_none(images, "--images"), to_path_or_none(masks, "--masks")
    from_nnunet, pairs = to_path_or_none(from_nnunet, "--from-nnunet"), to_path_or_none(pairs, "--pairs")
    if from_nnunet is not None:
        if network is not None or images is not None or masks is None:
            raise InputError("--from-nnunet: takes --masks, the pairs that were exported, and no --network or --images")
        from siamese_diffusion.segmentation.nnunet_scores import score_nnunet

        return score_nnunet(from_nnunet, masks, out, pairs, resume)
    if network is None or images is None or pairs is not None:
        raise InputError("predict: give --network and --images; or --from-nnunet and --masks, and perhaps --pairs")
    if not 0 < threshold < 1:
        raise InputError(f"--threshold {threshold}: must be between 0 and 1")
    if batch_size < 1:
        raise InputError(f"--batch-size {batch_size}: must be at least 1")
    require_apart(out, images=images, masks=masks, network=network)
    options = Options(tta, probability_maps, overlays, threshold, batch_size)
    network = run_of(network)
    trained = load_network(network).to(find_device(device))
    if trained.classes and threshold != 0.5:
        raise InputError("--threshold: is for one class; of several each pixel gets the likeliest, so leave it out")
    source = open_source(images, trained.data)
    truth = _truth(masks, source, trained.data) if masks is not None else None
    inputs = {
        "command": "predict",
        "--tta": tta,
        "--threshold": threshold,
        "--batch-size": batch_size,
        **note_files([*source.files, *weight_files(network)]),
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
    classes: NotRequired[dict[str, NonNegativeInt]]


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
                write = partial(_write_one, out, options=options, fit=trained.data.fit, classes=trained.classes)
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
    """Probabilities at the network's resolution."""
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
        both = torch.from_numpy(each)[None], torch.from_numpy(true)[None]
        found.append(score(*both, field=True, names=trained.classes))
    return found


def _write_one(
    out: Path,
    name: str,
    image: Pixels,
    seen: NDArray[np.float32],
    options: Options,
    fit: Fit,
    classes: Sequence[str],
) -> dict[str, Any]:
    """Write the files of an image; returns its row."""
    probable = at_size(seen, image.shape[:2], fit)
    mask = marked(probable, options.threshold)
    write_label(out / "masks" / f"{name}.png", mask)
    maps = {name: probable} if not classes else {f"{name}-{i}": probable[i] for i in range(1, len(classes) + 1)}
    for called, one in maps.items() if options.maps else ():
        grey = Image.fromarray((one * 255).round().astype(np.uint8))
        write_whole(out / "probabilities" / f"{called}.png", partial(grey.save, format="PNG"))
    if options.overlays:
        drawn = Image.fromarray(pictures.outline(image, mask, pictures.GREEN))
        write_whole(out / "overlays" / f"{name}.jpg", lambda path: drawn.save(path, "JPEG", quality=92))
    row = {"name": name, "width": image.shape[1], "height": image.shape[0]}
    if not classes:
        return row | _measures(mask, probable)
    areas = {named: int((mask == label).sum()) for label, named in enumerate(classes, 1)}
    return row | _measures(mask != 0, probable.max(0)) | {"classes": areas}


def _measures(mask: Mask, probable: NDArray[np.float32]) -> dict[str, Any]:
    """`area` in pixels, `share` of the image, `components` that touch at no side or corner, and `mean_probability` in
    the mask, None where it is empty. (Of several classes: of whatever is no background, and of what it is taken
    for.)"""
    from scipy.ndimage import label

    return {
        "area": int(mask.sum()),
        "share": float(mask.mean()),
        "components": int(label(mask, np.ones((3, 3)))[1]),
        "mean_probability": float(probable[mask].mean()) if mask.any() else None,
    }


def _write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    flat = [row | {f"area {name}": area for name, area in row.get("classes", {}).items()} for row in rows]
    names = [name for name in flat[0] if name != "classes"]
    lines = ([f"{row[name]:.6f}" if isinstance(row[name], float) else row[name] for name in names] for row in flat)
    write_text(path, to_csv(names, lines))
