"""The tab Draw: paint a mask, see images of it, keep the good ones, save them as pairs."""

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from siamese_diffusion.config import load_config
from siamese_diffusion.data.images import Mask, square
from siamese_diffusion.errors import InputError
from siamese_diffusion.settings import SampleConfig
from siamese_diffusion.webapp import sketch
from siamese_diffusion.webapp.context import Context
from siamese_diffusion.webapp.desk import Desk, Row
from siamese_diffusion.webapp.jobs import Job
from siamese_diffusion.webapp.parts import failure, plain, plain_stream, waiting
from siamese_diffusion.webapp.shown import looked_at
from siamese_diffusion.webapp.workspace import pick

CARDS = 8
"""Images that are drawn at once, at most."""
REMEMBERED = ("count", "seed", "fresh", "steps", "guidance", "mask_guidance")
"""Settings that a page has again when it is loaded again."""
STARTS = 12
"""Masks to start from that are shown at once."""


class DrawTab:
    """Its components, and what happens when they are used."""

    def __init__(self, context: Context, tab: Any) -> None:
        self.context, self.tab = context, tab
        self.work = context.workspace
        self.classes = sketch.classes_of(["lesion"])
        self.models = self.work.models()
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                self._board()
            with gr.Column(scale=7, min_width=320):
                self._settings()
                self._cards()
        self._kept()
        self._events()

    def _board(self) -> None:
        gr.Markdown("### 1. Paint a mask")
        self.board = gr.HTML(
            value="",
            html_template=sketch.part("sketch.html"),
            css_template=sketch.part("sketch.css"),
            js_on_load=sketch.part("sketch.js"),
            classes=str([{"name": each.name, "colour": each.colour} for each in self.classes]).replace("'", '"'),
            elem_id="board",
        )
        self.sources = self.context.starts()
        with gr.Accordion("Start from a mask that is there", open=True, visible=bool(self.sources)):
            self.source = gr.Dropdown(
                list(self.sources),
                value=next(iter(self.sources), None),
                show_label=False,
                container=False,
                visible=len(self.sources) > 1,
                interactive=True,
            )
            self.starts = gr.Gallery(
                show_label=False,
                columns=6,
                height="auto",
                object_fit="cover",
                allow_preview=False,
                buttons=[],
                elem_id="starts",
                format="jpeg",
            )
            self.at = gr.Number(0, visible=False, precision=0)
            self.more = gr.Button("Show others", size="sm")

    def _settings(self) -> None:
        gr.Markdown("### 2. Draw images of it")
        own = self._own_settings(next(iter(self.models)))
        self.model = gr.Dropdown(
            list(self.models),
            value=next(iter(self.models)),
            label="Model",
            visible=len(self.models) > 1,
            interactive=True,
        )
        with gr.Row():
            self.count = gr.Slider(1, CARDS, 4, step=1, label="Images", min_width=200)
            self.seed = gr.Number(
                0, label="First seed", precision=0, minimum=0, maximum=2**31 - 1 - CARDS, min_width=110
            )
            self.fresh = gr.Checkbox(True, label="New seeds each time", min_width=180)
        with gr.Accordion("How they are drawn", open=False), gr.Row():
            self.steps = gr.Slider(1, max(100, own.steps), own.steps, step=1, label="Steps", min_width=140)
            self.guidance = gr.Slider(0, 10, own.guidance, step=0.1, label="Guidance on the prompt", min_width=140)
            self.mask_guidance = gr.Slider(
                0, 6, own.mask_guidance, step=0.1, label="Guidance on the mask", min_width=140
            )
        with gr.Row():
            self.draw = gr.Button("Draw", variant="primary", scale=3, min_width=120)
            self.stop = gr.Button("Stop", scale=1, min_width=80, interactive=False)
        self.progress = gr.HTML("", elem_id="progress")

    def _own_settings(self, label: str) -> SampleConfig:
        return load_config(self.context.run_of(self.models[label]) / "config.yaml").sample

    def _cards(self) -> None:
        seen = " Magenta: what the network sees." if self.context.painter.network_run is not None else ""
        self.outlines = gr.Checkbox(True, label=f"Outlines (green: the mask asked for.{seen})", elem_id="outlines")
        self.names = gr.Textbox("", visible=False)
        self.cards, self.images, self.captions, self.keeps = [], [], [], []
        with gr.Row(elem_id="cards"):
            for number in range(CARDS):
                with gr.Column(min_width=150, visible=False, elem_classes="card") as card:
                    image = gr.Image(
                        show_label=False,
                        interactive=False,
                        buttons=["fullscreen"],
                        format="jpeg",
                        container=False,
                    )
                    caption = gr.HTML("")
                    keep = gr.Checkbox(False, label="Keep", elem_id=f"keep-{number}", container=False)
                self.cards.append(card)
                self.images.append(image)
                self.captions.append(caption)
                self.keeps.append(keep)

    def _kept(self) -> None:
        with gr.Column(visible=False, elem_id="kept") as self.kept_group:
            self.kept_title = gr.Markdown("")
            self.kept = gr.Gallery(
                show_label=False,
                columns=8,
                height="auto",
                allow_preview=False,
                buttons=[],
                elem_id="kept-images",
                format="jpeg",
            )
            with gr.Row():
                self.name = gr.Textbox(
                    "drawn-pairs",
                    label="Name of the folder",
                    max_length=64,
                    scale=3,
                    elem_id="saved-name",
                    min_width=160,
                )
                self.save = gr.Button("Save kept pairs", variant="primary", scale=1, min_width=140)
        self.saved = gr.HTML("", elem_id="saved")

    def _events(self) -> None:
        shown = [self.names, *self.cards, *self.images, *self.captions, *self.keeps]
        kept = [self.kept_group, self.kept_title, self.kept]
        controls = [self.progress, self.draw, self.stop, self.seed]
        self.outputs = [*shown, *kept, *controls]
        self.draw.click(
            plain_stream(self.on_draw),
            [
                self.tab,
                self.board,
                self.model,
                self.count,
                self.seed,
                self.fresh,
                self.steps,
                self.guidance,
                self.mask_guidance,
                self.outlines,
            ],
            self.outputs,
            show_progress="hidden",
            concurrency_limit=None,
        )
        self.stop.click(plain(self.on_stop), self.tab, self.stop, show_progress="hidden", concurrency_limit=None)
        self.outlines.input(
            plain(self.on_outlines),
            [self.tab, self.outlines],
            shown,
            show_progress="hidden",
            trigger_mode="always_last",
        )
        for number, keep in enumerate(self.keeps):
            keep.input(
                plain(self._keeper(number)),
                [self.tab, self.names, keep],
                kept,
                show_progress="hidden",
                trigger_mode="always_last",
                concurrency_limit=None,
            )
        self.save.click(plain(self.on_save), [self.tab, self.name], [*shown, *kept, self.saved], show_progress="hidden")
        self.board.change(plain(self.on_paint), [self.tab, self.board], None, show_progress="hidden", queue=False)
        self.starts.select(plain(self.on_start), [self.source, self.at], self.board, show_progress="hidden").then(
            plain(self.on_paint), [self.tab, self.board], None, show_progress="hidden"
        )
        self.more.click(plain(self.on_more), [self.source, self.at], [self.starts, self.at], show_progress="hidden")
        self.source.input(
            plain(self.on_source),
            self.source,
            [self.starts, self.at],
            show_progress="hidden",
            trigger_mode="always_last",
        )
        self.model.input(
            plain(self.on_model),
            self.model,
            [self.steps, self.guidance, self.mask_guidance],
            show_progress="hidden",
            trigger_mode="always_last",
        )

    def on_load(self, tab: str) -> Iterator[dict[Any, Any]]:
        """The page as it was left, and the job that is still at work for it."""
        desk = self.work.desk(tab)
        painted = desk.sketch()
        settings = desk.state()["settings"]
        yield {
            self.board: "" if painted is None else sketch.to_picture(painted, self.classes),
            self.starts: self._thumbnails(next(iter(self.sources)), 0) if self.sources else [],
            **{getattr(self, name): settings[name] for name in REMEMBERED if name in settings},
            **self._shown(desk, True),
            **self._kept_now(desk),
        }
        job = self.context.jobs.latest(tab)
        if job is not None and job.open:
            yield from self._follow(desk, job, True)

    @property
    def restored(self) -> list[Any]:
        """What `on_load` sets."""
        own = [self.board, self.starts, self.count, self.fresh, self.steps, self.guidance, self.mask_guidance]
        return [*own, *self.outputs]

    def on_draw(
        self,
        tab: str,
        picture: str,
        model: str,
        count: float,
        seed: float,
        fresh: bool,
        steps: float,
        guidance: float,
        mask_guidance: float,
        outlines: bool,
    ) -> Iterator[dict[Any, Any]]:
        """Draw, and show each image as it comes."""
        desk = self.work.desk(tab)
        labels = sketch.to_labels(picture, self.classes)
        if not labels.any():
            raise InputError("paint a mask first")
        run = self.context.run_of(pick(self.models, model, "model"))
        count, seed = int(count), int(seed or 0)
        if not 1 <= count <= CARDS or not 0 <= seed < 2**31 - CARDS:
            raise InputError(f"images: 1 to {CARDS}; first seed: 0 to {2**31 - 1 - CARDS}")
        settings = {"steps": int(steps), "guidance": guidance, "mask_guidance": mask_guidance}
        after = seed + count if fresh else seed

        def work(job: Job) -> None:
            self._draw(job, desk, run, labels > 0, range(seed, seed + count), settings)

        job = self.context.jobs.submit(tab, work, "loading the model")
        desk.set(count=count, seed=after, fresh=fresh, **settings)
        yield from self._follow(desk, job, outlines)
        if job.state == "done":
            yield {self.seed: after}

    def _draw(
        self, job: Job, desk: Desk, run: Path, mask: Mask, seeds: Sequence[int], settings: dict[str, Any]
    ) -> None:
        """On the thread of the jobs."""
        job.step(0, 0, "loading the model")
        painter = self.context.painter
        small = square(mask, painter.resolution(run), "squash")
        if not small.any():
            raise InputError(f"what is painted vanishes at the model's {len(small)} pixels: paint it larger")
        painter.network()
        job.step(0, len(seeds) * settings["steps"], "drawing")
        for drawn in painter.draw(run, desk.begin(small), seeds, settings, job.step):
            desk.add(*drawn)

    def _follow(self, desk: Desk, job: Job, outlines: bool) -> Iterator[dict[Any, Any]]:
        """What the page shows while a job is at work, and at its end."""
        jobs, known = self.context.jobs, [None]
        yield {
            self.draw: gr.update(interactive=False),
            self.stop: gr.update(interactive=True),
            self.progress: waiting(jobs, job),
        }
        while job.open:
            jobs.wait(0.4)
            update = {self.progress: waiting(jobs, job)}
            names = [row["name"] for row in desk.latest()]
            if job.state == "running" and job.of and names != known:
                known = names  # type: ignore[assignment]
                update |= self._shown(desk, outlines)
            yield update
        yield {
            **self._shown(desk, outlines),
            **self._kept_now(desk),
            self.progress: waiting(jobs, job),
            self.draw: gr.update(interactive=True),
            self.stop: gr.update(interactive=False),
        }
        if job.state == "failed":
            raise failure(job.note)

    def on_stop(self, tab: str) -> Any:
        self.context.jobs.stop(self.work.desk(tab).name)
        return gr.update(interactive=False)

    def on_outlines(self, tab: str, outlines: bool) -> dict[Any, Any]:
        return self._shown(self.work.desk(tab), outlines)

    def _shown(self, desk: Desk, outlines: bool) -> dict[Any, Any]:
        """The cards of the images that were drawn last."""
        rows = [row for row in desk.latest() if row["saved"] is None][:CARDS]
        found: dict[Any, Any] = {self.names: ",".join(row["name"] for row in rows)}
        for number, (card, image, caption, keep) in enumerate(
            zip(self.cards, self.images, self.captions, self.keeps, strict=True)
        ):
            if number >= len(rows):
                found |= {card: gr.update(visible=False)}
                continue
            row = rows[number]
            pixels, asked, seen = desk.read(row)
            picture = looked_at(pixels, asked, seen) if outlines else looked_at(pixels)
            found |= {card: gr.update(visible=True), image: picture, caption: _caption(row), keep: row["kept"]}
        return found

    def _kept_now(self, desk: Desk) -> dict[Any, Any]:
        rows = desk.kept()
        tiles = [(looked_at(desk.read(row)[0], side=200), f"seed {row['seed']}") for row in rows]
        many = "pair is" if len(rows) == 1 else "pairs are"
        return {
            self.kept_group: gr.update(visible=bool(rows)),
            self.kept_title: f"### 3. {len(rows)} {many} kept",
            self.kept: tiles,
        }

    def _keeper(self, number: int) -> Any:
        def on_keep(tab: str, names: str, kept: bool) -> dict[Any, Any]:
            listed = names.split(",")
            desk = self.work.desk(tab)
            desk.keep(listed[number] if number < len(listed) else "", bool(kept))
            return self._kept_now(desk)

        return on_keep

    def on_save(self, tab: str, name: str) -> dict[Any, Any]:
        desk, out = self.work.desk(tab), self.work.new_pairs(name)
        count = desk.save_kept(out)
        pairs = "pair" if count == 1 else "pairs"
        told = f"<p class='told'>{count} {pairs} saved in <code>{html.escape(str(out.resolve()))}</code></p>"
        return {**self._shown(desk, True), **self._kept_now(desk), self.saved: told}

    def on_paint(self, tab: str, picture: str) -> None:
        desk = self.work.desk(tab)
        empty = np.zeros((sketch.SIDE, sketch.SIDE), np.uint8)
        desk.save_sketch(sketch.to_labels(picture, self.classes) if picture else empty)

    def _thumbnails(self, source: str, at: int) -> list[Any]:
        pairs = self.context.pairs_of(pick(self.sources, source, "masks"))
        return self.context.thumbnails([pairs[i % len(pairs)] for i in range(at, at + min(STARTS, len(pairs)))])

    def on_more(self, source: str, at: float) -> dict[Any, Any]:
        following = int(at) + STARTS
        return {self.starts: self._thumbnails(source, following), self.at: following}

    def on_source(self, source: str) -> dict[Any, Any]:
        return {self.starts: self._thumbnails(source, 0), self.at: 0}

    def on_start(self, source: str, at: float, chosen: gr.SelectData) -> str:
        pairs = self.context.pairs_of(pick(self.sources, source, "masks"))
        mask = pairs[(int(at) + int(chosen.index)) % len(pairs)].mask.read()
        return sketch.to_picture(sketch.from_mask(mask), self.classes)

    def on_model(self, model: str) -> dict[Any, Any]:
        pick(self.models, model, "model")
        own = self._own_settings(model)
        return {self.steps: own.steps, self.guidance: own.guidance, self.mask_guidance: own.mask_guidance}


def _caption(row: Row) -> str:
    dice = "" if row["dice"] is None else f"<br><b>Dice {row['dice']:.2f}</b>"
    return f"<p class='caption'>seed {row['seed']}{dice}</p>"
