"""What is said of an exported network: `model.json` for programs, `README.md` for people."""

from pathlib import Path
from typing import Any

from siamese_diffusion.data.hashing import hash_files
from siamese_diffusion.data.images import Fit
from siamese_diffusion.files import read_json
from siamese_diffusion.segmentation.networks.normalize import Normalize
from siamese_diffusion.segmentation.trained import WEIGHTS, TrainedNetwork

CARD = "model.json"

THRESHOLD = 0.5

_FITS: dict[Fit, str] = {
    "squash": "the whole image is resized to R x R, whatever its shape",
    "pad": "the image is resized so that its longer side is R, and padded with black on both sides to R x R",
    "crop": "the square in the middle of the image is cut out and resized to R x R",
}
_BACK: dict[Fit, str] = {
    "squash": "resize the map to the image's size, bilinear (half-pixel centres)",
    "pad": "cut the padding off the map, then resize it to the image's size, bilinear (half-pixel centres)",
    "crop": "resize the map to the square that was cut out, bilinear (half-pixel centres); outside it the probability "
    "is 0",
}

_WEIGHTS_LICENCES = {
    "segformer": "NVIDIA Source Code License, non-commercial use only (nvidia/mit-b0)",
    "ctnet": "NVIDIA Source Code License, non-commercial use only (smp-hub/mit_b3.imagenet)",
    "polyp_pvt": "Apache-2.0 (timm pvt_v2_b2.in1k)",
    "sanet": "see the model card of timm res2net50d.in1k",
    "unet": "see the model card of torchvision's ResNet-18",
}
"""Of the ImageNet weights that a network may begin with; docs/networks.md."""


def describe(
    trained: TrainedNetwork, run: Path, file: Path, to: str, given: dict[str, str], output: str
) -> dict[str, Any]:
    """What `model.json` says.

    Args:
        trained: the network.
        run: its run's folder.
        file: the file that holds it.
        to: the format.
        given: `name` and `pixels` of the graph's input.
        output: name of the graph's output.
    """
    settings, side, fit, names = trained.settings, trained.resolution, trained.data.fit, list(trained.classes)
    metrics = read_json(run / "metrics.json", dict[str, Any])
    inputs = read_json(run / "inputs.json") if (run / "inputs.json").exists() else {}
    high = "255" if given["pixels"] == "uint8" else "1"
    return {
        "program": "siamese-diffusion",
        "format": to,
        "file": file.name,
        "sha256_16": hash_files([file]),
        "input": {
            "name": given["name"],
            "dtype": given["pixels"],
            "shape": ["batch", 3, side, side],
            "range": f"0 to {high}",
            "channels": "red, green, blue",
        },
        "output": {
            "name": output,
            "dtype": "float32",
            "shape": ["batch", 1 if not names else len(names) + 1, side, side],
            "range": f"0 to 1: the probability of {'each class, the background first' if names else 'the mask'}",
            "included": [
                "normalisation",
                *["probability correction"] * settings.correction,
                "softmax" if names else "sigmoid",
            ],
        },
        "classes": {str(label): name for label, name in enumerate(["background", *(names or [trained.data.label])])},
        "threshold": None if names else THRESHOLD,
        "resolution": side,
        "fit": fit,
        "prepare": f"upright RGB; {_FITS[fit]}; filter: Lanczos (Pillow)",
        "finish": f"{_BACK[fit]}; then "
        + (
            "a pixel is of the likeliest class"
            if names
            else "a pixel belongs to the mask where the map is above the threshold"
        ),
        "normalisation": {**_normalisation(trained), "where": "inside the graph"},
        "network": {
            "name": settings.network,
            **{name: getattr(settings, name) for name in ("architecture", "encoder") if getattr(settings, name)},
            "parameters": sum(each.numel() for each in trained.network.parameters()),
        },
        "trained": {
            "pairs": metrics.get("train"),
            "files_hash": inputs.get("files"),
            "weights_hash": hash_files([run / WEIGHTS]),
            "began_with_imagenet": metrics.get("imagenet"),
            "began_with": metrics.get("weights"),
            "steps": settings.steps,
            "best_step": metrics.get("step"),
            "seed": settings.seed,
        },
        "scores": {"val": metrics.get("val"), "test": metrics.get("test")},
        "licence": _licences(metrics, settings.network),
    }


