"""The generator and the network, loaded once, and the images that they draw and see; without a browser.

Each image is drawn alone, so that the first one is there soon, and is the one that `sample` draws for the same mask,
seed and settings in a batch of one.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from siamese_diffusion.data.images import Mask, Pixels
from siamese_diffusion.errors import InputError
from siamese_diffusion.settings import SampleConfig
from siamese_diffusion.webapp.desk import Row

if TYPE_CHECKING:
    from siamese_diffusion.diffusion.checkpoint import Trained
    from siamese_diffusion.diffusion.sample import Drawing
    from siamese_diffusion.segmentation.trained import TrainedNetwork

Watch = Callable[[int, int], None]
"""Is told the step and of how many, and may raise."""


class Drawn(NamedTuple):
    """An image (R, R, 3), and the mask that the network sees in it."""

    row: Row
    image: Pixels
    seen: Mask | None


class Painter:
    """What draws, on its device.

    Args:
        device: "auto", "cpu", "cuda" ...
        network: a run of `segment` that looks at every image; None: none does.
    """

    def __init__(self, device: str, network: Path | None) -> None:
        self.device, self.network_run = device, network
        self._network: TrainedNetwork | None = None
        self._loaded: tuple[Path, Trained, Drawing] | None = None

    def load(self, run: Path) -> "tuple[Trained, Drawing]":
        """The generator, from the second time on as it is.

        Raises:
            InputError: no finished run.
        """
        if self._loaded is not None and self._loaded[0] == run:
            return self._loaded[1:]
        from siamese_diffusion.config import update
        from siamese_diffusion.console import quiet
        from siamese_diffusion.device import make_accelerator, precision_on
        from siamese_diffusion.diffusion.checkpoint import load_trained
        from siamese_diffusion.diffusion.sample import Drawing

        quiet()
        trained = load_trained(run)
        if trained.config.data.classes:
            raise InputError(f"{run}: draws several classes in one mask, and this page paints one; `sample` takes it")
        engine = make_accelerator(trained.config.sample.precision, self.device, "fp16")
        precision = precision_on(engine.device, trained.config.sample.precision, "fp16")
        settings = update(trained.config, "sample", precision=precision, aspect="square").sample
        drawing = Drawing(trained, settings, engine, str(run), trained.config.data)
        self._loaded = run, trained, drawing
        return trained, drawing

    def network(self) -> "TrainedNetwork | None":
        """The network that looks at the images.

        Raises:
            InputError: no finished run of `segment`, or one of several classes.
        """
        if self.network_run is None:
            return None
        if self._network is None:
            from siamese_diffusion.device import find_device
            from siamese_diffusion.segmentation.trained import load_network

            network = load_network(self.network_run)
            if network.classes:
                raise InputError(
                    f"{self.network_run}: tells several classes apart, and this page shows one; `predict` takes it"
                )
            self._network = network.to(find_device(self.device))
        return self._network

    def resolution(self, run: Path) -> int:
        """Side of the images that a run draws."""
        return self.load(run)[0].config.data.resolution

    def draw(
        self, run: Path, mask: tuple[str, Path], seeds: Sequence[int], settings: dict[str, float], watch: Watch
    ) -> Iterator[Drawn]:
        """Draw an image for each seed.

        Args:
            run: a finished run of `train`.
            mask: name and file of a mask at the run's resolution.
            seeds: of the images' noise.
            settings: of `SampleConfig`: `steps`, `guidance`, `mask_guidance`.
            watch: told of every step of all images together.

        Raises:
            InputError: no such run, or a setting out of range.
        """
        import torch

        from siamese_diffusion.data.decoding import MaskSource
        from siamese_diffusion.data.pairs import MaskFile, prompt_of_mask
        from siamese_diffusion.diffusion.sample import Ready, Wanted, origin_of
        from siamese_diffusion.randomness import generator

        trained, drawing = self.load(run)
        wanted = Wanted(mask[0], mask[0], MaskFile(MaskSource((mask[1],))), 0)
        squared = wanted.mask.squared(drawing.resolution)
        prompt = prompt_of_mask(squared, drawing.label, drawing.classes)
        for number, seed in enumerate(seeds):
            drawing.settings = _changed(drawing.settings, {**settings, "seed": seed})
            steps = drawing.settings.steps
            noise = torch.randn(drawing.shape, generator=generator(seed, "noise", wanted.source, wanted.copy))
            ready = Ready(squared[None], [{"recipe": "none"}], [prompt], noise[None])
            tell = partial(_tell, watch, number * steps, len(seeds) * steps)
            image = drawing.draw(ready, tell)[0]
            seen, dice = self._look(image, squared)
            origin = origin_of(trained, drawing.settings) | {
                "batch_size": 1,
                "copy": 0,
                "source_mask": wanted.source,
                "mask_transform": {"recipe": "none"},
            }
            row: Row = {
                "name": f"{mask[0]}-{seed}",
                "mask": mask[0],
                "seed": seed,
                "dice": dice,
                "prompt": prompt,
                "origin": origin,
                "kept": False,
                "saved": None,
            }
            yield Drawn(row, image, seen)

    def _look(self, image: Pixels, asked: Mask) -> tuple[Mask | None, float | None]:
        """The mask that the network sees, and its Dice with the one asked for."""
        network = self.network()
        if network is None:
            return None, None
        seen = network.predict(image)
        both = int(seen.sum() + asked.sum())
        return seen, float(2 * (seen & asked).sum() / both) if both else 1.0


def _tell(watch: Watch, before: int, of: int, step: int) -> None:
    watch(before + step, of)


def _changed(settings: SampleConfig, changes: dict[str, float]) -> SampleConfig:
    from pydantic import ValidationError

    try:
        return SampleConfig(**{**settings.model_dump(), **changes})
    except ValidationError as error:
        wrong = error.errors()[0]
        raise InputError(f"{wrong['loc'][0]} = {wrong['input']}: {wrong['msg']}") from None
