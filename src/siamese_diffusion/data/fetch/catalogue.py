"""Data sets that `data get` fetches: where they are, under which terms, and how their folders become ours.

Addresses are the providers' own. No provider publishes a checksum; where a SHA-256 stands below, it is the one that
several independent users of the file recorded (torch-em among them), so it tells a damaged file from a whole one.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

Place = Callable[[PurePosixPath], str | None]
"""From a file's path inside the unpacked archives to its path in the folder of pairs; None: not needed."""


@dataclass(frozen=True)
class Archive:
    """One file to fetch.

    Attributes:
        file: the name it is kept under.
        addresses: tried in this order.
        size: in bytes, as users of the file recorded it; None: unknown. The server's own figure counts.
        sha256: hexadecimal, or None where nobody published one.
    """

    file: str
    addresses: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Release:
    """A data set.

    Attributes:
        pairs: number of image-mask pairs, by split ("all": there are no splits).
        page: where the provider describes it, and from where a person can fetch it.
        licence: the terms in a sentence, as the provider states them.
        unpacked: bytes on disk when unpacked, an estimate from above.
        place: see `Place`.
        split: a word of the archive's name (lower case) to the split of its pairs; empty: no `splits.json` is written.
        note: what a user should know before fetching it.
    """

    name: str
    title: str
    pairs: dict[str, int]
    page: str
    licence: str
    cite: str
    archives: tuple[Archive, ...]
    unpacked: int
    place: Place
    split: dict[str, str] = field(default_factory=dict)
    note: str = ""


def _drive(file: str, identity: str, size: int) -> Archive:
    """A file shared on Google Drive: the address that skips the page which says it is too large to be scanned."""
    return Archive(
        file, (f"https://drive.usercontent.google.com/download?id={identity}&export=download&confirm=t",), size
    )


def _isic(year: int, file: str, size: int | None = None, sha256: str | None = None) -> Archive:
    """The archive's present bucket, then the one that was official before."""
    new = f"https://isic-archive.s3.amazonaws.com/challenges/{year}/{file}"
    return Archive(file, (new, f"https://isic-challenge-data.s3.amazonaws.com/{year}/{file}"), size, sha256)


_IMAGE = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")


def place_folders(images: str, masks: str) -> Place:
    """Files of the folders named `images` and `masks` (any case), wherever they lie."""
    folders = {images: "images", masks: "masks"}

    def place(path: PurePosixPath) -> str | None:
        folder = folders.get(path.parent.name.lower())
        return f"{folder}/{path.name}" if folder and path.suffix.lower() in _IMAGE else None

    return place


def place_clinic(path: PurePosixPath) -> str | None:
    """CVC-ClinicDB: `Original` and `Ground Truth`; of a copy with a folder PNG beside the TIFF files, the TIFF
    files."""
    if any(part.lower() == "png" for part in path.parts[1:-1]):
        return None
    return place_folders("original", "ground truth")(path)


def place_polyps(path: PurePosixPath) -> str | None:
    """PraNet's release: TrainDataset/{image,mask} and TestDataset/SET/{images,masks}."""
    kind = path.parent.name.lower().removesuffix("s")
    if kind not in ("image", "mask") or path.suffix.lower() not in _IMAGE:
        return None
    if any(part.lower() == "testdataset" for part in path.parts):
        return f"TestDataset/{path.parent.parent.name}/{kind}s/{path.name}"
    return f"TrainDataset/{kind}/{path.name}"


def place_isic(path: PurePosixPath) -> str | None:
    """Masks are ISIC_*_segmentation.png (2018) or ISIC_*_Segmentation.png (2016); superpixels are left out."""
    if mask := re.fullmatch(r"(ISIC_\d+)_segmentation", path.stem, re.IGNORECASE):
        return f"masks/{mask[1]}.png"
    image = re.fullmatch(r"ISIC_\d+", path.stem) and path.suffix.lower() == ".jpg"
    return f"images/{path.stem}.jpg" if image else None


_RESEARCH = "Research and education only; anything else needs the providers' written permission."

KVASIR = Release(
    name="kvasir-seg",
    title="Kvasir-SEG: colonoscopy polyps",
    pairs={"all": 1000},
    page="https://datasets.simula.no/kvasir-seg/",
    licence=_RESEARCH,
    cite="Jha et al., Kvasir-SEG: A Segmented Polyp Dataset, MMM 2020",
    archives=(
        Archive(
            "kvasir-seg.zip",
            ("https://datasets.simula.no/downloads/kvasir-seg.zip",),
            46_227_172,
            "03b30e21d584e04facf49397a2576738fd626815771afbbf788f74a7153478f7",
        ),
    ),
    unpacked=100 << 20,
    place=place_folders("images", "masks"),
)

