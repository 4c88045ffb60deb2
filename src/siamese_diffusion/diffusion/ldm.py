"""The authors' checkpoint format, that of ldm and Stable Diffusion 1.x files: its key names, and the networks it
describes.

Design note: the mapping is a list of (ours, theirs) name prefixes built from the network's shape, so that it is
read in either direction, and a key that is left over is named.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from siamese_diffusion.diffusion.control import DenseControlNet
from siamese_diffusion.errors import InputError
from siamese_diffusion.tensors import read_tensors

Names = Iterator[tuple[str, str]]

_RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
_VAE_RESNET = (
    ("norm1", "norm1"),
    ("conv1", "conv1"),
    ("norm2", "norm2"),
    ("conv2", "conv2"),
    ("conv_shortcut", "nin_shortcut"),
)
_VAE_ATTENTION = (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"))
_LEVELS = ("module.", "_forward_module.")
UNET, CONTROL, VAE, TEXT = _PREFIXES = (
    "model.diffusion_model.",
    "control_model.",
    "first_stage_model.",
    "cond_stage_model.",
)
_BUFFERS = (
    "betas",
    "alphas_",
    "sqrt_",
    "log_one_minus",
    "posterior_",
    "logvar",
    "lvlb_weights",
    "scale_factor",
    "model_ema.",
)
"""Keys that are no weights: the noise schedule is computed, and a moving average is training's own."""


