"""What lets a training step take less memory without another gradient: recomputation, and a loss differentiated
early."""

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

P = ParamSpec("P")
R = TypeVar("R")
Recompute = Callable[..., Any]
"""(function, *arguments) -> its result, recomputed in the backward pass."""

_KEPT = [
    operation.default
    for name in (
        "mm",
        "addmm",
        "bmm",
        "baddbmm",
        "convolution",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    )
    if (operation := getattr(torch.ops.aten, name, None)) is not None
]
"""Operations whose time is worth the room of their results."""

WIDE, NARROW = 4, 320
"""How many times as wide as its input, and how narrow that is at most, for a product to be recomputed."""


def _policy(_: Any, operation: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
    """Which results are kept: those of `_KEPT`, but not of a product that is cheap for the room it takes.

    The first product of a transformer's feed-forward network is eight times as wide as its input, and at full latent
    resolution that input is narrow: two fifths of what such a block would keep, for 1.6 % of the step's FLOPs.
    """
    keep = operation in _KEPT
    if operation is torch.ops.aten.addmm.default:
        inner, outer = arguments[2].shape
        keep = outer < WIDE * inner or inner > NARROW
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


RECOMPUTE: dict[str, Recompute] = {
    "all": partial(checkpoint, use_reentrant=False),
    "selective": partial(
        checkpoint, use_reentrant=False, context_fn=partial(create_selective_checkpoint_contexts, _policy)
    ),
}


def run_part(recompute: Recompute | None, constant: bool, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What a part of a network makes of its arguments, recomputed in the backward pass where `recompute` is given.

    Args:
        recompute: one of `RECOMPUTE`, or None.
        constant: hold its parameters constant: gradients pass through it and do not reach them. No copy is made.
        module: the part.
        args, kwargs: its arguments.
    """

    def call(*args: Any) -> Any:
        # Inside the checkpointed function, so that the recomputation holds the parameters constant as well.
        if constant:
            held = {name: parameter.detach() for name, parameter in module.named_parameters()}
            return functional_call(module, held, args, kwargs)
        return module(*args, **kwargs)

    return recompute(call, *args) if recompute is not None and torch.is_grad_enabled() else call(*args)


def with_casts_of_their_own(forward: Callable[P, R]) -> Callable[P, R]:
    """Under autocast, cast the weights at each use wherever a part runs twice, recomputed or at first without
    gradients.

    Autocast keeps its casts for the second run, which then differs from the first: a recomputation saves other tensors,
    and a cast made without gradients passes none on.
    """

    @wraps(forward)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        model: Any = args[0]
        before = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(before and model.recompute is None and not model.single_pass)
        try:
            return forward(*args, **kwargs)
        finally:
            torch.set_autocast_cache_enabled(before)

    return wrapped


class EarlyLoss(NamedTuple):
    """A loss that has been differentiated already."""

    loss: Tensor
    prediction: Tensor
    """What it is the loss of, held constant."""
    gradients: list[Tensor]
    """For the inputs; none where the loss is an ordinary one."""

    def of(self, inputs: Sequence[Tensor]) -> Tensor:
        """The loss as a function of `inputs`, which its backward pass gives the gradients taken."""
        if not self.gradients:
            return self.loss
        loss: Tensor = WithGradients.apply(self.loss, self.gradients, *inputs)
        return loss


def early_backward(
    function: Callable[[Sequence[Tensor]], tuple[Tensor, Tensor]], inputs: Sequence[Tensor]
) -> EarlyLoss:
    """The loss and the prediction that `function` gives, differentiated for `inputs` at once.

    Nothing but its loss needs what D' has computed, so that is freed before D runs. Where no gradient is wanted there
    is none, nor in 16-bit floats: there a loss is scaled before its backward pass, or gradients vanish. Then the loss
    is an ordinary one.
    """
    half = any(torch.is_autocast_enabled(d) and torch.get_autocast_dtype(d) == torch.float16 for d in ("cpu", "cuda"))
    if half or not torch.is_grad_enabled():
        loss, prediction = function(inputs)
        return EarlyLoss(loss, prediction.detach(), [])
    leaves = [value.detach().requires_grad_() for value in inputs]
    loss, prediction = function(leaves)
    return EarlyLoss(loss.detach(), prediction.detach(), list(torch.autograd.grad(loss, leaves)))


class WithGradients(torch.autograd.Function):
    """A loss whose gradients for `inputs` are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(outer[0] * gradient for gradient in ctx.saved_tensors)
