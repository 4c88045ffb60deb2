"""A UNet and a ControlNet run in parts: one encoder pass for several decoders, residuals apart from what they steer."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from siamese_diffusion.diffusion.control import DenseControlNet
from siamese_diffusion.diffusion.hint import DenseHintInput
from siamese_diffusion.diffusion.recompute import RECOMPUTE, Recompute


class Encoded(NamedTuple):
    """What the frozen encoder hands to the decoder."""

    middle: Tensor  # (B, C, h', w')
    skips: tuple[Tensor, ...]
    time: Tensor  # (B, E) time embedding


def encode(net: UNet2DConditionModel | DenseControlNet, x: Tensor, timesteps: Tensor, text: Tensor) -> Encoded:
    """The encoder of a UNet or a ControlNet after its first convolution, whose output is `x`."""
    time = net.time_embedding(net.time_proj(timesteps).to(x.dtype))
    skips = (x,)
    for block in net.down_blocks:
        x, seen = block(x, time, **_text(block, text))
        skips += seen
    return Encoded(net.mid_block(x, time, **_text(net.mid_block, text)), skips, time)


def embed(net: DenseControlNet, hint: Tensor, recompute: Recompute | None) -> Tensor:
    """The hint embedding. Its first stages work at full resolution: keeping them takes much room and saves no time."""
    embedding: Any = net.controlnet_cond_embedding
    if recompute is None or not torch.is_grad_enabled() or not isinstance(embedding, DenseHintInput):
        features: Tensor = embedding(hint)
        return features
    fine = RECOMPUTE["all"](embedding.features[:5], hint)
    features = embedding.project(recompute(embedding.features[5:], fine))
    return features


def residuals(net: DenseControlNet, noisy: Tensor, timesteps: Tensor, text: Tensor, features: Tensor) -> list[Tensor]:
    """The ControlNet's residuals for the skips, in the encoder's order, and for the middle block, last."""
    encoded = encode(net, net.conv_in(noisy) + features, timesteps, text)
    down = [project(skip) for project, skip in zip(net.controlnet_down_blocks, encoded.skips, strict=True)]
    return [*down, net.controlnet_mid_block(encoded.middle)]


def steer(encoded: Encoded, control: Sequence[Tensor]) -> Encoded:
    """What the decoder sees: the encoder's values with a ControlNet's residuals added."""
    skips = tuple(skip + residual for skip, residual in zip(encoded.skips, control[:-1], strict=True))
    return Encoded(encoded.middle + control[-1], skips, encoded.time)


def join(parts: Sequence[Encoded]) -> Encoded:
    """Batches one after another."""
    skips = tuple(torch.cat(level) for level in zip(*(part.skips for part in parts), strict=True))
    return Encoded(torch.cat([part.middle for part in parts]), skips, torch.cat([part.time for part in parts]))


def decode(net: Any, encoded: Encoded, text: Tensor, run: Callable[..., Any]) -> Tensor:
    """The decoder of a UNet, or blocks of the same names: (B, C, h, w).

    Args:
        net: `up_blocks`, `conv_norm_out`, `conv_act` and `conv_out`.
        encoded: what it sees.
        text: (B, L, D).
        run: (part, *arguments) -> what the part makes of them. Blocks are run part by part, so that no more than one of
            them is recomputed at a time.
    """
    x, skips, time = encoded
    for block in net.up_blocks:
        attentions = getattr(block, "attentions", [None] * len(block.resnets))
        for resnet, attention in zip(block.resnets, attentions, strict=True):
            x, skips = torch.cat([x, skips[-1]], dim=1), skips[:-1]
            x = run(resnet, x, time)
            if attention is not None:
                (x,) = run(attention, x, encoder_hidden_states=text, return_dict=False)
        for upsampler in block.upsamplers or ():
            x = run(upsampler, x, skips[-1].shape[2:])
    x = run(net.conv_norm_out, x)
    result: Tensor = run(net.conv_out, net.conv_act(x))
    return result


def _text(block: nn.Module, text: Tensor) -> dict[str, Tensor]:
    return {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}
