"""Every setting of every command: typed, validated, with its unit and default. `config.py` reads and merges them."""

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    model_validator,
)
from pydantic.config import JsonDict

from siamese_diffusion.network_recipes import NETWORK_RECIPES, NETWORKS


class SettingsSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


_HARMLESS: JsonDict = {"harmless": True}
"""Marks a setting that changes no result, rounding aside: it may differ when a run is resumed, and in a study."""


def _listed(value: Any) -> Any:
    """One entry, or several separated by commas, is a list of them: `--set data.void=255`."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return (value,) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _any_or_listed(value: Any) -> Any:
    value = value if value == "any" else _listed(value)
    if isinstance(value, tuple | list) and not value:
        raise ValueError("expected any, or a list of values, colours or names of labels")
    return value


def _classes(value: Any) -> Any:
    """Names, or NAME=VALUE: a list, a mapping, or words with commas between them."""
    if isinstance(value, dict):
        value = [f"{name}={each}" for name, each in value.items()]
    if value is None or value == "all":
        return value or ()
    found = tuple(str(part).strip() for part in (value.split(",") if isinstance(value, str) else value))
    names = [entry.partition("=")[0].strip() for entry in found]
    if found and not all(names):
        raise ValueError("expected names, or NAME=VALUE, for example nucleus=255,cytoplasm=128")
    if len(found) == 1:
        raise ValueError("expected two names or more; for one class, data.foreground says which labels are lesion")
    if len(set(names)) < len(names):
        raise ValueError("names a class twice")
    if len(found) > MOST_CLASSES:
        raise ValueError(f"names {len(found)} classes; a model can tell {MOST_CLASSES} apart")
    return found


def _two_numbers(value: Any) -> Any:
    """LOW,HIGH or LEVEL,WIDTH, as a list or in words."""
    listed = _listed(value)
    if listed is None:
        return None
    try:
        first, second = (float(part) for part in listed)
    except (TypeError, ValueError):
        raise ValueError("expected two numbers with a comma between them, for example 40,400") from None
    return first, second


def _ordered(value: tuple[float, float] | None) -> tuple[float, float] | None:
    if value is not None and value[0] >= value[1]:
        raise ValueError("expected LOW,HIGH, the lower one first, for example 0,4095")
    return value


def _wide(value: tuple[float, float] | None) -> tuple[float, float] | None:
    if value is not None and value[1] <= 0:
        raise ValueError("expected LEVEL,WIDTH with a width above 0, for example 40,400")
    return value


MOST_CLASSES = 26
"""Colours that a hint has for them (`data.classes`)."""
MaskValue = int | float | str
"""A value of masks as it is stored, a colour by name or as '#rrggbb', or what the folder calls a label."""


class DataConfig(SettingsSection):
    resolution: int = Field(96, ge=16, le=2048, description="side of the square images a model sees, in pixels")
    split: str | None = Field("train", description="list of splits.json that training uses; ignored without that file")
    max_pixels: int = Field(
        6000 * 6000,  # opening.MAX_PIXELS
        ge=1,
        description="images of more pixels are refused before they are decoded, which takes up to 28 bytes a pixel",
        json_schema_extra=_HARMLESS,
    )
    limit: int | None = Field(None, ge=1, description="use this many pairs, drawn once; smaller draws lie in larger")
    limit_seed: int = Field(0, ge=0, description="seed of that draw")
    label: str = Field("polyp", min_length=1, description="what the mask marks; the prompt is 'A photo of LABEL'")
    prompt_dropout: float = Field(0.05, ge=0, le=1, description="probability that a prompt gives way to the empty one")
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
    fit: Literal["squash", "pad", "crop"] = Field(
        "squash",
        description="how an image that is not square becomes so: squashed, padded with black, or its middle cut out",
    )
    mask_coding: Literal["auto", "binary", "labels", "colours", "palette", "alpha"] = Field(
        "auto",
        description="what the masks of a folder are; auto: told by their values over all masks, or refused; binary: "
        "bright is lesion, cut at half; labels: each value is one; colours: each colour; palette: its indices; "
        "alpha: opaque",
    )
    foreground: Annotated[tuple[MaskValue, ...] | Literal["any"], BeforeValidator(_any_or_listed)] = Field(
        "any", description="which labels are lesion: any, or a list of their values, colours or names"
    )
    classes: Annotated[tuple[str, ...] | Literal["all"], BeforeValidator(_classes)] = Field(
        (),
        description="several classes in one mask, in this order: names that the folder gives its labels, or "
        "NAME=VALUE; all: every label that it names; default: one class, whatever is lesion",
    )
    class_dropout: float = Field(
        0.0,
        ge=0,
        le=1,
        description="probability that a class is left out of a mask in training, so that it is drawn where no mask "
        "shows it; of at most 6 classes",
    )
    void: Annotated[tuple[MaskValue, ...], BeforeValidator(_listed)] = Field(
        (),
        description="values or colours of masks that say nothing, a rim for example: background, and counted by check",
    )
    invert: bool = Field(False, description="masks of two values have the lesion dark on bright")
    outline: Literal["refuse", "fill", "keep"] = Field(
        "refuse", description="masks that are thin closed lines: refused, filled, or the line itself is the lesion"
    )
    orientation: Literal["auto", "upright", "stored"] = Field(
        "auto",
        description="what masks lie on where an image has an EXIF orientation: the upright image or the stored pixels; "
        "auto: what their sizes say, and upright where these say nothing",
    )
    window: Annotated[tuple[float, float] | None, BeforeValidator(_two_numbers), AfterValidator(_wide)] = Field(
        None, description="LEVEL,WIDTH of the grey values shown, for images of more than 8 bits: 40,400 for CT in HU"
    )
    image_range: Annotated[tuple[float, float] | None, BeforeValidator(_two_numbers), AfterValidator(_ordered)] = Field(
        None,
        description="LOW,HIGH: black and white of images of more than 8 bits; default: one range for all of a folder",
    )

    @model_validator(mode="after")
    def _one_scale(self) -> "DataConfig":
        if self.window is not None and self.image_range is not None:
            raise ValueError("data.window and data.image_range both say what is black and white; give one of them")
        return self

    @model_validator(mode="after")
    def _one_reading(self) -> "DataConfig":
        if self.classes and self.foreground != "any":
            raise ValueError("data.classes and data.foreground both say which labels count; give one of them")
        if self.classes and self.invert:
            raise ValueError("data.invert is for masks of two values; leave it out with data.classes")
        if self.class_dropout and not self.classes:
            raise ValueError("data.class_dropout is for masks of several classes; name them with data.classes")
        if self.class_dropout and len(self.classes) > 6 and self.classes != "all":
            raise ValueError("data.class_dropout is for at most 6 classes: every set of them has its prompt")
        return self


READING_IMAGES = frozenset({"fit", "window", "image_range"})
READING = READING_IMAGES | {"mask_coding", "foreground", "classes", "void", "invert", "outline", "orientation"}
"""Settings of `data` that say how files are read: of images, and of images and masks."""


def reading_settings(data: DataConfig, names: Iterable[str] = READING) -> dict[str, Any]:
    """Those that are not at their defaults, as JSON: what was made before there were such settings keeps its keys."""
    dumped = data.model_dump(mode="json")
    return {name: dumped[name] for name in sorted(names) if dumped[name] != _DATA_DEFAULTS[name]}


_DATA_DEFAULTS = DataConfig().model_dump(mode="json")


class BackboneConfig(SettingsSection):
    """The small backbone that is trained from scratch (Stable Diffusion brings its own shape)."""

    patch: int = Field(4, ge=2, le=16, description="down-sampling factor of the first stage, a power of two")
    latent_channels: int = Field(8, ge=1, description="channels of the latent image")
    whitening: float = Field(0.5, ge=0, le=1, description="1: latent channels of equal variance; 0: of their own")
    channels: tuple[int, ...] = Field((64, 96, 160), description="UNet channels per level, multiples of 16")
    layers: int = Field(1, ge=1, description="residual blocks per level")
    attention: tuple[bool, ...] = Field((False, False, True), description="whether a level has attention")
    hint_channels: tuple[int, int] = Field((8, 16), description="Dense Hint Input's first widths; of SD 1.5: 16, 32")
    text_dim: int = Field(64, ge=8, description="width of the prompt embedding, a multiple of 4")
    prediction: Literal["v_prediction", "epsilon"] = Field("v_prediction", description="what the UNet predicts")
    schedule: Literal["squaredcos_cap_v2", "scaled_linear"] = Field("squaredcos_cap_v2", description="noise schedule")
    first_stage: Literal["linear", "learned"] = Field(
        "linear",
        description="linear: principal components of patches, fitted in seconds; learned: a small autoencoder that "
        "begins as these and is trained for edges too, as section first_stage says",
    )
    align: float = Field(
        0.0,
        ge=0,
        description="weight of the alignment of the UNet's middle block with ImageNet features of the clean image in "
        "pretrain (REPA, which takes 0.5); 0: none; needs the extra imagenet",
    )
    zero_snr: bool = Field(
        False, description="rescale the noise schedule so that its last timestep is noise alone; needs v_prediction"
    )

    @model_validator(mode="after")
    def _noise_alone_has_no_epsilon(self) -> "BackboneConfig":
        if self.zero_snr and self.prediction != "v_prediction":
            raise ValueError(
                "backbone.zero_snr needs backbone.prediction=v_prediction: where the input is noise alone, to predict "
                "that noise teaches nothing"
            )
        return self


def _precision(value: Any) -> Any:
    """accelerate's name for single precision is `no`, which is false to YAML."""
    return "fp32" if value is False or value == "no" else value


