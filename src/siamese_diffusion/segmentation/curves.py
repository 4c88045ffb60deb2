"""Learning curves of a run as a picture, now and then while it trains and at its end."""

import time
from collections.abc import Mapping
from pathlib import Path

from siamese_diffusion.files import write_whole
from siamese_diffusion.report import loss_curves

PAUSE = 30.0
"""Seconds between two pictures while it trains: they take half a second."""

SHOWN = {"total": "training loss", "val_dice": "Dice on the validation pairs"}
"""Figures of `log.jsonl`, and what they are called."""


class Curves:
    """`curves.png` of the run in `out`, or of several runs in one picture.

    Args:
        out: folder that gets the picture.
        logs: name of a run to its `log.jsonl`; default: that of `out` alone.
    """

    def __init__(self, out: Path, logs: Mapping[str, Path] | None = None) -> None:
        self.path = out / "curves.png"
        self.logs = logs or {"": out / "log.jsonl"}
        self.last = time.monotonic()

    def draw_now_and_then(self, best: int) -> None:
        """Draw where the last picture is `PAUSE` seconds old; `best` is the best step so far."""
        if time.monotonic() - self.last >= PAUSE:
            self.draw(best)

    def draw(self, best: int | None = None) -> bytes:
        """Write the picture, with `best` marked where it is given; returns the PNG."""
        png = loss_curves(self.logs, SHOWN, (best, f"best step: {best}") if best is not None else None)
        write_whole(self.path, lambda path: path.write_bytes(png))
        self.last = time.monotonic()
        return png
