"""What `check` finds in the files of one pair, each decoded once."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from siamese_diffusion.data.coding import VOID
from siamese_diffusion.data.decoding import Decoding, MaskSource
from siamese_diffusion.data.fingerprint import Fingerprint, fingerprint
from siamese_diffusion.data.heaps import SENSITIVE, sensitivity
from siamese_diffusion.data.images import Header, Mask, Pixels, deep_values, open_with_header, square
from siamese_diffusion.data.lost import NO_LOSSES, Losses, losses
from siamese_diffusion.data.profiles import describe
from siamese_diffusion.data.stored import Stored
from siamese_diffusion.data.tars import read_bytes
from siamese_diffusion.errors import InputError, printable

FRAME = 0.9
"""Share of the image's rim that a mask covers where it may be inverted."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with a file."""

    kind: str
    file: str
    detail: str
    fatal: bool = False
    """It stops training; else it is a warning."""
    other: str = ""
    """A second file that it is about."""


@dataclass(frozen=True)
class Facts:
    """What one pair's files say."""

    image: Path
    mask: MaskSource
    size: tuple[int, int] | None = None
    kind: str = ""
    digest: str = ""
    flat: bool = False
    print: Fingerprint | None = field(default=None, compare=False)
    coverage: float | None = None
    """Lesion's share of the image; None where the mask cannot be read."""
    void: float = 0.0
    shape: str = ""
    """A digest of the mask; empty for an empty one."""
    framed: bool = False
    """It covers more than half of the image, and its rim: it may be inverted."""
    centre: tuple[float, float] | None = None
    """The lesion's centroid as shares of width and height; None where there is no lesion."""
    losses: Losses = NO_LOSSES
    held: frozenset[int] = frozenset()
    """Background, 0, lesion, 1, or the classes that are in the mask at the resolution of training."""
    laid: str | None = None
    """What was done to lay the mask on its image."""
    problems: tuple[Problem, ...] = ()


def look(decoding: Decoding, image: Path, mask: MaskSource, codable: bool) -> Facts:
    """Read a pair; `codable`: the values of the folder's masks mean something, else the mask is opened only."""
    problems: list[Problem] = []
    header, flat, digest, mark = None, False, "", None
    try:
        header, picture = open_with_header(image, decoding.settings.max_pixels)
        picture = _shallow(decoding, image, header) if picture is None else picture
        flat = not header.deep and _is_flat(picture)
        mark = None if flat else fingerprint(picture)
        problems += _colours(image, header)
        digest = hashlib.sha256(read_bytes(image)).hexdigest()
    except InputError as error:
        problems.append(Problem("unreadable", *_parted(error, image), fatal=True))
    facts = Facts(image, mask, header.size if header else None, _kind(image, header), digest, flat, mark)
    stored = None
    try:
        stored = decoding.stored(mask)
    except InputError as error:
        problems.append(Problem("unreadable", *_parted(error, mask.path), fatal=True))
    if stored is None or not codable:
        return _with(facts, problems=tuple(problems))
    laid = _lay(decoding, facts, stored, header, problems)
    if laid is not None:
        facts = _measured(decoding, facts, laid[0], stored, problems)
        facts = _with(facts, laid=laid[1])
    if laid is not None and header is not None and header.orientation != 1 and _ambiguous(header, decoding):
        detail = (
            f"EXIF orientation {header.orientation}: its size does not say whether the mask lies on the upright "
            f"image, as it is read, or on the stored pixels (data.orientation=stored)"
        )
        problems.append(Problem("orientation", printable(image), detail))
    return _with(facts, problems=tuple(problems))


def _lay(
    decoding: Decoding, facts: Facts, stored: list[Stored], header: Header | None, problems: list[Problem]
) -> tuple[Pixels, str | None] | None:
    """The label map on its image; None where it cannot be had, which is then among the problems."""
    try:
        labels = decoding.label_map(facts.mask, stored)
    except InputError as error:
        kind = "not binary" if decoding.coding.kind == "binary" else "mask values"
        problems.append(Problem(kind, *_parted(error, facts.mask.path), fatal=True))
        return None
    if header is None:
        return labels, None
    try:
        return decoding.lay(labels, facts.mask, facts.image, header)
    except InputError as error:
        problems.append(Problem("size mismatch", *_parted(error, facts.mask.path), fatal=True))
        return None


