"""LPIPS between random images of one set: how different they look to a network trained on human judgement."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from siamese_diffusion import extras
from siamese_diffusion.data.pairs import ImageFile
from siamese_diffusion.evaluation.extractors import weights_of

LEAST = 64
"""AlexNet's last maps vanish on smaller images."""

Distance = Callable[[Tensor, Tensor], Tensor]  # (B, 3, R, R) twice, in [0, 1] -> (B,)


def lpips_alex(device: torch.device) -> Distance:
    """LPIPS (Zhang et al., arXiv:1801.03924) on AlexNet, version 0.1, from torchmetrics.

    Raises:
        InputError: AlexNet's weights cannot be had.
    """
    extras.require(("torchmetrics",), "metrics", "--features lpips")
    with weights_of("lpips"):
        from torchmetrics.functional.image.lpips import _NoTrainLpips

        module = _NoTrainLpips(net="alex").to(device)

    def distance(first: Tensor, second: Tensor) -> Tensor:
        return torch.as_tensor(module(first.to(device), second.to(device), normalize=True)).flatten().cpu()

    return distance


def pair_distances(
    files: Sequence[ImageFile],
    distance: Distance,
    resolution: int,
    count: int = 500,
    batch_size: int = 16,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Distances (count,) of random pairs of two different images.

    Args:
        files: at least two images; they are squared to `resolution`, and enlarged to 64 px where that is less.
        distance: of two batches.
        resolution: in pixels.
        count: pairs; fewer where there are fewer.
        batch_size: pairs in one pass.
        seed: of the pairs.

    Raises:
        InputError: an image cannot be read.
    """
    total = len(files)
    random = np.random.default_rng(seed)
    first = random.integers(total, size=count)
    second = (first + random.integers(1, total, size=count)) % total
    chosen = np.unique(np.sort(np.stack([first, second], 1), 1), axis=0)

    def read(which: NDArray[np.intp]) -> Tensor:
        images = torch.from_numpy(np.stack([files[i].squared(resolution) for i in which])).movedim(3, 1) / 255
        return images if resolution >= LEAST else F.interpolate(images, size=(LEAST, LEAST), mode="bilinear")

    found = []
    with torch.inference_mode():
        for start in range(0, len(chosen), batch_size):
            part = chosen[start : start + batch_size]
            found.append(distance(read(part[:, 0]), read(part[:, 1])).double().numpy())
    return np.concatenate(found)
