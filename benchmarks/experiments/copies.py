"""Which copies are found: training images changed in fifteen ways, and images that are no copies.

    python benchmarks/experiments/copies.py [DATA] [--train 200] [--copies 60] [--resolution 128] [--imagenet]
        [--out FILE]

DATA is a folder of pairs with `splits.json`; without it phantoms are drawn. The training images are the first of the
training split; held-out ones are the other splits' (they give the false-alarm rate); fresh ones are the training
split's last, which were not searched. For each way the share of the copies that is flagged, and of those flagged the
share whose original is named. Nothing is trained and nothing is drawn by chance but noise, so a run gives the same
figures again. `--imagenet` searches once more with a third description besides: features of EfficientNet-Lite0 with the
weights of the extra `imagenet`, for comparison; the share of false alarms that is aimed at is the same.
"""

import argparse
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from siamese_diffusion import imagenet
from siamese_diffusion.data.arrays import read_squared
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.phantom import phantom
from siamese_diffusion.evaluation.features import FLIPS, PLAIN
from siamese_diffusion.evaluation.metrics.copies import SIDE, CopySearch, Novelty, phases
from siamese_diffusion.evaluation.metrics.local_matches import details

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def changed(image: Pixels, mask: Mask, other: Pixels, seed: int) -> dict[str, Pixels]:
    """Copies of `image` (R, R, 3): a name to each; `other` is an image that is not among the training ones."""
    side = len(image)
    kept = round(side * 0.85)
    start = (side - kept) // 2
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), side / 64)[..., None]
    soft = np.clip(soft * 1.6, 0, 1)  # a little more than the lesion
    noise = np.random.default_rng(seed).normal(0, 8, image.shape)
    shift = round(side * 5 / 96)
    mixed = {
        "blended by half": (image.astype(int) + other) // 2,
        "lesion replaced": image * (1 - soft) + other * soft,
        "noise, sd 8": image + noise,
        "brighter": image * 1.25 + 12,
        "hue by 24 degrees": _hue(image),
    }
    return {
        "exact": image,
        "JPEG, quality 50": _jpeg(image),
        "flipped": np.ascontiguousarray(image[:, ::-1]),
        "blurred, sd 1.5 px": cv2.GaussianBlur(image, (0, 0), 1.5),
        "cropped to 85 %": cv2.resize(image[start : start + kept, start : start + kept], (side, side)),
        "cropped to a corner": cv2.resize(image[:kept, :kept], (side, side)),
        "turned by 7 degrees": _moved(image, 7, 0),
        "shifted by 5 %": _moved(image, 0, shift),
        "turned by 90 degrees": np.rot90(image).copy(),
        "half of it": np.concatenate([image[:, : side // 2], other[:, side // 2 :]], 1),
        **{name: np.clip(pixels, 0, 255).astype(np.uint8) for name, pixels in mixed.items()},
    }


def _jpeg(image: Pixels) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=50)
    return np.asarray(Image.open(buffer))


def _hue(image: Pixels) -> Pixels:
    values = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    values[..., 0] = (values[..., 0].astype(int) + 12) % 180
    return np.asarray(cv2.cvtColor(values, cv2.COLOR_HSV2RGB), np.uint8)


def _moved(image: Pixels, degrees: float, pixels: float) -> Pixels:
    side = len(image)
    matrix = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), degrees, 1)
    matrix[:, 2] += pixels
    return np.asarray(cv2.warpAffine(image, matrix, (side, side), borderMode=cv2.BORDER_REFLECT), np.uint8)


def views(images: Sequence[Pixels], flips: Sequence[tuple[int, ...]]) -> NDArray[np.float32]:
    """`phases` of the images, (N, F, D)."""
    small = np.stack([cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for image in images])
    batch = torch.from_numpy(small).movedim(3, 1)
    return torch.stack([phases(batch.flip(axes)) for axes in flips], 1).numpy()


Views = Callable[[Sequence[Pixels], Sequence[tuple[int, ...]]], NDArray[np.float32]]


