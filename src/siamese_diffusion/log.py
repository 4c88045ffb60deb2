"""What a training loop tells of itself: `log.jsonl` and TensorBoard."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from siamese_diffusion.files import read_jsonl, write_jsonl, write_text


class Means:
    """Means of the losses over the steps since the last line of the log.

    Design note: the sums stay on the device, and nothing waits for them before they are asked for.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, losses: Mapping[str, Tensor], parts: int) -> None:
        """Add the losses of one of so many parts of a step."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach() / parts

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over the steps and the processes, and begin anew."""
        names = list(self.sums)
        stacked = torch.stack([self.sums[name].float() for name in names])
        values: Tensor = accelerator.reduce(stacked, reduction="mean") / self.steps
        self.sums, self.steps = {}, 0
        return dict(zip(names, values.tolist(), strict=True))


class Log:
    """The log of the run in `out`; what came after step `start`, from which it goes on, is cut off."""

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
            file.write(json.dumps({"step": step, **figures}) + "\n")
        for name, value in figures.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.board.close()
