"""A stage: one piece of work, its folder named by a hash of everything its result depends on.

Not in the hash: settings that change how a stage runs but, rounding aside, not what comes out (`HARMLESS`), where
folders lie, and what an arm is called. In it: the content of input files, and the keys of the stages it builds on. So a
stage is done exactly when its folder says so, whoever did it and when.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import NonNegativeFloat
from typing_extensions import TypedDict

from siamese_diffusion.config import HARMLESS, READING, Config, Values, reading_settings
from siamese_diffusion.data.hashing import hash_files
from siamese_diffusion.data.pairs import ImageFile, Pair, reading
from siamese_diffusion.errors import InputError, WithheldError
from siamese_diffusion.files import hash_json, read_json
from siamese_diffusion.settings import OF_SMP

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


class _Done(TypedDict):
    """What `done.json` says."""

    seconds: NonNegativeFloat
    result: dict[str, Any]


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

    @property
    def options(self) -> dict[str, Any]:
        """`arguments`, with what the study does itself: it pairs arms and seeds, so a stage trains one network."""
        one = {"arms": "mixed"} if self.kind == "segment" and self.arguments.get("synthetic") else {}
        return {**self.arguments, **one}

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
        return self._note["result"]

    @property
    def seconds(self) -> float:
        """How long the attempt took that finished it."""
        return float(self._note["seconds"])

    @property
    def _note(self) -> _Done:
        path = self.folder / "done.json"
        try:
            return read_json(path, _Done)
        except WithheldError:
            raise
        except InputError as error:
            raise InputError(f"{error}; without {path} the study does the stage again") from None


class FileHashes:
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
        """One hash of names, images, masks and prompts, and of how they are read where that is not plain."""
        images = self.files([pair.image.path for pair in pairs])
        rows = zip(pairs, images, self._masks(pairs), strict=True)
        found: list[Any] = [[pair.name, image, mask, pair.prompt] for pair, image, mask in rows]
        return hash_json([*found, *([how] if (how := reading(pairs)) else [])])

    def masks(self, pairs: list[Pair]) -> str:
        """One hash of names and masks, and of how these are read."""
        found: list[Any] = [[pair.name, mask] for pair, mask in zip(pairs, self._masks(pairs), strict=True)]
        return hash_json([*found, *([how] if (how := reading(pairs)) else [])])

    def images(self, images: list[ImageFile]) -> str:
        """One hash of images by the names of their files, and of how these are read."""
        digests = self.files([image.path for image in images])
        found: list[Any] = [[image.path.name, digest] for image, digest in zip(images, digests, strict=True)]
        return hash_json([*found, *([how] if (how := reading(images=images)) else [])])

    def _masks(self, pairs: list[Pair]) -> list[str]:
        """A hash of each mask: its file's, or one of all files that it is made of."""
        self.files([path for pair in pairs for path in pair.mask.files])
        return [self._mask(pair) for pair in pairs]

    def _mask(self, pair: Pair) -> str:
        source = pair.mask.source
        contents = self.files(list(source.files))
        if source.shapes is not None:  # a file of annotations is of many images
            return hash_json([asdict(part) for part in source.shapes.parts])
        if source.classes:
            return hash_json([contents, source.classes])
        return contents[0] if len(contents) == 1 else hash_json(contents)

    def named(self, named: list[tuple[str, Path]]) -> str:
        """One hash of names and files."""
        return hash_json(
            [[name, digest] for (name, _), digest in zip(named, self.files([p for _, p in named]), strict=True)]
        )

    def folder(self, folder: Path, patterns: tuple[str, ...]) -> str:
        """One hash of the files of a folder that match, by their paths in it."""
        found = sorted({path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()})
        return self.named([(path.relative_to(folder).as_posix(), path) for path in found])


_LATER: dict[str, dict[str, Any]] = {
    "segment": {"patience": None, "lesion_weight": 1.0},
    "backbone": {"first_stage": "linear", "align": 0.0, "zero_snr": False},
    "pretrain": {"min_snr": None},
    "train": {"min_snr": None},
    "method": {"hint_dropout": 0.0},
}
"""Settings that came after stages had been named by the others, and the values that were so before."""


def settings_of(config: Config, section: str, *leave_out: str) -> dict[str, Any]:
    """The settings of a section that a result depends on, as JSON holds them."""
    exclude = {*HARMLESS, *leave_out}
    dumped: dict[str, Any] = config.model_dump(mode="json")[section]
    if section == "data":  # which files these find is in the hashes of the files
        exclude |= {"images", "masks"}
    if section == "data":  # at their defaults these say what was so before they could be set
        exclude |= READING - reading_settings(config.data).keys()
    if section == "data" and not dumped["class_dropout"]:  # likewise
        exclude.add("class_dropout")
    if section == "segment" and config.segment.network != "smp":
        exclude |= set(OF_SMP)
    if dumped.get("aspect") == "square":
        exclude.add("aspect")
    # as above: what was so before they could be set
    exclude |= {name for name, value in _LATER.get(section, {}).items() if dumped[name] == value}
    if "precision" in dumped and dumped["precision"] in (
        "auto",
        "fp32",
    ):  # what it was called before it could be chosen:
        if section in ("sample", "evaluate"):  # the keys of stages done then stay what they are
            exclude.add("precision")
        dumped["precision"] = "no"
    return {name: value for name, value in dumped.items() if name not in exclude}
