"""Recordings of the authors' networks in `data/segmentation`, and the rule that fills their parameters and inputs."""

import json
import math
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FOLDER = Path(__file__).parent / "data" / "segmentation"


@cache
def keys() -> dict[str, Any]:
    """By network: number of `parameters`, and `shapes` by the authors' key."""
    found: dict[str, Any] = json.loads((FOLDER / "keys.json").read_text())
    return found


def recording(name: str) -> dict[str, NDArray[Any]]:
    with np.load(FOLDER / f"{name}.npz") as stored:
        return dict(stored)


def fill(key: str, shape: list[int]) -> NDArray[Any]:
    """The value of a parameter, from its name and shape alone."""
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    normal = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    if key.endswith("running_var"):
        value = 1.0 + 0.1 * np.abs(normal)
    elif key.endswith(("running_mean", "bias")):
        value = 0.1 * normal
    elif len(shape) == 1:
        value = 1.0 + 0.1 * normal
    else:
        value = normal / math.sqrt(math.prod(shape[1:]))
    return np.asarray(value, np.float32)


def published(network: str) -> dict[str, Tensor]:
    """A filled state dict under the authors' names."""
    return {key: torch.from_numpy(fill(key, shape)) for key, shape in keys()[network]["shapes"].items()}


def network_input(kind: str) -> Tensor:
    """float64 (2, 3, 96, 96), or (1, 3, 64, 128) where `kind` is rect."""
    seed, shape = (1, (1, 3, 64, 128)) if kind == "rect" else (0, (2, 3, 96, 96))
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32)).double()
