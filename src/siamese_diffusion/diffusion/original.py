"""The authors' checkpoints: in (`load_original`, `import_`), and a run out again (`export`)."""

import shutil
from collections.abc import Mapping
from functools import partial
from os import fspath
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor

from siamese_diffusion.arguments import Settings, StrPath, to_config, to_path
from siamese_diffusion.cards import EVALUATION, model_card, write_model_card
from siamese_diffusion.claim import Claim
from siamese_diffusion.config import Config, dump_config, load_config
from siamese_diffusion.data.hashing import hash_files, hash_weights
from siamese_diffusion.diffusion import ldm
from siamese_diffusion.diffusion.backbone import Backbone, load_parts, load_tokenizer, sd15_scheduler
from siamese_diffusion.diffusion.checkpoint import Trained, load_trained, save_pipeline
from siamese_diffusion.diffusion.control import controlnet_for
from siamese_diffusion.diffusion.siamese import SiameseDiffusion
from siamese_diffusion.durable import clear
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import whole_folder, write_json, write_text, write_whole
from siamese_diffusion.hub import fetch_weights
from siamese_diffusion.lock import hold

EXAMPLE = """# Siamese-Diffusion, exported

Three lines draw an image for a mask in plain diffusers, where `siamese-diffusion` is installed too (it brings the Dense
Hint Input):

    from diffusers import StableDiffusionControlNetPipeline
    pipeline = StableDiffusionControlNetPipeline.from_pretrained("{folder}")
    image = pipeline("A photo of {label}", image=mask, num_inference_steps={steps}, guidance_scale={guidance}).images[0]

`mask` is an RGB PIL image of {size} x {size} pixels, white where the lesion is.
"""


def load_original(
    source: Path | str | Mapping[str, Tensor], *, unet_config: Mapping[str, Any] | None = None
) -> SiameseDiffusion:
    """The authors' weights as a `SiameseDiffusion`; with a first stage in them, also its `vae`.

    Args:
        source: a `.ckpt`, `.pth` or `.safetensors` file, or a state dict; with or without a `state_dict` level or the
            prefixes `module.` and `_forward_module.`. Nothing in a file is executed.
        unet_config: in the original's terms: model_channels, channel_mult, num_res_blocks, attention_resolutions,
            num_heads, context_dim, in_channels, out_channels. What is left out is inferred from the shapes, or is
            Stable Diffusion 1.5's (8 heads).

    Raises:
        InputError: the file cannot be read, or a key is missing, left over or of the wrong shape (it is named).
    """
    origin = str(source) if isinstance(source, (str, Path)) else "checkpoint"
    state = ldm.read_state(source) if isinstance(source, (str, Path)) else source
    parts = ldm.split(state, origin)
    return _model(parts, unet_config or {}, origin, state.get("alphas_cumprod"))


def _model(
    parts: dict[str, dict[str, Tensor]], unet_config: Mapping[str, Any], origin: str, alphas: Tensor | None = None
) -> SiameseDiffusion:
    for prefix in (ldm.UNET, ldm.CONTROL):
        if not parts[prefix]:
            raise InputError(f"{origin}: no key begins with {prefix}")
    unet = ldm.build_unet(parts[ldm.UNET], unet_config, origin)
    control = controlnet_for(unet, hint_factor=8)
    ldm.fill_control(control, parts[ldm.CONTROL], origin)
    if alphas is None:
        alphas = ldm.schedule_buffers()["alphas_cumprod"]
    model = SiameseDiffusion(unet, control, alphas, "epsilon")
    if parts[ldm.VAE]:
        model.vae = ldm.build_vae(parts[ldm.VAE], origin).requires_grad_(False)
    return model.eval()


