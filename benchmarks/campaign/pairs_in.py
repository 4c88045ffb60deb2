"""Folders of pairs, shards and images."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from campaign.entrance import Entrance, command
from siamese_diffusion.data.decoding import MaskSource
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.images import read_image
from siamese_diffusion.data.opening import image_size
from siamese_diffusion.data.pairs import MaskFile
from siamese_diffusion.data.phantom import make_phantoms
from siamese_diffusion.data.shards import ShardWriter
from siamese_diffusion.data.writer import PairWriter
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import write_json, write_jsonl, write_text


def make_pairs(folder: Path) -> None:
    make_phantoms(folder, 4, 16, seed=3)
    names = [pair.name for pair in DataFolder(folder).pairs()]
    write_json(folder / "splits.json", {"train": names[:3], "test": names[3:]})


def make_shards(folder: Path) -> None:
    noise = np.random.default_rng(0)
    with ShardWriter(folder, size=2) as writer:
        for name in ("000", "001", "002"):
            image = noise.integers(0, 256, (8, 8, 3), np.uint8)
            writer.write(name, image, image[..., 0] > 99, "A photo of polyp", {"seed": 1})


def make_images(folder: Path) -> None:
    """Every format in several of its forms."""
    noise = np.random.default_rng(0)
    colour = noise.integers(0, 256, (24, 32, 3), np.uint8)
    smooth = Image.fromarray(colour).resize((32, 24))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"  # to be turned
    folder.mkdir(parents=True, exist_ok=True)
    smooth.save(folder / "rgb.png")
    smooth.save(folder / "exif.png", exif=exif)
    smooth.quantize(8).save(folder / "palette.png", transparency=2)
    smooth.convert("LA").save(folder / "alpha.png")
    Image.fromarray(colour[..., 0].astype(np.uint16) * 200).save(folder / "deep.png")
    smooth.convert("1").save(folder / "bits.png")
    smooth.save(folder / "plain.jpg", quality=90, exif=exif, icc_profile=b"profile" * 20)
    smooth.convert("CMYK").save(folder / "cmyk.jpg", progressive=True)
    for kind in (None, "tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits", "group4"):
        (smooth.convert("1") if kind == "group4" else smooth).save(folder / f"{kind}.tif", compression=kind)
    Image.fromarray(colour[..., 0].astype(np.float32) / 255).save(folder / "float.tif")
    smooth.save(folder / "pages.tif", save_all=True, append_images=[smooth.convert("L")])
    smooth.save(folder / "plain.bmp")
    smooth.quantize(200).save(folder / "palette.gif")
    smooth.save(folder / "plain.webp", lossless=True, exif=exif)
    smooth.save(folder / "plain.jp2")


def read_pairs(folder: Path, damaged: Path) -> Any:
    return [(pair, pair.read()) for pair in DataFolder(folder).pairs("train")]


def right_pairs(found: Any) -> bool:
    return all(
        isinstance(pair.prompt, str | None) and image.dtype == np.uint8 and image.shape == (*mask.shape, 3)
        for pair, (image, mask) in found
    )


def resume_pairs(folder: Path, damaged: Path) -> Any:
    with PairWriter(folder, resume=True) as writer:
        return writer.done


def resume_shards(folder: Path, damaged: Path) -> Any:
    with ShardWriter(folder, resume=True) as writer:
        return writer.done


def read_one_image(folder: Path, damaged: Path) -> Any:
    """As an image, and as a mask, which it need not be."""
    size = image_size(damaged)
    with contextlib.suppress(InputError):
        MaskFile(MaskSource((damaged,))).read()
    return size, read_image(damaged)


def right_image(found: Any) -> bool:
    size, image = found
    return bool(image.dtype == np.uint8 and image.ndim == 3 and sorted(size) == sorted(image.shape[:2]))


def make_annotated(folder: Path) -> None:
    """The same images with masks as files, as polygons and runs, and as rows of tables."""
    make_pairs(folder / "plain")
    images = sorted((folder / "plain/images").iterdir())
    outline = [2.0, 2.0, 12.0, 2.5, 7.0, 12.0]
    runs = {"counts": [10, 40, 206], "size": [16, 16]}
    for name in ("coco", "labelme", "table", "nnunet", "hub", "manifest"):
        shutil.copytree(folder / "plain/images", folder / name / ("imagesTr" if name == "nnunet" else "images"))
    listed = [{"id": i, "file_name": f"images/{path.name}", "width": 16, "height": 16} for i, path in enumerate(images)]
    drawn = [
        {
            "id": i,
            "image_id": i,
            "category_id": 1,
            "segmentation": runs if i == 1 else [outline],
            "bbox": [2, 2, 10, 10],
        }
        for i in range(len(images))
    ]
    coco = {"images": listed, "annotations": drawn, "categories": [{"id": 1, "name": "polyp"}]}
    write_json(folder / "coco/annotations.json", coco)
    for path in images:
        shape = {"label": "polyp", "points": [[2, 2], [12, 3], [7, 12]], "shape_type": "polygon"}
        labelme = {"shapes": [shape], "imagePath": path.name, "imageWidth": 16, "imageHeight": 16}
        write_json(folder / f"labelme/images/{path.stem}.json", labelme)
    for name in ("table", "hub", "manifest"):
        shutil.copytree(folder / "plain/masks", folder / name / "masks")
    rows = [(f"images/{path.name}", f"masks/{path.name}", f"p{i}") for i, path in enumerate(images)]
    write_text(folder / "table/pairs.csv", "image,mask,patient\n" + "".join(f"{','.join(row)}\n" for row in rows))
    write_jsonl(
        folder / "hub/metadata.jsonl", [{"file_name": image, "mask": mask, "text": who} for image, mask, who in rows]
    )
    shutil.copytree(folder / "plain/masks", folder / "nnunet/labelsTr")
    for path in (folder / "nnunet/imagesTr").iterdir():
        path.rename(path.with_stem(f"{path.stem}_0000"))
    write_json(folder / "nnunet/dataset.json", {"labels": {"background": 0, "polyp": 1}, "channel_names": {"0": "R"}})
    shapes = {
        "size": [16, 16],
        "drawn": [{"label": 1, "polygons": [[[2, 2], [12, 3], [7, 12]]], "runs": None, "hole": False}],
    }
    more: list[dict[str, Any]] = [
        {"shapes": shapes},
        {"parts": [f"../{rows[1][1]}"], "labels": [1]},
        {"name": "x"},
        {"group": "p"},
    ]
    write_jsonl(
        folder / "manifest/pairs.jsonl",
        [{"image": image, "mask": mask, **extra} for (image, mask, _), extra in zip(rows, more, strict=True)],
    )


def read_annotated(folder: Path, damaged: Path) -> Any:
    top = next(path for path in (damaged, *damaged.parents) if path.parent == folder)
    return [(pair, pair.read()) for pair in DataFolder(top).pairs()]


ANNOTATIONS = ("coco/*.json", "labelme/*/*.json", "table/*.csv", "hub/*.jsonl", "nnunet/*.json", "manifest/*.jsonl")

ENTRANCES = [
    Entrance("pairs", make_pairs, ("pairs.jsonl", "splits.json"), read_pairs, right_pairs, 15),
    Entrance("pairs, resumed", make_pairs, ("pairs.jsonl",), resume_pairs, weight=8),
    Entrance("annotations", make_annotated, ANNOTATIONS, read_annotated, right_pairs, 40),
    Entrance("shards", make_shards, ("shards/*.tar", "shards.json"), read_pairs, right_pairs, 20),
    Entrance("shards, resumed", make_shards, ("shards/*.tar",), resume_shards, weight=5),
    Entrance("images", make_images, ("*",), read_one_image, right_image, 60),
    command("check", make_pairs, ("pairs.jsonl", "images/*.png", "masks/*.png"), 8, "check", "{}"),
]
