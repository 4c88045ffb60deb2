"""NIfTI: volumes and their label volumes as slices.

Design note: slices are shown as a radiologist sees them: the front of the body up (from below and from the side: the
head), its right side on the left. Voxels are not resampled.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from siamese_diffusion.config import DataConfig
from siamese_diffusion.data.clinical.cases import (
    Options,
    chosen_labels,
    lesion_of,
    number_all,
    pair_by_name,
    partner_less,
    prepared_of,
    pseudonyms,
    range_of,
    require_library,
)
from siamese_diffusion.data.clinical.told import clinical_files, stem
from siamese_diffusion.data.images import Pixels, to_8_bit
from siamese_diffusion.data.layouts.nnunet import classes_of
from siamese_diffusion.data.layouts.tree import where_of
from siamese_diffusion.data.layouts.words import says_mask
from siamese_diffusion.data.sources import MOST_LABELS, Drawn, Job, Source
from siamese_diffusion.errors import InputError, refused
from siamese_diffusion.progress import track

if TYPE_CHECKING:
    import nibabel

Level = tuple[float, float]

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""The axis of a volume in RAS+ that slices of a plane are counted along."""


@dataclass(frozen=True)
class _Case:
    """A volume with its labels."""

    name: str
    image: Path
    labels: Path
    plane: str
    slices: int


def source(folder: Path, settings: DataConfig, options: Options, labels: Mapping[str, str]) -> Source:
    """The slices of the volumes of a folder.

    Args:
        folder: `imagesTr` and `labelsTr` as nnU-Net's, or any folders or names that say images and masks.
        settings: `data` of the settings: window, range and foreground.
        options: which slices.
        labels: names of the labels, as `--labels` gives them.

    Raises:
        InputError: a volume cannot be read, has no labels, or does not fit them.
    """
    require_library("nibabel")
    every = [path for path, kind in clinical_files(folder) if kind == "NIfTI"]
    files = _one_channel(every, options)
    listing, known = pair_by_name(folder, list(files), "NIfTI")
    partner_less(listing, known)
    cases: list[_Case] = []
    values: set[int] = set()
    for name in track(sorted(listing.images.keys() & listing.masks.keys()), "looking at volumes"):
        image, mask = (files[known[path]] for path in (listing.images[name], listing.masks[name].path))
        with options.damaged("damaged volumes"):
            case = _look(name, image, mask, options.axis)
            values |= set(np.unique(_labels(mask)).tolist()) - {0}
            cases.append(case)
    options.left["volumes that no pair needs"] = len(every) - 2 * (len(cases) + options.left["damaged volumes"])
    classes = _classes(values, {**classes_of(folder / "dataset.json"), **_numbered(labels)})
    chosen = chosen_labels(settings, classes)
    patients = [listing.groups.get(case.name, case.name) for case in cases for _ in range(case.slices)]
    raw = [f"{case.name}-s{index + 1:04d}" for case in cases for index in range(case.slices)]
    called = raw if options.keep_names else number_all(patients)
    alias = pseudonyms(patients)
    jobs, start = [], 0
    for case in cases:
        own = tuple(called[start : start + case.slices])
        jobs.append(Job(own, partial(_read, case, own, settings, options, chosen)))
        start += case.slices
    splits: dict[str, list[str]] = {}
    of_case = dict(zip([case.name for case in cases], jobs, strict=True))
    for split, held in listing.splits.items():
        splits[split] = [name for case in held if case in of_case for name in of_case[case].names]
    groups = {name: alias[patient] for name, patient in zip(called, patients, strict=True)}
    used = [path for case in cases for path in (case.image, case.labels)]
    return Source(jobs, used, prepared_of(classes, chosen), groups, splits, keys=dict(zip(called, raw, strict=True)))


def unmarked(
    folder: Path, files: Sequence[Path], settings: DataConfig, options: Options
) -> tuple[list[str], Iterator[Pixels]]:
    """All slices of the volumes that are no labels, by their names or values: whose each is, and what they show."""
    require_library("nibabel")
    images = [path for path in files if not _named_as_labels(path.relative_to(folder))]
    volumes = []
    for path in track(images, "looking at volumes"):
        volume = _open(path)
        if len(np.unique(volume.voxels())) > FEW:
            volumes.append((path, _plane(volume, "auto"), volume))
    options.left["volumes of labels"] = len(files) - len(volumes)
    whose = [
        path.relative_to(folder).as_posix() for path, plane, one in volumes for _ in range(one.shape[PLANES[plane]])
    ]

    def read() -> Iterator[Pixels]:
        for path, plane, volume in volumes:
            values = volume.voxels()
            low, high = _levels(path, values, settings)
            for index in range(volume.shape[PLANES[plane]]):
                yield to_8_bit(_shown(values, plane, index).astype(np.float32), low, high)

    return whose, read()


