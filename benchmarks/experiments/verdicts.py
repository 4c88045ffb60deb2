"""Whether `evaluate` says of a set what a person would: sets whose worth is known, made of real images.

    python benchmarks/experiments/verdicts.py DATA OTHER --out FOLDER [--train 400] [--count 100] [--steps 400]

DATA and OTHER are folders of pairs with `splits.json`, of different organs. The real side is the first `--train` pairs
of DATA's training split with its test split held out; the sets are made of the training split's last `--count` pairs,
which it does not hold. One judge (a U-Net with an ImageNet encoder, extra `imagenet`) is trained for all of them.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_diffusion.config import Config, update
from siamese_diffusion.data.arrays import read_squared
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.evaluation.evaluate import evaluate
from siamese_diffusion.segmentation.segment import segment

Pixels = NDArray[np.uint8]
Masks = NDArray[np.bool_]
Made = tuple[Pixels, Masks]


def sets(fresh: Made, real: Made, other: Made) -> dict[str, Made]:
    """Sets by name: what each is made of is in its name."""
    images, masks = fresh
    random = np.random.default_rng(0)
    noise = random.normal(128, 60, images.shape).clip(0, 255).astype(np.uint8)
    mixed = random.permutation(len(images))
    return {
        "real images, unseen": fresh,
        "noise": (noise, masks),
        "one image repeated": (images[:1].repeat(len(images), 0), masks),
        "real images, shuffled masks": (images, masks[mixed]),
        "exact copies of training images": (real[0][: len(images)], real[1][: len(images)]),
        "half of them exact copies": _half(fresh, real),
        "colours shifted": (_each(images, _shift), masks),
        "blurred": (_each(images, lambda image: cv2.GaussianBlur(image, (0, 0), 3)), masks),
        "another organ": other,
    }


def _half(fresh: Made, real: Made) -> Made:
    half = len(fresh[0]) // 2
    images, masks = (np.concatenate([a[:half], b[:half]]) for a, b in zip(fresh, real, strict=True))
    return images, masks


def _each(images: Pixels, change: Callable[[Any], Any]) -> Pixels:
    return np.stack([np.asarray(change(image), np.uint8) for image in images])


def _shift(image: Pixels) -> Pixels:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + 45) % 180
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


def write(folder: Path, images: Pixels, masks: Masks, splits: dict[str, int] | None = None) -> Path:
    """A plain folder of pairs; `splits` says how many in turn are in each list."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
        Image.fromarray(image).save(folder / "images" / f"{i:04d}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"{i:04d}.png")
    if splits is not None:
        names = iter(f"{i:04d}" for i in range(len(images)))
        lists = {name: [next(names) for _ in range(count)] for name, count in splits.items()}
        (folder / "splits.json").write_text(json.dumps(lists))
    return folder


def run(
    data: Path, other: Path, out: Path, train: int, count: int, steps: int, resolution: int
) -> list[dict[str, Any]]:
    """Train the judge, evaluate every set, and return a row each."""
    source = DataFolder(data)
    listed = source.pairs("train")
    parts = {
        "train": listed[:train],
        "fresh": listed[-count:],
        "val": source.pairs("val"),
        "test": source.pairs("test"),
    }
    if train + count > len(listed):
        raise SystemExit(f"{data}: has {len(listed)} training pairs, fewer than {train} and {count}")
    read = {name: read_squared(pairs, resolution) for name, pairs in parts.items()}
    lists = {name: len(read[name][0]) for name in ("train", "val", "test")}
    whole = [np.concatenate([read[name][part] for name in lists]) for part in (0, 1)]
    real = write(out / "real", whole[0], whole[1], lists)
    config = update(Config(), "data", resolution=resolution)
    config = update(config, "segment", encoder="tu-tf_efficientnet_lite0", weights="imagenet", resolution=resolution)
    config = update(config, "segment", steps=steps, batch_size=8)
    judge = out / "judge"
    segment(real, judge, [real], config=config, resume=(judge / "metrics.json").exists(), device="cpu")
    strangers: list[Pair] = DataFolder(other).pairs("train")[:count]
    rows = []
    for name, (images, masks) in sets(read["fresh"], read["train"], read_squared(strangers, resolution)).items():
        place = out / name.replace(" ", "-").replace(",", "")
        made = write(place / "pairs", images, masks)
        found = evaluate(real, made, place / "scores", config=config, judge=judge, device="cpu", resume=place.exists())
        rows.append({"set": name, **{each["question"]: each["word"] for each in found["verdicts"]}})
        print(" | ".join(map(str, rows[-1].values())), flush=True)
        for each in found["verdicts"][1:]:
            print(f"    {each['because']}", flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--resolution", type=int, default=128)
    given = parser.parse_args(arguments)
    rows = run(given.data, given.other, given.out, given.train, given.count, given.steps, given.resolution)
    (given.out / "verdicts.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
