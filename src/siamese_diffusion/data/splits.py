"""Which pairs are for training, validation and test, which are held out, and that no test image is among the others."""

from collections.abc import Iterable, Mapping, Sequence

import torch

from siamese_diffusion.data.folder import SPLITS, DataFolder
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.errors import InputError
from siamese_diffusion.progress import notify
from siamese_diffusion.randomness import generator

FEW = 4
"""Pairs below which a share for validation leaves hardly any of either kind."""


def validation_list(folder: DataFolder) -> list[Pair] | None:
    """Pairs of split `val` of the folder's `splits.json`; None without that list."""
    return folder.pairs("val") if "val" in (folder.lists or {}) else None


def train_and_validation(
    folder: DataFolder, chosen: Sequence[Pair], share: float, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on and pairs that pick the best step, disjoint: split `val`, or else a share of `chosen`, drawn.

    A share takes whole groups where pairs have them, and at least one pair with a lesion where there is one.

    Args:
        folder: of real pairs.
        chosen: its training pairs.
        share: of `chosen` that is held out where there is no list, between 0 and 1; at least one pair.
        seed: of that draw.

    Raises:
        InputError: one pair cannot be both.
    """
    validation = validation_list(folder)
    if validation is None:
        return share_apart(folder, chosen, share, seed)
    held = {pair.image.path for pair in validation}
    return [pair for pair in chosen if pair.image.path not in held], validation


def share_apart(folder: DataFolder, chosen: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """The rest and a share of `chosen`, drawn, whatever lists there are; see `train_and_validation`."""
    if len(chosen) < 2:
        raise InputError(f"{folder.path}: needs at least two pairs, one of them for validation")
    if len(chosen) < FEW:
        notify(f"{folder.path}: {len(chosen)} pairs, some of them to pick the best step: scores will mean little")
    drawn = _drawn(folder, chosen, share, seed)
    both = list(enumerate(chosen))
    return [pair for i, pair in both if i not in drawn], [pair for i, pair in both if i in drawn]


def _drawn(folder: DataFolder, chosen: Sequence[Pair], share: float, seed: int) -> set[int]:
    """Indices of the pairs held out: whole units, which are groups or single pairs, in the order of a draw."""
    units: dict[str, list[int]] = {}
    for i, pair in enumerate(chosen):
        units.setdefault(f"group {pair.group}" if pair.group is not None else f"pair {i}", []).append(i)
    if len(units) == 1:
        notify(
            f"{folder.path}: all pairs are of one group, so pairs that pick the best step are of the group trained on"
        )
        units = {str(i): [i] for i in range(len(chosen))}
    parts = list(units.values())
    wanted = min(len(chosen) - 1, max(1, round(share * len(chosen))))
    order: list[int] = torch.randperm(len(parts), generator=generator(seed, 5)).tolist()
    held = _fill(order, [len(part) for part in parts], wanted)

    def has_lesion(unit: int) -> bool:
        return any(bool(chosen[i].mask.read().any()) for i in parts[unit])

    if not any(map(has_lesion, held)):  # healthy images alone pick no step; nearly always, one mask is read here
        other = next((unit for unit in order if unit not in held and has_lesion(unit)), None)
        held = [*held[:-1], other] if other is not None else held
    return {i for unit in held for i in parts[unit]}


def _fill(order: Sequence[int], sizes: Sequence[int], wanted: int) -> list[int]:
    """Units in their order until they hold `wanted` pairs; one that would hold far too many is passed over."""
    held: list[int] = []
    count = 0
    for unit in order:
        after = count + sizes[unit]
        if count < wanted and after <= max(1.5 * wanted, count + 1) and after < sum(sizes):
            held.append(unit)
            count += sizes[unit]
    return held or [min(order, key=lambda unit: sizes[unit])]


def sets_for_testing(folders: Iterable[DataFolder]) -> dict[str, list[Pair]]:
    """The test sets of folders: PraNet's five, split `test` of a `splits.json`, or all pairs of a folder, by name.

    Raises:
        InputError: no pairs, or two sets of one name.
    """
    found: dict[str, list[Pair]] = {}
    for folder in folders:
        sets = folder.test_sets
        if not sets:
            if folder.lists is not None and "test" not in folder.lists:
                known = ", ".join(folder.lists)
                raise InputError(f"--test {folder.path}: its {SPLITS} has no list 'test' (it has {known})")
            sets = {folder.path.resolve().name: folder.pairs("test" if folder.lists is not None else None)}
        for name in sets:
            if name in found:
                raise InputError(f"--test {folder.path}: a test set called {name} was already given; rename the folder")
        found.update(sets)
    return found


def own_test_pairs(folder: DataFolder) -> list[Pair]:
    """Pairs that a folder itself sets apart for testing: split `test`, or PraNet's test sets; none without them."""
    if not folder.test_sets and "test" not in (folder.lists or {}):
        return []
    return [pair for found in sets_for_testing([folder]).values() for pair in found]


def held_out(folder: DataFolder, train: Sequence[Pair], split: str | None) -> list[Pair]:
    """Real pairs that are not in `train`, the folder's `split`: those of its other lists, and PraNet's test sets."""
    found = folder.pairs("test") if folder.test_sets else []
    for name in folder.lists or {}:
        found += folder.pairs(name) if name != split else []
    used = {pair.image.path.resolve() for pair in train}
    return list({pair.image.path.resolve(): pair for pair in found if pair.image.path.resolve() not in used}.values())


def require_disjoint(seen: Iterable[Pair], tests: Mapping[str, Sequence[Pair]], origin: str = "") -> None:
    """No test image was trained on or picked the best step, by whatever path it is reached.

    Raises:
        InputError: one was; the line begins with `origin`.
    """
    images = {pair.image.path.resolve() for pair in seen}
    for name, pairs in tests.items():
        for pair in pairs:
            if pair.image.path.resolve() in images:
                raise InputError(
                    f"{origin}{pair.image.path} is in test set {name} and among the training pairs; use disjoint splits"
                )
