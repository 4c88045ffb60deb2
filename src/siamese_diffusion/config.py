"""Every setting of every command: typed, validated, with its unit and default.

Settings are resolved in this order, later wins: the defaults below, the preset or file given with `--config`,
`--set section.key=value`, and a command's own options. The resolved settings of a run are in its `config.yaml`.
"""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic.config import JsonDict

from siamese_diffusion.errors import InputError
from siamese_diffusion.network_recipes import RECIPES


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


_HARMLESS: JsonDict = {"harmless": True}
"""Marks a setting that does not change a result, rounding aside: it may differ when a run is resumed, and in a study."""


class DataConfig(Section):
    resolution: int = Field(96, ge=16, le=2048, description="side of the square images a model sees, in pixels")
    split: str | None = Field("train", description="list of splits.json that training uses; ignored without that file")
    limit: int | None = Field(None, ge=1, description="use this many pairs, drawn once; smaller draws are subsets of larger")
    limit_seed: int = Field(0, ge=0, description="seed of that draw")
    label: str = Field("polyp", min_length=1, description="what the mask marks; the prompt is 'A photo of LABEL'")
    prompt_dropout: float = Field(0.05, ge=0, le=1, description="probability that a prompt is replaced by the empty one")
    flip: Literal["none", "horizontal", "both"] = Field(
        "horizontal", description="random flips of image and mask in training"
    )
    images: str | None = Field(
        None, description="pattern of the images, 'scans/**/*.png' for example, where there is no pairs.jsonl"
    )
    masks: str | None = Field(
        None, description="pattern of the masks, or the name of a table or of COCO's annotations; default: found"
    )
    outside: bool = Field(
        False,
        description="whether manifests may name files outside their folder, by absolute paths or ../",
        json_schema_extra=_HARMLESS,
    )


class BackboneConfig(Section):
    """The small backbone that is trained from scratch (Stable Diffusion brings its own shape)."""

    patch: int = Field(4, ge=2, le=16, description="down-sampling factor of the first stage, a power of two")
    latent_channels: int = Field(8, ge=1, description="channels of the latent image")
    whitening: float = Field(0.5, ge=0, le=1, description="1: latent channels of equal variance; 0: of their own")
    channels: tuple[int, ...] = Field((64, 96, 160), description="UNet channels per level, multiples of 16")
    layers: int = Field(1, ge=1, description="residual blocks per level")
    attention: tuple[bool, ...] = Field((False, False, True), description="whether a level has attention")
    hint_channels: tuple[int, int] = Field((8, 16), description="Dense Hint Input's first widths; Stable Diffusion: 16, 32")
    text_dim: int = Field(64, ge=8, description="width of the prompt embedding, a multiple of 4")
    prediction: Literal["v_prediction", "epsilon"] = Field("v_prediction", description="what the UNet predicts")
    schedule: Literal["squaredcos_cap_v2", "scaled_linear"] = Field("squaredcos_cap_v2", description="noise schedule")


def _precision(value: Any) -> Any:
    """accelerate's name for single precision is `no`, which is false to YAML."""
    return "fp32" if value is False or value == "no" else value


Precision = Annotated[Literal["auto", "fp32", "tf32", "bf16", "fp16"], BeforeValidator(_precision)]
"""fp32 is single precision in every operation; the others let matrix products and convolutions run in TF32 or in 16 bits."""

PRECISION = "auto: bf16 on a GPU that has it, else fp32; fp32; tf32 (fp32 but for products); bf16 or fp16 (mixed)"


