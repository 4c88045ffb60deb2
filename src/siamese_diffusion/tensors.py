"""Files of tensors. Nothing in a file is executed, and one that is torn or of another kind is one line.

Design note: a handler of signals may run inside a library's compiled code, which takes what the handler raises for a fault
of the file. So whoever pressed Ctrl-C while weights were read was told that they are damaged; see `interruptible`.
"""

import pickle
import re
import signal
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from siamese_diffusion.errors import InputError, reason, system_refusal


def read_tensors(path: Path, mapped: bool = False) -> Any:
    """What a `.safetensors` file or one of `torch.save` holds, on the CPU.

    Args:
        mapped: leave a file of `torch.save` on disk until its tensors are used; it must stay there as long.

    Raises:
        InputError: no such file, or it is torn, of another kind, or holds more than tensors and plain values.
        MemoryError: there is not as much as the file holds.
    """
    with interruptible():
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


@contextmanager
def interruptible() -> Iterator[None]:
    """What a signal's handler raises in the block, the block raises, whatever a library made of it."""
    raised: list[BaseException] = []
    told = sys.unraisablehook

    def passing(handler: Callable[[int, Any], Any]) -> Callable[[int, Any], None]:
        def handle(number: int, frame: Any) -> None:
            try:
                handler(number, frame)
            except BaseException as error:
                raised.append(error)
                raise

        return handle

    def tell(found: "sys.UnraisableHookArgs") -> None:
        if not any(found.exc_value is error for error in raised):  # it will be raised below
            told(found)

    before: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():  # no other runs handlers
            sys.unraisablehook = tell
            for number in (int(signal.SIGINT), int(signal.SIGTERM)):
                handler = signal.getsignal(number)
                if callable(handler):
                    before[number] = handler
                    signal.signal(number, passing(handler))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if before:
            sys.unraisablehook = told
        if raised:
            raise raised[0]


def _read(path: Path, mapped: bool) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    zipped = zipfile.is_zipfile(path)
    if zipped:
        _require_stored(path)
    value = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and zipped)
    _require_plain(value, path)
    return value


def _require_stored(path: Path) -> None:
    """`torch.save` never packs what it stores, so a file that grows when it is read is not its."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise InputError(f"{path}: cannot be read as weights (it is a ZIP file of packed files)")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise InputError(f"{path}: cannot be read as weights (it is torn)")


def _require_plain(value: Any, path: Path) -> None:
    """Tensors lie on the CPU in full: one that is one number, shown a billion times, would fill the memory when copied."""
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
