"""The segmentation networks, by name: six published ones, and `smp`, which is any encoder under any decoder of
segmentation-models-pytorch.

Every network takes (B, 3, R, R) float RGB images in [0, 1], R a multiple of 32, and returns (B, 1, R, R) logits. It
normalises them itself (`normalize.py`), so that callers never need to know which network they hold. One that is trained
on more than these logits has a method `outputs(images) -> Outputs` besides; `outputs` here asks any network.

To add one: a file here with `create(pretrained: bool) -> nn.Module`, and its name and its training recipe in
`siamese_diffusion.network_recipes`.
"""

from collections.abc import Iterable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from siamese_diffusion.config import SegmentConfig
from siamese_diffusion.errors import InputError, reason
from siamese_diffusion.hub import fast_failure
from siamese_diffusion.network_recipes import NETWORKS
from siamese_diffusion.segmentation.networks.blocks import Outputs

BACKBONES = {
    "unet": "1.encoder.",
    "segformer": "model.segformer.",
    "sanet": "bkbone.",
    "polyp_pvt": "backbone.",
    "ctnet": "backbone.",
    "smp": "network.encoder.",
}
"""What the parameter names of a network's encoder begin with, which may come pretrained and learn at a rate of its
own."""


BINARY = frozenset({"unet_plain", "sanet", "polyp_pvt", "ctnet"})
"""Networks whose published loss is of one class."""


def names() -> list[str]:
    """The networks that `create` knows."""
    return list(NETWORKS)


def create(name: str, pretrained: bool = False, classes: int = 1, **parts: str | None) -> nn.Module:
    """A network: (B, 3, R, R) float RGB images in [0, 1] -> (B, 1, R, R) logits of the mask, or of several classes
    (B, classes + 1, R, R), the background first.

    Args:
        name: one of `names()`.
        pretrained: start the encoder from ImageNet weights, downloaded on first use; otherwise from random ones.
        classes: how many there are in a mask.
        parts: of `smp` alone: its `encoder`, `architecture` and `weights`; see `smp.create`.

    Raises:
        InputError: there is no such network, it is for one class alone, or its ImageNet weights cannot be had.
    """
    _require_name(name, classes)
    build = import_module(f"{__name__}.{name}").create
    if classes > 1:
        build = partial(build, classes=classes + 1)
    if not pretrained or name == "smp":  # which says itself what cannot be had
        network: nn.Module = build(pretrained, **parts)
        return network
    try:
        with fast_failure():
            network = build(True)
    except InputError:
        raise
    except Exception as error:  # what a failed download raises differs by version of the hub's client
        raise InputError(
            f"segment.pretrained: the ImageNet weights of {name} cannot be downloaded ({reason(error)}); "
            "set segment.pretrained=false, or run once where the Hugging Face hub can be reached"
        ) from error
    return network


def _require_name(name: str, classes: int = 1) -> None:
    if classes > 1 and name in BINARY:
        others = ", ".join(each for each in NETWORKS if each not in BINARY)
        raise InputError(
            f"segment.network = {name}: is published for one class, and data.classes names {classes}; choose from "
            f"{others}"
        )
    if name not in NETWORKS:
        raise InputError(f"segment.network = {name}: no such network; choose from {', '.join(NETWORKS)}")


def of(settings: SegmentConfig, pretrained: bool = False, classes: int = 1) -> nn.Module:
    """The network of `settings`; arguments and errors as in `create`."""
    several: dict[str, Any] = {"classes": classes} if classes > 1 else {}
    if settings.network != "smp":
        return create(settings.network, pretrained, **several)
    parts: dict[str, Any] = {
        "encoder": settings.encoder,
        "architecture": settings.architecture,
        "weights": settings.weights,
    }
    return create(settings.network, pretrained, **several, **parts)


def begins_pretrained(settings: SegmentConfig) -> bool | str:
    """Whether the network of `settings` is to begin with other than random weights; "auto": where they can be had."""
    return settings.weights != "random" if settings.network == "smp" else settings.pretrained


def weights_note(settings: SegmentConfig) -> dict[str, str]:
    """Where the weights come from that network smp of `settings` begins with; see `smp.note_of_weights`."""
    from siamese_diffusion.segmentation.networks.smp import note_of_weights

    return note_of_weights(str(settings.encoder), str(settings.weights))


def require(settings: SegmentConfig, sides: Iterable[int], begun: bool = False, classes: int = 1) -> None:
    """Refuse a network that cannot be had, or not at one of these sizes, before a run has begun.

    Args:
        settings: of the run.
        sides: of the images that it will see, in pixels.
        begun: a checkpoint is there, and the weights to begin with are not needed.
        classes: how many there are in a mask.

    Raises:
        InputError: there is no such network, encoder or architecture, they do not go together, the weights cannot be
            had or are of another encoder, or an image of one of `sides` pixels cannot be taken.
    """
    _require_name(settings.network, classes)
    if settings.network != "smp":
        return  # these take every multiple of 32
    with torch.random.fork_rng(devices=[]):
        network = of(settings, bool(begins_pretrained(settings)) and not begun, classes)
        rows = min(2, settings.batch_size, settings.micro_batch if isinstance(settings.micro_batch, int) else 2)
        for side in sorted(set(sides)):
            try:
                with torch.no_grad():
                    network.train()(torch.zeros(rows, 3, side, side))
                    found = network.eval()(torch.zeros(1, 3, side, side)).shape
            except MemoryError:
                raise
            except Exception as error:  # encoders differ in how they refuse an image
                raise InputError(
                    f"segment.encoder = {settings.encoder} with segment.architecture = {settings.architecture}: cannot "
                    f"take {rows} image{'s' * (rows > 1)} of {side} pixels ({reason(error)}); choose another "
                    f"segment.resolution{', a larger batch' * (rows < 2)} or another encoder"
                ) from None
            if found != (1, 1 if classes == 1 else classes + 1, side, side):
                raise InputError(
                    f"segment.architecture = {settings.architecture}: gives a map of {found[-2]} x {found[-1]} for an "
                    f"image of {side} pixels with {settings.encoder}; choose another"
                )


def outputs(network: nn.Module, images: Tensor) -> Outputs:
    """What `network` is trained on: its `outputs(images)` where it has them, else its one logit map."""
    own = getattr(network, "outputs", None)
    if own is None:
        return Outputs([network(images)])
    found: Outputs = own(images)
    return found
