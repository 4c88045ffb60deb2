"""Weights, checkpoints, and the folders of pipelines."""

from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import save_file
from torch import nn

from campaign.entrance import TINY, Entrance
from siamese_diffusion.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from siamese_diffusion.config import build_config, dump_config
from siamese_diffusion.diffusion.backbone import small_backbone
from siamese_diffusion.diffusion.checkpoint import assemble, load_trained, save_pipeline
from siamese_diffusion.diffusion.ldm import read_state
from siamese_diffusion.division import earlier_division
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import write_text
from siamese_diffusion.tensors import read_tensors


def make_weights(folder: Path) -> None:
    state = {f"layer.{i}.weight": torch.arange(12.0).view(3, 4) for i in range(4)}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "a.safetensors")
    torch.save({"state_dict": state, "step": 3}, folder / "a.ckpt")
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)


def read_weights(folder: Path, damaged: Path) -> Any:
    read_tensors(damaged)
    read_tensors(damaged, mapped=True)
    return {name: value + 1 for name, value in read_state(damaged).items()}


def training() -> tuple[nn.Module, Any, Any]:
    """A network, its optimiser and its average, as they begin."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    return network, torch.optim.AdamW(network.parameters()), EMAModel(network.parameters(), decay=0.9)


def step(network: nn.Module, optimizer: Any, average: Any) -> None:
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    average.step(network.parameters())


def make_checkpoint(folder: Path) -> None:
    parts = training()
    step(*parts)
    save_checkpoint(folder, {"step": 1, "micro_batch": None, "light": False}, *parts, keep=1)


def read_checkpoint(folder: Path, damaged: Path) -> Any:
    newest = latest_checkpoint(folder)
    if newest is None:
        raise InputError("no checkpoint")
    parts = training()
    state = load_checkpoint(newest, *parts)
    step(*parts)
    return earlier_division(state, 4, 1), state["step"]


def make_pipeline(folder: Path) -> None:
    config = build_config(TINY, "faults")
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    backbone = small_backbone(config.backbone, images)
    save_pipeline(assemble(backbone, config), backbone, folder / "pipeline")
    write_text(folder / "config.yaml", dump_config(config))


def read_pipeline(folder: Path, damaged: Path) -> Any:
    return load_trained(folder).backbone.embed(["A photo of polyp"])


PARTS = ("pipeline/*/*.json", "pipeline/*/*.json", "pipeline/*/*.json", "pipeline/*/*.safetensors", "config.yaml")

ENTRANCES = [
    Entrance("weights", make_weights, ("*",), read_weights, weight=40),
    Entrance("checkpoint", make_checkpoint, ("checkpoints/*/*",), read_checkpoint, lambda found: found[1] >= 0, 30),
    Entrance("pipeline", make_pipeline, PARTS, read_pipeline, lambda found: found.shape == (1, 32, 8), 10),
]
