"""A stage: one piece of work, its folder named by a hash of everything its result depends on.

Not in the hash: settings that change how a stage runs but, rounding aside, not what comes out (`HARMLESS`), where folders
lie, and what an arm is called. In it: the content of input files, and the keys of the stages it builds on. So a stage is
done exactly when its folder says so, whoever did it and when.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from siamese_diffusion.config import HARMLESS, Config, Values
from siamese_diffusion.data.hashing import hash_files
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.files import hash_json, read_json

FORMAT = 1
"""Part of every key; to be raised when a stage comes to give another result from the same settings."""

COMMANDS = {
    "backbone": "pretrain",
    "train": "train",
    "sample": "sample",
    "judge": "segment",
    "score": "evaluate",
    "segment": "segment",
}
"""Kinds of stages that are commands of this program."""


@dataclass(frozen=True, eq=False)
class Stage:
    """One piece of work of a study."""

    kind: str
    """A key of `COMMANDS`, or `copy-paste` or `filter`, which are done here."""
    label: str
    """For people; not part of the key."""
    root: Path
    depends: dict[str, Any]
    needs: tuple["Stage", ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)
    """Of the command's function, but `out`, `config`, `resume` and `device`."""
    values: Values = field(default_factory=dict)
    """Settings of the command."""

    @cached_property
    def key(self) -> str:
        upstream = [stage.key for stage in self.needs]
        return hash_json({"format": FORMAT, "kind": self.kind, "depends": self.depends, "needs": upstream})

    @property
    def folder(self) -> Path:
        return self.root / "stages" / f"{self.kind}-{self.key}"

    @property
    def done(self) -> bool:
        return (self.folder / "done.json").exists()

    @property
    def result(self) -> dict[str, Any]:
        """What a finished stage returned."""
        result: dict[str, Any] = read_json(self.folder / "done.json")["result"]
        return result


class Contents:
    """Hashes of files, each read once."""

    def __init__(self) -> None:
        self._known: dict[Path, str] = {}

    def files(self, paths: list[Path]) -> list[str]:
        """The hash of each file's content."""
        new = list(dict.fromkeys(path for path in paths if path not in self._known))
        with ThreadPoolExecutor() as pool:
            self._known.update(zip(new, pool.map(lambda path: hash_files([path]), new), strict=True))
        return [self._known[path] for path in paths]

    def pairs(self, pairs: list[Pair]) -> str:
        """One hash of names, images, masks and prompts."""
        images = self.files([pair.image.path for pair in pairs])
        masks = self.files([pair.mask.path for pair in pairs])
        rows = zip(pairs, images, masks, strict=True)
        return hash_json([[pair.name, image, mask, pair.prompt] for pair, image, mask in rows])

    def named(self, named: list[tuple[str, Path]]) -> str:
        """One hash of names and files."""
        return hash_json(
            [[name, digest] for (name, _), digest in zip(named, self.files([p for _, p in named]), strict=True)]
        )

    def folder(self, folder: Path, patterns: tuple[str, ...]) -> str:
        """One hash of the files of a folder that match, by their paths in it."""
        found = sorted({path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()})
        return self.named([(path.relative_to(folder).as_posix(), path) for path in found])


def settings_of(config: Config, section: str, *leave_out: str) -> dict[str, Any]:
    """The settings of a section that a result depends on, as JSON holds them."""
    exclude = {*HARMLESS, *leave_out}
    dumped: dict[str, Any] = config.model_dump(mode="json")[section]
    if "precision" in dumped and dumped["precision"] in ("auto", "fp32"):  # what it was called before it could be chosen:
        if section in ("sample", "evaluate"):  # the keys of stages done then stay what they are
            exclude.add("precision")
        dumped["precision"] = "no"
    return {name: value for name, value in dumped.items() if name not in exclude}
