"""The training loop: resume, interruption, accumulation, averages."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from siamese_diffusion import division, loop
from siamese_diffusion.checkpoints import latest_checkpoint
from siamese_diffusion.config import LoopConfig
from siamese_diffusion.device import make_accelerator
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, read_jsonl, write_json
from siamese_diffusion.log import Log
from siamese_diffusion.loop import run
from siamese_diffusion.optimizer import learning_rate_factor
from siamese_diffusion.randomness import generator, rows_of_epochs


class Out(NamedTuple):
    total: Tensor


class Model(nn.Module):
    """Dropout, so that a resumed run is the same only if the random state is; batch norm, for the buffers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x: Tensor) -> Out:
        return Out((self.net(x) * self.frozen - x.sum(1, keepdim=True)).square().mean())


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Out:
        return Out((self.net(x) - x.sum(1, keepdim=True)).square().mean())


def batch_at(step: int, rows: range) -> dict[str, Tensor]:
    return {"x": torch.stack([torch.randn(4, generator=generator(0, step, row)) for row in rows])}


SETTINGS = LoopConfig(
    steps=12, batch_size=4, learning_rate=0.01, ema=0.9, warmup=3, checkpoint_every=4, log_every=3, clip=1.0
)


def train(out: Path, settings: LoopConfig = SETTINGS, resume: bool = False) -> dict[str, Tensor]:
    model = Model()
    run(model, batch_at, settings, out, resume=resume, device="cpu")
    return model.state_dict()


def assert_equal(these: dict[str, Tensor], those: dict[str, Tensor]) -> None:
    assert these.keys() == those.keys()
    for name, value in these.items():
        assert torch.equal(value, those[name]), name


def test_resume_is_bit_for_bit(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")

    class KilledError(Exception):
        pass

    def killed(step: int, rows: range) -> dict[str, Tensor]:
        if step == 10:
            raise KilledError
        return batch_at(step, rows)

    with pytest.raises(KilledError):
        run(Model(), killed, SETTINGS, tmp_path / "cut", device="cpu")
    assert latest_checkpoint(tmp_path / "cut") == tmp_path / "cut/checkpoints/step-000008"
    assert_equal(train(tmp_path / "cut", resume=True), whole)
    cut, undisturbed = (read_jsonl(tmp_path / name / "log.jsonl") for name in ("cut", "whole"))
    assert [row["step"] for row in cut] == [3, 6, 9, 12]
    assert cut == undisturbed  # the line of step 9, too, whose first two steps were done before the kill


def test_a_resumed_run_in_fp16_scales_its_gradients_as_if_it_had_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scale is at the end of what floats hold: steps that overflow are left out, and which is part of the run."""

    def scaling(precision: str, device: str) -> Accelerator:
        accelerator = make_accelerator(precision, device)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=2)
        return accelerator

    monkeypatch.setattr(loop, "make_accelerator", scaling)
    settings = SETTINGS.model_copy(update={"steps": 12, "checkpoint_every": 1, "keep": 99})
    whole = train(tmp_path / "whole", settings)
    states = [read_json(tmp_path / f"whole/checkpoints/step-{step:06d}/state.json")["scaler"] for step in range(1, 13)]
    assert len({state["scale"] for state in states}) > 1
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for step in range(6, 13):
        shutil.rmtree(tmp_path / f"cut/checkpoints/step-{step:06d}")
    assert_equal(train(tmp_path / "cut", settings, resume=True), whole)
    assert read_json(tmp_path / "cut/checkpoints/step-000012/state.json")["scaler"] == states[-1]
    for step in range(6, 13):
        shutil.rmtree(tmp_path / f"cut/checkpoints/step-{step:06d}")
    note = tmp_path / "cut/checkpoints/step-000005/state.json"
    state = read_json(note)
    write_json(note, {name: value for name, value in state.items() if name != "scaler"})  # of an earlier version
    train(tmp_path / "cut", settings, resume=True)
    for step in range(6, 13):
        shutil.rmtree(tmp_path / f"cut/checkpoints/step-{step:06d}")
    write_json(note, {**state, "scaler": {**state["scaler"], "scale": -1.0}})
    with pytest.raises(InputError, match=r"scaler\.scale"):
        train(tmp_path / "cut", settings, resume=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [5, 11])
def test_interrupt_saves_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], at: int, number: signal.Signals
) -> None:
    """Also in the last step, after which there is nothing left to do here: what comes next must not begin."""
    whole = train(tmp_path / "whole")

    def interrupting(step: int, rows: range) -> dict[str, Tensor]:
        if step == at:
            os.kill(os.getpid(), number)
        return batch_at(step, rows)

    with pytest.raises(KeyboardInterrupt):
        run(Model(), interrupting, SETTINGS, tmp_path / "cut", device="cpu")
    told = capsys.readouterr().err
    assert "stopping after this step" in told
    assert ("Ctrl-C" in told) == (number == signal.SIGINT)
    assert latest_checkpoint(tmp_path / "cut") == tmp_path / f"cut/checkpoints/step-{at + 1:06d}"
    assert_equal(train(tmp_path / "cut", resume=True), whole)


def test_sigkill_at_any_moment(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_loop
        from pathlib import Path
        settings = test_loop.SETTINGS.model_copy(update=dict(steps=400, checkpoint_every=20))
        test_loop.train(Path({str(tmp_path / "cut")!r}), settings, resume=True)
        """
    )
    settings = SETTINGS.model_copy(update={"steps": 400, "checkpoint_every": 20})
    for pause in (0.2, 0.3):
        with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) as process:
            wait_for(lambda: latest_checkpoint(tmp_path / "cut") is not None, process)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(pause)
            process.kill()
    cut = train(tmp_path / "cut", settings, resume=True)
    assert_equal(cut, train(tmp_path / "whole", settings))


