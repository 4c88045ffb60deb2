"""What to type after `check`: the command that trains, with the settings it needs, or what has to be mended first."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from siamese_diffusion.config import DataConfig
from siamese_diffusion.data.looks import Problem

SETTING = re.compile(r"\bdata\.[a-z_]+=(?:\[[^\]]*\]|[^\s,;)]+)")
"""A setting that an error names, with its value."""
BLANK = re.compile(r"[A-Z]{3,}|\.\.\.")
"""A value that the user has to fill in."""


def next_step(folder: Path, settings: DataConfig, problems: Sequence[Problem], keeping: int | None) -> str:
    """One line.

    Args:
        folder: that was checked.
        settings: as it was read.
        problems: what was found.
        keeping: the first resolution that keeps every lesion, where some are lost.
    """
    fatal = [problem for problem in problems if problem.fatal]
    said = _said(settings)
    if not fatal or (keeping and all(problem.kind == "no lesion" for problem in fatal)):
        larger = [f"data.resolution={keeping}"] if keeping else []
        kept = [each for each in said if not (larger and each.startswith("data.resolution="))]
        return _command("train", folder, [*kept, *larger], " --out RUN")
    for problem in fatal:
        named = [each for each in SETTING.findall(problem.detail) if not BLANK.search(each)]
        if named:
            return f"if that is what is meant: {_command('check', folder, [*said, named[0]])}"
    count = "the error" if len(fatal) == 1 else f"the {len(fatal)} errors"
    return f"mend {count} above, then: {_command('check', folder, said)}"


def _said(settings: DataConfig) -> list[str]:
    """Settings that are not the default, as `--set` takes them."""
    default = DataConfig()
    found = []
    for name in type(default).model_fields:
        value = getattr(settings, name)
        if value != getattr(default, name):
            found.append(f"data.{name}={_written(value)}")
    return found


def _written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value)


def _command(name: str, folder: Path, entries: Sequence[str], more: str = "") -> str:
    where = f" --data {shlex.quote(str(folder))}" if name == "train" else f" {shlex.quote(str(folder))}"
    return f"siamese-diffusion {name}{where}{more}" + "".join(f" --set {shlex.quote(entry)}" for entry in entries)
