"""A trained model on disk: `RUN/pipeline/`, a folder that this package and diffusers both load."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siamese_diffusion.arguments import StrPath, to_path
from siamese_diffusion.config import Config, load_config, update
from siamese_diffusion.data.hashing import hash_weights
from siamese_diffusion.diffusion.backbone import Backbone, load_backbone
from siamese_diffusion.diffusion.control import DenseControlNet, controlnet_for
from siamese_diffusion.diffusion.siamese import SiameseDiffusion
from siamese_diffusion.durable import restore
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, whole_folder, write_json
from siamese_diffusion.hub import fetch, repository
from siamese_diffusion.pretrained import load_network
from siamese_diffusion.tensors import require_finite

CONFIG = "config.yaml"


@dataclass
class Trained:
    """A run that is ready to sample from."""

    backbone: Backbone
    model: SiameseDiffusion
    config: Config
    hash: str
    """Of the weights; every synthetic pair carries it."""
    about: dict[str, Any] = field(default_factory=dict)
    """What the run says of its data, as far as it does: `data`, `pairs`."""
    notes: Path | None = None
    """Folder of its `config.yaml`, `summary.json` and `evaluation.json`."""


def assemble(backbone: Backbone, config: Config, controlnet: DenseControlNet | None = None) -> SiameseDiffusion:
    """The two diffusions over `backbone`, which they share (not copy); a fresh ControlNet unless one is given."""
    scheduler = backbone.scheduler
    return SiameseDiffusion(
        backbone.unet,
        controlnet or controlnet_for(backbone.unet, backbone.factor, config.backbone.hint_channels, config.method.hint),
        scheduler.alphas_cumprod,
        scheduler.config.prediction_type,
        config.method,
    )


def save_pipeline(model: SiameseDiffusion, backbone: Backbone, folder: Path) -> None:
    """Write a `StableDiffusionControlNetPipeline` folder.

    Raises:
        InputError: a weight is not finite.
    """
    backbone.require_finite(folder)
    require_finite({"controlnet": model.controlnet.state_dict()}, folder)
    with whole_folder(folder) as temporary:
        backbone.save_parts(temporary)
        model.controlnet.save_pretrained(temporary / "controlnet")
        index: dict[str, Any] = {
            "_class_name": "StableDiffusionControlNetPipeline",
            "controlnet": [DenseControlNet.__module__, DenseControlNet.__name__],
        }
        write_json(temporary / "model_index.json", index | backbone.index())


def load_trained(run: StrPath) -> Trained:
    """Load a finished run.

    Args:
        run: a folder that `train`, `import_` or `run` wrote, or its `pipeline/`; a pipeline that `export` wrote; or the
            hub id of one that it pushed.

    Raises:
        InputError: `run` is none of these, its training has not finished, or a weight is not finite.
    """
    pipeline, settings = _locate(run)
    backbone = load_backbone(pipeline, "--checkpoint")
    what = f"{pipeline / 'controlnet'}: cannot be loaded"
    controlnet = load_network(DenseControlNet, pipeline, "controlnet", what, use_safetensors=True)
    require_finite({"controlnet": controlnet.state_dict()}, f"--checkpoint {pipeline}")
    config = load_config(settings)
    # Sampling is Mask-Diffusion's alone: ADC's teacher, which the pipeline does not hold, need not be built.
    model = assemble(backbone, update(config, "method", name="mask-only"), controlnet).eval()
    summary = settings.with_name("summary.json")
    about = read_json(summary, dict[str, Any]) if summary.exists() else {}
    return Trained(backbone, model, config, hash_weights(pipeline), about, settings.parent)


def _locate(source: StrPath) -> tuple[Path, Path]:
    """The pipeline, and the file of its settings."""
    repo = repository(source)
    run = fetch(repo, "--checkpoint") if repo is not None else to_path(source, "--checkpoint")
    places = [(run / "pipeline", run / CONFIG), (run / "train" / "pipeline", run / "train" / CONFIG)]
    for pipeline, settings in places:
        restore(pipeline)
        if pipeline.is_dir():
            return pipeline, settings
    if (run / "controlnet").is_dir():  # itself a pipeline: of a run, exported, or of the hub
        inside = run / CONFIG
        settings = inside if inside.exists() else run.absolute().parent / CONFIG
        if not settings.exists():
            raise InputError(f"--checkpoint {source}: has no {CONFIG}, which says how it was trained")
        return run, settings
    if (run / "backbone").is_dir():
        raise InputError(f"--checkpoint {source}: is a backbone; `train --backbone {source}` makes a run of it")
    if (run / "checkpoints").is_dir() or (run / "train" / "checkpoints").is_dir():
        raise InputError(f"--checkpoint {source}: training has not finished; run `train` again with --resume")
    raise InputError(f"--checkpoint {source}: not a run folder (it has no pipeline/)")