def _normalisation(trained: TrainedNetwork) -> dict[str, Any]:
    """What a network does to an image in [0, 1] before its first convolution."""
    layer = next((module for module in trained.network.modules() if isinstance(module, Normalize)), None)
    if layer is None:
        return {"kind": "each image is stretched to [0, 1] by its own range"}
    flat = {name: [round(float(value), 6) for value in getattr(layer, name).flatten()] for name in ("mean", "std")}
    return {"kind": "minus mean, over std, of values in [0, 1]", **flat}


def _licences(metrics: dict[str, Any], network: str) -> dict[str, str]:
    """Of what went into the network; whose the weights are that come out is for those who trained it to say."""
    folder = Path(str((metrics.get("train") or {}).get("folder", "")))
    stated = None
    if str(folder) != "." and (folder / "dataset.json").is_file():
        found = read_json(folder / "dataset.json")
        stated = found.get("licence") if isinstance(found, dict) else None
    begun = "none"
    if metrics.get("weights"):
        begun = str(metrics["weights"].get("source"))
    elif metrics.get("imagenet"):
        begun = _WEIGHTS_LICENCES.get(network, "unknown")
    return {
        "training_data": str(stated) if stated else "not stated in the folder; ask where the pairs come from",
        "initial_weights": begun,
        "code": "Apache-2.0 (siamese-diffusion)",
    }


_USE = {
    "onnx": """    import numpy as np, onnxruntime
    session = onnxruntime.InferenceSession("model.onnx")
    images = np.zeros((1, 3, {side}, {side}), np.{dtype})  # RGB, {range}
    probabilities = session.run(None, {{"images": images}})[0]  # (1, {maps}, {side}, {side})""",
    "torchscript": """    import torch
    network = torch.jit.load("model.pt")
    images = torch.zeros(1, 3, {side}, {side}, dtype=torch.{dtype})  # RGB, {range}
    probabilities = network(images)  # (1, {maps}, {side}, {side})""",
    "safetensors": """    from siamese_diffusion import load_network
    mask = load_network("FOLDER").predict("image.png")  # bool (H, W), at the image's own size""",
}


def read_me(card: dict[str, Any]) -> str:
    """The model card of `describe`'s `card`."""
    network, trained, given = card["network"], card["trained"], card["input"]
    name = " on ".join(str(network[key]) for key in ("architecture", "encoder") if key in network) or network["name"]
    use = _USE[card["format"]].format(
        side=card["resolution"], maps=card["output"]["shape"][1], dtype=given["dtype"], range=given["range"]
    )
    pairs = trained["pairs"] or {}
    scores = [("validation", card["scores"]["val"] or {}), *(card["scores"]["test"] or {}).items()]
    lines = [
        f"- {where}: mDice {row['mDice']:.4f}, mIoU {row['mIoU']:.4f} ({row['count']} images)"
        for where, row in scores
        if {"mDice", "mIoU", "count"} <= row.keys()
    ]
    return "\n".join(
        [
            f"# {name}: where {', '.join(list(card['classes'].values())[1:])} is in an image",
            "",
            "A segmentation network trained with siamese-diffusion. It is for research; it is no medical device, and "
            "its output is no diagnosis.",
            "",
            use,
            "",
            "## What goes in and comes out",
            "",
            f"- Before: {card['prepare']}, R = {card['resolution']}.",
            f"- Inside the graph: {', '.join(card['output']['included'])} ({card['normalisation']['kind']}).",
            f"- After: {card['finish']}" + (f" ({card['threshold']})." if card["threshold"] is not None else "."),
            "",
            "## Trained on",
            "",
            f"- {pairs.get('real', '?')} real and {pairs.get('synthetic', 0)} synthetic pairs; "
            f"{pairs.get('validation', '?')} others picked the step. Hash of the files' names and sizes: "
            f"{trained['files_hash']}.",
            f"- Licence of the data: {card['licence']['training_data']}.",
            f"- Initial weights: {card['licence']['initial_weights']}.",
            f"- {network['parameters']:,} parameters, {trained['steps']} steps, seed {trained['seed']}.",
            "",
            "## Scores",
            "",
            *(lines or ["None were taken."]),
            "",
            "`model.json` says the same for programs.",
            "",
        ]
    )
