"""Hook of mkdocs: the pages' LaTeX becomes outlines in SVG, which every browser draws alike, offline.

GitHub draws the same LaTeX itself: blocks fenced as `math`, and what stands between $` and `$.
"""

import re
from html import escape
from typing import Any

from matplotlib import rc_context
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import text_to_path

BLOCK = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"\$`(.+?)`\$")
EM = text_to_path.FONT_SCALE
"""Units of an em: outlines are scaled with the text around them."""
LETTER = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its formulas drawn."""
    markdown = BLOCK.sub(lambda found: f'<div class="formula">{_svg(found[1])}</div>\n', markdown)
    return INLINE.sub(lambda found: f"<span>{_svg(found[1])}</span>", markdown)


def _svg(latex: str) -> str:
    latex = " ".join(latex.split())
    font, text = FontProperties(size=EM), f"${latex}$"
    with rc_context({"mathtext.fontset": "cm"}):
        width, height, below = text_to_path.get_text_width_height_descent(text, font, ismath=True)
        vertices, codes = text_to_path.get_text_path(font, text, ismath=True)
    segments = Path(vertices, codes).iter_segments(simplify=False)
    outline = "".join(f"{LETTER[code]}{_points(at)}" if code in LETTER else "Z" for at, code in segments)
    return (
        f'<svg class="math" role="img" aria-label="{escape(latex)}" '
        f'viewBox="0 {below - height:.0f} {width:.0f} {height:.0f}" '
        f'style="width:{width / EM:.2f}em;height:{height / EM:.2f}em;vertical-align:{-below / EM:.2f}em">'
        f'<path fill="currentColor" d="{outline}"/></svg>'
    )


def _points(at: Any) -> str:
    return " ".join(f"{x:.0f} {-y:.0f}" for x, y in zip(at[::2], at[1::2], strict=True))
