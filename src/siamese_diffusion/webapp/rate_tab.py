"""The tab Rate: clinicians rate real and synthetic images without knowing which is which; kept on the server."""

import io
import time
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from siamese_diffusion.errors import InputError
from siamese_diffusion.reader_study.rating import PAGE, render_scores
from siamese_diffusion.webapp.context import Context
from siamese_diffusion.webapp.parts import note, plain
from siamese_diffusion.webapp.ratings import ORIGIN, QUALITY, ReaderStudy, clean, make
from siamese_diffusion.webapp.shown import looked_at
from siamese_diffusion.webapp.workspace import STUDIES, pick

LARGE = 480
LONGEST = 600.0
"""Seconds that one image counts at most; longer, nobody was looking."""


class RateTab:
    """Its components, and what happens when they are used."""

    def __init__(self, context: Context, tab: Any) -> None:
        self.context, self.tab = context, tab
        self._studies: dict[Path, tuple[float, ReaderStudy]] = {}
        self._start()
        self._rating()
        with gr.Accordion("For the researcher: make a study, or read its scores", open=False):
            self._making()
        self._events()

    def _start(self) -> None:
        with gr.Column(elem_id="rate-start") as self.start:
            self.intro = gr.Markdown("")
            with gr.Row():
                self.study = gr.Dropdown([], label="Study", interactive=True, min_width=200)
                self.reader = gr.Textbox("", label="Your name or initials", max_length=60, min_width=200)
            self.begin = gr.Button("Begin", variant="primary")

    def _rating(self) -> None:
        with gr.Row(visible=False, elem_id="rating") as self.rating:
            with gr.Column(scale=3, min_width=300):
                self.image = gr.Image(
                    show_label=False,
                    interactive=False,
                    buttons=[],
                    format="png",
                    container=False,
                    elem_id="rated-image",
                )
            with gr.Column(scale=2, min_width=260):
                self.progress = gr.HTML("", elem_id="rate-progress")
                self.quality = gr.Radio(
                    [(words, number) for number, words in QUALITY.items()], label="Quality as a clinical image"
                )
                self.origin = gr.Radio([(words, name) for name, words in ORIGIN.items()], label="Real or synthetic?")
                with gr.Row():
                    self.back = gr.Button("Back", min_width=80)
                    self.following = gr.Button("Next", variant="primary", scale=2, min_width=120)
                self.leave = gr.Button("Stop here; what is rated stays", size="sm")
        self.at = gr.Number(0, visible=False, precision=0)
        self.since = gr.Number(0, visible=False)
        self.thanks = gr.HTML("", elem_id="thanks")

    def _making(self) -> None:
        with gr.Row():
            self.synthetic = gr.Dropdown(
                [], label="Synthetic images of", multiselect=True, interactive=True, min_width=220
            )
            self.count = gr.Slider(1, 100, 10, step=1, label="Images of each folder", min_width=160)
            self.name = gr.Textbox("reader-study", label="Name of the study", max_length=64, min_width=160)
        self.make = gr.Button("Make the study")
        self.made = gr.HTML("", elem_id="study-made")
        self.score = gr.Button("Show the scores of the chosen study (tells which images are real)")
        self.scores = gr.Textbox("", show_label=False, lines=8, visible=False, elem_id="scores", interactive=False)

    def _events(self) -> None:
        shown = [
            self.start,
            self.rating,
            self.image,
            self.progress,
            self.quality,
            self.origin,
            self.at,
            self.since,
            self.back,
            self.thanks,
        ]
        who = [self.tab, self.study, self.reader]
        self.begin.click(plain(self.on_begin), who, shown, show_progress="hidden")
        self.reader.submit(plain(self.on_begin), who, shown, show_progress="hidden")
        answer = [*who, self.at, self.since, self.quality, self.origin]
        self.following.click(plain(self.on_next), answer, shown, show_progress="hidden")
        self.back.click(plain(self.on_back), [*who, self.at], shown, show_progress="hidden")
        self.leave.click(plain(self.on_leave), self.tab, shown, show_progress="hidden")
        self.make.click(
            plain(self.on_make),
            [self.synthetic, self.count, self.name],
            [self.made, self.study, self.intro],
            show_progress="minimal",
            show_progress_on=self.made,
        )
        self.score.click(plain(self.on_score), self.study, self.scores, show_progress="hidden")
        self.restored = [self.intro, self.study, self.reader, self.synthetic, *shown]

    def studies(self) -> dict[str, Path]:
        """Those that were made, newest first."""
        found = [path.parent for path in (self.context.workspace.out / STUDIES).glob(f"*/{PAGE}")]
        found.sort(key=lambda folder: (folder / PAGE).stat().st_mtime, reverse=True)
        return {folder.name: folder for folder in found}

    def on_load(self, tab: str) -> dict[Any, Any]:
        """The studies there are, and the image at which a reader was."""
        studies, folders = self.studies(), self.context.workspace.pair_folders()
        was = self.context.workspace.desk(tab).state()["settings"].get("rating") or {}
        found = {
            self.intro: _intro(bool(studies)),
            self.study: gr.update(choices=list(studies), value=next(iter(studies), None)),
            self.synthetic: gr.update(choices=list(folders), value=list(folders)[:1]),
        }
        if was.get("study") in studies:
            found |= {self.study: gr.update(choices=list(studies), value=was["study"]), self.reader: was["reader"]}
            found |= self._show(was["study"], was["reader"], int(was["at"]))
        return found

    def on_select(self, study: str | None, synthetic: list[str] | None) -> dict[Any, Any]:
        """The folders and studies that there are now; what is chosen stays."""
        studies, folders = self.studies(), self.context.workspace.pair_folders()
        return {
            self.intro: _intro(bool(studies)),
            self.study: gr.update(
                choices=list(studies), value=study if study in studies else next(iter(studies), None)
            ),
            self.synthetic: gr.update(choices=list(folders), value=synthetic or list(folders)[:1]),
        }

    def on_begin(self, tab: str, study: str, reader: str) -> dict[Any, Any]:
        """Go to the first image that is not rated yet."""
        opened, reader = self._open(study), clean(reader)
        rated, order = opened.answers(reader), opened.order(reader)
        first = next((place for place, name in enumerate(order) if name not in rated), len(order))
        return self._go(tab, study, reader, first)

    def on_next(
        self, tab: str, study: str, reader: str, at: float, since: float, quality: int | None, origin: str | None
    ) -> dict[Any, Any]:
        opened, reader = self._open(study), clean(reader)
        order = opened.order(reader)
        if not 0 <= int(at) < len(order):
            raise InputError("this image is not one of the study's; load the page again")
        if quality is None or origin is None:
            raise InputError("please judge both: the quality, and real or synthetic")
        seconds = min(LONGEST, max(0.0, time.time() - since))
        opened.rate(reader, order[int(at)], int(quality), str(origin), seconds)
        return self._go(tab, study, reader, int(at) + 1)

    def on_back(self, tab: str, study: str, reader: str, at: float) -> dict[Any, Any]:
        return self._go(tab, study, clean(reader), max(0, int(at) - 1))

    def on_leave(self, tab: str) -> dict[Any, Any]:
        self.context.workspace.desk(tab).set(rating=None)
        return {self.start: gr.update(visible=True), self.rating: gr.update(visible=False), self.thanks: ""}

    def on_make(self, synthetic: list[str], count: float, name: str) -> dict[Any, Any]:
        folders = self.context.workspace.pair_folders()
        chosen = [pick(folders, label, "folder of pairs") for label in synthetic or []]
        if not chosen:
            raise InputError("choose at least one folder of synthetic pairs; save some in the tab Draw first")
        real = next(iter(self.context.workspace.data.values()), None)
        if real is None:
            raise InputError("a study needs real images: start the page with --data FOLDER")
        out = self.context.workspace.new_study(name)
        make(out, real, chosen, int(count))
        return {
            self.made: note(f"Made: {len(chosen) + 1} times {int(count)} images. Readers begin above."),
            self.study: gr.update(choices=list(self.studies()), value=out.name),
            self.intro: _intro(True),
        }

    def on_score(self, study: str) -> Any:
        opened = self._open(study)
        begun = opened.sheets()[1]
        waiting = f"\n{begun} more have begun and are not through" if begun else ""
        return gr.update(value=render_scores(opened.scores()) + waiting, visible=True)

    def _open(self, study: str) -> ReaderStudy:
        studies = self.studies()
        if not studies:
            raise InputError("there is no study yet: make one below")
        folder: Path = pick(studies, study, "study")
        stamp = (folder / PAGE).stat().st_mtime
        if folder not in self._studies or self._studies[folder][0] != stamp:
            self._studies[folder] = stamp, ReaderStudy(folder)
        return self._studies[folder][1]

    def _go(self, tab: str, study: str, reader: str, at: int) -> dict[Any, Any]:
        opened = self._open(study)
        through = at >= len(opened.order(reader)) and len(opened.answers(reader)) == len(opened.order(reader))
        where = None if through else {"study": study, "reader": reader, "at": at}
        self.context.workspace.desk(tab).set(rating=where)
        return self._show(study, reader, at)

    def _show(self, study: str, reader: str, at: int) -> dict[Any, Any]:
        opened = self._open(study)
        order, rated = opened.order(reader), opened.answers(reader)
        if at >= len(order):
            left = next((place for place, name in enumerate(order) if name not in rated), None)
            if left is None:
                return {
                    self.start: gr.update(visible=True),
                    self.rating: gr.update(visible=False),
                    self.thanks: "<h3>All images are rated. Thank you!</h3><p class='told'>Your answers are saved.</p>",
                }
            at = left
        given = rated.get(order[at], {})
        with Image.open(io.BytesIO(opened.image(order[at])), formats=["PNG"]) as picture:
            pixels = np.array(picture.convert("RGB"))
        share = len(rated) / len(order)
        text = f"Image {at + 1} of {len(order)}, {len(rated)} rated"
        bar = f"<progress max='1' value='{share:.3f}'></progress>"
        return {
            self.start: gr.update(visible=False),
            self.rating: gr.update(visible=True),
            self.image: looked_at(pixels, side=LARGE),
            self.progress: f"<div class='told'><label>{text}{bar}</label></div>",
            self.quality: given.get("rating"),
            self.origin: given.get("answer"),
            self.at: at,
            self.since: time.time(),
            self.back: gr.update(interactive=at > 0),
            self.thanks: "",
        }


def _intro(there_is_one: bool) -> str:
    if not there_is_one:
        return "There is no study yet. Make one below, from the real images and a folder of synthetic pairs."
    return (
        "You will see images, one after another. Some are real and some were made by a computer; neither the order nor "
        "the names say which. Judge **how good** each is as a clinical image, and **whether it is real**. You may stop "
        "at any time and go on later under the same name."
    )
