"""A learned prior of masks: label maps drawn for no image, with shapes, sizes, places and numbers like those of a set.

Design note: two parts. Sizes, place, number of parts and the borders reached are drawn from the training masks' own,
smoothed (`layouts`): a few hundred masks tell a distribution of so few numbers well, and a range of areas can be asked
for. Shapes come from a diffusion that is told these. It works on principal components of signed distance maps: their
outlines are smooth by construction, and a step takes milliseconds on a CPU, where a small UNet on the maps took a
quarter of a second and still drew ragged outlines after 750 steps. What is learned of one place says little of others;
so masks are learned from in their eight flips and turns and, where they reach no border, moved. The network is told
where they lie and in which turn, so that it draws none where only a flipped lesion would lie (after the non-leaking
augmentation of Karras et al., arXiv:2206.00364, section 5).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.models.embeddings import get_timestep_embedding
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from typing_extensions import TypedDict

from siamese_diffusion.config import Config, MaskPriorConfig, load_config
from siamese_diffusion.data.hashing import hash_files
from siamese_diffusion.diffusion.distance_maps import Labels, to_maps
from siamese_diffusion.diffusion.layouts import Layouts, layouts_of, scaled
from siamese_diffusion.diffusion.sampler import denoise
from siamese_diffusion.diffusion.schedule import Schedule
from siamese_diffusion.durable import restore
from siamese_diffusion.errors import InputError, refused
from siamese_diffusion.files import read_json, whole_folder, write_json
from siamese_diffusion.prefetch import Batch
from siamese_diffusion.progress import track
from siamese_diffusion.randomness import generator, rows_of_epochs
from siamese_diffusion.tensors import read_state, require_finite

TURNS = 3
"""Numbers that tell a flip or turn: mirrored across, mirrored down, transposed."""
VARIANTS = 2**TURNS
"""Of each training mask: every turn once, at different places."""
WHITENING = 1.0
"""1: all components of equal variance; 0: of their own. At 0.5 drawn outlines were smoother
(docs/results/archive/masks.md)."""
FEATURES = 64
"""That tell the network the timestep."""
PROBED, LEVELS = 128, (0.125, 0.375, 0.625, 0.875)
"""Masks whose loss at fixed noise is looked at, and at which shares of the timesteps."""
FOLDER, WEIGHTS, NOTE = "prior", "model.safetensors", "prior.json"


class PriorLosses(NamedTuple):
    total: Tensor


class _Block(nn.Module):
    """A residual block whose features are scaled and shifted by what the network is told."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.told = nn.Linear(width, 2 * width)
        last = nn.Linear(width, width)
        nn.init.zeros_(last.weight)
        self.inner = nn.Sequential(nn.Linear(width, width), nn.SiLU(), last)

    def forward(self, features: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.told(told).chunk(2, 1)
        after: Tensor = features + self.inner(self.norm(features) * (1 + scale) + shift)
        return after


class MaskPrior(nn.Module):
    """The diffusion on components of signed distance maps.

    Args:
        settings: its shape.
        layouts: of the training masks, of K classes.
    """

    mean: Tensor  # (K s s)
    basis: Tensor  # (n, K s s), a component times what makes it one in the network
    lengths: Tensor  # (n,), that factor

    def __init__(self, settings: MaskPriorConfig, layouts: Layouts) -> None:
        super().__init__()
        self.layouts, self.classes = layouts, layouts.areas.shape[1]
        self.side, self.components = settings.side, min(settings.components, self.classes * settings.side**2)
        self.scheduler = DDIMScheduler(
            beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        )
        self.schedule = Schedule(self.scheduler.alphas_cumprod, "v_prediction")
        self.register_buffer("mean", torch.zeros(self.classes * settings.side**2))
        self.register_buffer("basis", torch.zeros(self.components, self.classes * settings.side**2))
        self.register_buffer("lengths", torch.ones(self.components))
        width = settings.width
        self.into = nn.Linear(self.components, width)
        self.told = nn.Sequential(nn.Linear(2 * self.classes + 7 + TURNS, width), nn.SiLU(), nn.Linear(width, width))
        self.when = nn.Sequential(nn.Linear(FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(_Block(width) for _ in range(settings.layers))
        self.out = nn.Linear(width, self.components)

    @property
    def timesteps(self) -> int:
        """Of the noise schedule."""
        return len(self.schedule.alphas_cumprod)

    def fit(self, maps: NDArray[np.float32]) -> None:
        """Take the principal components of maps (M, K, s, s); the largest has a variance of 1 in the network."""
        rows = maps.reshape(len(maps), -1).astype(np.float64)
        mean = rows.mean(0)
        values, vectors = np.linalg.eigh(np.cov(rows.T))
        order = np.argsort(-values)[: self.components]
        spread = np.sqrt(values[order].clip(1e-8))
        lengths = spread[0] ** (1 - WHITENING) * spread**WHITENING
        self.mean.copy_(torch.from_numpy(mean))
        self.basis.copy_(torch.from_numpy(vectors[:, order].T * lengths[:, None]))
        self.lengths.copy_(torch.from_numpy(lengths))

    def encode(self, maps: Tensor) -> Tensor:
        """Components (B, n) of maps (B, K, s, s)."""
        return (maps.flatten(1) - self.mean) @ (self.basis / self.lengths[:, None].square()).T

    def decode(self, components: Tensor) -> Tensor:
        """Maps (B, K, s, s) of components (B, n)."""
        maps = components @ self.basis + self.mean
        return maps.view(-1, self.classes, self.side, self.side).clamp(-1, 1)

    def condition(self, layouts: Layouts) -> Tensor:
        """What the network is told of layouts, without turns: (N, 2 K + 7), about standard scores."""
        mean, spread = self.layouts.moments
        present = layouts.areas > 0
        scores = (scaled(np.concatenate([layouts.areas, layouts.places], 1)) - mean) / spread
        scores[:, :-2] *= present
        told = np.concatenate([scores, present, layouts.sides, np.log(layouts.parts)[:, None]], 1)
        return torch.from_numpy(told).float()

    def predict(self, noisy: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """The velocity (B, n) of noisy components, told (B, 2 K + 10)."""
        told = torch.nn.functional.silu(
            self.told(condition) + self.when(get_timestep_embedding(timesteps, FEATURES, flip_sin_to_cos=True))
        )
        features = self.into(noisy)
        for block in self.blocks:
            features = block(features, told)
        prediction: Tensor = self.out(features)
        return prediction

    def forward(self, components: Tensor, noise: Tensor, timesteps: Tensor, condition: Tensor) -> PriorLosses:
        clean, other = components[:, :, None, None], noise[:, :, None, None]
        noisy = self.schedule.add_noise(clean, other, timesteps).flatten(1)
        target = self.schedule.target(clean, other, timesteps).flatten(1)
        return PriorLosses((self.predict(noisy, timesteps, condition).float() - target).square().mean())

    def draw(self, layouts: Layouts, keys: Sequence[tuple[int | str, ...]], seed: int, steps: int) -> Tensor:
        """Maps (B, K, s, s) for layouts of B masks; each depends on the seed, its key and its layout only, rounding
        aside."""
        device = self.mean.device
        noise = torch.stack([torch.randn(self.components, generator=generator(seed, "mask", *key)) for key in keys])
        told = torch.cat([self.condition(layouts), torch.zeros(len(keys), TURNS)], 1).to(device)
        drawn = denoise(lambda noisy, t: self.predict(noisy, t, told), noise.to(device), self.scheduler, "dpm", steps)
        return self.decode(drawn)


def turned(labels: Labels, turn: int) -> tuple[Labels, NDArray[np.float32]]:
    """Label maps (..., s, s) in one of eight flips and turns, 0 is as they are; and the three numbers that tell it."""
    across, down, over = (turn >> bit & 1 for bit in range(TURNS))
    axes = [axis for axis, on in ((-1, across), (-2, down)) if on]
    found = np.flip(labels, axes) if axes else labels
    return (found.swapaxes(-1, -2) if over else found), np.array([across, down, over], np.float32)


def moved(label: Labels, random: np.random.Generator) -> Labels:
    """A label map (h, w) with all its lesions moved together, none over the border; one that reaches it stays."""
    for axis in (0, 1):
        there = np.flatnonzero((label > 0).any(1 - axis))
        if not len(there) or there[0] == 0 or there[-1] == label.shape[axis] - 1:
            return label
    shifts = []
    for axis in (0, 1):
        there = np.flatnonzero((label > 0).any(1 - axis))
        shifts.append(int(random.integers(1 - there[0], label.shape[axis] - 1 - there[-1])))
    return np.roll(label, shifts, (0, 1))


class MaskData:
    """What the prior's training draws its batches from, in memory.

    Args:
        components: (M, n).
        condition: (M, 2 K + 10), see `MaskPrior.condition`, with the turns.
    """

    def __init__(self, components: Tensor, condition: Tensor) -> None:
        self.components, self.condition = components, condition

    def batch(self, step: int, rows: range, settings: MaskPriorConfig, timesteps: int) -> Batch:
        """Rows of a step as arguments of `MaskPrior.forward`, at random noise."""
        chosen = rows_of_epochs(step, rows, settings.batch_size, len(self.components), settings.seed)
        random = generator(settings.seed, 3, step)
        part = slice(rows.start, rows.stop)
        size = settings.batch_size  # drawn for the whole batch, so that it does not matter how it is divided
        return {
            "components": self.components[chosen],
            "noise": torch.randn(size, self.components.shape[1], generator=random)[part],
            "timesteps": torch.randint(timesteps, (size,), generator=random)[part],
            "condition": self.condition[chosen],
        }

    @torch.no_grad()
    def loss(self, prior: MaskPrior, seed: int) -> float:
        """Mean loss of up to `PROBED` masks at noise that is always the same."""
        device, count = prior.mean.device, min(len(self.components), PROBED)
        clean, told = self.components[:count].to(device), self.condition[:count].to(device)
        total = 0.0
        for level in LEVELS:
            noise = torch.randn(clean.shape, generator=generator(seed, 9, int(1000 * level))).to(device)
            t = torch.full((count,), int(level * prior.timesteps), device=device)
            total += float(prior(clean, noise, t, told).total) / len(LEVELS)
        return total


def begin(settings: MaskPriorConfig, labels: Labels, classes: int) -> tuple[MaskPrior, MaskData]:
    """A prior as training begins, and what it learns from: label maps uint8 (N, h, w) in their variants."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        prior = MaskPrior(settings, layouts_of(labels, classes))
    maps, conditions = [], []
    for variant in track(range(VARIANTS), "distance maps"):
        random = np.random.default_rng((settings.seed, variant))
        found, told = turned(labels, variant % 2**TURNS)
        found = found if variant == 0 else np.stack([moved(label, random) for label in found])
        maps.append(to_maps(found, classes, settings.side))
        condition = prior.condition(layouts_of(found, classes))
        conditions.append(torch.cat([condition, torch.from_numpy(told).expand(len(found), -1)], 1))
    every = np.concatenate(maps)
    prior.fit(every)
    return prior, MaskData(prior.encode(torch.from_numpy(every)), torch.cat(conditions))


def as_they_are(prior: MaskPrior, labels: Labels) -> MaskData:
    """Masks that nothing is learned from, unturned."""
    condition = prior.condition(layouts_of(labels, prior.classes))
    maps = torch.from_numpy(to_maps(labels, prior.classes, prior.side))
    return MaskData(prior.encode(maps), torch.cat([condition, torch.zeros(len(labels), TURNS)], 1))


class _Note(TypedDict):
    classes: list[str]
    fit: str
    areas: list[list[float]]
    places: list[list[float]]
    sides: list[list[float]]
    parts: list[float]


class LearnedPrior(NamedTuple):
    """A finished run of `train-masks`."""

    prior: MaskPrior
    config: Config
    classes: list[str]
    hash: str
    """Of its weights and of what stands beside them."""


def save_prior(prior: MaskPrior, classes: Sequence[str], fit: str, out: Path) -> None:
    """Write `prior/` in the run's folder: weights, names of the classes, how masks were squared, and their
    layouts.

    Raises:
        InputError: a weight is not finite.
    """
    state = {name: tensor.contiguous().cpu() for name, tensor in prior.state_dict().items()}
    require_finite(state, out / FOLDER)
    with whole_folder(out / FOLDER) as temporary:
        save_file(state, temporary / WEIGHTS)
        seen = {name: values.tolist() for name, values in vars(prior.layouts).items()}
        write_json(temporary / NOTE, {"classes": list(classes), "fit": fit, **seen})


def load_prior(run: Path) -> LearnedPrior:
    """The prior of a finished run of `train-masks`, on the CPU.

    Raises:
        InputError: training has not finished, or a file is damaged.
    """
    folder = run / FOLDER
    restore(folder)
    if not folder.is_dir():
        raise InputError(f"--masks {run}: this prior is not learned yet; run `train-masks` again with --resume")
    note = read_json(folder / NOTE, _Note)
    config = load_config(run / "config.yaml")
    layouts = Layouts(*(np.array(note[name], np.float64) for name in ("areas", "places", "sides", "parts")))
    count = len(layouts.areas)
    shapes = (count, len(note["classes"])), (count, 2), (count, 4), (count,)
    values = layouts.areas, layouts.places, layouts.sides, layouts.parts
    if not count or any(each.shape != shape for each, shape in zip(values, shapes, strict=True)):
        raise InputError(f"{folder / NOTE}: expected the layout of each training mask, as `train-masks` writes it")
    prior = MaskPrior(config.train_masks, layouts)
    state = read_state(folder / WEIGHTS)
    require_finite(state, folder / WEIGHTS)
    with refused(f"{folder / WEIGHTS}: is not of the network that {run / 'config.yaml'} says"):
        prior.load_state_dict(state)
    return LearnedPrior(prior.eval(), config, note["classes"], hash_files([folder / WEIGHTS, folder / NOTE]))