FEW = 32
"""Values that a volume of labels holds at most, where its name does not say what it is."""


def _named_as_labels(path: Path) -> bool:
    return where_of(path.parts[:-1], False).role == "mask" or says_mask(stem(path))


def _one_channel(files: list[Path], options: Options) -> dict[Path, Path]:
    """Files by what they are called without nnU-Net's number of a channel, of one channel."""
    images = [path for path in files if path.parent.name.lower().startswith("images")]
    labels = {stem(path) for path in files if path not in images}
    known = any(_channel(path) is not None and stem(path)[:-5] in labels for path in images)
    numbered = {path: int(number) for path in images if known and (number := _channel(path)) is not None}
    channels = sorted(set(numbered.values()))
    shown = ", ".join(map(str, channels))
    if len(channels) > 1 and options.channel is None:
        raise InputError(f"{images[0].parent}: cases have channels {shown}; --channel {channels[0]} takes one of them")
    if options.channel is not None and options.channel not in channels:
        held = f"have channels {shown}" if channels else "are not numbered, as CASE_0000 is"
        raise InputError(f"--channel {options.channel}: the images {held}")
    wanted = channels[0] if options.channel is None and channels else options.channel
    found = {path: path for path in files if path not in numbered}
    chosen = [path for path, number in numbered.items() if number == wanted]
    return found | {path.with_name(f"{stem(path)[:-5]}.nii"): path for path in chosen}


def _channel(path: Path) -> str | None:
    end = stem(path)[-5:]
    return end[1:] if len(end) == 5 and end[0] == "_" and end[1:].isdigit() else None


def _numbered(labels: Mapping[str, str]) -> dict[int, str]:
    for value in labels:
        if not value.isdigit() or not 0 < int(value) < 255:
            raise InputError(f"--labels {value}={labels[value]}: expected a number of the label volumes, 1 to 254")
    return {int(value): name for value, name in labels.items()}


def _look(name: str, image: Path, labels: Path, axis: str) -> _Case:
    """What two headers say."""
    one, two = _open(image), _open(labels)
    if one.shape != two.shape:
        shapes = " and ".join(" x ".join(map(str, volume.shape)) for volume in (two, one))
        raise InputError(f"{labels}: has another shape than its image {image.name}: {shapes} voxels")
    if not np.allclose(one.affine, two.affine, rtol=1e-3, atol=1e-2):
        raise InputError(f"{labels}: lies elsewhere than its image {image.name} (their affines differ); resample one")
    plane = _plane(one, axis)
    return _Case(name, image, labels, plane, one.shape[PLANES[plane]])


def _plane(volume: "_Volume", axis: str) -> str:
    """Of the slices: `axis`, or, where that is auto, across the coarsest axis if one is plainly so."""
    if axis != "auto":
        return axis
    spacing = np.sqrt((volume.affine[:, :3] ** 2).sum(0))
    coarsest = int(np.argmax(spacing))
    clear = spacing[coarsest] > 1.05 * np.sort(spacing)[-2]
    return next(plane for plane, index in PLANES.items() if index == coarsest) if clear else "axial"


class _Volume(NamedTuple):
    """A volume whose voxels are not read yet."""

    path: Path
    opened: "nibabel.Nifti1Image"
    shape: tuple[int, ...]
    """In RAS+, three numbers."""
    affine: NDArray[np.float64]  # (3, 4)
    """From such voxels to millimetres."""

    def voxels(self) -> NDArray[Any]:
        """The values in RAS+, in the type they are stored in, or float32 where they are scaled."""
        import nibabel

        with refused(f"{self.path}: the volume is damaged"):
            proxy: Any = self.opened.dataobj
            scaled = (proxy.slope, proxy.inter) != (1.0, 0.0)
            values = np.asarray(proxy, np.float32) if scaled else np.asanyarray(proxy)
            turned: NDArray[Any] = nibabel.apply_orientation(
                values.reshape(_three(values.shape)), nibabel.io_orientation(self.opened.affine)
            )
            return turned


