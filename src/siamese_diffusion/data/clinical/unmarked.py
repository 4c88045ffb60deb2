"""DICOM and NIfTI files without masks, as plain pictures: what a backbone is pretrained on.

Design note: the pictures are written once, beside what else a run keeps while it works, and called by pseudonyms. Every
slice is one; those of one value alone, such as air beyond the body, are left out and counted.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from siamese_diffusion.config import DataConfig
from siamese_diffusion.data.clinical import dicom, nifti
from siamese_diffusion.data.clinical.cases import Options, number_all
from siamese_diffusion.data.clinical.told import Kind, clinical_files, told
from siamese_diffusion.data.decoding import plain_settings
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import one_at_a_time
from siamese_diffusion.pictures import png
from siamese_diffusion.progress import notify, track


@dataclass(frozen=True)
class Unmarked:
    """The clinical images of a folder."""

    kind: Kind
    folder: Path
    files: list[Path]
    settings: DataConfig

    def write(self, out: Path) -> DataFolder:
        """Write their slices to `out` as PNG, unless that was done, and open it.

        Raises:
            InputError: a file is damaged, nothing says which grey values are shown, or no slice shows anything.
        """
        with one_at_a_time(out.parent):
            whole = out / ".whole"
            if not whole.exists():
                shutil.rmtree(out, ignore_errors=True)  # what a killed call left
                out.mkdir(parents=True)
                self._write(out)
                whole.touch()
        return DataFolder(out, "--images", plain_settings(self.settings))

    def _write(self, out: Path) -> None:
        options, written = Options(), 0
        read = dicom.unmarked if self.kind == "DICOM" else nifti.unmarked
        whose, slices = read(self.folder, self.files, self.settings, options)
        for name, shown in track(zip(number_all(whose), slices, strict=True), f"reading {self.kind}", len(whose)):
            if shown.min() == shown.max():
                options.left["slices of one value alone"] += 1
                continue
            (out / f"{name}.png").write_bytes(png(Image.fromarray(np.ascontiguousarray(shown)), compress_level=1))
            written += 1
        for what, count in sorted(options.left.items()):
            if count:
                notify(f"{self.folder}: left out, {count} {what}")
        if not written:
            raise InputError(f"--images {self.folder}: no slice of its {self.kind} files shows anything")


def unmarked(folder: DataFolder, settings: DataConfig) -> Unmarked | None:
    """The clinical images of a folder; None where its plain files are more, or pairs."""
    kind = told(folder.path)
    if kind is None or folder.holds_pairs:
        return None
    found = list(clinical_files(folder.path))
    files = [path for path, other in found if other == kind]
    if len(files) < len(found):
        notify(f"{folder.path}: left out, {len(found) - len(files)} clinical files that are not {kind}")
    return Unmarked(kind, folder.path, files, settings)
