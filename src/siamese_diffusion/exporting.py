"""The `export` command: a run in a form that other programs load, of a generator or of a segmentation network.

Each kind of run has its own formats and its own room; here it is only told apart.
"""

from pathlib import Path
from typing import Any

from siamese_diffusion.arguments import StrPath, to_path, to_path_or_none
from siamese_diffusion.errors import InputError

OF_CHECKPOINTS, OF_NETWORKS = ("diffusers", "original"), ("onnx", "torchscript", "safetensors")


def export(
    checkpoint: StrPath | None = None,
    out: StrPath | None = None,
    to: str | None = None,
    network: StrPath | None = None,
    pixels: str = "float32",
    pairs: StrPath | None = None,
    push: str | None = None,
    public: bool = False,
    allow_flagged: bool = False,
) -> dict[str, Any]:
    """Write a run in a form that other programs load, or push it, or drawn pairs, to the Hugging Face hub.

    Args:
        checkpoint: a finished run of `train` or `import_`; see `diffusion.original.export`.
        out: what is written: a folder, or for "original" a file; with `push` it may be left out.
        to: of a checkpoint "diffusers" (default) or "original"; of a network "onnx" (default), "torchscript" or
            "safetensors" (default with `push`).
        network: instead of `checkpoint`: a finished run of `segment`; see `segmentation.export.export_network`.
        pixels: of a network: what its images are, "float32" in [0, 1] or "uint8".
        pairs: instead of either: a folder of drawn pairs, which is pushed as a data set.
        push: OWNER/NAME of a repository, which is made where it is not there; private.
        public: with `push`: everybody may read it.
        allow_flagged: with `push`: even where images are flagged as copies of training images, or nobody has looked.

    Returns:
        What was written; with `push` also `repository`, its address, and `private`.

    Raises:
        InputError: none or several are given, a format that the run has not, or as in the functions that do it.
    """
    given = [each is not None for each in (checkpoint, network, pairs)]
    if sum(given) != 1:
        raise InputError(
            "export: give one of --checkpoint (a run of train or import), --network (a run of segment) and --pairs "
            "(drawn pairs, with --push)"
        )
    if push is None and (public or allow_flagged or pairs is not None):
        raise InputError(
            f"{'--public' if public else '--allow-flagged' if allow_flagged else '--pairs'}: is for --push"
        )
    if pairs is not None:
        if out is not None or to is not None:
            raise InputError("--pairs: are pushed as they are; take --out and --to away")
        from siamese_diffusion.pushing import push_pairs

        assert push is not None  # else refused above
        return push_pairs(to_path(pairs, "--pairs"), push, public, allow_flagged)
    if push is None:
        if out is None:
            raise InputError("export: give --out, what is to be written; or --push OWNER/NAME")
        return _write(checkpoint, to_path(out), to, network, pixels)
    if to == "original":
        raise InputError("--to original: is a file; --push takes the diffusers form, or use --out")
    from siamese_diffusion.pushing import place_for, push_exported

    with place_for(to_path_or_none(out, "--out")) as folder:
        written = _write(checkpoint, folder, to or (None if network is None else "safetensors"), network, pixels)
        pushed = push_exported(folder, checkpoint or network or "", push, public, allow_flagged)
    return {**({} if out is None else written), **pushed}


def _write(
    checkpoint: StrPath | None, out: Path, to: str | None, network: StrPath | None, pixels: str
) -> dict[str, Any]:
    """Write one of the two."""
    if network is not None:
        if to in OF_CHECKPOINTS:
            raise InputError(f"--to {to}: is for --checkpoint; of --network choose from {', '.join(OF_NETWORKS)}")
        from siamese_diffusion.segmentation.export import export_network

        return export_network(to_path(network, "--network"), out, to or "onnx", pixels)
    assert checkpoint is not None  # one of the two is given
    if to in OF_NETWORKS:
        raise InputError(f"--to {to}: is for --network; of --checkpoint choose from {', '.join(OF_CHECKPOINTS)}")
    if pixels != "float32":
        raise InputError("--pixels: is for --network")
    from siamese_diffusion.diffusion.original import export as export_checkpoint

    return export_checkpoint(checkpoint, out, to or "diffusers")
