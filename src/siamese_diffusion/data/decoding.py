"""How the files of one folder are read: what belongs to the folder as a whole is decided once, not file by file.

Design note: nothing is decided before a file is asked for, and then from a sample that is spread over the folder. Every
file that is read later is held against the decision; one that does not fit is an error, never read in another way.
Files are read in threads, so each decision is made once, by the first that needs it.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from siamese_diffusion.config import READING, READING_IMAGES, DataConfig, reading_settings
from siamese_diffusion.data.alignment import Size, common_ratio, is_rounding, lay
from siamese_diffusion.data.census import Census, take
from siamese_diffusion.data.classes import AnyMask, class_names
from siamese_diffusion.data.coding import VOID, Coding
from siamese_diffusion.data.decided import Decided
from siamese_diffusion.data.deciding import decide, parse_values
from siamese_diffusion.data.images import (
    Header,
    Mask,
    Pixels,
    deep_values,
    open_image,
    read_header,
    to_8_bit,
    to_rgb,
    usual_range,
)
from siamese_diffusion.data.once import Once
from siamese_diffusion.data.outlines import fill
from siamese_diffusion.data.shapes import Shapes
from siamese_diffusion.data.stored import Stored, read_stored
from siamese_diffusion.data.targets import targets, wanted
from siamese_diffusion.errors import InputError
from siamese_diffusion.progress import notify

T = TypeVar("T")

SAMPLE = 200
"""Files that a decision is made from, at most."""


@dataclass(frozen=True)
class MaskSource:
    """What a mask is made of."""

    files: tuple[Path, ...]
    """Mask images of one size; what any of them marks is marked. Of `shapes`: the file that lists them."""
    classes: tuple[int, ...] = ()
    """The label of what each file marks, where the files are classes; where they overlap the later one counts."""
    shapes: Shapes | None = None
    """What is drawn instead of read: polygons and runs of pixels."""

    @property
    def path(self) -> Path:
        """The file that an error names."""
        return self.files[0]


class Seen(NamedTuple):
    """What a sample of a folder's images shows."""

    levels: dict[str, tuple[float, float]]
    """Black and white of those of more than 8 bits, of integers and of floating point."""
    converted: bool
    """Some are converted to sRGB by their profiles."""


