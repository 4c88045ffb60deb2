"""An image with its mask. The paths may be those of members of an archive; see `tars`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siamese_diffusion.data.images import Mask, Pixels, read_image, read_mask
from siamese_diffusion.errors import InputError


@dataclass(frozen=True)
class Pair:
    """An image and its mask."""

    name: str
    image: Path
    mask: Path
    prompt: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """Further columns of `pairs.jsonl`: where a synthetic pair comes from."""

    @property
    def group(self) -> str | None:
        """What the pair shares with others that must not be parted from it: a patient, a video. Column `group`."""
        return None if self.extra.get("group") is None else str(self.extra["group"])


def prompt_of(label: str) -> str:
    """What is asked of a generator where a pair has no prompt of its own: `label` is what the mask marks."""
    return f"A photo of {label}"


def read_pair(pair: Pair) -> tuple[Pixels, Mask]:
    """Image uint8 (H, W, 3) and mask boolean (H, W).

    Raises:
        InputError: a file cannot be read, or their sizes differ.
    """
    image, mask = read_image(pair.image), read_mask(pair.mask)
    if image.shape[:2] != mask.shape:
        raise InputError(
            f"{pair.mask}: is {mask.shape[1]} x {mask.shape[0]}, but its image {pair.image} is "
            f"{image.shape[1]} x {image.shape[0]}"
        )
    return image, mask