CLINIC = Release(
    name="cvc-clinicdb",
    title="CVC-ClinicDB: colonoscopy polyps, 384 x 288 TIFF",
    pairs={"all": 612},
    page="https://polyp.grand-challenge.org/CVCClinicDB/",
    licence=_RESEARCH,
    cite="Bernal et al., WM-DOVA maps for accurate polyp highlighting in colonoscopy, CMIG 2015",
    archives=(
        Archive(
            "CVC-ClinicDB.rar",
            (
                "https://www.dropbox.com/s/p5qe9eotetjnbmq/CVC-ClinicDB.rar?dl=1",
                "https://www.dropbox.com/scl/fi/ky766dwcxt9meq3aklkip/CVC-ClinicDB.rar?rlkey=61xclnrraadf1niqdvldlds93&dl=1",
            ),
        ),
    ),
    unpacked=1 << 30,
    place=place_clinic,
    note="a RAR archive: unpacked where the program bsdtar is installed, else unpack it yourself and give the folder",
)

POLYPS = Release(
    name="polyps",
    title="Polyps, as PraNet split five colonoscopy sets",
    pairs={"train": 1450, "test": 798},
    page="https://github.com/DengPingFan/PraNet",
    licence=_RESEARCH
    + " The release states none; these are the terms of Kvasir-SEG and CVC-ClinicDB, of which it is made.",
    cite="Fan et al., PraNet: Parallel Reverse Attention Network for Polyp Segmentation, MICCAI 2020",
    archives=(
        _drive("TrainDataset.zip", "1YiGHLw4iTvKdvbT6MgwO9zcCv8zJ_Bnb", 399_500_000),
        _drive("TestDataset.zip", "1Y2z7FD5p5y31vkZwQQomXFRB0HutHyao", 327_200_000),
    ),
    unpacked=2 << 30,
    place=place_polyps,
    note="on Google Drive, which refuses a file for a day when too many people fetched it",
)

ISIC_2016 = Release(
    name="isic2016",
    title="ISIC 2016 task 1: dermoscopy lesions",
    pairs={"train": 900, "test": 379},
    page="https://challenge.isic-archive.com/data/#2016",
    licence="CC0 1.0 (public domain).",
    cite="Gutman et al., Skin Lesion Analysis toward Melanoma Detection, arXiv 1605.01397",
    archives=(
        _isic(2016, "ISBI2016_ISIC_Part1_Training_Data.zip"),
        _isic(2016, "ISBI2016_ISIC_Part1_Training_GroundTruth.zip"),
        _isic(2016, "ISBI2016_ISIC_Part1_Test_Data.zip"),
        _isic(2016, "ISBI2016_ISIC_Part1_Test_GroundTruth.zip"),
    ),
    unpacked=2 << 30,
    place=place_isic,
    split={"training": "train", "test": "test"},
    note="about 840 MB in all",
)

ISIC_2018 = Release(
    name="isic2018",
    title="ISIC 2018 task 1: dermoscopy lesions",
    pairs={"train": 2594, "val": 100, "test": 1000},
    page="https://challenge.isic-archive.com/data/#2018",
    licence="CC0 1.0 or CC BY-NC 4.0 (sources differ): take it as non-commercial unless the LICENSE in the files "
    "says more.",
    cite="Codella et al., arXiv 1902.03368; Tschandl et al., The HAM10000 dataset, Scientific Data 2018",
    archives=(
        _isic(
            2018,
            "ISIC2018_Task1-2_Training_Input.zip",
            11_165_358_566,
            "80f98572347a2d7a376227fa9eb2e4f7459d317cb619865b8b9910c81446675f",
        ),
        _isic(
            2018,
            "ISIC2018_Task1_Training_GroundTruth.zip",
            27_402_895,
            "99f8b2bb3c4d6af483362010715f7e7d5d122d9f6c02cac0e0d15bef77c7604c",
        ),
        _isic(
            2018,
            "ISIC2018_Task1-2_Validation_Input.zip",
            239_231_159,
            "0ea920fcfe512d12a6e620b50b50233c059f67b10146e1479c82be58ff15a797",
        ),
        _isic(
            2018,
            "ISIC2018_Task1_Validation_GroundTruth.zip",
            759_706,
            "f6911e9c0a64e6d687dd3ca466ca927dd5e82145cb2163b7a1e5b37d7a716285",
        ),
        _isic(
            2018,
            "ISIC2018_Task1-2_Test_Input.zip",
            2_370_457_338,
            "e59ae1f69f4ed16f09db2cb1d76c2a828487b63d28f6ab85997f5616869b127d",
        ),
        _isic(
            2018,
            "ISIC2018_Task1_Test_GroundTruth.zip",
            9_680_101,
            "2e8f6edce454a5bdee52485e39f92bd6eddf357e81f39018d05512175238ef82",
        ),
    ),
    unpacked=15 << 30,
    place=place_isic,
    split={"training": "train", "validation": "val", "test": "test"},
    note="the training images alone are 11 GB",
)

RELEASES = {release.name: release for release in (KVASIR, CLINIC, POLYPS, ISIC_2016, ISIC_2018)}
