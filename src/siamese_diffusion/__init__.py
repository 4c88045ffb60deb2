"""Noise-consistent Siamese-Diffusion: new image-mask pairs from a few annotated ones (arXiv 2505.06068).

Every command of `siamese-diffusion` is a function of the same name and arguments here; each is imported on first use.

Design note: `__init__.pyi` is the list of them, read by type checkers and here, one import a line.
"""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_STUB = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
_MODULES = {name: module for module, name in re.findall(r"^from (\S+) import (\w+) as \2$", _STUB, re.MULTILINE)}

__all__ = [*_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
