"""One training loop for the backbone, the two diffusions and the segmentation networks.

Unusual in it: nothing random is carried from step to step. `batch_at(step, rows)` is a pure function, and the global
random state is set from (seed, step) before every forward pass. So a checkpoint holds weights and optimiser state only,
a resumed run is the same run bit for bit, and N processes draw the batches that one process would.
"""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter

from siamese_diffusion import progress
from siamese_diffusion.config import LoopConfig
from siamese_diffusion.device import make_accelerator, precision_on
from siamese_diffusion.division import Division, Step, divide, fitting_division, to_device
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, read_jsonl, to_json, whole_folder, write_json, write_jsonl, write_text
from siamese_diffusion.optimizer import learning_rate_factor, make_optimizer, release_gradients, require_whole_steps
from siamese_diffusion.randomness import mix
from siamese_diffusion.tensors import read_tensors

Batch = dict[str, Any]
"""Keyword arguments of the module's `forward`."""

BatchAt = Callable[[int, range], Batch]
"""(step, rows) -> these rows of the global batch of that step; the same for the same arguments, in any process."""

Observe = Callable[[int, nn.Module], Mapping[str, float]]
"""(step, module) -> figures for the log. Called with the averaged weights in place and gradients off."""


class _Batches(Dataset[Batch]):
    def __init__(self, batch_at: BatchAt, steps: list[Step]) -> None:
        self.batch_at, self.steps = batch_at, steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Batch:
        return self.batch_at(*self.steps[index])


