"""A checkpoint is put back whole, or refused with what is wrong with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from siamese_diffusion.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from siamese_diffusion.errors import InputError, WithheldError


def training(seed: int = 0) -> tuple[nn.Module, Any, Any]:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    return network, torch.optim.AdamW(network.parameters()), EMAModel(network.parameters(), decay=0.9)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    network, optimizer, average = training()
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path, {"step": 7, "micro_batch": None, "light": False}, network, optimizer, average, keep=1)
    return tmp_path / "checkpoints/step-000007"


def test_it_is_put_back(checkpoint: Path) -> None:
    network, optimizer, average = training(1)
    assert load_checkpoint(checkpoint, network, optimizer, average)["step"] == 7
    stored = load_file(checkpoint / "model.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in network.state_dict().items())


def lack(state: dict[str, Tensor]) -> None:
    del state["0.weight"]


def rename(state: dict[str, Tensor]) -> None:
    state["0.weihgt"] = state.pop("0.weight")


@pytest.mark.parametrize("change", [lack, rename])
def test_weights_that_are_not_there_do_not_stay_as_they_began(
    checkpoint: Path, change: Callable[[dict[str, Tensor]], None]
) -> None:
    state = load_file(checkpoint / "model.safetensors")
    change(state)
    save_file(state, checkpoint / "model.safetensors")
    with pytest.raises(
        InputError, match=r"model\.safetensors: does not fit these settings \((lacks|holds, besides,) 0\."
    ):
        load_checkpoint(checkpoint, *training())


@pytest.mark.parametrize(
    "state", [[], {"step": "7"}, {"step": -1}, {"step": 8}, {"step": 7, "micro_batch": "x"}, {"light": True}, "x"]
)
def test_a_state_that_is_none_is_named(checkpoint: Path, state: object) -> None:
    (checkpoint / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match=r"state\.json: .*; without .*step-000007, --resume goes on"):
        load_checkpoint(checkpoint, *training())


def test_a_state_of_the_optimiser_of_another_shape_is_refused(checkpoint: Path) -> None:
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    state["state"][0]["exp_avg"] = torch.zeros(1)
    torch.save(state, checkpoint / "optimizer.pt")
    with pytest.raises(
        InputError, match=r"does not fit these settings \(exp_avg has the shape \[1\], its weight \[4, 3\]"
    ):
        load_checkpoint(checkpoint, *training())


@pytest.mark.parametrize(
    "content", [[], {"state": 3, "param_groups": []}, {"x": 1}, {"state": {}, "param_groups": [[]]}]
)
def test_an_optimiser_s_file_of_something_else_is_refused(checkpoint: Path, content: object) -> None:
    torch.save(content, checkpoint / "optimizer.pt")
    with pytest.raises(InputError, match="step-000007: does not fit these settings"):
        load_checkpoint(checkpoint, *training())


def test_nobody_is_told_to_do_without_a_checkpoint_that_a_disk_withholds(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("siamese_diffusion.tensors.load_file", fail)
    with pytest.raises(WithheldError) as caught:
        load_checkpoint(checkpoint, *training())
    assert "without" not in str(caught.value)


def test_what_a_user_keeps_beside_the_checkpoints_is_neither_taken_nor_removed(tmp_path: Path) -> None:
    mine = ("step-000012-mine", "step-best", "step-000900.bak")
    for name in mine:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    for step in (5, 9, 1_000_000):
        save_checkpoint(tmp_path, {"step": step}, *training(), keep=1)
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoints/step-1000000"
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {*mine, "step-1000000"}