def _measured(decoding: Decoding, facts: Facts, labels: Pixels, stored: list[Stored], problems: list[Problem]) -> Facts:
    mask = decoding.lesion(labels)
    settings = decoding.settings
    small = square(mask, settings.resolution, settings.fit)
    classes = square(decoding.target(labels), settings.resolution, settings.fit) if settings.classes else small
    path = printable(facts.mask.path)
    share = float(np.count_nonzero(mask) / mask.size)
    if not mask.any():
        problems.append(Problem("empty mask", path, "marks nothing"))
    elif mask.all():
        problems.append(Problem("full mask", path, "marks the whole image"))
    if stored and decoding.coding.kind == "binary" and len(stored[0].counts) > 2:
        depends = sensitivity(stored[0].counts)
        if depends > SENSITIVE:
            detail = f"{100 * depends:.0f} % of its area depends on where its grey is cut"
            problems.append(Problem("threshold", path, detail))
    return _with(
        facts,
        coverage=share,
        void=float((labels == VOID).mean()) if VOID in decoding.coding.table.values() else 0.0,
        shape=hashlib.blake2b(np.packbits(mask).tobytes() + repr(mask.shape).encode()).hexdigest() if share else "",
        framed=0.5 < share < 1 and _rim_share(mask) > FRAME,
        centre=_centre(mask) if share else None,
        losses=losses(mask, small, settings.fit),
        held=frozenset(np.unique(classes).tolist()),
    )


def _centre(mask: Mask) -> tuple[float, float]:
    left, top, across, down = cv2.boundingRect(mask.view(np.uint8))
    inner = np.ascontiguousarray(mask[top : top + down, left : left + across]).view(np.uint8)
    moments = cv2.moments(inner, binaryImage=True)
    height, width = mask.shape
    x, y = ((moments[each] / moments["m00"] + 0.5) for each in ("m10", "m01"))
    return (left + x) / width, (top + y) / height


def _rim_share(mask: Mask) -> float:
    return float(np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean())


def _shallow(decoding: Decoding, path: Path, header: Header) -> Image.Image:
    """An image of more than 8 bits as it is read; one that is flat then is an error."""
    values = deep_values(path, header, decoding.settings.max_pixels)
    assert values is not None
    return Image.fromarray(decoding.scaled(path, values, header))


def _is_flat(image: Image.Image) -> bool:
    """Whether all pixels are alike."""
    few = image.resize((min(16, image.width), min(16, image.height)), Image.Resampling.NEAREST)
    return _alike(few) and _alike(image)


def _alike(image: Image.Image) -> bool:
    extremes = image.getextrema()
    bands = [extremes] if isinstance(extremes[0], int | float) else extremes
    return all(low == high for low, high in bands)


def _colours(path: Path, header: Header) -> list[Problem]:
    found = []
    profile = describe(header.profile) if header.profile and header.mode != "LAB" else None
    if header.mode == "CMYK" and not header.converted:
        found.append(Problem("colours", str(path), "CMYK is turned into RGB without a profile; save it as RGB"))
    elif profile is not None and not profile.is_srgb and not header.converted:
        found.append(
            Problem("colours", str(path), f"its colour profile ({profile.name}) is not applied; save it as sRGB")
        )
    if header.pages > 1:
        found.append(Problem("pages", str(path), f"the first of its {header.pages} pages is read"))
    return found


def _ambiguous(header: Header, decoding: Decoding) -> bool:
    return decoding.settings.orientation == "auto" and header.size == header.stored


def _kind(path: Path, header: Header | None) -> str:
    return f"{path.suffix.lower().lstrip('.')} {header.mode}" if header else ""


def _parted(error: InputError, path: Path) -> tuple[str, str]:
    """The file that an error names, and what it says of it."""
    name, colon, detail = str(error).partition(": ")
    return (name, detail) if colon else (str(path), str(error))


def _with(facts: Facts, **changes: object) -> Facts:
    return Facts(**{**facts.__dict__, **changes})
