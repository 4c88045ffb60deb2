"""Which device a command runs on, and in which precision.

Design note: `find_device` asks torch alone. accelerate keeps the first device and precision of a process for good, so
`make_accelerator` clears that first: a study trains with several.
"""

import os

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from siamese_diffusion.errors import InputError

SIXTEEN_BITS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def find_device(name: str = "auto") -> torch.device:
    """The device called `name`: "cpu", "cuda" (this process's), "cuda:1", "mps"; "auto": a GPU where there is one.

    Raises:
        InputError: there is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(f"--device {name}: not available here; use auto or cpu") from None
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if name == "cuda" else device


def precision_on(device: torch.device, precision: str, fastest: str = "bf16") -> str:
    """What `precision` means on `device`: "auto" is `fastest` on a GPU that computes in it, else "fp32".

    Args:
        device: from `find_device`.
        precision: of the settings.
        fastest: "bf16", whose range is that of 32-bit floats; or "fp16", eight times as fine, where nothing large
            occurs.

    Raises:
        InputError: the device does not compute in it.
    """
    cuda = device.type == "cuda"
    native = cuda and torch.cuda.get_device_capability(device) >= (8, 0)
    if precision == "auto":
        return fastest if native or (cuda and fastest == "fp16") else "fp32"
    if (precision == "tf32" and not native) or (precision == "bf16" and cuda and not native):
        name = torch.cuda.get_device_name(device) if cuda else str(device)
        raise InputError(
            f"precision = {precision}: {name} does not compute in it; set {'fp16 or ' if cuda else ''}fp32"
        )
    return precision


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given, so that a clock tells how long that took."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def set_tf32(device: torch.device, precision: str) -> None:
    """Whether products and convolutions of 32-bit floats run in TF32: on a GPU, unless `precision` is fp32."""
    allowed = device.type == "cuda" and precision != "fp32"
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context whose products and convolutions run in the 16 bits of `precision`; without effect for fp32 and tf32."""
    dtype = SIXTEEN_BITS.get(precision)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def make_accelerator(precision: str = "fp32", device: str = "auto", fastest: str = "bf16") -> Accelerator:
    """The accelerate engine on `device`, in `precision`, see `precision_on`; TF32 as `set_tf32`.

    Raises:
        InputError: there is no such device here, or it does not compute in that precision.
    """
    where = find_device(device)
    resolved = precision_on(where, precision, fastest)
    set_tf32(where, resolved)
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ.pop("ACCELERATE_TORCH_DEVICE", None)
    if device not in ("auto", "cpu"):
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(where)
    return Accelerator(cpu=device == "cpu", mixed_precision=resolved if resolved in SIXTEEN_BITS else "no")
