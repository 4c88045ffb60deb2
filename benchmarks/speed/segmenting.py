"""Training a segmentation network and predicting with it: plain segmentation-models-pytorch code against ours.

    python benchmarks/speed/segmenting.py [--encoder resnet18] [--steps 20] [--repeats 2]

Both sides have the same network, images, resolution, batches, optimiser and number of steps, and the same one
validation at the end. The plain side is what a user of segmentation-models-pytorch writes: a data set that reads,
resizes and flips an image and its mask when they are asked for, a `DataLoader`, a loop; then image by image the mask at
the image's own size, as a PNG. Ours is `segment`, whole, with its checkpoint, and `predict`, whole, with its table, but
without overlays. They run in turn; the masks of the two are asserted to agree where the weights are the same.

Figures are images a second, whole calls, and their ratios: ours over the plain side's.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from siamese_diffusion.config import Config, update
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.phantom import make_phantoms
from siamese_diffusion.files import write_json
from siamese_diffusion.segmentation.predict import predict
from siamese_diffusion.segmentation.segment import segment
from siamese_diffusion.segmentation.trained import load_network

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Pairs as they are read in a tutorial."""

    def __init__(self, folder: Path, names: list[str], side: int, flip: bool) -> None:
        self.folder, self.names, self.side, self.flip = folder, names, side, flip

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = read(self.folder / "images" / f"{self.names[index]}.png", self.side)
        file = Image.open(self.folder / "masks" / f"{self.names[index]}.png").convert("L")
        small = file.resize((self.side, self.side), Image.Resampling.NEAREST)
        mask = (torch.from_numpy(np.array(small))[None] > 127).float()
        for axis in (-1, -2):
            if self.flip and torch.rand(()) < 0.5:
                image, mask = image.flip(axis), mask.flip(axis)
        return image, mask


def read(path: Path, side: int) -> Tensor:
    """(3, side, side), normalised."""
    small = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    return (torch.from_numpy(np.array(small)).movedim(2, 0) / 255 - MEAN) / STD


def plain_training(data: Path, splits: dict[str, list[str]], encoder: str, steps: int, batch: int, side: int) -> None:
    """A loop as the library's examples have it."""
    network = smp.Unet(encoder, encoder_weights=None, in_channels=3, classes=1)
    loader = DataLoader(Pairs(data, splits["train"], side, True), batch, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    dice, done = smp.losses.DiceLoss("binary"), 0
    while done < steps:
        for images, masks in loader:
            logits = network.train()(images)
            loss = F.binary_cross_entropy_with_logits(logits, masks) + dice(logits, masks)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if done == steps:
                break
    network.eval()
    with torch.no_grad():
        for images, masks in DataLoader(Pairs(data, splits["val"], side, False), batch):
            smp.metrics.get_stats((network(images).sigmoid() > 0.5).long(), masks.long(), mode="binary")


def plain_prediction(network: nn.Module, images: Path, side: int, out: Path) -> None:
    """Image by image."""
    out.mkdir()
    with torch.no_grad():
        for path in sorted(images.glob("*.png")):
            width, height = Image.open(path).size
            found = network(read(path, side)[None]).sigmoid()
            whole = F.interpolate(found, size=(height, width), mode="bilinear")[0, 0] > 0.5
            Image.fromarray(whole.numpy().astype(np.uint8) * 255).save(out / path.name)


def main(encoder: str, count: int, size: int, side: int, steps: int, batch: int, repeats: int) -> dict[str, Any]:
    """Both sides in turn, `repeats` times; images a second, medians."""
    seconds: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[[], Any]) -> None:
        start = time.perf_counter()
        call()
        seconds.setdefault(name, []).append(time.perf_counter() - start)

    config = update(Config(), "segment", encoder=encoder, resolution=side, steps=steps, batch_size=batch)
    config = update(config, "segment", sample_every=steps, checkpoint_every=steps, schedule="constant", warmup=0)
    config = update(config, "segment", augmentation="flip-turn")  # what the plain side does too, but for the turns
    with tempfile.TemporaryDirectory() as folder:
        data, work = Path(folder) / "data", Path(folder)
        make_phantoms(data, count, size, seed=1)
        names = [pair.name for pair in DataFolder(data).pairs()]
        splits = {"train": names[: -count // 8], "val": names[-count // 8 :]}
        write_json(data / "splits.json", splits)
        plain_training(data, splits, encoder, 1, batch, side)  # what is loaded once
        for turn in range(repeats):
            run = work / f"run-{turn}"
            timed("plain training", lambda: plain_training(data, splits, encoder, steps, batch, side))
            timed("our training", lambda run=run: segment(data, run, [], config=config, device="cpu"))  # type: ignore[misc]
        network = load_network(work / "run-0").network.get_submodule("network").eval()
        for turn in range(repeats):
            ours, theirs = work / f"ours-{turn}", work / f"plain-{turn}"
            timed("plain prediction", lambda out=theirs: plain_prediction(network, data / "images", side, out))  # type: ignore[misc]
            timed(
                "our prediction",
                lambda out=ours: predict(work / "run-0", data / "images", out, overlays=False, device="cpu"),  # type: ignore[misc]
            )
        agree = [
            np.array_equal(np.asarray(Image.open(path)) > 0, np.asarray(Image.open(work / "plain-0" / path.name)) > 0)
            for path in sorted((work / "ours-0" / "masks").glob("*.png"))
        ]
        assert len(agree) == count
        assert np.mean(agree) > 0.9, "the two sides see other masks"
        shutil.rmtree(work / "run-0")
    seen = {"training": steps * batch, "prediction": count}
    rates = {name: seen[name.split()[1]] / statistics.median(taken) for name, taken in seconds.items()}
    return {
        "encoder": encoder,
        "resolution": side,
        "images_per_second": {name: round(rate, 2) for name, rate in rates.items()},
        "ratio": {kind: round(rates[f"our {kind}"] / rates[f"plain {kind}"], 2) for kind in seen},
        "threads": torch.get_num_threads(),
        "repeats": repeats,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--count", type=int, default=48, help="pairs")
    parser.add_argument("--size", type=int, default=384, help="their side in pixels")
    parser.add_argument("--side", type=int, default=96, help="the network's resolution")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    found = main(**vars(parser.parse_args()))
    print(json.dumps(found))
    for kind, ratio in found["ratio"].items():
        plain, our = (found["images_per_second"][f"{side} {kind}"] for side in ("plain", "our"))
        print(f"{kind:12} plain {plain:8.2f}  ours {our:8.2f} images/s  ratio {ratio:.2f}", file=sys.stderr)
