"""A file's bytes in, other bytes out, by a generator of random numbers.

Half of the damage is blind. That dies at the first checksum, so the other half knows the format: it changes a value
deep inside a JSON text, a chunk of a PNG, a header of a tar or a pickle in a ZIP, and makes the checksums right again.
"""

import random
from pathlib import Path

from campaign.archives import safetensors_header, tar_headers, torch_file, zip_members
from campaign.blind import BLIND, WHOLE, Mutate
from campaign.pictures import jpeg_segments, png_chunks, tiff_tags
from campaign.texts import csv_text, json_text, jsonl_text, yaml_text

INFORMED: dict[str, Mutate] = {
    ".json": json_text,
    ".jsonl": jsonl_text,
    ".yaml": yaml_text,
    ".csv": csv_text,
    ".png": png_chunks,
    ".tif": tiff_tags,
    ".jpg": jpeg_segments,
    ".tar": tar_headers,
    ".zip": zip_members,
    ".pt": torch_file,
    ".ckpt": torch_file,
    ".safetensors": safetensors_header,
}
"""By a file's extension."""


def mutate(random: random.Random, path: Path) -> bytes:
    """Other bytes for a file, which stays as it is."""
    content = path.read_bytes()
    informed = INFORMED.get(path.suffix.lower())
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        how = random.random()
        try:
            if informed is not None and how < 0.6:
                content = informed(random, content)
            elif how < 0.97:
                content = random.choice(BLIND)(random, content)
            else:
                content = random.choice(WHOLE)
        except Exception:  # what is damaged already need not be of the format any more
            content = random.choice(BLIND)(random, content)
    return content
