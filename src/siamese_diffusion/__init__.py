"""Noise-consistent Siamese-Diffusion: new image-mask pairs from a few annotated ones (arXiv 2505.06068).

Every command of `siamese-diffusion` is a function of the same name and arguments here; each is imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siamese_diffusion.data.check import check as check
    from siamese_diffusion.data.fetch.get import get_data as get_data
    from siamese_diffusion.data.fetch.get import list_data as list_data
    from siamese_diffusion.data.phantom import make_phantoms as make_phantoms
    from siamese_diffusion.demonstration import demo as demo
    from siamese_diffusion.diffusion.original import export as export
    from siamese_diffusion.diffusion.original import import_ as import_
    from siamese_diffusion.diffusion.original import load_original as load_original
    from siamese_diffusion.diffusion.pretrain import pretrain as pretrain
    from siamese_diffusion.diffusion.sample import sample as sample
    from siamese_diffusion.diffusion.siamese import SiameseDiffusion as SiameseDiffusion
    from siamese_diffusion.diffusion.train import train as train
    from siamese_diffusion.evaluation.evaluate import evaluate as evaluate
    from siamese_diffusion.evaluation.filter import filter_ as filter_
    from siamese_diffusion.reader_study.rating import export_ratings as export_ratings
    from siamese_diffusion.reader_study.rating import score_ratings as score_ratings
    from siamese_diffusion.segmentation.segment import segment as segment
    from siamese_diffusion.studies.study import study as study

__version__ = "0.1.0"

_PLACES = {
    "SiameseDiffusion": ("diffusion.siamese", "SiameseDiffusion"),
    "check": ("data.check", "check"),
    "demo": ("demonstration", "demo"),
    "evaluate": ("evaluation.evaluate", "evaluate"),
    "export": ("diffusion.original", "export"),
    "export_ratings": ("reader_study.rating", "export_ratings"),
    "filter_": ("evaluation.filter", "filter_"),
    "get_data": ("data.fetch.get", "get_data"),
    "import_": ("diffusion.original", "import_"),
    "list_data": ("data.fetch.get", "list_data"),
    "load_original": ("diffusion.original", "load_original"),
    "make_phantoms": ("data.phantom", "make_phantoms"),
    "pretrain": ("diffusion.pretrain", "pretrain"),
    "sample": ("diffusion.sample", "sample"),
    "score_ratings": ("reader_study.rating", "score_ratings"),
    "segment": ("segmentation.segment", "segment"),
    "study": ("studies.study", "study"),
    "train": ("diffusion.train", "train"),
}

__all__ = [*_PLACES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)
