"""Store what a run of `train` adds to the backbone that ships with the package, or a run of `segment`, as float16.

python benchmarks/experiments/pack_run.py RUN TO
"""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import siamese_diffusion

WEIGHTS, NETWORK = "diffusion_pytorch_model.safetensors", "best.safetensors"
BACKBONE = Path(siamese_diffusion.__file__).parent / "weights/phantom/unet" / WEIGHTS


def main(run: Path, target: Path) -> None:
    """Write the weights and the settings; print the size."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / "config.yaml", target / "config.yaml")
    pack_network(run, target) if (run / NETWORK).exists() else pack_generator(run, target)
    print(f"{sum(path.stat().st_size for path in target.rglob('*') if path.is_file()) / 1e6:.2f} MB")


def pack_network(run: Path, target: Path) -> None:
    """The network, and its figures, which say that the run is finished."""
    shutil.copyfile(run / "metrics.json", target / "metrics.json")
    state = load_file(run / NETWORK)
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_file(half, target / NETWORK, {"format": "pt"})


def pack_generator(run: Path, target: Path) -> None:
    """The ControlNet, and the weights of the UNet that differ from the shipped ones."""
    shutil.copytree(run / "pipeline/controlnet", target / "controlnet", dirs_exist_ok=True)
    control = load_file(target / "controlnet" / WEIGHTS)
    save_file(
        {name: value.half() for name, value in control.items()}, target / "controlnet" / WEIGHTS, {"format": "pt"}
    )
    before = load_file(BACKBONE)
    trained = {name: value.half() for name, value in load_file(run / "pipeline/unet" / WEIGHTS).items()}
    changed = {name: value for name, value in trained.items() if not torch.equal(value, before[name].half())}
    save_file(changed, target / "decoder.safetensors", {"format": "pt"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="of `train` from the shipped backbone, or of `segment`")
    parser.add_argument("target", type=Path, metavar="TO", help="what is there already is replaced")
    main(**vars(parser.parse_args()))
