"""The tab Pairs: look through a folder of synthetic pairs, drop what is not good, write the rest."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from siamese_diffusion.data.images import Pixels
from siamese_diffusion.errors import InputError
from siamese_diffusion.webapp.context import Context
from siamese_diffusion.webapp.pair_set import FLAGGED, SORTS, Entry, PairSet, Wish
from siamese_diffusion.webapp.parts import note, plain
from siamese_diffusion.webapp.shown import looked_at
from siamese_diffusion.webapp.workspace import pick

PAGE = 48
"""Pairs that are shown at once."""
ALL = "all"
LOOK, DROP = "shows it large", "drops it, or takes it back"
LARGE = 420


class PairsTab:
    """Its components, and what happens when they are used."""

    def __init__(self, context: Context, tab: Any) -> None:
        self.context, self.tab = context, tab
        self.folders = context.workspace.pair_folders
        self.empty = gr.HTML("", visible=False)
        with gr.Column() as self.all:
            self._choice()
            with gr.Row(equal_height=False):
                with gr.Column(scale=7, min_width=320):
                    self._gallery()
                with gr.Column(scale=4, min_width=320, visible=False, elem_id="one-pair") as self.one:
                    self._one()
            self._writing()
        self._events()

    def _choice(self) -> None:
        with gr.Row():
            self.folder = gr.Dropdown([], label="Folder", interactive=True, min_width=200)
            orders = [(words, name) for name, (words, _) in SORTS.items()]
            self.sort = gr.Dropdown(orders, value="name", label="Order", interactive=True, min_width=200)
            self.flagged = gr.Dropdown(
                [(words, name) for name, words in FLAGGED.items()],
                value="all",
                label="Copies",
                interactive=True,
                min_width=200,
            )
            self.group = gr.Dropdown([ALL], value=ALL, label="Group", interactive=True, min_width=120)
            self.label = gr.Dropdown([ALL], value=ALL, label="Class", interactive=True, min_width=120)
        with gr.Row() as self.bounds:
            self.min_dice = gr.Slider(0, 1, 0, step=0.01, label="Mask fit (Dice) at least", min_width=180)
            self.max_boundary = gr.Slider(
                0, 1, 1, step=0.005, label="Outlines apart at most (share of the diagonal)", min_width=180
            )

    def _gallery(self) -> None:
        self.told = gr.HTML("", elem_id="pairs-told")
        with gr.Row():
            self.click = gr.Radio([LOOK, DROP], value=LOOK, label="A click on a pair", min_width=260)
            self.outlines = gr.Checkbox(True, label="Outlines of the masks", min_width=160)
        self.gallery = gr.Gallery(
            show_label=False,
            columns=8,
            height="auto",
            allow_preview=False,
            buttons=[],
            elem_id="pairs-gallery",
            format="jpeg",
        )
        self.at = gr.Number(0, visible=False, precision=0)
        with gr.Row():
            self.before = gr.Button("Earlier pairs", size="sm", min_width=100)
            self.after = gr.Button("Further pairs", size="sm", min_width=100)

    def _writing(self) -> None:
        with gr.Row():
            self.name = gr.Textbox(
                "good-pairs", label="Name of the folder", max_length=64, scale=3, elem_id="subset-name", min_width=160
            )
            self.write = gr.Button("Write the subset", variant="primary", scale=1, min_width=140)
        self.anyway = gr.Checkbox(
            False, label="Choose by mask fit even where it is no better than chance", container=False, visible=False
        )
        self.written = gr.HTML("", elem_id="written")

    def _one(self) -> None:
        self.shown = gr.Textbox("", visible=False)
        with gr.Row():
            self.pair = gr.Image(
                label="The pair", interactive=False, buttons=["fullscreen"], format="png", min_width=150
            )
            self.nearest = gr.Image(
                label="Nearest real image", interactive=False, buttons=["fullscreen"], format="png", min_width=150
            )
        self.dropped = gr.Checkbox(False, label="Drop this pair", elem_id="drop-this")
        self.facts = gr.Markdown("")

    def _events(self) -> None:
        wish = [self.sort, self.min_dice, self.max_boundary, self.flagged, self.group, self.label]
        self.asked = [self.tab, self.folder, *wish]
        page = [self.told, self.gallery, self.at]
        whole = [
            *page,
            self.group,
            self.label,
            self.bounds,
            self.flagged,
            self.sort,
            self.anyway,
            self.one,
            self.min_dice,
            self.max_boundary,
        ]
        self.restored = [self.empty, self.all, self.folder, *whole]
        self.folder.input(
            plain(self.on_folder), [self.tab, self.folder], whole, show_progress="hidden", trigger_mode="always_last"
        )
        for each in wish:
            each.input(
                plain(self.on_wish),
                [*self.asked, self.outlines],
                page,
                show_progress="hidden",
                trigger_mode="always_last",
            )
        self.outlines.input(
            plain(self.on_move(0)),
            [*self.asked, self.outlines, self.at],
            page,
            show_progress="hidden",
            trigger_mode="always_last",
        )
        self.before.click(
            plain(self.on_move(-PAGE)), [*self.asked, self.outlines, self.at], page, show_progress="hidden"
        )
        self.after.click(plain(self.on_move(PAGE)), [*self.asked, self.outlines, self.at], page, show_progress="hidden")
        one = [self.one, self.shown, self.facts, self.dropped, self.pair, self.nearest]
        self.gallery.select(
            plain(self.on_click),
            [*self.asked, self.outlines, self.at, self.click],
            [*page, *one],
            show_progress="hidden",
            trigger_mode="multiple",  # a click while the last one is at work counts too
        )
        self.dropped.input(
            plain(self.on_drop),
            [*self.asked, self.outlines, self.at, self.shown, self.dropped],
            page,
            show_progress="hidden",
            trigger_mode="always_last",
        )
        self.write.click(
            plain(self.on_write), [*self.asked, self.anyway, self.name], self.written, show_progress="minimal"
        )

    def on_select(self, tab: str, folder: str | None) -> dict[Any, Any]:
        """The folders there are now; the one that is looked through stays."""
        folders = self.folders()
        if folder in folders:
            return {self.folder: gr.update(choices=list(folders))}
        if not folders:
            return {
                self.empty: gr.update(
                    visible=True,
                    value=note(
                        "There are no pairs yet. Save some in the tab Draw, or start the page with --pairs FOLDER, and "
                        "with --scores FOLDER of `evaluate` to sort them by mask fit and likeness to real images."
                    ),
                ),
                self.all: gr.update(visible=False),
            }
        first = next(iter(folders))
        return {
            self.empty: gr.update(visible=False),
            self.all: gr.update(visible=True),
            self.folder: gr.update(choices=list(folders), value=first),
            **self.on_folder(tab, first),
        }

    def on_folder(self, tab: str, folder: str) -> dict[Any, Any]:
        found = self._set(folder)
        groups, labels, scored = found.groups, found.labels, found.scores is not None
        return {
            **self._page(tab, folder, found, Wish(), True, 0),
            self.group: gr.update(choices=[ALL, *groups], value=ALL, visible=bool(groups)),
            self.label: gr.update(choices=[ALL, *labels], value=ALL, visible=len(labels) > 1),
            self.bounds: gr.update(visible=scored),
            self.flagged: gr.update(value="all", visible=scored),
            self.sort: gr.update(value="name", visible=scored),
            self.min_dice: 0,
            self.max_boundary: 1,
            self.anyway: gr.update(visible=scored),
            self.one: gr.update(visible=False),
        }

    def on_wish(self, tab: str, folder: str, *rest: Any) -> dict[Any, Any]:
        return self._page(tab, folder, self._set(folder), _wish(rest[:6]), rest[6], 0)

    def on_move(self, by: int) -> Any:
        def move(tab: str, folder: str, *rest: Any) -> dict[Any, Any]:
            return self._page(tab, folder, self._set(folder), _wish(rest[:6]), rest[6], int(rest[7]) + by)

        return move

    def on_click(
        self,
        tab: str,
        folder: str,
        sort: str,
        min_dice: float,
        max_boundary: float,
        flagged: str,
        group: str,
        label: str,
        outlines: bool,
        at: float,
        click: str,
        chosen: gr.SelectData,
    ) -> dict[Any, Any]:
        """Show the pair that was clicked on, or drop it."""
        wish = _wish((sort, min_dice, max_boundary, flagged, group, label))
        found = self._set(folder)
        shown = found.view(wish)[int(at) : int(at) + PAGE]
        if int(chosen.index) >= len(shown):
            raise InputError("this pair is not there any more; load the page again")
        entry = shown[int(chosen.index)]
        if click == DROP:
            self._set_dropped(tab, folder, entry.name, entry.name not in self._dropped(tab, folder))
            return self._page(tab, folder, found, wish, outlines, int(at))
        return self._large(tab, folder, found, entry)

    def on_drop(self, tab: str, folder: str, *rest: Any) -> dict[Any, Any]:
        found = self._set(folder)
        outlines, at, name, dropped = rest[6:]
        if name not in found.by_name:
            raise InputError("this pair is not there any more; load the page again")
        self._set_dropped(tab, folder, name, dropped)
        return self._page(tab, folder, found, _wish(rest[:6]), outlines, int(at))

    def on_write(self, tab: str, folder: str, *rest: Any) -> str:
        """Write what is shown and not dropped."""
        found, out = self._set(folder), self.context.workspace.new_pairs(rest[7])
        result = found.write(out, _wish(rest[:6]), self._dropped(tab, folder), bool(rest[6]))
        dice = "" if result["dice"] is None else f", mean Dice {result['dice']:.3f}"
        return (
            f"<p class='told'>{result['kept']} of {result['pairs']} pairs written{dice}: "
            f"<code>{html.escape(str(out.resolve()))}</code></p>"
        )

    def _set(self, folder: str) -> PairSet:
        path: Path = pick(self.folders(), folder, "folder of pairs")
        return self.context.pair_set(path)

    def _dropped(self, tab: str, folder: str) -> list[str]:
        dropped: Mapping[str, list[str]] = self.context.workspace.desk(tab).state()["settings"].get("dropped", {})
        return [name for name in dropped.get(folder, []) if name in self._set(folder).by_name]

    def _set_dropped(self, tab: str, folder: str, name: str, dropped: bool) -> None:
        desk = self.context.workspace.desk(tab)
        before: dict[str, list[str]] = desk.state()["settings"].get("dropped", {})
        names = [each for each in before.get(folder, []) if each != name] + [name] * bool(dropped)
        desk.set(dropped={**before, folder: names})

    def _page(self, tab: str, folder: str, found: PairSet, wish: Wish, outlines: bool, at: int) -> dict[Any, Any]:
        view = found.view(wish)
        at = max(0, min(at, (len(view) - 1) // PAGE * PAGE if view else 0))
        shown = view[at : at + PAGE]
        dropped = self._dropped(tab, folder)
        pictures = self.context.thumbnails([entry.pair for entry in shown], outlines)
        tiles = [
            (_crossed(picture) if entry.name in dropped else picture, _caption(entry))
            for entry, picture in zip(shown, pictures, strict=True)
        ]
        gone = sum(entry.name in dropped for entry in view)
        which = f"{at + 1} to {at + len(shown)} of {len(view)}" if view else "none"
        few = "" if len(view) == len(found.entries) else f" ({len(found.entries)} in the folder)"
        text = f"Pairs {which}{few}. {gone} dropped by hand, so {len(view) - gone} would be written."
        text += " The figures are Dice." if found.scores is not None else ""
        return {self.told: note(text), self.gallery: tiles, self.at: at}

    def _large(self, tab: str, folder: str, found: PairSet, entry: Entry) -> dict[Any, Any]:
        image, mask = entry.pair.read()
        real = found.real().get(entry.nearest) if entry.nearest is not None else None
        beside = None if real is None else looked_at(_flipped(real.image.read(), entry.flip), side=LARGE)
        label = "Nearest real image" + ("" if entry.flip == "none" else ", flipped")
        return {
            self.one: gr.update(visible=True),
            self.shown: entry.name,
            self.facts: _facts(entry),
            self.dropped: entry.name in self._dropped(tab, folder),
            self.pair: looked_at(image, mask, side=LARGE),
            self.nearest: gr.update(value=beside, visible=beside is not None, label=label),
        }


def _wish(values: Sequence[Any]) -> Wish:
    sort, min_dice, max_boundary, flagged, group, label = values
    return Wish(
        sort,
        float(min_dice) if min_dice > 0 else None,
        float(max_boundary) if max_boundary < 1 else None,
        flagged,
        None if group in (ALL, None) else group,
        None if label in (ALL, None) else label,
    )


def _caption(entry: Entry) -> str:
    copy = " copy?" if entry.flagged else ""
    return f"{entry.dice:.2f}{copy}" if entry.dice is not None else ""


def _facts(entry: Entry) -> str:
    lines = [f"### {entry.name}"]
    if entry.dice is not None and entry.boundary is not None:
        lines.append(f"Mask fit: Dice {entry.dice:.3f}, outlines {100 * entry.boundary:.1f} % of the diagonal apart.")
    if entry.distance is not None:
        verdict = "**flagged as a copy**" if entry.flagged else "not flagged"
        lines.append(
            f"Nearest real image: {entry.nearest}, score {entry.distance:.2f}, {verdict} (below 1 is flagged)."
        )
    origin = {name: entry.pair.extra[name] for name in ("source_mask", "seed", "method") if name in entry.pair.extra}
    lines.append(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in origin.items()))
    return "\n\n".join(line for line in lines if line)


def _crossed(picture: Pixels) -> Pixels:
    """A dropped pair: dim, with a red cross."""
    import cv2

    dim = (picture * 0.35 + 60).astype(np.uint8)
    height, width = dim.shape[:2]
    red, width_of_line = (225, 60, 60), max(3, height // 40)
    cv2.line(dim, (8, 8), (width - 8, height - 8), red, width_of_line, cv2.LINE_AA)
    cv2.line(dim, (width - 8, 8), (8, height - 8), red, width_of_line, cv2.LINE_AA)
    return dim


def _flipped(image: Pixels, flip: str) -> Pixels:
    """As the training image is nearest: `flip` is a name of `evaluation.features.FLIP_NAMES`."""
    from siamese_diffusion.evaluation.features import FLIP_NAMES, FLIPS

    axes = dict(zip(FLIP_NAMES, FLIPS, strict=True)).get(flip, ())
    return np.ascontiguousarray(np.flip(image.transpose(2, 0, 1), axes).transpose(1, 2, 0)) if axes else image
