"""Training on pairs, and the small backbone under it."""

import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TINY

from siamese_diffusion.config import Config, build_config, dump_config, load_config, update
from siamese_diffusion.diffusion.backbone import load_backbone
from siamese_diffusion.diffusion.checkpoint import load_trained, save_pipeline
from siamese_diffusion.diffusion.pretrain import pretrain
from siamese_diffusion.diffusion.train import _say_where, train
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_jsonl
from siamese_diffusion.segmentation.segment import segment
from siamese_diffusion.tensors import not_finite


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": value
        for part in ("unet", "controlnet")
        for name, value in load_file(run / "pipeline" / part / "diffusion_pytorch_model.safetensors").items()
    }


def assert_equal(these: dict[str, torch.Tensor], those: dict[str, torch.Tensor]) -> None:
    assert these
    assert these.keys() == those.keys()
    assert [name for name, value in these.items() if not torch.equal(value, those[name])] == []


def test_run_folder(run: Path, tiny: Config) -> None:
    resolved = update(tiny, "train", precision="fp32")
    assert load_config(run / "config.yaml") == resolved
    rows = [row for row in read_jsonl(run / "log.jsonl") if "total" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[0]["consistency"] == 0
    assert rows[0]["augmentation"] == 0
    assert rows[-1]["consistency"] > 0
    assert list((run / "samples").glob("step-000006.png"))
    assert list((run / "tensorboard").iterdir())
    assert len(list((run / "checkpoints").iterdir())) == 2


def test_encoder_stays_as_the_backbone_left_it(run: Path, backbone: Path) -> None:
    before = load_file(backbone / "backbone/unet/diffusion_pytorch_model.safetensors")
    after = load_file(run / "pipeline/unet/diffusion_pytorch_model.safetensors")
    assert after.keys() == before.keys()
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"up_blocks", "conv_norm_out", "conv_out"}


