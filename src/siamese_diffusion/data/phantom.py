"""Invented colonoscopy pictures with polyps and their masks, to try everything without any patient's data.

A picture is laid out on the square [-1, 1]² and only then sampled, so it is about the same at every resolution.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from siamese_diffusion import progress
from siamese_diffusion.arguments import StrPath, to_path
from siamese_diffusion.claim import Claim
from siamese_diffusion.data.classes import AnyMask, present, prompt_for
from siamese_diffusion.data.images import Pixels
from siamese_diffusion.data.prepared import write_classes
from siamese_diffusion.data.writer import PairWriter
from siamese_diffusion.errors import InputError
from siamese_diffusion.lock import hold

Field = NDArray[np.float32]
PROMPT = "A photo of polyp"
KINDS = ("smooth polyp", "lobed polyp")
"""Classes of phantoms of two kinds."""
AREA = (0.02, 0.3)
"""Polyps together cover this share of the picture."""
REACH = 0.88
"""Polyps stay within this distance of the centre, so the black border never covers a part of the mask."""


class Polyp(NamedTuple):
    """A star-shaped outline: radius r(θ) = mean · (1 + Σ amplitude_k · cos(kθ + phase_k)), k = 2, 3, ..."""

    x: float
    y: float
    mean: float
    amplitude: NDArray[np.float64]
    phase: NDArray[np.float64]

    @property
    def extent(self) -> float:
        """The outline lies within this distance of the centre."""
        return self.mean * (1 + float(np.abs(self.amplitude).sum()))


class Surface(NamedTuple):
    """What is to be lit: the light that arrives (R, R), the colour (R, R, 3), and how the surface falls (R, R)."""

    light: Field
    colour: Field
    slope_x: Field
    slope_y: Field


def make_phantoms(out: StrPath, count: int, resolution: int = 128, seed: int = 0, kinds: int = 1) -> None:
    """Write `count` pairs named phantom-00000, ... into the new folder `out`.

    Args:
        out: folder of pairs to make.
        count: at least 1.
        resolution: side in pixels, at least 16.
        seed: at least 0; pictures of different seeds have nothing in common.
        kinds: 1, or 2 for polyps of two classes in one mask: smooth and pale, or lobed and red.

    The same call goes on with what a killed one left, and leaves a finished folder as it is.

    Raises:
        InputError: a number is out of range, or `out` holds anything else or cannot be written to.
    """
    out = to_path(out)
    for option, value, least in (("count", count, 1), ("resolution", resolution, 16), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"--{option} {value}: must be at least {least}")
    if kinds not in (1, 2):
        raise InputError(f"--kinds {kinds}: must be 1 or 2")
    inputs: dict[str, Any] = {"command": "phantoms", "--count": count, "--resolution": resolution, "--seed": seed}
    names = KINDS if kinds == 2 else ()
    if names:
        inputs["--kinds"] = kinds
    with hold(out):
        Claim(out, None, {}, inputs, None).write()
        write_classes(out, names)
        with PairWriter(out, resume=True) as writer:
            for i in progress.track(range(count), "making phantoms"):
                if (name := f"phantom-{i:05d}") not in writer.done:
                    image, mask = phantom(seed, i, resolution, kinds)
                    prompt = prompt_for(present(mask, names)) if names else PROMPT
                    writer.write(name, image, mask, prompt, extra={"phantom": {"seed": seed, "index": i}})


def phantom(seed: int, index: int, resolution: int, kinds: int = 1) -> tuple[Pixels, AnyMask]:
    """The picture uint8 (R, R, 3) and the mask of its polyps, fixed by `seed` and `index` (both >= 0).

    The mask is bool (R, R), or with two kinds a label map uint8 (R, R) of `KINDS`.
    """
    random = np.random.default_rng((seed, index))
    axis = ((np.arange(resolution) + 0.5) * 2 / resolution - 1).astype(np.float32)
    x, y = axis[None, :], axis[:, None]
    polyps = _polyps(random)
    kind_of = [0] * len(polyps)
    if kinds == 2:
        kind_of = np.random.default_rng((seed, index, 2)).integers(1, 3, len(polyps)).tolist()
        polyps = [_shaped(polyp, kind) for polyp, kind in zip(polyps, kind_of, strict=True)]
    lumen = _lumen(random, polyps)
    tilt = random.uniform(-0.25, 0.25, 2)  # of the light, which sits beside the lens
    light = _tunnel(random, x, y, lumen)
    slope_x, slope_y = (0.05 * s for s in _slopes(random, resolution, (3, 6, 12), 0.45))
    surface = Surface(light, _mucosa(random, resolution), slope_x, slope_y)
    shine_x, shine_y = (0.03 * s for s in _slopes(random, resolution, (16, 32), 0.6))

    coverage = np.zeros((resolution, resolution), np.float32)
    labels = np.zeros((resolution, resolution), np.uint8)
    for polyp, kind in zip(polyps, kind_of, strict=True):
        cover, surface = _add(random, polyp, x, y, tilt, surface, kind)
        coverage = np.maximum(coverage, cover)
        labels[cover >= 0.5] = kind

    light, colour, slope_x, slope_y = surface
    # Light that came a long way through tissue has lost its blue and green: shadows are red.
    lit = light * (0.2 + 0.8 * _facing(slope_x, slope_y, tilt))
    image = colour * lit[..., None] ** np.array((0.8, 1.2, 1.35), np.float32)
    # Wet tissue: the light's mirror image breaks up on bumps, where the surface as a whole faces the light.
    broad = _noise(random, resolution, (3, 6), 0.8)
    wet = np.clip(1.5 * broad - 0.55 + 0.8 * coverage, 0, 1) * np.clip(2.2 * light - 0.9, 0, 1)
    gloss = _facing(slope_x + shine_x, slope_y + shine_y, 1.6 * tilt)
    glint = np.clip((gloss**40 - 0.9) / 0.08, 0, 1) * wet
    glow = gaussian_filter(glint, 0.016 * resolution)
    image += np.clip(0.9 * glint + 0.8 * glow, 0, 1)[..., None] * (1.02 - image)
    image *= _border(random, x, y, 2 / resolution)[..., None]
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), labels if kinds == 2 else coverage >= 0.5


def _shaped(polyp: Polyp, kind: int) -> Polyp:
    """A polyp as its kind is, no wider than it was: nearly round, or with seven lobes."""
    if kind == 1:
        shaped = polyp._replace(amplitude=0.35 * polyp.amplitude)
    else:
        lobes = np.array((0, 0.15)), np.array((0, polyp.phase[0]))
        shaped = polyp._replace(
            amplitude=np.concatenate([0.35 * polyp.amplitude, lobes[0]]),
            phase=np.concatenate([polyp.phase, lobes[1]]),
        )
    return shaped._replace(mean=shaped.mean * min(1, polyp.extent / shaped.extent))


def _polyps(random: np.random.Generator) -> list[Polyp]:
    count = random.choice((1, 2, 3), p=(0.8, 0.14, 0.06))
    most = AREA[1] if count == 1 else 0.08
    found: list[Polyp] = []
    for _ in range(40):
        area = 4 * np.exp(random.uniform(np.log(AREA[0] * 1.1), np.log(most * 0.97)))
        amplitude = random.normal(0, (0.11, 0.05, 0.03, 0.02)).clip(-0.2, 0.2)
        mean = float(np.sqrt(area / np.pi / (1 + (amplitude**2).sum() / 2)))
        polyp = Polyp(0, 0, mean, amplitude, random.uniform(0, 2 * np.pi, 4))
        away = max(REACH - polyp.extent, 0) * np.sqrt(random.uniform())
        angle = random.uniform(0, 2 * np.pi)
        polyp = polyp._replace(x=float(away * np.cos(angle)), y=float(away * np.sin(angle)))
        gaps = (np.hypot(polyp.x - other.x, polyp.y - other.y) - other.extent - polyp.extent for other in found)
        if polyp.extent < REACH and all(gap > 0.05 for gap in gaps):
            found.append(polyp)
        if len(found) == count:
            break
    return found


def _lumen(random: np.random.Generator, polyps: list[Polyp]) -> tuple[float, float]:
    """Where the tunnel goes on: of some random places the one with most room beside the polyps."""
    places = random.uniform(-0.85, 0.85, (6, 2))
    room = [min(np.hypot(px - p.x, py - p.y) - p.extent for p in polyps) for px, py in places]
    best = places[int(np.argmax(room))]
    return float(best[0]), float(best[1])


def _tunnel(random: np.random.Generator, x: Field, y: Field, lumen: tuple[float, float]) -> Field:
    """Brightness (R, R) in [0, 1] of a tunnel with crescent folds: darker with depth, and behind each fold."""
    resolution = x.size
    dx, dy = x - lumen[0], y - lumen[1]
    angle, away = np.arctan2(dy, dx), np.hypot(dx, dy)
    away = away * (
        1 + 0.13 * np.cos(3 * angle + random.uniform(0, 6.3)) + 0.1 * np.cos(2 * angle + random.uniform(0, 6.3))
    )
    away = away + 0.05 * _noise(random, resolution, (4, 7), 0.6)
    size = random.uniform(0.12, 0.34)
    light = 0.1 + 0.9 * (1 - np.exp(-((np.maximum(away, 0) / size) ** 1.3)))
    # Rings of constant ratio are folds at equal distances along the tunnel; from one edge outwards it gets darker
    # until the edge of the next, nearer fold, which hides what is behind it.
    ring = random.uniform(1.5, 2.3) * np.log(np.maximum(away, 0.02) + 0.12) + random.uniform(0, 1)
    part = ring - np.floor(ring)
    edge = np.clip((1 - part) / 0.08, 0, 1)
    strength = random.uniform(0.3, 0.6) * np.clip(0.55 + 0.6 * _noise(random, resolution, (3, 5), 0.5), 0, 1)
    fade = np.exp(-((away / random.uniform(0.7, 1.2)) ** 4))
    light = light * (1 - strength * fade * part**1.6 * edge) * (1 + 0.12 * fade * (1 - part) ** 6 * (1 - strength))
    return np.asarray(light, np.float32)


def _mucosa(random: np.random.Generator, resolution: int) -> Field:
    """Colour (R, R, 3): a mixture of pink, orange and red, blotchy, with vessels."""
    base = random.dirichlet((1.2, 1.2, 1.2)) @ np.array(((0.96, 0.63, 0.55), (0.98, 0.60, 0.36), (0.90, 0.43, 0.34)))
    blotch = _noise(random, resolution, (4, 8, 16, 32, 64), 0.62)[..., None]
    colour = base.astype(np.float32) * (1 + blotch * np.array((0.05, 0.13, 0.15), np.float32))
    vessels = random.uniform(0.25, 0.75) * _vessels(random, resolution)[..., None]
    return np.asarray(colour * (1 - vessels * np.array((0.3, 0.62, 0.55), np.float32)), np.float32)


def _vessels(random: np.random.Generator, resolution: int) -> Field:
    """Cover (R, R) in [0, 1] by thin trees that grow in from the edge."""
    steps, step = 240, 0.005
    points = []
    for _ in range(random.integers(1, 4)):
        start = random.uniform(0, 2 * np.pi)
        twigs = [(1.1 * np.cos(start), 1.1 * np.sin(start), start + np.pi + random.uniform(-0.6, 0.6), 0.02, 0)]
        while twigs:
            px, py, heading, width, level = twigs.pop()
            bend = np.repeat(random.normal(0, 0.012, steps // 16), 16)
            way = heading + np.cumsum(bend) + 0.12 * np.sin(np.arange(steps) / random.uniform(8, 20))
            xs, ys = px + step * np.cumsum(np.cos(way)), py + step * np.cumsum(np.sin(way))
            thin = width * np.linspace(1, 0.5, steps)
            points.append(((xs + 1) * resolution / 2 - 0.5, (ys + 1) * resolution / 2 - 0.5, thin))
            for at in random.integers(30, steps, 3 - level) if level < 2 else ():
                side = random.choice((-1, 1)) * random.uniform(0.4, 0.9)
                twigs.append((xs[at], ys[at], way[at] + side, 0.7 * thin[at], level + 1))
    # Each point is shared among the four pixels around it, so that a line has no steps; a frame is cut off after.
    column, row, thin = np.concatenate(points, 1)
    inside = (np.minimum(column, row) > -1) & (np.maximum(column, row) < resolution)
    column, row, thin = column[inside] + 1, row[inside] + 1, thin[inside]
    left, top = np.floor(column).astype(int), np.floor(row).astype(int)
    side = resolution + 2
    total = np.zeros(side * side)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = thin * (1 - np.abs(row - top - i)) * (1 - np.abs(column - left - j))
        total += np.bincount((top + i) * side + left + j, share, side * side)
    cover = total.reshape(side, side)[1:-1, 1:-1] * step * (resolution / 2) ** 2
    return np.asarray(1 - np.exp(-1.5 * gaussian_filter(cover, 0.004 * resolution)), np.float32)


def _add(
    random: np.random.Generator,
    polyp: Polyp,
    x: Field,
    y: Field,
    tilt: NDArray[np.float64],
    below: Surface,
    kind: int = 0,
) -> tuple[Field, Surface]:
    """The polyp's coverage (R, R) in [0, 1], and the surface with the polyp and its shadow put in."""
    resolution = x.size
    dx, dy = x - polyp.x, y - polyp.y
    away, angle = np.hypot(dx, dy) + 1e-6, np.arctan2(dy, dx)
    radius, turn = np.ones_like(away), np.zeros_like(away)
    for k, (amplitude, phase) in enumerate(zip(polyp.amplitude, polyp.phase, strict=True), start=2):
        radius += np.float32(amplitude) * np.cos(k * angle + np.float32(phase))
        turn -= np.float32(k * amplitude) * np.sin(k * angle + np.float32(phase))
    radius, turn = radius * polyp.mean, turn * polyp.mean
    distance = (away - radius) / np.sqrt(1 + (turn / away) ** 2)
    cover = np.clip(0.5 - distance * resolution / 2, 0, 1)
    q = np.minimum(away / radius, 1)

    toward = -(dx * tilt[0] + dy * tilt[1]) / (away * np.hypot(*tilt))
    shadow = random.uniform(0.35, 0.6) * (0.7 + 0.3 * toward)
    shadow = shadow * np.exp(-np.maximum(distance, 0) / (0.05 + 0.12 * polyp.mean))

    steep = random.uniform(0.6, 1.0) * q / np.sqrt(1 - 0.8 * q**2)
    bump_x, bump_y = (0.008 * s for s in _slopes(random, resolution, (12, 28), 0.7))
    rim = 1 - random.uniform(0.25, 0.45) * np.clip(5 * q - 4, 0, 1) ** 2
    # It stands out towards the lens, so it is lit more evenly than the wall behind it.
    light = (0.72 + 0.28 * below.light) * rim
    colour = _polyp_colour(random, below.colour, kind) * (
        1 + _noise(random, resolution, (10, 24, 56), 0.8)[..., None] * 0.11
    )

    above = Surface(light, colour, steep * dx / away + bump_x, steep * dy / away + bump_y)
    below = below._replace(light=below.light * (1 - shadow))
    shares = (cover, cover[..., None], cover, cover)
    mixed = (np.asarray(c * a + (1 - c) * b, np.float32) for a, b, c in zip(above, below, shares, strict=True))
    return cover, Surface(*mixed)


