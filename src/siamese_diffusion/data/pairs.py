"""An image with its mask. The paths may be those of members of an archive; see `tars`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siamese_diffusion.data.classes import AnyMask, present, prompt_for
from siamese_diffusion.data.decoding import PLAIN, Decoding, MaskSource
from siamese_diffusion.data.images import Pixels, read_header, square
from siamese_diffusion.errors import InputError


@dataclass(frozen=True)
class ImageFile:
    """An image of a folder."""

    path: Path
    decoding: Decoding = field(default=PLAIN, compare=False, repr=False)

    def read(self) -> Pixels:
        """uint8 (H, W, 3); errors as in `Decoding.image`."""
        return self.decoding.image(self.path)

    def squared(self, resolution: int) -> Pixels:
        """uint8 (R, R, 3) at `resolution` pixels; errors as in `read`."""
        return square(self.read(), resolution, self.decoding.settings.fit)


@dataclass(frozen=True)
class MaskFile:
    """A mask of a folder."""

    source: MaskSource
    decoding: Decoding = field(default=PLAIN, compare=False, repr=False)
    image: Path | None = field(default=None, compare=False)
    """Its image, whose size and orientation it has when it is read; None: its own."""

    @property
    def path(self) -> Path:
        """Its file, or the first of several."""
        return self.source.path

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that it is made of."""
        return self.source.files

    def read(self) -> AnyMask:
        """Boolean (H, W), or with `data.classes` a label map uint8 (H, W); errors as in `Decoding.mask`."""
        return self.decoding.mask(self.source, self.image)

    def size(self) -> tuple[int, int]:
        """Width and height in pixels, without the pixels; errors as in `images.read_header`."""
        return read_header(self.path if self.image is None else self.image).size

    def squared(self, resolution: int) -> AnyMask:
        """The same (R, R) at `resolution` pixels; errors as in `read`."""
        return square(self.read(), resolution, self.decoding.settings.fit)


@dataclass(frozen=True)
class Pair:
    """An image and its mask."""

    name: str
    image: ImageFile
    mask: MaskFile
    prompt: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """Further columns of `pairs.jsonl`: where a synthetic pair comes from."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that it is made of."""
        return self.image.path, *self.mask.files

    @property
    def group(self) -> str | None:
        """What the pair shares with others that must not be parted from it: a patient, a video. Column `group`."""
        return None if self.extra.get("group") is None else str(self.extra["group"])

    def read(self) -> tuple[Pixels, AnyMask]:
        """Image uint8 (H, W, 3) and mask boolean (H, W), or with `data.classes` a label map uint8 (H, W).

        Raises:
            InputError: a file cannot be read, or their sizes differ.
        """
        image, mask = self.image.read(), self.mask.decoding.mask(self.mask.source, self.image.path)
        if image.shape[:2] != mask.shape:  # an orientation that is found in the pixels' wake alone
            raise InputError(
                f"{self.mask.path}: is {mask.shape[1]} x {mask.shape[0]}, but its image {self.image.path} is "
                f"{image.shape[1]} x {image.shape[0]}"
            )
        return image, mask

    def squared(self, resolution: int) -> tuple[Pixels, AnyMask]:
        """Image uint8 (R, R, 3) and mask (R, R) at `resolution` pixels; errors as in `read`."""
        image, mask = self.read()
        return (
            square(image, resolution, self.image.decoding.settings.fit),
            square(mask, resolution, self.mask.decoding.settings.fit),
        )


def reading(pairs: Iterable[Pair] = (), images: Iterable[ImageFile] = ()) -> dict[str, Any]:
    """How the files of pairs, or images alone, are read, as JSON for what is kept of a run; empty where that is plain.

    Raises:
        InputError: the masks' values have no meaning that all agree on; see `Decoding.coding`.
    """
    of_pairs = {id(pair.mask.decoding): pair.mask.decoding for pair in pairs}
    of_images = {id(image.decoding): image.decoding for image in images}
    keys = [decoding.key for decoding in of_pairs.values()] + [decoding.image_key for decoding in of_images.values()]
    keys = [key for key in keys if key]
    return {"reading": keys} if keys else {}


def prompt_of(label: str) -> str:
    """What is asked of a generator where a pair has no prompt of its own: `label` is what the mask marks."""
    return f"A photo of {label}"


def prompt_of_mask(mask: AnyMask, label: str, classes: Sequence[str]) -> str:
    """The same for a mask: of several classes those that it holds are named."""
    return prompt_for(present(mask, classes)) if classes else prompt_of(label)
