"""Train a segmentation network on real, or real and synthetic, pairs, and score it on test sets.

Design note: the epoch is picked on validation pairs, never on a test set or on a fold that is held out, and an arm with
synthetic pairs takes exactly as many optimisation steps as the arm without.
"""

from collections.abc import Sequence
from typing import Any

from siamese_diffusion.arguments import Settings, StrPath, to_config, to_list, to_path
from siamese_diffusion.checkpoints import latest_checkpoint
from siamese_diffusion.claim import require_apart
from siamese_diffusion.config import Config, update
from siamese_diffusion.data.classes import class_names
from siamese_diffusion.data.decoding import plain_settings
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.data.splits import (
    require_backgrounds_apart,
    require_disjoint,
    sets_for_testing,
    train_and_validation,
    validation_list,
)
from siamese_diffusion.device import find_device, precision_on
from siamese_diffusion.lock import hold
from siamese_diffusion.segmentation import arms as arms_of
from siamese_diffusion.segmentation import crossvalidation, networks, training
from siamese_diffusion.segmentation.batches import sides_of
from siamese_diffusion.segmentation.material import Material


def segment(
    train: StrPath | DataFolder,
    out: StrPath,
    test: StrPath | Sequence[StrPath | DataFolder] = (),
    synthetic: StrPath | Sequence[StrPath | DataFolder] | None = None,
    config: Settings = None,
    network: str | None = None,
    resume: bool = False,
    device: str = "auto",
    folds: int | None = None,
    arms: str | None = None,
    seeds: int | None = None,
) -> dict[str, Any]:
    """Train a segmentation network and score it; or several, which say whether synthetic pairs help.

    With `synthetic` both arms are trained, real pairs alone and real with synthetic ones, and compared. With `folds`
    there is a network for each fold of a cross-validation.

    What `config` does not set comes from the network's own recipe (`network_recipes.py`).
    Validation pairs are split `val` of `train`'s `splits.json`, or else a share of the training pairs, drawn.
    Images and masks are squared to `segment.resolution`, and scores are taken at that size, or with `segment.score_at`
    of native at each test mask's own, the map resized to it.

    Args:
        train: folder of real pairs.
        out: run folder; gets `config.yaml`, `best.safetensors`, `metrics.json`, `test/SET.csv`, `samples/step-*.png`,
            `curves.png` and `report.html`. With `folds` a run in each `fold-0/`, ..., and `summary.json`,
            `folds.json`, `out-of-fold/` and the page. With several arms or seeds a run in each `ARM/seed-0/`, ...,
            and `arms.json` and the page.
        test: folders of test pairs (split `test` where there is a `splits.json`, else all); may be empty.
        synthetic: folders of synthetic pairs to train on besides.
        config: the settings; default: the defaults.
        network: instead of `segment.network`.
        resume: go on with the run in `out`; a finished one is returned as it is.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        folds: divide the pairs of `train`, those of split `val` among them, into so many folds (`data.folds`), and hold
            out each in turn. See `crossvalidation.cross_validate` for what is returned then.
        arms: with `synthetic`: "both", or "mixed", only that with synthetic pairs; default: both. See `arms.compare`
            for what is returned of both arms, or of several seeds.
        seeds: trainings of each arm, from `segment.seed` on; default: 3 of both arms, else 1.

    Returns:
        `network`, `parameters`, `imagenet` (whether it began with ImageNet weights; of smp also `weights`: which, and
        where from), `seed`, `train` (folders and counts), `step` (the selected one), `stopped` (the step at which
        `segment.patience` ended training, else None), `val` {mDice, mIoU, count}, `test` {set: {mDice, mIoU, count,
        ...}}, and `mean` (over sets) and `weighted` (by size) {mDice, mIoU, ...}, None without sets. `mDice` and `mIoU`
        are over images with a lesion; of healthy ones there are `healthy` (their number), `specificity` and
        `healthy_area` (see `metrics.SetScores.means`); the rest are the field's (`pranet_metrics.py`). `calibration`
        {set: {ece, ece_seen}} is in `findings.py`.

    Raises:
        InputError: bad input, a test image (or a file of the same content) among the training ones, `out` holds a run
            and `resume` is false, or `resume` is true and the run was made with other settings or folders, or another
            command is writing `out`.
        KeyboardInterrupt: interrupted; the state is saved first.
    """
    out, config = to_path(out), to_config(config)
    test, synthetic = to_list(test), to_list(synthetic)
    require_apart(out, train=train, test=test, synthetic=synthetic)
    if network is not None:
        config = update(config, "segment", network=network)
    config = update(config, "segment", precision=precision_on(find_device(device), config.segment.precision))
    train = DataFolder.of(train, "--train", config.data).require_real()
    config = train.resolved(config)
    classes = max(1, len(class_names(config.data)))
    training.require_consistent(config.segment, classes)
    names, count = arms_of.chosen(bool(synthetic), arms, seeds, folds)
    several = len(names) > 1 or count > 1
    with hold(out):
        first = (out / names[0] if several else out) / ("seed-0" if several and folds is None else "")
        begun = latest_checkpoint(first if folds is None else first / "fold-0") is not None
        networks.require(config.segment, sides_of(config.segment), begun, classes)
        material = _material(train, test, synthetic, config, folds is not None)
        if several:
            return arms_of.compare(material, out, config, names, count, folds, resume, device)
        if folds is not None:
            return crossvalidation.cross_validate(material, out, config, folds, resume, device)
        return training.run(material, out, config, resume, device)


def _material(
    data: DataFolder,
    test: Sequence[StrPath | DataFolder],
    synthetic: Sequence[StrPath | DataFolder],
    config: Config,
    folds: bool,
) -> Material:
    """All pairs, opened and disjoint; for folds those for training and validation are not parted yet."""
    settings = config.segment
    chosen = data.pairs(config.data.split, config.data.limit, config.data.limit_seed)
    real: list[Pair]
    validation: list[Pair]
    if folds:
        listed = {pair.name: pair for pair in [*chosen, *(validation_list(data) or [])]}
        real, validation = [listed[name] for name in sorted(listed)], []
    else:
        real, validation = train_and_validation(data, chosen, settings.validation, settings.seed)
    more = [DataFolder.of(folder, "--synthetic", plain_settings(config.data)) for folder in synthetic]
    made = [pair for folder in more for pair in folder.pairs()]
    tests = sets_for_testing([DataFolder.of(folder, "--test", config.data).require_real() for folder in test])
    require_disjoint([*real, *validation, *made], tests)
    require_backgrounds_apart(made, tests)
    return Material(data, real, validation, made, [folder.path for folder in more], tests)
