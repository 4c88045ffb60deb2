"""Weights of an encoder from a file, or from an installed package that holds a file; no code of either is run.

The packages are those of `imagenet.py`.
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from torch import Tensor, nn

from siamese_diffusion import imagenet
from siamese_diffusion.errors import InputError, brief
from siamese_diffusion.imagenet import PACKAGES
from siamese_diffusion.tensors import read_tensors, require_finite, state_of

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


class Source(NamedTuple):
    """Where weights come from: a file, and the package that it belongs to."""

    path: Path
    package: str | None = None


def has_weights(encoder: str) -> bool:
    """Whether a package is installed that has an encoder's ImageNet weights."""
    return any(
        encoder in package.encoders and imagenet.installed(name, package) is not None
        for name, package in PACKAGES.items()
    )


def source_of(encoder: str, weights: str, hub: Sequence[str]) -> Source | None:
    """The file of `weights`; None where the hub is to be asked for them.

    Args:
        encoder: its name.
        weights: see `smp.create`.
        hub: names of weights that the hub has for it.

    Raises:
        InputError: there are no such weights, or a package is not installed or is of another encoder.
    """
    if weights == "imagenet":
        for name, package in PACKAGES.items():
            if encoder in package.encoders and imagenet.installed(name, package) is not None:
                return Source(imagenet.whole(name, package, "segment.weights"), name)
    if weights in hub:
        return None
    if weights in PACKAGES:
        package = PACKAGES[weights]
        if encoder not in package.encoders:
            raise InputError(
                f"segment.weights = {weights}: are of {', '.join(package.encoders)}; segment.encoder = {encoder}"
            )
        return Source(imagenet.whole(weights, package, "segment.weights"), weights)
    path = Path(weights).expanduser()
    if path.suffix.lower() not in SUFFIXES and not path.is_file():
        known = ["random", *hub, *(name for name, package in PACKAGES.items() if encoder in package.encoders)]
        raise InputError(
            f"segment.weights = {brief(weights)}: neither a file nor known for {encoder}; choose from "
            f"{', '.join(known)}, or name a file of weights (.safetensors, .pth)"
        )
    return Source(path)


def load_weights(encoder: nn.Module, name: str, source: Source) -> None:
    """Fill an encoder, on the CPU.

    Args:
        encoder: of a network of segmentation-models-pytorch.
        name: its name there.
        source: a file of the encoder's own weights, or of a whole model of timm or torchvision under its names.

    Raises:
        InputError: the file cannot be read, or tensors are missing, left over, of another shape or not finite.
    """
    state = state_of(read_tensors(source.path), str(source.path))
    if source.package is not None:
        state = imagenet.renamed(state, PACKAGES[source.package], source.path)
    require_finite(state, source.path)
    target = encoder.state_dict()
    given = {_canonical(key): key for key in state}
    wanted = {_canonical(key): key for key in target}
    complaints = {
        "missing": [
            key for plain, key in wanted.items() if plain not in given and not key.endswith("num_batches_tracked")
        ],
        "left over": [
            key for plain, key in given.items() if plain not in wanted and not _is_of_the_rest(name, plain, state[key])
        ],
        "of another shape": [
            f"{given[plain]} ({tuple(state[given[plain]].shape)}, not {tuple(target[key].shape)})"
            for plain, key in wanted.items()
            if plain in given and state[given[plain]].shape != target[key].shape
        ],
        "doubled": [key for key in state if given[_canonical(key)] != key],
    }
    told = [f"{len(keys)} {what}, as {brief(keys[0], 120)}" for what, keys in complaints.items() if keys]
    if told:
        raise InputError(f"segment.weights = {source.path}: not weights of {name}: {'; '.join(told)}")
    filled = {key: state[given[plain]] if plain in given else target[key] for plain, key in wanted.items()}
    encoder.load_state_dict(filled)


def note_of(source: Source | None, weights: str) -> dict[str, str]:
    """Where weights come from, for a run's `metrics.json`: what they were trained on (`of`: imagenet, the name of
    others on the hub, or unknown), `source` and, of a file, its `sha256`."""
    if source is None:
        return {"of": weights, "source": "hub"}
    if source.package is not None:
        licence = PACKAGES[source.package].licence
        where = f"{source.package} {metadata.version(source.package)} ({licence})"
        return {"of": "imagenet", "source": where, "sha256": imagenet.file_hash(source.path)}
    return {"of": "unknown", "source": str(source.path.resolve()), "sha256": imagenet.file_hash(source.path)}


def _canonical(key: str) -> str:
    """One name for a tensor of a whole model and of timm's model for features, which joins some names and wraps
    others."""
    while key.startswith("model."):
        key = key.removeprefix("model.")
    return key.replace(".", "_")


def _is_of_the_rest(name: str, plain: str, value: Tensor) -> bool:
    """Whether a tensor belongs to the part of a classifier that an encoder does without."""
    if not name.startswith("tu-"):
        return plain.startswith(("fc_", "classifier_", "last_linear_", "head_"))
    shapes = _shapes(name.removeprefix("tu-").partition(".")[0])
    classifies = value.ndim <= 2 and plain.startswith(("fc_", "classifier_", "head_"))  # of another number of classes
    return plain in shapes and (shapes[plain] == value.shape or classifies)


@lru_cache(maxsize=1)
def _shapes(model: str) -> dict[str, torch.Size]:
    """Of the tensors of a whole model of timm."""
    return {_canonical(key): tensor.shape for key, tensor in timm.create_model(model).state_dict().items()}
