"""A trained segmentation network, loaded and put to use on an image of any size."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import PositiveInt
from torch import Tensor, nn
from typing_extensions import TypedDict

from siamese_diffusion.arguments import StrPath, to_path
from siamese_diffusion.config import DataConfig, SegmentConfig, load_config
from siamese_diffusion.data.classes import AnyMask, class_names
from siamese_diffusion.data.images import Pixels, read_image, square
from siamese_diffusion.errors import InputError, reason
from siamese_diffusion.files import read_json
from siamese_diffusion.progress import notify
from siamese_diffusion.segmentation import networks
from siamese_diffusion.segmentation.ensemble import Ensemble
from siamese_diffusion.segmentation.inference import at_size, marked, probabilities
from siamese_diffusion.tensors import read_state, require_finite

WEIGHTS = "best.safetensors"
"""The selected network, in its run's folder."""

FOLDS, SUMMARY = "folds.json", "summary.json"
"""Of a cross-validation: which pairs each fold holds, and what came out, which is written last."""

ARMS = "arms.json"
"""Of a comparison of arms: what came out, written last."""


class TrainedNetwork(nn.Module):
    """The network of a finished run of `segment`, in eval mode.

    >>> network = load_network(Path("runs/unet"))  # doctest: +SKIP
    >>> mask = network.predict("polyp.jpg")  # doctest: +SKIP
    """

    def __init__(self, network: nn.Module, settings: SegmentConfig, data: DataConfig) -> None:
        super().__init__()
        self.network = network.eval()
        self.settings, self.data = settings, data

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, where there are several: label 1 is the first."""
        return class_names(self.data)

    @property
    def resolution(self) -> int:
        """Side in pixels of the squares that the network was trained on."""
        return self.settings.resolution

    def forward(self, images: Tensor) -> Tensor:
        """`images` (B, 3, R, R) in [0, 1] -> logits (B, 1, R, R), or of several classes (B, K + 1, R, R)."""
        logits: Tensor = self.network(images)
        return logits

    def probability(self, image: Any, flips: bool = False) -> NDArray[np.float32]:
        """How probable the mask is at every pixel of an image, float32 (H, W) in [0, 1]; of several classes
        (K + 1, H, W), the background first.

        Args:
            image: a file's path, a Pillow image, or an array uint8 (H, W), (H, W, 3).
            flips: average over the image's four flips, which takes four times as long.

        Raises:
            InputError: the file cannot be read, or the array is no such image.
        """
        pixels = as_pixels(image)
        squared = square(pixels, self.resolution, self.data.fit)[None]
        found = probabilities(self.network, squared, 1, self.settings.correction, flips=flips)
        return at_size(found[0], pixels.shape[:2], self.data.fit)

    def predict(self, image: Any, threshold: float = 0.5, flips: bool = False) -> AnyMask:
        """The mask that the network sees in an image, boolean (H, W); nowhere true where it sees no lesion. Of several
        classes the likeliest label of each pixel, uint8 (H, W).

        Args:
            image, flips: see `probability`, errors too.
            threshold: of one class: probability from which a pixel belongs to the mask, 0 to 1.
        """
        return marked(self.probability(image, flips), threshold)


def load_network(run: StrPath) -> TrainedNetwork:
    """The selected network of a finished run of `segment`, on the CPU; with folds, all of them as an `Ensemble`, and of
    a comparison of arms that of its best run.

    Raises:
        InputError: `run` is no finished run of `segment`, or its weights are damaged.
    """
    run = run_of(to_path(run, "RUN"))
    folds = fold_runs(run)
    for each in folds or [run]:
        require_finished(each)
    config = load_config(run / "config.yaml")
    count = max(1, len(class_names(config.data)))
    members = [_load(each, config.segment, count) for each in folds or [run]]
    return TrainedNetwork(Ensemble(members) if folds else members[0], config.segment, config.data)


def _load(run: Path, settings: SegmentConfig, classes: int) -> nn.Module:
    state = read_state(run / WEIGHTS)
    require_finite(state, run / WEIGHTS)
    network = networks.of(settings, classes=classes)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{run / WEIGHTS}: cannot be loaded ({reason(error)})") from None
    return network.eval()


class _Folds(TypedDict):
    folds: PositiveInt


class _Arms(TypedDict):
    best: str


def run_of(run: Path) -> Path:
    """`run` itself, or of a finished comparison of arms the run with the best validation Dice, which is told."""
    if (run / WEIGHTS).exists() or not (run / ARMS).exists():
        return run
    best = run / read_json(run / ARMS, _Arms)["best"]
    notify(f"{run}: compares several networks; taken is {best}, the best by its validation pairs")
    return best


def fold_runs(run: Path) -> list[Path]:
    """The runs of the folds of a finished cross-validation; none for another folder.

    Raises:
        InputError: the cross-validation in `run` is not finished.
    """
    if not (run / FOLDS).exists() or (run / WEIGHTS).exists():
        return []
    if not (run / SUMMARY).exists():
        raise InputError(f"{run}: its cross-validation is not finished (it has no {SUMMARY}); --resume goes on with it")
    count = read_json(run / SUMMARY, _Folds)["folds"]
    return [run / f"fold-{i}" for i in range(count)]


def weight_files(run: Path) -> list[Path]:
    """The files of weights of a finished run, one a fold."""
    return [each / WEIGHTS for each in fold_runs(run) or [run]]


def require_finished(run: Path) -> None:
    """Raise `InputError` unless `run` is a finished run of `segment`, of one network."""
    if (run / FOLDS).exists() and not (run / WEIGHTS).exists():
        raise InputError(f"{run}: is a cross-validation, and one network is asked for; {run / 'fold-0'} is one")
    if (run / ARMS).exists() and not (run / WEIGHTS).exists():
        one = run / read_json(run / ARMS, _Arms)["best"]
        raise InputError(f"{run}: compares several networks, and one is asked for; {one} is one")
    if not (run / "metrics.json").exists() or not (run / WEIGHTS).exists():
        raise InputError(f"{run}: not a finished run of segment (it has no metrics.json and {WEIGHTS})")


def as_pixels(image: Any) -> Pixels:
    """An image as uint8 (H, W, 3); see `TrainedNetwork.probability`, errors too."""
    if isinstance(image, (str, Path)):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return np.array(image.convert("RGB"))
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise InputError(f"image: expected uint8 (H, W) or (H, W, 3), not {pixels.dtype} {pixels.shape}")
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