def _polyp_colour(random: np.random.Generator, mucosa: Field, kind: int) -> Field:
    base = np.asarray(mucosa.mean((0, 1)))
    if kind == 1:
        return np.asarray(base + random.uniform(0.7, 0.9) * (np.array((1.04, 0.88, 0.78)) - base), np.float32)
    if kind == 2:
        return np.asarray(base * (0.8, random.uniform(0.36, 0.48), random.uniform(0.4, 0.55)), np.float32)
    # On pale mucosa a paler polyp would be lost.
    if random.uniform() < 0.5 or base[1] > 0.61 * base[0]:
        return np.asarray(base * (0.93, random.uniform(0.64, 0.76), random.uniform(0.66, 0.85)), np.float32)
    return np.asarray(base + random.uniform(0.55, 0.8) * (np.array((1.04, 0.81, 0.69)) - base), np.float32)


def _border(random: np.random.Generator, x: Field, y: Field, pixel: float) -> Field:
    """Factor (R, R) in [0, 1]: the vignette, and mostly the black frame, a circle or a rounded octagon."""
    away = np.hypot(x, y)
    kind, size = random.uniform(), random.uniform(0.96, 1.06)
    factor = 1 - random.uniform(0.2, 0.4) * np.minimum(away / 1.2, 1) ** 4
    if kind < 0.15:
        return np.asarray(factor, np.float32)
    if kind > 0.5:
        diagonal = (np.abs(x) + np.abs(y)) / random.uniform(1.42, 1.6)
        away = sum(np.abs(d) ** 16 for d in (x, y, diagonal)) ** (1 / 16)
    return np.asarray(factor * np.clip(0.5 - (away - size) / (2 * pixel), 0.015, 1), np.float32)


