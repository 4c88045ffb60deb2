"""The page as a whole: its head, its tabs, and what happens as it is loaded."""

import html
from collections.abc import Iterator
from typing import Any

import gradio as gr

from siamese_diffusion.webapp.context import Context
from siamese_diffusion.webapp.data_tab import DataTab
from siamese_diffusion.webapp.draw_tab import DrawTab
from siamese_diffusion.webapp.pairs_tab import PairsTab
from siamese_diffusion.webapp.parts import plain, plain_stream
from siamese_diffusion.webapp.rate_tab import RateTab
from siamese_diffusion.webapp.runs_tab import RunsTab
from siamese_diffusion.webapp.segment_tab import SegmentTab

FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
"""Fonts of the reader's own system: none is fetched."""

TAB = """() => {
  const key = "siamese-diffusion-tab";
  let name = sessionStorage.getItem(key) || "";
  if (!/^[0-9a-f]{12}$/.test(name)) {
    name = [...crypto.getRandomValues(new Uint8Array(6))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    sessionStorage.setItem(key, name);
  }
  return name;
}"""
"""The name of a browser tab, which stays when it is loaded again; gradio keeps none that tells two tabs apart."""


def theme() -> Any:
    """Colours and fonts."""
    return gr.themes.Soft(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        font=FONT,
        font_mono=["monospace"],
        radius_size=gr.themes.sizes.radius_md,
    ).set(
        block_title_background_fill="none",
        block_title_text_color="*neutral_600",
        block_title_text_weight="500",
        block_title_padding="0",
        block_label_background_fill="*background_fill_primary",
        block_label_text_color="*neutral_600",
        block_shadow="none",
        body_background_fill="*background_fill_primary",
        block_border_width="1px",
    )


def build(context: Context) -> Any:
    """The page, as `gr.Blocks`."""
    with gr.Blocks(title="Siamese-Diffusion", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        tab = gr.Textbox("", visible=False)
        gr.HTML(_head(context), elem_id="title")
        with gr.Tabs():
            with gr.Tab("Draw", id="draw"):
                draw = DrawTab(context, tab)
            with gr.Tab("Pairs", id="pairs") as pairs_shown:
                pairs = PairsTab(context, tab)
            with gr.Tab("Data", id="data"):
                data = DataTab(context, tab)
            with gr.Tab("Segment", id="segment"):
                segment = SegmentTab(context, tab)
            with gr.Tab("Runs", id="runs"):
                runs = RunsTab(context)
            with gr.Tab("Rate", id="rate") as rate_shown:
                rate = RateTab(context, tab)

        def restore(name: str) -> Iterator[dict[Any, Any]]:
            yield {tab: name}
            yield from draw.on_load(name)

        quiet = {"show_progress": "hidden", "concurrency_limit": None}
        page.load(plain_stream(restore), tab, [tab, *draw.restored], js=TAB, **quiet)
        page.load(plain(data.on_load), None, data.restored, **quiet)
        page.load(plain(rate.on_load), tab, rate.restored, js=TAB, **quiet)
        if segment.restored:
            page.load(plain(segment.on_load), tab, segment.restored, js=TAB, **quiet)
        if runs.restored:
            page.load(plain(runs.on_load), None, runs.restored, **quiet)
        pairs_shown.select(plain(pairs.on_select), [tab, pairs.folder], pairs.restored, **quiet)
        rate_shown.select(plain(rate.on_select), [rate.study, rate.synthetic], rate.restored, **quiet)
    return page


def _head(context: Context) -> str:
    models = context.workspace.models()
    label = next(iter(models))
    model = label if models[label] is None else f"the run {label}"
    made_up = " Everything you see is made up: no patient's image is in it." if context.workspace.made_up else ""
    return (
        "<h1>Siamese-Diffusion</h1><p>Paint a lesion, see images of it, keep the good ones. "
        f"Drawing with {html.escape(model)}.{made_up}</p>"
    )
