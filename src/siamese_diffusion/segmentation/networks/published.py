"""The authors' published weights of the networks, under their own key names.

| network    | keys of the published file                                                                       |
|------------|--------------------------------------------------------------------------------------------------|
| sanet      | the same as here                                                                                 |
| polyp_pvt  | the same but for `backbone.`, which holds the official PVTv2's names (`pyramid.timm_key`)         |
| ctnet      | the same but for `backbone.`, which holds the official MiT's names (`pyramid.timm_key`)           |
| unet_plain | the same as here                                                                                 |

A file may hold the state dict itself or keep it under `state_dict`, and its keys may begin with `module.`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from siamese_diffusion.errors import InputError
from siamese_diffusion.tensors import read_tensors, state_of

NETWORKS = ("sanet", "polyp_pvt", "ctnet", "unet_plain")
"""Those whose authors' key names are known."""


def load_published(name: str, source: Path | Mapping[str, Any]) -> nn.Module:
    """A network with the authors' weights, on the CPU, in eval mode.

    Args:
        name: one of `NETWORKS`.
        source: a file (.pth or .safetensors; pickled code is never run), or its content.

    Raises:
        InputError: another name, no such file, not a file of weights, or keys that are missing, left over or of another
            shape; the line names the first of them.
    """
    from siamese_diffusion.segmentation.networks import create

    if name not in NETWORKS:
        raise InputError(f"{name}: no published weights are known; choose from {', '.join(NETWORKS)}")
    where = str(source) if isinstance(source, Path) else f"weights of {name}"
    state = state_of(read_tensors(source) if isinstance(source, Path) else source, where)
    renamed = {network_key(name, key): key for key in state}
    network = create(name)
    expected = network.state_dict()
    counters = {key for key in expected if key.endswith("num_batches_tracked")}  # which files of old versions lack
    complaints = {
        "missing": sorted(expected.keys() - renamed.keys() - counters),
        "left over": sorted(renamed[key] for key in renamed.keys() - expected.keys()),
        "of another shape": sorted(
            f"{theirs} ({tuple(state[theirs].shape)}, not {tuple(expected[ours].shape)})"
            for ours, theirs in renamed.items()
            if ours in expected and state[theirs].shape != expected[ours].shape
        ),
    }
    told = [f"{len(keys)} {what}, as {keys[0]}" for what, keys in complaints.items() if keys]
    if told:
        raise InputError(f"{where}: not the published weights of {name}: {'; '.join(told)}")
    network.load_state_dict({ours: state[theirs] for ours, theirs in renamed.items()}, strict=not counters)
    return network.eval()


def network_key(name: str, key: str) -> str:
    """The name that a key of the published weights of network `name` has in this package's network."""
    if name in ("polyp_pvt", "ctnet") and key.startswith("backbone."):
        from siamese_diffusion.segmentation.networks.pyramid import timm_key

        return "backbone." + timm_key(key.removeprefix("backbone."))
    return key
