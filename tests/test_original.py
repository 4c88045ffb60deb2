"""The authors' checkpoint format, in and out, and plain Stable Diffusion files as backbones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionControlNetPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from siamese_diffusion.config import Config, build_config, update
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.pairs import prompt_of
from siamese_diffusion.diffusion import backbone as backbone_module
from siamese_diffusion.diffusion import original as original_module
from siamese_diffusion.diffusion.backbone import _small_text_encoder, load_backbone
from siamese_diffusion.diffusion.checkpoint import assemble, load_trained
from siamese_diffusion.diffusion.control import DenseControlNet
from siamese_diffusion.diffusion.original import export, import_
from siamese_diffusion.diffusion.sample import sample
from siamese_diffusion.diffusion.train import train
from siamese_diffusion.errors import InputError
from siamese_diffusion.randomness import generator

RECORDED = Path(__file__).parent / "data/golden/tiny_state_dict_e5m2.safetensors"
CONFIG = {"num_heads": 4}
SETTINGS = {"data": {"resolution": 64, "split": None}, "sample": {"steps": 3, "guidance": 9.0, "mask_guidance": 1.0}}


def weights() -> dict[str, Tensor]:
    """A checkpoint as the authors release it: every part, text encoder included."""
    state = {key: value.float() for key, value in load_file(RECORDED).items()}
    torch.manual_seed(0)
    encoder, _ = _small_text_encoder(16)
    for key, value in encoder.state_dict().items():
        state[f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"] = value
    return state


def save(state: dict[str, Tensor], path: Path) -> Path:
    """Write `path`, and a tokenizer beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save({"state_dict": {f"_forward_module.{key}": value for key, value in state.items()}}, path)
    _small_text_encoder(16)[1].save_pretrained(path.parent / "tokenizer")
    return path


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("import")
    file = save(weights(), folder / "original.ckpt")
    import_(file, folder / "run", config=build_config(SETTINGS, "test"), unet_config=CONFIG)
    return folder / "run"


def test_imported_run_holds_the_weights_and_comes_out_again(imported: Path, tmp_path: Path) -> None:
    expected = weights()
    for name in ("out.safetensors", "out.ckpt"):
        export(imported, tmp_path / name, "original")
        if name.endswith("ckpt"):
            after = torch.load(tmp_path / name, weights_only=True)["state_dict"]
        else:
            after = load_file(tmp_path / name)
        assert after.keys() == expected.keys()
        parts = ("control_model.", "model.", "first_stage_model.", "cond_stage_model.")
        assert [key for key in after if key.startswith(parts) and not torch.equal(after[key], expected[key])] == []


def drawn_by_diffusers(folder: Path, run: Path, pairs: Path, seed: int = 0) -> np.ndarray:
    """The first pair's image, by plain diffusers from the exported folder, from the noise that `sample` starts with."""
    config = load_trained(run).config
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    assert isinstance(pipeline.controlnet, DenseControlNet)
    first = DataFolder(pairs).pairs()[0]
    mask = Image.open(first.mask.path).convert("RGB")
    side = config.data.resolution // pipeline.vae_scale_factor
    noise = torch.randn(pipeline.unet.config.in_channels, side, side, generator=generator(seed, "noise", first.name, 0))
    image = pipeline(
        prompt_of(config.data.label),
        image=mask,
        latents=noise[None],
        num_inference_steps=config.sample.steps,
        guidance_scale=config.sample.guidance,
    ).images[0]
    return np.asarray(image).astype(int)


