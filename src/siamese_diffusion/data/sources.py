"""What `prepare` writes from, whatever the files are: pairs that are read job by job, with their names, groups and
splits known before."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from siamese_diffusion.data.coding import VOID, Coding
from siamese_diffusion.data.deciding import parse_values
from siamese_diffusion.data.decoding import Decoding
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.images import Mask, Pixels
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.data.prepared import Prepared
from siamese_diffusion.errors import InputError
from siamese_diffusion.settings import MaskValue

MOST_LABELS = 63
"""Labels of a label map that is read back without asking; more are joined."""


class Drawn(NamedTuple):
    """A pair that has been read."""

    name: str
    image: Pixels  # (H, W, 3)
    labels: Pixels  # (H, W); 0 what is not lesion, `VOID` apart


@dataclass(frozen=True)
class Job:
    """Pairs that are read together, since they lie in the same file or series."""

    names: tuple[str, ...]
    """Of all that it may give."""
    read: Callable[[], Iterator[Drawn]]


@dataclass(frozen=True)
class Source:
    """Everything that is to be prepared."""

    jobs: list[Job]
    files: list[Path]
    prepared: Prepared
    groups: dict[str, str] = field(default_factory=dict)
    splits: dict[str, list[str]] = field(default_factory=dict)
    rows: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """Further columns of `pairs.jsonl` by name."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """What `--group-by` looks at, by name; default: the name."""

    @property
    def names(self) -> list[str]:
        """Of all pairs that there may be."""
        return [name for job in self.jobs for name in job.names]


def of_folder(folder: DataFolder, labels: Mapping[str, str]) -> Source:
    """The pairs of a folder in any layout, its test sets among them.

    Args:
        folder: opened with the settings that say how it is read.
        labels: names of stored values or colours of the masks, as `--labels` gives them.

    Raises:
        InputError: the folder cannot be read, `labels` names a value that no mask holds, or a pair is in two splits.
    """
    pairs, splits = _all_pairs(folder)
    folder.tell()
    decoding = folder.decoding
    classes = dict(folder.require_listing().classes)
    name_labels(decoding, classes, labels)
    prepared = written(decoding, classes)
    names = _file_names([pair.name for pair in pairs])

    def job(pair: Pair) -> Job:
        def read() -> Iterator[Drawn]:
            image, labels = pair.image.read(), decoding.labels(pair.mask.source, pair.image.path)
            if image.shape[:2] != labels.shape:
                pair.read()  # says so
            yield Drawn(names[pair.name], image, kept(labels, decoding.lesion(labels)))

        return Job((names[pair.name],), read)

    rows = {names[pair.name]: {"prompt": pair.prompt} if pair.prompt is not None else {} for pair in pairs}
    for pair in pairs:
        rows[names[pair.name]] |= {key: value for key, value in pair.extra.items() if key not in ("group", "split")}
    return Source(
        [job(pair) for pair in pairs],
        [path for pair in pairs for path in pair.files],
        prepared,
        {names[pair.name]: pair.group for pair in pairs if pair.group is not None},
        {split: [names[name] for name in held] for split, held in splits.items()},
        rows,
    )


def kept(labels: Pixels, lesion: Mask) -> Pixels:
    """A label map (H, W) with what is not lesion as background; `VOID` stays."""
    return np.where(lesion | (labels == VOID), labels, np.uint8(0))


def name_labels(decoding: Decoding, classes: dict[int, str], labels: Mapping[str, str]) -> None:
    """Give labels the names of `--labels`: in `classes`, and in a decoding that has not decided yet.

    Raises:
        InputError: no mask holds one of the values.
    """
    if labels:
        everything = decoding.settings.model_copy(update={"foreground": "any"})
        classes.update(_named(labels, type(decoding)(everything, masks=decoding.masks).coding, bool(classes)))
        decoding.names = {name: value for value, name in classes.items()}


def parse_labels(text: str) -> dict[str, str]:
    """Names by stored value of `--labels`, "1=adenoma,2=hyperplastic".

    Raises:
        InputError: it is written otherwise, or a name is given twice.
    """
    found: dict[str, str] = {}
    for entry in text.split(","):
        value, equals, name = (part.strip() for part in entry.partition("="))
        if not (value and equals and name) or value in found or name in found.values():
            raise InputError(f"--labels {text}: expected VALUE=NAME, each once, for example 1=adenoma,2=hyperplastic")
        found[value] = name
    return found


def _all_pairs(folder: DataFolder) -> tuple[list[Pair], dict[str, list[str]]]:
    """The pairs, and their names by split."""
    listing = folder.require_listing()
    own = folder.pairs() if listing.images or not listing.test_sets else []
    tests = folder.pairs("test") if listing.test_sets else []
    splits: dict[str, list[str]] = {}
    if tests:
        splits = {"train": [pair.name for pair in own]} if own else {}
        splits["test"] = [pair.name for pair in tests]
    else:
        splits = {split: [pair.name for pair in folder.pairs(split)] for split in folder.lists or {}}
    seen: dict[str, str] = {}
    for split, names in splits.items():
        for name in names:
            if seen.setdefault(name, split) != split:
                raise InputError(f"{folder.splits_file}: {name} is in {seen[name]} and in {split}; leave it in one")
    return own + tests, splits


def _named(labels: Mapping[str, str], coding: Coding, has_classes: bool) -> dict[int, str]:
    """Names by what `Decoding.names` goes by: a stored value, or the label where files are classes."""
    found: dict[int, str] = {}
    for text, name in labels.items():
        entry: MaskValue = text
        value = parse_values([entry], coding.form == "colour", {}, "--labels", coding.palette)[0]
        if not has_classes and coding.table.get(value) in (None, 0, VOID):
            held = [coding.name_of(one) for one, label in sorted(coding.table.items()) if label not in (0, VOID)]
            known = f"{', '.join(held[:12])}; name one of these" if held else "lesion and background alone"
            raise InputError(f"--labels {text}={name}: the masks hold {known}")
        found[value] = name
    return found


def written(decoding: Decoding, classes: Mapping[int, str]) -> Prepared:
    """What the masks that are written hold: label maps where there are several labels or void, else black and white."""
    coding = decoding.coding
    named = dict(classes) if decoding.has_classes else _names_of_labels(coding, classes)
    lesion = decoding.lesion(np.arange(256, dtype=np.uint8)[None])[0]
    named = {label: name for label, name in named.items() if lesion[label]}
    void = VOID in coding.table.values()
    shown = {label: name for label, name in named.items() if name}
    if void or (len(named) > 1 and max(named) <= MOST_LABELS):
        return Prepared(True, shown, void)
    return Prepared(False, {1: next(iter(shown.values()))} if len(named) == len(shown) == 1 else {})


def _names_of_labels(coding: Coding, classes: Mapping[int, str]) -> dict[int, str]:
    """Labels that the masks may hold with their names: what the folder calls them, else the stored value."""
    any_value = len(coding.table) > MOST_LABELS  # where `data.mask_coding=labels` allows everything
    named: dict[int, str] = {}
    for value, label in sorted(coding.table.items()):
        if label in (0, VOID) or (any_value and value not in coding.marks and value not in classes):
            continue
        usual = coding.name_of(value) if coding.kind not in ("binary", "alpha") else ""
        named[label] = classes.get(value, usual) or named.get(label, "")
    return named


def _file_names(names: Sequence[str]) -> dict[str, str]:
    """What pairs are called in the folder that is written, where their names cannot be those of files.

    Raises:
        InputError: two would be called alike.
    """
    found: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in names:
        plain = "".join("-" if letter in '/\\:*?"<>|' or ord(letter) < 32 else letter for letter in name)
        plain = f"_{plain[1:]}" if plain.startswith(".") else plain
        if taken.setdefault(plain.casefold(), name) != name:
            raise InputError(f"{name}: would have the file of {taken[plain.casefold()]}; rename one of them")
        found[name] = plain
    return found
