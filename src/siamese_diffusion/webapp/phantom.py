"""What the page works with where no run and no data are named: the phantom model that ships with the package."""

import shutil
from importlib import resources
from pathlib import Path

from siamese_diffusion.data.phantom import make_phantoms
from siamese_diffusion.files import read_json, whole_folder, write_json

COUNT, SIDE, SEED = 48, 64, 11
"""Of the phantoms that stand for real pairs; the model was trained on others."""

CONTROL, NETWORK = "phantom-control", "phantom-network"


def phantom_data(folder: Path) -> None:
    """Make a folder of phantoms; one that is there stays."""
    make_phantoms(folder, COUNT, SIDE, SEED)


def phantom_run(folder: Path) -> Path:
    """The shipped backbone and ControlNet as a run that `sample` takes; returns it."""
    if not folder.exists():
        weights = Path(str(resources.files("siamese_diffusion"))) / "weights"
        with whole_folder(folder) as temporary:
            pipeline = temporary / "pipeline"
            shutil.copytree(weights / "phantom", pipeline)
            shutil.copytree(weights / CONTROL / "controlnet", pipeline / "controlnet")
            shutil.copyfile(weights / CONTROL / "config.yaml", temporary / "config.yaml")
            index = read_json(pipeline / "model_index.json", dict)
            control = ["siamese_diffusion.diffusion.control", "DenseControlNet"]
            index |= {"_class_name": "StableDiffusionControlNetPipeline", "controlnet": control}
            write_json(pipeline / "model_index.json", index)
    return folder


def phantom_network() -> Path:
    """The shipped segmentation network, a run of `segment` on phantoms."""
    return Path(str(resources.files("siamese_diffusion"))) / "weights" / NETWORK
