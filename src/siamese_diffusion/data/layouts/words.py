"""What the names of folders say: images, masks, splits, or nothing that is read.

Design note: a name is taken apart into words first, so `SegmentationClass`, `train_gt` and `masks_C1` need no entry
each.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

Role = Literal["image", "mask", "ignored"]


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


IMAGE = _set(
    "image images img imgs picture pictures photo photos frame frames original originals orig input inputs scan scans "
    "bild bilder imagen imagenes"
)
FAINT = frozenset({"data", "raw"})
"""Words that mean images only where no other part of a path says more: `ISIC-2017_Training_Data`."""
MASK = _set(
    "mask masks label labels annotation annotations annot annots ann anns anno gt gts groundtruth groundtruths truth "
    "truths seg segs segm segmentation segmentations manual maske masken mascara mascaras"
)
IGNORED = _set(
    "bbox bboxes box boxes overlay overlays superpixel superpixels preview previews thumb thumbs thumbnail thumbnails "
    "vis visualization visualizations visualisation visualisations fov roi heatmap heatmaps edge edges boundary "
    "boundaries"
)
"""Pictures that are neither images nor masks of lesions."""
SPLITS = {
    **dict.fromkeys(_set("train training"), "train"),
    **dict.fromkeys(_set("val valid validation dev"), "val"),
    **dict.fromkeys(_set("test testing"), "test"),
}
SPLIT_ORDER = ("train", "val", "test")
SHORT_SPLITS = {"tr": "train", "va": "val", "ts": "test"}
"""Only beside a word of images or masks: `imagesTr`."""
KINDS = _set("benign malignant normal abnormal healthy diseased positive negative fold")
"""Sub-folders of these names sort images by finding or fold; their images do not belong together as a patient's do."""
RATERS = _set("rater raters expert experts observer observers reader annotator doctor manual ho obs grader")
"""Words of masks that several people drew of the same image."""
_FILLING = _set("set dataset ground class png jpg jpeg tif tiff bmp")
"""Words that go with those of a role or split and tell nothing more."""


@dataclass(frozen=True)
class Meaning:
    """What the name of one folder says."""

    role: Role | None
    faint: bool
    split: str | None
    rest: str
    """What is left of the name, "C1" of `images_C1`; empty for a name that only says a role or a split."""


def plain(text: str) -> str:
    """A name in one Unicode form and case, so that names which look the same are the same."""
    return unicodedata.normalize("NFC", text).casefold().strip()


_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\dA-Z_]+|\d+")


def words(name: str) -> list[str]:
    """The words and numbers of a name in lower case: `imagesTr` has images and tr, `trainannot` train and annot."""
    return [part for word in _WORD.findall(name) for part in _parts(word.lower())]


def _parts(word: str) -> tuple[str, ...]:
    """Two known words that are written as one, else the word."""
    known = IMAGE | MASK | SPLITS.keys()
    if word in known or len(word) > 2 * max(map(len, known)):  # a name of 100,000 letters would be cut as often
        return (word,)
    cuts = ((word[:cut], word[cut:]) for cut in range(3, len(word) - 1))
    return next((parts for parts in cuts if set(parts) <= known), (word,))


def meaning(name: str) -> Meaning:
    """What a folder's name says."""
    known = set(words(name))
    role: Role | None = None
    if known & IGNORED:
        role = "ignored"
    elif known & MASK:
        role = "mask"
    elif known & (IMAGE | FAINT):
        role = "image"
    splits = {**SPLITS, **SHORT_SPLITS} if role else SPLITS
    split = next((splits[word] for word in words(name) if word in splits), None)
    if role is None and split is None:
        return Meaning(None, False, None, name)
    said = {*IMAGE, *FAINT, *MASK, *_FILLING, *splits}
    rest = _WORD.sub(lambda found: "" if set(_parts(found[0].lower())) <= said else found[0], name)
    rest = re.sub(r"[\W_]*([\W_])[\W_]*", r"\1", rest).strip(" ._-()")
    if not re.search(r"[^\W\d]{2}|\D\d", rest) and re.match(r"\w{1,2}[. ]", name):  # "1. Training Set", "a. Images"
        rest = ""
    return Meaning(role, role == "image" and not known & IMAGE, split, rest)


def says_mask(text: str) -> bool:
    """Whether a part of a file's name has a word of masks."""
    return bool(set(words(text)) & (MASK | {"lesion", "lesions"}))
