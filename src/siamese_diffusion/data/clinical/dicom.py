"""DICOM: images with segmentation objects or structure sets, or with a folder of masks that are called like them."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from siamese_diffusion.config import DataConfig
from siamese_diffusion.data.alignment import lay
from siamese_diffusion.data.clinical.cases import (
    Options,
    chosen_labels,
    lesion_of,
    number_all,
    pair_by_name,
    partner_less,
    prepared_of,
    pseudonyms,
    require_library,
)
from siamese_diffusion.data.clinical.headers import Headers, Instance, scan
from siamese_diffusion.data.clinical.pixels import Level, frames, levels_of, needs_levels, to_picture
from siamese_diffusion.data.clinical.segments import draw, read_marks
from siamese_diffusion.data.clinical.told import is_dicom, stem
from siamese_diffusion.data.decoding import Decoding, MaskSource, spread
from siamese_diffusion.data.images import Header, Pixels
from siamese_diffusion.data.layouts.listing import Listing, named_as_image, walk
from siamese_diffusion.data.once import Once
from siamese_diffusion.data.prepared import Prepared
from siamese_diffusion.data.sources import Drawn, Job, Source, kept, name_labels, written
from siamese_diffusion.data.stored import Stored
from siamese_diffusion.errors import InputError

CHUNK = 16
"""Frames of a job."""
SAMPLE = 16
"""Frames that say what is black and white in a series."""

_Read = Callable[["Sequence[_Frame]", Sequence[str]], Iterator[Drawn]]
"""Reads frames that have these names."""


class _Frame(NamedTuple):
    """A frame of an image."""

    image: Instance
    frame: int
    place: int
    """Its number in its series."""

    @property
    def key(self) -> tuple[Path, int]:
        """File and frame."""
        return self.image.path, self.frame


@dataclass(frozen=True)
class _Set:
    """All frames in the order of patients and series, and how they are read."""

    frames: list[_Frame]
    settings: DataConfig
    options: Options
    levels: Mapping[str, Once[Level]]
    """By series."""

    def pictures(self, wanted: Sequence[_Frame]) -> Iterator[tuple[_Frame, Pixels]]:
        """Frames with their images, in their order; a damaged file is left out where that is asked for."""
        for image, held in _by_file(wanted):
            found: list[Pixels] = []
            with self.options.damaged("damaged images"):
                for head, values in frames(image.path, [one.frame for one in held]):
                    levels = self.levels[image.series]() if needs_levels(head, values, self.settings) else None
                    found.append(to_picture(head, values, self.settings, levels))
            yield from zip(held, found, strict=False)  # fewer, where the file is damaged


def source(folder: Path, settings: DataConfig, options: Options, labels: Mapping[str, str]) -> Source:
    """The frames of a folder's images that have masks.

    Args:
        folder: of DICOM files, in any folders.
        settings: `data` of the settings: how images and masks are read.
        options: what is kept.
        labels: names of the values of mask files, as `--labels` gives them.

    Raises:
        InputError: no mask belongs to an image, or a file cannot be read.
    """
    require_library("pydicom")
    headers = scan(folder, options)
    options.left.update(headers.left)
    if headers.segmentations or (headers.structures and not _has_mask_files(folder, headers)):
        if labels:
            what = "segmentation objects name their segments" if headers.segmentations else "structures have names"
            raise InputError(f"--labels: {what}; leave it out")
        return _segmented(folder, headers, settings, options)
    options.left["structure sets beside masks"] += len(headers.structures)
    return _beside(folder, headers, settings, options, labels)


def unmarked(
    folder: Path, files: Sequence[Path], settings: DataConfig, options: Options
) -> tuple[list[str], Iterator[Pixels]]:
    """All frames of a folder's images: whose each is, and what they show."""
    require_library("pydicom")
    headers = scan(folder, options)
    options.left.update(headers.left)
    options.left["segmentations and structure sets"] += len(headers.segmentations) + len(headers.structures)
    ordered = _ordered(headers.images, settings, options)
    whose = [one.image.patient or _folder_of(one.image.path, folder, None) for one in ordered.frames]
    return whose, (picture for _, picture in ordered.pictures(ordered.frames))


def _has_mask_files(folder: Path, headers: Headers) -> bool:
    try:
        _by_names(folder, headers)
    except InputError:
        return False
    return True


