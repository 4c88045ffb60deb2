"""Several classes in one mask: their names, the colours that a hint shows them in, and masks as planes.

A mask of one class is a boolean array. A mask of several is a label map, uint8: 0 background, 1 the first of
`data.classes`, 2 the second. Classes do not overlap: a pixel is of one of them, or of none.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from siamese_diffusion.pictures import CLASSES
from siamese_diffusion.settings import DataConfig, MaskValue

Labels = NDArray[np.uint8]  # (H, W)
AnyMask = NDArray[Any]  # (H, W): boolean, or labels


class Named(NamedTuple):
    """An entry of `data.classes`."""

    name: str
    value: MaskValue | None
    """The stored value or colour that means it; None: what the folder calls so."""


def entries(settings: DataConfig) -> list[Named]:
    """The classes of the settings in their order; none for one class without a name, or for "all"."""
    if settings.classes == "all":
        return []
    parts = (entry.partition("=") for entry in settings.classes)
    return [Named(name.strip(), value.strip() if equals else None) for name, equals, value in parts]


def class_names(settings: DataConfig) -> tuple[str, ...]:
    """Names of the classes in their order; empty for one class."""
    return tuple(entry.name for entry in entries(settings))


def hint_colours(count: int) -> NDArray[np.float32]:
    """Colours (count + 1, 3) in [0, 1] of the labels 0 ... count in a hint: black, then white for one class."""
    classes = CLASSES[:count] if count > 1 else ((1, 1, 1),)
    return np.array([(0, 0, 0), *classes], np.float32)


def shown_colours(count: int) -> NDArray[np.uint8]:
    """The same as 8-bit RGB, for pictures."""
    return (hint_colours(count) * 255).round().astype(np.uint8)


_WORDS = ("red", "green", "blue", "yellow", "magenta", "cyan", "white")


def legend(names: Sequence[str], true: str, seen: str) -> str:
    """What the outlines of `pictures.outlines` are: of one class green and magenta, of several left and right.

    Args:
        names: of the classes; empty for one.
        true, seen: what the first and the second mask are, "the true mask" and "what the network marks".
    """
    if not names:
        return f"Green: {true}. Magenta: {seen}."
    colours = [f"{name} {word}" for name, word in zip(names, _WORDS, strict=False)]
    more = ", the others in colours of their own" if len(names) > len(_WORDS) else ""
    return f"Left: {true}. Right: {seen}. Outlines: {', '.join(colours)}{more}."


def planes(masks: AnyMask, count: int) -> NDArray[np.bool_]:
    """Masks (..., H, W) as one boolean plane a class, (..., count, H, W)."""
    if masks.dtype == np.bool_:
        return np.asarray(masks[..., None, :, :])
    return np.stack([masks == label for label in range(1, count + 1)], -3)


def join(found: NDArray[np.bool_]) -> AnyMask:
    """The mask (H, W) of planes (K, H, W): boolean for one; where several are set the last counts."""
    if len(found) == 1:
        return np.asarray(found[0])
    labels = np.zeros(found.shape[1:], np.uint8)
    for label, plane in enumerate(found, 1):
        labels[plane] = label
    return labels


def every_prompt(names: Sequence[str]) -> list[str]:
    """`prompt_for` each set of classes, the empty one among them; for few classes."""
    return [prompt_for([name for i, name in enumerate(names) if held >> i & 1]) for held in range(2 ** len(names))]


def stored_mask(mask: AnyMask) -> NDArray[np.uint8]:
    """A mask as its file holds it: 0 and 255 for one class, the labels themselves for several."""
    return mask.astype(np.uint8) * 255 if mask.dtype == np.bool_ else mask.astype(np.uint8)


def present(mask: AnyMask, names: Sequence[str]) -> list[str]:
    """Names of the classes that a label map holds, in their order."""
    held = np.bincount(np.asarray(mask, np.uint8).ravel(), minlength=len(names) + 1)
    return [name for label, name in enumerate(names, 1) if held[label]]


def prompt_for(names: Sequence[str]) -> str:
    """What is asked of a generator: "A photo of nucleus and cytoplasm"; nothing where there is no class."""
    if not names:
        return ""
    *others, last = names
    return f"A photo of {', '.join(others)} and {last}" if others else f"A photo of {last}"
