"""The `check` command: what is in a data folder, and everything that is wrong with it."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from siamese_diffusion.config import DataConfig
from siamese_diffusion.data.folder import SPLITS, DataFolder
from siamese_diffusion.data.images import mask_values, to_mask
from siamese_diffusion.data.layouts import Listing
from siamese_diffusion.data.opening import decoded
from siamese_diffusion.data.tars import read_bytes
from siamese_diffusion.errors import InputError, printable
from siamese_diffusion.progress import track

GREY_SHARE = 0.005
"""Share of pixels that are neither black nor white above which a mask is called not binary."""

FATAL = {"manifest", "unpaired", "unreadable", "size mismatch", "duplicate name", "split"}
"""Kinds of problem that stop training; the others are warnings."""


@dataclass(frozen=True)
class Problem:
    kind: str
    file: str
    detail: str

    @property
    def fatal(self) -> bool:
        return self.kind in FATAL


@dataclass(frozen=True)
class Report:
    """What `check` found. Sizes are (width, height) in pixels; coverage is the lesion's share of the image."""

    folder: str
    layout: str
    pairs: int
    splits: dict[str, int]
    sizes: dict[str, tuple[int, int]]
    formats: dict[str, int]
    coverage: dict[str, float]
    problems: list[Problem] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        problems = [{**asdict(problem), "fatal": problem.fatal} for problem in self.problems]
        return {**asdict(self), "problems": problems, "usable": not any(problem.fatal for problem in self.problems)}


@dataclass(frozen=True)
class _Facts:
    """What one pair's files say."""

    size: tuple[int, int] | None = None
    kind: str = ""
    digest: str = ""
    coverage: float | None = None
    problems: tuple[Problem, ...] = ()


