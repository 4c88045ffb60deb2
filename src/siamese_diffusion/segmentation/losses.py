"""The losses of the networks, by name: what a network gives, and the masks -> scalars, one of them `total`.

Masks are (B, 1, R, R) floats in [0, 1]; a resized one may have soft edges.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from siamese_diffusion.errors import InputError
from siamese_diffusion.segmentation.networks.blocks import Outputs

TEMPERATURE = 0.1
BASE_TEMPERATURE = 0.07
MOST_SAMPLES = 1024
"""Pixels of a batch that the contrast compares."""
MOST_VIEWS = 100
"""Of them, those of one class in one image; a class with no more pixels than this is left out."""


class DiceTerms(NamedTuple):
    total: Tensor
    bce: Tensor
    dice: Tensor


class StructureTerms(NamedTuple):
    total: Tensor
    bce: Tensor
    iou: Tensor


class ContrastTerms(NamedTuple):
    total: Tensor
    bce: Tensor
    iou: Tensor
    contrast: Tensor


def bce_dice(outputs: Outputs, masks: Tensor, lesion_weight: float = 1.0) -> DiceTerms:
    """Binary cross-entropy plus soft Dice (Drozdzal et al., arXiv:1608.04117, per image).

    Args:
        lesion_weight: of lesion pixels in the cross-entropy. Where a small lesion is not seen at all, the slope of Dice
            vanishes with the probability; that of the cross-entropy does not, but is a mean over all pixels.
    """
    logits = outputs.maps[0].float()  # (B, 1, R, R)
    weight = logits.new_tensor(lesion_weight) if lesion_weight != 1 else None
    bce = F.binary_cross_entropy_with_logits(logits, masks, pos_weight=weight)
    probabilities = logits.sigmoid()
    common = (probabilities * masks).sum((1, 2, 3))
    total = probabilities.sum((1, 2, 3)) + masks.sum((1, 2, 3))
    dice = 1 - ((2 * common + 1) / (total + 1)).mean()  # the 1 keeps an empty mask's loss finite and its gradient alive
    return DiceTerms(bce + dice, bce, dice)


def classes_dice(outputs: Outputs, masks: Tensor, lesion_weight: float = 1.0) -> DiceTerms:
    """`bce_dice` for several classes: cross-entropy of the softmax plus soft Dice, a mean over images and classes.

    Args:
        outputs: logits (B, K + 1, R, R), the background first.
        masks: labels (B, 1, R, R), 0 to K.
        lesion_weight: of pixels of any class in the cross-entropy.
    """
    logits = _floats(outputs.maps[0])
    labels = masks[:, 0].long()
    weight = logits.new_full((logits.shape[1],), lesion_weight)
    weight[0] = 1
    entropy = F.cross_entropy(logits, labels, weight=weight if lesion_weight != 1 else None)
    probabilities = logits.softmax(1)[:, 1:]  # (B, K, R, R)
    true = F.one_hot(labels, logits.shape[1]).movedim(3, 1)[:, 1:].to(probabilities.dtype)
    common = (probabilities * true).sum((2, 3))
    total = probabilities.sum((2, 3)) + true.sum((2, 3))
    dice = 1 - ((2 * common + 1) / (total + 1)).mean()
    return DiceTerms(entropy + dice, entropy, dice)


def sanet(outputs: Outputs, masks: Tensor) -> DiceTerms:
    """SANet's (arXiv:2108.00882): the same, but smoothed in Dice's denominator only."""
    logits = _floats(outputs.maps[0])
    bce = F.binary_cross_entropy_with_logits(logits, masks)
    probabilities = logits.sigmoid()
    common = (probabilities * masks).sum((1, 2, 3))
    total = probabilities.sum((1, 2, 3)) + masks.sum((1, 2, 3))
    dice = 1 - (2 * common / (total + 1)).mean()
    return DiceTerms(bce + dice, bce, dice)


def two_class(outputs: Outputs, masks: Tensor) -> DiceTerms:
    """Awesome-U-Net's: half cross-entropy, half soft Dice of background and mask, over all pixels of the batch at
    once."""
    logits = _floats(outputs.maps[0])
    bce = F.binary_cross_entropy_with_logits(logits, masks)  # of two classes whose logits differ by this one
    probabilities = logits.sigmoid()

    def overlap(p: Tensor, m: Tensor) -> Tensor:
        return 2 * (p * m).sum() / ((p + m).sum() + 1e-6)

    dice = 1 - (overlap(probabilities, masks) + overlap(1 - probabilities, 1 - masks)) / 2
    return DiceTerms(0.5 * bce + 0.5 * dice, bce, dice)


def structure(outputs: Outputs, masks: Tensor) -> StructureTerms:
    """PraNet's structure loss (Fan et al., arXiv:2006.11392), summed over the maps.

    Its IoU counts pixels near an edge up to six times. Its cross-entropy is meant to as well, but is not in the code
    that gave the published results: an argument there makes it a plain mean. This follows the code.
    """
    around = F.avg_pool2d(masks, 31, stride=1, padding=15)
    weight = 1 + 5 * (around - masks).abs()
    bce = iou = masks.new_zeros(())
    for each in outputs.maps:
        logits = _floats(each)
        probabilities = logits.sigmoid()
        common = (probabilities * masks * weight).sum((1, 2, 3))
        total = ((probabilities + masks) * weight).sum((1, 2, 3))
        bce = bce + F.binary_cross_entropy_with_logits(logits, masks)
        iou = iou + (1 - (common + 1) / (total - common + 1)).mean()
    return StructureTerms(bce + iou, bce, iou)


def structure_contrast(outputs: Outputs, masks: Tensor) -> ContrastTerms:
    """CTNet's: the structure loss plus a tenth of the contrast between pixels of the lesion and of the background.

    Raises:
        InputError: the network has no embedding.
    """
    if outputs.embedding is None:
        raise InputError("segment.loss = structure-contrast: needs pixel embeddings, which only network ctnet has")
    plain = structure(outputs, masks)
    between = pixel_contrast(_floats(outputs.embedding), masks)
    return ContrastTerms(plain.total + 0.1 * between, plain.bce, plain.iou, between)


def pixel_contrast(embedding: Tensor, masks: Tensor) -> Tensor:
    """Supervised contrast of sampled pixels (ContrastiveSeg, Wang et al., arXiv:2101.11939, as CTNet's code applies
    it).

    From every image, `MOST_VIEWS` or fewer pixels of each mask value are drawn, as many for each, with torch's global
    random state. The original means to prefer wrongly predicted pixels, but takes the arg max over a single channel for
    the prediction, so that its choice is uniform; so is this one.

    Args:
        embedding: (B, C, h, w).
        masks: (B, 1, H, W).

    Returns:
        A scalar; 0 where no mask value has more than `MOST_VIEWS` pixels.
    """
    pixels = F.interpolate(embedding, size=masks.shape[-2:], mode="bilinear", align_corners=True).flatten(
        2
    )  # (B, C, N)
    pairs: list[tuple[int, float]] = []
    for image, mask in enumerate(masks.flatten(1)):
        values, counts = mask.unique(return_counts=True)
        pairs += [(image, value) for value in values[counts > MOST_VIEWS].tolist()]
    if not pairs:
        return embedding.sum() * 0
    views = min(MOST_SAMPLES // len(pairs), MOST_VIEWS)
    samples = []
    for image, value in pairs:
        places = (masks[image].flatten() == value).nonzero()[:, 0]
        chosen = places[torch.randperm(len(places))[:views].to(places.device)]  # on the CPU: the same on every device
        samples.append(pixels[image, :, chosen].T)
    return contrast(torch.stack(samples), torch.tensor([value for _, value in pairs], device=masks.device))


def contrast(samples: Tensor, labels: Tensor) -> Tensor:
    """Mean over samples of -log p of those with the same label, against those with another.

    Args:
        samples: (P, V, C), V samples of each of P groups.
        labels: (P,) of the groups.
    """
    views = samples.shape[1]
    every = torch.cat(samples.unbind(1))  # (V P, C)
    same = labels.repeat(views)[:, None] == labels.repeat(views)[None]
    similar = every @ every.T / TEMPERATURE
    similar = similar - similar.amax(1, keepdim=True).detach()
    others = (similar.exp() * ~same).sum(1, keepdim=True)
    log_p = similar - (similar.exp() + others).log()
    positive = same & ~torch.eye(len(every), dtype=torch.bool, device=every.device)
    mean = (log_p * positive).sum(1) / positive.sum(1).clamp(min=1)
    return -(TEMPERATURE / BASE_TEMPERATURE) * mean.mean()


def _floats(x: Tensor) -> Tensor:
    """At least single precision: half precision overflows in these sums."""
    return x if x.dtype == torch.float64 else x.float()


LOSSES: dict[str, Callable[[Outputs, Tensor], Any]] = {
    "bce-dice": bce_dice,
    "sanet": sanet,
    "two-class": two_class,
    "structure": structure,
    "structure-contrast": structure_contrast,
}
"""By `segment.loss`; each returns a NamedTuple of scalars."""
