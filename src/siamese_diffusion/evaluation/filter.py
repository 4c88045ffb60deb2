"""The `filter` command: keep the synthetic pairs that `evaluate` found good enough, as a folder of pairs."""

from pathlib import Path
from typing import Any

from siamese_diffusion import progress
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.data.writer import PairWriter
from siamese_diffusion.errors import InputError
from siamese_diffusion.evaluation.scores import read_evaluation, read_fits


def filter_(
    scores: Path,
    out: Path,
    min_dice: float | None = None,
    max_boundary: float | None = None,
    drop_flagged: bool = False,
    synthetic: Path | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Write the synthetic pairs above a threshold. Nothing is drawn again, and a pair keeps its line of the manifest.

    Args:
        scores: folder that `evaluate` wrote.
        out: folder of pairs to write.
        min_dice: smallest Dice of a pair, 0 to 1.
        max_boundary: largest boundary distance of a pair, as a share of the image's diagonal, 0 to 1.
        drop_flagged: leave out what was flagged as a copy of a training image.
        synthetic: the pairs that were scored; default: where they were then.
        resume: go on with a folder that an earlier call began.

    Returns:
        `pairs` considered, `kept`, `flagged` and `low` (dropped for either reason; both may hold), and `dice`, the mean
        of the kept.

    Raises:
        InputError: no criterion, one out of range, `scores` holds no finished evaluation of these pairs, or no pair is
            left.
    """
    for option, value in (("min-dice", min_dice), ("max-boundary", max_boundary)):
        if value is not None and not 0 <= value <= 1:
            raise InputError(f"--{option} {value}: must be between 0 and 1")
    if min_dice is None and max_boundary is None and not drop_flagged:
        raise InputError("filter: nothing to filter by; give --min-dice, --max-boundary or --drop-flagged")
    if out.resolve() == (synthetic or scores).resolve():
        raise InputError(f"--out {out}: is the folder that is filtered; name another")
    metrics = read_evaluation(scores)
    fits = read_fits(scores / "fit.csv")
    folder = synthetic or Path(metrics["protocol"]["synthetic"])
    pairs = DataFolder(folder, "--synthetic").pairs()
    if {pair.name for pair in pairs} != set(fits):
        raise InputError(f"{folder}: holds other pairs than {scores / 'fit.csv'} has scores of; run `evaluate` again")
    copies = {row["synthetic"] for row in metrics["novelty"]["flagged"]} if drop_flagged else set()

    def low(pair: Pair) -> bool:
        dice, boundary = fits[pair.name]
        return (min_dice is not None and dice < min_dice) or (max_boundary is not None and boundary > max_boundary)

    kept = [pair for pair in pairs if not low(pair) and pair.name not in copies]
    if not kept:
        best = max(dice for dice, _ in fits.values())
        raise InputError(f"filter: none of {len(pairs)} pairs is left (the best Dice is {best:.3f}); ask for less")
    with PairWriter(out, resume) as writer:
        for pair in progress.track(kept, "writing pairs"):
            if pair.name not in writer.done:
                image, mask = pair.read()
                writer.write(pair.name, image, mask, pair.prompt or "", pair.extra)
    return {
        "out": str(out),
        "pairs": len(pairs),
        "kept": len(kept),
        "low": sum(low(pair) for pair in pairs),
        "flagged": len(copies),
        "dice": sum(fits[pair.name][0] for pair in kept) / len(kept),
    }