def wait_for(condition: object, process: "subprocess.Popen[Any]") -> None:
    import time

    assert callable(condition)
    for _ in range(3000):
        if condition() or process.poll() is not None:
            return
        time.sleep(0.1)
    raise AssertionError("nothing happened in five minutes")


def test_needs_resume_for_a_folder_in_use(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(InputError, match="--resume"):
        train(tmp_path)


class Rooted(nn.Module):
    """Its loss is 0, its gradient NaN: the root's slope at 0, which is infinite, times 0."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Out:
        return Out((0 * self.net(x)).square().sum().sqrt())


@pytest.mark.parametrize(("log_every", "written"), [(3, [3, 6]), (100, [])])
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, log_every: int, written: list[int]) -> None:
    """It is seen when the log or a checkpoint is due, and the step is the one where it was."""

    def overflowing(step: int, rows: range) -> dict[str, Tensor]:
        return {name: value * (1e30 if step == 6 else 1) for name, value in batch_at(step, rows).items()}

    settings = SETTINGS.model_copy(update={"log_every": log_every})
    told = r"^learning_rate = 0.01: .* the loss 'total' is not finite after step 7 \(learning rate 0.01\); .* lower "
    with pytest.raises(InputError, match=told + r"learning_rate; .*step-000004 is the last good state$") as caught:
        run(Linear(), overflowing, settings, tmp_path, device="cpu")
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000004"]
    assert [row["step"] for row in read_jsonl(tmp_path / "log.jsonl")] == written
    assert "NaN" not in (tmp_path / "log.jsonl").read_text()


def test_a_weight_that_is_not_finite_is_neither_saved_nor_looked_at(tmp_path: Path) -> None:
    def observe(step: int, module: nn.Module) -> dict[str, float]:
        raise AssertionError("looked at")

    settings = SETTINGS.model_copy(update={"log_every": 100, "checkpoint_every": 1, "clip": None})
    with pytest.raises(InputError, match=r"the weight net.weight is not finite after step 1 \(learning rate 0.0033"):
        run(Rooted(), batch_at, settings, tmp_path / "save", device="cpu")
    settings = SETTINGS.model_copy(update={"log_every": 100, "sample_every": 1, "clip": None})
    with pytest.raises(InputError, match=r"the weight net.weight is not finite after step 1 "):
        run(Rooted(), batch_at, settings, tmp_path / "look", device="cpu", observe=observe)
    assert [latest_checkpoint(tmp_path / name) for name in ("save", "look")] == [None, None]


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors"])
def test_a_checkpoint_with_a_weight_that_is_not_finite_is_not_loaded(tmp_path: Path, name: str) -> None:
    train(tmp_path)
    newest = latest_checkpoint(tmp_path)
    assert newest is not None
    state = load_file(newest / name)
    state[sorted(state)[-1]].view(-1)[-1] = float("nan")
    save_file(state, newest / name)
    with pytest.raises(InputError, match=rf"{name}: holds weights that are not finite .*; without .*{newest.name}"):
        train(tmp_path, resume=True)


def test_the_log_does_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siamese_diffusion.log.has_tensorboard", lambda: False)
    log = Log(tmp_path, 0)
    log.write(1, {"total": 0.5})
    log.close()
    assert read_jsonl(tmp_path / "log.jsonl") == [{"step": 1, "total": 0.5}]
    assert not (tmp_path / "tensorboard").exists()


def test_a_figure_that_is_not_finite_is_null_in_the_log(tmp_path: Path) -> None:
    run(Model(), batch_at, SETTINGS, tmp_path, device="cpu", observe=lambda step, module: {"figure": float("nan")})
    assert read_jsonl(tmp_path / "log.jsonl")[-1] == {"step": 12, "figure": None}
    assert "NaN" not in (tmp_path / "log.jsonl").read_text()


def test_a_checkpoint_that_a_killed_run_had_no_time_to_remove_goes(tmp_path: Path) -> None:
    """Also where the run has nothing left to save."""
    train(tmp_path / "run", SETTINGS.model_copy(update={"keep": 99}))
    assert len(list((tmp_path / "run/checkpoints").iterdir())) == 3
    train(tmp_path / "run", SETTINGS.model_copy(update={"keep": 1}), resume=True)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-000012"]


def test_keeps_the_newest_checkpoints(tmp_path: Path) -> None:
    train(tmp_path, SETTINGS.model_copy(update={"keep": 1}))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000012"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "ema.safetensors"])
def test_without_a_torn_checkpoint_the_one_before_it_serves(tmp_path: Path, name: str) -> None:
    whole = train(tmp_path / "whole")
    newest = latest_checkpoint(tmp_path / "whole")
    assert newest is not None
    (newest / name).write_bytes((newest / name).read_bytes()[:50])
    with pytest.raises(InputError, match=rf"{name}: cannot be read as weights .*; without .*{newest.name}"):
        train(tmp_path / "whole", resume=True)
    shutil.rmtree(newest)
    assert_equal(train(tmp_path / "whole", resume=True), whole)


def test_accumulation_equals_one_pass(tmp_path: Path) -> None:
    states = []
    for micro in (4, 2, 1):
        model = Linear()
        run(model, batch_at, SETTINGS.model_copy(update={"micro_batch": micro}), tmp_path / str(micro), device="cpu")
        states.append(model.state_dict())
    for other in states[1:]:
        torch.testing.assert_close(states[0], other, rtol=1e-5, atol=1e-6)


def test_batch_that_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch_size = 4"):
        train(tmp_path, SETTINGS.model_copy(update={"micro_batch": 3}))


def test_learns(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(
        update={"steps": 100, "learning_rate": 0.05, "log_every": 20, "checkpoint_every": 100}
    )
    run(Linear(), batch_at, settings, tmp_path, device="cpu")
    losses = [row["total"] for row in read_jsonl(tmp_path / "log.jsonl")]
    assert losses[-1] < 0.2 * losses[0]


def test_observer_sees_the_average_and_leaves_no_trace(tmp_path: Path) -> None:
    seen: list[Tensor] = []
    model = Model()

    def observe(step: int, module: nn.Module) -> dict[str, float]:
        assert not module.training
        seen.append(model.state_dict()["net.0.weight"].clone())
        return {"figure": float(step)}

    run(model, batch_at, SETTINGS.model_copy(update={"sample_every": 6}), tmp_path / "a", device="cpu", observe=observe)
    assert len(seen) == 2
    assert torch.equal(seen[-1], model.state_dict()["net.0.weight"])  # the run ends on the average
    assert_equal(model.state_dict(), train(tmp_path / "b"))
    assert [row["figure"] for row in read_jsonl(tmp_path / "a/log.jsonl") if "figure" in row] == [6, 12]


def test_every_sample_once_an_epoch() -> None:
    seen = [i for step in range(5) for i in rows_of_epochs(step, range(4), 4, 10, seed=0)]
    assert sorted(seen[:10]) == list(range(10))
    assert sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    apart = [i for row in range(4) for i in rows_of_epochs(3, range(row, row + 1), 4, 10, seed=0)]
    assert apart == rows_of_epochs(3, range(4), 4, 10, seed=0)


def test_learning_rate() -> None:
    settings = SETTINGS.model_copy(update={"steps": 103, "schedule": "cosine"})
    assert [learning_rate_factor(step, settings) for step in range(3)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert learning_rate_factor(53, settings) == pytest.approx(0.5)
    assert learning_rate_factor(102, settings) < 0.01


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_gradients_released_early_give_the_same_weights(tmp_path: Path, optimizer: str) -> None:
    plain = SETTINGS.model_copy(update={"clip": None, "optimizer": optimizer})
    early = plain.model_copy(update={"release_gradients": True})
    expected = train(tmp_path / "plain", plain)
    assert_equal(train(tmp_path / "early", early), expected)

    train(tmp_path / "parts", early.model_copy(update={"steps": 8}))
    assert_equal(train(tmp_path / "parts", early, resume=True), expected)


def test_no_gradient_outlives_the_backward_pass(tmp_path: Path) -> None:
    seen: list[int] = []

    class Watched(Model):
        def forward(self, x: Tensor) -> Out:
            out = super().forward(x)
            out.total.register_hook(lambda _: seen.append(sum(p.grad is not None for p in self.parameters())))
            first, *_, last = self.net.parameters()
            first.register_hook(lambda _: seen.append(last.grad is not None))
            return out

    run(
        Watched(),
        batch_at,
        SETTINGS.model_copy(update={"clip": None, "release_gradients": True}),
        tmp_path,
        device="cpu",
    )
    assert set(seen) == {0}


@pytest.mark.parametrize("given", [{"micro_batch": 2}, {"clip": 1.0}, {"precision": "fp16"}])
def test_gradients_that_are_not_final_cannot_be_released(tmp_path: Path, given: dict[str, object]) -> None:
    settings = SETTINGS.model_copy(update={"clip": None, "release_gradients": True, **given})
    with pytest.raises(InputError, match=f"release_gradients = true: .*{next(iter(given))}"):
        run(Model(), batch_at, settings, tmp_path, device="cpu")


def test_batches_made_by_other_processes_are_the_same(tmp_path: Path) -> None:
    whole = train(tmp_path / "alone")
    assert_equal(train(tmp_path / "ahead", SETTINGS.model_copy(update={"workers": 2})), whole)
    assert multiprocessing.active_children() == []


def test_processes_that_make_batches_end_with_the_loop(tmp_path: Path) -> None:
    """They ignore signals to the group: nothing but their loop's end stops them, though what was raised holds its
    frames."""

    class KilledError(Exception):
        pass

    class Failing(Model):
        def forward(self, x: Tensor) -> Out:
            raise KilledError

    with pytest.raises(KilledError) as raised:
        run(Failing(), batch_at, SETTINGS.model_copy(update={"workers": 2}), tmp_path, device="cpu")
    assert raised.traceback
    left = multiprocessing.active_children()
    for process in left:
        process.kill()  # else this process would wait for them as it ends
    assert left == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_lets_the_step_end(tmp_path: Path, number: signal.Signals) -> None:
    """As a terminal and a batch system send it: the step is of two passes, whose second batch others still have to
    make."""
    script = textwrap.dedent(
        f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_loop
        from pathlib import Path
        def slow(step, rows):
            time.sleep(0.05)
            return test_loop.batch_at(step, rows)
        settings = test_loop.SETTINGS.model_copy(
            update=dict(steps=2000, micro_batch=2, workers=2, checkpoint_every=5, log_every=1)
        )
        test_loop.run(test_loop.Model(), slow, settings, Path({str(tmp_path / "run")!r}), device="cpu")
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        wait_for(lambda: latest_checkpoint(tmp_path / "run") is not None, process)
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert "DataLoader" not in errors
    newest = latest_checkpoint(tmp_path / "run")
    assert newest is not None
    assert read_json(newest / "state.json")["step"] == int(newest.name.removeprefix("step-"))
    assert read_jsonl(tmp_path / "run/log.jsonl")[-1]["step"] == int(newest.name.removeprefix("step-"))


@pytest.mark.parametrize(("fits", "light"), [(4, False), (2, True)])
def test_micro_batch_auto_is_kept_on_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fits: int, light: bool
) -> None:
    """The search leaves weights, buffers and gradients alone: the run is that of the same number, set by hand."""
    tried: list[int] = []

    def fitting(work: Callable[[int], object], counts: list[int], device: torch.device, reserve: int) -> int:
        assert counts == [1, 2, 4]
        assert reserve == 8 * sum(p.numel() for p in Model().parameters() if p.requires_grad)
        work(4)
        tried.append(4)
        return fits

    monkeypatch.setattr(division, "fitting", fitting)
    lightened: list[int] = []
    auto = SETTINGS.model_copy(update={"micro_batch": "auto", "steps": 8})
    model = Model()
    run(model, batch_at, auto, tmp_path / "auto", device="cpu", lighten=lambda: lightened.append(1))
    assert (len(tried), len(lightened)) == ((2, 1) if light else (1, 0))
    assert f"micro_batch auto: {fits} of 4" in capsys.readouterr().err
    fixed = SETTINGS.model_copy(update={"micro_batch": fits, "steps": 8})
    assert_equal(model.state_dict(), train(tmp_path / "fixed", fixed))

    shutil.rmtree(tmp_path / "auto/checkpoints/step-000008")
    monkeypatch.setattr(division, "fitting", lambda *_: 1)  # less memory is free by now
    again = Model()
    run(again, batch_at, auto, tmp_path / "auto", resume=True, device="cpu", lighten=lambda: lightened.append(1))
    assert_equal(again.state_dict(), model.state_dict())
    assert len(lightened) == (2 if light else 0)


def test_a_loss_that_is_not_finite_is_null_in_the_log(tmp_path: Path) -> None:
    def infinite(step: int, rows: range) -> dict[str, Tensor]:
        return {"x": batch_at(step, rows)["x"] * (float("inf") if step >= 6 else 1.0)}

    with pytest.raises(InputError, match="diverged"):
        run(Model(), infinite, SETTINGS, tmp_path, device="cpu")
    assert "NaN" not in (tmp_path / "log.jsonl").read_text()
    found = [(row["step"], row["total"] is None) for row in read_jsonl(tmp_path / "log.jsonl")]
    assert found[:2] == [(3, False), (6, False)]
    assert all(bad for _, bad in found[2:])
