"""Parts of a pipeline are loaded whole or refused: weights as in their files, and no configuration brings code."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from siamese_diffusion.config import Config, dump_config
from siamese_diffusion.diffusion.backbone import small_backbone
from siamese_diffusion.diffusion.checkpoint import assemble, load_trained, save_pipeline
from siamese_diffusion.errors import InputError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny: Config) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    backbone = small_backbone(
        tiny.backbone, torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    )
    save_pipeline(assemble(backbone, tiny), backbone, folder / "pipeline")
    (folder / "config.yaml").write_text(dump_config(tiny))
    return folder


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "run"))


def test_what_was_saved_is_loaded(run: Path) -> None:
    assert load_trained(run).backbone.embed(["A photo of polyp"]).shape == (1, 32, 8)


def drop(state: dict[str, Tensor]) -> None:
    del state[min(state)]


def add(state: dict[str, Tensor]) -> None:
    state["more.weight"] = torch.zeros(1)


def reshape(state: dict[str, Tensor]) -> None:
    state[min(state)] = torch.zeros(3, 3, 3)


@pytest.mark.parametrize("change", [drop, add, reshape])
@pytest.mark.parametrize("part", ["unet", "vae", "controlnet", "text_encoder"])
def test_weights_that_are_not_those_of_the_configuration(
    run: Path, part: str, change: Callable[[dict[str, Tensor]], None]
) -> None:
    """The libraries would fill in random numbers, or leave out what is too much, and go on."""
    path = next((run / "pipeline" / part).glob("*.safetensors"))
    state = load_file(path)
    change(state)
    save_file(state, path, {"format": "pt"})
    with pytest.raises(InputError, match=r"could be loaded from there|cannot be loaded") as caught:
        load_trained(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "entry", "words"),
    [
        ("unet", {"auto_map": {"AutoModel": "evil.Evil"}}, "has auto_map, and no code is taken"),
        ("text_encoder", {"quantization_config": {"quant_method": "x"}}, "has quantization_config, and no code"),
        ("text_encoder", {"attn_implementation": "evil/kernel"}, "has attn_implementation, and no code"),
        ("tokenizer", {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}, "has auto_map, and no code"),
        ("unet", {"layers_per_block": 10_000}, "layers_per_block is 10000, at most 64"),
        ("text_encoder", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, at most 64"),
        ("scheduler", {"num_train_timesteps": 10**9}, "num_train_timesteps is 1000000000, at most"),
        ("scheduler", {"beta_schedule": "linear", "beta_end": 3.0}, "betas are not between 0 and 1"),
        ("unet", {"norm_num_groups": 0}, "no backbone could be loaded"),
        ("controlnet", {"block_out_channels": "x"}, "controlnet: cannot be loaded"),
        ("tokenizer", {"model_max_length": 10**30}, "model_max_length"),
        ("tokenizer", {"model_max_length": 0.5}, "model_max_length"),
        ("unet", [], "is not a JSON object"),
    ],
)
def test_configurations_that_bring_code_or_fit_nothing(run: Path, part: str, entry: Any, words: str) -> None:
    path = next((run / "pipeline" / part).glob("*config.json"))
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, **entry} if isinstance(entry, dict) else entry))
    with pytest.raises(InputError, match=words) as caught:
        load_trained(run)
    assert "\n" not in str(caught.value)
