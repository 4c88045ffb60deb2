"""What is left of a study and how long it takes on this machine: two steps of each kind are timed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from siamese_diffusion import job_estimate as timed
from siamese_diffusion.config import Config, build_config
from siamese_diffusion.device import find_device
from siamese_diffusion.diffusion.backbone import Backbone
from siamese_diffusion.diffusion.train import load_base
from siamese_diffusion.files import hash_json
from siamese_diffusion.studies.plan import Plan
from siamese_diffusion.studies.stages import Stage

WORDS = {
    "backbone": "a small backbone",
    "train": "training of a generator",
    "sample": "drawing",
    "copy-paste": "pasting lesions",
    "judge": "training of a judge",
    "score": "mask fit of what was drawn",
    "filter": "choosing pairs",
    "segment": "training and testing of a segmentation network",
}
"""Kinds of stages, as they are told."""


def hours_left(plan: Plan, device: str) -> list[dict[str, Any]]:
    """For each kind of stage that is still to be run, in the order of the work: `kind`, `what`, `stages` and `hours`.

    `hours` are of one stage after the other. They are 0 where a kind takes minutes at most, and None where the backbone
    is to be fetched from the hub first, which a dry run does not do.
    """
    clock = _Clock(plan, device)
    found: dict[str, dict[str, Any]] = {}
    for stage in plan.wanted():
        row = found.setdefault(stage.kind, {"kind": stage.kind, "what": WORDS[stage.kind], "stages": 0, "hours": 0.0})
        seconds = clock.seconds(stage)
        row["stages"] += 1
        row["hours"] = None if seconds is None or row["hours"] is None else row["hours"] + seconds / 3600
    return [found[kind] for kind in WORDS if kind in found]


class _Clock:
    """Times each kind of step once for settings that are alike."""

    def __init__(self, plan: Plan, device: str) -> None:
        self.origin, self.place = plan.study.origin, find_device(device)
        self.images = {stage.key: len(made.cell.real) for made in plan.made for stage in made.rounds}
        self._known: dict[str, Any] = {}

    def seconds(self, stage: Stage) -> float | None:
        """Seconds that a stage takes; None: not known before its backbone is here."""
        config = build_config(stage.values, self.origin)
        if stage.kind in ("judge", "segment"):
            return config.segment.steps * self._segmenting(config)
        if stage.kind == "backbone":
            return config.pretrain.steps * self._pretraining(config)
        if stage.kind == "train":
            both = self._training(config, stage)
            return None if both is None else config.train.steps * both[1]
        if stage.kind == "sample":
            both = self._training(config, stage.needs[0] if stage.needs else None)
            return None if both is None else self.images[stage.key] * timed.passes(config) * both[0]
        return 0.0

    def _once(self, key: Any, measure: Callable[[], Any]) -> Any:
        name = hash_json(key)
        if name not in self._known:
            self._known[name] = measure()
        return self._known[name]

    def _segmenting(self, config: Config) -> float:
        segment = config.segment.model_dump(mode="json", exclude={"steps", "seed"})
        seconds: float = self._once(["segment", segment], lambda: timed.segmenting(config, self.place))
        return seconds

    def _pretraining(self, config: Config) -> float:
        def measure() -> float:
            return timed.pretraining(timed.untrained(config).to(self.place), config, self.place)

        backbone = config.backbone.model_dump(mode="json")
        key = ["backbone", backbone, config.data.resolution, config.pretrain.batch_size]
        seconds: float = self._once(key, measure)
        return seconds

    def _training(self, config: Config, stage: Stage | None) -> tuple[float, float] | None:
        """Seconds of an image's pass and of a step; `stage` trains the generator, None: it is a run of the user's."""
        small = stage is None or bool(stage.needs)
        source = "" if stage is None or small else str(stage.arguments["backbone"])

        def measure() -> tuple[float, float] | None:
            base: Backbone
            if small:
                base = timed.untrained(config)
            elif Path(source).exists():
                base = load_base(source, config.data.resolution)
            else:
                return None
            return timed.training(base.to(self.place), config, self.place)

        method, backbone = (part.model_dump(mode="json") for part in (config.method, config.backbone))
        key = ["train", source, method, backbone, config.data.resolution, config.train.batch_size]
        both: tuple[float, float] | None = self._once(key, measure)
        return both


def render(result: dict[str, Any]) -> str:
    """What a dry run returned, for the terminal."""
    total = result["done"] + result["to_run"]
    lines = [f"{result['done']} of {total} stages are done"]
    for row in result["plan"]:
        lines.append(f"{row['stages']:>5} x {row['what']}: {told(row['hours'])}")
    if result["to_run"]:
        about = told(result["hours"])
        known = about if result["hours"] is not None else f"{about}; the others: {told(result['hours_known'])}"
        lines.append(f"in all about {known} on this machine as it is now, one stage after the other")
        if result["workers"] > 1:
            lines.append(f"{result['workers']} workers share its cores, and end sooner where one leaves some idle")
    return "\n".join(lines)


def told(hours: float | None) -> str:
    """Hours, or minutes where they are few."""
    if hours is None:
        return "not known before the backbone has been fetched"
    if hours == 0:
        return "minutes at most"
    if hours * 60 < 1:
        return "less than a minute"
    return f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.1f} h"
