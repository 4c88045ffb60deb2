"""`faults.py pickles`: programs in weights, configurations, settings and images, at every entrance of the command line.

None may run, and each is refused with status 2 in one line. PyTorch is told by its own switch to load whatever comes,
and where a library would start a program, one of that name stands ready to be caught.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from campaign import poisons
from campaign.entrance import TINY, command
from campaign.pairs_in import make_pairs
from campaign.settings_in import STUDY
from campaign.trials import attempt, keep
from siamese_diffusion.config import build_config, dump_config
from siamese_diffusion.diffusion.backbone import small_backbone
from siamese_diffusion.diffusion.train import train
from siamese_diffusion.files import write_json, write_text

SWITCHES = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@dataclass(frozen=True)
class Case:
    """A command, and the file in the good folder that is replaced."""

    name: str
    file: str
    content: bytes
    arguments: tuple[str, ...]
    beside: dict[str, str]
    without: str = ""
    """Files that are taken away, so that the poisoned one is what there is."""


def run(kept: Path) -> int:
    """Try every case, tell what was found, and return the exit status."""
    findings = tried = 0
    with tempfile.TemporaryDirectory() as scratch, surroundings(Path(scratch) / "bin", Path(scratch) / "canary"):
        canary, good, folder = Path(scratch) / "canary", Path(scratch) / "good", Path(scratch) / "folder"
        make_good(good)
        for case in cases(good, canary):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(good, folder)
            poisoned = folder / case.file
            for path in folder.glob(case.without) if case.without else ():
                path.unlink()
            poisoned.parent.mkdir(parents=True, exist_ok=True)
            poisoned.write_bytes(case.content)
            for name, text in case.beside.items():
                (poisoned.parent / name).write_text(text)
            entrance = command(case.name, make_good, (), 1, *case.arguments)
            verdict, wrong = attempt(entrance, folder, poisoned, most=60.0)
            if canary.exists():
                wrong = "A PROGRAM WAS RUN"
                canary.unlink()
            elif verdict == "read" and not case.name.startswith("check") and poisons.UNHEEDED not in case.name:
                wrong = wrong or "is taken"
            tried += 1
            if wrong is not None:
                findings += 1
                print(f"{case.name}: {wrong} ({keep(poisoned, kept, 0, tried)})", flush=True)
    print(f"{tried} files with programs in them, {findings} findings")
    return 1 if findings else 0


@contextlib.contextmanager
def surroundings(folder: Path, canary: Path) -> Iterator[None]:
    """Programs to be caught, and the switches that take a guard away."""
    folder.mkdir()
    for name in poisons.PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\ntouch {canary}\n")
        (folder / name).chmod(0o755)
    before = dict(os.environ)
    os.environ.update(SWITCHES | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def make_good(folder: Path) -> None:
    """Pairs, a backbone, a run of `train` with its checkpoint, and what passes for a run of `segment`."""
    values = {**TINY, "train": {"steps": 2, "batch_size": 2, "checkpoint_every": 1, "sample_every": 9, "warmup": 0}}
    config = build_config(values, "faults")
    make_pairs(folder / "pairs")
    small_backbone(config.backbone, torch.rand(8, 3, 32, 32) * 2 - 1).save(folder / "backbone/backbone")
    train(folder / "pairs", folder / "run", str(folder / "backbone/backbone"), config=config, device="cpu")
    shutil.copytree(folder / "run", folder / "begun")
    shutil.rmtree(folder / "begun/pipeline")
    write_text(folder / "tiny.yaml", dump_config(config))
    write_text(folder / "study.yaml", STUDY)
    write_text(folder / "judge/config.yaml", dump_config(config))
    write_json(folder / "judge/metrics.json", {"val": {"mDice": 0.5, "mIoU": 0.4, "count": 3}, "test": {}})
    (folder / "judge/best.safetensors").write_bytes(b"")


OUT = ("--out", "{}/out", "--device", "cpu")
SAMPLE = ("sample", "--checkpoint", "{}/run", "--masks", "{}/pairs", *OUT)
TRAIN = ("train", "--data", "{}/pairs", "--config", "{}/tiny.yaml", *OUT)
EVALUATE = ("evaluate", "--real", "{}/pairs", "--synthetic", "{}/pairs", "--config", "{}/tiny.yaml", *OUT)
START = ("--backbone", "{}/backbone/backbone")
RESUME = (
    "train",
    "--data",
    "{}/pairs",
    *START,
    "--config",
    "{}/tiny.yaml",
    "--out",
    "{}/begun",
    "--resume",
    "--device",
    "cpu",
)


def cases(good: Path, canary: Path) -> Iterator[Case]:
    """Every poisoned file at every entrance that takes its kind."""
    weights = [
        ("import x.ckpt", "x.ckpt", ("import", "{}/x.ckpt", "--out", "{}/out"), ""),
        ("import x.safetensors", "x.safetensors", ("import", "{}/x.safetensors", "--out", "{}/out"), ""),
        ("train --backbone x.pth", "x.pth", (*TRAIN, "--backbone", "{}/x.pth"), ""),
        (
            "train --resume, optimizer",
            "begun/checkpoints/step-000002/optimizer.pt",
            RESUME,
            "",
        ),
        (
            "train --resume, model",
            "begun/checkpoints/step-000002/model.safetensors",
            RESUME,
            "",
        ),
        ("evaluate --judge", "judge/best.safetensors", (*EVALUATE, "--judge", "{}/judge"), ""),
        ("evaluate --features", "x.bin", (*EVALUATE, "--features", "timm:resnet18@{}/x.bin"), ""),
    ]
    for part in ("unet", "vae", "controlnet", "text_encoder"):
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        binary = "pytorch_model" if part == "text_encoder" else stem
        place = f"run/pipeline/{part}"
        weights += [
            (f"sample, {part}, safetensors", f"{place}/{stem}.safetensors", SAMPLE, ""),
            (f"sample, {part}, bin", f"{place}/{binary}.bin", SAMPLE, f"{place}/*.safetensors"),
        ]
    for name, file, arguments, without in weights:
        for poison, content in poisons.weights(canary, every=name == "import x.ckpt"):
            yield Case(f"{name}: {poison}", file, content, arguments, {}, without)
    for part in ("unet", "vae", "controlnet", "text_encoder", "tokenizer", "scheduler"):
        kinds = {"tokenizer": "tokenizer_config.json", "scheduler": "scheduler_config.json"}
        file = f"run/pipeline/{part}/{kinds.get(part, 'config.json')}"
        for poison, content, beside in poisons.configurations((good / file).read_bytes(), canary):
            yield Case(f"sample, {part}: {poison}", file, content, SAMPLE, beside)
    for poison, content in poisons.settings(canary):
        yield Case(f"--config: {poison}", "mine.yaml", content, (*TRAIN, "--config", "{}/mine.yaml"), {})
        yield Case(
            f"study: {poison}", "study.yaml", content, ("study", "--config", "{}/study.yaml", "--out", "{}/out"), {}
        )
        yield Case(f"a run's settings: {poison}", "run/config.yaml", content, SAMPLE, {})
    for poison, content in poisons.pictures():
        for file in ("pairs/images/phantom-00000.png", "pairs/masks/phantom-00000.png"):
            yield Case(f"check: {poison} as {file}", file, content, ("check", "{}/pairs"), {})
            yield Case(f"train: {poison} as {file}", file, content, (*TRAIN, *START), {})