class Decoding:
    """How images and masks of a folder become arrays.

    Args:
        settings: `data` of the settings; default: the defaults.
        images: the folder's images.
        masks: the folder's masks.
        pairs: those of them that belong together.
        names: what the folder calls the values of its masks, where it says.
        decided: over a folder that these files are part of; default: decided over these.
    """

    def __init__(
        self,
        settings: DataConfig | None = None,
        images: Sequence[Path] = (),
        masks: Sequence[MaskSource] = (),
        pairs: Sequence[tuple[Path, MaskSource]] = (),
        names: Mapping[str, int] | None = None,
        decided: Decided | None = None,
    ) -> None:
        self.settings = settings or DataConfig()
        self.images, self.masks, self.pairs = images, masks, pairs
        self.names = names or (decided.names if decided else {})
        self.has_classes = any(source.classes or source.shapes is not None for source in masks)
        """Whether labels are told by files or shapes, and not by the values of mask files."""
        self._coding = Once(lambda: decided.coding if decided else self._decide(self._take_censuses()))
        self._seen = Once(lambda: Seen(decided.levels, decided.converted) if decided else self._look())
        self._scaled = Once(lambda: decided.scaled if decided else self._mostly_scaled())
        self._targets = Once(lambda: targets(self.settings, self.names, None if self.has_classes else self.coding))

    @property
    def has_files(self) -> bool:
        """Whether any mask is read from a file, and not drawn from shapes."""
        return any(source.shapes is None for source in self.masks)

    def describe(self) -> str:
        """What the masks are, in words; errors as in `coding`."""
        text = self.coding.describe(not self.settings.classes) if self.has_files else "drawn as their shapes say"
        return text + (f"; classes: {', '.join(self.class_names)}" if self.settings.classes else "")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that masks are read as, in their order; empty for one class, masks then being boolean.

        Raises:
            InputError: `data.classes` is "all", and the folder gives its labels no names, or one alone.
        """
        return tuple(entry.name for entry in wanted(self.settings, self.names))

    @property
    def coding(self) -> Coding:
        """What the values of the masks mean.

        Raises:
            InputError: no reading fits them, or several do, or they are outlines.
        """
        return self._coding()

    @property
    def decided(self) -> Decided:
        """What is decided over the folder.

        Raises:
            InputError: see `coding` and `image_levels`.
        """
        converted = bool(self.images) and self._seen().converted
        return Decided(self.coding, self.image_levels(), self._scaled(), dict(self.names), converted)

    @property
    def key(self) -> dict[str, Any]:
        """The settings and decisions that what is read depends on, as JSON: part of the name of whatever caches it.

        Empty where everything is read as before there were such settings.

        Raises:
            InputError: see `coding`.
        """
        coding = self.coding if self.masks else None
        decided = {"masks": coding.key} if coding is not None and not coding.plain else {}
        return {**self.image_key, **reading_settings(self.settings), **decided}

    @property
    def image_key(self) -> dict[str, Any]:
        """`key` of what is read of images alone.

        Raises:
            InputError: images of more than 8 bits that need a setting.
        """
        levels = {kind: list(found) for kind, found in self.image_levels().items()}
        found: dict[str, Any] = reading_settings(self.settings, READING_IMAGES)
        found |= {"levels": levels} if levels else {}
        return found | ({"profiles": "applied"} if self.images and self._seen().converted else {})

    def image_levels(self) -> dict[str, tuple[float, float]]:
        """The values that are black and white in the folder's images of more than 8 bits, of "integer" and "float"
        ones.

        Raises:
            InputError: some are negative, and there is no setting for them.
        """
        return self._seen().levels if self.images else {}

    def image(self, path: Path) -> Pixels:
        """An image as uint8 (H, W, 3).

        As `images.read_image`, but that what has more than 8 bits is scaled alike over the folder: by `data.window` or
        `data.image_range`, else by the smallest of the usual ranges that holds all.

        Raises:
            InputError: see `images.open_image`; or values that are negative or beyond the folder's range, or all alike.
        """
        most = self.settings.max_pixels
        header = read_header(path, most)
        values = deep_values(path, header, most)
        return to_rgb(open_image(path, most), managed=True) if values is None else self.scaled(path, values, header)

    def scaled(self, path: Path, values: NDArray[np.float32], header: Header) -> Pixels:
        """Values of an image of more than 8 bits, (H, W) or (H, W, 3), as `image` has them; errors as there."""
        kind = _kind(header)
        known = self.image_levels()
        low, high = known[kind] if kind in known else self._levels_of({kind: (path, *_extremes(values))})[kind]
        said = self.settings.window or self.settings.image_range
        least, most = _extremes(values)
        if not said and (most > high or least < low):
            raise InputError(
                f"{path}: holds values from {least:g} to {most:g}, and the other images lie within {low:g} to "
                f"{high:g}; data.image_range=LOW,HIGH says what is black and white in all of them"
            )
        pixels = to_8_bit(values, low, high)
        if pixels.min() == pixels.max():
            raise InputError(
                f"{path}: is flat: its values from {least:g} to {most:g} all look alike where {low:g} is black and "
                f"{high:g} white; set data.window=LEVEL,WIDTH or data.image_range=LOW,HIGH, or leave it out"
            )
        return pixels

    def labels(self, source: MaskSource, image: Path | None = None) -> Pixels:
        """A mask as a label map uint8 (H, W): 0 background, 1 and more, `coding.VOID` apart.

        Args:
            source: of several files, a later one marks over an earlier one.
            image: its image, whose size and orientation it then has.

        Raises:
            InputError: see `images.open_image`; the values do not fit the folder's coding, or the size its image.
        """
        labels = self.label_map(source, self.stored(source))
        return labels if image is None else self.lay(labels, source, image)[0]

    def stored(self, source: MaskSource) -> list[Stored]:
        """What the files of a mask hold.

        Raises:
            InputError: see `stored.read_stored`.
        """
        if source.shapes is not None:
            return []
        return [self.read_mask(path) for path in source.files]

    def read_mask(self, path: Path) -> Stored:
        """What one file of masks holds; errors as in `stored`."""
        return read_stored(path, coding=self.settings.mask_coding, max_pixels=self.settings.max_pixels)

    def label_map(self, source: MaskSource, stored: Sequence[Stored]) -> Pixels:
        """The label map of what the files of a mask hold, at the mask's own size.

        Raises:
            InputError: the values do not fit the folder's coding, or the files have several sizes.
        """
        if source.shapes is not None:
            return source.shapes.labels()
        coding = self.coding if self.masks else self._decide([self._census(each) for each in stored])
        drawn = [self._filled(coding, each) for each in stored]
        if source.classes:
            drawn = [
                np.where((one == 0) | (one == VOID), one, np.uint8(label))
                for one, label in zip(drawn, source.classes, strict=True)
            ]
        labels, *others = drawn
        for path, other in zip(source.files[1:], others, strict=True):
            if other.shape != labels.shape:
                raise InputError(f"{path}: has another size than {source.path}, a mask of the same image")
            labels = np.where((other == 0) | ((other == VOID) & (labels != 0)), labels, other)
        return labels

    def lay(
        self, labels: Pixels, source: MaskSource, image: Path, header: Header | None = None
    ) -> tuple[Pixels, str | None]:
        """A label map on its image, whose header may be known, and what was done for it: see `alignment.lay`.

        Raises:
            InputError: the sizes do not fit.
        """
        header = header or read_header(image, self.settings.max_pixels)
        return lay(labels, header, self.settings.orientation, self._scaled, source.path, image)

    def mask(self, source: MaskSource, image: Path | None = None) -> AnyMask:
        """A mask as boolean (H, W): the labels that are lesion; void is not. With `data.classes` a label map uint8
        (H, W) instead: 0 background and void, 1 the first of them.

        Args:
            source, image: as in `labels`.

        Raises:
            InputError: see `labels`; or `data.classes` names what the masks do not hold.
        """
        return self.target(self.labels(source, image))

    def target(self, labels: Pixels) -> AnyMask:
        """`mask` of a label map of `labels`."""
        if not self.settings.classes:
            return self.lesion(labels)
        return np.asarray(self._targets()[labels])

    def lesion(self, labels: Pixels) -> Mask:
        """Boolean (H, W) of a label map of `labels`: what is lesion, of any class."""
        if self.settings.classes:
            return np.asarray(self._targets()[labels] != 0)
        if self.has_classes:
            chosen = self._chosen_classes()
            marked = (labels != 0) & (labels != VOID)
            return np.asarray(marked if chosen is None else marked & np.isin(labels, chosen))
        if self.masks:
            return self.coding.lesion(labels)
        return np.asarray((labels != 0) & (labels != VOID))

    def _chosen_classes(self) -> list[int] | None:
        """The labels of `data.foreground`; None for any."""
        wanted = self.settings.foreground
        return None if wanted == "any" else sorted(parse_values(wanted, False, self.names, "data.foreground"))

    def unasked(self) -> list[str]:
        """Labels that masks hold and `data.classes` leaves out, as an error calls them; errors as in `mask`."""
        found = self._targets()
        if self.has_classes:
            return [name for name, label in self.names.items() if not found[label]]
        coding, called = self.coding, {value: name for name, value in self.names.items()}
        return [
            called.get(value, coding.name_of(value))
            for value in coding.marks
            if coding.table.get(value) not in (None, 0, VOID) and not found[coding.table[value]]
        ]

    def _filled(self, coding: Coding, stored: Stored) -> Pixels:
        labels = coding.labels(stored)
        if self.settings.outline != "fill":
            return labels
        marks = set(np.unique(labels).tolist()) - {0, VOID}
        if len(marks) > 1:
            raise InputError(f"{stored.path}: data.outline=fill is for masks of one label; this one has {len(marks)}")
        filled = fill((labels != 0) & (labels != VOID), stored.path)
        return np.where(filled & (labels == 0), np.uint8(next(iter(marks), 1)), labels)

    def _census(self, stored: Stored) -> Census:
        void = parse_values(self.settings.void, stored.form == "colour", self.names, "data.void", stored.palette)
        return take(stored, void)

    def _take_censuses(self) -> list[Census]:
        files = [path for source in self.masks if source.shapes is None for path in source.files]

        def one(path: Path) -> Census | None:
            try:
                return self._census(self.read_mask(path))
            except InputError:  # told, with its name, by whoever reads it
                return None

        with ThreadPoolExecutor() as pool:
            return [census for census in pool.map(one, spread(files)) if census is not None]

    def _decide(self, censuses: Sequence[Census]) -> Coding:
        if not censuses:  # none could be read
            return Coding("binary", "grey", {0: 0, 1: 1, 255: 1})
        everything = self.settings.model_copy(update={"foreground": "any"})  # classes are chosen among, not values
        coding = decide(censuses, everything if self.has_classes else self.settings, self.names)
        marked = [census for census in censuses if census.marks]
        outlines = [census for census in marked if census.outline]
        if self.settings.outline == "refuse" and 2 * len(outlines) > len(marked):
            raise InputError(
                f"{outlines[0].path}: the masks are outlines (thin closed lines in {len(outlines)} of {len(marked)}); "
                "data.outline=fill takes what they enclose for the lesion, data.outline=keep the line itself"
            )
        return coding

    def _look(self) -> Seen:
        """Look at a sample of the folder's images."""

        def one(path: Path) -> tuple[Header, tuple[float, float] | None] | None:
            try:
                header = read_header(path, self.settings.max_pixels)
                values = deep_values(path, header, self.settings.max_pixels) if header.deep else None
            except InputError:  # told, with its name, by whoever reads it
                return None
            return header, None if values is None else _extremes(values)

        sample = spread(self.images)
        with ThreadPoolExecutor() as pool:
            found = list(zip(sample, pool.map(one, sample), strict=True))
        extremes: dict[str, tuple[Path, float, float]] = {}
        for path, seen in found:
            if seen is not None and seen[1] is not None:
                kind, (least, most) = _kind(seen[0]), seen[1]
                known = extremes.get(kind, (path, least, most))
                extremes[kind] = (path if least < known[1] else known[0], min(least, known[1]), max(most, known[2]))
        return Seen(self._levels_of(extremes), any(seen is not None and seen[0].converted for _, seen in found))

    def _levels_of(self, extremes: Mapping[str, tuple[Path, float, float]]) -> dict[str, tuple[float, float]]:
        levels = {}
        for kind, (path, least, most) in extremes.items():
            if self.settings.window is not None:
                level, width = self.settings.window
                levels[kind] = (level - width / 2, level + width / 2)
            elif self.settings.image_range is not None:
                levels[kind] = self.settings.image_range
            elif least < 0:
                raise InputError(
                    f"{path}: holds negative values (from {least:g}, up to {most:g} in the brightest image), as CT in "
                    "Hounsfield units does; data.window=LEVEL,WIDTH says what is shown, 40,400 for soft tissue"
                )
            else:
                levels[kind] = (0.0, usual_range(most) or 1.0)
        return levels

    def ambiguous(self) -> int:
        """Images of a sample that an EXIF orientation turns, where neither size nor setting says what masks lie on."""
        if self.settings.orientation != "auto":
            return 0

        def one(path: Path) -> bool:
            try:
                header = read_header(path, self.settings.max_pixels)
            except InputError:  # told, with its name, by whoever reads it
                return False
            return header.orientation != 1 and header.size == header.stored

        with ThreadPoolExecutor() as pool:
            return sum(pool.map(one, spread(self.images)))

    def _mostly_scaled(self) -> bool:
        """Whether most masks have another size than their images, in one ratio along both sides."""

        def one(pair: tuple[Path, MaskSource]) -> bool:
            try:
                image, mask = (read_header(path, self.settings.max_pixels) for path in (pair[0], pair[1].path))
            except InputError:
                return False
            sizes: tuple[Size, Size] = (image.size, image.stored)
            return not any(is_rounding(mask.size, size) for size in sizes) and any(
                common_ratio(mask.size, size) is not None for size in sizes
            )

        chosen = spread(self.pairs)
        with ThreadPoolExecutor() as pool:
            return 2 * sum(pool.map(one, chosen)) > len(chosen)