def _open(path: Path) -> _Volume:
    """Look at a volume.

    Raises:
        InputError: it is damaged, or no single volume of numbers.
    """
    import nibabel

    with refused(f"{path}: the volume is damaged"):
        found: Any = nibabel.load(path)
    if not isinstance(found, nibabel.Nifti1Image):
        raise InputError(f"{path}: is {type(found).__name__}, not a NIfTI volume; convert it")
    kind = found.get_data_dtype()
    if kind.fields is not None:
        raise InputError(f"{path}: holds colours; save them as PNG, or one channel as a volume")
    if kind.kind not in "biuf":
        raise InputError(f"{path}: holds values of kind {kind}, not plain numbers")
    shape = _three(found.shape)
    if len(shape) != 3 or 0 in shape:
        sizes = " x ".join(map(str, found.shape))
        what = "a series in time or several volumes; save each as a file of its own" if len(shape) > 3 else "no volume"
        raise InputError(f"{path}: holds {sizes} values, {what}")
    with refused(f"{path}: its affine is damaged"):
        turn = nibabel.io_orientation(found.affine)
        upright = found.affine @ nibabel.orientations.inv_ornt_aff(turn, shape)
        axes = [int(axis) for axis in turn[:, 0]]
        return _Volume(path, found, tuple(shape[axes.index(axis)] for axis in range(3)), upright[:3])


def _three(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without further axes of one, and with a third one."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return (*shape, 1) if len(shape) == 2 else shape


def _classes(values: set[int], named: Mapping[int, str]) -> dict[int, str]:
    """The labels of all volumes, with their names; a single one of any value is label 1."""
    if len(values) == 1:
        (value,) = values
        return {value if value <= MOST_LABELS else 1: named.get(value, named.get(1, ""))}
    if max(values, default=0) > MOST_LABELS:
        raise InputError(
            f"the label volumes hold values up to {max(values)} beside others; labels are 1 to {MOST_LABELS}"
        )
    return {value: named.get(value, str(value)) for value in sorted(values)}


def _labels(path: Path) -> NDArray[np.uint8]:
    """A label volume of whole numbers from 0 to 255."""
    values = _open(path).voxels()
    rounded = np.round(np.nan_to_num(values)) if values.dtype.kind == "f" else values
    if (rounded != values).any() or rounded.min() < 0 or rounded.max() > 255:
        raise InputError(
            f"{path}: holds values from {values.min():g} to {values.max():g}; labels are whole numbers from 0 to "
            f"{MOST_LABELS}"
        )
    return np.asarray(rounded, np.uint8)


def _read(
    case: _Case, names: tuple[str, ...], settings: DataConfig, options: Options, chosen: set[int] | None
) -> Iterator[Drawn]:
    """The slices of a volume that are kept."""
    with options.damaged("damaged volumes"):
        labels = _labels(case.labels)
        labels[labels > MOST_LABELS] = 1
        values = _open(case.image).voxels()
        low, high = _levels(case.image, values, settings)
        for index, name in enumerate(names):
            drawn = _shown(labels, case.plane, index)
            lesion = lesion_of(drawn, chosen)
            if options.wants(index, bool(lesion.any())):
                image = to_8_bit(_shown(values, case.plane, index).astype(np.float32), low, high)
                yield Drawn(name, image, np.where(lesion, drawn, np.uint8(0)))


def _levels(path: Path, values: NDArray[Any], settings: DataConfig) -> Level:
    """The values of a volume that are black and white."""
    if settings.window is not None:
        level, width = settings.window
        return level - width / 2, level + width / 2
    if settings.image_range is not None:
        return settings.image_range
    if values.dtype == np.uint8:
        return 0.0, 255.0
    step = max(1, values.size // 2_000_000)
    seen = values.reshape(-1)[::step]
    seen = seen[np.isfinite(seen)]
    return range_of(seen, path)


def _shown(volume: NDArray[Any], plane: str, index: int) -> NDArray[Any]:
    """A slice (H, W) of a volume in RAS+."""
    cut = np.take(volume, index, axis=PLANES[plane])
    return np.ascontiguousarray(cut[::-1, ::-1].T)
