"""Tensors in files: nothing in a file is executed, a torn one is one line, and weights that are not finite are refused."""

import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from siamese_diffusion.errors import InputError
from siamese_diffusion.interrupt import undisguised


def read_tensors(path: Path, mapped: bool = False) -> Any:
    """What a `.safetensors` file or one of `torch.save` holds, on the CPU.

    Args:
        mapped: leave a file of `torch.save` on disk until its tensors are used; it must stay there as long.

    Raises:
        InputError: no such file, or it is torn, of another kind, or holds more than tensors and plain values.
        KeyboardInterrupt: Ctrl-C meanwhile, which the libraries below may take for a torn file.
    """
    with undisguised():
        return _read(path, mapped)


def _read(path: Path, mapped: bool) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except pickle.UnpicklingError:  # whose own text advises to run what the file holds
        reason = "it is torn, of another kind, or holds more than tensors, which could run code"
    except Exception as error:  # a torn pickle may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise InputError(f"{path}: cannot be read as weights ({reason})")


def not_finite(value: Any) -> str | None:
    """The name of the first tensor that holds an infinity or NaN in a tensor or in nested dictionaries and sequences.

    The device is waited for once, not once a tensor.
    """
    names, found = [], []
    for name, tensor in _floats(value, ""):
        names.append(name)
        found.append(torch.stack(torch.aminmax(tensor.detach())).isfinite().all())  # either is NaN where any entry is
    if not found:
        return None
    finite = torch.stack([each.to(found[0].device) for each in found]).tolist()
    return next((name for name, good in zip(names, finite, strict=True) if not good), None)


def require_finite(value: Any, where: object) -> None:
    """Refuse weights that hold an infinity or NaN.

    Args:
        value: as in `not_finite`.
        where: the file or folder, for the error.

    Raises:
        InputError: they do.
    """
    name = not_finite(value)
    if name is not None:
        raise InputError(f"{where}: holds weights that are not finite ({name}): the training they come from has diverged")


def _floats(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.itemsize > 1 and value.numel():
            yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _floats(entry, f"{name}.{key}" if name else str(key))