Precision = Annotated[Literal["auto", "fp32", "tf32", "bf16", "fp16"], BeforeValidator(_precision)]
"""fp32 is single precision in every operation; else matrix products and convolutions may run in TF32 or in 16 bits."""

PRECISION = "auto: bf16 on a GPU that has it, else fp32; fp32; tf32 (fp32 but for products); bf16 or fp16 (mixed)"


class LoopConfig(SettingsSection):
    """One optimisation: the same settings for the backbone, the two diffusions and a segmentation network."""

    steps: int = Field(3000, ge=1, description="optimiser steps")
    batch_size: int = Field(16, ge=1, description="samples an optimiser step, over all processes and accumulation")
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        None,
        description="samples in one forward pass of one process, the rest by accumulation; default: all; "
        "auto: as many as fit the memory",
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
        description="adafactor keeps row and column means, not 8 bytes of state a weight; sgd is Nesterov's, betas[0]",
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


class FirstStageConfig(LoopConfig):
    """How the learned first stage is trained; nothing here is read where `backbone.first_stage` is linear."""

    perceptual: float = Field(
        0.3, ge=0, description="weight of the distance of ImageNet features; above 0 it needs the extra imagenet"
    )
    texture: float = Field(1.0, ge=0, description="weight of the difference of fine detail, by its local strength")
    noise: float = Field(0.1, ge=0, le=1, description="standard deviation of the latent error that the decoder expects")
    width: int = Field(64, ge=8, le=512, description="features at latent resolution, a multiple of 8")
    crop: int = Field(64, ge=32, description="side of the crops that it learns from, in pixels; at most the resolution")


