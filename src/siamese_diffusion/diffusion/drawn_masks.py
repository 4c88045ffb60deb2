"""Masks drawn from a prior, with a lesion each and of the areas that were asked for.

Design note: a mask depends on the seed, its number and how often it was drawn anew; it is drawn anew where it is empty
or, at the size at which it is written, outside the range asked for. So what is written truly lies in the range.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siamese_diffusion import progress
from siamese_diffusion.arguments import StrPath
from siamese_diffusion.claim import marked_by
from siamese_diffusion.config import Config, DataConfig
from siamese_diffusion.data.classes import AnyMask, class_names
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.masks import LEAST
from siamese_diffusion.diffusion.distance_maps import Labels, areas, to_labels
from siamese_diffusion.diffusion.layouts import Layouts, together
from siamese_diffusion.diffusion.mask_prior import LearnedPrior, MaskPrior, load_prior
from siamese_diffusion.errors import InputError
from siamese_diffusion.randomness import mix

TOGETHER = 64
"""Masks that are drawn together."""
TRIES = 20
"""Draws of a mask before a range is given up."""


@dataclass(frozen=True)
class Condition:
    """A range of areas of all classes together, as shares of the frame; both ends belong to it."""

    low: float = 0.0
    high: float = 1.0

    def __str__(self) -> str:
        return f"area={self.low:g}..{self.high:g}"


EVERY = Condition()


def parse_condition(text: str | None) -> Condition:
    """`area=LOW..HIGH` as a range; None asks for nothing.

    Raises:
        InputError: it is anything else, or no range within 0 to 1.
    """
    if text is None:
        return EVERY
    number = r"(\d*\.?\d+(?:[eE][-+]?\d+)?)"
    match = re.fullmatch(rf"area={number}\.\.{number}", text.strip())
    if match is None or not 0 <= float(match[1]) < float(match[2]) <= 1:
        raise InputError(
            f"--condition {text}: expected area=LOW..HIGH, shares of the frame from 0 to 1, area=0.02..0.05 for example"
        )
    return Condition(float(match[1]), float(match[2]))


def require_seen(condition: Condition, seen: Layouts) -> None:
    """Some training masks have such areas, or the prior would have to invent them.

    Raises:
        InputError: none has; the line says which they have.
    """
    low, high = seen.whole.min(), seen.whole.max()
    if not seen.within(condition.low, condition.high):
        raise InputError(
            f"--condition {condition}: no training mask of this prior has such an area; theirs are {low:.4f} to "
            f"{high:.4f} of the frame"
        )


@dataclass(frozen=True)
class DrawnMasks:
    """N masks as distance maps, and how they came about."""

    maps: Tensor  # (N, K, s, s), 16 bits
    tries: list[int]
    """How often each was drawn."""

    def __len__(self) -> int:
        return len(self.maps)

    def labels(self, rows: Sequence[int] | slice, size: int) -> Labels:
        """Label maps uint8 (n, size, size) of some of them."""
        return to_labels(self.maps[rows], size)


@torch.no_grad()
def draw_masks(
    prior: MaskPrior, count: int, seed: int, size: int, steps: int, condition: Condition = EVERY
) -> DrawnMasks:
    """Draw masks, each with a lesion of at least 16 pixels, and of the area asked for, at `size` pixels a side.

    Args:
        prior: in eval mode, on its device.
        count: of masks.
        seed: of all draws.
        size: pixels a side at which they will be written.
        steps: of the solver.
        condition: the range of areas.

    Raises:
        InputError: no training mask has such areas, or some mask is outside the range after `TRIES` draws.
    """
    require_seen(condition, prior.layouts)
    maps = torch.zeros(count, prior.classes, prior.side, prior.side, dtype=torch.float16)
    tries = [0] * count
    left = list(range(count))
    with progress.bar() as shown:
        task = shown.add_task("drawing masks", total=count)
        for attempt in range(TRIES):
            failed: list[int] = []
            for start in range(0, len(left), TOGETHER):
                batch = left[start : start + TOGETHER]
                wanted = together([_layout(prior.layouts, condition, seed, i, attempt) for i in batch])
                drawn = prior.draw(wanted, [(i, attempt) for i in batch], seed, steps).half().cpu()
                good = _fits(to_labels(drawn, size), condition)
                for place, (i, fits) in enumerate(zip(batch, good, strict=True)):
                    maps[i], tries[i] = drawn[place], attempt + 1
                    failed += [] if fits else [i]
                shown.advance(task, int(good.sum()))
            left = failed
            if not left:
                return DrawnMasks(maps, tries)
    what, how = ("the prior", "without a lesion") if condition == EVERY else (f"--condition {condition}", "outside")
    raise InputError(
        f"{what}: {len(left)} of {count} masks are still {how} after {TRIES} draws; train the prior longer "
        "(train_masks.steps), or ask for a wider range"
    )


class PriorMasks:
    """The masks that `sample` asks a prior for: named at once, drawn when `draw` is called.

    Args:
        learned: the prior.
        count: of masks.
        seed: of all draws.
        size: pixels a side.
        condition: the range of areas.
    """

    def __init__(self, learned: LearnedPrior, count: int, seed: int, size: int, condition: Condition) -> None:
        self.learned, self.count, self.seed, self.size, self.condition = learned, count, seed, size, condition
        self._drawn: DrawnMasks | None = None

    @property
    def named(self) -> "list[tuple[str, str, DrawnMask]]":
        """Of each mask the name of its pair, what the pair's row calls its source, and the mask itself."""
        return [
            (f"drawn-{i:05d}", f"prior {self.learned.hash}, seed {self.seed}, mask {i}", DrawnMask(self, i))
            for i in range(self.count)
        ]

    @property
    def noted(self) -> dict[str, Any]:
        """For the claim."""
        return {"prior": self.learned.hash, "--count": self.count, "--condition": str(self.condition)}

    def draw(self, device: torch.device) -> None:
        """Draw them, on a device; errors as in `draw_masks`."""
        prior, steps = self.learned.prior.to(device), self.learned.config.train_masks.draw_steps
        self._drawn = draw_masks(prior, self.count, self.seed, self.size, steps, self.condition)

    def mask(self, number: int, size: int) -> AnyMask:
        """A mask (size, size), boolean or of several classes a label map."""
        assert self._drawn is not None
        labels: AnyMask = self._drawn.labels([number], size)[0]
        return np.asarray(labels if len(self.learned.classes) > 1 else labels > 0)

    def told(self, number: int) -> dict[str, Any]:
        """What the row of its pair says of how it came about."""
        assert self._drawn is not None
        asked = {} if self.condition == EVERY else {"condition": str(self.condition)}
        told = {"recipe": "prior", "prior": self.learned.hash, "seed": self.seed, "number": number}
        return {**told, "tries": self._drawn.tries[number], **asked}


