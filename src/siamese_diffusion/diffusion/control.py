"""The ControlNet: diffusers' own, with the Dense Hint Input where it embeds the hint."""

from typing import Any, Literal

from diffusers import (
    ControlNetModel,
    ModelMixin,  # noqa: F401  (a diffusers pipeline looks here for the base class that can load this module's models)
    UNet2DConditionModel,
)
from diffusers.configuration_utils import register_to_config
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding

from siamese_diffusion.diffusion.hint import DenseHintInput


class DenseControlNet(ControlNetModel):  # type: ignore[misc]
    """`diffusers.ControlNetModel` with `DenseHintInput`.

    It saves and loads as any diffusers model does: `hint_factor` is part of its configuration, so
    `from_pretrained` restores the Dense Hint Input and not the stock embedding. With `hint="stock"` it has that
    stock embedding (Zhang et al., arXiv:2302.05543), for comparison.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        in_channels: int = 4,
        conditioning_channels: int = 3,
        hint_factor: int = 8,
        hint_channels: tuple[int, int] = (16, 32),
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        cross_attention_dim: int = 768,
        attention_head_dim: int | tuple[int, ...] = 8,
        use_linear_projection: bool = False,
        hint: Literal["dense", "stock"] = "dense",
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            conditioning_channels=conditioning_channels,
            flip_sin_to_cos=flip_sin_to_cos,
            freq_shift=freq_shift,
            down_block_types=down_block_types,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            norm_eps=norm_eps,
            cross_attention_dim=cross_attention_dim,
            attention_head_dim=attention_head_dim,
            use_linear_projection=use_linear_projection,
        )
        if hint == "stock":
            widths = (16, 32, 96, 256, 256)[: hint_factor.bit_length()]  # one halving between each two
            self.controlnet_cond_embedding = ControlNetConditioningEmbedding(
                block_out_channels[0], conditioning_channels, widths
            )
        else:
            self.controlnet_cond_embedding = DenseHintInput(
                block_out_channels[0], hint_factor, conditioning_channels, (hint_channels[0], hint_channels[1])
            )


_SHARED = (
    "in_channels",
    "flip_sin_to_cos",
    "freq_shift",
    "down_block_types",
    "block_out_channels",
    "layers_per_block",
    "norm_num_groups",
    "norm_eps",
    "cross_attention_dim",
    "attention_head_dim",
    "use_linear_projection",
)


def controlnet_for(
    unet: UNet2DConditionModel,
    hint_factor: int,
    hint_channels: tuple[int, int] = (16, 32),
    hint: Literal["dense", "stock"] = "dense",
) -> DenseControlNet:
    """A ControlNet for `unet`: its encoder's weights, a fresh hint embedding, zero convolutions at zero.

    Args:
        unet: the backbone's UNet.
        hint_factor: down-sampling factor of the first stage.
        hint_channels: first two widths of the Dense Hint Input.
        hint: the Dense Hint Input, or diffusers' stock embedding.
    """
    settings: dict[str, Any] = {name: unet.config[name] for name in _SHARED}
    control: DenseControlNet = DenseControlNet(
        hint_factor=hint_factor, hint_channels=hint_channels, hint=hint, **settings
    )
    for part in ("conv_in", "time_embedding", "down_blocks", "mid_block"):
        getattr(control, part).load_state_dict(getattr(unet, part).state_dict())
    return control