class DiffusionLoopConfig(LoopConfig):
    min_snr: float | None = Field(
        None,
        gt=0,
        description="gamma of the min-SNR loss weighting (its paper takes 5); default: every timestep counts alike",
    )
    compile: bool = Field(
        False,
        description="torch.compile of each residual and attention block: minutes at the start, then faster steps",
        json_schema_extra=_HARMLESS,
    )


class TrainConfig(DiffusionLoopConfig):
    set_aside: float = Field(
        0.1,
        ge=0,
        lt=0.6,
        description="share of 40 pairs or more that is held out, where no val split is, to tell when the others are "
        "learned by heart; 0: none",
        json_schema_extra=_HARMLESS,
    )
    decoder_rate: float = Field(1.0, ge=0, description="factor on the learning rate of the UNet's decoder")
    hint_rate: float = Field(
        1.0, ge=0, description="factor on that of the hint embedding, which dies of a high one (docs/backbones.md)"
    )
    checkpointing: bool | Literal["selective", "auto"] = Field(
        False,
        description="recompute activations: less memory, more time, the same gradients; selective: only the "
        "cheap ones; auto: selective, unless micro_batch auto finds room for 16 samples without",
    )


class MaskPriorConfig(LoopConfig):
    """The prior of masks that `train-masks` learns."""

    side: int = Field(32, ge=8, le=64, description="side of the distance maps, in points")
    components: int = Field(160, ge=4, le=2048, description="principal components of the maps that are learned")
    width: int = Field(256, ge=16, le=4096, description="features of the network")
    layers: int = Field(3, ge=1, le=16, description="its residual blocks")
    set_aside: float = Field(
        0.1, ge=0, lt=0.6, description="share of 40 masks or more that is held out where the folder holds no others"
    )
    draw_steps: int = Field(50, ge=1, le=1000, description="denoising steps of a mask (DPM-Solver++)")
    report_masks: int = Field(
        400, ge=2, description="masks that are drawn for the report at the end", json_schema_extra=_HARMLESS
    )


