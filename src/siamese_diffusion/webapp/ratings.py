"""A reader study that is rated on the page: its images without their names, and what each reader says, on disk.

The files are those that the page of `rate export` saves, so that `rate score` reads both.
"""

import base64
import hashlib
import json
import random
import re
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from siamese_diffusion.errors import InputError, brief
from siamese_diffusion.files import read_json, read_text, write_json
from siamese_diffusion.reader_study.rating import KEY, PAGE, RATINGS_FORMAT, REAL, score_ratings

QUALITY = {5: "5 Excellent", 4: "4 Good", 3: "3 Fair", 2: "2 Poor", 1: "1 Bad"}
ORIGIN = {REAL: "Real", "synthetic": "Synthetic"}
SHEETS = "ratings"
_STUDY = re.compile(r'<script type="application/json" id="study">(.*?)</script>', re.DOTALL)
_one_at_a_time = threading.RLock()


class ReaderStudy:
    """A folder of `rate export`.

    Raises:
        InputError: it is none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = _STUDY.search(read_text(folder / PAGE))
        try:
            study = json.loads(found[1]) if found else {}
            self.id: str = study["study"]
            self._images: dict[str, str] = dict(study["images"])
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{folder / PAGE}: is not the page that `rate export` wrote") from None

    def order(self, reader: str) -> list[str]:
        """The images' names in this reader's own order, the same one whenever they come back."""
        names = sorted(self._images)
        random.Random(f"{self.id}/{reader.casefold()}").shuffle(names)
        return names

    def image(self, name: str) -> bytes:
        """The content of a PNG file that tells nothing of where it comes from."""
        return base64.b64decode(self._images[name])

    def sheet(self, reader: str) -> dict[str, Any]:
        """What a reader has said so far."""
        path = self._sheet(reader)
        if path.exists():
            return read_json(path, dict[str, Any])
        begun = datetime.now(UTC).isoformat(timespec="seconds")
        return {
            "format": RATINGS_FORMAT,
            "study": self.id,
            "reader": reader,
            "started": begun,
            "finished": None,
            "ratings": [],
        }

    def answers(self, reader: str) -> dict[str, dict[str, Any]]:
        """The same by the images' names."""
        return {row["id"]: row for row in self.sheet(reader)["ratings"]}

    def rate(self, reader: str, name: str, rating: int, answer: str, seconds: float) -> int:
        """Note a rating, in place of an earlier one of the same image; returns how many are left.

        Raises:
            InputError: no such image or rating.
        """
        if name not in self._images:
            raise InputError("this image is not one of the study's; load the page again")
        if rating not in QUALITY or answer not in ORIGIN:
            raise InputError("choose a quality from 1 to 5, and real or synthetic")
        with _one_at_a_time:
            sheet = self.sheet(reader)
            place = self.order(reader).index(name) + 1
            row = {"id": name, "position": place, "rating": rating, "answer": answer, "seconds": round(seconds, 1)}
            rows = [*(each for each in sheet["ratings"] if each["id"] != name), row]
            sheet["ratings"] = sorted(rows, key=lambda each: each["position"])
            left = len(self._images) - len(rows)
            if not left and sheet["finished"] is None:
                sheet["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
            write_json(self._sheet(reader), sheet)
            return left

    def sheets(self) -> tuple[list[Path], int]:
        """The files of readers who are through, and how many are not."""
        files = sorted((self.folder / SHEETS).glob("*.json"))
        done = [path for path in files if read_json(path, dict[str, Any]).get("finished")]
        return done, len(files) - len(done)

    def scores(self) -> dict[str, Any]:
        """What `rate score` says of those who are through.

        Raises:
            InputError: nobody is.
        """
        done, begun = self.sheets()
        if not done:
            raise InputError(f"no reader has rated all images yet ({begun} have begun)")
        return score_ratings(done, self.folder / KEY)

    def _sheet(self, reader: str) -> Path:
        named = re.sub(r"[^\w]+", "-", reader.casefold()).strip("-")[:40]
        return self.folder / SHEETS / f"{named}-{hashlib.sha256(reader.casefold().encode()).hexdigest()[:8]}.json"


def clean(reader: object) -> str:
    """A reader's name or initials.

    Raises:
        InputError: there is none.
    """
    found = " ".join(str(reader or "").split())
    if not found or len(found) > 60 or not found.isprintable():
        raise InputError(f"your name or initials, at most 60 letters: {brief(found)!r} is not")
    return found


def make(folder: Path, real: Path, synthetic: Sequence[Path], count: int) -> ReaderStudy:
    """Draw the images of a study; errors as in `export_ratings`."""
    from siamese_diffusion.reader_study.rating import export_ratings

    export_ratings(real, synthetic, folder, count)
    return ReaderStudy(folder)
