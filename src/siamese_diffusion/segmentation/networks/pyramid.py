"""The transformer encoders of Polyp-PVT (PVTv2-B2) and CTNet (MiT-B3), both from timm, which is under Apache-2.0.

Design note: MiT-B3 (SegFormer, arXiv:2105.15203) is PVTv2-B3 (arXiv:2106.13797) with an MLP ratio of 4 in every stage,
so one implementation serves both, and none of NVIDIA's code, whose licence forbids commercial use, is needed.
"""

import re
from typing import Any

import timm
from torch import Tensor, nn

from siamese_diffusion import progress

CHANNELS = (64, 128, 320, 512)
"""Of the four features."""


def pvt_v2_b2(pretrained: bool) -> nn.Module:
    """PVTv2-B2; `pretrained`: timm's `pvt_v2_b2.in1k`, Apache-2.0."""
    model: nn.Module = timm.create_model("pvt_v2_b2", pretrained=pretrained, num_classes=0, drop_path_rate=0.1)
    return model


def mit_b3(pretrained: bool) -> nn.Module:
    """MiT-B3; `pretrained`: NVIDIA's ImageNet weights, for non-commercial use only."""
    model: nn.Module = timm.create_model("pvt_v2_b3", num_classes=0, drop_path_rate=0.1, mlp_ratios=(4, 4, 4, 4))
    if pretrained:
        from huggingface_hub import hf_hub_download
        from safetensors.torch import load_file

        progress.notify(
            "MiT-B3's ImageNet weights are under the NVIDIA Source Code License: for non-commercial use only"
        )
        state = load_file(hf_hub_download("smp-hub/mit_b3.imagenet", "model.safetensors"))
        model.load_state_dict({timm_key(key): value for key, value in state.items() if not key.startswith("head.")})
    return model


def features(model: Any, images: Tensor) -> list[Tensor]:
    """(B, 3, H, W) normalised -> four features with `CHANNELS` channels, at 1/4, 1/8, 1/16 and 1/32 of the size."""
    x = model.patch_embed(images)
    found = []
    for stage in model.stages:
        x = stage(x)
        found.append(x)
    return found


def timm_key(key: str) -> str:
    """The name that a parameter of the official PVTv2 or MiT code has in timm; other names are returned as they are."""
    rules = (
        (r"^patch_embed1\.", lambda _: "patch_embed."),
        (r"^patch_embed(\d)\.", lambda found: f"stages.{int(found[1]) - 1}.downsample."),
        (r"^block(\d)\.(\d+)\.", lambda found: f"stages.{int(found[1]) - 1}.blocks.{found[2]}."),
        (r"^norm(\d)\.", lambda found: f"stages.{int(found[1]) - 1}.norm."),
    )
    for pattern, name in rules:
        key, hit = re.subn(pattern, name, key)
        if hit:
            break
    return key.replace("mlp.dwconv.dwconv.", "mlp.dwconv.")