def _by_names(folder: Path, headers: Headers) -> tuple[Listing, dict[Path, Path]]:
    """Images and files of masks by their names; errors as in `pair_by_name`."""
    plain = [top / name for top, names in walk(folder) for name in names if named_as_image(top / name)]
    return pair_by_name(folder, [*(image.path for image in headers.images), *plain], "DICOM")


def _segmented(folder: Path, headers: Headers, settings: DataConfig, options: Options) -> Source:
    wanted = () if settings.foreground == "any" else tuple(map(str, settings.foreground))
    marks = read_marks(headers.segmentations, headers.structures, headers.images, options, wanted)
    images = [image for image in headers.images if image.series in marks.series]
    options.left["images of series without segmentation"] += len(headers.images) - len(images)
    if not images:
        raise InputError(f"{folder}: no segmentation object or structure set marks an image of the folder")
    chosen = chosen_labels(settings, marks.classes)
    ordered = _ordered(images, settings, options)

    def read(part: Sequence[_Frame], names: Sequence[str]) -> Iterator[Drawn]:
        labels = draw([(marks.of.get((one.image.uid, one.frame), []), one.image.size) for one in part], chosen)
        of = {
            one.key: (name, drawn, lesion_of(drawn, chosen))
            for one, name, drawn in zip(part, names, labels, strict=True)
        }
        wanted = [one for one in part if options.wants(one.place, bool(of[one.key][2].any()))]
        for one, picture in ordered.pictures(wanted):
            name, drawn, lesion = of[one.key]
            yield Drawn(name, picture, np.where(lesion, drawn, np.uint8(0)))

    used = [*(image.path for image in images), *headers.segmentations, *headers.structures]
    return _source(folder, ordered, read, prepared_of(marks.classes, chosen), used)


def _beside(
    folder: Path, headers: Headers, settings: DataConfig, options: Options, labels: Mapping[str, str]
) -> Source:
    """Masks of the images' names: plain pictures, or DICOM images in a folder that says masks."""
    by_path = {image.path: image for image in headers.images}
    listing, known = _by_names(folder, headers)
    partner_less(listing, known)
    names = [
        name for name in sorted(listing.images) if name in listing.masks and known[listing.images[name]] in by_path
    ]
    options.left["images without masks"] += len(listing.images) - len(names)
    if not names:
        raise InputError(f"{folder}: holds DICOM files, and no mask is called like one of its images")
    images = [by_path[known[listing.images[name]]] for name in names]
    masks = {image.path: _with_files(listing.masks[name], known) for name, image in zip(names, images, strict=True)}
    classes = dict(listing.classes)
    called_so = {name: label for label, name in classes.items()}
    decoding = _MaskDecoding(settings, masks=list(masks.values()), names=called_so)
    name_labels(decoding, classes, labels)
    ordered = _ordered(images, settings, options)

    def read(part: Sequence[_Frame], called: Sequence[str]) -> Iterator[Drawn]:
        of = {one.key: name for one, name in zip(part, called, strict=True)}
        for one, picture in ordered.pictures(part):
            drawn = _labels(decoding, masks[one.image.path], one)
            yield Drawn(of[one.key], picture, kept(drawn, decoding.lesion(drawn)))

    used = [path for image in images for path in (image.path, *masks[image.path].files)]
    by_name = {name: image.path for name, image in zip(names, images, strict=True)}
    return _source(folder, ordered, read, written(decoding, classes), used, replace(listing, images=by_name))


def _with_files(mask: MaskSource, known: Mapping[Path, Path]) -> MaskSource:
    return MaskSource(tuple(known[path] for path in mask.files), mask.classes)


class _MaskDecoding(Decoding):
    """Masks of which some are DICOM."""

    def read_mask(self, path: Path) -> Stored:
        """The first frame of a DICOM file, or a plain picture."""
        if not is_dicom(path):
            return super().read_mask(path)
        return stored_frame(path, 0)


def stored_frame(path: Path, index: int) -> Stored:
    """What a frame of a DICOM mask holds, not rescaled; colours as they are."""
    ((_, values),) = frames(path, [index])
    if values.ndim == 3:
        values = values.astype(np.int32)
        same = (values == values[..., :1]).all()
        packed = (values[..., 0] << 16) + (values[..., 1] << 8) + values[..., 2]
        return Stored(path, "grey" if same else "colour", values[..., 0].astype(np.uint8) if same else packed, "DICOM")
    narrow = values.min(initial=0) >= 0 and values.max(initial=0) <= 255
    return Stored(path, "grey", values.astype(np.uint8 if narrow else np.int32), "DICOM")


