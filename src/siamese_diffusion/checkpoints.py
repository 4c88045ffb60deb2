"""`checkpoints/step-NNNNNN/` of a run: all that a training loop needs to go on as if it had not stopped."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired

import torch
from diffusers.training_utils import EMAModel
from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt
from safetensors.torch import save_file
from torch import Tensor, nn
from typing_extensions import TypedDict

from siamese_diffusion.errors import InputError, WithheldError, brief, refused
from siamese_diffusion.files import read_json, whole_folder, write_json
from siamese_diffusion.tensors import not_finite, read_state, read_tensors, require_finite


class Scaler(TypedDict):
    """The state of torch's `GradScaler`."""

    scale: Annotated[FiniteFloat, Field(gt=0)]
    growth_factor: Annotated[FiniteFloat, Field(gt=1)]
    backoff_factor: Annotated[FiniteFloat, Field(gt=0, lt=1)]
    growth_interval: PositiveInt
    _growth_tracker: NonNegativeInt


class State(TypedDict):
    """What `state.json` says at least."""

    step: NonNegativeInt
    micro_batch: NotRequired[PositiveInt | None]
    light: NotRequired[bool]
    scaler: NotRequired[Scaler]


def latest_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint folder of the run in `out`, or None."""
    return max(_checkpoints(out), default=None, key=_step)


def _checkpoints(out: Path) -> list[Path]:
    """The checkpoints of a run. What a user copied to `step-best` or `step-000012-mine` is none, and is left alone."""
    return [path for path in (out / "checkpoints").glob("step-*") if re.fullmatch("step-[0-9]{6,18}", path.name)]


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


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
    with whole_folder(out / "checkpoints" / _name(state["step"])) as folder:
        save_file(trained_state(module), folder / "model.safetensors")
        torch.save(optimizer.state_dict(), folder / "optimizer.pt")
        if average is not None:
            shadows = {str(i): value.contiguous() for i, value in enumerate(average.shadow_params)}
            save_file(shadows, folder / "ema.safetensors")
        write_json(folder / "state.json", state)
    remove_old(out, keep)


def remove_old(out: Path, keep: int) -> None:
    """Remove all checkpoints but the newest ones; a killed call may have got only so far as to write one."""
    for old in sorted(_checkpoints(out), key=_step)[:-keep]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path, module: nn.Module, optimizer: Any, average: EMAModel | None) -> dict[str, Any]:
    """Put module, optimiser and average into the state of a checkpoint.

    Returns:
        The `state` it was saved with.

    Raises:
        InputError: a file of it is torn or holds values that are not finite, or it is of another module or optimiser.
    """
    try:
        state = read_json(folder / "state.json", State)
        if folder.name != _name(state["step"]):
            raise InputError(f"{folder / 'state.json'}: is of step {brief(str(state['step']))}, its folder of another")
        weights = read_state(folder / "model.safetensors")
        require_finite(weights, folder / "model.safetensors")
        _require_names(weights, trained_state(module), folder / "model.safetensors")
        rest = read_tensors(folder / "optimizer.pt")
        require_finite(rest, folder / "optimizer.pt")
        shadows = _shadows(folder / "ema.safetensors", average) if average is not None else []
    except WithheldError:  # nothing is wrong with the checkpoint
        raise
    except InputError as error:
        raise InputError(
            f"{error}; without {folder}, --resume goes on from the checkpoint before it, or begins anew"
        ) from None
    with refused(f"{folder}: does not fit these settings"):
        module.load_state_dict(weights, strict=False)
        optimizer.load_state_dict(rest)
        _require_shapes(optimizer)
        for value, stored in zip(average.shadow_params if average is not None else [], shadows, strict=True):
            value.copy_(stored)
    if average is not None:
        average.optimization_step = state["step"]
    return dict(state)


def _require_names(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """What is not in a file would stay as it began, and without a word: the frozen weights are not in it."""
    odd = min(found.keys() ^ expected.keys(), default=None)
    if odd is not None:
        raise InputError(
            f"{path}: does not fit these settings ({'lacks' if odd in expected else 'holds, besides,'} {odd})"
        )


def _require_shapes(optimizer: Any) -> None:
    """An optimiser takes a state of any shape, and fails at its first step, or spreads one number over a weight."""
    for parameter, state in optimizer.state.items():
        for name in {"exp_avg", "exp_avg_sq", "momentum_buffer"} & state.keys():
            shape = state[name].shape if state[name] is not None else parameter.shape
            if shape != parameter.shape:
                raise ValueError(f"{name} has the shape {list(shape)}, its weight {list(parameter.shape)}")


def _shadows(path: Path, average: EMAModel) -> list[Tensor]:
    stored = read_state(path)
    require_finite(stored, path)
    expected = {str(i): value for i, value in enumerate(average.shadow_params)}
    _require_names(stored, expected, path)
    return [stored[name] for name in expected]
