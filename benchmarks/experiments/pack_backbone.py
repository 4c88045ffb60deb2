"""Store a backbone's weights as float16, to ship it.

python benchmarks/experiments/pack_backbone.py FROM TO
"""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def main(source: Path, target: Path) -> None:
    """Copy the folder `source` to `target` with every weight in float16; print the size."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    for path in target.rglob("*.safetensors"):
        save_file({name: value.to(torch.float16) for name, value in load_file(path).items()}, path, {"format": "pt"})
    print(f"{sum(path.stat().st_size for path in target.rglob('*') if path.is_file()) / 1e6:.2f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, metavar="FROM", help="the folder backbone/ of a run of `pretrain`")
    parser.add_argument("target", type=Path, metavar="TO", help="what is there already is replaced")
    main(**vars(parser.parse_args()))
