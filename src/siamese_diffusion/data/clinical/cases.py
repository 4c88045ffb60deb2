"""What DICOM and NIfTI share: options, pseudonyms, pairs of files by their names, and which slices of a volume are
kept."""

import hashlib
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese_diffusion.config import DataConfig
from siamese_diffusion.data.clinical.told import stem
from siamese_diffusion.data.coding import VOID
from siamese_diffusion.data.deciding import parse_values
from siamese_diffusion.data.images import Mask, Pixels
from siamese_diffusion.data.layouts import folders
from siamese_diffusion.data.layouts.listing import Listing
from siamese_diffusion.data.layouts.tree import Tree, where_of
from siamese_diffusion.data.prepared import Prepared
from siamese_diffusion.data.sources import MOST_LABELS
from siamese_diffusion.errors import InputError

AXES = ("auto", "axial", "coronal", "sagittal")
_BOTH = ("DICOM", "NIfTI")
USED = {
    "axis": ("NIfTI",),
    "every": _BOTH,
    "lesion_only": _BOTH,
    "channel": ("NIfTI",),
    "keep_names": _BOTH,
    "skip_damaged": _BOTH,
}
"""The options that say what is written, and for what kinds of files."""
CHOICES = tuple(USED)
HOUNSFIELD = -200
"""Values below this are no magnitudes: CT, whose grey needs a window."""
SPREAD = (0.5, 99.5)
"""Percentiles of the values that are black and white where nothing says so."""


class NoWindowError(InputError):
    """Nothing says which grey values are shown; the file is not damaged."""


def range_of(values: NDArray[Any], path: Path) -> tuple[float, float]:
    """The values shown black and white where no window says so, of a sample (N,) of finite ones of file `path`.

    Raises:
        InputError: it is CT, which needs a window; or all values are alike.
    """
    if not values.size or values.min() == values.max():
        raise InputError(f"{path}: is flat: all its values are alike")
    if values.min() < HOUNSFIELD:
        raise NoWindowError(
            f"{path}: holds values from {values.min():g}, as CT in Hounsfield units does, and no window; --window "
            "LEVEL,WIDTH says what is shown, 40,400 for soft tissue"
        )
    low, high = (float(value) for value in np.percentile(values, SPREAD))
    return (low, high) if low < high else (float(values.min()), float(values.max()))


@dataclass
class Options:
    """How clinical files are prepared; what is left out is counted in `left`."""

    axis: str = "auto"
    """Along which volumes are cut: one of `AXES`."""
    every: int = 10
    """Of the slices without lesion one in so many is kept."""
    lesion_only: bool = False
    channel: int | None = None
    """Of nnU-Net's channels."""
    keep_names: bool = False
    skip_damaged: bool = False
    left: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def require_good(self) -> None:
        """Raise `InputError` for an option out of range."""
        if self.axis not in AXES:
            raise InputError(f"--axis {self.axis}: expected one of {', '.join(AXES)}")
        if self.every < 1:
            raise InputError(f"--every {self.every}: must be at least 1, which keeps every slice")
        if self.channel is not None and self.channel < 0:
            raise InputError(f"--channel {self.channel}: must be at least 0")

    def require_used(self, kind: str) -> None:
        """Raise `InputError` for an option that does nothing for files of this kind: "plain", "DICOM" or "NIfTI"."""
        usual = Options()
        for name in CHOICES:
            if getattr(self, name) != getattr(usual, name) and kind not in USED[name]:
                held = "plain images" if kind == "plain" else f"{kind} files"
                raise InputError(f"--{name.replace('_', '-')}: is for {' and '.join(USED[name])}, not for {held}")

    def wants(self, index: int, lesion: bool) -> bool:
        """Whether a slice of a volume is kept."""
        return lesion or (not self.lesion_only and index % self.every == 0)

    @contextmanager
    def damaged(self, what: str) -> Iterator[None]:
        """Leave a damaged file out, where that is asked for; else the error tells of that option."""
        try:
            yield
        except InputError as error:
            if isinstance(error, NoWindowError):
                raise
            if not self.skip_damaged:
                raise InputError(f"{error}; --skip-damaged leaves such files out") from None
            with self._lock:
                self.left[what] += 1