def test_resume_after_sigkill_is_the_same_run(
    tmp_path: Path, run: Path, pairs: Path, backbone: Path, tiny: Config
) -> None:
    (tmp_path / "config.yaml").write_text(dump_config(tiny))
    script = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from siamese_diffusion import config, loop
        from siamese_diffusion.diffusion import train
        steps = iter(range(1, 99))
        forward = train.LatentData.batch
        def killed(self, step, *rest):
            if step == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return forward(self, step, *rest)
        train.LatentData.batch = killed
        settings = config.load_config(Path({str(tmp_path / "config.yaml")!r}))
        train.train(Path({str(pairs)!r}), Path({str(tmp_path / "cut")!r}), {str(backbone)!r}, config=settings,
        device="cpu")
        """
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == -9
    with pytest.raises(InputError, match="--resume"):
        train(pairs, tmp_path / "cut", str(backbone), config=tiny, device="cpu")
    with pytest.raises(InputError, match="has not finished"):
        load_trained(tmp_path / "cut")
    train(pairs, tmp_path / "cut", str(backbone), config=tiny, resume=True, device="cpu")
    assert_equal(weights(tmp_path / "cut"), weights(run))


def test_resume_keeps_its_settings(run: Path, pairs: Path, backbone: Path) -> None:
    other = build_config({**TINY, "train": {**TINY["train"], "learning_rate": 0.5}}, "tests")
    with pytest.raises(InputError, match="learning_rate"):
        train(pairs, run, str(backbone), config=other, resume=True, device="cpu")


def test_accumulated_micro_batches_are_the_same_run(tmp_path: Path, run: Path, pairs: Path, backbone: Path) -> None:
    halves = build_config({**TINY, "train": {**TINY["train"], "micro_batch": 2}}, "tests")
    train(pairs, tmp_path / "run", str(backbone), config=halves, device="cpu")
    # Losses and not weights: Adam turns rounding in a vanishing gradient into a step of either sign.
    logs = [
        [row["total"] for row in read_jsonl(folder / "log.jsonl") if "total" in row]
        for folder in (tmp_path / "run", run)
    ]
    assert len(logs[1]) == 6
    assert logs[0] == pytest.approx(logs[1], rel=1e-3)


def test_mask_only_trains_through_the_same_code(tmp_path: Path, pairs: Path, backbone: Path, tiny: Config) -> None:
    result = train(pairs, tmp_path / "run", str(backbone), "mask-only", tiny, device="cpu")
    assert result["method"] == "mask-only"
    rows = [row for row in read_jsonl(tmp_path / "run/log.jsonl") if "total" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["total"] for row in rows] == [row["mask"] for row in rows]
    assert [row["image"] for row in rows] == [0] * 6


def test_the_hint_embedding_learns_at_its_own_rate_and_a_blind_controlnet_is_told(
    tmp_path: Path, pairs: Path, backbone: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Config().train.hint_rate < 1  # the small backbone's rate kills it
    assert load_config("sd15-paper").train.hint_rate == load_config("sd15-low-memory").train.hint_rate == 1
    held = build_config({**TINY, "train": {**TINY["train"], "hint_rate": 0, "sample_every": 3}}, "tests")
    train(pairs, tmp_path / "run", str(backbone), config=held, device="cpu")
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("does not see its masks (hint strength 0.0e+00)") == 2
    assert "lower train.hint_rate, now 0" in told
    assert [row["hint"] for row in read_jsonl(tmp_path / "run/log.jsonl") if "hint" in row] == [0, 0]
    assert any(row["hint"] > 0 for row in read_jsonl(run / "log.jsonl") if "hint" in row)
    ours, others = weights(tmp_path / "run"), weights(run)
    embedding = {name for name in ours if ".controlnet_cond_embedding." in name}
    assert embedding
    assert {name for name in embedding if torch.equal(ours[name], others[name])} == set()  # those of `run` have moved
    project = {name for name in embedding if ".project." in name}
    assert project
    assert {name for name in project if ours[name].any()} == set()  # these have not: they begin at zero
    moved = {name for name in ours if name.startswith("controlnet.controlnet_down_blocks")}
    assert moved
    assert {name for name in moved if not ours[name].any()} == set()


def test_small_backbone_is_trained_where_none_is_named(tmp_path: Path, pairs: Path, tiny: Config) -> None:
    train(pairs, tmp_path / "run", "small", config=tiny, device="cpu")
    assert (tmp_path / "run/pretrain/backbone/unet/diffusion_pytorch_model.safetensors").exists()
    assert load_trained(tmp_path / "run").model.schedule.prediction == "v_prediction"


@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder"])
def test_a_torn_backbone_is_one_line(backbone: Path, tmp_path: Path, part: str) -> None:
    shutil.copytree(backbone / "backbone", tmp_path / "torn")
    weights = next((tmp_path / "torn" / part).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"torn: no backbone could be loaded from there \(") as caught:
        load_backbone(tmp_path / "torn")
    assert "\n" not in str(caught.value)


def test_backbone_loads_as_it_was_saved(backbone: Path) -> None:
    loaded = load_backbone(backbone / "backbone")
    assert loaded.factor == 4
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    mean, spread = loaded.encode(images)
    assert mean.shape == spread.shape == (2, 8, 8, 8)
    assert loaded.decode(mean).shape == images.shape
    one, other, empty = loaded.embed(["A photo of polyp", "A photo of nevus", ""])
    assert not torch.allclose(one, other)
    assert not torch.allclose(one, empty)


def test_pipeline_loads_in_plain_diffusers(run: Path) -> None:
    from diffusers import StableDiffusionControlNetPipeline

    pipeline = StableDiffusionControlNetPipeline.from_pretrained(run / "pipeline")
    assert type(pipeline.controlnet).__name__ == "DenseControlNet"
    expected = load_file(run / "pipeline/controlnet/diffusion_pytorch_model.safetensors")
    assert_equal(dict(pipeline.controlnet.state_dict()), expected)


@pytest.mark.parametrize(
    ("section", "name", "value", "word"),
    [
        ("backbone", "attention", [True], "backbone.attention"),
        ("backbone", "patch", 3, "power of two"),
        ("backbone", "channels", [20, 32], "multiples of 16"),
        ("data", "resolution", 36, "multiple of 8"),
    ],
)
def test_settings_that_do_not_fit(
    tmp_path: Path, pairs: Path, section: str, name: str, value: object, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = build_config({**TINY, section: {**TINY[section], name: value}}, "tests")
    refuse_reading(monkeypatch)
    with pytest.raises(InputError, match=word):
        pretrain(pairs, tmp_path / "run", config, device="cpu")
    with pytest.raises(InputError, match=word):
        train(pairs, tmp_path / "run", config=config, device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_resolution_that_a_given_backbone_cannot_take(
    tmp_path: Path, pairs: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_reading(monkeypatch)
    config = build_config({**TINY, "data": {**TINY["data"], "resolution": 36}}, "tests")
    with pytest.raises(InputError, match=r"data\.resolution = 36: must be a multiple of 8 for this backbone"):
        train(pairs, tmp_path / "run", str(backbone), config=config, device="cpu")


def refuse_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a large folder takes minutes, after which a refusal comes too late."""

    def read(*arguments: object) -> None:
        raise AssertionError("images are read before the settings are checked")

    for name in ("train.map_pairs", "pretrain.map_images"):
        monkeypatch.setattr(f"siamese_diffusion.diffusion.{name}", read)


