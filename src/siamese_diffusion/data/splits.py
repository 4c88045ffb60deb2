"""Which pairs are for training, validation and test, which are held out, and that no test image is among the others."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import islice

from siamese_diffusion.data.folder import SPLITS, DataFolder
from siamese_diffusion.data.hashing import hash_files
from siamese_diffusion.data.leakage import same_content
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.errors import InputError
from siamese_diffusion.progress import notify

FEW = 4
"""Pairs below which a share for validation leaves hardly any of either kind."""
LESIONS = 2
"""Pairs with a lesion that pick a step, where there are enough: one alone picks by chance."""


def validation_list(folder: DataFolder) -> list[Pair] | None:
    """Pairs of split `val` of the folder's `splits.json`; None without that list."""
    return folder.pairs("val") if "val" in (folder.lists or {}) else None


def train_and_validation(
    folder: DataFolder, chosen: Sequence[Pair], share: float, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on and pairs that pick the best step, disjoint: split `val`, or else a share of `chosen`, drawn.

    A share takes whole groups where pairs have them, and at least `LESIONS` pairs with a lesion where twice as many are
    there, else one.

    Args:
        folder: of real pairs.
        chosen: its training pairs.
        share: of `chosen` that is held out where there is no list, between 0 and 1; at least one pair.
        seed: of that draw.

    Raises:
        InputError: fewer than `FEW` pairs, and no list.
    """
    validation = validation_list(folder)
    if validation is None:
        return share_apart(folder, chosen, share, seed)
    held = {pair.image.path for pair in validation}
    return [pair for pair in chosen if pair.image.path not in held], validation


def share_apart(folder: DataFolder, chosen: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """The rest and a share of `chosen`, drawn, whatever lists there are; see `train_and_validation`."""
    require_enough(folder, chosen, None)
    drawn = _drawn(folder, chosen, share, seed)
    both = list(enumerate(chosen))
    return [pair for i, pair in both if i not in drawn], [pair for i, pair in both if i in drawn]


def require_enough(folder: DataFolder, chosen: Sequence[Pair], validation: Sequence[Pair] | None) -> None:
    """There are pairs to train on beside those that pick the best step.

    Raises:
        InputError: there is no list of the latter, and fewer than `FEW` pairs.
    """
    if validation is None and len(chosen) < FEW:
        count = "one pair" if len(chosen) == 1 else f"{len(chosen)} pairs"
        raise InputError(
            f"{folder.path}: {count} to train on, and some are to be held out to pick the best step; give at least "
            f"{FEW}, or a split val"
        )


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
    import torch

    from siamese_diffusion.randomness import generator

    parts = list(units.values())
    wanted = min(len(chosen) - 1, max(1, round(share * len(chosen))))
    order: list[int] = torch.randperm(len(parts), generator=generator(seed, 5)).tolist()
    held = _fill(order, [len(part) for part in parts], wanted)

    held = _with_lesions(held, order, parts, lambda i: bool(chosen[i].mask.read().any()))
    return {i for unit in held for i in parts[unit]}


def _with_lesions(
    held: Sequence[int], order: Sequence[int], parts: Sequence[Sequence[int]], has_lesion: Callable[[int], bool]
) -> list[int]:
    """The units held out, some of them exchanged, or more of them, until enough pairs have a lesion on either side.

    Args:
        held: of the units.
        order: of all of them, in which others are tried.
        parts: indices of the pairs of each unit.
        has_lesion: of a pair; asked once a pair, and nearly always of few.
    """
    known = cache(has_lesion)

    def holds(units: Iterable[int], count: int) -> bool:
        return len(list(islice((i for unit in units for i in parts[unit] if known(i)), count))) == count

    found = list(held)
    if holds(found, LESIONS) and holds((unit for unit in order if unit not in found), LESIONS):
        return found
    wanted = LESIONS if holds(order, 2 * LESIONS) else 1
    for unit in order:
        if holds(found, wanted):
            break
        if unit in found or not holds([unit], 1):
            continue
        healthy = next((each for each in reversed(found) if not holds([each], 1)), None)
        changed = [*(each for each in found if each != healthy), unit]
        if holds((each for each in order if each not in changed), wanted):
            found = changed
    return found


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
    """No test image was trained on or picked the best step, by whatever path it is reached or as a file's copy.

    Raises:
        InputError: one was; the line begins with `origin`.
    """
    found = same_content(seen, tests)
    if found is None:
        return
    name, test, other = found
    if test.image.path.resolve() == other.image.path.resolve():
        raise InputError(
            f"{origin}{test.image.path} is in test set {name} and among the training pairs; use disjoint splits"
        )
    raise InputError(
        f"{origin}{test.image.path} is in test set {name} and the same file as {other.image.path}, which is among the "
        "training pairs; leave one of the two out"
    )


def require_backgrounds_apart(made: Iterable[Pair], tests: Mapping[str, Sequence[Pair]]) -> None:
    """No synthetic pair is a test image with a lesion drawn into it: most of its pixels would be the test image's.

    Raises:
        InputError: one is, by the hash of the file that its row names.
    """
    drawn = {str(pair.extra["background_sha256"]): pair for pair in made if pair.extra.get("background_sha256")}
    if not drawn:
        return
    for name, pairs in tests.items():
        for test in pairs:
            found = drawn.get(hash_files([test.image.path]))
            if found is not None:
                raise InputError(
                    f"{found.image.path}: a lesion was drawn into {test.image.path}, which is in test set {name}; draw "
                    "into training images only (sample --into)"
                )