@dataclass(frozen=True)
class DrawnMask:
    """One of them."""

    masks: PriorMasks
    number: int

    def drawn(self) -> tuple[AnyMask, dict[str, Any]]:
        """The mask at the size for which it was drawn, and what its pair's row says of it."""
        return self.squared(self.masks.size), self.masks.told(self.number)

    def squared(self, resolution: int) -> AnyMask:
        """See `PriorMasks.mask`."""
        return self.masks.mask(self.number, resolution)


def prior_of(
    masks: StrPath | DataFolder,
    count: int | None,
    condition: str | None,
    random_masks: str | None,
    config: Config,
    known: DataConfig,
) -> PriorMasks | None:
    """The masks of a prior, where `--masks` names one; None for any other folder.

    Args:
        masks: what the user gave.
        count: of masks; default: as many as the prior was learned from.
        condition: as `parse_condition` takes it.
        random_masks: a recipe that varies masks.
        config: of the sampling: its seed, shape of pairs, and how images are squared.
        known: what the generator was trained on: its classes, and pixels a side.

    Raises:
        InputError: options that do not go together, a prior that is not finished or does not fit, or areas that it has
            not seen.
    """
    if isinstance(masks, DataFolder) or marked_by(Path(masks)) != "train-masks":
        for option, given in (("count", count), ("condition", condition)):
            if given is not None:
                raise InputError(
                    f"--{option}: is asked of a prior, and --masks {masks} is none; learn one with `train-masks`"
                )
        return None
    if count is not None and count < 1:
        raise InputError(f"--count {count}: must be at least 1")
    if random_masks not in (None, "none"):
        raise InputError(f"--random-masks {random_masks}: --masks {masks} is a prior, whose masks are new already")
    asked = parse_condition(condition)
    learned = load_prior(Path(masks))
    _require_fitting(learned, config, known, Path(masks))
    require_seen(asked, learned.prior.layouts)
    return PriorMasks(learned, count or len(learned.prior.layouts), config.sample.seed, known.resolution, asked)


def _require_fitting(learned: LearnedPrior, config: Config, known: DataConfig, masks: Path) -> None:
    asked, names = class_names(learned.config.data), class_names(known)
    if asked != names:
        raise InputError(
            f"--masks {masks}: draws masks of {', '.join(asked) or 'one class'}, and the run of --checkpoint knows "
            f"{', '.join(names) or 'one class'}; learn a prior with the same data.classes"
        )
    if config.sample.aspect == "source":
        raise InputError("sample.aspect = source: a mask drawn from a prior has no shape but square; use square")
    fit = learned.config.data.fit
    if fit != config.data.fit:
        raise InputError(
            f"--masks {masks}: learned from masks with data.fit = {fit}, and the run of --checkpoint has "
            f"{config.data.fit}; learn a prior with that"
        )


def _layout(seen: Layouts, condition: Condition, seed: int, number: int, attempt: int) -> Layouts:
    random = np.random.default_rng(mix(seed, "layout", number, attempt))
    return seen.draw(random, condition.low, condition.high)


def _fits(labels: Labels, condition: Condition) -> NDArray[np.bool_]:
    whole = areas(labels > 0, 1)[:, 0]
    enough = (labels > 0).sum((1, 2)) >= LEAST
    return np.asarray(enough & (whole >= condition.low) & (whole <= condition.high))
