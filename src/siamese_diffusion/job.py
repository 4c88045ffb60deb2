"""The `run` command: from a folder of pairs to a better network, stage after stage, and one page about all of it.

Design note: each stage is a command of its own in a folder of its own, with the settings that a user would have typed,
so it can be looked at, repeated and gone on with by hand. What is finished is not done again. A stage that says no
(images that do not obey, pairs that are too few) does not end the job: the page says so, and the network is trained on
the real pairs alone.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from os import fspath
from pathlib import Path
from typing import Any

from siamese_diffusion.arguments import Settings, StrPath, to_config, to_path
from siamese_diffusion.claim import Claim, require_apart
from siamese_diffusion.config import Config, default_config, update
from siamese_diffusion.data.check import check
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.hashing import note_files
from siamese_diffusion.data.prepare import prepare
from siamese_diffusion.data.splits import own_test_pairs
from siamese_diffusion.diffusion.sample import sample
from siamese_diffusion.diffusion.train import train
from siamese_diffusion.errors import InputError
from siamese_diffusion.evaluation.evaluate import evaluate
from siamese_diffusion.evaluation.filter import filter_
from siamese_diffusion.files import read_json, write_json
from siamese_diffusion.job_page import write_job_page
from siamese_diffusion.lock import hold
from siamese_diffusion.progress import notify
from siamese_diffusion.segmentation.networks.encoder_weights import has_weights
from siamese_diffusion.segmentation.segment import segment

SPLIT = "0.7,0.1,0.2"
"""Training, validation and test, where the folder has no test list."""
LEAST = 20
"""Pairs: with fewer there are too few for a test that says anything."""
RECIPE = "flip-scale-shift"
OBEDIENT = 0.75
"""Share of the judge's own Dice from which a pair is kept."""
ENCODER = "tu-tf_efficientnet_lite0"
SUMMARY = "summary.json"