class MethodConfig(SettingsSection):
    name: Literal["siamese", "mask-only", "adc"] = Field(
        "siamese", description="the two diffusions; ControlNet alone; or the authors' follow-up with its own teacher"
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
    hint_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of samples for which Mask-Diffusion learns without its mask's control, so that "
        "sample.mask_guidance extrapolates from a branch that was trained",
    )


class SampleConfig(SettingsSection):
    scheduler: Literal["ddim", "dpm", "unipc"] = Field(
        "ddim", description="DDIM (eta 0), or DPM-Solver++ or UniPC (both of second order)"
    )
    steps: int = Field(50, ge=1, le=1000, description="denoising steps")
    aspect: Literal["square", "source"] = Field(
        "square",
        description="shape of the pairs that are written: as drawn, or that of each source mask, data.fit undone",
    )
    guidance: float = Field(
        1.0, ge=0, description="classifier-free guidance on the prompt; 1: none, one network pass a step"
    )
    mask_guidance: float = Field(2.0, ge=0, description="guidance on the mask, ours and not the paper's; 1: off")
    guidance_interval: tuple[float, float] = Field(
        (0.0, 1.0), description="both guidances are on between these shares of the timesteps (0: clean, 1: noise)"
    )
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        16, description="images drawn together, which changes their rounding; auto: what fits the free memory, up to 64"
    )
    precision: Precision = Field("auto", description=PRECISION.replace("bf16 on a GPU that has it", "fp16 on a GPU"))
    compile: bool = Field(
        False, description="torch.compile of each block: pays for thousands of images", json_schema_extra=_HARMLESS
    )
    seed: int = Field(0, ge=0, description="image i of a run depends on this seed, its mask and its copy number only")
    shard_size: int = Field(
        1000, ge=1, description="pairs of a WebDataset shard, redrawn after a kill", json_schema_extra=_HARMLESS
    )


def _known_network(name: str) -> str:
    if name not in NETWORKS:
        close = difflib.get_close_matches(name, NETWORKS, n=1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"no such network; choose from {', '.join(NETWORKS)}{meant}")
    return name


class SegmentConfig(LoopConfig):
    """The defaults are those of `unet` and `segformer`; another network's own are in `network_recipes.py`.

    Design note: what was set stays when the network changes, and what its recipe brought goes with it. To tell them
    apart where both have the same value, the names of what was set are kept; two `SegmentConfig` of the same values are
    equal all the same.
    """

    network: Annotated[str, AfterValidator(_known_network)] = Field(
        "unet", description="name in segmentation.networks; smp where encoder or architecture is set"
    )
    encoder: str | None = Field(
        None, description="of smp: a name of segmentation-models-pytorch, or tu- and one of timm; default: resnet34"
    )
    architecture: str | None = Field(
        None, description="of smp: Unet, UnetPlusPlus, MAnet, FPN, DeepLabV3Plus, Segformer ...; default: Unet"
    )
    weights: str | None = Field(
        None,
        description="of smp's encoder: random, imagenet (an installed package, else the hub), or a file of weights; "
        "default: random",
    )
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
    patience: int | None = Field(
        None, ge=1, description="stop after this many validations without a better one; default: take every step"
    )
    validation: float = Field(0.1, gt=0, lt=1, description="share of the training pairs held out where no val split is")
    synthetic_share: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="largest expected share of synthetic pairs in each batch; less where one of them would be seen "
        "more often than a real one",
    )
    pretrained: bool | Literal["auto"] = Field(
        False, description="start from ImageNet weights (downloaded on first use); auto: where they can be had"
    )
    loss: Literal["bce-dice", "sanet", "two-class", "structure", "structure-contrast"] = Field(
        "bce-dice", description="name in segmentation.losses"
    )
    lesion_weight: float = Field(
        1.0,
        ge=1,
        le=1000,
        description="of lesion pixels in the cross-entropy of bce-dice: small lesions are not missed",
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
    colour_overflow: Literal["wrap", "clip"] = Field("wrap", description="values beyond 0..255: modulo 256, or clipped")
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

    _set: frozenset[str] = PrivateAttr(frozenset())

    @model_validator(mode="wrap")
    @classmethod
    def _over_recipe(cls, values: Any, handler: ModelWrapValidatorHandler["SegmentConfig"]) -> "SegmentConfig":
        """What is not set comes from the network's recipe."""
        if not isinstance(values, dict):
            return handler(values)
        values = _of_smp(values)
        settings = handler({**NETWORK_RECIPES.get(str(values.get("network")), {}), **values})
        settings._set = frozenset(values)
        return settings

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SegmentConfig) and dict(self) == dict(other)

    def given(self) -> dict[str, Any]:
        """The settings without what follows from the network."""
        brought = SegmentConfig(network=self.network)
        return {name: value for name, value in self if name in self._set or value != getattr(brought, name)}


