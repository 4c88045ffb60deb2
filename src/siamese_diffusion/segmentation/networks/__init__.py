"""The segmentation networks, by name.

Every network takes (B, 3, R, R) float RGB images in [0, 1], R a multiple of 32, and returns (B, 1, R, R) logits. It
normalises them itself (`normalize.py`), so that callers never need to know which network they hold. One that is trained
on more than these logits has a method `outputs(images) -> Outputs` besides; `outputs` here asks any network.

To add one: a file here with `create(pretrained: bool) -> nn.Module`, and its name in `_NAMES`; its training recipe goes
into `siamese_diffusion.network_recipes`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from torch import Tensor, nn

from siamese_diffusion.errors import InputError
from siamese_diffusion.segmentation.networks.blocks import Outputs

_NAMES = (
    "unet",
    "segformer",
    "unet_plain",
    "sanet",
    "polyp_pvt",
    "ctnet",
)
BACKBONES = {
    "unet": "1.encoder.",
    "segformer": "model.segformer.",
    "sanet": "bkbone.",
    "polyp_pvt": "backbone.",
    "ctnet": "backbone.",
}
"""What the parameter names of a network's encoder begin with, which may come pretrained and learn at a rate of its
own."""


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
        with _fast_failure():
            network = build(True)
    except InputError:
        raise
    except (
        Exception
    ) as error:  # what a failed download raises differs by version of the hub's client and its HTTP library
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"segment.pretrained: the ImageNet weights of {name} cannot be downloaded ({reason}); "
            "set segment.pretrained=false, or run once where the Hugging Face hub can be reached"
        ) from error
    return network


def outputs(network: nn.Module, images: Tensor) -> Outputs:
    """What `network` is trained on: its `outputs(images)` where it has them, else its one logit map."""
    own = getattr(network, "outputs", None)
    if own is None:
        return Outputs([network(images)])
    found: Outputs = own(images)
    return found


@contextmanager
def _fast_failure() -> Iterator[None]:
    """Where the hub cannot be reached, look in its cache only, instead of trying for more than a minute."""
    from huggingface_hub import constants, get_session

    before = constants.HF_HUB_OFFLINE
    try:
        if not before:
            get_session().head(constants.ENDPOINT, timeout=10)
    except Exception:  # the HTTP library, and with it the exception, differs by version of the hub's client
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
