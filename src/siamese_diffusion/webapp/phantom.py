"""What the page works with where no run and no data are named: the phantom model that ships with the package."""

import shutil
from importlib import resources
from pathlib import Path

from siamese_diffusion.data.phantom import make_phantoms
from siamese_diffusion.files import read_json, whole_folder, write_json

COUNT, SIDE, SEED = 48, 64, 11
"""Of the phantoms that stand for real pairs; the model was trained on others."""

RUN, NETWORK = "phantom-run", "phantom-network"
_UNET = "unet/diffusion_pytorch_model.safetensors"


def phantom_data(folder: Path) -> None:
    """Make a folder of phantoms; one that is there stays."""
    make_phantoms(folder, COUNT, SIDE, SEED)


def phantom_run(folder: Path) -> Path:
    """The shipped backbone, with the decoder and the ControlNet that were trained on it, as a run that `sample` takes;
    returns it."""
    if not folder.exists():
        from safetensors.torch import load_file, save_file

        weights = Path(str(resources.files("siamese_diffusion"))) / "weights"
        with whole_folder(folder) as temporary:
            pipeline = temporary / "pipeline"
            shutil.copytree(weights / "phantom", pipeline)
            shutil.copytree(weights / RUN / "controlnet", pipeline / "controlnet")
            shutil.copyfile(weights / RUN / "config.yaml", temporary / "config.yaml")
            unet = load_file(pipeline / _UNET) | load_file(weights / RUN / "decoder.safetensors")
            save_file(unet, pipeline / _UNET, {"format": "pt"})
            index = read_json(pipeline / "model_index.json", dict)
            control = ["siamese_diffusion.diffusion.control", "DenseControlNet"]
            index |= {"_class_name": "StableDiffusionControlNetPipeline", "controlnet": control}
            write_json(pipeline / "model_index.json", index)
    return folder


def phantom_network() -> Path:
    """The shipped segmentation network, a run of `segment` on phantoms."""
    return Path(str(resources.files("siamese_diffusion"))) / "weights" / NETWORK
