"""What an entrance is: a reader, and what it reads."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siamese_diffusion import cli

TINY: dict[str, Any] = {
    "data": {"resolution": 32, "split": None},
    "backbone": {"channels": [16, 32], "attention": [False, True], "hint_channels": [4, 8], "text_dim": 8},
}
"""Settings of the smallest network there is."""


@dataclass(frozen=True)
class Entrance:
    """A reader and what it reads."""

    name: str
    make: Callable[[Path], object]
    """Fills a folder with good input, which is tiny."""
    damaged: tuple[str, ...]
    """Patterns of the files that are damaged, one at a time."""
    read: Callable[[Path, Path], Any]
    """Reads a folder of which one file is damaged. It may raise `InputError`, or as a command exit with status 2."""
    right: Callable[[Any], bool] = lambda value: True
    """Whether what it returned may be the answer."""
    weight: int = 10
    """How often it is tried, relative to the others."""
    is_command: bool = False


def command(
    name: str, make: Callable[[Path], object], damaged: tuple[str, ...], weight: int, *arguments: str
) -> Entrance:
    """An entrance through the command line, in this process; `{}` stands for the folder."""

    def read(folder: Path, damaged: Path) -> None:
        cli.app([argument.replace("{}", str(folder)) for argument in arguments], standalone_mode=False)

    return Entrance(name, make, damaged, read, weight=weight, is_command=True)
