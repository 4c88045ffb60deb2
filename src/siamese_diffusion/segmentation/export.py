"""A trained segmentation network in a form that runs without this package: ONNX, TorchScript, or weights alone.

Design note: normalisation, SANet's correction and the sigmoid are inside the graph, so that whoever runs it needs no
more than a square image; how an image becomes square, and a map an image's mask again, is said in `model.json`. What
was written is loaded again and compared before the folder is finished.
"""

import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module, metadata
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from siamese_diffusion import extras
from siamese_diffusion.claim import Claim, require_apart
from siamese_diffusion.config import dump_config, load_config
from siamese_diffusion.data.hashing import hash_files
from siamese_diffusion.errors import InputError, reason
from siamese_diffusion.files import read_json, write_json, write_text, write_whole
from siamese_diffusion.lock import hold
from siamese_diffusion.segmentation.colour import correct
from siamese_diffusion.segmentation.model_card import CARD, describe, read_me
from siamese_diffusion.segmentation.trained import WEIGHTS, TrainedNetwork, load_network, run_of

FORMATS = ("onnx", "torchscript", "safetensors")
FILES = {"onnx": "model.onnx", "torchscript": "model.pt", "safetensors": WEIGHTS}
PIXELS = ("float32", "uint8")
INPUT, OUTPUT = "images", "probabilities"
OPSET = 18
TOLERANCE = 1e-4
"""Of a probability, between what was written and the network."""


class Deployed(nn.Module):
    """(B, 3, R, R) RGB -> probabilities (B, 1, R, R) of the mask, or of several classes (B, K + 1, R, R), the
    background first; R is the network's resolution.

    Args:
        trained: the network.
        pixels: "float32" images are in [0, 1], "uint8" ones in 0 to 255.
    """

    def __init__(self, trained: TrainedNetwork, pixels: str) -> None:
        super().__init__()
        self.network, self.correction, self.bytes = trained.network, trained.settings.correction, pixels == "uint8"
        self.several = bool(trained.classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images / 255.0 if self.bytes else images).float()
        if self.several:
            return logits.softmax(1)
        return (correct(logits) if self.correction else logits).sigmoid()


def export_network(network: Path, out: Path, to: str = "onnx", pixels: str = "float32") -> dict[str, Any]:
    """Write a trained network for use elsewhere.

    Args:
        network: a finished run of `segment`.
        out: folder to write: the model's file, `model.json` (what goes in and comes out, how images are prepared, what
            the network was trained on) and `README.md`, its model card. The same call begins again where an earlier one
            was cut short.
        to: "onnx" (`model.onnx`), "torchscript" (`model.pt`), each with any number of images; or "safetensors": the
            weights with their settings, a run that `predict` and `load_network` take.
        pixels: what an image of the graph is: "float32" in [0, 1], or "uint8" from 0 to 255.

    Returns:
        `out`, `file`, `to`, and `difference`: the largest of a probability between the file and the network.

    Raises:
        InputError: no finished run, an unknown format, a format whose libraries are not installed or that cannot hold
            the network, or `out` is in use.
    """
    _require_options(to, pixels)
    require_apart(out, network=network)
    network = run_of(network)
    trained = load_network(network)
    inputs = {"command": "export", "--to": to, "--pixels": pixels, "sha256": hash_files([network / WEIGHTS])}
    with hold(out):
        claim = Claim(out, None, {}, inputs, None, result=CARD)
        claim.write()
        file = out / FILES[to]
        deployed = Deployed(trained, pixels).eval()
        if to == "safetensors":
            _copy_run(trained, network, out)
            again: Callable[[Tensor], Tensor] = Deployed(load_network(out), pixels)
        else:
            write, load = (_write_onnx, _load_onnx) if to == "onnx" else (_write_torchscript, _load_torchscript)
            example = _images(2, trained.resolution, pixels)
            write_whole(file, lambda path: write(deployed, example, path), durable=True)
            again = load(file)
        try:
            difference = _compare(deployed, again, trained.resolution, pixels, to)
        except InputError:
            file.unlink()  # nobody shall take it for the network
            raise
        card = describe(trained, network, file, to, {"name": INPUT, "pixels": pixels}, OUTPUT)
        card["verified"] = {"largest_difference": difference, "images": 4, "versions": _versions(to)}
        write_text(out / "README.md", read_me(card))
        write_json(out / CARD, card)
    return {"out": str(out), "file": str(file), "to": to, "difference": difference}


def _require_options(to: str, pixels: str) -> None:
    """Raise `InputError` unless there is such a format, of such images, and its libraries are installed."""
    if to not in FORMATS:
        raise InputError(f"--to {to}: unknown for --network; choose from {', '.join(FORMATS)}")
    if pixels not in PIXELS:
        raise InputError(f"--pixels {pixels}: unknown; choose from {', '.join(PIXELS)}")
    if to == "safetensors" and pixels != "float32":
        raise InputError("--pixels: makes no difference to weights alone; leave it out")
    if to == "onnx":
        extras.require(("onnx", "onnxruntime", "onnxscript"), "export", "--to onnx")


def _write_onnx(deployed: nn.Module, example: Tensor, path: Path) -> None:
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                deployed,
                (example,),
                path,
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # what cannot be exported is told in many ways
            if "No space left" in str(error):
                raise
            raise InputError(
                f"--to onnx: this network cannot be exported so ({reason(error)}); try torchscript"
            ) from None


def _load_onnx(file: Path) -> Callable[[Tensor], Tensor]:
    runtime = import_module("onnxruntime")
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


def _write_torchscript(deployed: nn.Module, example: Tensor, path: Path) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of what a trace keeps fixed: the comparison tells whether that matters
        traced: Any = torch.jit.trace(deployed, example, check_trace=False)
        traced.save(str(path))


def _load_torchscript(file: Path) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded: Callable[[Tensor], Tensor] = torch.jit.load(str(file), map_location="cpu")
    return loaded


def _copy_run(trained: TrainedNetwork, network: Path, out: Path) -> None:
    """The parts of a run that its network is loaded from."""
    state = {name: value.contiguous() for name, value in trained.network.state_dict().items()}
    write_whole(out / WEIGHTS, lambda path: save_file(state, path), durable=True)
    write_text(out / "config.yaml", dump_config(load_config(network / "config.yaml")))
    write_json(out / "metrics.json", read_json(network / "metrics.json"))


def _images(count: int, side: int, pixels: str) -> Tensor:
    drawn = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(count))
    return (drawn * 255).round().to(torch.uint8) if pixels == "uint8" else drawn


def _compare(deployed: nn.Module, again: Callable[[Tensor], Tensor], side: int, pixels: str, to: str) -> float:
    """The largest difference of a probability, for one image and for three at once.

    Raises:
        InputError: it is larger than `TOLERANCE`.
    """
    largest = 0.0
    for count in (1, 3):
        images = _images(count, side, pixels)
        with torch.no_grad():
            try:
                found = again(images)
            except Exception as error:  # a trace that holds for its own number of images only
                raise InputError(f"--to {to}: what was written does not run ({reason(error)}); try another") from None
            largest = max(largest, float((found - deployed(images)).abs().max()))
    if not largest <= TOLERANCE:
        raise InputError(f"--to {to}: what was written differs from the network by {largest:.2g} in a probability")
    return largest


def _versions(to: str) -> dict[str, str]:
    names = {
        "onnx": ("torch", "onnx", "onnxruntime"),
        "torchscript": ("torch",),
        "safetensors": ("torch", "safetensors"),
    }
    return {name: metadata.version(name) for name in names[to]}