def read_state(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, or of a `.ckpt` or `.pth` with or without a `state_dict` level.

    Raises:
        InputError: no such file, or it holds anything but tensors; nothing in it is executed.
    """
    loaded = read_tensors(Path(path), mapped=True)
    state = loaded.get("state_dict", loaded.get("module", loaded)) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: not a state dict")
    return state


def split(state: Mapping[str, Tensor], origin: str = "checkpoint") -> dict[str, dict[str, Tensor]]:
    """The keys by part (`UNET`, `CONTROL`, `VAE`, `TEXT`), without their prefixes, in fp32; a part may be empty.

    Raises:
        InputError: a key belongs to no part.
    """
    parts: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in _PREFIXES}
    for key, value in state.items():
        name = key
        for level in _LEVELS:
            name = name.removeprefix(level)
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        if prefix is not None:
            parts[prefix][name.removeprefix(prefix)] = value.float() if value.is_floating_point() else value
        elif not name.startswith(_BUFFERS):
            raise InputError(f"{origin}: key {key} is left over")
    return parts


def build_unet(state: dict[str, Tensor], config: Mapping[str, Any], origin: str) -> UNet2DConditionModel:
    """The UNet of `state`, with its weights.

    Args:
        state: keys without prefix.
        config: the original's terms; what is left out is inferred, or is Stable Diffusion 1.5's.
        origin: what errors name.

    Raises:
        InputError: a key is missing, left over or of the wrong shape.
    """
    try:
        unet = _unet(state, config)
    except KeyError as error:
        raise InputError(f"{origin}: key {UNET}{error.args[0]} is missing") from None
    fill(unet, state, _unet_names(unet), UNET, origin)
    return unet


def fill_control(control: DenseControlNet, state: dict[str, Tensor], origin: str) -> None:
    """Load a ControlNet with the Dense Hint Input.

    Raises:
        InputError: a key is missing, left over or of the wrong shape.
    """
    fill(control, state, _control_names(control), CONTROL, origin)


def _unet(state: dict[str, Tensor], config: Mapping[str, Any]) -> UNet2DConditionModel:
    first = state["input_blocks.0.0.weight"]
    blocks = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("input_blocks."))
    downs = [i for i in range(blocks) if f"input_blocks.{i}.0.op.weight" in state]
    levels = len(downs) + 1
    layers = int(config.get("num_res_blocks", (blocks - levels) // levels))
    channels = int(config.get("model_channels", first.shape[0]))
    starts = [1 + level * (layers + 1) for level in range(levels)]
    widths = [state[f"input_blocks.{i}.0.in_layers.2.weight"].shape[0] for i in starts]
    mult = config.get("channel_mult", [width // channels for width in widths])
    attends = [f"input_blocks.{i}.1.proj_in.weight" in state for i in starts]
    if "attention_resolutions" in config:  # in the original's terms: down-sampling factors of the latent image
        attends = [2**level in config["attention_resolutions"] for level in range(levels)]
    contexts = [value.shape[1] for key, value in state.items() if key.endswith("attn2.to_k.weight")]
    return UNet2DConditionModel(
        in_channels=int(config.get("in_channels", first.shape[1])),
        out_channels=int(config.get("out_channels", state["out.2.weight"].shape[0])),
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        block_out_channels=tuple(channels * m for m in mult),
        layers_per_block=layers,
        attention_head_dim=int(config.get("num_heads", 8)),  # diffusers: head count
        cross_attention_dim=int(config.get("context_dim", contexts[0] if contexts else 768)),
    )


def _resnet(ours: str, theirs: str, parts: tuple[tuple[str, str], ...] = _RESNET) -> Names:
    for mine, original in parts:
        yield f"{ours}.{mine}", f"{theirs}.{original}"


def _encoder_names(net: UNet2DConditionModel | DenseControlNet) -> Names:
    yield "time_embedding.linear_1", "time_embed.0"
    yield "time_embedding.linear_2", "time_embed.2"
    yield "conv_in", "input_blocks.0.0"
    layers, levels = net.config.layers_per_block, len(net.config.block_out_channels)
    for level in range(levels):
        for layer in range(layers):
            block = 1 + level * (layers + 1) + layer
            yield from _resnet(f"down_blocks.{level}.resnets.{layer}", f"input_blocks.{block}.0")
            yield f"down_blocks.{level}.attentions.{layer}", f"input_blocks.{block}.1"
        yield f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{(level + 1) * (layers + 1)}.0.op"
    yield from _resnet("mid_block.resnets.0", "middle_block.0")
    yield "mid_block.attentions.0", "middle_block.1"
    yield from _resnet("mid_block.resnets.1", "middle_block.2")


def _unet_names(unet: UNet2DConditionModel) -> Names:
    yield from _encoder_names(unet)
    layers, levels = unet.config.layers_per_block + 1, len(unet.config.block_out_channels)
    for level in range(levels):
        attends = unet.config.up_block_types[level].startswith("CrossAttn")
        for layer in range(layers):
            block = level * layers + layer
            yield from _resnet(f"up_blocks.{level}.resnets.{layer}", f"output_blocks.{block}.0")
            yield f"up_blocks.{level}.attentions.{layer}", f"output_blocks.{block}.1"
        if level < levels - 1:
            yield f"up_blocks.{level}.upsamplers.0.conv", f"output_blocks.{block}.{2 if attends else 1}.conv"
    yield "conv_norm_out", "out.0"
    yield "conv_out", "out.2"


def _control_names(control: DenseControlNet) -> Names:
    yield from _encoder_names(control)
    for i in range(len(control.controlnet_down_blocks)):
        yield f"controlnet_down_blocks.{i}", f"zero_convs.{i}.0"
    yield "controlnet_mid_block", "middle_block_out.0"
    ours, theirs = "controlnet_cond_embedding", "input_hint_block"
    yield f"{ours}.project", f"{theirs}.1"
    names = ["initial_conv", "layer1", "conv_before_res2", "layer2"]
    for merge in (1, 2, 3):
        names += [f"patch_merge{merge}", f"conv_before_res{merge + 2}", f"layer{merge + 2}"]
    for i, name in enumerate(names):
        yield f"{ours}.features.{i}", f"{theirs}.0.{name}"


def build_vae(state: dict[str, Tensor], origin: str) -> AutoencoderKL:
    """The first stage of `state` (keys without prefix), with its weights; latents are scaled by 0.18215.

    Raises:
        InputError: a key is missing, left over or of the wrong shape.
    """
    levels = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.down."))
    layers = 1 + max(int(key.split(".")[4]) for key in state if key.startswith("encoder.down.0.block."))
    widths = tuple(state[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels))
    latents = state["post_quant_conv.weight"].shape[0]
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=widths,
        layers_per_block=layers,
        latent_channels=latents,
        scaling_factor=0.18215,
    )
    squeezed = {key: value[..., 0, 0] if _is_convolution(key, value) else value for key, value in state.items()}
    fill(vae, squeezed, _vae_names(levels, layers), VAE, origin)
    return vae.eval()


def _is_convolution(key: str, value: Tensor) -> bool:
    """The original's attention in the first stage is made of 1x1 convolutions, diffusers' of linear layers."""
    return ".attn_1." in key and value.dim() == 4


def build_text_encoder(state: dict[str, Tensor], origin: str) -> CLIPTextModel:
    """The CLIP text encoder of `state` (keys without prefix), with its weights; 64 channels a head, as in every CLIP.

    Raises:
        InputError: a key is missing, left over or of the wrong shape.
    """
    state = {key.removeprefix("transformer.").removeprefix("text_model."): value for key, value in state.items()}
    state.pop("embeddings.position_ids", None)  # a buffer of older versions
    try:
        vocabulary, width = state["embeddings.token_embedding.weight"].shape
        positions = state["embeddings.position_embedding.weight"].shape[0]
        inner = state["encoder.layers.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise InputError(f"{origin}: key {TEXT}transformer.text_model.{error.args[0]} is missing") from None
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        projection_dim=width,
        num_hidden_layers=1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.layers.")),
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=positions,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    encoder = CLIPTextModel(config)
    fill(encoder, state, _text_names(encoder), f"{TEXT}transformer.text_model.", origin)
    return encoder.eval()


def _text_names(encoder: CLIPTextModel) -> Names:
    """Theirs without `transformer.text_model.`; transformers below version 5 has a `text_model.` level of its own."""
    for key in encoder.state_dict():
        module = key.rpartition(".")[0]
        yield module, module.removeprefix("text_model.")


def to_original(
    unet: UNet2DConditionModel, control: DenseControlNet, vae: AutoencoderKL, text_encoder: CLIPTextModel | None
) -> dict[str, Tensor]:
    """The weights under the original's names, with the noise schedule's buffers: what its `load_state_dict` expects."""
    levels, layers = len(vae.config.block_out_channels), vae.config.layers_per_block
    state = {
        **_renamed(unet, _unet_names(unet), UNET),
        **_renamed(control, _control_names(control), CONTROL),
        **_renamed(vae, _vae_names(levels, layers), VAE),
        **schedule_buffers(),
    }
    for key in [key for key in state if key.startswith(VAE) and ".attn_1." in key and key.endswith(".weight")]:
        if state[key].dim() == 2:  # a projection, and not the norm
            state[key] = state[key][..., None, None]
    if text_encoder is not None:
        state |= _renamed(text_encoder, _text_names(text_encoder), f"{TEXT}transformer.text_model.")
    return state


def schedule_buffers() -> dict[str, Tensor]:
    """Stable Diffusion 1.x's noise schedule as the original stores it (names of Ho et al. 2020), each (1000,) fp32."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = (1 - betas).cumprod(0)
    before = torch.cat([alphas.new_ones(1), alphas[:-1]])
    variance = betas * (1 - before) / (1 - alphas)
    buffers = {
        "betas": betas,
        "alphas_cumprod": alphas,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": alphas.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - alphas).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - alphas).log(),
        "sqrt_recip_alphas_cumprod": (1 / alphas).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / alphas - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * before.sqrt() / (1 - alphas),
        "posterior_mean_coef2": (1 - before) * (1 - betas).sqrt() / (1 - alphas),
        "logvar": torch.zeros(1000),
    }
    return {name: values.float() for name, values in buffers.items()}


def _renamed(net: nn.Module, names: Names, prefix: str) -> dict[str, Tensor]:
    theirs_of = dict(names)
    return {prefix + _theirs(key, theirs_of): value.detach().clone() for key, value in net.state_dict().items()}


def _theirs(key: str, theirs_of: dict[str, str]) -> str:
    mine = max((name for name in theirs_of if key.startswith(f"{name}.")), key=len, default=None)
    return key if mine is None else f"{theirs_of[mine]}{key[len(mine) :]}"


def _vae_names(levels: int, layers: int) -> Names:
    yield "quant_conv", "quant_conv"
    yield "post_quant_conv", "post_quant_conv"
    for side in ("encoder", "decoder"):
        yield f"{side}.conv_in", f"{side}.conv_in"
        yield f"{side}.conv_norm_out", f"{side}.norm_out"
        yield f"{side}.conv_out", f"{side}.conv_out"
        for i in (0, 1):
            yield from _resnet(f"{side}.mid_block.resnets.{i}", f"{side}.mid.block_{i + 1}", _VAE_RESNET)
        yield from _resnet(f"{side}.mid_block.attentions.0", f"{side}.mid.attn_1", _VAE_ATTENTION)
    for level in range(levels):
        for layer in range(layers):
            theirs = f"encoder.down.{level}.block.{layer}"
            yield from _resnet(f"encoder.down_blocks.{level}.resnets.{layer}", theirs, _VAE_RESNET)
        for layer in range(layers + 1):  # the original counts the decoder's levels from the finest
            theirs = f"decoder.up.{levels - 1 - level}.block.{layer}"
            yield from _resnet(f"decoder.up_blocks.{level}.resnets.{layer}", theirs, _VAE_RESNET)
        yield f"encoder.down_blocks.{level}.downsamplers.0.conv", f"encoder.down.{level}.downsample.conv"
        yield f"decoder.up_blocks.{level}.upsamplers.0.conv", f"decoder.up.{levels - 1 - level}.upsample.conv"


def fill(net: nn.Module, state: Mapping[str, Tensor], names: Names, prefix: str, origin: str) -> None:
    """Load `state`, under the original's names, into `net`.

    Raises:
        InputError: a key is missing, left over or of the wrong shape; the line names it with `prefix`.
    """
    theirs_of = dict(names)
    left = set(state)
    filled = {}
    for key, value in net.state_dict().items():
        theirs = _theirs(key, theirs_of)
        if theirs not in state:
            raise InputError(f"{origin}: key {prefix}{theirs} is missing")
        if state[theirs].shape != value.shape:
            shapes = f"{list(state[theirs].shape)}, expected {list(value.shape)}"
            raise InputError(f"{origin}: key {prefix}{theirs} has the shape {shapes}")
        filled[key] = state[theirs]
        left.discard(theirs)
    if left:
        raise InputError(f"{origin}: key {prefix}{min(left)} is left over")
    net.load_state_dict(filled)
