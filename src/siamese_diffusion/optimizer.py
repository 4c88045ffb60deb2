"""Optimisers of the one training loop, and what is done to their rates and gradients."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from siamese_diffusion.config import LoopConfig
from siamese_diffusion.errors import InputError


def learning_rate_factor(step: int, settings: LoopConfig) -> float:
    """Factor on the learning rate at `step`, from 0: linear warm-up, then constant or half a cosine down to 0."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    if settings.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - settings.warmup) / max(1, settings.steps - settings.warmup)))


def learning_rate(step: int, settings: LoopConfig, factor: float = 1.0) -> float:
    """The learning rate at `step`, from 0, of parameters with this factor."""
    return settings.learning_rate * factor * learning_rate_factor(step, settings)


def make_optimizer(
    module: nn.Module, settings: LoopConfig, rate: Callable[[str], float] = lambda name: 1.0
) -> torch.optim.Optimizer:
    """AdamW, Adafactor (Shazeer & Stern, arXiv:1804.04235) or Nesterov's SGD over the trained parameters of `module`.

    `rate` gives the factor on the learning rate of a parameter, by its name; each group carries its own as `factor`.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(rate(name), []).append(parameter)
    trained = [
        {"params": group, "lr": settings.learning_rate * factor, "factor": factor} for factor, group in groups.items()
    ]
    if settings.optimizer == "adafactor":
        return torch.optim.Adafactor(trained, weight_decay=settings.weight_decay)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(trained, momentum=settings.betas[0], weight_decay=settings.weight_decay, nesterov=True)
    return torch.optim.AdamW(trained, betas=settings.betas, weight_decay=settings.weight_decay, fused=True)


def state_bytes(parameter: Tensor, optimizer: str) -> int:
    """Bytes that the optimiser called so keeps for a parameter, next to its count of steps."""
    if optimizer != "adafactor":
        return {"adamw": 2, "sgd": 1}[optimizer] * parameter.nbytes
    if parameter.dim() < 2:
        return parameter.nbytes
    rows, columns = parameter.shape[-2:]
    return parameter.nbytes // columns + parameter.nbytes // rows


def require_whole_steps(
    settings: LoopConfig, precision: str, processes: int, parts: int, clip_value: float | None
) -> None:
    """Raise `InputError` where a gradient is not final as soon as it is there."""
    bars = {
        f"micro_batch = {settings.micro_batch}": parts > 1,
        f"{processes} processes": processes > 1,
        f"clip = {settings.clip}": settings.clip is not None,
        f"clip_value = {clip_value}": clip_value is not None,
        "precision = fp16": precision == "fp16",
    }
    for bar, given in bars.items():
        if given:
            raise InputError(f"release_gradients = true: does not go with {bar}; set one of the two otherwise")


def release_gradients(optimizer: torch.optim.Optimizer) -> list[RemovableHandle]:
    """Let `optimizer` change each parameter within the backward pass, once its gradient is whole, and free the
    gradient.

    A parameter that the rest of the backward pass still needs would be an error of autograd's, not a wrong gradient: it
    counts the changes of what it has saved. The handles returned end it.
    """

    def apply(group: dict[str, Any], parameter: Tensor) -> None:
        groups = optimizer.param_groups
        optimizer.param_groups = [{**group, "params": [parameter]}]
        optimizer.step()
        optimizer.param_groups = groups
        parameter.grad = None

    return [
        parameter.register_post_accumulate_grad_hook(partial(apply, group))
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
