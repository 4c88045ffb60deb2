"""What a training loop tells of itself: `log.jsonl`, `speed.jsonl`, and TensorBoard's events where that is installed.

Design note: seconds are in a file of their own, since `log.jsonl` of a resumed run is that of an undisturbed one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from typing_extensions import TypedDict

from siamese_diffusion.extras import has_tensorboard
from siamese_diffusion.files import read_jsonl, to_json, write_jsonl, write_text


class Means:
    """Means of the losses over the steps since the last line of the log.

    Design note: the sums, and the first step whose loss was not finite, stay on the device, and nothing waits for them
    before they are asked for.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        self._bad: Tensor | None = None

    def add(self, step: int, losses: Mapping[str, Tensor], parts: int) -> None:
        """Add the losses of one of so many parts of a step; the one called `total` is trained on."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().float() / parts
        total = losses["total"].detach()
        bad = total.new_full((), -1, dtype=torch.long) if self._bad is None else self._bad
        self._bad = torch.where(total.isfinite() | (bad >= 0), bad, step)

    def over(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over the steps and the processes; of several processes all have to ask."""
        values: Tensor = self._shared(accelerator) / self.steps
        return dict(zip(self.sums, values.tolist(), strict=True))

    def state(self, accelerator: Accelerator) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON, so that the next line is of all its steps; all processes have to ask."""
        sums = self._shared(accelerator).tolist() if self.sums else []
        return {"steps": self.steps, "sums": dict(zip(self.sums, sums, strict=True))}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from the `state` of a checkpoint."""
        self.steps = int(state["steps"])
        self.sums = {name: torch.tensor(float(value), device=device) for name, value in state["sums"].items()}

    def _shared(self, accelerator: Accelerator) -> Tensor:
        """The mean over the processes of each sum."""
        stacked = torch.stack([value.float() for value in self.sums.values()])
        shared: Tensor = accelerator.reduce(stacked, reduction="mean")
        return shared

    def first_bad_step(self, accelerator: Accelerator) -> int | None:
        """The first step, from 0, whose total was not finite in some process; of several processes all have to ask."""
        if self._bad is None:
            return None
        found = [step for step in accelerator.gather(self._bad[None]).tolist() if step >= 0]
        return min(found, default=None)

    def clear(self) -> None:
        """Begin anew."""
        self.sums, self.steps = {}, 0


class _Row(TypedDict):
    step: int


class Log:
    """The log of the run in `out`; what came after step `start`, from which it goes on, is cut off."""

    def __init__(self, out: Path, start: int) -> None:
        self.path, self.speed = out / "log.jsonl", out / "speed.jsonl"
        for path in (self.path, self.speed):
            rows = read_jsonl(path, _Row) if path.exists() else []
            kept = [dict(row) for row in rows if row["step"] <= start]
            if kept:
                write_jsonl(path, kept)
            else:
                write_text(path, "")
        self.board: Any = None
        if has_tensorboard():
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Add a line; a figure that is not finite is null in it, since JSON knows no NaN."""
        self._add(self.path, step, figures)
        for name, value in figures.items() if self.board is not None else ():
            self.board.add_scalar(name, value, step)

    def write_speed(self, step: int, figures: Mapping[str, float]) -> None:
        """Add a line to `speed.jsonl`."""
        self._add(self.speed, step, figures)
        for name, value in figures.items() if self.board is not None else ():
            self.board.add_scalar(f"speed/{name}", value, step)

    def _add(self, path: Path, step: int, figures: Mapping[str, float]) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(to_json({"step": step, **figures}) + "\n")

    def close(self) -> None:
        if self.board is not None:
            self.board.flush()  # what its thread could not write is raised here, and by `close` swallowed
            self.board.close()
