"""Copy-paste: lesions cut from training pairs, varied, and blended into other training images.

The classical augmentation that synthetic pairs have to beat (Ghiasi et al., arXiv:2012.07177; on polyps,
Siamese-Diffusion's own comparison). Design note: a pasted lesion keeps its surroundings. A band of its own mucosa or
skin comes with it and is blended into the target, so that the seam lies outside the lesion and the mask stays exact.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, binary_dilation, distance_transform_edt
from scipy.ndimage import label as connected

from siamese_diffusion import progress
from siamese_diffusion.claim import Claim
from siamese_diffusion.data.arrays import Images, Masks, load_pairs
from siamese_diffusion.data.classes import AnyMask
from siamese_diffusion.data.hashing import note_files
from siamese_diffusion.data.images import Mask, Pixels
from siamese_diffusion.data.masks import LEAST, MASK_RECIPES, Recipe, warp
from siamese_diffusion.data.pairs import Pair, prompt_of_mask
from siamese_diffusion.data.placing import BAND, field_of_view, free_places
from siamese_diffusion.data.prepared import write_classes
from siamese_diffusion.data.writer import PairWriter, written_earlier
from siamese_diffusion.errors import InputError

Blend = Literal["poisson", "feather"]
Colours = NDArray[np.float64]

TRIES = 60
LARGEST = 0.25
"""Share of its image that a lesion may cover and still be cut out."""
RELIT = 0.5
"""How much brighter or darker the target may be than a lesion's own surroundings, as a natural logarithm."""
LEAST_LIGHT = 16.0
"""Added before logarithms are taken, so that noise in the dark has no weight."""


class _Lesion(NamedTuple):
    """A lesion cut out and varied, in a frame of the target's size."""

    image: Colours  # (R, R, 3)
    mask: AnyMask  # (R, R)
    region: Mask
    """The lesion and its band: what is blended in."""
    inside: float
    """Share of `region` that lies in the source's field of view."""


class _Set(NamedTuple):
    """The training pairs, squared."""

    images: Images
    masks: Masks
    fields: list[Mask]
    """Where each image shows tissue."""


class _Paste(NamedTuple):
    """Where a lesion comes from and what was done to it."""

    source: int
    transform: dict[str, Any]


def copy_paste(
    pairs: Sequence[Pair],
    out: Path,
    resolution: int,
    label: str,
    recipe: str = "flip-scale-shift",
    blend: Blend = "poisson",
    seed: int = 0,
    copy: int = 0,
    resume: bool = False,
) -> dict[str, Any]:
    """Paste a lesion of another pair into every image, and write the results as a folder of pairs.

    A pair depends on `seed`, `copy`, the name of its target and the set of `pairs` only. A lesion is taken from where
    it lies whole inside its image; it is pasted in the field of view, beside the lesion that is there. Where it does
    not fit, another is drawn, and in time a smaller one. Of several classes one that the source holds is drawn, and its
    lesions are pasted with all that they touch.

    Args:
        pairs: training pairs, both the sources and the targets.
        out: folder of pairs to write; `pairs.jsonl` names `source`, `target` and the transform of each.
        resolution: side of the squared images in pixels.
        label: what the masks mark, for the prompt; of several classes their names are in it.
        recipe: of `data.masks`: how a lesion is flipped, scaled and rotated. Its place is always drawn.
        blend: "poisson" (Perez et al., SIGGRAPH 2003: the lesion keeps its gradients and takes on the target's colours)
            or "feather" (its colours, faded over the band).
        seed: of all draws.
        copy: number of this copy of the set; each gives other pastes.
        resume: go on with an interrupted folder; it ends up the same as if it had not been interrupted.

    Returns:
        The folder, how many pairs it holds, and how many of them this call made.

    Raises:
        InputError: fewer than two pairs, no lesion that can be cut out, an unknown recipe, or an `out` in use.
    """
    if recipe not in MASK_RECIPES:
        raise InputError(f"mask recipe {recipe}: unknown; recipes: {', '.join(MASK_RECIPES)}")
    if len(pairs) < 2:
        raise InputError("copy-paste needs at least two pairs")
    images, masks = load_pairs(pairs, resolution)
    known = _Set(images, masks, [field_of_view(image) for image in images])
    sources = [i for i, mask in enumerate(masks) if _can_be_cut(mask)]
    if not sources:
        raise InputError(
            f"{pairs[0].mask.path}: no lesion of this set lies whole inside its image and can be pasted elsewhere"
        )
    settings = {"resolution": resolution, "label": label, "recipe": recipe, "blend": blend, "seed": seed, "copy": copy}
    files = note_files([path for pair in pairs for path in pair.files])
    inputs = {"command": "copy-paste", **settings, "pairs": len(pairs), **files}
    Claim(out, None, {}, inputs, resume, earlier=lambda: written_earlier(out)).write()
    names = pairs[0].mask.decoding.class_names
    write_classes(out, names)
    made = 0
    with PairWriter(out, resume=True) as writer:
        origin = {"synthetic": True, "method": "copy-paste", "seed": seed, "copy": copy, "blend": blend}
        for target, pair in enumerate(progress.track(pairs, "pasting", len(pairs))):
            if pair.name in writer.done:
                continue
            random = np.random.default_rng(_seed(seed, copy, pair.name))
            others = [i for i in sources if i != target] or sources
            image, mask, paste = _paste_one(random, target, others, known, MASK_RECIPES[recipe], blend)
            told: dict[str, Any] = {"source": None, "transform": None}
            if paste is not None:
                told = {"source": pairs[paste.source].name, "transform": {"recipe": recipe, **paste.transform}}
            prompt = prompt_of_mask(mask, label, names)
            writer.write(pair.name, image, mask, prompt, {**origin, "target": pair.name, **told})
            made += 1
    return {"out": str(out), "pairs": len(pairs), "made": made}


