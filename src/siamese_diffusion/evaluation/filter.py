"""The `filter` command: keep the synthetic pairs that `evaluate` found good enough, as a folder of pairs."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from siamese_diffusion import progress
from siamese_diffusion.arguments import StrPath, to_path, to_path_or_none
from siamese_diffusion.claim import Claim, require_apart
from siamese_diffusion.data.folder import open_as_written
from siamese_diffusion.data.hashing import note_files
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.data.prepared import write_classes
from siamese_diffusion.data.writer import PairWriter, read_rows, written_earlier
from siamese_diffusion.errors import InputError
from siamese_diffusion.evaluation.carded import hand_on
from siamese_diffusion.evaluation.metrics.class_fit import WORST
from siamese_diffusion.evaluation.scores import read_evaluation, read_fits
from siamese_diffusion.files import hash_json
from siamese_diffusion.lock import hold
from siamese_diffusion.progress import notify

FEW = 0.2
"""Share of the pairs below which what is left is doubtful too."""


def filter_(
    scores: StrPath | None,
    out: StrPath,
    min_dice: float | None = None,
    max_boundary: float | None = None,
    drop_flagged: bool = False,
    synthetic: StrPath | None = None,
    resume: bool = False,
    anyway: bool = False,
    worst_class: bool = False,
    drop: Collection[str] = (),
) -> dict[str, Any]:
    """Write the synthetic pairs above a threshold. Nothing is drawn again, and a pair keeps its line of the manifest.

    Where the judge sees the lesions no better than with other pairs' masks, those above the threshold are there by
    chance, and what is left of noise is noise: that is refused. Where few are left, that is said.

    Args:
        scores: folder that `evaluate` wrote; None: nothing is left out but `drop` of `synthetic`.
        out: folder of pairs to write.
        min_dice: smallest Dice of a pair, 0 to 1.
        max_boundary: largest boundary distance of a pair, as a share of the image's diagonal, 0 to 1.
        drop_flagged: leave out what was flagged as a copy of a training image.
        synthetic: the pairs that were scored; default: where they were then.
        resume: go on with a folder that an earlier call began.
        anyway: choose by mask fit even where it is no better than chance.
        worst_class: of several classes `min_dice` is for the worst one of a pair; default: for their mean.
        drop: names of pairs to leave out whatever their scores, as somebody who looked at them said.

    Returns:
        `out`, `pairs` considered, `kept`, `share` (of them, 0 to 1), `flagged`, `low` and `dropped` (left out for each
        reason; several may hold), and `dice`, the mean of the kept, None without scores.

    Raises:
        InputError: no criterion, one out of range, a name that no pair has, `scores` holds no finished evaluation of
            these pairs, its mask fit is no better than chance, no pair is left, or `out` holds pairs already, or others
            than these, or anything else.
    """
    out = to_path(out)
    scores, synthetic = to_path_or_none(scores, "--scores"), to_path_or_none(synthetic, "--synthetic")
    _require_criteria(scores, synthetic, min_dice, max_boundary, drop_flagged, drop)
    if worst_class and min_dice is None:
        raise InputError("filter: --worst-class is for --min-dice; give that too")
    require_apart(out, scores=scores, synthetic=synthetic)
    scored = _unscored(synthetic) if scores is None else _read_scores(scores, synthetic, drop_flagged, worst_class)
    require_apart(out, synthetic=scored.folder)
    if scored.by_chance is not None and not anyway and (min_dice is not None or max_boundary is not None):
        raise InputError(f"filter: {scored.by_chance}; --anyway chooses all the same")
    unknown = sorted(set(drop) - {pair.name for pair in scored.pairs})
    if unknown:
        raise InputError(f"--drop {unknown[0]}: {scored.folder} has no pair of this name")
    low = {
        name
        for name, (dice, boundary) in scored.fits.items()
        if (min_dice is not None and dice < min_dice) or (max_boundary is not None and boundary > max_boundary)
    }
    kept = [pair for pair in scored.pairs if pair.name not in low | scored.copies | set(drop)]
    if not kept:
        best = max((dice for dice, _ in scored.fits.values()), default=None)
        told = "" if best is None else f" (the best Dice is {best:.3f})"
        raise InputError(f"filter: none of {len(scored.pairs)} pairs is left{told}; ask for less")
    inputs = {
        "command": "filter",
        "--min-dice": min_dice,
        "--max-boundary": max_boundary,
        "--drop-flagged": drop_flagged,
        **({"--worst-class": True} if worst_class else {}),
        "--drop": sorted(drop),
        "scores": hash_json([sorted(scored.fits.items()), sorted(scored.copies)]),
        "pairs": len(scored.pairs),
        **note_files([path for pair in scored.pairs for path in pair.files]),
    }
    with hold(out):
        claim = Claim(out, None, {}, inputs, resume, earlier=lambda: written_earlier(out))
        _require_own_rows(out, kept)
        claim.write()
        _write(out, kept, len(scored.pairs))
        asked = {"mask fit (Dice) from": min_dice, "boundary distance to": max_boundary}
        how = [f"{what} {value:g}" for what, value in asked.items() if value is not None]
        how += ["no flagged copies"] if drop_flagged else []
        how += [f"{len(set(drop))} left out by hand"] if drop else []
        hand_on(scores, scored.folder, out, f"{len(kept)} of {len(scored.pairs)}: {', '.join(how)}")
    return {
        "out": str(out),
        "pairs": len(scored.pairs),
        "kept": len(kept),
        "share": len(kept) / len(scored.pairs),
        "low": len(low),
        "flagged": len(scored.copies),
        "dropped": len(set(drop)),
        "dice": sum(scored.fits[pair.name][0] for pair in kept) / len(kept) if scored.fits else None,
    }


def _require_criteria(
    scores: Path | None,
    synthetic: Path | None,
    min_dice: float | None,
    max_boundary: float | None,
    drop_flagged: bool,
    drop: Collection[str],
) -> None:
    for option, value in (("min-dice", min_dice), ("max-boundary", max_boundary)):
        if value is not None and not 0 <= value <= 1:
            raise InputError(f"--{option} {value}: must be between 0 and 1")
    by_scores = min_dice is not None or max_boundary is not None or drop_flagged
    if not by_scores and not drop:
        raise InputError(
            "filter: nothing to filter by; give --min-dice, --max-boundary or --drop-flagged, or pairs to --drop"
        )
    if scores is None and by_scores:
        raise InputError(
            "filter: --min-dice, --max-boundary and --drop-flagged need --scores, a folder that `evaluate` wrote"
        )
    if scores is None and synthetic is None:
        raise InputError("filter: which pairs? give --scores, a folder that `evaluate` wrote, or --synthetic")


def _write(out: Path, kept: list[Pair], of: int) -> None:
    share = len(kept) / of
    if share < FEW:
        notify(
            f"filter: only {100 * share:.0f} % of the pairs are left; what made most of them unfit is likely to be "
            "in the rest too. Look at them, and train longer or draw more before they are used"
        )
    write_classes(out, kept[0].mask.decoding.class_names)
    with PairWriter(out, resume=True) as writer:
        for pair in progress.track(kept, "writing pairs"):
            if pair.name not in writer.done:
                image, mask = pair.read()
                writer.write(pair.name, image, mask, pair.prompt or "", pair.extra)


class Scored(NamedTuple):
    """Pairs with what `evaluate` found."""

    folder: Path
    pairs: list[Pair]
    fits: dict[str, tuple[float, float]]
    """Dice and boundary distance by name."""
    copies: set[str]
    """Names of those to leave out as copies of training images."""
    by_chance: str | None
    """Why their fit says nothing, where that is so."""


def _unscored(synthetic: Path | None) -> Scored:
    assert synthetic is not None
    return Scored(synthetic, open_as_written(synthetic, "--synthetic").pairs(), {}, set(), None)


def _read_scores(scores: Path, synthetic: Path | None, drop_flagged: bool, worst_class: bool) -> Scored:
    metrics = read_evaluation(scores)
    if worst_class and "classes" not in metrics["fit"]:
        raise InputError(f"--worst-class: {scores} is of masks of one class; leave it out")
    fits = read_fits(scores / "fit.csv", WORST if worst_class else "dice")
    folder = synthetic or Path(metrics["protocol"]["synthetic"])
    pairs = open_as_written(folder, "--synthetic" if synthetic else "data folder").pairs()
    if {pair.name for pair in pairs} != set(fits):
        raise InputError(f"{folder}: holds other pairs than {scores / 'fit.csv'} has scores of; run `evaluate` again")
    copies = {row["synthetic"] for row in metrics["novelty"]["flagged"]} if drop_flagged else set()
    return Scored(folder, pairs, fits, copies, _by_chance(metrics))


def _by_chance(metrics: Mapping[str, Any]) -> str | None:
    fit = metrics["fit"]
    if fit["dice"]["low"] > fit["shuffled"]["high"]:
        return None
    return (
        f"the judge's Dice with the masks asked for, {100 * fit['dice']['mean']:.1f} %, is no better than with other "
        f"pairs' masks, {100 * fit['shuffled']['mean']:.1f} %, so the pairs above a threshold are there by chance; "
        "train the generator longer, or give a better judge (--judge RUN of evaluate)"
    )


def _require_own_rows(out: Path, kept: list[Pair]) -> None:
    """Every pair that is there already is one of those that are kept."""
    rows = {pair.name: {"prompt": pair.prompt or "", **pair.extra} for pair in kept}
    for name, row in read_rows(out).items():
        if {key: value for key, value in row.items() if key not in ("image", "mask")} != rows.get(name):
            raise InputError(f"--out {out}: holds pair {name}, which is not one of these; name another folder")