def run(
    module: nn.Module,
    batch_at: BatchAt,
    settings: LoopConfig,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    observe: Observe | None = None,
    description: str = "training",
    rate: Callable[[str], float] = lambda name: 1.0,
    factor: Callable[[int], float] = lambda step: 1.0,
    clip_value: float | None = None,
    heaviest: Callable[[range], Batch] | None = None,
    lighten: Callable[[], None] | None = None,
) -> None:
    """Train the parameters of `module` that require gradients; on return it holds the final (averaged) weights.

    Args:
        module: its `forward(**batch)` returns a NamedTuple of scalars, one of them `total`, the loss.
        batch_at: makes the batches.
        settings: the optimisation.
        out: run folder; gets `log.jsonl`, TensorBoard events and `checkpoints/step-NNNNNN/`.
        resume: go on from the newest checkpoint in `out` (from the start where there is none).
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        observe: called every `sample_every` steps and after the last; what it returns goes to the log.
        rate: name of a parameter to a factor on its learning rate.
        factor: number of a step, from 0, to a factor on all learning rates besides the schedule's.
        clip_value: largest entry of a gradient, by magnitude.
        heaviest: (rows) -> a batch that takes as much memory as any, for `micro_batch` auto; default: of the last step.
        lighten: makes `module` take less memory and more time; called where `micro_batch` auto finds too little room.

    Raises:
        InputError: `out` holds checkpoints and `resume` is false, or the batch cannot be split as set.
        KeyboardInterrupt: interrupted; the state is saved first.
    """
    accelerator = make_accelerator(settings.precision, device)
    processes, rank = accelerator.num_processes, accelerator.process_index
    micro = settings.micro_batch
    divide(settings.batch_size, None if micro == "auto" else micro, processes, rank)
    checkpoints = out / "checkpoints"
    newest = latest_checkpoint(out)
    if newest is not None and not resume:
        raise InputError(f"--out {out}: already holds a run; add --resume to go on with it, or name another folder")

    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(module, settings, rate)
    module.to(accelerator.device)
    module.to(memory_format=torch.channels_last)
    average = None
    if settings.ema:  # `foreach`: a few launches for all weights, where a GPU would wait for a thousand
        average = EMAModel(trained, decay=settings.ema, use_ema_warmup=True, power=0.75, foreach=True)
    start = 0
    if newest is not None:
        start = _load(newest, module, optimizer, average)
        progress.say(f"going on from step {start} of {settings.steps}")
    wrapped, optimizer = accelerator.prepare(module, optimizer)
    known = Division(micro, lighten is not None) if micro != "auto" else None
    known = known or _earlier_division(newest, settings.batch_size, processes)
    if known is not None and known.light and lighten is not None:
        lighten()
    largest = heaviest or (lambda rows: batch_at(settings.steps - 1, rows))
    division = known or fitting_division(wrapped, largest, settings, accelerator, newest is not None, lighten)
    steps_of = divide(settings.batch_size, division.micro_batch, processes, rank)
    accelerator.gradient_accumulation_steps = len(steps_of(0))
    if settings.release_gradients:
        precision = precision_on(accelerator.device, settings.precision)
        require_whole_steps(settings, precision, processes, len(steps_of(0)), clip_value)
        release_gradients(optimizer.optimizer)
    loader = _loader(
        _Batches(batch_at, [part for step in range(start, settings.steps) for part in steps_of(step)]),
        settings.workers,
        accelerator.device,
    )
    log = _Log(out, start) if accelerator.is_main_process else None

    def save(step: int) -> None:
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            state = {"step": step, **division._asdict()}
            _save(checkpoints / f"step-{step:06d}", state, module, optimizer, average)
            for old in sorted(checkpoints.glob("step-*"))[: -settings.keep]:
                shutil.rmtree(old)

    module.train()
    sums: dict[str, Tensor] = {}
    summed = 0
    # Closed, so that the processes that make the batches have ended whatever ends the loop.
    made = closing(batch for batch in loader)
    with progress.bar() as shown, _deferred_interrupt() as interrupted, made as batches:
        task = shown.add_task(description, total=settings.steps, completed=start, visible=accelerator.is_main_process)
        for step in range(start, settings.steps):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * group["factor"] * learning_rate_factor(step, settings) * factor(step)
            for part in steps_of(step):
                batch = to_device(next(batches), accelerator.device)
                torch.manual_seed(mix(settings.seed, 2, step, part.rows.start))
                with accelerator.accumulate(wrapped):
                    losses = wrapped(**batch)
                    accelerator.backward(losses.total)
                    if accelerator.sync_gradients and settings.clip is not None:
                        accelerator.clip_grad_norm_(trained, settings.clip)
                    if accelerator.sync_gradients and clip_value is not None:
                        accelerator.clip_grad_value_(trained, clip_value)
                    optimizer.step()
                    optimizer.zero_grad()
                for name, value in losses._asdict().items():  # summed on the device: no synchronisation per step
                    sums[name] = sums.get(name, 0) + value.detach() / len(steps_of(step))
            if average is not None:
                average.step(trained)
            done = step + 1
            shown.update(task, completed=done)
            last = done == settings.steps
            summed += 1
            if done % settings.log_every == 0 or last:
                figures = _mean(sums, accelerator, summed)
                if log is not None:
                    log.write(done, figures)
                sums, summed = {}, 0
            if observe is not None and (done % settings.sample_every == 0 or last):
                with _averaged(module, average, trained):
                    observed = observe(done, module) if accelerator.is_main_process else {}
                if log is not None and observed:
                    log.write(done, observed)
            if done % settings.checkpoint_every == 0 or last or interrupted:
                save(done)
            if interrupted and not last:
                raise KeyboardInterrupt
    if average is not None:
        average.copy_to(trained)
    module.eval()
    if log is not None:
        log.close()


def latest_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint folder of a run, or None."""
    return max((out / "checkpoints").glob("step-*"), default=None, key=lambda path: path.name)


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """The part of a module's state that training changes: trained parameters, and buffers."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return {name: value.detach().contiguous() for name, value in module.state_dict().items() if name not in frozen}


def _save(folder: Path, state: dict[str, Any], module: nn.Module, optimizer: Any, average: EMAModel | None) -> None:
    with whole_folder(folder) as temporary:
        save_file(trained_state(module), temporary / "model.safetensors")
        torch.save(optimizer.state_dict(), temporary / "optimizer.pt")
        if average is not None:
            save_file(
                {str(i): value.contiguous() for i, value in enumerate(average.shadow_params)}, temporary / "ema.safetensors"
            )
        write_json(temporary / "state.json", state)


