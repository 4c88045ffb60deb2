"""Parts of a model in the layout of diffusers and transformers: a folder of `config.json` and safetensors, whole or
refused.

Design note: those libraries fill a weight that the file lacks with random numbers, build whatever network a
configuration asks for before they look at the file, and can be told by one to fetch code. Each is refused here.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from siamese_diffusion.errors import InputError, refused
from siamese_diffusion.files import read_json
from siamese_diffusion.interrupt import undisguised

_CODE = (
    "auto_map",
    "custom_pipelines",
    "quantization_config",
    "attn_implementation",
    "_attn_implementation",
    "use_kernels",
)
"""Keys of a configuration that name code or other libraries."""

_OLD, _BUFFER = ("logit_scale",), "position_ids"
"""What files of earlier versions of CLIP hold besides."""

_LAYERS, _SIZE = 64, 1 << 20
"""The largest number of layers, and of anything else that a configuration may count. CLIP has 49408 words, Stable
Diffusion 12 layers; thousands of layers would take minutes to build before the first weight is compared."""


def load_pretrained(kind: Any, where: str | Path, part: str, what: str, **options: Any) -> Any:
    """`kind.from_pretrained`, on the CPU.

    Args:
        kind: a class of diffusers or transformers.
        where: a folder, or a hub id.
        part: the sub-folder; "" for none.
        what: how the line of an error begins.
        options: of `from_pretrained`.

    Raises:
        InputError: it is not there or cannot be loaded, or its weights are not those of its configuration.
    """
    require_plausible(Path(where) / part, what)
    with undisguised(), refused(what):
        return kind.from_pretrained(str(where), subfolder=part, **options)


def load_network(
    kind: Any, where: str | Path, part: str, what: str, besides: Sequence[str] = (), **options: Any
) -> Any:
    """`load_pretrained` of a network: every weight is in its file, and the file holds no others; errors as there.

    Args:
        kind: as there, and so on.
        besides: beginnings of names that the file may hold, of a whole that this network is a part of.
    """
    network, found = load_pretrained(kind, where, part, what, output_loading_info=True, **options)
    unused = [
        name
        for name in found["unexpected_keys"]
        if not name.startswith((*_OLD, *besides)) and not name.endswith(_BUFFER)
    ]
    for how, names in (
        ("lacks", found["missing_keys"]),
        ("has another shape of", [entry[0] for entry in found["mismatched_keys"]]),
        ("holds, besides,", unused),
    ):
        if names:
            raise InputError(f"{what} (its file of weights {how} {min(names)}, by {Path(part) / 'config.json'})")
    return network


def require_plausible(folder: Path, what: str) -> None:
    """Look through the configurations of a part that is on this disk.

    Raises:
        InputError: one is no JSON object, names code, or asks for a network of a size that nobody has.
    """
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        content = read_json(path)
        if path.name.endswith("config.json"):
            if not isinstance(content, dict):
                raise InputError(f"{path}: is not a JSON object")
            named = next((key for key in _CODE if content.get(key)), None)
            if named is not None:
                raise InputError(f"{what} ({path} has {named}, and no code is taken from a model's folder)")
            if path.name != "tokenizer_config.json":  # which has 10^30 for "as long as you like"
                _require_size(content, path)


def _require_size(value: Any, path: Path, key: str = "") -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _require_size(inner, path, name)
    elif isinstance(value, list):
        for inner in value[: _SIZE + 1]:
            _require_size(inner, path, key)
    most = _LAYERS if re.search("layers|blocks", key) else _SIZE
    count = len(value) if isinstance(value, list) else value if type(value) is int else 0
    if abs(count) > most:
        raise InputError(
            f"{path}: {key} is {value if type(value) is int else f'a list of {count}'}, at most {most} is taken"
        )
