"""The page of `check --report`: what a data folder holds, how it is read, what is wrong with it, and a look at it."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

import siamese_diffusion
from siamese_diffusion import pictures
from siamese_diffusion.claim import require_apart
from siamese_diffusion.data.checked import Item, Report
from siamese_diffusion.data.coding import VOID
from siamese_diffusion.data.decoding import Decoding
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.looks import Facts, Problem
from siamese_diffusion.errors import InputError, printable
from siamese_diffusion.report import Figure, Section, Table, histogram, places, write_report

SHOWN = 48
"""Pairs drawn at random."""
SIDE = 200
"""Pixels of a thumbnail."""
PICTURED, LISTED = 24, 200
"""Thumbnails and lines of each kind of problem."""
GROUPS = 40
"""Groups that are listed."""
MADE_BY = "check"
MARK = f'content="siamese-diffusion {MADE_BY}"'

Pixels = NDArray[np.uint8]


def require_free(page: Path, data: Path) -> None:
    """The page may be written: it is outside the data, and what is there is an earlier page.

    Raises:
        InputError: it may not.
    """
    try:
        require_apart(page, "--report", data=data)
    except InputError:
        raise InputError(f"--report {page}: lies in the data folder {data}; write the page somewhere else") from None
    if page.is_dir():
        raise InputError(f"--report {page}: is a folder; name a file, check.html for example")
    if page.exists() or page.is_symlink():
        try:
            with page.open(encoding="utf-8", errors="replace") as file:
                ours = MARK in file.read(2000)
        except OSError:
            ours = False
        if not ours:
            raise InputError(f"--report {page}: is a file that `check` did not write; name another one")


def write_page(page: Path, report: Report, folder: DataFolder, items: Sequence[Item], facts: Sequence[Facts]) -> None:
    """Write the page.

    Args:
        page: the file.
        report: what `check` returns.
        folder: that was checked.
        items: its pairs.
        facts: what was found of each.

    Raises:
        InputError: the disk is full.
    """
    decided = bool(report.masks)
    pairs = {path: item for item in items for path in (*item.mask.files, item.image)}
    sections = [
        _contents(report, items, facts),
        *([_lesions(report, items, facts)] if any(fact.coverage for fact in facts) else []),
        _masks(report, folder.decoding, decided),
        *_problems(report.problems, pairs, folder.decoding if decided else None, report.folder),
        *([_look(items, facts, folder.decoding)] if decided and items else []),
        _made(report),
    ]
    write_report(page, f"Data check: {Path(report.folder).resolve().name}", _lead(report), sections, made_by=MADE_BY)


def _lead(report: Report) -> str:
    errors = sum(problem.fatal for problem in report.problems)
    warnings = len(report.problems) - errors
    healthy = f", {report.healthy} of them healthy" if report.healthy else ""
    said = "It can be used for training" if report.usable else "It cannot be used for training as it is"
    return (
        f"{report.pairs} pairs of an image and a mask{healthy}. {said}: {errors or 'no'} "
        f"error{'s' * (errors != 1)}, {warnings or 'no'} warning{'s' * (warnings != 1)}."
    )


def _contents(report: Report, items: Sequence[Item], facts: Sequence[Facts]) -> Section:
    rows = [
        ["folder", report.folder],
        ["layout", report.layout],
        ["pairs", str(report.pairs)],
        ["images with a lesion", str(sum(bool(fact.coverage) for fact in facts))],
        ["healthy images (empty mask)", str(report.healthy)],
        ["image sizes", ", ".join(f"{name} {w} x {h}" for name, (w, h) in report.sizes.items())],
        ["image files", ", ".join(f"{count} {kind}" for kind, count in report.formats.items())],
    ]
    tables = [Table(["", ""], rows, words=(1,))]
    for title, keys in (("Splits", [item.split for item in items]), ("Groups", [item.group for item in items])):
        if any(keys):
            tables.append(_counts(title, keys, facts))
    return Section("What is in it", "", tables=tables)


def _counts(title: str, keys: Sequence[str | None], facts: Sequence[Facts]) -> Table:
    counts = Counter(key or "in none" for key in keys)
    lesions = Counter(key or "in none" for key, fact in zip(keys, facts, strict=True) if fact.coverage)
    healthy = Counter(key or "in none" for key, fact in zip(keys, facts, strict=True) if fact.coverage == 0)
    order = [name for name in ("train", "val", "test") if name in counts]
    splits = [*order, *(name for name in counts if name not in order)]
    named = [(name, counts[name]) for name in splits] if title == "Splits" else counts.most_common(GROUPS)
    rows = [[name, str(count), str(lesions[name]), str(healthy[name])] for name, count in named]
    left = f"The largest {GROUPS} of {len(counts)} groups." if len(counts) > len(rows) else ""
    return Table(["", "pairs", "with a lesion", "healthy"], rows, note=left, title=title)


def _lesions(report: Report, items: Sequence[Item], facts: Sequence[Facts]) -> Section:
    found: dict[str, list[float]] = {}
    for item, fact in zip(items, facts, strict=True):
        if fact.coverage:
            found.setdefault(item.split or "all", []).append(100 * fact.coverage)
    shares: dict[str, ArrayLike] = dict(found)
    centres = np.array([fact.centre for fact in facts if fact.centre is not None])
    lesions = report.lesions
    text = (
        f"{lesions['count']} lesions, counted as connected parts of the masks. At the training resolution of "
        f"{lesions['resolution']} pixels, {lesions['lost'] or 'none'} of them lose more than half of their pixels."
    )
    return Section(
        "The lesions",
        text,
        figures=[
            Figure(histogram(shares, "lesion, % of the image"), "How much of an image the lesion covers."),
            Figure(
                places(centres),
                "Where the centre of the lesion lies: images in each field of a grid over the image. A single hot "
                "field means that a network can learn the place and need not look.",
            ),
        ],
    )


def _masks(report: Report, decoding: Decoding, decided: bool) -> Section:
    tables = []
    if decided and report.pairs:
        coding = decoding.coding
        meanings = {0: "background", VOID: "void: left out where it can be"}
        rows = []
        for value, label in sorted(coding.table.items()):
            if coding.marks and value and value not in coding.marks and label != VOID:
                continue  # could be read, and occurs in none of the masks that were looked at
            lesion = coding.foreground is None or label in coding.foreground
            shown = coding.name_of(value)
            rows.append([shown, meanings.get(label, f"label {label}, {'lesion' if lesion else 'not lesion'}")])
        if coding.invert:
            rows = [[value, {"background": "label 1, lesion"}.get(said, "background")] for value, said in rows]
        known = [row for row in rows if decoding.has_files][:LISTED]
        tables = [Table(["value in the files", "read as"], known, words=(1,))] if known else []
    text = f"Decided over the folder: {report.masks}." if decided else "What the masks mean could not be decided."
    notes = [Table(["what was noted"], [[note] for note in report.notes])] if report.notes else []
    return Section("How the masks and images are read", text, tables=[*tables, *notes])


def _problems(
    problems: Sequence[Problem], pairs: Mapping[Path, Item], decoding: Decoding | None, folder: str
) -> Iterator[Section]:
    """A section a kind."""
    named = {printable(path): item for path, item in pairs.items()}
    kinds: dict[tuple[bool, str], list[Problem]] = {}
    for problem in sorted(problems, key=lambda problem: not problem.fatal):
        kinds.setdefault((problem.fatal, problem.kind), []).append(problem)
    for (fatal, kind), found in kinds.items():
        files = [file for problem in found for file in (problem.file, problem.other) if file]
        shown = [file for file in dict.fromkeys(files) if file in named or Path(file).is_file()]
        shown = [file for file in shown if Path(file).suffix.lower() not in (".json", ".jsonl", ".csv", ".tsv")]
        tiles = _tiles(shown[:PICTURED], named, decoding)
        left = f"{PICTURED} of {len(shown)} files are pictured." if len(shown) > PICTURED else ""
        rows = [[_inside(problem.file, folder), _inside(problem.detail, folder)] for problem in found[:LISTED]]
        note = f"{len(found) - LISTED} more; `--json` lists all." if len(found) > LISTED else ""
        yield Section(
            f"{'Error' if fatal else 'Warning'}: {kind} ({len(found)})",
            left,
            tables=[Table(["file", "what is wrong"], rows, note=note, words=(0, 1))],
            tiles=tiles,
        )


def _look(items: Sequence[Item], facts: Sequence[Facts], decoding: Decoding) -> Section:
    readable = [item for item, fact in zip(items, facts, strict=True) if fact.size and fact.coverage is not None]
    drawn = np.random.default_rng(0).permutation(len(readable))[:SHOWN]
    chosen = [readable[place] for place in sorted(drawn.tolist())]
    named = {printable(item.image): item for item in chosen}
    tiles = _tiles(list(named), named, decoding)
    text = f"{len(chosen)} pairs drawn at random, with the outlines of their masks. Do the outlines fit?"
    return Section("A look at the pairs", text, tiles=tiles)


def _tiles(files: Sequence[str], named: Mapping[str, Item], decoding: Decoding | None) -> list[Figure]:
    """Thumbnails of files, with the outlines of their masks where both can be read."""
    plain = Decoding(decoding.settings) if decoding is not None else Decoding()

    def one(file: str) -> Figure:
        item = named.get(file)
        try:
            if item is None or decoding is None:
                return _tile(Path(file).name, plain.image(item.image if item is not None else Path(file)))
            image = decoding.image(item.image)
            try:
                mask = decoding.mask(item.mask, item.image)
            except InputError:
                return _tile(item.name, image)
            return _tile(item.name, _outlined(image, mask))
        except InputError:
            return _tile(Path(file).name, np.full((SIDE, SIDE, 3), 225, np.uint8))

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(one, files))


def _outlined(image: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """The outline is drawn on the thumbnail, so that it is as wide in a large image as in a small one."""
    small = _small(image)
    if mask.shape != image.shape[:2]:
        return small
    grey = Image.fromarray(mask.astype(np.uint8) * 255).resize((small.shape[1], small.shape[0]), Image.Resampling.BOX)
    seen = np.asarray(grey) > 0
    from scipy.ndimage import binary_dilation

    small[binary_dilation(seen) & ~seen] = pictures.GREEN
    return small


def _small(image: Pixels) -> Pixels:
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.array(
        Image.fromarray(image).resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)
    )


def _tile(name: str, image: Pixels) -> Figure:
    """A thumbnail in the middle of a white square, as a JPEG."""
    small = _small(image)
    whole = np.full((SIDE, SIDE, 3), 255, np.uint8)
    top, left = (SIDE - small.shape[0]) // 2, (SIDE - small.shape[1]) // 2
    whole[top : top + small.shape[0], left : left + small.shape[1]] = small
    content = BytesIO()
    Image.fromarray(whole).save(content, "JPEG", quality=85)
    return Figure(content.getvalue(), printable(name))


def _inside(text: str, folder: str) -> str:
    """Text with paths in the folder as paths from there."""
    return text.replace(f"{folder.rstrip('/')}/", "")


def _made(report: Report) -> Section:
    rows = [["next", report.next], ["program", f"siamese-diffusion {siamese_diffusion.__version__}"]]
    return Section("What to do now", "", tables=[Table(["", ""], rows, words=(1,))])
