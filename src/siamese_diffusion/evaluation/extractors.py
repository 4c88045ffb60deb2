"""Feature extractors by name. None of their weights ship with the package; what cannot be had is said in one line.

- `inception`: Inception-v3 of the original FID, pool3 (2048), weights of torch-fidelity.
- `clip`: CLIP ViT-L/14 at 336 px, projected image embeddings (768); `clip:FOLDER` for a copy on disk.
- `dinov2`: DINOv2 ViT-L/14 at 224 px (1024), from timm.
- `timm:NAME`: any model of timm with its pretrained weights, from an installed package of weights where one has them
  (`timm:tf_efficientnet_lite0`, extra `imagenet`); `timm:NAME@FILE.safetensors` with local ones.

The extractor `judge`, features of a segmentation network trained on the user's real images, needs no weights from
outside; it is made by `judge.embedder`, since networks of `segmentation` are not this room's.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_diffusion import extras
from siamese_diffusion.device import autocast
from siamese_diffusion.errors import InputError, reason
from siamese_diffusion.evaluation.features import Extractor
from siamese_diffusion.imagenet import PACKAGES, installed, weights
from siamese_diffusion.interrupt import undisguised
from siamese_diffusion.pretrained import load_network
from siamese_diffusion.tensors import read_state

CLIP = "openai/clip-vit-large-patch14-336"
DINOV2 = "vit_large_patch14_dinov2.lvd142m"
KNOWN = "judge, inception, clip, clip:FOLDER, dinov2, timm:NAME, timm:NAME@FILE.safetensors, lpips"
OFFLINE = (
    "--features judge works offline, and so do clip:FOLDER, timm:NAME@FILE.safetensors and, with the extra imagenet, "
    "timm:tf_efficientnet_lite0"
)


def create(name: str, device: torch.device) -> Extractor:
    """The extractor `name` on `device`, in eval mode.

    Raises:
        InputError: an unknown name, or its weights cannot be had.
    """
    if name == "inception":
        return _inception(device)
    if name == "clip" or name.startswith("clip:"):
        return _clip(name, device)
    if name == "dinov2":
        return _timm(name, DINOV2, None, device, {"img_size": 224})
    if name.startswith("timm:"):
        model, at, file = name.removeprefix("timm:").partition("@")
        return _timm(name, model, Path(file) if at else None, device, {})
    raise InputError(f"--features {name}: no such extractor; choose from {KNOWN}")


def in_precision(extractor: Extractor, device: torch.device, precision: str) -> Extractor:
    """`extractor`, run in `precision`: "fp32", "tf32", "bf16" or "fp16"; features of each are cached apart."""
    if precision == "fp32":
        return extractor

    def embed(images: Tensor) -> Tensor:
        with autocast(device, precision):
            return extractor.embed(images)

    return replace(extractor, embed=embed, key=f"{extractor.key}-{precision}")


def weights_hash(module: nn.Module) -> str:
    """16 hexadecimal digits of the SHA-256 over a module's weights and their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def weights_of(name: str) -> Iterator[None]:
    """Loads pickles as tensors only, and turns whatever a failed download raises into one line.

    Raises:
        InputError: the block raised.
    """
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # libraries below still ask for unrestricted pickles
    try:
        with undisguised():
            yield
    except InputError:
        raise
    except Exception as error:  # hubs, HTTP libraries and versions differ in what they raise
        raise InputError(f"--features {name}: its weights cannot be had ({reason(error)}); {OFFLINE}") from error
    finally:
        if before is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before


def _inception(device: torch.device) -> Extractor:
    extras.require(("torch_fidelity",), "metrics", "--features inception")
    with weights_of("inception"):
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        module = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).to(device)

    def embed(images: Tensor) -> Tensor:
        return torch.as_tensor(module(images.to(device))[0])

    return Extractor(
        "inception", embed, weights_hash(module), "299 px, bilinear as in TensorFlow 1", family="inception"
    )


def _clip(name: str, device: torch.device) -> Extractor:
    source = name.removeprefix("clip").removeprefix(":") or CLIP
    if source != CLIP and not Path(source).is_dir():
        raise InputError(f"--features {name}: {source} is not a folder")
    with weights_of(name):
        from transformers import CLIPVisionModelWithProjection

        what = f"--features {name}: its weights cannot be had; {OFFLINE}"
        besides = ("text_model.", "text_projection.")
        module: Any = load_network(CLIPVisionModelWithProjection, source, "", what, besides).to(device).eval()
    side = int(module.config.image_size)
    normalize = _normalizer((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), device)

    def embed(images: Tensor) -> Tensor:
        return torch.as_tensor(module(pixel_values=normalize(_resize(images.to(device), side, "bicubic"))).image_embeds)

    return Extractor(name, embed, weights_hash(module), f"{side} px, bicubic", family="clip")


def _timm(name: str, model: str, file: Path | None, device: torch.device, arguments: dict[str, Any]) -> Extractor:
    import timm

    if not timm.is_model(model):
        raise InputError(f"--features {name}: timm has no model {model}; `timm.list_models()` lists them")
    if file is not None and not file.is_file():
        raise InputError(f"--features {name}: {file} is not a file")
    packages = {package.model: (each, package) for each, package in PACKAGES.items() if installed(each, package)}
    with weights_of(name):
        hub = file is None and model not in packages
        module = timm.create_model(model, pretrained=hub, num_classes=0, **arguments)
    if file is None and not hub:
        module.load_state_dict(weights(*packages[model], f"--features {name}"), strict=False)  # but the classifier
    if file is not None:
        _load(module, file, name)
    settings = timm.data.resolve_model_data_config(module)
    side, filtered = int(settings["input_size"][-1]), str(settings["interpolation"])
    filtered = filtered if filtered in ("bilinear", "bicubic") else "bicubic"
    module = module.to(device).eval()
    normalize = _normalizer(settings["mean"], settings["std"], device)

    def embed(images: Tensor) -> Tensor:
        return torch.as_tensor(module(normalize(_resize(images.to(device), side, filtered))))

    return Extractor(name, embed, weights_hash(module), f"{side} px, {filtered}")


def _load(module: nn.Module, file: Path, name: str) -> None:
    """Weights of a timm model with or without its classifier, which is not used."""
    weights = read_state(file)
    try:
        missing = module.load_state_dict(weights, strict=False).missing_keys
    except RuntimeError:
        missing = ["one of its size"]
    if missing:
        raise InputError(f"--features {name}: {file} holds no weights of that model (it lacks {missing[0]})")


def _normalizer(mean: Any, std: Any, device: torch.device) -> Callable[[Tensor], Tensor]:
    middle, spread = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (mean, std))
    return lambda images: (images - middle) / spread


def _resize(images: Tensor, side: int, mode: str) -> Tensor:
    """uint8 (B, 3, R, R) to float (B, 3, side, side) in [0, 1]."""
    scaled = images.float() / 255
    if scaled.shape[-1] == side:
        return scaled
    return F.interpolate(scaled, size=(side, side), mode=mode, align_corners=False, antialias=True).clamp(0, 1)
