"""`checkpoints/step-NNNNNN/` of a run: all that a training loop needs to go on as if it had not stopped."""

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import save_file
from torch import Tensor, nn

from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, whole_folder, write_json
from siamese_diffusion.tensors import not_finite, read_tensors, require_finite


def latest_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint folder of the run in `out`, or None."""
    return max((out / "checkpoints").glob("step-*"), default=None, key=lambda path: path.name)


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """The part of a module's state that training changes: trained parameters, and buffers."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return {name: value.detach().contiguous() for name, value in module.state_dict().items() if name not in frozen}


def diverged(module: nn.Module, optimizer: Any, average: EMAModel | None) -> str | None:
    """What of a training's state holds an infinity or NaN, in words; None where all is finite."""
    states = {
        "weight": trained_state(module),
        "optimiser's state of parameter": optimizer.state_dict()["state"],
        "averaged weight": average.shadow_params if average is not None else [],
    }
    found = ((what, not_finite(state)) for what, state in states.items())
    return next((f"the {what} {name}" for what, name in found if name is not None), None)


def save_checkpoint(
    out: Path, state: dict[str, Any], module: nn.Module, optimizer: Any, average: EMAModel | None, keep: int
) -> None:
    """Write the checkpoint of a step, and then remove all but the newest ones.

    Args:
        out: the run's folder.
        state: `step`, and what else is to be known when the run goes on, as JSON.
        module: whose trained weights and buffers are kept.
        optimizer: whose state is kept.
        average: of the weights, where there is one.
        keep: how many checkpoints stay.
    """
    checkpoints = out / "checkpoints"
    with whole_folder(checkpoints / f"step-{state['step']:06d}") as folder:
        save_file(trained_state(module), folder / "model.safetensors")
        torch.save(optimizer.state_dict(), folder / "optimizer.pt")
        if average is not None:
            shadows = {str(i): value.contiguous() for i, value in enumerate(average.shadow_params)}
            save_file(shadows, folder / "ema.safetensors")
        write_json(folder / "state.json", state)
    for old in sorted(checkpoints.glob("step-*"))[:-keep]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path, module: nn.Module, optimizer: Any, average: EMAModel | None) -> dict[str, Any]:
    """Put module, optimiser and average into the state of a checkpoint.

    Returns:
        The `state` it was saved with.

    Raises:
        InputError: a file of it is torn or holds values that are not finite, or it is of another module or optimiser.
    """
    try:
        module.load_state_dict(_read(folder / "model.safetensors"), strict=False)
        optimizer.load_state_dict(_read(folder / "optimizer.pt"))
        state: dict[str, Any] = read_json(folder / "state.json")
        step = int(state["step"])
        if average is not None:
            stored = _read(folder / "ema.safetensors")
            for i, value in enumerate(average.shadow_params):
                value.copy_(stored[str(i)])
            average.optimization_step = step
    except InputError as error:
        raise InputError(
            f"{error}; without {folder}, --resume goes on from the checkpoint before it, or begins anew"
        ) from None
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise InputError(f"{folder}: does not fit these settings ({str(error).splitlines()[0]})") from None
    return {**state, "step": step}


def _read(path: Path) -> Any:
    value = read_tensors(path)
    require_finite(value, path)
    return value
