"""Whose a folder is: written down in it before anything else, and asked before anything in it is touched.

Design note: a folder is this package's by a mark of its own, `inputs.json`, which names the command and what it works
from. A command asks first (`require_apart`, `Claim(...)`), which writes nothing; it makes the mark before its first
file (`mark`), and notes its settings once its input is read (`write`). So a call that is refused has changed nothing,
and what lies in a folder without the mark is nobody's to touch. Of several processes the first one alone does any of
it.
"""

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from siamese_diffusion.arguments import StrPath, to_paths
from siamese_diffusion.config import HARMLESS, Config, dump_config, load_config
from siamese_diffusion.durable import clear_all
from siamese_diffusion.errors import InputError, WithheldError
from siamese_diffusion.files import hash_json, read_json, read_jsonl, write_json, write_text
from siamese_diffusion.plain_yaml import read_plain_yaml

CONFIG, INPUTS = "config.yaml", "inputs.json"
PROGRAM = "siamese-diffusion"

_NOTES = frozenset({CONFIG, INPUTS, "cache", "stage.json", "settings.yaml", "log.txt"})
"""What lies in a folder before anything of value does: what a call notes, and what a study notes of a stage. So do
hidden files: locks, what a killed call was writing, what a desktop leaves in every folder."""

_HOLDS = {
    "evaluate": "results",
    "evaluate --masks": "results",
    "rate export": "a key, and ratings made with it need it",
    "rate score": "scores",
    **dict.fromkeys(("sample", "filter", "phantoms", "copy-paste", "prepare"), "pairs"),
}
"""What a command leaves in its folder; the others leave a run."""

Depends = Mapping[str, Collection[str] | None]
"""Sections of the settings that a run's result depends on: some settings of each, or None for all."""


def require_apart(out: Path, setting: str = "--out", **read: StrPath | Iterable[StrPath] | None) -> None:
    """A folder that is written is none that is read, and lies inside none, by whatever path either is named.

    Args:
        out: the folder to write.
        setting: the option that names it.
        read: the folders that are read, by their options (with `_` for `-`).

    Raises:
        InputError: it is one, or lies inside one, or where a link in one leads.
    """
    itself, above = _identities(out)
    for option, given in read.items():
        for folder in to_paths(given, f"--{option}"):
            name = f"--{option.replace('_', '-')} {folder}"
            places = set(_places(folder))
            if places & itself:
                raise InputError(f"{setting} {out}: is the folder of {name}, or a part of it; name a folder outside it")
            if places & above:
                raise InputError(f"{setting} {out}: lies inside {name}; name a folder outside it")


Identity = tuple[int, int]
"""Device and number of a folder: the same under every name, also where names differ in their case."""


def _identities(out: Path) -> tuple[set[Identity], set[Identity]]:
    """Of the folder, and of those above it: by the path as it is given, and by where its links lead."""
    itself: set[Identity] = set()
    above: set[Identity] = set()
    for path in (Path(os.path.abspath(out)), Path(os.path.realpath(out))):  # noqa: PTH100 - neither raises in a loop of links
        itself.update(_identity(path))
        for parent in path.parents:
            above.update(_identity(parent))
    return itself, above


def _identity(path: Path) -> Iterator[Identity]:
    with suppress(OSError):  # not there, or hidden from us
        state = path.stat()
        yield state.st_dev, state.st_ino


def _places(folder: Path, depth: int = 2) -> Iterator[Identity]:
    """Where the files of a data folder lie: in it, and where linked folders in it lead. Files are not looked at."""
    yield from _identity(folder)
    try:
        entries = list(os.scandir(folder)) if depth else []
    except OSError:  # not a folder: whoever reads it says so
        return
    for entry in entries:
        if entry.is_symlink() and entry.is_dir():
            yield from _identity(Path(entry.path))
        elif entry.is_dir(follow_symlinks=False):
            yield from (place for place in _places(Path(entry.path), depth - 1))


