"""The commands at Stable Diffusion 1.5's size.

    python benchmarks/speed/gpu_real.py --data PAIRS --work DIR --out FILE

A backbone of that shape with random weights is written in diffusers' layout (its tokenizer and text encoder are small
ones: the real vocabulary is on a hub); `train` takes three steps of 48 with the paper's preset, and `sample` draws 64
images from its run. Seconds are those of the whole commands, with what they load and write.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from bench import SIZES, Bench, Size

from siamese_diffusion.diffusion.backbone import Backbone, _small_text_encoder, sd15_scheduler
from siamese_diffusion.files import read_json, read_jsonl


def write_backbone(size: Size, folder: Path, device: str) -> None:
    bench = Bench(size, "plain", device=device)
    text_encoder, tokenizer = _small_text_encoder(size.text)
    unet, vae = (torch.nn.Module.half(net).cpu() for net in (bench.model.unet, bench.vae))
    Backbone(vae, unet, text_encoder, tokenizer, sd15_scheduler()).save(folder)


def main(size: str, data: Path, work: Path, device: str, out: Path) -> None:
    work.mkdir(parents=True)
    found: dict[str, Any] = {}

    def timed(name: str, *command: str) -> None:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "siamese_diffusion", *command, "--device", device], check=True)
        found[name] = time.perf_counter() - start
        out.write_text(json.dumps(found, indent=1))

    write_backbone(SIZES[size], work / "backbone", device)
    common = ["--set", "data.limit=64", "--set", f"data.resolution={SIZES[size].resolution}"]
    train = ["--set", "train.steps=3", "--set", "train.log_every=1", "--set", "sample.steps=10"]
    where = ["--backbone", str(work / "backbone"), "--config", "sd15-paper"]
    timed("train", "train", "--data", str(data), "--out", str(work / "run"), *where, *common, *train)
    found["log"] = read_jsonl(work / "run/log.jsonl")
    newest = max((work / "run/checkpoints").iterdir())
    found["micro_batch"] = read_json(newest / "state.json")["micro_batch"]
    found["checkpoint_gib"] = sum(path.stat().st_size for path in newest.iterdir()) / 2**30
    fast = ["--scheduler", "unipc", "--steps", "8", "--set", "sample.batch_size=auto"]
    timed(
        "sample", "sample", "--checkpoint", str(work / "run"), "--masks", str(data), "--out", str(work / "new"), *fast
    )
    found["pairs"] = len(list((work / "new/images").glob("*.png")))
    out.write_text(json.dumps(found, indent=1))
    print(json.dumps(found), file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="sd15")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="a folder that does not exist yet; takes 20 GB")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    main(arguments.size, arguments.data, arguments.work, arguments.device, arguments.out)
