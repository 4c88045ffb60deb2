"""The `prepare` command: a folder in any layout, written once as the plain folder that every command reads unasked.

Design note: pairs are read in threads, a few ahead of the one that is written, and written in their order. So what a
killed call left is the beginning of the work, and no more than those few are in memory.
"""

import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from siamese_diffusion import progress
from siamese_diffusion.arguments import Settings, StrPath, to_config, to_path
from siamese_diffusion.claim import Claim, require_apart
from siamese_diffusion.config import READING, Config, update
from siamese_diffusion.data import allotment, prepared
from siamese_diffusion.data.classes import entries
from siamese_diffusion.data.clinical import dicom, nifti
from siamese_diffusion.data.clinical.cases import CHOICES, Options, pseudonyms
from siamese_diffusion.data.clinical.told import kinds
from siamese_diffusion.data.coding import VOID
from siamese_diffusion.data.fetch.unpack import Limits, unpack
from siamese_diffusion.data.folder import SPLITS, DataFolder, is_archive
from siamese_diffusion.data.hashing import note_files
from siamese_diffusion.data.layouts import classes
from siamese_diffusion.data.prepared import Prepared
from siamese_diffusion.data.sources import Job, Source, of_folder, parse_labels
from siamese_diffusion.data.writer import PairWriter
from siamese_diffusion.durable import clear, unfinished
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import hash_json, read_jsonl, to_json, write_json, write_jsonl
from siamese_diffusion.lock import hold
from siamese_diffusion.pictures import png
from siamese_diffusion.progress import notify

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_FILES = 1_000_000
SPARE = 1 << 30
"""Bytes of the disk that an archive leaves free."""
FAST = 1
"""Compression of PNG: a fifth of the time of Pillow's default, for a third more bytes."""
_JOBS = ".jobs.jsonl"
"""Names of the pairs that each job of several gave, so that a resumed call need not read it again."""


class _Encoded(NamedTuple):
    """A pair as it is written."""

    name: str
    image: bytes
    mask: bytes
    lesion: float
    """Its share of the image."""