class Claim:
    """The right of a command to a folder.

    Args:
        out: the folder.
        config: the resolved settings; None for a command without.
        depends: which of them must be the same when it goes on; those marked harmless never need to.
        inputs: `command`, its name; and what else must be the same, as JSON: options by their names, hashes and counts
            of what it works from. They are noted in `inputs.json`.
        resume: go on with what is there; where there is nothing, it begins. None for a command without that option: the
            same call goes on by itself.
        result: of such a command, the file that it writes last: with it the folder is finished, and is left alone.
        earlier: whether the folder, which bears no mark, is an earlier version's of this command.
        besides: names of other files that may lie there.

    Raises:
        InputError: `out` holds what the command made and `resume` is false, or what another command, other settings or
            other inputs made, or anything that this package did not write.
    """

    def __init__(
        self,
        out: Path,
        config: Config | None,
        depends: Depends,
        inputs: dict[str, Any],
        resume: bool | None,
        *,
        result: str | None = None,
        earlier: Callable[[], bool] | None = None,
        besides: Collection[str] = (),
    ) -> None:
        self.out, self.config, self.resume = out, config, resume
        self.inputs: dict[str, Any] = json.loads(json.dumps(inputs))
        self.command: str = inputs["command"]
        self.first = os.environ.get("RANK", "0") == "0"
        if not self.first:
            return
        if out.exists() and not out.is_dir():
            raise InputError(f"--out {out}: is a file; name a folder")
        holder = marked_by(out) or (self.command if earlier is not None and earlier() else None)
        if holder is None:
            self._require_free(besides)
            return
        made = [out / name for name in visible(out) - _NOTES]
        if not made or (holder == self.command and not any(_holds(path) for path in made)):
            return  # left before anything was made: it is begun anew
        if holder != self.command:
            raise InputError(f"--out {out}: holds what `{holder}` wrote; name another folder")
        if resume is None and result is not None and (out / result).exists():
            raise InputError(f"--out {out}: already holds {self._noun}; name another folder")
        self._require_settings(depends)
        self._require_inputs()
        if resume is not None and not resume:
            raise InputError(f"--out {out}: already holds {self._noun}; add --resume to go on, or name another folder")

    def mark(self) -> None:
        """From now on the folder is the command's; nothing of what is there changes."""
        if self.first:
            mark(self.out, self.command)

    def write(self) -> None:
        """Note the settings and the inputs; the mark is there before. What killed calls left unfinished goes."""
        if not self.first:
            return
        self.mark()
        clear_all(self.out, leave={"stages"})  # whoever works on one holds that one
        if self.config is not None:
            write_text(self.out / CONFIG, dump_config(self.config))
        write_json(self.out / INPUTS, {"program": PROGRAM, **self.inputs})

    @property
    def _noun(self) -> str:
        return _HOLDS.get(self.command, "a run")

    def _require_free(self, besides: Collection[str]) -> None:
        for name in sorted(visible(self.out)):
            if name == "cache" and _is_cache(self.out / name):
                continue
            if name == "pretrain" == f"pre{self.command}" and _is_whole_config(self.out / name / CONFIG):
                continue  # earlier versions of `train` began with it
            if name not in _NOTES - {CONFIG, INPUTS, "cache"} and name not in besides:
                raise InputError(
                    f"--out {self.out}: holds files of something else ({name}); name an empty or a new folder"
                )

    def _require_settings(self, depends: Depends) -> None:
        if self.config is None:
            return
        if not (self.out / CONFIG).exists():
            if len(_note(self.out)) > len(_MARK):
                raise InputError(
                    f"{self.out / CONFIG}: is gone, and with it the settings that are to be kept; name another folder"
                )
            return  # an earlier version's: this command noted none then
        before, now = load_config(self.out / CONFIG).model_dump(), self.config.model_dump()
        for section, names in depends.items():
            for name, value in now[section].items():
                if name not in HARMLESS and (names is None or name in names) and before[section][name] != value:
                    raise self._changed(f"{section}.{name} =", before[section][name], value, CONFIG)

    def _require_inputs(self) -> None:
        earlier = _note(self.out)
        for name, value in self.inputs.items():  # earlier versions noted less
            if name in earlier and earlier[name] != value:
                if name.startswith("--"):
                    raise self._changed(name, earlier[name], value, INPUTS)
                raise InputError(
                    f"--out {self.out}: was begun from other input ({name}, see {INPUTS}); name another folder"
                )

    def _changed(self, setting: str, before: Any, now: Any, noted: str) -> InputError:
        if not self.resume:
            return InputError(f"--out {self.out}: was begun with {setting} {before}, not {now}; name another folder")
        return InputError(
            f"--resume {setting} {now}: {self.out / noted} says {before}; what is resumed keeps its settings"
        )


