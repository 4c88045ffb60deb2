"""Noise-consistent Siamese-Diffusion: new image-mask pairs from a few annotated ones (arXiv 2505.06068).

Every command of `siamese-diffusion` is a function of the same name and arguments here; each is imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siamese_diffusion.data.check import check as check
    from siamese_diffusion.data.phantom import make_phantoms as make_phantoms
    from siamese_diffusion.demonstration import demo as demo
    from siamese_diffusion.diffusion.original import export as export
    from siamese_diffusion.diffusion.original import import_ as import_
    from siamese_diffusion.diffusion.original import load_original as load_original
    from siamese_diffusion.diffusion.pretrain import pretrain as pretrain
    from siamese_diffusion.diffusion.sample import sample as sample
    from siamese_diffusion.diffusion.siamese import SiameseDiffusion as SiameseDiffusion
    from siamese_diffusion.diffusion.train import train as train
    from siamese_diffusion.scoring import evaluate as evaluate
    from siamese_diffusion.segmentation.train import segment as segment

__version__ = "0.1.0"

_PLACES = {
    "SiameseDiffusion": ("diffusion.siamese", "SiameseDiffusion"),
    "check": ("data.check", "check"),
    "demo": ("demonstration", "demo"),
    "evaluate": ("scoring", "evaluate"),
    "export": ("diffusion.original", "export"),
    "import_": ("diffusion.original", "import_"),
    "load_original": ("diffusion.original", "load_original"),
    "make_phantoms": ("data.phantom", "make_phantoms"),
    "pretrain": ("diffusion.pretrain", "pretrain"),
    "sample": ("diffusion.sample", "sample"),
    "segment": ("segmentation.train", "segment"),
    "train": ("diffusion.train", "train"),
}

__all__ = [*_PLACES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)
