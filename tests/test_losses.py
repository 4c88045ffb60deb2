import pytest
import torch
from recorded import recording
from torch import Tensor
from torch.nn import functional as F

from siamese_diffusion.errors import InputError
from siamese_diffusion.segmentation.losses import (
    LOSSES,
    bce_dice,
    contrast,
    pixel_contrast,
    sanet,
    structure,
    structure_contrast,
    two_class,
)
from siamese_diffusion.segmentation.networks.blocks import Outputs


def stored(name: str) -> Tensor:
    return torch.from_numpy(recording("losses")[name]).double()


def value(name: str) -> float:
    return float(recording("losses")[f"value.{name}"])


@pytest.mark.parametrize("edge", ["hard", "soft"])
def test_structure_loss_and_its_gradient_are_the_recorded_ones(edge: str) -> None:
    logits = stored("pred").requires_grad_()
    loss = structure(Outputs([logits]), stored(f"mask_{edge}"))
    assert loss.total.item() == pytest.approx(value(f"structure_pvt.{edge}"), abs=1e-12)
    assert abs(loss.total.item() - value(f"structure_WEIGHTED_bce_variant.{edge}")) > 1e-4
    if edge == "hard":
        (gradient,) = torch.autograd.grad(loss.total, logits)
        torch.testing.assert_close(gradient, stored("structure_ctnet.hard.grad"), rtol=0, atol=1e-10)
    twice = structure(Outputs([logits, logits]), stored(f"mask_{edge}"))
    assert twice.total.item() == pytest.approx(2 * loss.total.item())


@pytest.mark.parametrize("edge", ["hard", "soft"])
def test_sanet_loss_and_its_gradient_are_the_recorded_ones(edge: str) -> None:
    logits = stored("pred").requires_grad_()
    loss = sanet(Outputs([logits]), stored(f"mask_{edge}"))
    assert loss.bce.item() == pytest.approx(value(f"sanet_bce.{edge}"), abs=1e-12)
    assert loss.dice.item() == pytest.approx(value(f"sanet_dice.{edge}"), abs=1e-12)
    assert loss.total.item() == pytest.approx(value(f"sanet_bce.{edge}") + value(f"sanet_dice.{edge}"), abs=1e-12)
    if edge == "hard":
        (gradient,) = torch.autograd.grad(loss.total, logits)
        torch.testing.assert_close(gradient[:, 0], stored("sanet.hard.grad"), rtol=0, atol=1e-10)


def test_contrast_is_the_recorded_one() -> None:
    samples, labels = stored("core_feats").float(), stored("core_labels").float()
    assert contrast(samples, labels).item() == pytest.approx(value("contrast.core.f32"), abs=1e-6)


def test_pixel_contrast_draws_the_recorded_pixels() -> None:
    embedding = stored("embedding").float().requires_grad_()
    torch.manual_seed(0)
    loss = pixel_contrast(embedding, stored("mask_hard").float())
    assert loss.item() == pytest.approx(value("contrast.full.hard.seed0_f32"), abs=1e-5)
    (gradient,) = torch.autograd.grad(loss, embedding)
    torch.testing.assert_close(gradient.double(), stored("contrast.full.grad"), rtol=1e-4, atol=1e-7)


def test_contrast_falls_when_the_classes_part() -> None:
    random = torch.Generator().manual_seed(0)
    masks = (torch.rand(2, 1, 32, 32, generator=random) < 0.5).float()
    mixed = F.normalize(torch.randn(2, 4, 8, 8, generator=random), dim=1)
    masks[:] = masks[:, :, ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3)
    parted = torch.cat([masks[:, :, ::4, ::4], 1 - masks[:, :, ::4, ::4], mixed[:, :2] * 0], 1)
    assert pixel_contrast(parted, masks) < pixel_contrast(mixed, masks) - 1


def test_contrast_of_nothing_is_0_and_of_a_network_without_embedding_refused() -> None:
    masks = torch.arange(64.0).view(1, 1, 8, 8) / 64  # no value more than once
    embedding = torch.rand(1, 4, 2, 2, requires_grad=True)
    loss = structure_contrast(Outputs([torch.zeros(1, 1, 8, 8, requires_grad=True)], embedding), masks)
    assert loss.contrast.item() == 0
    loss.total.backward()
    with pytest.raises(InputError, match=r"segment.loss = structure-contrast: .*ctnet"):
        structure_contrast(Outputs([torch.zeros(1, 1, 8, 8)]), masks)


def test_two_class_loss_by_its_definition() -> None:
    random = torch.Generator().manual_seed(0)
    classes = torch.randn(2, 2, 16, 16, generator=random)
    target = torch.rand(2, 16, 16, generator=random) < 0.3
    hot = torch.stack([~target, target], 1).float()
    p = classes.softmax(1)
    shares = [2 * (p[:, c] * hot[:, c]).sum() / (p[:, c].sum() + hot[:, c].sum()) for c in (0, 1)]
    expected = 0.5 * (1 - sum(shares) / 2) + 0.5 * F.cross_entropy(classes, target.long())
    loss = two_class(Outputs([classes[:, 1:] - classes[:, :1]]), target[:, None].float())
    torch.testing.assert_close(loss.total, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_falls_as_the_map_improves_and_stands_empty_masks(name: str) -> None:
    masks = torch.zeros(2, 1, 32, 32)
    masks[0, :, 8:24, 8:20] = 1
    embedding = torch.nn.functional.normalize(torch.ones(2, 4, 8, 8), dim=1)

    def loss(logits: Tensor) -> float:
        torch.manual_seed(0)
        total: Tensor = LOSSES[name](Outputs([logits], embedding), masks).total
        return float(total)

    right, none, wrong = loss(20 * masks - 10), loss(torch.zeros_like(masks)), loss(10 - 20 * masks)
    assert right < none < wrong < float("inf")


def test_the_weight_of_lesion_pixels_multiplies_their_cross_entropy_and_nothing_else() -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :2, :3] = 1
    logits = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0))
    each = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    plain, weighted = bce_dice(Outputs([logits]), mask), bce_dice(Outputs([logits]), mask, lesion_weight=20.0)
    assert plain.bce.item() == pytest.approx(each.mean().item(), rel=1e-5)
    assert weighted.bce.item() == pytest.approx((each * (1 + 19 * mask)).mean().item(), rel=1e-5)
    assert weighted.dice.item() == plain.dice.item()
    assert weighted.total.item() == pytest.approx((weighted.bce + weighted.dice).item())


def test_a_small_lesion_that_is_not_seen_pulls_harder_with_a_weight() -> None:
    mask = torch.zeros(1, 1, 96, 96)
    mask[..., 40:45, 40:45] = 1
    pulls = []
    for weight in (1.0, 20.0):
        logits = torch.full(mask.shape, -6.0, requires_grad=True)
        (gradient,) = torch.autograd.grad(bce_dice(Outputs([logits]), mask, weight).total, logits)
        pulls.append(-gradient[0, 0, 42, 42].item())
        assert gradient[0, 0, 0, 0].item() > 0  # the background is still pushed down
    assert pulls[1] > 10 * pulls[0] > 0