_MARK = ("program", "command")
"""What a mark says at least."""


def mark(out: Path, command: str) -> None:
    """Make the mark of a command where there is none; the folder is made where it is missing."""
    if marked_by(out) is None:
        write_json(out / INPUTS, {"program": PROGRAM, "command": command})


def marked_by(out: Path) -> str | None:
    """The command whose mark a folder bears; None without a mark of this package."""
    command = _note(out).get("command")
    return command if isinstance(command, str) else None


def _note(out: Path) -> dict[str, Any]:
    """What `inputs.json` says; nothing where it is not ours.

    Raises:
        WithheldError: it cannot be read now, and may be ours: to write another one would lose it.
    """
    try:
        note = read_json(out / INPUTS)
    except WithheldError:
        raise
    except InputError:  # whatever it is, it is not ours
        return {}
    if not isinstance(note, dict):
        return {}
    before = note.get("command") in ("pretrain", "train", "segment") and "files" in note  # versions without `program`
    ours = note.get("program") == PROGRAM or (before and _is_whole_config(out / CONFIG))
    return note if ours else {}


def visible(folder: Path) -> set[str]:
    """Names of what is in a folder, which need not be there, without hidden files."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.is_dir() else set()


def _holds(path: Path) -> bool:
    """Whether there is more than folders and empty files; hidden ones do not count."""
    if path.is_dir():
        return any(_holds(inside) for inside in path.iterdir() if not inside.name.startswith("."))
    return not path.exists() or path.stat().st_size > 0


def _is_cache(folder: Path) -> bool:
    """Whether a folder holds what `arrays` and `latents` write and nothing else."""
    kinds = {"images", "masks", "latents", "features"}
    return folder.is_dir() and all(
        path.name.startswith(".") or (path.suffix == ".npy" and path.name.partition("-")[0] in kinds)
        for path in folder.iterdir()
    )


def _is_whole_config(path: Path) -> bool:
    """Whether a file holds every section, as what is written here does and what a user writes need not."""
    try:
        values = read_plain_yaml(path)
    except WithheldError:
        raise
    except InputError:  # whatever it is, it is not ours
        return False
    sections = set(Config.model_fields) - {"evaluate", "first_stage", "train_masks"}  # the last ones to come
    return isinstance(values, dict) and sections <= values.keys()


def begun_earlier(out: Path, command: str) -> bool:
    """Whether a folder without the mark holds a run of `command`, of a version that wrote its settings first and no
    mark.

    Which command it was is told by what it made and logged; one that had not got so far may be any.
    """
    if not _is_whole_config(out / CONFIG):
        return False
    summary = read_json(out / "summary.json", dict[str, Any]) if (out / "summary.json").exists() else {}
    rows = read_jsonl(out / "log.jsonl") if (out / "log.jsonl").exists() else []
    logged = {name for row in rows for name in row}
    signs = {
        "import": "imported" in summary,
        "train": "consistency" in logged or "method" in summary or (out / "pretrain").is_dir(),
        "pretrain": "backbone" in summary or (bool(logged) and logged <= {"step", "total"}),
        "segment": "bce" in logged or "val_dice" in logged or (out / "best.safetensors").exists(),
        "evaluate": (out / "fit.csv").exists() or (out / "judge").is_dir(),
    }
    found = {name for name, holds in signs.items() if holds}
    return found == {command} or not (found or (out / "pipeline").exists())


def holds_run(out: Path, command: str) -> bool:
    """Whether a folder is a run of `command`, by this version or an earlier one, or the beginning of one."""
    return (
        marked_by(out) == command
        or begun_earlier(out, command)
        or (visible(out) <= {"cache"} and _is_cache(out / "cache"))
    )


def listing(paths: Collection[Path]) -> str:
    """A hash of files' names and sizes, wherever they lie; a member of an archive goes by its name."""
    return hash_json(sorted([path.name, path.stat().st_size if path.exists() else 0] for path in paths))
