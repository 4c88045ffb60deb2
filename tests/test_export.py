"""A trained network in ONNX, TorchScript and safetensors: the same probabilities, one image or many."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from siamese_diffusion.config import dump_config, load_config
from siamese_diffusion.data.hashing import hash_files
from siamese_diffusion.errors import InputError
from siamese_diffusion.exporting import export
from siamese_diffusion.segmentation import networks
from siamese_diffusion.segmentation.export import export_network
from siamese_diffusion.segmentation.inference import probabilities
from siamese_diffusion.segmentation.trained import load_network

SIDE = 32
SMP = "segment.encoder=tu-test_resnet"


def finished(folder: Path, *settings: str) -> Path:
    """A finished run of a network with random weights."""
    config = load_config(None, [f"segment.resolution={SIDE}", "data.label=polyp", "data.fit=pad", *settings])
    torch.manual_seed(0)
    folder.mkdir()
    state = networks.of(config.segment).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "best.safetensors")
    (folder / "config.yaml").write_text(dump_config(config))
    score = {"mDice": 0.5, "mIoU": 0.25, "count": 3}
    counts = {"folder": str(folder), "real": 8, "validation": 2, "synthetic": 0}
    metrics = {"val": score, "test": {"kvasir": score}, "train": counts, "imagenet": False, "step": 4}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "dataset.json").write_text(json.dumps({"licence": "CC BY 4.0"}))
    (folder / "inputs.json").write_text(
        json.dumps({"program": "siamese-diffusion", "command": "segment", "files": "abcd"})
    )
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("runs") / "smp", SMP)


def wanted(run: Path, images: Tensor) -> Tensor:
    """(B, 1, R, R), as `segment` and `predict` see it."""
    trained = load_network(run)
    pixels = (images * 255).round().to(torch.uint8).movedim(1, 3).numpy()
    found = probabilities(trained.network, pixels, 8, trained.settings.correction)
    return torch.from_numpy(found)[:, None]


def pictures(count: int) -> Tensor:
    """Whole 255ths, so that bytes say the same."""
    return (torch.rand(count, 3, SIDE, SIDE) * 255).round() / 255


def seen(out: Path, to: str, images: Tensor) -> Tensor:
    if to == "safetensors":
        return wanted(out, images)
    if to == "torchscript":
        with torch.no_grad():
            found: Tensor = torch.jit.load(str(out / "model.pt"))(images)
        return found
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["probabilities"], {"images": images.numpy()})[0])


@pytest.mark.parametrize("to", ["torchscript", "safetensors", "onnx"])
@pytest.mark.parametrize(
    "name",
    [SMP, "unet_plain"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in networks.names() if name not in ("unet_plain", "smp")],
)
def test_what_is_written_says_the_same(name: str, to: str, tmp_path: Path) -> None:
    if to == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    source = finished(tmp_path / "run", name if "=" in name else f"segment.network={name}")
    result = export_network(source, tmp_path / "out", to)
    assert result["difference"] <= 1e-4
    torch.manual_seed(1)
    for count in (1, 5):  # neither of them the number that the graph was made with
        images = pictures(count)
        expected = wanted(source, images)
        assert expected.std() > 0
        torch.testing.assert_close(seen(tmp_path / "out", to, images), expected, rtol=0, atol=1e-4)


def test_images_may_be_bytes(run: Path, tmp_path: Path) -> None:
    export_network(run, tmp_path / "out", "torchscript", "uint8")
    images = pictures(3)
    found = seen(tmp_path / "out", "torchscript", (images * 255).to(torch.uint8))
    torch.testing.assert_close(found, wanted(run, images), rtol=0, atol=1e-4)
    card = json.loads((tmp_path / "out" / "model.json").read_text())
    assert (card["input"]["dtype"], card["input"]["range"]) == ("uint8", "0 to 255")


def test_the_card_says_what_a_user_needs(run: Path, tmp_path: Path) -> None:
    export_network(run, tmp_path / "out", "torchscript")
    card: dict[str, Any] = json.loads((tmp_path / "out" / "model.json").read_text())
    assert card["sha256_16"] == hash_files([tmp_path / "out" / "model.pt"])
    assert card["input"]["shape"] == ["batch", 3, SIDE, SIDE]
    assert card["classes"] == {"0": "background", "1": "polyp"}
    assert (card["resolution"], card["fit"], card["threshold"]) == (SIDE, "pad", 0.5)
    assert card["normalisation"]["mean"] == load_network(run).network.get_buffer("normalize.mean").flatten().tolist()
    assert card["trained"]["files_hash"] == "abcd"
    assert card["licence"]["training_data"] == "CC BY 4.0"
    assert card["network"]["encoder"] == "tu-test_resnet"
    text = (tmp_path / "out" / "README.md").read_text()
    for words in ("padded with black", "CC BY 4.0", "no medical device", "kvasir: mDice 0.5000", "torch.jit.load"):
        assert words in text


def test_the_resizing_that_the_card_tells_gives_what_predict_gives(run: Path, tmp_path: Path) -> None:
    from PIL import Image
    from torch.nn import functional as F

    export_network(run, tmp_path / "out", "torchscript")
    image = np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    small = np.zeros((SIDE, SIDE, 3), np.uint8)  # padded on both sides: 16 of 32 rows hold it
    small[8:24] = np.asarray(Image.fromarray(image).resize((32, 16), Image.Resampling.LANCZOS))
    found = seen(tmp_path / "out", "torchscript", torch.from_numpy(small).movedim(2, 0)[None] / 255)
    back = F.interpolate(found[:, :, 8:24], size=(40, 80), mode="bilinear")[0, 0].numpy()
    np.testing.assert_allclose(back, load_network(run).probability(image), atol=1e-4)


def test_a_folder_is_finished_or_begun_again(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from siamese_diffusion.segmentation import export as module

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(module, "read_me", lambda card: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export_network(run, out, "torchscript")
    assert not (out / "model.json").exists()
    with pytest.raises(InputError, match=r"begun with --to torchscript, not safetensors"):
        export_network(run, out, "safetensors")
    export_network(run, out, "torchscript")
    with pytest.raises(InputError, match="already holds a run"):
        export_network(run, out, "torchscript")


def test_a_file_that_differs_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from siamese_diffusion.segmentation import export as module

    load: Any = module._load_torchscript
    monkeypatch.setattr(module, "_load_torchscript", lambda file: lambda images: load(file)(images) + 0.01)
    with pytest.raises(InputError, match=r"--to torchscript: what was written differs from the network by 0\.01"):
        export_network(run, tmp_path / "out", "torchscript")
    assert not (tmp_path / "out" / "model.json").exists()
    assert not (tmp_path / "out" / "model.pt").exists()


def test_wrong_input_is_one_line(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: export(None, out), "give one of --checkpoint"),
        (lambda: export(run, out, network=run), "give one of --checkpoint"),
        (lambda: export(run, out, "onnx"), "--to onnx: is for --network"),
        (lambda: export(run, out, pixels="uint8"), "--pixels: is for --network"),
        (lambda: export(None, out, "diffusers", run), "--to diffusers: is for --checkpoint"),
        (lambda: export(None, out, "tflite", run), "--to tflite: unknown for --network; choose from onnx"),
        (lambda: export(None, out, "onnx", run, "int8"), "--pixels int8: unknown"),
        (lambda: export(None, out, "safetensors", run, "uint8"), "--pixels: makes no difference"),
        (lambda: export(None, out, "onnx", tmp_path / "absent"), "not a finished run of segment"),
        (lambda: export(None, run / "inside", "torchscript", run), "--out .*inside"),
    ]
    for call, words in calls:
        with pytest.raises(InputError, match=words):
            call()
    assert not out.exists()


def test_without_the_extra_it_is_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from siamese_diffusion import extras as module

    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs onnx, onnxruntime, onnxscript; pip install 'siamese-diffusion\[exp"):
        export_network(run, tmp_path / "out")
