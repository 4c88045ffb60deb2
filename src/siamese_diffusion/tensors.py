"""Files of tensors. Reading one executes nothing; a damaged or non-finite one raises a one-line InputError."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from siamese_diffusion.errors import InputError, reason, system_refusal
from siamese_diffusion.interrupt import undisguised


def read_tensors(path: Path, mapped: bool = False) -> Any:
    """What a `.safetensors` file or one of `torch.save` holds, on the CPU.

    Args:
        mapped: leave a file of `torch.save` on disk until its tensors are used; it must stay there as long.

    Raises:
        InputError: no such file, or it is torn, of another kind, or holds more than tensors and plain values.
        MemoryError: there is not as much as the file holds.
    """
    with undisguised():
        try:
            return _read(path, mapped)
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{path}: no such file") from None
        except (InputError, MemoryError):
            raise
        except Exception as error:  # a torn pickle may raise anything
            if isinstance(error, OSError) and error.errno is not None:
                raise system_refusal(f"{path}: cannot be read as weights", error) from None
            _raise_lack_of_memory(path, error)
            why = reason(error)
            if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
                # whose own text advises to run what the file holds
                why = "it is torn, of another kind, or holds more than tensors, which could run code"
            raise InputError(f"{path}: cannot be read as weights ({why})") from None


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors by name of a file that holds nothing else; errors as in `read_tensors`."""
    state = read_tensors(path)
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise InputError(f"{path}: cannot be read as weights (expected a state dict, names to tensors)")
    return state


def state_of(content: Any, where: str) -> dict[str, Tensor]:
    """The state dict that a file's content is or has under `state_dict`, without `module.` before its names.

    Raises:
        InputError: it holds none; the line begins with `where`.
    """
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(value, Tensor) for value in content.values())
    ):
        raise InputError(f"{where}: expected a state dict, names to tensors")
    return {key.removeprefix("module."): value for key, value in content.items()}


def _read(path: Path, mapped: bool) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    zipped = zipfile.is_zipfile(path)
    if zipped:
        _require_stored(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of programs and old forms, which are refused or are none of the user's
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and zipped)
    _require_plain(value, path)
    return value


def _require_stored(path: Path) -> None:
    """`torch.save` never packs what it stores, so a file that grows when it is read is not its."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise InputError(f"{path}: cannot be read as weights (it is a TorchScript program, which would be run)")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise InputError(f"{path}: cannot be read as weights (it is a ZIP file of packed files)")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise InputError(f"{path}: cannot be read as weights (it is torn)")


def _require_plain(value: Any, path: Path) -> None:
    """Tensors lie on the CPU in full: one that is one number, shown a billion times, would fill the memory when
    copied."""
    left, seen = [value], set()
    while left:
        item = left.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Mapping):
            left += item.values()
        elif isinstance(item, list | tuple | set | frozenset):
            left += item
        elif isinstance(item, Tensor):
            dense = item.layout is torch.strided and item.device.type == "cpu" and not item.is_quantized
            if not dense or item.numel() * item.element_size() > item.untyped_storage().nbytes():
                raise InputError(f"{path}: cannot be read as weights (it holds a tensor that is not stored in full)")


def _raise_lack_of_memory(path: Path, error: Exception) -> None:
    """A file of which less is there than it asks memory for is damaged; else the machine is too small for it."""
    if "allocate memory" in str(error):
        asked = re.search(r"allocate (\d+) bytes", str(error))
        if asked is None or int(asked[1]) <= path.stat().st_size:
            raise MemoryError(str(error)) from None


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
        raise InputError(
            f"{where}: holds weights that are not finite ({name}): the training they come from has diverged"
        )


def _floats(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.itemsize > 1 and value.numel():
            yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _floats(entry, f"{name}.{key}" if name else str(key))
