"""The segmentation networks, by name.

Every network takes (B, 3, R, R) float RGB images in [0, 1], R a multiple of 32, and returns (B, 1, R, R) logits. It
normalises them itself (`normalize.py`), so that callers never need to know which network they hold.

To add one: a file here with `create(pretrained: bool) -> nn.Module`, and its name in `_NAMES`.
"""

from importlib import import_module

from torch import nn

from siamese_diffusion.errors import InputError

_NAMES = (
    "unet",
    "segformer",
)


def names() -> list[str]:
    """The networks that `create` knows."""
    return list(_NAMES)


def create(name: str, pretrained: bool = False) -> nn.Module:
    """A network: (B, 3, R, R) float RGB images in [0, 1] -> (B, 1, R, R) logits of the mask.

    Args:
        name: one of `names()`.
        pretrained: start the encoder from ImageNet weights, downloaded on first use; otherwise from random ones.

    Raises:
        InputError: there is no such network, or its ImageNet weights cannot be had.
    """
    if name not in _NAMES:
        raise InputError(f"segment.network = {name}: no such network; choose from {', '.join(_NAMES)}")
    build = import_module(f"{__name__}.{name}").create
    if not pretrained:
        network: nn.Module = build(False)
        return network
    try:
        network = build(True)
    except Exception as error:  # what a failed download raises differs by version of the hub's client and its HTTP library
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"segment.pretrained: the ImageNet weights of {name} cannot be downloaded ({reason}); "
            "set segment.pretrained=false, or run once where the Hugging Face hub can be reached"
        ) from error
    return network
