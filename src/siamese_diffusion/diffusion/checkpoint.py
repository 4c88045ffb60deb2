"""A trained model on disk: `RUN/pipeline/`, a folder that this package and diffusers both load."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siamese_diffusion.config import Config, load_config, update
from siamese_diffusion.data.hashing import hash_files
from siamese_diffusion.diffusion.backbone import Backbone, load_backbone
from siamese_diffusion.diffusion.control import DenseControlNet, controlnet_for
from siamese_diffusion.diffusion.siamese import SiameseDiffusion
from siamese_diffusion.durable import restore
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import whole_folder, write_json
from siamese_diffusion.pretrained import load_network
from siamese_diffusion.tensors import require_finite


@dataclass
class Trained:
    """A run that is ready to sample from."""

    backbone: Backbone
    model: SiameseDiffusion
    config: Config
    hash: str
    """Of the weights; every synthetic pair carries it."""


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


def load_trained(run: Path) -> Trained:
    """Load a finished run.

    Raises:
        InputError: `run` is not a run folder, its training has not finished, or a weight is not finite.
    """
    pipeline = run / "pipeline"
    restore(pipeline)
    if not pipeline.is_dir():
        if (run / "checkpoints").is_dir():
            raise InputError(f"--checkpoint {run}: training has not finished; run `train` again with --resume")
        raise InputError(f"--checkpoint {run}: not a run folder (it has no pipeline/)")
    backbone = load_backbone(pipeline, "--checkpoint")
    what = f"{pipeline / 'controlnet'}: cannot be loaded"
    controlnet = load_network(DenseControlNet, pipeline, "controlnet", what, use_safetensors=True)
    require_finite({"controlnet": controlnet.state_dict()}, f"--checkpoint {pipeline}")
    config = load_config(run / "config.yaml")
    weights = [pipeline / part / "diffusion_pytorch_model.safetensors" for part in ("controlnet", "unet", "vae")]
    # Sampling is Mask-Diffusion's alone: ADC's teacher, which the pipeline does not hold, need not be built.
    model = assemble(backbone, update(config, "method", name="mask-only"), controlnet).eval()
    return Trained(backbone, model, config, hash_files(path for path in weights if path.exists()))