def imagenet_features() -> Views:
    """Pooled features of EfficientNet-Lite0 of the images at their own size, (N, F, 1280)."""
    import timm

    package = imagenet.PACKAGES[imagenet.LITE0]
    network = timm.create_model(package.model)
    network.load_state_dict(imagenet.weights(imagenet.LITE0, package, "--imagenet"))
    network.reset_classifier(0)
    network.eval()

    def described(images: Sequence[Pixels], flips: Sequence[tuple[int, ...]]) -> NDArray[np.float32]:
        parts = []
        with torch.inference_mode():
            for start in range(0, len(images), 32):
                batch = (
                    torch.from_numpy(np.stack(images[start : start + 32])).movedim(3, 1) / 127.5 - 1
                )  # as it learned
                parts.append(torch.stack([network(batch.flip(axes)) for axes in flips], 1))
        return torch.cat(parts).numpy()

    return described


def main(
    train: Sequence[Pixels],
    masks: Sequence[Mask],
    held_out: Sequence[Pixels],
    fresh: Sequence[Pixels],
    copies: int,
    described: Sequence[Views] = (views,),
) -> dict[str, Any]:
    """Search, and what was found."""
    known = [details(image) for image in train]
    search = CopySearch([view(train, FLIPS) for view in described], known)
    assert search.local is not None
    local = search.local
    own = local.match(known, np.arange(len(known)))
    held = [view(held_out, PLAIN)[:, 0] for view in described]
    calibrated = search.calibrate(own, held, local.match(details(image) for image in held_out))

    def score(images: Sequence[Pixels]) -> Novelty:
        seen = [view(images, PLAIN)[:, 0] for view in described]
        return search.score(seen, local.match(details(image) for image in images))

    planted: dict[str, list[Pixels]] = {}
    for i in range(copies):
        for name, pixels in changed(train[i], masks[i], fresh[i % len(fresh)], i).items():
            planted.setdefault(name, []).append(pixels)
    found = {}
    for name, images in planted.items():
        result = score(images)
        flagged = result.score < 1
        right = result.place[flagged] == np.flatnonzero(flagged)
        found[name] = {"found": float(flagged.mean()), "named": float(right.mean()) if len(right) else None}
    alarms = score(fresh)
    assert calibrated.apart is not None
    names = ("whole", *("imagenet" for _ in described[1:]), "details")
    return {
        "train": len(train),
        "copies": copies,
        "thresholds": dict(zip(names, calibrated.thresholds.tolist(), strict=True)),
        "found": found,
        "held out": {
            "images": len(held_out),
            "the same scene as a training image": int(calibrated.apart.same.sum()),
            "flagged of the others": calibrated.false_alarm_rate,
        },
        "fresh": {"images": len(fresh), "flagged": float((alarms.score < 1).mean())},
    }


def drawn(seed: int, count: int, side: int) -> tuple[list[Pixels], list[Mask]]:
    """Phantoms and their masks."""
    pairs = [phantom(seed, index, side) for index in range(count)]
    return [pair[0] for pair in pairs], [pair[1] > 0 for pair in pairs]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--train", type=int, default=200)
    parser.add_argument("--copies", type=int, default=60)
    parser.add_argument("--fresh", type=int, default=100)
    parser.add_argument(
        "--held-out", type=int, help="images; default: all of the other splits, or as many as fresh ones"
    )
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--imagenet", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.data is None:
        train, masks = drawn(1, options.train, options.resolution)
        held_out = drawn(2, options.held_out or options.fresh, options.resolution)[0]
        fresh = drawn(3, options.fresh, options.resolution)[0]
    else:
        folder = DataFolder(options.data)
        pairs = folder.pairs("train")
        if options.train + options.fresh > len(pairs):
            parser.error(f"{options.data} has {len(pairs)} training pairs: --train and --fresh together are more")
        train, masks = map(list, read_squared(pairs[: options.train], options.resolution))
        fresh = list(read_squared(pairs[-options.fresh :], options.resolution)[0])
        others = [pair for split in ("val", "test") for pair in folder.pairs(split)]
        held_out = list(read_squared(others[: options.held_out], options.resolution)[0])
    found = main(train, masks, held_out, fresh, options.copies)
    if options.imagenet:
        more = main(train, masks, held_out, fresh, options.copies, (views, imagenet_features()))
        found = {"without ImageNet features": found, "with them": more}
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