class LoopConfig(Section):
    """One optimisation: the same settings for the backbone, the two diffusions and a segmentation network."""

    steps: int = Field(3000, ge=1, description="optimiser steps")
    batch_size: int = Field(16, ge=1, description="samples an optimiser step, over all processes and accumulation")
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        None,
        description="samples in one forward pass of one process, the rest by accumulation; default: all; auto: as many as "
        "fit the memory",
    )
    learning_rate: float = Field(1e-4, gt=0)
    schedule: Literal["constant", "cosine"] = Field("constant", description="learning rate after warm-up")
    warmup: int = Field(0, ge=0, description="steps of linear learning-rate warm-up")
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0)
    clip: float | None = Field(None, gt=0, description="largest global gradient norm; default: not clipped")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the moving average of the weights; 0: none")
    precision: Precision = Field("auto", description=PRECISION)
    optimizer: Literal["adamw", "adafactor", "sgd"] = Field(
        "adamw",
        description="adafactor keeps row and column means instead of 8 bytes of state a weight; sgd is Nesterov's, betas[0]",
    )
    release_gradients: bool = Field(
        False,
        description="apply each gradient as soon as it is there and free it: the same weights; no micro_batch, no clip",
        json_schema_extra=_HARMLESS,
    )
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="processes that make batches ahead of the step; auto: up to 4 where a GPU would wait, else none",
        json_schema_extra=_HARMLESS,
    )
    log_every: int = Field(20, ge=1, description="steps between lines of log.jsonl", json_schema_extra=_HARMLESS)
    sample_every: int = Field(500, ge=1, description="steps between sample grids (segmentation: validations)")
    checkpoint_every: int = Field(500, ge=1, description="steps between checkpoints", json_schema_extra=_HARMLESS)
    keep: int = Field(2, ge=1, description="checkpoints kept, the newest", json_schema_extra=_HARMLESS)
    seed: int = Field(0, ge=0)


class DiffusionLoopConfig(LoopConfig):
    compile: bool = Field(
        False,
        description="torch.compile of each residual and attention block: minutes at the start, then faster steps",
        json_schema_extra=_HARMLESS,
    )


class TrainConfig(DiffusionLoopConfig):
    decoder_rate: float = Field(1.0, ge=0, description="factor on the learning rate of the UNet's decoder")
    hint_rate: float = Field(
        1.0, ge=0, description="factor on that of the hint embedding, which dies of a high one (docs/backbones.md)"
    )
    checkpointing: bool | Literal["selective", "auto"] = Field(
        False,
        description="recompute activations: less memory, more time, the same gradients; selective: only the cheap ones; "
        "auto: selective, unless micro_batch auto finds room for 16 samples without",
    )


class MethodConfig(Section):
    name: Literal["siamese", "mask-only", "adc"] = Field(
        "siamese", description="the two diffusions; ControlNet alone; or the authors' follow-up with a teacher of its own"
    )
    hint: Literal["dense", "stock"] = Field("dense", description="Dense Hint Input, or ControlNet's stock embedding")
    mask_weight: float = Field(1.0, ge=0, description="w_m, weight of the mask features in the mixed control")
    image_weight: float | Literal["linear"] | None = Field(
        None, description="w_i: linear is step / max_steps; default: linear, and 0.25 for adc"
    )
    consistency: float = Field(1.0, ge=0, description="weight of the noise consistency (adc: distillation) loss L_c")
    augmentation: float = Field(1.0, ge=0, description="weight of the online augmentation loss L_a; adc has none")
    augmentation_start: float = Field(1 / 3, ge=0, le=1, description="progress after which L_a counts")
    augmentation_timesteps: int = Field(200, ge=0, description="largest timestep whose samples count in L_a")


class SampleConfig(Section):
    scheduler: Literal["ddim", "dpm", "unipc"] = Field(
        "ddim", description="DDIM (eta 0), or DPM-Solver++ or UniPC (both of second order)"
    )
    steps: int = Field(50, ge=1, le=1000, description="denoising steps")
    guidance: float = Field(
        1.0, ge=0, description="classifier-free guidance on the prompt; 1: none, one network pass a step"
    )
    mask_guidance: float = Field(2.0, ge=0, description="guidance on the mask, ours and not the paper's; 1: off")
    guidance_interval: tuple[float, float] = Field(
        (0.0, 1.0), description="both guidances are on between these shares of the timesteps (0: clean, 1: noise)"
    )
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        16, description="images drawn together, which changes their rounding; auto: as many as fit the free memory, up to 64"
    )
    precision: Precision = Field("auto", description=PRECISION.replace("bf16 on a GPU that has it", "fp16 on a GPU"))
    compile: bool = Field(
        False, description="torch.compile of each block: pays for thousands of images", json_schema_extra=_HARMLESS
    )
    seed: int = Field(0, ge=0, description="image i of a run depends on this seed, its mask and its copy number only")
    shard_size: int = Field(
        1000, ge=1, description="pairs of a WebDataset shard; as many are redrawn after a kill", json_schema_extra=_HARMLESS
    )