def _facing(slope_x: Field, slope_y: Field, tilt: NDArray[np.float64]) -> Field:
    """Cosine (R, R) between a surface that falls by these slopes and the light."""
    dot = slope_x * tilt[0] + slope_y * tilt[1] + 1
    return np.asarray(np.maximum(dot, 0) / np.sqrt((1 + slope_x**2 + slope_y**2) * (1 + tilt @ tilt)), np.float32)


def _noise(random: np.random.Generator, resolution: int, cells: tuple[int, ...], decay: float) -> Field:
    """Smooth noise (R, R), about standard normal / 2; octaves have `cells` to a side, each `decay` as strong."""
    total = np.zeros((resolution, resolution), np.float32)
    for i, count in enumerate(cells):
        value, _ = _spline(resolution, count)
        lattice = random.standard_normal((count + 3, count + 3), np.float32)
        total += decay**i * (value @ lattice @ value.T)
    return total


def _slopes(random: np.random.Generator, resolution: int, cells: tuple[int, ...], decay: float) -> tuple[Field, Field]:
    """Derivatives along x and y, each (R, R), of such noise."""
    total_x, total_y = np.zeros((2, resolution, resolution), np.float32)
    for i, count in enumerate(cells):
        value, slope = _spline(resolution, count)
        lattice = random.standard_normal((count + 3, count + 3), np.float32)
        total_x += decay**i * (value @ lattice @ slope.T)
        total_y += decay**i * (slope @ lattice @ value.T)
    return total_x, total_y


@lru_cache(maxsize=64)
def _spline(resolution: int, cells: int) -> tuple[Field, Field]:
    """Cubic B-splines on [-1, 1] at the pixel centres, values and derivatives: each (R, cells + 3)."""
    at = (np.arange(resolution) + 0.5) * cells / resolution
    distance = at[:, None] - (np.arange(cells + 3) - 1)
    d = np.abs(distance)
    value = np.where(d < 1, 2 / 3 - d**2 + d**3 / 2, np.where(d < 2, (2 - d) ** 3 / 6, 0))
    slope = np.where(d < 1, -2 * d + 1.5 * d**2, np.where(d < 2, -((2 - d) ** 2) / 2, 0)) * np.sign(distance)
    return value.astype(np.float32), (slope * cells / 2).astype(np.float32)