OF_SMP = ("encoder", "architecture", "weights")
"""Settings of `segment` that network smp alone has; the others have None there."""


def _of_smp(values: dict[str, Any]) -> dict[str, Any]:
    """The values with the network that they mean; a part of smp beside another network would do nothing."""
    values = {name: value for name, value in values.items() if name not in OF_SMP or value is not None}
    given = [name for name in OF_SMP if name in values]
    if "network" not in values and {"encoder", "architecture"} & set(given):
        values["network"] = "smp"
    network = values.get("network", "unet")
    if network != "smp" and given:
        what = "; its own setting is segment.pretrained" if given == ["weights"] else ""
        raise ValueError(f"segment.{given[0]} is for network smp, not for {network}{what}")
    if network == "smp" and values.get("pretrained"):
        raise ValueError("segment.pretrained is for the published networks; smp has segment.weights=imagenet")
    return values


class EvaluateConfig(SettingsSection):
    fit_network: Annotated[str, AfterValidator(_known_network)] = Field(
        "unet", description="network that judges whether an image obeys its mask"
    )
    fit_steps: int = Field(600, ge=1, description="optimiser steps of that network, on real pairs only")
    features: str = Field("judge", description="extractors, separated by commas; the first one searches for copies too")
    false_alarms: float = Field(
        0.01, gt=0, lt=0.5, description="share of the real training images that the copy flag may hit"
    )
    held_out: float = Field(
        0.2,
        gt=0,
        lt=0.6,
        description="share of the real images that is set aside as a yardstick where no split holds any out",
    )
    batch_size: int = Field(32, ge=1, description="images in one pass of an extractor")
    precision: Precision = Field("fp32", description=f"of the extractors and the judge; {PRECISION}")
    seed: int = Field(0, ge=0, description="of subsets and resamples")


class Config(SettingsSection):
    data: DataConfig = DataConfig()
    backbone: BackboneConfig = BackboneConfig()
    pretrain: DiffusionLoopConfig = DiffusionLoopConfig(
        steps=4000, learning_rate=5e-4, schedule="cosine", warmup=100, betas=(0.9, 0.99), clip=1.0, ema=0.999
    )
    first_stage: FirstStageConfig = FirstStageConfig(
        steps=1000, learning_rate=1e-3, schedule="cosine", warmup=50, betas=(0.9, 0.99), clip=1.0, keep=1
    )
    method: MethodConfig = MethodConfig()
    train: TrainConfig = TrainConfig(
        steps=1200, batch_size=8, learning_rate=1e-3, hint_rate=0.1, schedule="cosine", warmup=30, clip=1.0, ema=0.99
    )
    train_masks: MaskPriorConfig = MaskPriorConfig(
        steps=4000, batch_size=64, learning_rate=1e-3, schedule="cosine", warmup=100, clip=1.0, ema=0.998
    )
    sample: SampleConfig = SampleConfig()
    segment: SegmentConfig = SegmentConfig()
    evaluate: EvaluateConfig = EvaluateConfig()


def sections() -> dict[str, type[BaseModel]]:
    """The sections of `Config` by name."""
    return {name: type(section) for name, section in Config()}


HARMLESS = frozenset(
    name
    for section in sections().values()
    for name, field in section.model_fields.items()
    if field.json_schema_extra == _HARMLESS
)
"""Names of the settings that are marked so."""
