"""How the files of one folder are read: what belongs to the folder as a whole is decided once, not file by file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siamese_diffusion.config import DataConfig
from siamese_diffusion.data.images import Mask, Pixels, read_image, read_mask


@dataclass(frozen=True)
class MaskSource:
    """What a mask is made of."""

    files: tuple[Path, ...]
    """Mask images of one size; what any of them marks is marked."""

    @property
    def path(self) -> Path:
        """The file that an error names."""
        return self.files[0]


class Decoding:
    """How images and masks of a folder become arrays.

    Args:
        settings: `data` of the settings; default: the defaults.
        images: the folder's images.
        masks: the folder's masks.
    """

    def __init__(
        self, settings: DataConfig | None = None, images: Sequence[Path] = (), masks: Sequence[MaskSource] = ()
    ) -> None:
        self.settings = settings or DataConfig()
        self.images, self.masks = images, masks

    @property
    def key(self) -> dict[str, Any]:
        """The settings that what is read depends on, as JSON: part of the name of whatever caches it."""
        return {}

    def image(self, path: Path) -> Pixels:
        """An image as uint8 (H, W, 3); errors as in `images.read_image`."""
        return read_image(path, self.settings.max_pixels)

    def mask(self, source: MaskSource) -> Mask:
        """A mask as boolean (H, W); errors as in `images.read_mask`."""
        masks = [read_mask(path, self.settings.max_pixels) for path in source.files]
        return masks[0] if len(masks) == 1 else np.asarray(np.any(masks, axis=0))


PLAIN = Decoding()
"""For a file that comes without a folder."""
