import math
from pathlib import Path

import pytest
import torch
from recorded import network_input, published, recording
from safetensors.torch import save_file
from tiny import randomise_zeros
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_diffusion.errors import InputError
from siamese_diffusion.segmentation import networks
from siamese_diffusion.segmentation.losses import LOSSES
from siamese_diffusion.segmentation.networks.published import NETWORKS, load_published, network_key

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


class TestEveryNetwork:
    """What every network promises; one of them in memory at a time."""

    @pytest.fixture(scope="class", params=networks.names())
    def name(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture(scope="class")
    def network(self, name: str) -> nn.Module:
        torch.manual_seed(0)
        return networks.create(name)

    def test_logits_have_the_size_of_the_image(self, network: nn.Module) -> None:
        for side in (32, 64):
            with torch.no_grad():
                logits = network.eval()(torch.rand(2, 3, side, side))
            assert logits.shape == (2, 1, side, side)
            assert logits.isfinite().all()

    def test_gradient_reaches_every_parameter(self, network: nn.Module) -> None:
        torch.manual_seed(0)
        randomise_zeros(network)  # a block whose last scale begins at 0 has no gradient behind it
        found = networks.outputs(network.train(), torch.rand(4, 3, 64, 64))
        loss = torch.stack([each.square().mean() for each in found.maps]).sum()
        if found.embedding is not None:
            loss = loss + (found.embedding * torch.randn_like(found.embedding)).sum()
        loss.backward()
        missing = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()]
        network.zero_grad()
        assert missing == []

    def test_what_is_trained_has_the_size_of_the_image(self, network: nn.Module) -> None:
        images = torch.rand(2, 3, 64, 64)
        with torch.no_grad():
            found = networks.outputs(network.eval(), images)
            logits = network(images)
        assert all(each.shape == logits.shape for each in found.maps)
        torch.testing.assert_close(torch.stack(found.maps).sum(0), logits)

    def test_eval_mode_is_deterministic_and_rows_are_independent(self, network: nn.Module) -> None:
        network.eval()
        images = torch.rand(3, 3, 32, 32)
        with torch.no_grad():
            together, again, alone = network(images), network(images), network(images[1:2])
        assert torch.equal(together, again)
        torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)

    def test_normalises_its_input_itself(self, name: str, network: nn.Module) -> None:
        seen: list[Tensor] = []
        convolution = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
        handle = convolution.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
        images = (MEAN + 2 * STD * torch.rand(2, 3, 32, 32)) / 2
        with torch.no_grad():
            network.eval()(images)
        handle.remove()
        expected = (images - MEAN) / STD
        if name == "unet_plain":  # stretches each image by its own range
            low, high = (getattr(images.flatten(1), side)(1).values.view(2, 1, 1, 1) for side in ("min", "max"))
            expected = (images - low) / (high - low)
        torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-4)

    def test_state_dict_loads_strictly_and_holds_no_statistics_of_imagenet(self, name: str, network: nn.Module) -> None:
        state = network.state_dict()
        networks.create(name).load_state_dict(state)
        kept = [key for key in state if key.startswith(("normalize.", "0."))]
        assert kept == (["normalize.mean", "normalize.std"] if name == "smp" else [])  # which are its encoder's own

    def test_its_encoder_is_told_apart(self, name: str, network: nn.Module) -> None:
        prefix = networks.BACKBONES.get(name)
        inside = [key for key, _ in network.named_parameters() if prefix is not None and key.startswith(prefix)]
        outside = len(list(network.parameters())) - len(inside)
        assert (prefix is None) == (name == "unet_plain")
        assert prefix is None or len(inside) > outside > 0


class TestPublishedWeights:
    """The authors' networks, filled by a rule, recorded; loading goes by the mapping of their key names."""

    @pytest.fixture(scope="class", params=NETWORKS)
    def name(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture(scope="class")
    def network(self, name: str) -> nn.Module:
        return load_published(name, published(name)).double()

    @pytest.mark.parametrize("kind", ["square", "rect"])
    def test_outputs_are_the_recorded_ones(self, name: str, network: nn.Module, kind: str) -> None:
        given, expected = network_input(kind), recording(name)
        with torch.no_grad():
            if name == "sanet":
                found = {"logits": network.coarse(given)}  # type: ignore[operator]
            elif name == "polyp_pvt":
                found = dict(zip(("logits1", "logits2"), network.pair(given), strict=True))  # type: ignore[operator]
            elif name == "ctnet":
                logits, deepest = network.decode(given)  # type: ignore[operator]
                found = {"logits": logits, "embedding": network.contrasthead(deepest)[:, ::8]}  # type: ignore[operator]
            else:
                found = {"logits": network.classes(given)}  # type: ignore[operator]
        assert {f"{key}.{kind}" for key in found} == {key for key in expected if key.endswith(kind)}
        for key, value in found.items():
            torch.testing.assert_close(value, torch.from_numpy(expected[f"{key}.{kind}"]), rtol=0, atol=1e-9)

    def test_the_contract_says_the_same(self, name: str, network: nn.Module) -> None:
        given, recorded = network_input("square"), recording(name)
        expected = {key: torch.from_numpy(value) for key, value in recorded.items() if key.endswith("square")}
        images = given * STD + MEAN
        if name == "sanet":
            want = F.interpolate(expected["logits.square"], (96, 96), mode="bilinear", align_corners=True)
        elif name == "polyp_pvt":
            want = expected["logits1.square"] + expected["logits2.square"]
        elif name == "ctnet":
            want = expected["logits.square"]
        else:
            images = (given - given.amin((1, 2, 3), keepdim=True)) / 7
            span = given.amax((1, 2, 3), keepdim=True) - given.amin((1, 2, 3), keepdim=True)
            with torch.no_grad():
                classes = network.classes(7 * images / span)  # type: ignore[operator]
            want = classes.softmax(1)[:, 1:].logit()
        with torch.no_grad():
            torch.testing.assert_close(network(images), want, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "loss"), [("sanet", "sanet"), ("polyp_pvt", "structure"), ("ctnet", "structure")])
