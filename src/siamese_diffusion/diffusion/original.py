"""The authors' checkpoint format: ldm/cldm key names to diffusers' and the networks they describe.

Unusual in it: the mapping is a list of (ours, theirs) name prefixes built from the network's shape, so that it can be
read in either direction and a key that is left over is named.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn

from siamese_diffusion.diffusion.control import DenseControlNet, controlnet_for
from siamese_diffusion.diffusion.siamese import SiameseDiffusion
from siamese_diffusion.errors import InputError

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
_LEVELS = ("", "module.", "_forward_module.")
_PREFIXES = ("model.diffusion_model.", "control_model.", "first_stage_model.", "cond_stage_model.")
_BUFFERS = ("betas", "alphas_", "sqrt_", "log_one_minus", "posterior_", "logvar", "lvlb_weights", "model_ema.")


def load_original(
    source: Path | str | Mapping[str, Tensor], *, unet_config: Mapping[str, Any] | None = None
) -> SiameseDiffusion:
    """The authors' weights as a `SiameseDiffusion`; with a first stage in them, also its `vae`.

    Args:
        source: a `.ckpt`, `.pth` or `.safetensors` file, or a state dict; with or without a `state_dict` level or the
            prefixes `module.` and `_forward_module.`. Nothing in a file is executed.
        unet_config: in the original's terms: model_channels, channel_mult, num_res_blocks, attention_resolutions,
            num_heads, context_dim, in_channels, out_channels. What is left out is inferred from the shapes, or is
            Stable Diffusion 1.5's (8 heads).

    Raises:
        InputError: the file cannot be read, or a key is missing, left over or of the wrong shape (it is named).
    """
    state = _read(source) if isinstance(source, (str, Path)) else dict(source)
    parts = _split(state)
    unet_state, control_state = parts[_PREFIXES[0]], parts[_PREFIXES[1]]
    unet = _unet(unet_state, dict(unet_config or {}))
    control = controlnet_for(unet, hint_factor=8)
    _fill(unet, unet_state, _unet_names(unet), _PREFIXES[0])
    _fill(control, control_state, _control_names(control), _PREFIXES[1])
    alphas = state.get("alphas_cumprod")
    if alphas is None:
        alphas = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
    model = SiameseDiffusion(unet, control, alphas, "epsilon")
    if parts[_PREFIXES[2]]:
        model.vae = _vae(parts[_PREFIXES[2]]).requires_grad_(False)
    return model.eval()


def _read(path: Path | str) -> dict[str, Tensor]:
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:
        raise InputError(f"{path}: cannot be read as weights ({str(error).splitlines()[0]})") from None
    state = loaded.get("state_dict", loaded.get("module", loaded)) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: not a state dict")
    return state


def _split(state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in _PREFIXES}
    for key, value in state.items():
        name = key
        for level in _LEVELS[1:]:
            name = name.removeprefix(level)
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        if prefix is not None:
            parts[prefix][name.removeprefix(prefix)] = value.float() if value.is_floating_point() else value
        elif not name.startswith(_BUFFERS):
            raise InputError(f"checkpoint: key {key} is left over")
    for prefix in _PREFIXES[:2]:
        if not parts[prefix]:
            raise InputError(f"checkpoint: no key begins with {prefix}")
    return parts


def _unet(state: dict[str, Tensor], config: dict[str, Any]) -> UNet2DConditionModel:
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
    if "attention_resolutions" in config:
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


def _vae(state: dict[str, Tensor]) -> AutoencoderKL:
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
    attention = [key for key in state if ".attn_1." in key and state[key].dim() == 4]
    squeezed = {key: state[key][..., 0, 0] if key in attention else state[key] for key in state}
    _fill(vae, squeezed, _vae_names(levels, layers), _PREFIXES[2])
    return vae.eval()


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


def _fill(net: nn.Module, state: dict[str, Tensor], names: Names, prefix: str) -> None:
    """Load `state`, under the original's names, into `net`."""
    theirs_of = dict(names)
    left = set(state)
    filled = {}
    for key, value in net.state_dict().items():
        mine = max((name for name in theirs_of if key.startswith(f"{name}.")), key=len, default=None)
        theirs = f"{theirs_of[mine]}{key[len(mine) :]}" if mine is not None else key
        if theirs not in state:
            raise InputError(f"checkpoint: key {prefix}{theirs} is missing")
        if state[theirs].shape != value.shape:
            shapes = f"{list(state[theirs].shape)}, expected {list(value.shape)}"
            raise InputError(f"checkpoint: key {prefix}{theirs} has the shape {shapes}")
        filled[key] = state[theirs]
        left.discard(theirs)
    if left:
        raise InputError(f"checkpoint: key {prefix}{min(left)} is left over")
    net.load_state_dict(filled)