DIVERGING: dict[str, Callable[[Path, Path, Config], Any]] = {
    "pretrain": lambda data, out, config: pretrain(data, out, config, device="cpu"),
    "train": lambda data, out, config: train(data, out, config=config, device="cpu"),
    "segment": lambda data, out, config: segment(data, out, [], config=config, device="cpu"),
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("command", DIVERGING)
def test_a_training_that_diverges_is_no_success(tmp_path: Path, pairs: Path, command: str, precision: str) -> None:
    """And what it leaves is neither gone on from nor taken for a model."""
    values = {**TINY, "segment": {"resolution": 32, "steps": 6, "batch_size": 4, "warmup": 0, "checkpoint_every": 1}}
    values[command] = {**values[command], "learning_rate": 1e30, "precision": precision, "clip": None, "ema": 0}
    told = (
        rf"^{command}.learning_rate = 1e\+30: training has diverged, .* not finite after step \d+ "
        r"\(learning rate .*\); "
    )
    with pytest.raises(InputError, match=told) as caught:
        DIVERGING[command](pairs, tmp_path / "run", build_config(values, "tests"))
    assert "\n" not in str(caught.value)
    assert ("precision=fp32" in str(caught.value)) == (precision == "bf16")
    made = {path.name for path in (tmp_path / "run").iterdir()}
    assert not made & {"pipeline", "backbone", "summary.json", "metrics.json", "best.safetensors"}
    for path in (tmp_path / "run").rglob("*.safetensors"):
        assert not_finite(load_file(path)) is None, path
    for path in (tmp_path / "run").rglob("log.jsonl"):
        assert "NaN" not in path.read_text()
        assert "Infinity" not in path.read_text()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_backbone_that_has_diverged_is_refused(
    tmp_path: Path, backbone: Path, pairs: Path, tiny: Config, part: str
) -> None:
    shutil.copytree(backbone / "backbone", tmp_path / "bad")
    spoil(next((tmp_path / "bad" / part).glob("*.safetensors")))
    with pytest.raises(InputError, match=rf"^--backbone .*bad: holds weights that are not finite \({part}\."):
        train(pairs, tmp_path / "run", str(tmp_path / "bad"), config=tiny, device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("part", ["unet", "controlnet"])
def test_a_pipeline_that_has_diverged_is_neither_loaded_nor_written(tmp_path: Path, run: Path, part: str) -> None:
    trained = load_trained(run)
    with torch.no_grad():
        next(getattr(trained.model, part).parameters())[0] = float("inf")
    with pytest.raises(InputError, match=rf"pipeline: holds weights that are not finite \({part}\."):
        save_pipeline(trained.model, trained.backbone, tmp_path / "pipeline")
    assert list(tmp_path.iterdir()) == []
    shutil.copytree(run, tmp_path / "run")
    spoil(tmp_path / "run/pipeline" / part / "diffusion_pytorch_model.safetensors")
    with pytest.raises(InputError, match=rf"^--checkpoint .*pipeline: holds weights that are not finite \({part}\."):
        load_trained(tmp_path / "run")


def spoil(path: Path) -> None:
    state = load_file(path)
    state[min(state)].view(-1)[0] = float("nan")
    save_file(state, path, metadata={"format": "pt"})


def test_a_torn_pipeline_is_named_as_it_was_given(tmp_path: Path, run: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    weights = tmp_path / "run/pipeline/unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"^--checkpoint .*pipeline: no backbone could be loaded from there \("):
        load_trained(tmp_path / "run")


def test_it_says_where_to_look_while_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _say_where(tmp_path / "my run", load_config({"train.sample_every": 500, "train.steps": 200}))
    said = capsys.readouterr().err
    assert f"{tmp_path}/my run/samples gets what it draws for training masks, every 200 steps" in said
    assert f"siamese-diffusion status '{tmp_path}/my run'" in said
    assert f"tensorboard --logdir '{tmp_path}/my run'" in said
