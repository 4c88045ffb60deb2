"""How the authors of each network train it: what `segment` uses for it where the user sets nothing else.

Plain values over the defaults of `siamese_diffusion.settings.SegmentConfig`, which reads them; their sources are in
docs/results/archive/networks.md. Steps are the authors' epochs over their training set: 128 of 1450 pairs (SANet), 99
and 31 of them with three sizes each (Polyp-PVT, CTNet), 100 of 1815 (plain U-Net). `smp` is a network of the user's
choice, with this package's own recipe.
"""

from typing import Any

NETWORKS = ("unet", "segformer", "unet_plain", "sanet", "polyp_pvt", "ctnet", "smp")
"""The networks of `siamese_diffusion.segmentation.networks`, a file each."""

_PRANET: dict[str, Any] = {
    "resolution": 352,
    "schedule": "constant",
    "warmup": 0,
    "augmentation": "none",
    "pretrained": "auto",
    "sample_every": 500,
    "checkpoint_every": 500,
}
NETWORK_RECIPES: dict[str, dict[str, Any]] = {
    "smp": {"encoder": "resnet34", "architecture": "Unet", "weights": "random"},
    "unet_plain": {
        "resolution": 224,
        "steps": 11_400,
        "learning_rate": 1e-4,
        "schedule": "constant",
        "warmup": 0,
        "weight_decay": 0.0,
        "augmentation": "none",
        "loss": "two-class",
        "sample_every": 500,
        "checkpoint_every": 500,
    },
    "sanet": _PRANET
    | {
        "steps": 2944,
        "batch_size": 64,
        "optimizer": "sgd",
        "learning_rate": 0.4,
        "backbone_rate": 0.1,
        "halve_at": (63 / 128, 95 / 128),
        "weight_decay": 5e-4,
        "loss": "sanet",
        "augmentation": "flip-turn",
        "colour_exchange": 1.0,
        "multiscale": "drawn",
        "scales": (256 / 352, 288 / 352, 320 / 352, 1.0),
        "scale_weights": (0.1, 0.2, 0.3, 0.4),
        "correction": True,
    },
    "polyp_pvt": _PRANET
    | {
        "steps": 27_027,
        "learning_rate": 1e-4,
        "clip_value": 0.5,
        "loss": "structure",
        "multiscale": "cycle",
        "scales": (0.75, 1.0, 1.25),
    },
    "ctnet": _PRANET
    | {
        "steps": 8463,
        "learning_rate": 1e-4,
        "clip_value": 0.5,
        "loss": "structure-contrast",
        "multiscale": "cycle",
        "scales": (0.75, 1.0, 1.25),
    },
}