def import_(
    source: StrPath,
    out: StrPath,
    backbone: str | None = None,
    config: Settings = None,
    unet_config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Turn a checkpoint of the authors' code into a run folder that `sample` and `export` take.

    The same call begins again where an earlier one was cut short.

    Args:
        source: the checkpoint: one file, see `load_original`; or on the hub `OWNER/NAME`, where that holds one such
            file, or `OWNER/NAME/FILE`.
        out: run folder to write.
        backbone: folder or hub id in diffusers' layout for what the file lacks: first stage or text encoder. The
            tokenizer, which no such file holds, comes from there too, or from a folder `tokenizer/` beside the file, or
            from the hub (`openai/clip-vit-large-patch14`).
        config: settings the run is said to have; default: the preset `sd15-paper`.
        unet_config: see `load_original`.

    Returns:
        The run folder and the number of parameters.

    Raises:
        InputError: see `load_original`; a part is missing from the file and no `backbone` is given; `out` holds a run,
            or anything else.
    """
    out = to_path(out)
    source = fetch_weights(fspath(source), "SOURCE") or to_path(source, "SOURCE")
    config = to_config(config, partial(load_config, "sd15-paper"))
    if not source.is_file():
        raise InputError(f"{source}: no such file")
    inputs = {"command": "import", "sha256": hash_files([source]), "--backbone": backbone, "unet_config": unet_config}
    with hold(out):
        claim = Claim(out, config, dict.fromkeys(Config.model_fields), inputs, None, result="summary.json")
        parts = ldm.split(ldm.read_state(source), str(source))
        model = _model(parts, unet_config or {}, str(source))
        for prefix, name in ((ldm.VAE, "first stage"), (ldm.TEXT, "text encoder")):
            if not parts[prefix] and backbone is None:
                raise InputError(f"{source}: holds no {name} ({prefix}*); name a backbone that does with --backbone")
        lacking = load_parts(backbone, ("vae", "text_encoder", "tokenizer")) if backbone is not None else {}
        whole = Backbone(
            vae=model.vae if parts[ldm.VAE] else lacking["vae"],
            unet=model.unet,
            text_encoder=ldm.build_text_encoder(parts[ldm.TEXT], str(source))
            if parts[ldm.TEXT]
            else lacking["text_encoder"],
            tokenizer=lacking["tokenizer"] if lacking else load_tokenizer(source.parent),
            scheduler=sd15_scheduler(),
        )
        if whole.text_encoder.config.hidden_size != model.unet.config.cross_attention_dim:
            width = model.unet.config.cross_attention_dim
            raise InputError(
                f"{source}: its text encoder is {whole.text_encoder.config.hidden_size} wide, its UNet wants {width}"
            )
        claim.write()
        save_pipeline(model, whole, out / "pipeline")
        result = {"run": str(out), "parameters": sum(p.numel() for p in model.parameters())}
        about = {"checkpoint": hash_weights(out / "pipeline"), "imported": str(source), "sha256": inputs["sha256"]}
        write_json(out / "summary.json", result | about)
        write_model_card(out)
        return result


def export(checkpoint: StrPath, out: Path, to: str = "diffusers") -> dict[str, Any]:
    """Write a run in a form that other programs load.

    Args:
        checkpoint: a finished run of `train`, or of `import_`.
        out: for "diffusers" a folder to write, a `StableDiffusionControlNetPipeline`; for "original" a file ending in
            `.safetensors`, or in `.ckpt` with a `state_dict` level, under the key names of the authors' code.
        to: "diffusers" or "original".

    Returns:
        What was written, and the hash of the run's weights.

    Raises:
        InputError: no such run, `out` is in use, or the run is of a kind that the original's format cannot hold.
    """
    if to not in ("diffusers", "original"):
        raise InputError(f"--to {to}: unknown; choose diffusers or original")
    if to == "original" and out.suffix not in (".safetensors", ".ckpt"):
        raise InputError(f"--out {out}: must end in .safetensors or .ckpt")
    if out.name in ("", ".."):
        raise InputError(f"--out {out}: name what is to be made")
    if out.exists() and (to == "original" or not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: already in use; name another")
    trained = load_trained(checkpoint)
    if to == "diffusers":
        _export_pipeline(trained, out)
    else:
        _export_original(trained, checkpoint, out)
    return {"out": str(out), "checkpoint": trained.hash}


def _export_pipeline(trained: Trained, out: Path) -> None:
    settings = trained.config
    text = EXAMPLE.format(
        folder=out,
        label=settings.data.label,
        steps=settings.sample.steps,
        guidance=settings.sample.guidance,
        size=settings.data.resolution,
    )
    with whole_folder(out) as folder:
        save_pipeline(trained.model, trained.backbone, folder)
        write_text(folder / "config.yaml", dump_config(settings))
        for name in ("summary.json", EVALUATION):
            if trained.notes is not None and (trained.notes / name).exists():
                shutil.copyfile(trained.notes / name, folder / name)
        write_text(folder / "README.md", model_card(folder) if (folder / "summary.json").exists() else text)


def _export_original(trained: Trained, checkpoint: StrPath, out: Path) -> None:
    backbone, model = trained.backbone, trained.model
    reasons = {
        "its first stage is not Stable Diffusion's": not isinstance(backbone.vae, AutoencoderKL)
        or backbone.factor != 8,
        "it predicts v": model.schedule.prediction != "epsilon",
        "it has ControlNet's stock hint embedding": model.controlnet.config.hint != "dense",
    }
    for reason, holds in reasons.items():
        if holds:
            raise InputError(f"--checkpoint {checkpoint}: the original's format cannot hold this run: {reason}")
    state = ldm.to_original(model.unet, model.controlnet, backbone.vae, backbone.text_encoder)

    def write(path: Path) -> None:
        if path.suffix == ".safetensors":
            save_file({key: value.contiguous() for key, value in state.items()}, path)
        else:
            with path.open("wb") as file:  # by its name, torch would write that into the file
                torch.save({"state_dict": state}, file)

    clear(out.parent, out.name)
    write_whole(out, write)