def check(data: Path, settings: DataConfig | None = None) -> Report:
    """Read every file of a data folder and list what is wrong; a bad file never stops it.

    Args:
        data: the folder.
        settings: `data` of the settings, which say how files are read; default: the defaults.

    Raises:
        InputError: there is no such folder, or nothing in it is a pair of any layout.
    """
    folder = DataFolder(data, settings=settings)
    most = folder.decoding.settings.max_pixels
    own = folder.require_listing()
    listings = [own, *own.test_sets.values()]
    problems = [problem for listing in listings for problem in _unpaired(listing)]
    pairs = [
        (listing.images[name], listing.masks[name].path)
        for listing in listings
        for name in sorted(listing.images.keys() & listing.masks.keys())
    ]
    if not pairs and not problems:
        raise InputError(f"{data}: no image-mask pairs")
    with ThreadPoolExecutor() as pool:
        facts = list(track(pool.map(lambda pair: _look(pair[0], pair[1], most), pairs), "checking", len(pairs)))
    for fact in facts:
        problems += fact.problems
    problems += _twins([image for image, _ in pairs], facts)
    lists, wrong = _lists(folder)
    sizes = sorted((fact.size for fact in facts if fact.size), key=lambda size: size[0] * size[1])
    coverage = [fact.coverage for fact in facts if fact.coverage is not None]
    return Report(
        folder=str(data),
        layout=own.layout,
        pairs=len(pairs),
        splits=lists,
        sizes={"smallest": sizes[0], "median": sizes[len(sizes) // 2], "largest": sizes[-1]} if sizes else {},
        formats=dict(Counter(fact.kind for fact in facts if fact.kind).most_common()),
        coverage=_quantiles(coverage),
        problems=[*problems, *wrong],
    )


def render(report: Report) -> str:
    """The report as text for a terminal; at most ten files of a kind."""
    lines = [f"{report.folder}: {report.pairs} pairs, layout: {report.layout}"]
    if report.splits:
        lines.append("splits: " + ", ".join(f"{name} {count}" for name, count in report.splits.items()))
    if report.sizes:
        lines.append("sizes: " + ", ".join(f"{name} {w} x {h}" for name, (w, h) in report.sizes.items()))
    if report.formats:
        lines.append("images: " + ", ".join(f"{count} {kind}" for kind, count in report.formats.items()))
    if report.coverage:
        lines.append(
            "lesion share of the image: "
            + ", ".join(f"{name} {100 * value:.1f} %" for name, value in report.coverage.items())
        )
    kinds: dict[str, list[Problem]] = {}
    for problem in report.problems:
        kinds.setdefault(problem.kind, []).append(problem)
    for kind, found in kinds.items():
        lines.append(f"{'error' if found[0].fatal else 'warning'}: {kind}, {len(found)}")
        lines += [f"    {problem.file}: {problem.detail}" for problem in found[:10]]
        if len(found) > 10:
            lines.append(f"    and {len(found) - 10} more (--json lists all)")
    lines.append("no problems" if not kinds else "")
    return "\n".join(lines).rstrip()


def _unpaired(listing: Listing) -> Iterator[Problem]:
    images, masks = listing.images, listing.masks
    for path, detail in listing.broken:
        yield Problem("manifest", str(path), detail)
    for path in listing.doubled:
        yield Problem("duplicate name", printable(path), "another file has its base name")
    for name in sorted(images.keys() - masks.keys()):
        yield Problem("unpaired", printable(images[name]), "has no mask")
    for name in sorted(masks.keys() - images.keys()):
        yield Problem("unpaired", printable(masks[name].path), "has no image")


def _look(image_path: Path, mask_path: Path, max_pixels: int) -> _Facts:
    problems = []
    size, kind, digest = None, "", ""
    image_name, mask_name = printable(image_path), printable(mask_path)
    try:
        with decoded(image_path, max_pixels) as image:
            size, kind = image.size, f"{image_path.suffix.lower().lstrip('.')} {image.mode}"
        digest = hashlib.sha256(read_bytes(image_path)).hexdigest()
    except InputError as error:
        problems.append(Problem("unreadable", image_name, _after_colon(error)))
    try:
        values = mask_values(mask_path, max_pixels)
    except InputError as error:
        problems.append(Problem("unreadable", mask_name, _after_colon(error)))
        return _Facts(size, kind, digest, None, tuple(problems))
    mask = to_mask(values)
    if size is not None and mask.shape != size[::-1]:
        detail = f"is {mask.shape[1]} x {mask.shape[0]}, its image {size[0]} x {size[1]}"
        problems.append(Problem("size mismatch", mask_name, detail))
    coverage = float(mask.mean())
    if not mask.any():
        problems.append(Problem("empty mask", mask_name, "marks nothing"))
    elif mask.all():
        problems.append(Problem("full mask", mask_name, "marks the whole image"))
    grey = float(((values > 8) & (values < 247)).mean())
    if grey > GREY_SHARE:
        problems.append(Problem("not binary", mask_name, f"{100 * grey:.1f} % of its pixels are grey"))
    return _Facts(size, kind, digest, coverage, tuple(problems))


def _twins(paths: list[Path], facts: list[_Facts]) -> Iterator[Problem]:
    first: dict[str, Path] = {}
    for path, fact in zip(paths, facts, strict=True):
        if fact.digest and fact.digest in first:
            yield Problem("same image", str(path), f"is the same file as {printable(first[fact.digest])}")
        first.setdefault(fact.digest, path)


def _lists(folder: DataFolder) -> tuple[dict[str, int], list[Problem]]:
    file = str(folder.path / SPLITS)
    try:
        lists = folder.lists or {}
    except InputError as error:
        return {}, [Problem("split", file, _after_colon(error))]
    listing = folder.require_listing()
    known = listing.images.keys() & listing.masks.keys()
    problems = [
        Problem("split", file, f"{split} names {name}, which is not there")
        for split, names in lists.items()
        for name in names
        if name not in known
    ]
    where: dict[str, str] = {}
    for split, names in lists.items():
        for name in names:
            if name in where:
                problems.append(Problem("split", file, f"{name} is in {where[name]} and {split}"))
            where.setdefault(name, split)
    return {split: len(names) for split, names in lists.items()}, problems


def _quantiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    names = ("smallest", "quarter", "median", "three quarters", "largest")
    return dict(zip(names, np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).round(4).tolist(), strict=True))


def _after_colon(error: InputError) -> str:
    return str(error).partition(": ")[2]
