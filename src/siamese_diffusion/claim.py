"""Whose run a folder holds is written down in it, and a resumed run must be the run that was begun.

Design note: a command asks first (`Claim(...)`), which writes nothing, then reads its input, and then writes (`write`). So
a call that is refused has changed nothing. Of several processes the first one alone does either.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from siamese_diffusion.config import HARMLESS, Config, dump_config, load_config
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import hash_json, read_json, write_json, write_text

CONFIG, INPUTS = "config.yaml", "inputs.json"

BEFORE = frozenset({"stage.json", "settings.yaml", "log.txt", "cache", "pretrain"})
"""What may lie in a folder before a run has it: what a study notes of a stage, and what a call made that was cut short. So
may hidden files: locks, what a killed call was writing, what a desktop leaves in every folder."""

Depends = Mapping[str, Collection[str] | None]
"""Sections of the settings that a run's result depends on: some settings of each, or None for all."""


class Claim:
    """The right of a run to a folder.

    Args:
        out: the run's folder.
        config: the resolved settings.
        depends: which of them must be the same when the run is resumed; those marked harmless never need to.
        inputs: what else must be, as JSON: hashes and counts of what it is made from.
        resume: go on with a run that is there; where there is none, it begins.

    Raises:
        InputError: `out` holds a run and `resume` is false, or another run, or files that are nobody's run.
    """

    def __init__(self, out: Path, config: Config, depends: Depends, inputs: dict[str, Any], resume: bool) -> None:
        self.out, self.config, self.inputs = out, config, inputs
        self.first = os.environ.get("RANK", "0") == "0"
        if not self.first:
            return
        if out.exists() and not out.is_dir():
            raise InputError(f"--out {out}: is a file; name a folder")
        if (out / CONFIG).exists():
            if not resume:
                raise InputError(f"--out {out}: already holds a run; add --resume to go on with it, or name another folder")
            self._require_same(depends)
        elif out.is_dir():
            names = sorted(path.name for path in out.iterdir())
            foreign = [name for name in names if name not in BEFORE and not name.startswith(".")]
            if foreign:
                raise InputError(f"--out {out}: holds files of something else ({foreign[0]}); name an empty or a new folder")

    def _require_same(self, depends: Depends) -> None:
        before, now = load_config(self.out / CONFIG).model_dump(), self.config.model_dump()
        for section, names in depends.items():
            for name, value in now[section].items():
                if name not in HARMLESS and (names is None or name in names) and before[section][name] != value:
                    raise InputError(
                        f"--resume {section}.{name} = {value}: {self.out / CONFIG} says {before[section][name]}; "
                        "a resumed run keeps its settings"
                    )
        earlier = read_json(self.out / INPUTS) if (self.out / INPUTS).exists() else {}
        for name, value in self.inputs.items():  # runs of earlier versions noted less, or in other words
            if isinstance(earlier, dict) and earlier.get(name, value) != value:
                raise InputError(f"--out {self.out}: its run is of other pairs ({name}, see {INPUTS}); name another folder")

    def write(self) -> None:
        """Write the settings and the inputs down: from now on the folder is this run's."""
        if self.first:
            write_text(self.out / CONFIG, dump_config(self.config))
            write_json(self.out / INPUTS, self.inputs)


def listing(paths: Collection[Path]) -> str:
    """A hash of files' names and sizes, wherever they lie; a member of an archive goes by its name."""
    return hash_json(sorted([path.name, path.stat().st_size if path.exists() else 0] for path in paths))