def poisson(target: Pixels, source: Colours, region: Mask) -> Pixels:
    """Seamless cloning: inside `region` the gradients of `source`, on its border the colours of `target`.

    Solves the Laplace equation for the difference of the two images, with the difference on the border given
    (Perez, Gangnet and Blake, 2003, equation 4 with the guidance field grad source), in logarithms: light multiplies,
    so a lesion pasted into shade keeps its contrast and hue instead of losing a channel below 0.

    Args:
        target: uint8 (H, W, 3).
        source: (H, W, 3) in 0 to 255.
        region: bool (H, W), not on the image's border.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import factorized

    inside = np.argwhere(region)
    number = np.full(region.shape, -1)
    number[region] = np.arange(len(inside))
    gap = np.log(target + LEAST_LIGHT) - np.log(source + LEAST_LIGHT)
    known = np.zeros((len(inside), 3))
    entries = [(np.arange(len(inside)), np.arange(len(inside)), np.full(len(inside), 4.0))]
    for step in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        beside = inside + step
        neighbour = number[beside[:, 0], beside[:, 1]]
        free = neighbour >= 0
        entries.append((np.flatnonzero(free), neighbour[free], np.full(free.sum(), -1.0)))
        known[~free] += gap[beside[~free, 0], beside[~free, 1]]
    rows, columns, values = (np.concatenate(part) for part in zip(*entries, strict=True))
    solve = factorized(coo_matrix((values, (rows, columns))).tocsc())
    blended = target.copy()
    correction = np.stack([solve(known[:, channel]) for channel in range(3)], 1)
    relit = (source[region] + LEAST_LIGHT) * np.exp(correction) - LEAST_LIGHT
    blended[region] = relit.round().clip(0, 255).astype(np.uint8)
    return blended


def feather(target: Pixels, source: Colours, mask: Mask, region: Mask) -> Pixels:
    """`source` where `mask` is, fading into `target` towards the edge of `region`.

    Args:
        target: uint8 (H, W, 3).
        source: (H, W, 3) in 0 to 255.
        mask: bool (H, W), the lesion, within `region`.
        region: bool (H, W).
    """
    outwards, inwards = distance_transform_edt(~mask), distance_transform_edt(region)
    alpha = np.where(region, inwards / np.maximum(outwards + inwards, 1e-9), 0.0)[..., None]
    return (alpha * source + (1 - alpha) * target).round().clip(0, 255).astype(np.uint8)


def _paste_one(
    random: np.random.Generator, target: int, sources: list[int], known: _Set, recipe: Recipe, blend: Blend
) -> tuple[Pixels, Mask, _Paste | None]:
    """The target with a lesion pasted in; as it is where none fits."""
    image, mask = known.images[target], known.masks[target]
    for attempt in range(TRIES):
        source = int(random.choice(sources))
        lesion, drawn = _vary(random, source, known, recipe, 0.85 ** (attempt // 10))
        place = _place(random, lesion, image, known.fields[target], mask, RELIT * 1.2 ** (attempt // 10))
        if place is None:
            continue
        colours = np.roll(lesion.image, place, (0, 1))
        lesion_mask, region = (np.roll(part, place, (0, 1)) for part in (lesion.mask, lesion.region))
        if blend == "poisson":
            pasted = poisson(image, colours, region)
        else:
            pasted = feather(image, colours, lesion_mask != 0, region)
        shift = [place[0] / len(mask), place[1] / len(mask)]
        # the band hides what of the target's own lesion it covers
        return pasted, laid_over(mask, lesion_mask, region), _Paste(source, {**drawn, "shift": shift})
    return image, mask, None


def _vary(
    random: np.random.Generator, source: int, known: _Set, recipe: Recipe, shrink: float
) -> tuple[_Lesion, dict[str, Any]]:
    """Flip, scale and rotate a lesion, and put its centroid in the middle of the frame."""
    image, mask, field = known.images[source], known.masks[source], known.fields[source]
    if mask.dtype != np.bool_:
        mask = _of_one_class(random, mask)
    horizontal, vertical = (bool(recipe.flips and random.random() < 0.5) for _ in range(2))
    scale = random.uniform(*recipe.scale) * shrink
    rotation = random.uniform(-recipe.rotation, recipe.rotation)
    view = np.s_[:: -1 if vertical else 1, :: -1 if horizontal else 1]
    flipped = mask[view]
    cos, sin = np.cos(np.deg2rad(rotation)), np.sin(np.deg2rad(rotation))
    back = np.array(((cos, sin), (-sin, cos))) / scale  # from output to input, in (row, column)
    middle = np.array(mask.shape) // 2
    # whole pixels, so that what is neither scaled nor turned is not blurred either
    offset = np.argwhere(flipped).mean(0).round() - back @ middle

    def move(array: NDArray[Any], mode: str = "constant") -> Colours:
        return np.asarray(affine_transform(array.astype(np.float64), back, offset, order=1, mode=mode))

    moved = warp(flipped, back, offset)
    region = binary_dilation(moved != 0, iterations=max(2, round(BAND * len(mask))))
    tissue = move(field[view]) >= 0.5
    colours = np.stack([move(image[view][..., channel], "nearest") for channel in range(3)], -1)
    inside = float(tissue[region].mean()) if region.any() else 0.0
    drawn = {"flip_horizontal": horizontal, "flip_vertical": vertical, "scale": scale, "rotation": rotation}
    return _Lesion(colours, moved, region, inside), drawn


def _place(
    random: np.random.Generator, lesion: _Lesion, image: Pixels, field: Mask, taken: AnyMask, relit: float
) -> tuple[int, int] | None:
    """A shift (down, right) that puts the lesion whole inside the field of view, in like light, beside what is
    there."""
    if np.count_nonzero(lesion.mask) < LEAST or lesion.inside < 0.98:
        return None
    light, source_light = (np.log(colours.mean(-1) + LEAST_LIGHT) for colours in (image, lesion.image))
    mask = lesion.mask != 0
    band = lesion.region & ~mask
    for down, right in free_places(random, mask, lesion.region, field, taken != 0):
        gap = light[np.roll(band, (down, right), (0, 1))] - source_light[band]
        if np.quantile(np.abs(gap), 0.95) <= relit:
            return down, right
    return None


def laid_over(mask: AnyMask, lesion: AnyMask, region: Mask) -> AnyMask:
    """A mask (R, R) with a lesion put in, whose surroundings hide what they cover."""
    return np.asarray(np.where(lesion != 0, lesion, np.where(region, np.zeros_like(mask), mask)))


def _of_one_class(random: np.random.Generator, labels: AnyMask) -> AnyMask:
    """Of a label map the parts that hold one class, drawn, with whatever touches them: a nucleus with its cell."""
    found, count = connected(labels != 0, np.ones((3, 3)))
    chosen = random.choice(np.flatnonzero(np.bincount(labels.ravel())[1:]) + 1)
    holding = np.isin(np.arange(count + 1), np.unique(found[labels == chosen]))
    return np.where(holding[found], labels, np.uint8(0))


def _can_be_cut(mask: AnyMask) -> bool:
    mask = mask != 0
    border = np.concatenate([mask[:2].ravel(), mask[-2:].ravel(), mask[:, :2].ravel(), mask[:, -2:].ravel()])
    return bool(LEAST <= mask.sum() <= LARGEST * mask.size and not border.any())


def _seed(seed: int, copy: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"copy-paste/{seed}/{copy}/{name}".encode()).digest()[:16], "big")