def test_exported_pipeline_draws_what_sample_draws(imported: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    y, x = np.mgrid[:64, :64]
    Image.fromarray((((y - 30) ** 2 + (x - 25) ** 2 < 200) * 255).astype(np.uint8)).save(masks / "disc.png")
    sample(imported, masks, tmp_path / "drawn", device="cpu")
    result = export(imported, tmp_path / "pipeline")
    assert "from_pretrained" in (tmp_path / "pipeline/README.md").read_text()
    ours = np.asarray(Image.open(tmp_path / "drawn/images/disc.png")).astype(int)
    theirs = drawn_by_diffusers(tmp_path / "pipeline", imported, tmp_path / "drawn")
    assert abs(ours - theirs).max() <= 1
    assert ours.std() > 1
    assert result["checkpoint"] == load_trained(imported).hash


def test_exported_small_run_draws_what_sample_draws(run: Path, tmp_path: Path, pairs: Path) -> None:
    sample(run, pairs, tmp_path / "drawn", mask_guidance=1.0, device="cpu")
    export(run, tmp_path / "pipeline")
    ours = np.asarray(Image.open(DataFolder(tmp_path / "drawn").pairs()[0].image.path)).astype(int)
    assert abs(ours - drawn_by_diffusers(tmp_path / "pipeline", run, tmp_path / "drawn")).max() <= 1


def test_plain_stable_diffusion_file_as_backbone(tmp_path: Path) -> None:
    state = {key: value for key, value in weights().items() if not key.startswith("control_model.")}
    loaded = load_backbone(save(state, tmp_path / "sd.safetensors"))
    assert torch.equal(loaded.unet.conv_in.weight, state["model.diffusion_model.input_blocks.0.0.weight"])
    assert torch.equal(loaded.vae.quant_conv.weight, state["first_stage_model.quant_conv.weight"])
    assert loaded.embed(["A photo of polyp", ""]).shape == (2, 32, 16)
    assert loaded.factor == 8
    model = assemble(loaded, Config())
    assert torch.equal(model.controlnet.conv_in.weight, loaded.unet.conv_in.weight)
    assert torch.equal(
        model.controlnet.mid_block.resnets[0].conv1.weight,
        state["model.diffusion_model.middle_block.0.in_layers.2.weight"],
    )
    assert not any(block.weight.any() for block in model.controlnet.controlnet_down_blocks)


@pytest.mark.parametrize("killed_in", ["save_pipeline", "write_json"])
def test_an_import_that_was_cut_short_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    file, config = save(weights(), tmp_path / "x.ckpt"), build_config(SETTINGS, "test")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(original_module, killed_in, stop)
        with pytest.raises(KeyboardInterrupt):
            import_(file, tmp_path / "run", config=config, unet_config=CONFIG)
    if killed_in == "write_json":
        with pytest.raises(InputError, match=r"was begun with sample\.steps = 3, not 50; name another folder"):
            import_(file, tmp_path / "run", config=update(config, "sample", steps=50), unet_config=CONFIG)
    import_(file, tmp_path / "run", config=config, unet_config=CONFIG)
    assert load_trained(tmp_path / "run").config == config
    with pytest.raises(InputError, match="already holds a run; name another folder"):
        import_(file, tmp_path / "run", config=config, unet_config=CONFIG)


def test_an_exported_folder_is_whole_or_absent(imported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(original_module, "write_text", stop)
        with pytest.raises(KeyboardInterrupt):
            export(imported, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    export(imported, tmp_path / "out")
    assert "StableDiffusionControlNetPipeline" in (tmp_path / "out/README.md").read_text()
    monkeypatch.chdir(tmp_path)
    for out in (Path(), Path(".."), Path("out/..")):
        with pytest.raises(InputError, match="name what is to be made"):
            export(imported, out)


def test_training_starts_from_a_file(tmp_path: Path, pairs: Path) -> None:
    state = {key: value for key, value in weights().items() if not key.startswith("control_model.")}
    file = save(state, tmp_path / "sd.ckpt")
    one = {"steps": 1, "batch_size": 2, "warmup": 0, "checkpointing": True, "optimizer": "adafactor"}
    config = build_config({**SETTINGS, "train": one}, "test")
    result = train(pairs, tmp_path / "run", str(file), config=config, device="cpu")
    assert result["trained_parameters"] < result["parameters"]
    assert load_trained(tmp_path / "run").model.unet.config.block_out_channels == [32, 64]


@pytest.mark.parametrize("method", ["adc", "siamese"])
def test_other_methods_train_and_sample(method: str, tmp_path: Path, pairs: Path, backbone: Path, tiny: Config) -> None:
    values = tiny.model_dump()
    values["method"] |= {"name": method, "hint": "dense" if method == "adc" else "stock"}
    train(pairs, tmp_path / "run", str(backbone), config=build_config(values, "test"), device="cpu")
    sample(tmp_path / "run", pairs, tmp_path / "drawn", device="cpu")
    assert len(DataFolder(tmp_path / "drawn").pairs()) == 8
    assert load_trained(tmp_path / "run").model.controlnet.config.hint == values["method"]["hint"]


def without(prefix: str) -> dict[str, Tensor]:
    return {key: value for key, value in weights().items() if not key.startswith(prefix)}


def test_what_the_file_lacks_comes_from_a_backbone(tmp_path: Path) -> None:
    whole = {key: value for key, value in weights().items() if not key.startswith("control_model.")}
    load_backbone(save(whole, tmp_path / "sd.safetensors")).save(tmp_path / "backbone")
    file = save(without("cond_stage_model."), tmp_path / "elsewhere/x.safetensors")
    with pytest.raises(InputError, match="holds no text encoder"):
        import_(file, tmp_path / "run", unet_config=CONFIG)
    import_(file, tmp_path / "run", str(tmp_path / "backbone"), unet_config=CONFIG)
    assert load_trained(tmp_path / "run").config.sample.guidance == 9


def test_wrong_input_is_one_line(tmp_path: Path, run: Path, imported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save(weights(), tmp_path / "x.ckpt")
    with pytest.raises(InputError, match="use the command `import`"):
        load_backbone(file)
    with pytest.raises(InputError, match="cannot hold this run: its first stage"):
        export(run, tmp_path / "out.ckpt", "original")
    with pytest.raises(InputError, match="must end in"):
        export(imported, tmp_path / "out.bin", "original")
    with pytest.raises(InputError, match="choose diffusers or original"):
        export(imported, tmp_path / "out", "onnx")
    with pytest.raises(InputError, match="already in use"):
        export(imported, tmp_path)
    with pytest.raises(InputError, match="holds files of something else"):
        import_(file, tmp_path)
    with pytest.raises(InputError, match=r"no key begins with control_model\."):
        import_(save(without("control_model."), tmp_path / "y.ckpt"), tmp_path / "run")
    broken = {key: value for key, value in weights().items() if "position_embedding" not in key}
    with pytest.raises(InputError, match=r"position_embedding.weight is missing"):
        import_(save(broken, tmp_path / "z.ckpt"), tmp_path / "run")
    (tmp_path / "alone").mkdir()
    monkeypatch.setattr(backbone_module, "CLIP", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="no CLIP tokenizer there"):
        import_(file.rename(tmp_path / "alone/x.ckpt"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
