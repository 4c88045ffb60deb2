"""Files of tensors. Reading one executes nothing; a damaged file, or one of another kind, raises an `InputError`."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from siamese_diffusion.errors import InputError


def read_tensors(path: Path, mapped: bool = False) -> Any:
    """What a `.safetensors` file or one of `torch.save` holds, on the CPU.

    Args:
        mapped: leave a file of `torch.save` on disk until its tensors are used; it must stay there as long.

    Raises:
        InputError: no such file, or it is torn, of another kind, or holds more than tensors and plain values.
    """
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