def _load(folder: Path, module: nn.Module, optimizer: Any, average: EMAModel | None) -> int:
    try:
        module.load_state_dict(read_tensors(folder / "model.safetensors"), strict=False)
        optimizer.load_state_dict(read_tensors(folder / "optimizer.pt"))
        step = int(read_json(folder / "state.json")["step"])
        if average is not None:
            stored = read_tensors(folder / "ema.safetensors")
            for i, value in enumerate(average.shadow_params):
                value.copy_(stored[str(i)])
            average.optimization_step = step
    except InputError as error:
        raise InputError(
            f"{error}; without {folder}, --resume goes on from the checkpoint before it, or begins anew"
        ) from None
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise InputError(f"{folder}: does not fit these settings ({str(error).splitlines()[0]})") from None
    return step


def _earlier_division(checkpoint: Path | None, batch_size: int, processes: int) -> Division | None:
    """What `micro_batch` auto was when a run began: rounding depends on it. None where the batch is no longer divided so."""
    state = read_json(checkpoint / "state.json") if checkpoint is not None else {}
    micro = state.get("micro_batch")
    return Division(int(micro), bool(state.get("light"))) if micro and batch_size % (int(micro) * processes) == 0 else None


def _loader(batches: Dataset[Batch], workers: int | Literal["auto"], device: torch.device) -> DataLoader[Batch]:
    """The batches in their order, made ahead of the step and in pinned memory where that spares a GPU's waiting."""
    cuda = device.type == "cuda"
    if workers == "auto":
        # Forked, since a batch is made by a closure; where processes are begun anew it could not be sent to them.
        method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
        forks = cuda and method == "fork"
        workers = min(4, (os.cpu_count() or 1) // (2 * int(os.environ.get("LOCAL_WORLD_SIZE", "1")))) if forks else 0
    return DataLoader(
        batches,
        batch_size=None,
        num_workers=int(workers),
        pin_memory=cuda,
        worker_init_fn=_outlive_signals if workers else None,
    )


def _outlive_signals(_: int) -> None:
    """Whoever stops the program stops its whole group; these end with the main process, which first finishes its step."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _mean(sums: dict[str, Tensor], accelerator: Accelerator, steps: int) -> dict[str, float]:
    names = list(sums)
    values = accelerator.reduce(torch.stack([sums[name].float() for name in names]), reduction="mean") / steps
    return dict(zip(names, values.tolist(), strict=True))


@contextmanager
def _averaged(module: nn.Module, average: EMAModel | None, trained: list[nn.Parameter]) -> Iterator[None]:
    training = module.training
    module.eval()
    if average is not None:
        average.store(trained)
        average.copy_to(trained)
    try:
        with torch.no_grad():
            yield
    finally:
        if average is not None:
            average.restore(trained)
        module.train(training)


class _Interrupted:
    """True once the user has pressed Ctrl-C or the process was asked to end."""

    flag = False

    def __bool__(self) -> bool:
        return self.flag


@contextmanager
def _deferred_interrupt() -> Iterator[_Interrupted]:
    """Let the step in hand finish, so that the state saved is a whole one; a second Ctrl-C stops at once."""
    state = _Interrupted()

    def remember(number: int, frame: Any) -> None:
        if state.flag:
            raise KeyboardInterrupt
        state.flag = True
        progress.say("stopping after this step; press Ctrl-C again to stop at once")

    try:
        previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever runs this thread handles signals
        previous = {}
    try:
        yield state
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Log:
    """`log.jsonl` and TensorBoard; on resume, what came after the checkpoint is cut off."""

    def __init__(self, out: Path, start: int) -> None:
        self.path = out / "log.jsonl"
        kept = [row for row in read_jsonl(self.path) if row["step"] <= start] if self.path.exists() else []
        if kept:
            write_jsonl(self.path, kept)
        else:
            write_text(self.path, "")
        self.board = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(to_json({"step": step, **figures}) + "\n")
        for name, value in figures.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.board.close()
