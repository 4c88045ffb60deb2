"""`torch.compile` of a network block by block: blocks repeat, so their graphs take minutes, a whole step's hours."""

import shutil

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from siamese_diffusion.errors import InputError

GRAPHS = 512
"""One for each width, side and use of a block; torch gives up at 8."""


def compile_blocks(network: nn.Module) -> None:
    """Compile the residual and attention blocks of `network` in place, each at its first use. No weight's name changes.

    Raises:
        InputError: there is no compiler here for what torch generates.
    """
    if not any(shutil.which(name) for name in ("cc", "gcc", "g++", "clang", "cl")):
        raise InputError("compile = true: torch.compile needs a C compiler (gcc or clang), and none is on the PATH")
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
    torch._dynamo.config.accumulated_recompile_limit = max(torch._dynamo.config.accumulated_recompile_limit, 8 * GRAPHS)
    for module in network.modules():
        if isinstance(module, ResnetBlock2D | BasicTransformerBlock):
            module.compile()
