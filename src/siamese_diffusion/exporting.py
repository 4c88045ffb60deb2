"""The `export` command: a run in a form that other programs load, of a generator or of a segmentation network.

Each kind of run has its own formats and its own room; here it is only told apart.
"""

from typing import Any

from siamese_diffusion.arguments import StrPath, to_path, to_path_or_none
from siamese_diffusion.errors import InputError

OF_CHECKPOINTS, OF_NETWORKS = ("diffusers", "original"), ("onnx", "torchscript", "safetensors")


def export(
    checkpoint: StrPath | None,
    out: StrPath,
    to: str | None = None,
    network: StrPath | None = None,
    pixels: str = "float32",
) -> dict[str, Any]:
    """Write a run in a form that other programs load.

    Args:
        checkpoint: a finished run of `train` or `import_`; see `diffusion.original.export`.
        out: what is written: a folder, or for "original" a file.
        to: of a checkpoint "diffusers" (default) or "original"; of a network "onnx" (default), "torchscript" or
            "safetensors".
        network: instead of `checkpoint`: a finished run of `segment`; see `segmentation.export.export_network`.
        pixels: of a network: what its images are, "float32" in [0, 1] or "uint8".

    Returns:
        What was written.

    Raises:
        InputError: neither or both are given, a format that the run has not, or as in the two functions.
    """
    out, network = to_path(out), to_path_or_none(network, "--network")
    if (checkpoint is None) == (network is None):
        raise InputError("export: give either --checkpoint (a run of train or import) or --network (a run of segment)")
    if network is not None:
        if to in OF_CHECKPOINTS:
            raise InputError(f"--to {to}: is for --checkpoint; of --network choose from {', '.join(OF_NETWORKS)}")
        from siamese_diffusion.segmentation.export import export_network

        return export_network(network, out, to or "onnx", pixels)
    assert checkpoint is not None  # one of the two is given
    if to in OF_NETWORKS:
        raise InputError(f"--to {to}: is for --network; of --checkpoint choose from {', '.join(OF_CHECKPOINTS)}")
    if pixels != "float32":
        raise InputError("--pixels: is for --network")
    from siamese_diffusion.diffusion.original import export as export_checkpoint

    return export_checkpoint(checkpoint, out, to or "diffusers")