class SegmentConfig(LoopConfig):
    """The defaults are those of `unet` and `segformer`; another network's own are in `network_recipes.py`."""

    network: str = Field("unet", description="name in segmentation.networks")
    resolution: int = Field(96, ge=32, le=2048, description="side of the square input in pixels, a multiple of 32")
    steps: int = Field(600, ge=1)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup: int = Field(50, ge=0)
    weight_decay: float = Field(1e-4, ge=0)
    sample_every: int = Field(100, ge=1, description="steps between validations")
    checkpoint_every: int = Field(100, ge=1, json_schema_extra=_HARMLESS)
    keep: int = Field(1, ge=1, json_schema_extra=_HARMLESS)
    validation: float = Field(0.1, gt=0, lt=1, description="share of the training pairs held out when there is no val split")
    synthetic_share: float = Field(0.5, gt=0, lt=1, description="share of synthetic pairs in each batch, in expectation")
    pretrained: bool | Literal["auto"] = Field(
        False, description="start from ImageNet weights (downloaded on first use); auto: where they can be had"
    )
    loss: Literal["bce-dice", "sanet", "two-class", "structure", "structure-contrast"] = Field(
        "bce-dice", description="name in segmentation.losses"
    )
    backbone_rate: float = Field(1.0, ge=0, description="factor on the learning rate of the encoder")
    halve_at: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (), description="shares of the steps after each of which the learning rate is halved"
    )
    clip_value: float | None = Field(None, gt=0, description="largest entry of a gradient; default: not clipped")
    augmentation: Literal["affine", "flip-turn", "none"] = Field(
        "affine", description="flips, turns, small affine maps and colour; flips and quarter turns alone; or nothing"
    )
    colour_exchange: float = Field(0.0, ge=0, le=1, description="probability that an image takes another's colours")
    colour_overflow: Literal["wrap", "clip"] = Field("wrap", description="its values beyond 0..255: modulo 256, or clipped")
    multiscale: Literal["none", "drawn", "cycle"] = Field(
        "none", description="train at several sizes: one drawn for each step, or each batch once at every size"
    )
    scales: tuple[Annotated[float, Field(gt=0, le=4)], ...] = Field(
        (1.0,), min_length=1, description="those sizes over the resolution, rounded to multiples of 32 pixels"
    )
    scale_weights: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, description="how often each is drawn, relative to the others; default: equally"
    )
    correction: bool = Field(False, description="SANet's probability correction of the maps that are scored")
    score_at: Literal["input", "native"] = Field(
        "input", description="test scores at the network's resolution, or at each mask's own size, as PraNet's tool"
    )

    @model_validator(mode="wrap")
    @classmethod
    def _of_network(cls, values: Any, handler: ModelWrapValidatorHandler["SegmentConfig"]) -> "SegmentConfig":
        """What is not set comes from the network's recipe, and counts as not set: another network brings its own."""
        if not isinstance(values, dict):
            return handler(values)
        checked = handler({**RECIPES.get(str(values.get("network")), {}), **values})
        object.__setattr__(checked, "__pydantic_fields_set__", set(values))
        return checked


class EvaluateConfig(Section):
    fit_network: str = Field("unet", description="network that judges whether an image obeys its mask")
    fit_steps: int = Field(600, ge=1, description="optimiser steps of that network, on real pairs only")
    features: str = Field("judge", description="extractors, separated by commas; the first one searches for copies too")
    false_alarms: float = Field(
        0.01, gt=0, lt=0.5, description="share of the real training images that the copy flag may hit"
    )
    batch_size: int = Field(32, ge=1, description="images in one pass of an extractor")
    precision: Precision = Field("fp32", description=f"of the extractors and the judge; {PRECISION}")
    seed: int = Field(0, ge=0, description="of subsets and resamples")


class Config(Section):
    data: DataConfig = DataConfig()
    backbone: BackboneConfig = BackboneConfig()
    pretrain: DiffusionLoopConfig = DiffusionLoopConfig(
        steps=4000, learning_rate=5e-4, schedule="cosine", warmup=100, betas=(0.9, 0.99), clip=1.0, ema=0.999
    )
    method: MethodConfig = MethodConfig()
    train: TrainConfig = TrainConfig(
        steps=1200, batch_size=8, learning_rate=1e-3, hint_rate=0.1, schedule="cosine", warmup=30, clip=1.0, ema=0.99
    )
    sample: SampleConfig = SampleConfig()
    segment: SegmentConfig = SegmentConfig()
    evaluate: EvaluateConfig = EvaluateConfig()


