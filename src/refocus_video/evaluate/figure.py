"""What every figure of a page is drawn with: an inline SVG that is light or dark as the page is.

The text and rules of a figure take the colours of the page around it (``currentColor`` and the CSS variables
``--muted``, ``--rule``, and ``--blue``, which a dark page needs lighter).
"""

import io
import re
from typing import Any

INK, MUTED, RULE = "#010203", "#020304", "#030405"
"""Text, lesser text and lines: stand-ins, replaced by CSS colours in the finished SVG."""
BLUE = "#0072B2"
"""The house's blue, the policy's."""
_THEMED = {
    INK: "currentColor",
    MUTED: "var(--muted, #777)",
    RULE: "var(--rule, #8884)",
    BLUE: "var(--blue, #0072B2)",
}
_WIDTH = 1060  # of a figure in CSS pixels; one matplotlib point is one pixel

LEGEND: dict[str, Any] = {
    "frameon": False,
    "fontsize": 12,
    "labelcolor": INK,
    "handlelength": 1.8,
    "columnspacing": 1.4,
}
"""How a legend looks: what matplotlib's ``legend`` takes."""


def new_figure(height: int) -> Any:
    """An empty figure of the page's width, ``height`` pixels high."""
    # The object interface: pyplot keeps every figure in a global list.
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(h_pad=7 / 72, w_pad=7 / 72)
    return Figure(figsize=(_WIDTH / 72, height / 72), layout=layout)


def dress(axes: Any, title: str) -> None:
    """Give axes their title and the house's quiet rules."""
    axes.set_title(title, loc="left", fontsize=13, color=INK, fontweight="bold")
    axes.tick_params(labelsize=11, colors=MUTED, length=0)
    axes.grid(True, color=RULE, linewidth=0.8)
    axes.set_facecolor("none")
    axes.margins(x=0.03)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(RULE)


def percent_axis(axes: Any) -> None:
    """Write the vertical axis, shares of 1, in percent."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.02), min(high, 1.03))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))


def to_svg(figure: Any, name: str) -> str:
    """The figure as one element that scales with the page, with numbers rounded to a tenth of a pixel."""
    import matplotlib

    # Real text, not outlines; and ids that are the same in every run.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), io.StringIO() as buffer:
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")  # not needed inside a page
    text = re.sub(r'<g id="[^"]*"(/?)>', r"<g\1>", text)  # names of groups would repeat on a page with two plots
    size = r'width="[\d.]+pt" height="[\d.]+pt"'
    text = re.sub(size, f'class="plot" role="img" aria-label="curves: {name}"', text, count=1)
    text = re.sub(r"-?\d+\.\d{2,}", lambda found: f"{float(found[0]):.1f}", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    for colour in _THEMED:
        text = text.replace(colour.lower(), css_colour(colour))
    return re.sub(r"\s*\n\s*", "\n", text).strip()


def css_colour(colour: str) -> str:
    """The colour as CSS takes it: one of the page's own where it has one."""
    return _THEMED.get(colour, colour)
