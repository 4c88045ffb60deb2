"""Files of tensors: what is read, and that nothing else is."""

import signal
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from siamese_diffusion.errors import InputError, WithheldError
from siamese_diffusion.tensors import not_finite, read_state, read_tensors, require_finite

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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_value_that_is_not_finite_is_named(value: float, dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    good = {"a": torch.full((3, 2), largest, dtype=dtype), "n": torch.arange(3), "none": torch.empty(0), "step": 3}
    assert not_finite(good) is None
    assert not_finite({}) is None
    bad = torch.full((3, 2), -largest, dtype=dtype)
    bad[1, 1] = value
    assert not_finite({**good, "b": [bad[:1], {"c": bad}]}) == "b.1.c"
    require_finite(good, "x.pt")
    with pytest.raises(InputError, match=r"^x.pt: holds weights that are not finite \(b\)"):
        require_finite({**good, "b": bad}, "x.pt")


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth"])
def test_an_interruption_is_not_taken_for_a_torn_file(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries in C++ and Rust turn what Python raises within them into errors of their own."""

    def reading(*arguments: object, **options: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("PytorchStreamReader failed reading file data/3: file read failed") from None

    monkeypatch.setattr("siamese_diffusion.tensors.load_file", reading)
    monkeypatch.setattr(torch, "load", reading)
    with pytest.raises(KeyboardInterrupt):
        read_tensors(saved(tmp_path / name))


def test_a_packed_file_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1 << 22)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as old,
        zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert (tmp_path / "x.pt").stat().st_size < 1 << 18
    with pytest.raises(InputError, match=r"x\.pt: cannot be read as weights \(it is a ZIP file of packed files\)"):
        read_tensors(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "value", [torch.zeros(1).expand(1 << 40), torch.zeros(2, 2).to_sparse(), torch.zeros(2, device="meta")]
)
def test_a_tensor_that_is_not_stored_in_full_is_refused(tmp_path: Path, value: torch.Tensor) -> None:
    torch.save({"state": [{"weight": value}]}, tmp_path / "x.pt")
    with pytest.raises(InputError, match="a tensor that is not stored in full"):
        read_tensors(tmp_path / "x.pt")


def test_a_program_of_torchscript_is_refused_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "x.pt"))
    recwarn.clear()
    with pytest.raises(InputError, match="a TorchScript program, which would be run"):
        read_tensors(tmp_path / "x.pt")
    assert not recwarn.list


@pytest.mark.parametrize("content", [[STATE["weight"]], {"a": {"b": STATE["weight"]}}, {"a": 1}, {1: STATE["weight"]}])
def test_a_state_is_names_to_tensors(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(InputError, match="expected a state dict, names to tensors"):
        read_state(tmp_path / "x.pt")


def test_a_lack_of_memory_and_a_failing_disk_are_not_the_file_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "x.pth")

    def fail(error: Exception) -> None:
        def load(*arguments: object, **options: object) -> None:
            raise error

        monkeypatch.setattr(torch, "load", load)

    fail(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 48 bytes. Error code 12"))
    with pytest.raises(MemoryError):
        read_tensors(path)
    fail(
        RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 999999999999 bytes. Error code 12"
        )
    )
    with pytest.raises(InputError, match="cannot be read as weights"):
        read_tensors(path)
    fail(OSError(5, "Input/output error"))
    with pytest.raises(WithheldError, match=r"cannot be read as weights \(Input/output error\)"):
        read_tensors(path)
