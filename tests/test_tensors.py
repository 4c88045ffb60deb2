"""Files of tensors: what is read, and that nothing else is."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from siamese_diffusion.errors import InputError
from siamese_diffusion.tensors import read_tensors

STATE = {"weight": torch.arange(12.0).view(3, 4)}


def saved(path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=path.suffix != ".old")
    return path


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "x.old"])
def test_reads_what_was_saved(tmp_path: Path, name: str, mapped: bool) -> None:
    found = read_tensors(saved(tmp_path / name), mapped=mapped)
    assert found.keys() == STATE.keys()
    assert torch.equal(found["weight"], STATE["weight"])


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "x.old"])
@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_torn_file_is_one_line(tmp_path: Path, name: str, kept: int) -> None:
    path = saved(tmp_path / name)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match="cannot be read as weights") as caught:
        read_tensors(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_would_run_code_is_refused_without_advice_to_run_it(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (str(tmp_path / "ran"),))

    torch.save({"state_dict": Trap()}, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match="more than tensors, which could run code") as caught:
        read_tensors(tmp_path / "x.ckpt")
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x.pth: no such file"):
        read_tensors(tmp_path / "x.pth")