def test_a_training_step_is_the_recorded_one(name: str, loss: str) -> None:
    recorded = {key.removeprefix(f"{name}."): value for key, value in recording("train_step").items() if name in key}
    network = load_published(name, published(name)).double().train()
    for module in network.modules():
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0  # type: ignore[assignment]
    images = network_input("square") * STD.double() + MEAN.double()
    masks = torch.from_numpy(recording("losses")["mask_soft"]).double()
    total = LOSSES[loss](networks.outputs(network, images), masks).total
    total.backward()
    assert total.item() == pytest.approx(float(recorded["loss"]), abs=1e-6)
    gradients = {key: float(value.grad.norm()) for key, value in network.named_parameters() if value.grad is not None}
    names = [network_key(name, key) for key in recorded["grad_keys"].tolist()]
    norms = zip(names, recorded["grad_l2"].tolist(), strict=True)
    expected = {key: norm for key, norm in norms if not math.isnan(norm)}  # this loss has no part in the embedding
    assert len(expected) > 250
    assert gradients == pytest.approx(expected, rel=1e-5, abs=1e-7)
    state = network.state_dict()
    statistics = zip(recorded["bn_keys"].tolist(), recorded["bn_l2"], recorded["bn_batches"], strict=True)
    for key, norm, batches in statistics:
        assert key.endswith(("running_mean", "running_var"))
        assert float(state[key].norm()) == pytest.approx(norm, rel=1e-6)
        assert int(state[f"{key.rpartition('.')[0]}.num_batches_tracked"]) == batches


def test_published_weights_are_read_from_files(tmp_path: Path) -> None:
    state = published("unet_plain")
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, tmp_path / "a.pth")
    save_file(state, tmp_path / "a.safetensors")
    for path in tmp_path.iterdir():
        network = load_published("unet_plain", path)
        assert not network.training
        assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_other_weights_are_refused_by_name(tmp_path: Path) -> None:
    state = published("unet_plain")
    state["extra.weight"] = state.pop("de_4.weight")
    state["de_4.bias"] = torch.zeros(3)
    with pytest.raises(InputError) as caught:
        load_published("unet_plain", state)
    for part in (
        "1 missing, as de_4.weight",
        "1 left over, as extra.weight",
        "of another shape, as de_4.bias ((3,), not (2,))",
    ):
        assert part in str(caught.value)
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"broken.pth: cannot be read as weights"):
        load_published("unet_plain", broken)
    with pytest.raises(InputError, match=r"nowhere.pth: no such file"):
        load_published("unet_plain", tmp_path / "nowhere.pth")
    torch.save([torch.zeros(1)], broken)
    with pytest.raises(InputError, match=r"broken.pth: expected a state dict"):
        load_published("unet_plain", broken)
    with pytest.raises(InputError, match=r"unet: no published weights .* sanet, polyp_pvt"):
        load_published("unet", state)


def test_ctnet_takes_the_official_names_of_its_backbone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub
    import safetensors.torch

    state = published("ctnet")
    official = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    asked: list[tuple[str, ...]] = []

    def download(*where: str) -> str:
        asked.append(where)
        return "mit_b3"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(safetensors.torch, "load_file", lambda path: official | {"head.weight": torch.zeros(1)})
    network = networks.create("ctnet", pretrained=True)
    assert asked == [("smp-hub/mit_b3.imagenet", "model.safetensors")]
    assert "non-commercial" in capsys.readouterr().err
    loaded = network.state_dict()
    assert all(torch.equal(loaded[network_key("ctnet", f"backbone.{key}")], value) for key, value in official.items())


def test_unknown_network_lists_the_options() -> None:
    with pytest.raises(InputError, match=r"nnet: no such network; choose from unet, segformer"):
        networks.create("nnet")


def test_weights_that_cannot_be_downloaded_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    import segmentation_models_pytorch as smp

    offline: list[bool] = []

    def fail(*args: object, **kwargs: object) -> None:
        offline.append(huggingface_hub.constants.HF_HUB_OFFLINE)
        raise OSError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "get_session", fail)
    monkeypatch.setattr(smp, "Unet", fail)
    before = huggingface_hub.constants.HF_HUB_OFFLINE
    with pytest.raises(InputError, match=r"segment.pretrained: .* unet .*no route.*pretrained=false") as caught:
        networks.create("unet", pretrained=True)
    assert "\n" not in str(caught.value)
    assert offline[-1] is True  # no patience for a hub that is known to be out of reach
    assert before == huggingface_hub.constants.HF_HUB_OFFLINE
    with pytest.raises(InputError, match="unet_plain has no ImageNet weights"):
        networks.create("unet_plain", pretrained=True)