def run(
    data: StrPath,
    out: StrPath,
    backbone: StrPath = "small",
    per_mask: int = 1,
    config: Settings = None,
    dry_run: bool = False,
    resume: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """Check, train, sample, evaluate, filter and segment, with and without the new pairs.

    Args:
        data: folder of pairs, in any layout. Without a list of test pairs it is divided first (`prepare --split`).
        out: gets a folder for each stage (`data`, `train`, `sample`, `evaluate`, `filter`, `segment`), `report.html`
            and, last, `summary.json`.
        backbone: as for `train`.
        per_mask: images drawn for each training mask.
        config: settings of all stages; default: those of the backbone. Where no network is set and the extra
            `imagenet` is installed, segmentation begins with its weights.
        dry_run: write nothing; say what would be done, and how long it takes here.
        resume: go on with an interrupted job.
        device: "auto", "cpu", "cuda" ...

    Returns:
        `out`, `report`, `stages` (seconds of each), `verdicts` [{question, word, because}], `pairs` {real, drawn,
        kept}, and `network`, the run to predict with. Of a dry run `stages`: {name: {what, hours}}, and `hours`.

    Raises:
        InputError: what a stage says, `data` cannot be used or holds fewer than `LEAST` pairs, or `out` is in use.
        KeyboardInterrupt: interrupted; the stage has saved its state.
    """
    data, out, backbone = to_path(data, "--data"), to_path(out), fspath(backbone)
    require_apart(out, data=data)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("run: is one process; on several devices launch its stages (docs/scale-out.md)")
    config = _settings(to_config(config, partial(default_config, backbone)))
    if config.data.split is None:
        raise InputError("data.split = null: trains on all pairs, and `run` tests on those that it did not train on")
    folder = DataFolder(data, "--data", config.data).require_real()
    config = folder.resolved(config)
    _require_usable(folder, config)
    if dry_run:
        from siamese_diffusion.job_estimate import estimate

        return estimate(folder, backbone, per_mask, config, device)
    pairs = folder.pairs()
    files = note_files([path for pair in pairs for path in pair.files])
    inputs = {"command": "run", "--backbone": backbone, "--per-mask": per_mask, "pairs": len(pairs), **files}
    with hold(out):
        claim = Claim(out, config, dict.fromkeys(Config.model_fields), inputs, resume)
        if (out / SUMMARY).exists():
            return read_json(out / SUMMARY, dict[str, Any])
        claim.write()
        return _Job(folder, out, backbone, per_mask, config, device).do()


class _Job:
    def __init__(
        self, folder: DataFolder, out: Path, backbone: str, per_mask: int, config: Config, device: str
    ) -> None:
        self.out, self.backbone, self.per_mask, self.config, self.device = out, backbone, per_mask, config, device
        self.times = out / "stages.json"
        self.source = self.data = folder.path
        self.own = bool(own_test_pairs(folder))

    def do(self) -> dict[str, Any]:
        """All stages, those that are finished read back."""
        out, config, device = self.out, self.config, self.device
        if not self.own:
            self.data = out / "data"
            self._stage("prepare", lambda: prepare(self.source, self.data, config, split=SPLIT, resume=True))
        trained = self._stage(
            "train",
            lambda: train(self.data, out / "train", self.backbone, config=config, resume=True, device=device),
            out / "train" / "summary.json",
        )
        drawn = self._stage(
            "sample",
            lambda: sample(
                out / "train", self.data, out / "sample", self.per_mask, random_masks=RECIPE, resume=True, device=device
            ),
        )
        scores = self._stage(
            "evaluate",
            lambda: evaluate(self.data, out / "sample", out / "evaluate", config, resume=True, device=device),
        )
        kept, refused = self._filter(scores)
        segmented = self._stage("segment", lambda: self._segment(kept is not None))
        result = self._result(trained, drawn, scores, kept, refused, segmented)
        write_job_page(out, result, self.data, config)
        write_json(out / SUMMARY, result)
        return result

    def _stage(self, name: str, do: Callable[[], dict[str, Any]], finished: Path | None = None) -> dict[str, Any]:
        """Do a stage, unless `finished`, a file that it writes last, is there; note how long it took."""
        if finished is not None and finished.exists():
            return read_json(finished, dict[str, Any])
        notify(f"{name}: {self.data if name == 'prepare' else self.out / name}")
        begun = time.monotonic()
        result = do()
        times: dict[str, float] = read_json(self.times, dict[str, float]) if self.times.exists() else {}
        times.setdefault(name, round(time.monotonic() - begun, 1))
        write_json(self.times, times)
        return result

    def _filter(self, scores: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
        """What was kept; or nothing, and why."""
        least = round(OBEDIENT * float(scores["fit"]["judge"]["dice"]), 2)
        try:
            return self._stage(
                "filter",
                lambda: filter_(
                    self.out / "evaluate", self.out / "filter", min_dice=least, drop_flagged=True, resume=True
                ),
            ), None
        except InputError as error:
            if not str(error).startswith("filter: "):
                raise
            notify(str(error))
            return None, str(error).removeprefix("filter: ").partition("; --anyway")[0]

    def _segment(self, mixed: bool) -> dict[str, Any]:
        made = [self.out / "filter"] if mixed else None
        return segment(self.data, self.out / "segment", [self.data], made, self.config, resume=True, device=self.device)

    def _result(
        self,
        trained: dict[str, Any],
        drawn: dict[str, Any],
        scores: dict[str, Any],
        kept: dict[str, Any] | None,
        refused: str | None,
        segmented: dict[str, Any],
    ) -> dict[str, Any]:
        answer = segmented.get("verdict") or {
            "question": "Does segmentation improve with the synthetic pairs?",
            "word": "cannot tell",
            "because": f"The network is trained on real pairs alone. No synthetic pairs were used: {refused}.",
        }
        verdicts = [answer, *trained["verdicts"], *scores["verdicts"]]
        best = self.out / "segment" / segmented["best"] if "best" in segmented else self.out / "segment"
        return {
            "out": str(self.out),
            "report": str(self.out / "report.html"),
            "pairs": {
                "real": trained["pairs"],
                "drawn": drawn["pairs"],
                "kept": 0 if kept is None else kept["kept"],
            },
            "verdicts": [{name: each[name] for name in ("question", "word", "because")} for each in verdicts],
            "stages": read_json(self.times, dict[str, float]),
            "network": str(best),
        }


def render(result: dict[str, Any]) -> str:
    """What `run` returned, for the terminal."""
    if "hours" in result:
        lines = [f"{name:<9} {each['what']}: {_hours(each['hours'])}" for name, each in result["stages"].items()]
        return "\n".join([*lines, f"in all about {_hours(result['hours'])} on this machine, as it is now"])
    lines = [f"{each['question']} {each['word']}. {each['because']}" for each in result["verdicts"]]
    pairs = result["pairs"]
    lines.append(f"{pairs['real']} real pairs, {pairs['drawn']} drawn, {pairs['kept']} kept")
    lines.append(f"the report: {result['report']}")
    lines.append(f"next: siamese-diffusion predict --network {result['network']} --images IMAGES --out FOUND")
    return "\n".join(lines)


def _hours(hours: float) -> str:
    return f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.1f} h"


def _settings(config: Config) -> Config:
    """With ImageNet weights for segmentation, where they are installed and no network was chosen."""
    chosen = config.segment.given()
    if {"network", "encoder", "architecture"} & chosen.keys() or not has_weights(ENCODER):
        return config
    notify(f"segmentation begins with the ImageNet weights of {ENCODER}, which are installed")
    return update(update(config, "segment", encoder=ENCODER, weights="imagenet"), "evaluate", fit_network="smp")


def _require_usable(folder: DataFolder, config: Config) -> None:
    found = check(folder.path, config.data)
    if not found.usable:
        problem = next(each for each in found.problems if each.fatal)
        raise InputError(
            f"--data {folder.path}: {problem.file}: {problem.detail}; `siamese-diffusion check {folder.path}` lists "
            "every problem"
        )
    if found.pairs < LEAST:
        raise InputError(f"--data {folder.path}: has {found.pairs} pairs; `run` takes at least {LEAST}")
