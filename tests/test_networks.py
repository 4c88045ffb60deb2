import pytest
import torch

from siamese_diffusion.errors import InputError
from siamese_diffusion.segmentation import networks


@pytest.mark.parametrize("name", networks.names())
class TestEveryNetwork:
    def test_logits_have_the_size_of_the_image(self, name: str) -> None:
        network = networks.create(name).eval()
        for side in (32, 64):
            logits = network(torch.rand(2, 3, side, side))
            assert logits.shape == (2, 1, side, side)
            assert logits.isfinite().all()

    def test_gradient_reaches_every_parameter(self, name: str) -> None:
        torch.manual_seed(0)
        network = networks.create(name).train()
        network(torch.rand(4, 3, 64, 64)).square().mean().backward()
        missing = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()]
        assert missing == []

    def test_eval_mode_is_deterministic_and_rows_are_independent(self, name: str) -> None:
        torch.manual_seed(0)
        network = networks.create(name).eval()
        images = torch.rand(3, 3, 32, 32)
        with torch.no_grad():
            together, again, alone = network(images), network(images), network(images[1:2])
        assert torch.equal(together, again)
        torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)

    def test_normalises_its_input_itself(self, name: str) -> None:
        network = networks.create(name).eval()
        seen = []
        convolution = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
        convolution.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        with torch.no_grad():
            network((mean + 2 * std).view(1, 3, 1, 1).expand(1, 3, 32, 32))
        torch.testing.assert_close(seen[0], torch.full_like(seen[0], 2.0), rtol=1e-4, atol=1e-4)

    def test_state_dict_loads_strictly_and_holds_no_statistics_of_imagenet(self, name: str) -> None:
        state = networks.create(name).state_dict()
        networks.create(name).load_state_dict(state)
        assert not [key for key in state if key.startswith(("normalize.", "0."))]


def test_unknown_network_lists_the_options() -> None:
    with pytest.raises(InputError, match=r"nnet: no such network; choose from unet, segformer"):
        networks.create("nnet")


def test_weights_that_cannot_be_downloaded_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import segmentation_models_pytorch as smp

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(smp, "Unet", fail)
    with pytest.raises(InputError, match=r"segment.pretrained: .* unet .*no route.*pretrained=false") as caught:
        networks.create("unet", pretrained=True)
    assert "\n" not in str(caught.value)
