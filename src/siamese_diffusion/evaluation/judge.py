"""The judge: a segmentation network trained on real pairs only, which says where it sees the lesion in any image."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_diffusion import progress
from siamese_diffusion.config import Config, build_config
from siamese_diffusion.data.arrays import Masks, read_squared
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.data.splits import own_test_pairs
from siamese_diffusion.device import find_device, precision_on
from siamese_diffusion.evaluation.extractors import weights_hash
from siamese_diffusion.evaluation.features import Extractor
from siamese_diffusion.evaluation.metrics.class_fit import class_scores, exchanged, means_of_classes
from siamese_diffusion.evaluation.metrics.mask_fit import (
    Scores,
    derangement,
    interval,
    join,
    of_healthy,
    of_lesions,
    pair_scores,
    shuffled_fit,
)
from siamese_diffusion.segmentation.inference import probabilities
from siamese_diffusion.segmentation.metrics import cut
from siamese_diffusion.segmentation.segment import segment
from siamese_diffusion.segmentation.trained import load_network
from siamese_diffusion.segmentation.training import read_result
from siamese_diffusion.settings import OF_SMP

SHUFFLED = 2000
"""Fit to other pairs' masks is measured on no more pairs than this."""

CHUNK = 256


@dataclass(frozen=True)
class Judge:
    """A trained segmentation network and the size it works at."""

    run: Path
    network: nn.Module
    resolution: int
    batch_size: int
    device: torch.device
    precision: str = "fp32"

    def see(self, pairs: Sequence[Pair]) -> tuple[NDArray[np.uint8], Masks, NDArray[np.float32]]:
        """Images (N, R, R, 3), masks (N, R, R) and predictions in [0, 1] as `inference.probabilities` has them."""
        images, masks = read_squared(pairs, self.resolution)
        return images, masks, probabilities(self.network, images, self.batch_size, precision=self.precision)


def judge_of(real: DataFolder, run: Path | None, out: Path, config: Config, resume: bool, device: str) -> Judge:
    """The judge of a finished `run` of `segment`, or else one trained on all training pairs of `real`, in `out`.

    Raises:
        InputError: `run` is no finished run of `segment`, or see `segment`.
    """
    if run is None:
        run = out
        changed = _settings(config)
        unlimited = changed.model_copy(update={"data": changed.data.model_copy(update={"limit": None})})
        segment(real, out, [real] if own_test_pairs(real) else [], config=unlimited, resume=resume, device=device)
    where = find_device(device)
    trained = load_network(run)
    network, settings = trained.network.to(where), trained.settings
    precision = precision_on(where, config.evaluate.precision)
    return Judge(run, network, settings.resolution, settings.batch_size, where, precision)


def _settings(config: Config) -> Config:
    """The settings that the judge is trained with: `segment`'s, its network and steps from `evaluate`."""
    own = config.segment.given()
    if config.evaluate.fit_network != "smp":  # an encoder that is set is of the network that is scored elsewhere
        own = {name: value for name, value in own.items() if name not in OF_SMP}
    own |= {"network": config.evaluate.fit_network, "steps": config.evaluate.fit_steps}
    return build_config({**config.model_dump(), "segment": own}, "evaluate.fit_network")


def measure(judge: Judge, pairs: Sequence[Pair], description: str) -> dict[str, Scores]:
    """What `pair_scores` gives of every pair; a bounded number of images is in memory at a time."""
    return _measure(judge, pairs, description, 0)[0]


def measure_both(
    judge: Judge, pairs: Sequence[Pair], description: str
) -> tuple[dict[str, Scores], dict[str, dict[str, float]]]:
    """`measure`, and the mean Dice (`mean`, `low`, `high`) of the first `SHUFFLED` pairs, those with a lesion where
    there are two, with other pairs' masks, `shuffled`, and of several classes with these exchanged, `exchanged`."""
    scores, seen, masks = _measure(judge, pairs, description, SHUFFLED)
    lesion = masks.any((1, 2))
    kept = lesion if lesion.sum() > 1 else np.ones(len(masks), bool)
    seen, masks = seen[kept], masks[kept]
    names = pairs[0].mask.decoding.class_names
    if not names:
        return scores, {"shuffled": shuffled_fit(seen.astype(np.float32), masks)["dice"]}
    others = {"shuffled": masks[derangement(len(masks))], "exchanged": exchanged(masks, len(names))}
    return scores, {name: interval(class_scores(seen, other, names)["dice"]) for name, other in others.items()}