def spread(items: Sequence[T], count: int = SAMPLE) -> list[T]:
    """At most `count` of the items, evenly spread over them."""
    return [items[i * len(items) // count] for i in range(count)] if len(items) > count else list(items)


def announce(decoding: Decoding, folder: Path) -> None:
    """Say how the masks of a folder are read, once, where that is not plain.

    Raises:
        InputError: see `Decoding.coding`.
    """
    coding = decoding.coding
    first = os.environ.get("RANK", "0") == "0"
    if first and (coding.notes or not coding.plain or decoding.settings.outline == "fill"):
        notify("; ".join([f"{folder}: masks are {decoding.describe()}", *coding.notes]))
    turned = decoding.ambiguous() if first else 0
    if turned:
        notify(
            f"{folder}: {turned} of {min(SAMPLE, len(decoding.images))} images have an EXIF orientation of which their "
            "size does not say whether the masks lie on the upright image, as they are read, or on the stored pixels "
            "(data.orientation=stored; data.orientation=upright if this is right)"
        )


def plain_settings(settings: DataConfig) -> DataConfig:
    """How a folder that this package wrote is read under `settings`: its masks are black and white, or label maps whose
    labels it names, its images 8-bit RGB."""
    plain = DataConfig()
    names = (READING - {"fit", "classes"}) | {"images", "masks"}
    classes = settings.classes if settings.classes == "all" else class_names(settings)
    return settings.model_copy(update={"classes": classes, **{name: getattr(plain, name) for name in names}})


def _kind(header: Header) -> str:
    return "float" if header.mode == "F" else "integer"


def _extremes(values: NDArray[np.float32]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


PLAIN = Decoding()
"""For a file that comes without a folder."""