def _labels(decoding: Decoding, mask: MaskSource, one: _Frame) -> Pixels:
    """The label map of a frame, at its size.

    Raises:
        InputError: the mask does not fit the image.
    """
    if one.image.frames == 1:
        stored = decoding.stored(mask)
    elif len(mask.files) == 1 and is_dicom(mask.path):
        stored = [stored_frame(mask.path, one.frame)]
    else:
        raise InputError(f"{mask.path}: is one mask, and its image {one.image.path} has {one.image.frames} frames")
    header = Header(one.image.size, 1, "L", "DICOM", False, 1, None)
    labels = decoding.label_map(mask, stored)
    return lay(labels, header, "upright", lambda: False, mask.path, one.image.path)[0]


def _ordered(images: Sequence[Instance], settings: DataConfig, options: Options) -> _Set:
    """Frames in the order of patients and of their series."""
    series: dict[str, list[Instance]] = defaultdict(list)
    for image in images:
        series[image.series].append(image)
    for held in series.values():
        held.sort(key=lambda image: (image.number, image.along, image.path))
    keys = sorted(series, key=lambda key: (series[key][0].patient, series[key][0].study, key))
    found = [
        _Frame(image, index, place)
        for key in keys
        for place, (image, index) in enumerate((image, index) for image in series[key] for index in range(image.frames))
    ]
    levels = {key: Once(partial(_find_levels, held)) for key, held in series.items()}
    return _Set(found, settings, options, levels)


def _find_levels(images: Sequence[Instance]) -> Level:
    sample = spread([(image, index) for image in images for index in range(image.frames)], SAMPLE)
    read = [next(frames(image.path, [index])) for image, index in sample]
    return levels_of(read, images[0].path)


def _by_file(wanted: Sequence[_Frame]) -> Iterator[tuple[Instance, list[_Frame]]]:
    """The frames of each file, in their order; those of one file stand together."""
    held: dict[Path, tuple[Instance, list[_Frame]]] = {}
    for one in wanted:
        held.setdefault(one.image.path, (one.image, []))[1].append(one)
    yield from held.values()


def _source(
    folder: Path, ordered: _Set, read: _Read, prepared: Prepared, used: list[Path], listing: Listing | None = None
) -> Source:
    """All jobs, with the names of their frames; `listing`: of what plain names say besides."""
    of_path = {path: name for name, path in listing.images.items()} if listing is not None else {}
    said = listing.groups if listing is not None else {}
    raw, whose = [], []
    for one in ordered.frames:
        path = one.image.path
        base = of_path.get(path) or "-".join((*path.parent.relative_to(folder).parts, stem(path)))
        raw.append(base + (f"-f{one.frame + 1:04d}" if one.image.frames > 1 else ""))
        whose.append(one.image.patient or said.get(of_path.get(path, ""), "") or _folder_of(path, folder, listing))
    called = raw if ordered.options.keep_names else number_all([patient or "?" for patient in whose])
    alias = pseudonyms(patient for patient in whose if patient)
    jobs = [
        Job(names, partial(read, ordered.frames[start : start + CHUNK], names))
        for start in range(0, len(called), CHUNK)
        if (names := tuple(called[start : start + CHUNK]))
    ]
    splits: dict[str, list[str]] = {}
    for split, held in (listing.splits if listing is not None else {}).items():
        of_split = set(held)
        both = zip(called, ordered.frames, strict=True)
        splits[split] = [name for name, one in both if of_path.get(one.image.path) in of_split]
    groups = {name: alias[patient] for name, patient in zip(called, whose, strict=True) if patient}
    return Source(jobs, used, prepared, groups, splits, keys=dict(zip(called, raw, strict=True)))


def _folder_of(path: Path, folder: Path, listing: Listing | None) -> str:
    """Whose an image is that bears no patient's ID: its folder's; nobody's where all lie in one folder of images."""
    where = path.parent.relative_to(folder).as_posix()
    return f"folder {where}" if listing is None else ""