def require_library(name: str) -> None:
    """The library that reads clinical files is there, and keeps quiet: its warnings may quote a patient's data.

    Raises:
        InputError: it is not installed.
    """
    import logging
    import warnings
    from importlib.util import find_spec

    if find_spec(name) is None:
        raise InputError(f"{name} is not installed, which reads these files: pip install 'siamese-diffusion[clinical]'")
    warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")
    for logger in (name, f"{name}.global"):
        logging.getLogger(logger).setLevel(logging.CRITICAL + 1)


def pseudonyms(identities: Iterable[str]) -> dict[str, str]:
    """p001, p002 ... for identities; in an order that tells nothing of them, and the same for the same set."""
    known = sorted(set(identities), key=lambda text: hashlib.sha256(text.encode()).digest())
    width = max(3, len(str(len(known))))
    return {identity: f"p{number:0{width}d}" for number, identity in enumerate(known, start=1)}


def number_all(patients: Sequence[str]) -> list[str]:
    """p001-s0001 ... for images in their order, each with whose it is."""
    alias = pseudonyms(patients)
    width = max(4, len(str(max(Counter(patients).values(), default=0))))
    seen: Counter[str] = Counter()
    names = []
    for patient in patients:
        seen[patient] += 1
        names.append(f"{alias[patient]}-s{seen[patient]:0{width}d}")
    return names


def pair_by_name(folder: Path, files: Sequence[Path], kind: str) -> tuple[Listing, dict[Path, Path]]:
    """Images and masks as the layouts of plain files pair them, by the names of files and folders.

    Returns:
        The listing, of paths that stand for the files; and the files by them: `CASE.nii.gz` goes by `CASE.file`.

    Raises:
        InputError: no mask is called like an image, or nothing says which of several is meant.
    """
    faint = not any(where_of(path.relative_to(folder).parts[:-1], False).role == "image" for path in files)
    known = {path.with_name(f"{stem(path)}.file"): path for path in files}
    if len(known) < len(files):
        twice = Counter(path.with_name(stem(path)) for path in files).most_common(1)[0][0]
        raise InputError(f"{twice}: is there with two extensions; leave one of them")
    found = [replace(where_of(path.relative_to(folder).parts[:-1], faint), path=path) for path in known]
    listing = folders.read_tree(Tree(found))
    if listing is None or not listing.images.keys() & listing.masks.keys():
        raise InputError(
            f"{folder}: holds {kind} files, and no mask is called like an image; expected folders of images and masks "
            f"(imagesTr, labelsTr), or CASE and CASE_mask"
            + (", or segmentation objects or structure sets" if kind == "DICOM" else "")
        )
    return listing, known


def partner_less(listing: Listing, known: Mapping[Path, Path]) -> None:
    """Raise `InputError` for a mask without an image; images without masks are the caller's affair."""
    for name in sorted(listing.masks.keys() - listing.images.keys()):
        raise InputError(f"{known[listing.masks[name].path]}: has no image")
    for path in listing.doubled:
        raise InputError(f"{known[path]}: has the base name of another file")


def chosen_labels(settings: DataConfig, classes: Mapping[int, str]) -> set[int] | None:
    """The labels of `data.foreground`; None for any.

    Raises:
        InputError: one is not among `classes`.
    """
    if settings.foreground == "any":
        return None
    names = {name: label for label, name in classes.items()}
    chosen = parse_values(settings.foreground, False, names, "data.foreground")
    for entry, label in zip(settings.foreground, chosen, strict=True):
        if label not in classes:
            held = ", ".join(f"{label} ({name})" for label, name in sorted(classes.items()))
            raise InputError(f"data.foreground = {entry}: the masks hold {held}; choose among them")
    return set(chosen)


def lesion_of(labels: Pixels, chosen: set[int] | None) -> Mask:
    """Boolean (H, W) of a label map."""
    marked = (labels != 0) & (labels != VOID)
    return np.asarray(marked if chosen is None else marked & np.isin(labels, sorted(chosen)))


def prepared_of(classes: Mapping[int, str], chosen: set[int] | None) -> Prepared:
    """What masks of these labels are written as."""
    named = {label: name for label, name in classes.items() if chosen is None or label in chosen}
    if len(named) > 1 and max(named) <= MOST_LABELS:
        return Prepared(True, named)
    (only,) = named.values() if len(named) == 1 else ("",)
    return Prepared(False, {1: only} if only else {})
