"""The best step so far, by validation Dice, and its weights: the same after a kill and a resume as without.

A step that the validation liked best may come after the newest checkpoint. A resumed run does that step again, so
what is known of it is dropped; until then the weights of the best step before the checkpoint have to be kept too.
"""

import shutil
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat
from safetensors.torch import save_file
from torch import nn
from typing_extensions import TypedDict

from siamese_diffusion.checkpoints import latest_checkpoint
from siamese_diffusion.files import read_jsonl, write_json, write_jsonl, write_whole
from siamese_diffusion.tensors import read_state, require_finite


class _Row(TypedDict):
    step: int
    mDice: FiniteFloat


class Selection:
    """Validations of a run in `validation.jsonl`, weights that may still win in `best/`.

    Args:
        out: the run folder, whose newest checkpoint (if any) is where the run goes on.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.history = out / "validation.jsonl"
        start = _checkpoint_step(out)
        rows = read_jsonl(self.history, _Row) if self.history.exists() else []
        self.rows: list[dict[str, Any]] = [dict(row) for row in rows if row["step"] <= start]

    def add(self, step: int, figures: dict[str, float], network: nn.Module) -> None:
        """Note the validation `figures` (with `mDice`) of `network` at `step`."""
        self.rows.append({"step": step, **figures})
        if self.best()["step"] == step:
            self._save(step, network)
        write_jsonl(self.history, self.rows)
        before = [row for row in self.rows if row["step"] <= _checkpoint_step(self.out)]
        keep = {self._weights(_best(rows)["step"]) for rows in (self.rows, before) if rows}
        for path in (self.out / "best").glob("*.safetensors"):
            if path not in keep:
                path.unlink()

    def best(self) -> dict[str, Any]:
        """The validation with the highest mDice, the earliest of equals."""
        return _best(self.rows)

    def since_best(self) -> int:
        """Validations since the best one."""
        best = self.best()["step"]
        return sum(row["step"] > best for row in self.rows)

    def finish(self, network: nn.Module) -> dict[str, Any]:
        """Load the best weights into `network`, leave them as `best.safetensors`, and return what `best.json` says."""
        best = self.best()
        weights, final = self._weights(best["step"]), self.out / "best.safetensors"
        if weights.exists():  # absent where an earlier call was killed below
            write_whole(final, lambda path: shutil.copyfile(weights, path), durable=True)
            write_json(self.out / "best.json", best)
        state = read_state(final)
        require_finite(state, final)
        network.load_state_dict(state)
        shutil.rmtree(self.out / "best", ignore_errors=True)
        return best

    def _weights(self, step: int) -> Path:
        return self.out / "best" / f"step-{step:06d}.safetensors"

    def _save(self, step: int, network: nn.Module) -> None:
        state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
        write_whole(self._weights(step), lambda path: save_file(state, path), durable=True)


def _best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return max(rows, key=lambda row: (row["mDice"], -row["step"]))


def _checkpoint_step(out: Path) -> int:
    newest = latest_checkpoint(out)
    return int(newest.name.removeprefix("step-")) if newest is not None else 0
