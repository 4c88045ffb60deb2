"""What only a GPU shows: the recorded numbers there, no waiting in a step, what fits its memory, and every command on
it.

Each test also runs with the processor as a stand-in, so that its body is known to run before a GPU is at hand: with a
watch for what would wait, free memory that is only said to be so little, and gloo for NCCL. `-m gpu` leaves those out.
"""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_golden import CONFIG, assert_near, losses_at, state, stored, under_their_names
from test_loop import Out
from tiny import TINY, sd15_schedule, tiny_batch, tiny_siamese
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from siamese_diffusion import console, memory
from siamese_diffusion.checkpoints import latest_checkpoint
from siamese_diffusion.config import LoopConfig, build_config, update
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.phantom import make_phantoms
from siamese_diffusion.device import SIXTEEN_BITS, autocast, find_device, make_accelerator, set_tf32
from siamese_diffusion.diffusion.original import load_original
from siamese_diffusion.diffusion.sample import sample
from siamese_diffusion.diffusion.sampler import denoise, guided
from siamese_diffusion.diffusion.siamese import Losses, SiameseDiffusion
from siamese_diffusion.diffusion.train import train
from siamese_diffusion.evaluation.evaluate import evaluate
from siamese_diffusion.files import read_json, read_jsonl
from siamese_diffusion.loop import run
from siamese_diffusion.segmentation.segment import segment
from siamese_diffusion.studies.study import study

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what `use_deterministic_algorithms` asks for

GIB = 2**30
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]

HALF = {"bf16": 0.03, "fp16": 0.01}
"""How far, as a share of the value, losses and gradients in 16 bits may be from those in 32: bf16 has 8 bits of
mantissa."""