def _section(annotation: Any) -> type[Section]:
    assert isinstance(annotation, type)
    assert issubclass(annotation, Section)
    return annotation


HARMLESS = frozenset(
    name
    for part in Config.model_fields.values()
    for name, field in _section(part.annotation).model_fields.items()
    if field.json_schema_extra == _HARMLESS
)
"""Names of the settings that are marked so."""


def load_config(source: str | Path | None = None, overrides: list[str] | None = None) -> Config:
    """Resolve settings.

    Args:
        source: a preset's name, a YAML file, or None for the defaults.
        overrides: `section.key=value` strings; values are YAML.

    Raises:
        InputError: no such preset or file, bad YAML, an unknown setting or a value out of range.
    """
    values = _read(source) if source is not None else {}
    origin = str(source) if source is not None else "--set"
    for override in overrides or []:
        key, equals, text = override.partition("=")
        section, dot, name = key.partition(".")
        if not (equals and dot and name):
            raise InputError(f"--set {override}: expected section.key=value, for example train.steps=500")
        target = values.setdefault(section, {})
        if not isinstance(target, dict):
            raise InputError(f"{origin}: section {section!r} must be a mapping")
        try:
            target[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"--set {override}: {text!r} is not a YAML value") from None
    return build_config(values, origin)


def build_config(values: dict[str, Any], origin: str) -> Config:
    """Validate `values` over the defaults. A section given in part keeps its other defaults.

    Raises:
        InputError: an unknown setting or a value out of range; the line names `origin` and the setting.
    """
    merged: dict[str, Any] = _explicit(Config())
    for section, entries in values.items():
        if section in merged and isinstance(entries, dict):
            merged[section] = {**merged[section], **entries}
        else:
            merged[section] = entries
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise InputError(f"{origin}: unknown setting {where}{_suggest(where)}") from None
        raise InputError(f"{origin}: {where} = {first['input']!r}: {first['msg']}") from None


def default_config(backbone: str) -> Config:
    """The settings a command starts from when none are given: the paper's for Stable Diffusion, else the small ones."""
    return load_config("sd15-paper") if backbone == "sd15" else Config()


def update(config: Config, section: str, **entries: Any) -> Config:
    """A copy of `config` with `entries` (those that are not None) set in `section`, validated."""
    values = _explicit(config)
    values[section].update({key: value for key, value in entries.items() if value is not None})
    return build_config(values, "option")


def _explicit(config: Config) -> dict[str, Any]:
    """What was set, section by section, without what follows from the defaults and from the network."""
    return {section: getattr(config, section).model_dump(exclude_unset=True) for section in Config.model_fields}


def dump_config(config: Config) -> str:
    """The settings as YAML that `load_config` reads back to an equal `Config`."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def preset_names() -> list[str]:
    folder = resources.files("siamese_diffusion") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _read(source: str | Path) -> dict[str, Any]:
    if str(source) in preset_names():
        return read_preset(str(source))
    return read_yaml(Path(source), Config.model_fields, f" or preset (presets: {', '.join(preset_names())})")


def read_preset(name: str) -> dict[str, Any]:
    """The settings of a preset; `name` is one of `preset_names()`."""
    text = (resources.files("siamese_diffusion") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text) or {}
    return values


def read_yaml(path: Path, expected: Iterable[str], otherwise: str = "") -> dict[str, Any]:
    """The mapping that a YAML file holds; an empty file is an empty one.

    Args:
        path: the file, as given with `--config`.
        expected: what the file should hold, for the error.
        otherwise: what else the option may name.

    Raises:
        InputError: no such file, or not a YAML mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise InputError(f"--config {path}: no such file{otherwise}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise InputError(f"{path}: not valid YAML{f' at line {mark.line + 1}' if mark else ''}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected sections ({', '.join(expected)})")
    return values


def _suggest(where: str) -> str:
    import difflib

    known = [f"{s}.{k}" for s, f in Config.model_fields.items() for k in _section(f.annotation).model_fields]
    close = difflib.get_close_matches(where, [*known, *Config.model_fields], n=1)
    return f" (did you mean {close[0]}?)" if close else ""
