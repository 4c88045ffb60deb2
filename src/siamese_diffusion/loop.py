"""One training loop for the backbone, the two diffusions and the segmentation networks.

Design note: nothing random is carried from step to step. `batch_at(step, rows)` is a pure function, and the global
random state is set from (seed, step) before every forward pass. So a checkpoint holds weights and optimiser state only,
a resumed run is the same run bit for bit, and N processes draw the batches that one process would.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn

from siamese_diffusion import progress
from siamese_diffusion.checkpoints import diverged, latest_checkpoint, load_checkpoint, remove_old, save_checkpoint
from siamese_diffusion.config import Config, LoopConfig
from siamese_diffusion.device import SIXTEEN_BITS, make_accelerator, precision_on, synchronize
from siamese_diffusion.division import Division, Step, divide, earlier_division, fitting_division, to_device
from siamese_diffusion.errors import InputError, refused
from siamese_diffusion.interrupt import after_the_step
from siamese_diffusion.log import Log, Means
from siamese_diffusion.optimizer import learning_rate, make_optimizer, release_gradients, require_whole_steps
from siamese_diffusion.prefetch import Batch, BatchAt, prefetch
from siamese_diffusion.randomness import mix
from siamese_diffusion.ranks import Agreement
from siamese_diffusion.speed import Speed

Observe = Callable[[int, nn.Module], Mapping[str, float]]
"""(step, module) -> figures for the log. Called with the averaged weights in place and gradients off."""


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
    enough: Callable[[], bool] | None = None,
) -> None:
    """Train the parameters of `module` that require gradients; on return it holds the final (averaged) weights.

    Args:
        module: its `forward(**batch)` returns a NamedTuple of scalars, one of them `total`, the loss.
        batch_at: makes the batches.
        settings: the optimisation.
        out: run folder; gets `log.jsonl`, `speed.jsonl`, TensorBoard events and `checkpoints/step-NNNNNN/`.
        resume: go on from the newest checkpoint in `out` (from the start where there is none).
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        observe: called every `sample_every` steps and after the last; what it returns goes to the log.
        rate: name of a parameter to a factor on its learning rate.
        factor: number of a step, from 0, to a factor on all learning rates besides the schedule's.
        clip_value: largest entry of a gradient, by magnitude.
        heaviest: (rows) -> a batch that takes as much memory as any, for `micro_batch` auto; default: of the last step.
        lighten: makes `module` take less memory and more time; called where `micro_batch` auto finds too little room.
        enough: whether to train no further; asked after each `observe`, and when a run is gone on with, of the first
            process. It has to depend on nothing but what a resumed run knows as well.

    Raises:
        InputError: `out` holds checkpoints and `resume` is false, the batch cannot be split as set, or the training has
            diverged: a loss or a weight is not finite. The last checkpoint before that is kept.
        KeyboardInterrupt: interrupted; the state is saved first.
    """
    accelerator = make_accelerator(settings.precision, device)
    processes, rank = accelerator.num_processes, accelerator.process_index
    micro = None if settings.micro_batch == "auto" else settings.micro_batch
    divide(settings.batch_size, micro, processes, rank)  # refused before anything is loaded
    newest = latest_checkpoint(out)
    if newest is not None and not resume:
        raise InputError(f"--out {out}: already holds a run; add --resume to go on with it, or name another folder")

    # The module, its optimiser and its average, as they begin or as the newest checkpoint left them.
    training = _Training(module, settings, out, accelerator, rate, factor, clip_value, observe, enough)
    start = training.go_on_from(newest) if newest is not None else 0
    training.prepare()

    # How a step is divided over the processes, and over passes that fit their memory.
    largest = heaviest or (lambda rows: batch_at(settings.steps - 1, rows))
    micro = training.find_division(largest, lighten, going_on=newest is not None)
    parts_of = divide(settings.batch_size, micro, processes, rank)
    training.divide_steps(len(parts_of(0)))

    # Its batches, made ahead, and the log. Closed, so that the processes that make them end whatever ends the loop.
    end = start if start and training.has_enough() else settings.steps
    parts = [part for step in range(start, end) for part in parts_of(step)]
    making = closing(prefetch(batch_at, parts, settings.workers, accelerator.device))
    agreed = Agreement(accelerator)
    training.log = Log(out, start) if accelerator.is_main_process else None

    pace = progress.Pace(description, start, settings.steps)
    module.train()
    with progress.bar() as shown, after_the_step() as stopping, making as batches:
        task = shown.add_task(description, total=settings.steps, completed=start, visible=accelerator.is_main_process)
        for step in range(start, end):
            # One step: forward and backward passes, the optimiser, the average.
            training.set_rates(step)
            for part in parts_of(step):
                training.do_part(part, training.speed.next(batches), len(parts_of(step)))
            training.end_step()
            shown.update(task, completed=step + 1, note=training.note)
            if accelerator.is_main_process and pace.asks(step + 1):
                synchronize(accelerator.device)
                if told := pace.note(step + 1, time.monotonic()):
                    progress.notify(told)
            # What is due after it: the log, the caller's look at the averaged weights, the checkpoint.
            if training.finish_step(step + 1, stop=agreed.after_step(stopping)):
                break
        agreed.after_all(stopping)

    training.finish()


@dataclass
class _Training:
    """What a step changes and what it runs on."""

    module: nn.Module
    settings: LoopConfig
    out: Path
    accelerator: Accelerator
    rate: Callable[[str], float]
    factor: Callable[[int], float]
    clip_value: float | None
    observe: Observe | None = None
    enough: Callable[[], bool] | None = None
    log: Log | None = None
    """Of the first process."""
    note: str = ""
    """The last loss that was logged, for the progress bar."""
    state: dict[str, Any] = field(default_factory=dict)
    """What a checkpoint notes besides the step."""
    means: Means = field(default_factory=Means)

    def __post_init__(self) -> None:
        self.speed = Speed(self.accelerator.device, self.settings.batch_size, self.settings.workers)
        self.trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self.optimizer: Any = make_optimizer(self.module, self.settings, self.rate)
        self.module.to(self.accelerator.device)
        self.module.to(memory_format=torch.channels_last)
        self.wrapped = self.module
        self.average: EMAModel | None = None
        if self.settings.ema:  # `foreach`: a few launches for all weights, where a GPU would wait for a thousand
            self.average = EMAModel(
                self.trained, decay=self.settings.ema, use_ema_warmup=True, power=0.75, foreach=True
            )

    def go_on_from(self, checkpoint: Path) -> int:
        """Load a checkpoint; returns its step."""
        self.state = load_checkpoint(checkpoint, self.module, self.optimizer, self.average)
        step = int(self.state["step"])
        if "since_log" in self.state:  # checkpoints of earlier versions lack it, and the next
            self.means.restore(self.state["since_log"], self.accelerator.device)
        if self.accelerator.scaler is not None and self.state.get("scaler"):
            with refused(f"{checkpoint / 'state.json'}: scaler"):
                self.accelerator.scaler.load_state_dict(dict(self.state["scaler"]))
        if self.accelerator.is_main_process:
            remove_old(self.out, self.settings.keep)
        progress.notify(f"going on from step {step} of {self.settings.steps}")
        return step

    def prepare(self) -> None:
        """Let accelerate wrap the module for several processes and for mixed precision."""
        self.wrapped, self.optimizer = self.accelerator.prepare(self.module, self.optimizer)

    def find_division(
        self, heaviest: Callable[[range], Batch], lighten: Callable[[], None] | None, going_on: bool
    ) -> int | None:
        """How many samples pass at a time, None for all: as set, as the run began with, or as many as fit the
        memory."""
        settings, processes = self.settings, self.accelerator.num_processes
        if settings.micro_batch == "auto":
            division = earlier_division(self.state, settings.batch_size, processes)
        else:
            division = Division(settings.micro_batch, lighten is not None)
        if division is None:
            division = fitting_division(self.wrapped, heaviest, settings, self.accelerator, going_on, lighten)
        elif division.light and lighten is not None:
            lighten()
        self.state = division._asdict()
        return division.micro_batch

    def divide_steps(self, parts: int) -> None:
        """From now on a step is of so many passes in this process."""
        self.accelerator.gradient_accumulation_steps = parts
        if self.settings.release_gradients:
            precision = precision_on(self.accelerator.device, self.settings.precision)
            require_whole_steps(self.settings, precision, self.accelerator.num_processes, parts, self.clip_value)
            release_gradients(self.optimizer.optimizer)

    def set_rates(self, step: int) -> None:
        """Set the learning rates of a step: each group of parameters has a factor of its own."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.settings, group["factor"]) * self.factor(step)

    def do_part(self, part: Step, batch: Batch, parts: int) -> None:
        """One forward and backward pass; with the last of a step's parts the optimiser changes the weights."""
        accelerator, clip = self.accelerator, self.settings.clip
        batch = to_device(batch, accelerator.device)
        torch.manual_seed(mix(self.settings.seed, 2, part.step, part.rows.start))
        with accelerator.accumulate(self.wrapped):
            losses = self.wrapped(**batch)
            accelerator.backward(losses.total)
            if accelerator.sync_gradients and clip is not None:
                accelerator.clip_grad_norm_(self.trained, clip)
            if accelerator.sync_gradients and self.clip_value is not None:
                accelerator.clip_grad_value_(self.trained, self.clip_value)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.means.add(part.step, losses._asdict(), parts)

    def end_step(self) -> None:
        if self.average is not None:
            self.average.step(self.trained)
        self.means.steps += 1
        self.speed.end_step()

    def finish_step(self, done: int, stop: bool) -> bool:
        """What is due after a step: the log, the caller's look, the checkpoint; returns whether it was the last.

        Before any of them losses and weights must be finite; nothing waits for the device in the steps between.

        Args:
            done: steps done.
            stop: the user asked for it.
        """
        settings, last = self.settings, done == self.settings.steps
        observing = self.observe is not None and (done % settings.sample_every == 0 or last)
        logging = done % settings.log_every == 0 or last
        saving = done % settings.checkpoint_every == 0 or last or stop
        if not (logging or observing or saving):
            return False
        figures = self.require_finite(done, weights=observing or saving)
        self.speed.stop()  # what follows is no step
        if logging:
            self._write(done, figures)
        if observing:
            self._look(done)
            if not last and self.has_enough():
                last = saving = True
                if not logging:
                    self._write(done, figures)
        if saving:
            self.save(done)
        return last or stop

    def _write(self, done: int, figures: Mapping[str, float]) -> None:
        speed = self.speed.figures()
        self.means.clear()
        self.note = f"loss {figures['total']:.4g}" if "total" in figures else ""
        if self.log is not None:
            self.log.write(done, figures)
            self.log.write_speed(done, speed)

    def _look(self, done: int) -> None:
        """Let the caller look at the averaged weights, in the first process."""
        with self.averaged():
            first = self.accelerator.is_main_process
            observed = self.observe(done, self.module) if first and self.observe is not None else {}
        if self.log is not None and observed:
            self.log.write(done, observed)

    def has_enough(self) -> bool:
        """Whether the caller wants no further steps; of several processes all have to ask, and the first decides."""
        if self.enough is None:
            return False
        said = torch.tensor([self.accelerator.is_main_process and self.enough()], device=self.accelerator.device)
        return bool(self.accelerator.gather(said).any())

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in place, in eval mode and without gradients; then all as before."""
        training = self.module.training
        self.module.eval()
        if self.average is not None:
            self.average.store(self.trained)
            self.average.copy_to(self.trained)
        try:
            with torch.no_grad():
                yield
        finally:
            if self.average is not None:
                self.average.restore(self.trained)
            self.module.train(training)

    def require_finite(self, done: int, weights: bool) -> dict[str, float]:
        """The mean losses since the last line of the log; of several processes all have to ask.

        Args:
            done: steps done.
            weights: look at all that a checkpoint holds, too.

        Raises:
            InputError: a loss or a weight is not finite.
        """
        figures = self.means.over(self.accelerator)
        lost = [name for name, value in figures.items() if not math.isfinite(value)]
        if lost:
            step = self.means.first_bad_step(self.accelerator)
            raise self._diverged(f"the loss {lost[0]!r}", done - 1 if step is None else step)
        if weights:
            found = diverged(self.module, self.optimizer, self.average)
            flags = self.accelerator.gather(torch.tensor([found is not None], device=self.accelerator.device))
            if flags.any():
                raise self._diverged(found or "a weight of another process", done - 1)
        return figures

    def _diverged(self, what: str, step: int) -> InputError:
        settings = self.settings
        section = next(
            (f"{name}." for name, part in Config.model_fields.items() if part.annotation is type(settings)), ""
        )
        rate = learning_rate(step, settings) * self.factor(step)
        half = settings.precision in SIXTEEN_BITS
        newest = latest_checkpoint(self.out)
        return InputError(
            f"{section}learning_rate = {settings.learning_rate:g}: training has diverged, {what} is not finite after "
            f"step {step + 1} (learning rate {rate:g}); begin in another folder with a lower {section}learning_rate"
            + (f" or {section}precision=fp32" if half else "")
            + (f"; {newest} is the last good state" if newest is not None else "")
        )

    def save(self, step: int) -> None:
        """Write a checkpoint; of several processes the first one does."""
        since_log = self.means.state(self.accelerator)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            state = {**self.state, "step": step, "since_log": since_log}
            if self.accelerator.scaler is not None:  # of fp16, whose gradients are scaled by what fitted so far
                state["scaler"] = self.accelerator.scaler.state_dict()
            save_checkpoint(self.out, state, self.module, self.optimizer, self.average, self.settings.keep)

    def finish(self) -> None:
        """Leave the averaged weights in the module, in eval mode, and close the log."""
        if self.average is not None:
            self.average.copy_to(self.trained)
        self.module.eval()
        if self.log is not None:
            self.log.close()