@pytest.fixture(params=[pytest.param("cpu", id="stand-in"), pytest.param("cuda:0", id="gpu", marks=GPU)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def in_precisions(stand_in: Sequence[str], gpu: Sequence[str]) -> pytest.MarkDecorator:
    """A test in these precisions: 16 bits take a processor long, and it has no TF32."""
    values = [pytest.param("cpu", precision, id=f"stand-in-{precision}") for precision in stand_in]
    values += [pytest.param("cuda:0", precision, id=f"gpu-{precision}", marks=GPU) for precision in gpu]
    return pytest.mark.parametrize(("device", "precision"), values, indirect=["device"])


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def bounded(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Two GiB of the card are all that this process may take, over what it has. Of the stand-in 128 MiB are said to be
    free. Returns the bound."""
    if device.type == "cpu":
        monkeypatch.setattr(memory, "free_bytes", lambda device: GIB // 8)
        yield GIB // 8
        return
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info(device)[1]
    bound = torch.cuda.memory_reserved(device) + 2 * GIB
    torch.cuda.set_per_process_memory_fraction(bound / total, device)
    yield bound
    torch.cuda.set_per_process_memory_fraction(1.0, device)


def golden(device: torch.device) -> SiameseDiffusion:
    model: SiameseDiffusion = load_original(state(), unet_config=CONFIG)
    return model.to(device)


def on_device(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    """The recorded inputs, moved."""
    import test_golden

    moved = {name: {key: value.to(device) for key, value in stored(name).items()} for name in ("inputs",)}
    monkeypatch.setattr(test_golden, "stored", lambda name: moved.get(name) or stored(name))


@pytest.mark.parametrize("step", [0, 200, 333, 334, 800])
def test_recorded_losses_and_gradients(monkeypatch: pytest.MonkeyPatch, device: torch.device, step: int) -> None:
    set_tf32(device, "fp32")
    on_device(monkeypatch, device)
    model = golden(device)
    losses, recorded = losses_at(model, step)
    assert isinstance(losses, Losses)
    for term in ("mask", "image", "consistency"):
        assert float(getattr(losses, term)) == pytest.approx(
            float(recorded[f"loss.{term}.per_sample"].mean()), 1e-4, 1e-8
        )
    assert float(losses.total) == pytest.approx(float(recorded["loss.total"]), rel=1e-4)
    if "grad_norm.global" in recorded:
        losses.total.backward()
        parameters = under_their_names(model)
        for name in recorded:
            if name.startswith("grad."):
                gradient = parameters[name.removeprefix("grad.")].grad
                assert gradient is not None
                assert_near(gradient.cpu(), recorded[name], 1e-3)
        norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
        assert float(norm) == pytest.approx(float(recorded["grad_norm.global"]), rel=1e-4)


@in_precisions(["bf16"], list(HALF))
def test_losses_and_gradients_in_16_bits(monkeypatch: pytest.MonkeyPatch, device: torch.device, precision: str) -> None:
    on_device(monkeypatch, device)
    model = golden(device)
    with autocast(device, precision):
        losses, recorded = losses_at(model, 800)
    assert isinstance(losses, Losses)
    (1024 * losses.total).backward()  # fp16 loses small gradients that are not scaled
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm() / 1024
    for name, value in (("loss.total", losses.total), ("grad_norm.global", norm)):
        apart = abs(float(value) / float(recorded[name]) - 1)
        print(f"{precision} {name}: {apart:.1e} apart")
        assert apart < HALF[precision]


@in_precisions(["fp32", "bf16"], ["fp32", "tf32", "bf16", "fp16"])
def test_sampling_in_every_precision(device: torch.device, precision: str) -> None:
    """The recorded latents of 50 guided steps; in 16 bits as near as 8 or 11 bits of mantissa, nine times over,
    allow."""
    set_tf32(device, precision)
    model = golden(device).eval()
    if precision in SIXTEEN_BITS:
        model.unet.to(SIXTEEN_BITS[precision])
        model.controlnet.to(SIXTEEN_BITS[precision])
    inputs = {key: value.to(device) for key, value in stored("inputs").items()}
    empty = inputs["uncond_context"].expand_as(inputs["context"])
    predict = guided(model, inputs["mask_hint"], inputs["context"], empty, 9.0)
    drawn = denoise(predict, inputs["x_T"], sd15_schedule(), "ddim", 50).cpu()
    expected = stored("sampling_vae")["ddim50.final_latent"]
    apart = float((drawn - expected).square().mean().sqrt() / expected.square().mean().sqrt())
    print(f"{precision}: {apart:.1e} of the recorded latents' RMS apart")
    assert apart < {"fp32": 1e-3, "tf32": 0.05, "fp16": 0.05, "bf16": 0.3}[precision]
    assert drawn.dtype == torch.float32


WAITING = {"_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2", "unique_dim"}
"""Operations whose result the program needs before it can go on."""


class Watch(TorchDispatchMode):
    """Refuses those, as `torch.cuda.set_sync_debug_mode("error")` does on a GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._overloadpacket.__name__
        by_mask = name in ("index", "index_put_") and any(
            each is not None and each.dtype == torch.bool for each in args[1]
        )
        assert name not in WAITING, f"{name} waits"
        assert not by_mask, f"{name} by a mask waits"
        return func(*args, **(kwargs or {}))


class Watched(nn.Module):
    """The method, in whose steps 2 to 5 (from 0) whatever waits for the device is an error."""

    def __init__(self, device: torch.device, also: Callable[[Losses], object] = lambda losses: None) -> None:
        super().__init__()
        self.model, self.also = tiny_siamese(), also
        self.calls = 0
        self.on_gpu, self.watch = device.type == "cuda", Watch()  # type: ignore[no-untyped-call]

    def forward(self, **batch: object) -> Losses:
        self.mark(self.calls)
        self.calls += 1
        losses: Losses = self.model(**batch)
        self.also(losses)
        return losses

    def mark(self, call: int) -> None:
        if self.on_gpu:
            torch.cuda.set_sync_debug_mode("error" if 2 <= call < 6 else "default")
        elif call == 2:
            self.watch.__enter__()  # type: ignore[no-untyped-call]
        elif call == 6:
            self.end()

    def end(self) -> None:
        if self.on_gpu:
            torch.cuda.set_sync_debug_mode("default")
        elif 2 < self.calls <= 6:
            self.watch.__exit__(None, None, None)  # type: ignore[no-untyped-call]


def run_watched(watched: Watched, precision: str, out: Path, device: torch.device) -> None:
    settings = LoopConfig.model_validate(
        {"steps": 8, "batch_size": 2, "clip": 1.0, "ema": 0.9, "log_every": 100, "precision": precision, "workers": 1}
    )
    batch = {**tiny_batch((100, 999)), "progress": 0.9, "augmented_rows": [0]}
    try:
        run(watched, lambda step, rows: batch, settings, out, device=str(device))
    finally:
        watched.end()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_step_waits_for_the_device(tmp_path: Path, device: torch.device, precision: str) -> None:
    """Copies to the device, forward, backward, clipping, optimiser and average; the last step, which is logged, may
    wait."""
    watched = Watched(device)
    run_watched(watched, precision, tmp_path, device)
    assert watched.calls == 8


def test_a_step_that_waits_is_noticed(tmp_path: Path, device: torch.device) -> None:
    with pytest.raises((AssertionError, RuntimeError), match=r"wait|synchroniz"):
        run_watched(Watched(device, lambda losses: float(losses.total)), "fp32", tmp_path, device)


def batch_at(step: int, rows: range) -> dict[str, object]:
    batch = tiny_batch(tuple(100 + 250 * row for row in rows), seed=step + 10)
    return {**batch, "progress": step / 8, "augmented_rows": [i for i, row in enumerate(rows) if row == 0]}


def test_a_resumed_run_has_the_weights_of_an_undisturbed_one(
    tmp_path: Path, device: torch.device, deterministic: None
) -> None:
    settings = LoopConfig.model_validate(
        {"steps": 8, "batch_size": 4, "micro_batch": 2, "ema": 0.9, "checkpoint_every": 2, "learning_rate": 1e-3}
    )

    class KilledError(Exception):
        pass

    def killed(step: int, rows: range) -> dict[str, object]:
        if step == 5:
            raise KilledError
        return batch_at(step, rows)

    whole, cut = tiny_siamese(), tiny_siamese()
    run(whole, batch_at, settings, tmp_path / "whole", device=str(device))
    with pytest.raises(KilledError):
        run(cut, killed, settings.model_copy(update={"workers": 0}), tmp_path / "cut", device=str(device))
    resumed = tiny_siamese()
    run(resumed, batch_at, settings, tmp_path / "cut", resume=True, device=str(device))
    differing = [
        name for name, value in whole.state_dict().items() if not torch.equal(value, resumed.state_dict()[name])
    ]
    assert differing == []


class Heavy(nn.Module):
    """Keeps three times `wide` floats a sample for the backward pass."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.weight, self.wide = nn.Parameter(torch.ones(())), wide

    def forward(self, x: Tensor) -> Out:
        wide = x[:, None] * torch.ones(1, self.wide, device=x.device)
        return Out((wide * self.weight).sin().exp().mean())


def test_micro_batch_auto_fills_the_memory_and_no_more(tmp_path: Path, device: torch.device, bounded: int) -> None:
    settings = LoopConfig.model_validate({"steps": 2, "batch_size": 48, "micro_batch": "auto", "precision": "fp32"})
    cuda = device.type == "cuda"
    room, share = (2 * GIB, 0.9) if cuda else (bounded, 0.5)
    heavy = Heavy(room // 128)  # so that 192 MiB of 2 GiB go to a sample
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    run(heavy, lambda step, rows: {"x": torch.ones(len(rows))}, settings, tmp_path, device=str(device))
    newest = latest_checkpoint(tmp_path)
    assert newest is not None
    micro = read_json(newest / "state.json")["micro_batch"]
    assert 48 % micro == 0
    assert micro > 1
    if cuda:
        assert torch.cuda.max_memory_reserved(device) <= bounded
    larger = min(count for count in range(micro + 1, 49) if 48 % count == 0)
    model = Heavy(room // 128).to(device)

    def probe(count: int) -> None:
        model(torch.ones(count, device=device)).total.backward()

    probe(1)  # the gradient is there, as it is in all steps but the first
    assert memory._peak(probe, larger, device) > share * room
    if not cuda:
        assert memory._peak(probe, micro, device) <= share * room


def test_batch_size_auto_fits(tmp_path: Path, device: torch.device, bounded: int, run: Path, pairs: Path) -> None:
    config = build_config({**TINY, "sample": {"steps": 2, "batch_size": "auto"}}, "tests")
    sample(run, pairs, tmp_path / "made", per_mask=8, config=config, device=str(device))
    assert {pair.extra["batch_size"] for pair in DataFolder(tmp_path / "made").pairs()} == {64}
    if device.type == "cuda":
        assert torch.cuda.max_memory_reserved(device) <= bounded


def test_out_of_memory_is_one_line(
    tmp_path: Path,
    device: torch.device,
    bounded: int,
    run: Path,
    pairs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = build_config({**TINY, "sample": {"steps": 2, "batch_size": 8}}, "tests")
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(1e-5, device)
        gc.collect()
        torch.cuda.empty_cache()
    else:

        def run_out(*arguments: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")

        monkeypatch.setattr("siamese_diffusion.diffusion.sample.denoise", run_out)
    with pytest.raises(SystemExit) as ended:
        console.run(lambda: sample(run, pairs, tmp_path / "made", config=config, device=str(device)), as_json=False)
    assert ended.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "out of memory on the device" in lines[0]


def test_train_sample_evaluate_and_segment(
    tmp_path: Path, device: torch.device, pairs: Path, backbone: Path, run: Path
) -> None:
    """A run on the device; its first loss, before any weight has moved, is the processor's."""
    config = build_config({**TINY, "segment": {"resolution": 32, "steps": 4}, "evaluate": {"fit_steps": 4}}, "tests")
    config = update(config, "train", precision="fp32", workers=2)
    where, cuda = str(device), device.type == "cuda"
    train(pairs, tmp_path / "run", str(backbone), config=config, device=where)
    ours, theirs = read_jsonl(tmp_path / "run/log.jsonl"), read_jsonl(run / "log.jsonl")
    assert ours[0]["total"] == pytest.approx(theirs[0]["total"], rel=1e-3)
    for row in read_jsonl(tmp_path / "run/speed.jsonl"):
        assert 0 <= row["waiting"] <= 1
        assert ("peak_gib" in row) == cuda

    drawn = {}
    for precision, name in (("fp32", where), ("bf16", device.type), ("fp16", where), ("fp32", "cpu")):
        out = tmp_path / f"{precision}-{name}".replace(":", "")
        if not out.exists():
            settings = update(config, "sample", precision=precision)
            sample(tmp_path / "run", pairs, out, config=settings, device=name)
        images = [torch.from_numpy(pair.image.read()) for pair in DataFolder(out).pairs()]
        drawn[out.name] = torch.stack(images).float()
    for name, pictures in drawn.items():
        apart = float((pictures - drawn["fp32-cpu"]).abs().mean())
        print(f"{name}: {apart:.2f} of 255 apart from fp32 on the processor")
        assert apart < (0.5 if name.startswith("fp32") else 4)
    in_bf16 = tmp_path / f"bf16-{device.type}"
    assert {pair.extra["precision"] for pair in DataFolder(in_bf16).pairs()} == {"bf16"}

    found = evaluate(pairs, in_bf16, tmp_path / "scores", update(config, "evaluate", precision="bf16"), device=where)
    assert found["counts"]["synthetic"] == 8
    assert (tmp_path / "scores/report.html").exists()
    single = segment(pairs, tmp_path / "net", [], config=update(config, "segment", precision="fp32"), device=where)
    assert 0 <= single["val"]["mDice"] <= 1


def test_a_study(tmp_path: Path, device: torch.device) -> None:
    make_phantoms(tmp_path / "phantoms", 12, 32, seed=3)
    names = [pair.name for pair in DataFolder(tmp_path / "phantoms").pairs()]
    (tmp_path / "phantoms/splits.json").write_text(
        json.dumps({"train": names[:6], "val": names[6:9], "test": names[9:]})
    )
    steps = {"steps": 2, "batch_size": 4, "warmup": 1, "sample_every": 2, "checkpoint_every": 2, "log_every": 1}
    values = {
        "settings": {
            **TINY,
            "data": {"resolution": 32},
            "segment": {"resolution": 32, **steps},
            "evaluate": {"fit_steps": 2},
        },
        "data": {"phantoms": {"train": "phantoms"}},
        "pairs": [4],
        "seeds": {"segmentation": [0]},
        "arms": {"real": None, "siamese": {"masks": "random"}},
        "score": False,
    }
    (tmp_path / "study.yaml").write_text(json.dumps(values))
    assert study(tmp_path / "study.yaml", tmp_path / "out", device=str(device))["runs"] == {"done": 2, "planned": 2}


def test_nccl_with_one_process(tmp_path: Path, device: torch.device, pairs: Path, backbone: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(json.dumps(TINY))
    command = ["-m", "siamese_diffusion", "train"]
    command += ["--data", str(pairs), "--out", str(tmp_path / "run"), "--backbone", str(backbone)]
    command += ["--config", str(tmp_path / "tiny.yaml"), "--set", "train.precision=bf16"]
    command += ["--device", device.type]
    launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}  # as by `accelerate launch`
    launched |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29531", "NCCL_SOCKET_IFNAME": "lo"}
    environment = {**os.environ, **launched}
    command = [sys.executable, *command]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "run/pipeline/unet").is_dir()


def test_auto_is_the_gpu_in_bf16(device: torch.device) -> None:
    engine = make_accelerator("auto", "auto" if device.type == "cuda" else "cpu")
    assert engine.device.type == device.type
    if device.type == "cuda":
        assert find_device() == device
        if torch.cuda.get_device_capability(device) >= (8, 0):
            assert engine.mixed_precision == "bf16"
    assert make_accelerator("auto", "cpu").mixed_precision == "no"