def own_error(judge: Judge, held: Sequence[Pair]) -> tuple[dict[str, Any], dict[str, Scores] | None]:
    """How the judge does on real images: {dice, boundary, on, count}, of those with a lesion, with `healthy` where some
    have none, and of several classes `classes`, the Dice of each; and the scores of each where it was tested.

    Without test pairs its validation pairs do, which flatters it a little since they picked its epoch.
    """
    if held:
        scores = measure(judge, held, "real test images")
        kept = of_lesions(scores)
        means = {name: float(kept[name].mean()) for name in ("dice", "boundary")}
        healthy = of_healthy(scores)
        more: dict[str, Any] = {} if healthy is None else {"healthy": healthy}
        if classes := means_of_classes(scores):
            more["classes"] = classes
        return {**means, "on": "test", "count": len(kept["dice"]), **more}, scores
    validation = read_result(judge.run)["val"]
    own = {"dice": validation["mDice"], "boundary": None, "on": "validation", "count": validation["count"]}
    classes = {name.removeprefix("mDice "): each for name, each in validation.items() if name.startswith("mDice ")}
    return own | ({"classes": classes} if classes else {}), None


def embedder(judge: Judge) -> Extractor:
    """Features of the judge: the mean over the image of its last map at the coarsest resolution, (B, channels).

    It has seen the user's images and no others, so its features say what matters for finding the lesion; their
    distances compare between sets judged by the same network only. They are brought to the length of the root of
    their number: a few images with strong responses would decide the kernel distance, which cubes their products.
    """
    network = judge.network
    probe = _Watch()
    with probe.on(network), torch.inference_mode():
        network(torch.zeros(1, 3, judge.resolution, judge.resolution, device=judge.device))

    def embed(images: Tensor) -> Tensor:
        watch = _Watch(stop=probe.found)
        with watch.on(network), contextlib.suppress(_Enough):
            network(images.to(judge.device).float() / 255)
        assert watch.map is not None
        pooled = watch.map.mean((2, 3))
        return F.normalize(pooled, dim=1) * math.sqrt(pooled.shape[1])

    return Extractor("judge", embed, f"{weights_hash(network)}-unit", "none", resolution=judge.resolution)


class _Enough(Exception):  # noqa: N818 - it is no error
    """The map is there; the rest of the network, most of its work, is not needed."""


class _Watch:
    """Keeps the last of the smallest maps (B, C, h, w) of a pass; 1 x 1 comes from pooling, unless there is no other.

    Args:
        stop: `found` of an earlier pass: keep that map and end the pass there.
    """

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.map: Tensor | None = None
        self.found = 0
        self.seen = 0

    @contextlib.contextmanager
    def on(self, network: nn.Module) -> Iterator[None]:
        hooks = [module.register_forward_hook(self._look) for module in network.modules()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _look(self, module: nn.Module, inputs: Any, output: Any) -> None:
        values = (
            output.values() if isinstance(output, dict) else output if isinstance(output, (list, tuple)) else [output]
        )
        for value in values:
            if not isinstance(value, Tensor) or value.ndim != 4:
                continue
            self.seen += 1
            if self.stop is not None:
                if self.seen == self.stop:
                    self.map = value
                    raise _Enough
            elif self.map is None or self._area(self.map) == 1 or 1 < self._area(value) <= self._area(self.map):
                self.map, self.found = value, self.seen

    @staticmethod
    def _area(value: Tensor) -> int:
        return value.shape[2] * value.shape[3]


def _measure(
    judge: Judge, pairs: Sequence[Pair], description: str, kept: int
) -> tuple[dict[str, Scores], Masks, Masks]:
    """Scores of every pair; and of the first `kept` the masks that are seen and those asked for."""
    names = pairs[0].mask.decoding.class_names
    parts: list[dict[str, Scores]] = []
    predictions, masks = [], []
    with progress.bar() as shown:
        task = shown.add_task(f"judging {description}", total=len(pairs))
        for start in range(0, len(pairs), CHUNK):
            part = pairs[start : start + CHUNK]
            _, asked, seen = judge.see(part)
            found = cut(torch.from_numpy(seen)).numpy()
            parts.append(class_scores(found, asked, names) if names else pair_scores(seen, asked))
            if start < kept:
                predictions.append(found[: kept - start])
                masks.append(asked[: kept - start])
            shown.advance(task, len(part))
    scores = join(parts)
    if not kept:
        return scores, np.empty(0, bool), np.empty(0, bool)
    return scores, np.concatenate(predictions), np.concatenate(masks)
