"""Files that would run a program if what reads them let them: the program makes a file, the canary."""

import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

STATE = {"weight": torch.arange(12.0).view(3, 4)}


class Trap:
    """Unpickled, it calls something."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


def traps(canary: Path) -> dict[str, Trap]:
    """What a pickle may be made to call."""
    code = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    return {
        "os.system": Trap(os.system, f"touch {canary}"),
        "eval": Trap(eval, code),
        "exec": Trap(exec, code),
        "a method": Trap(Path.touch, canary),
        "torch.load": Trap(torch.load, str(_plain_pickle(canary)), None, pickle, weights_only=False)
        if False
        else Trap(_load_unsafely, str(_plain_pickle(canary))),
    }


def _plain_pickle(canary: Path) -> Path:
    path = canary.with_name("inner.pkl")
    path.write_bytes(pickle.dumps(Trap(os.system, f"touch {canary}")))
    return path


def _load_unsafely(path: str) -> Any:
    return pickle.loads(Path(path).read_bytes())


def weights(canary: Path, every: bool = True) -> Iterator[tuple[str, bytes]]:
    """Names and contents of poisoned files of weights: with `every` trap there is, or with one in each kind of file."""
    for name, trap in traps(canary).items() if every else [("os.system", traps(canary)["os.system"])]:
        for what, value in (
            ("alone", trap),
            ("in a state dict", {**STATE, "x": trap}),
            ("under state_dict", {"state_dict": {"x": trap}}),
        ):
            yield f"pickle, {name} {what}", pickle.dumps(value, 2)
            for zipped in (True, False):
                content = io.BytesIO()
                torch.save(value, content, _use_new_zipfile_serialization=zipped)
                yield f"torch.save{'' if zipped else ' of old'}, {name} {what}", content.getvalue()
    yield (
        "NumPy object array",
        _saved(lambda file: np.save(file, np.array([Trap(os.system, f"touch {canary}")], object))),
    )
    yield "tar of PyTorch 0.1", _tar(pickle.dumps(Trap(os.system, f"touch {canary}"), 2))
    yield "TorchScript archive", _script(canary)
    yield "protocol 4", pickle.dumps({"x": Trap(os.system, f"touch {canary}")}, 4)


def _saved(save: Callable[[Any], object]) -> bytes:
    content = io.BytesIO()
    save(content)
    return content.getvalue()


def _tar(content: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def _script(canary: Path) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(Trap(os.system, f"touch {canary}"), 2))
        archive.writestr("x/constants.pkl", pickle.dumps((), 2))
        archive.writestr("x/version", "3\n")
        archive.writestr("x/code/__torch__.py", f"import os\nos.system('touch {canary}')\n")
    return made.getvalue()


def configurations(content: bytes, canary: Path) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    """Names and contents of a poisoned `config.json`, and other files beside it."""
    values = json.loads(content)
    evil = f"import pathlib\npathlib.Path({str(canary)!r}).touch()\nclass Evil:\n    from_pretrained = None\n"
    beside = {"evil.py": evil, "modeling_evil.py": evil}
    classes = ("AutoModel", "AutoConfig", "AutoTokenizer", "CLIPTextModel")
    yield "auto_map", json.dumps(values | {"auto_map": dict.fromkeys(classes, "evil.Evil")}).encode(), beside
    yield f"a class's name, {UNHEEDED}", json.dumps(values | {"_class_name": "evil.Evil"}).encode(), beside
    yield "custom pipeline", json.dumps(values | {"custom_pipelines": {"x": "evil"}}).encode(), beside
    yield "quantization", json.dumps(values | {"quantization_config": {"quant_method": "evil.Evil"}}).encode(), beside
    yield "attention from a hub", json.dumps(values | {"attn_implementation": "evil/kernel"}).encode(), beside


def settings(canary: Path) -> Iterator[tuple[str, bytes]]:
    """YAML that would build an object."""
    yield "apply", f"data: !!python/object/apply:os.system ['touch {canary}']\n".encode()
    yield "new", f"data: !!python/object/new:pathlib.Path ['{canary}']\n".encode()
    yield "name", b"data: !!python/name:os.system\n"
    yield "module", b"data: !!python/module:antigravity\n"


UNHEEDED = "which nobody looks at"
"""In the names of files that may be taken: the right class is known."""

PROGRAMS = ("gs", "gswin32c", "gswin64c", "xv", "convert", "djpeg", "inkscape", "pdftoppm", "dwebp")
"""What a library of images may start."""


def pictures() -> Iterator[tuple[str, bytes]]:
    """Files of formats that are none of ours, under a name that is."""
    page = b"<< /Type /Page >>"
    post = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n"
    yield "EPS", post + b"%%EndComments\n0 0 moveto 9 9 lineto stroke showpage\n%%EOF\n"
    yield "EPS of DOS", b"\xc5\xd0\xd3\xc6\x20\0\0\0" + len(post).to_bytes(4, "little") + bytes(20) + post
    yield "PostScript", b"%!PS\n0 0 moveto showpage\n"
    yield "PDF", b"%PDF-1.4\n1 0 obj " + page + b" endobj\ntrailer << /Root 1 0 R >>\n%%EOF\n"
    yield "WMF", b"\xd7\xcd\xc6\x9a\0\0" + bytes(8) + b"\x10\0\x10\0" + bytes(30)
    yield "EMF", b"\x01\0\0\0" + bytes(36) + b" EMF" + bytes(60)
    yield "FPX", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
    yield "MIC", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\xff" * 600
    yield "SVG", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield "HDF5", b"\x89HDF\r\n\x1a\n" + bytes(100)
    yield "GRIB", b"GRIB" + bytes(3) + b"\x01" + bytes(100)
    yield "BUFR", b"BUFR" + bytes(100)
    yield "FITS", b"SIMPLE  =                    T".ljust(80) + b"END".ljust(80)
    yield "PSD", b"8BPS\0\1" + bytes(8) + b"\0\3\0\0\0\x10\0\0\0\x10\0\x08\0\3" + bytes(40)
    yield "ICO", b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0" + bytes(40)
    yield "XPM", b'/* XPM */\nstatic char *x[] = {"1 1 1 1", "  c #000000", " "};\n'
    yield "MSP", b"DanM" + bytes(30)
    yield "PCX", b"\x0a\5\1\x08" + bytes(140)
    yield "SGI", b"\x01\xda\0\1" + bytes(520)
    yield "TGA", b"\0\0\2" + bytes(9) + b"\x10\0\x10\0\x18\0" + bytes(800)
    yield "PPM", b"P6 4 4 255\n" + bytes(48)
    yield "IM", b"Image type: RGB image\r\nImage size (x*y): 4*4\r\n\x1a" + bytes(512)
