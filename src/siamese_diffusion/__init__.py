"""Noise-consistent Siamese-Diffusion: new image-mask pairs from a few annotated ones (arXiv 2505.06068).

Every command of `siamese-diffusion` is a function of the same name and arguments here (`import_`, since `import` is
Python's own word); each is imported on first use. A folder is a text or a `Path`; settings are a `Config`, a mapping
such as `{"train.steps": 500}`, a preset's name or a YAML file.

Design note: `__init__.pyi` is the list of them, read by type checkers and here, one import a line.
"""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.2.0"

_STUB = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
_FOUND = {
    public: (module, name)
    for module, name, public in re.findall(r"^from (\S+) import (\w+) as (\w+)$", _STUB, re.MULTILINE)
}
_EARLIER = {"filter_": "filter", "make_phantoms": "phantoms"}
"""What two of them were called before 0.2.0."""

__all__ = [*_FOUND, "__version__"]


def __getattr__(name: str) -> Any:
    module, inside = _FOUND.get(_EARLIER.get(name, name), (None, ""))
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(module), inside)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