def prepare(
    data: StrPath,
    out: StrPath,
    config: Settings = None,
    group_by: str | None = None,
    split: str | None = None,
    labels: str | None = None,
    class_files: str | None = None,
    foreground: str | None = None,
    window: str | None = None,
    seed: int = 0,
    licence: str | None = None,
    source: str | None = None,
    axis: str = "auto",
    every: int = 10,
    lesion_only: bool = False,
    channel: int | None = None,
    keep_names: bool = False,
    skip_damaged: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Write the pairs of a folder or archive as a plain folder: upright 8-bit RGB, masks, groups and splits.

    Training on the folder that is written gives the arrays that training on `data` gives, bit for bit, with no setting
    but `data.fit`.

    Of DICOM and NIfTI files nothing that is written bears a patient's name, ID or dates: pairs and groups have
    pseudonyms, headers are left behind, and where the files lie is not noted. Text that is drawn into the pixels stays,
    but in images that say so (Burned In Annotation), which are left out.

    Args:
        data: a folder in any layout, of DICOM or of NIfTI files, or an archive of one.
        out: gets `images/`, `masks/`, `pairs.jsonl`, `splits.json` where there are splits, and `dataset.json`.
        config: settings, of which `data` says how the files are read; default: the defaults.
        group_by: a regular expression; what its first parentheses hold of a pair's name is the pair's group. Default:
            what the folder says.
        split: shares of training, validation and test, "0.8,0.1,0.1", drawn by whole groups.
        labels: names of the labels, "1=adenoma,2=hyperplastic"; `data.foreground` and later commands know them.
        class_files: what the names of masks begin or end with where each file is a class, "polyp,instrument".
        foreground: as `data.foreground`: labels that are lesion, with commas between them; the others are background.
        window: as `data.window`: LEVEL,WIDTH of the grey values shown; default: what a DICOM file says, else the range.
        seed: of the draw for `split`.
        licence, source: what `dataset.json` says of them.
        axis: of NIfTI volumes: axial, coronal or sagittal slices; auto: along the coarsest axis, else axial.
        every: of the slices of a volume that show no lesion one in so many is kept; those with a lesion are kept all.
        lesion_only: none of them.
        channel: of several images of a case in nnU-Net's layout.
        keep_names: pairs are called like the files of DICOM and NIfTI, which may bear a patient's name.
        skip_damaged: leave damaged DICOM and NIfTI files out, and say how many.
        resume: go on with what an interrupted call left.

    Returns:
        `out`, `pairs`, `groups`, `splits` {name: count}, `classes`.

    Raises:
        InputError: the folder cannot be read, an option does not fit it, or `out` holds anything else.
    """
    if seed < 0:
        raise InputError(f"--seed {seed}: must be at least 0")
    options = Options(axis, every, lesion_only, channel, keep_names, skip_damaged)
    options.require_good()
    data, out, config = to_path(data, "DATA"), to_path(out), to_config(config)
    if foreground is not None:
        config = update(config, "data", foreground=foreground)
    if window is not None:
        config = update(config, "data", window=window)
    require_apart(out, data=data)
    with hold(out), _unpacked(data, out) as folder:
        said = {str(entry.value): entry.name for entry in entries(config.data) if entry.value is not None}
        named = parse_labels(labels) if labels else said
        if class_files is not None:
            options.require_used("plain")
            files = classes.read(folder, [word.strip() for word in class_files.split(",")])
            found = of_folder(DataFolder(folder, settings=config.data, listing=files), named)
        else:
            found = _find(folder, config, options, named)
        call = _Call(out, config, found, group_by, split, seed, labels)
        call.inputs[classes.OPTION] = class_files
        result = call.run({"licence": licence, "source": source}, options, resume)
    for what, count in sorted(options.left.items()):
        if count:
            notify(f"{out}: left out, {count} {what}")
    return result


def _find(folder: Path, config: Config, options: Options, labels: dict[str, str]) -> Source:
    """The pairs of a folder, plain or clinical."""
    held = kinds(folder) if folder.is_dir() else set()
    plain = None
    if held:
        with suppress(InputError):  # plain masks alone, for example
            plain = DataFolder(folder, settings=config.data)
    if not held or (plain is not None and plain.holds_pairs):
        options.require_used("plain")
        return of_folder(plain or DataFolder(folder, settings=config.data), labels)
    if len(held) > 1:
        raise InputError(f"{folder}: holds DICOM and NIfTI files; give a folder of the ones that are meant")
    (kind,) = held
    options.require_used(kind)
    if config.data.images or config.data.masks:
        raise InputError(f"data.images, data.masks: are for plain images; {folder} holds {kind} files")
    read = dicom.source if kind == "DICOM" else nifti.source
    return read(folder, config.data, options, labels)


class _Call:
    """One call of the command, its options checked against what there is."""

    def __init__(
        self,
        out: Path,
        config: Config,
        source: Source,
        group_by: str | None,
        split: str | None,
        seed: int,
        labels: str | None,
    ) -> None:
        self.out, self.config, self.source, self.seed = out, config, source, seed
        names = source.names
        if not names:
            raise InputError(f"--out {out}: nothing is left to prepare; every pair was left out")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise InputError(f"{twice[0]}: two pairs would be called so; rename one, or leave out --keep-names")
        self.groups = dict(source.groups)
        if group_by is not None:
            keys = {name: source.keys.get(name, name) for name in names}
            found = allotment.group_by(group_by, list(keys.values()))
            alias = pseudonyms(found.values()) if source.keys else {}
            self.groups = {name: alias.get(found[key], found[key]) for name, key in keys.items()}
        self.shares = allotment.parse_shares(split) if split is not None else None
        if self.shares is not None:
            if source.splits:
                held = ", ".join(f"{name} {len(held)}" for name, held in source.splits.items())
                raise InputError(f"--split {split}: the folder has splits of its own ({held}); leave --split out")
            allotment.require_enough(names, self.groups, self.shares)
        self.inputs = {
            "command": "prepare",
            **note_files(source.files),
            "pairs": len(names),
            "grouping": hash_json(group_by),
            "--split": split,
            "--seed": seed,
            "--labels": labels,
        }

    def run(self, said: dict[str, str | None], options: Options, resume: bool) -> dict[str, Any]:
        """Write the folder; `said`: what `dataset.json` tells people besides; `options`: of clinical files."""
        self.inputs |= {f"--{name.replace('_', '-')}": getattr(options, name) for name in CHOICES}
        depends = {"data": READING | {"images", "masks"}}
        claim = Claim(self.out, self.config, depends, self.inputs, resume)
        claim.write()
        prepared.write(self.out, self.source.prepared, {"complete": False})
        with PairWriter(self.out, resume=True) as writer:
            self._write_pairs(writer)
            splits = self._splits(writer.rows)
            where = {name: split for split, names in splits.items() for name in names}
            for name, row in writer.rows.items():
                row.pop("split", None)
                row |= {"split": where[name]} if name in where else {}
            write_jsonl(writer.manifest, writer.rows.values())
            if splits:
                write_json(self.out / SPLITS, splits)
        groups = {row["group"] for row in writer.rows.values() if "group" in row}
        counts = {name: len(names) for name, names in splits.items()}
        result = {"pairs": len(writer.rows), "groups": len(groups), "splits": counts}
        more = {**result, **{name: text for name, text in said.items() if text}, "complete": True}
        prepared.write(self.out, self.source.prepared, more)
        (self.out / _JOBS).unlink(missing_ok=True)
        return {"out": str(self.out), **result, "classes": dict(self.source.prepared.classes)}

    def _write_pairs(self, writer: PairWriter) -> None:
        """Read, encode and write what is not there yet."""
        told = _read_notes(self.out / _JOBS)
        notes = {tuple(row["names"]): row["gave"] for row in told}
        if told:
            write_jsonl(self.out / _JOBS, told)  # without a last line that was cut
        jobs = [job for job in self.source.jobs if not _is_done(job, writer, notes)]

        def work(job: Job) -> tuple[Job, list[_Encoded]]:
            done = writer.done
            return job, [_encode(self.source.prepared, *drawn) for drawn in job.read() if drawn.name not in done]

        with progress.bar() as bar:
            task = bar.add_task("preparing", total=len(self.source.jobs), completed=len(self.source.jobs) - len(jobs))
            for job, given in in_order(work, jobs, min(8, os.cpu_count() or 1)):
                for one in given:
                    writer.add(one.name, one.image, one.mask, self._row(one))
                if len(job.names) > 1:
                    gave = [name for name in job.names if name in writer.done]
                    _note(self.out / _JOBS, {"names": job.names, "gave": gave})
                bar.advance(task)

    def _row(self, one: _Encoded) -> dict[str, Any]:
        row = dict(self.source.rows.get(one.name, {}))
        if one.name in self.groups:
            row["group"] = self.groups[one.name]
        return row | {"lesion": one.lesion}

    def _splits(self, rows: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
        """Names by split: as the folder has them, or drawn."""
        names = sorted(rows)
        if not names:
            raise InputError(f"--out {self.out}: no pair was kept of {len(self.source.names)} images")
        if self.shares is not None:
            sizes = {name: float(rows[name]["lesion"]) for name in names}
            drawn = allotment.allot(names, self.groups, sizes, self.shares, self.seed)
            for split, held in drawn.items():
                if any(sizes.values()) and not any(sizes[name] for name in held):
                    notify(f"{self.out}: {split} holds healthy pairs alone; another --seed may draw a better one")
            return drawn
        splits = {split: sorted(set(held) & rows.keys()) for split, held in self.source.splits.items()}
        parted = allotment.overlap(splits, self.groups)
        if parted:
            notify(f"{self.out}: {len(parted)} groups have pairs in several splits of the folder, as {parted[0]} has")
        return splits


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int = 2
) -> Iterator[Result]:
    """`function` of each item, in their order, from threads; at most `ahead` results a thread wait to be taken."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= ahead * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _encode(written: Prepared, name: str, image: Any, labels: Any) -> _Encoded:
    lesion = (labels != 0) & (labels != VOID)
    mask = labels if written.labels else lesion.astype(np.uint8) * 255
    pictures = [png(Image.fromarray(np.ascontiguousarray(pixels)), compress_level=FAST) for pixels in (image, mask)]
    return _Encoded(name, pictures[0], pictures[1], round(float(lesion.mean()), 6))


def _is_done(job: Job, writer: PairWriter, notes: dict[tuple[str, ...], list[str]]) -> bool:
    gave = job.names if len(job.names) == 1 else notes.get(job.names)
    return gave is not None and all(name in writer.done for name in gave)


def _read_notes(path: Path) -> list[dict[str, Any]]:
    return [row for row in read_jsonl(path) if {"names", "gave"} <= row.keys()] if path.exists() else []


def _note(path: Path, row: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(to_json(row) + "\n")


@contextmanager
def _unpacked(data: Path, out: Path) -> Iterator[Path]:
    """The folder that an archive holds, unpacked beside `out` while the block runs; a folder as it is."""
    if not is_archive(data):
        yield data
        return
    place = out.with_name(f"{out.name}.unpacked")
    place.parent.mkdir(parents=True, exist_ok=True)
    clear(place.parent, place.name)
    folder = unfinished(place)
    room = shutil.disk_usage(place.parent).free - SPARE
    try:
        unpack(data, folder, Limits(max(room, 1), MOST_FILES), "the archive")  # whose name may be a patient's
        yield folder
    except InputError as error:
        said = str(error).replace(str(folder), str(data)).replace(" with --archive", "")
        raise InputError(said) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
