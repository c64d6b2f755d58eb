"""Figures of the needle test and of the probes as SVG, in the house's style (``figure.py``). Pure: rows in, text out.

Every function takes the ``rows`` of its file: ``needle.json``, ``suppression.json``, ``prefix_noise.json``, ``influence.json``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from refocus_video.evaluate.figure import BLUE, INK, LEGEND, MUTED, RULE, dress, new_figure, percent_axis, to_svg
from refocus_video.evaluate.plots import Row, style_of

_ARMS = {
    "top": ("most-selected segments blurred", "#D55E00", "o", "-"),
    "random": ("random segments blurred", "#8A8A8A", "s", "--"),
    "first": ("random frames first, then the policy", "#0072B2", "o", "-"),
    "last": ("the policy first, then random frames", "#8A8A8A", "s", "--"),
}


def heat_map(rows: Sequence[Row], value: str = "recall") -> str:
    """How often the needle was found, by number of candidates and depth: a panel for every selector and budget.

    Args:
        rows: one for each selector, budget, length and depth.
        value: ``recall`` or ``accuracy``; panels are left out where it is not known.

    Returns:
        An ``<svg>`` element; an empty text if there is nothing to draw.
    """
    known = [row for row in rows if row[value] is not None]
    if not known:
        return ""
    selectors, budgets = _distinct(known, "selector"), sorted(_distinct(known, "budget"))
    lengths, depths = sorted(_distinct(known, "length")), sorted(_distinct(known, "depth"))
    height = len(budgets) * (70 + 26 * len(depths)) + 50
    figure = new_figure(height)
    grid = figure.subplots(len(budgets), len(selectors), squeeze=False)
    for budget, panels in zip(budgets, grid, strict=True):
        for selector, axes in zip(selectors, panels, strict=True):
            cells = {
                (r["length"], r["depth"]): r[value] for r in known if (r["selector"], r["budget"]) == (selector, budget)
            }
            dress(axes, f"{style_of(selector, selectors).label}, {budget} frame{'s' * (budget > 1)}")
            _cells(axes, cells, lengths, depths)
    what = "share of the needle's frames picked" if value == "recall" else "share of right answers"
    figure.supxlabel(f"candidate frames     (numbers: {what})", fontsize=12, color=MUTED)
    figure.supylabel("depth of the needle", fontsize=12, color=MUTED)
    return to_svg(figure, f"needle-{value}")


def _cells(
    axes: Any, cells: Mapping[tuple[int, float], float], lengths: Sequence[int], depths: Sequence[float]
) -> None:
    from matplotlib import colormaps

    # From almost white to the house's blue; the number keeps a cell readable without colours.
    shades = colormaps["Blues"]
    for (length, depth), value in cells.items():
        x, y = lengths.index(length), depths.index(depth)
        axes.fill_between([x - 0.48, x + 0.48], y - 0.47, y + 0.47, color=shades(0.05 + 0.85 * value), linewidth=0)
        ink = "#ffffff" if value > 0.6 else "#1a1a1a"
        shown = "1" if value > 0.995 else f"{value:.2f}"[1:]
        axes.text(x, y, shown, ha="center", va="center", fontsize=11, color=ink)
    axes.set_xticks(range(len(lengths)), [str(length) for length in lengths])
    axes.set_yticks(range(len(depths)), [f"{depth:g} %" for depth in depths])
    axes.set_xlim(-0.5, len(lengths) - 0.5)
    axes.set_ylim(len(depths) - 0.5, -0.5)
    axes.grid(False)


def suppression_curves(rows: Sequence[Row]) -> str:
    """Accuracy against the number of blurred segments: the most-selected ones, and random ones."""
    return _arms(rows, "k", "blurred segments     (bands: 95 % interval)", "suppression")


def prefix_noise_curves(rows: Sequence[Row]) -> str:
    """Accuracy against the number of random frames among those shown: picked first, and added last."""
    return _arms(rows, "m", "random frames among those shown     (bands: 95 % interval)", "prefix-noise")


def _arms(rows: Sequence[Row], along: str, label: str, name: str) -> str:
    if not rows:
        return ""
    known = [value for value in ("accuracy", "recall") if any(row.get(value) is not None for row in rows)]
    figure = new_figure(330)
    for axes, value in zip(figure.subplots(1, len(known), squeeze=False)[0], known, strict=True):
        dress(axes, "Accuracy" if value == "accuracy" else "Evidence recall")
        for arm in _distinct(rows, "arm"):
            points = [row for row in rows if row["arm"] == arm and row[value] is not None]
            text, colour, marker, dash = _ARMS.get(arm, (arm, "#009E73", "d", ":"))
            look = {"color": colour, "zorder": 3 if dash == "-" else 2}
            x, y = [row[along] for row in points], [row[value] for row in points]
            low, high = _ends(points, value)
            axes.plot(x, y, dash, marker=marker, markersize=5, linewidth=2.4, label=text, **look)
            axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
        axes.set_xticks(sorted(_distinct(rows, along)))
        axes.set_ylim(-0.02, 1.03)
        percent_axis(axes)
        handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), **LEGEND)
    figure.supxlabel(label, fontsize=12, color=MUTED)
    return to_svg(figure, name)


def influence_bars(rows: Sequence[Row]) -> str:
    """What the margin loses without a frame, by the rank at which it was picked, with intervals."""
    ranked = [row for row in rows if row["group"] == "all" and row["rank"] and row["influence"] is not None]
    if not ranked:
        return ""
    figure = new_figure(300)
    left, right = figure.subplots(1, 2)
    dress(left, "Margin lost without the frame")
    ranks, values = [row["rank"] for row in ranked], [row["influence"] for row in ranked]
    low, high = _ends(ranked, "influence")
    left.bar(ranks, values, width=0.62, color=BLUE, zorder=2)
    left.vlines(ranks, low, high, color=INK, linewidth=1.4, zorder=3)
    left.axhline(0, color=RULE, linewidth=1)
    dress(right, "Answers that turn wrong without it")
    right.bar(ranks, [row["flipped"] for row in ranked], width=0.62, color="#D55E00", zorder=2)
    right.set_ylim(0, max(0.1, *(row["flipped"] * 1.1 for row in ranked)))
    percent_axis(right)
    for axes in (left, right):
        axes.set_xticks(ranks)
    figure.supxlabel("picked as number     (lines at the left: 95 % interval)", fontsize=12, color=MUTED)
    return to_svg(figure, "influence")


FIGURES: Mapping[str, Callable[[Sequence[Row]], str]] = {
    "needle": heat_map,
    "suppression": suppression_curves,
    "prefix_noise": prefix_noise_curves,
    "influence": influence_bars,
}
"""The figure of a file by its ``kind``."""


def standalone(svg: str) -> str:
    """The same figure as a file of its own: dark on white, whatever shows it."""
    style = "background:#fff;color:#1b1b1b;--muted:#666;--rule:#ddd;font-family:system-ui,'DejaVu Sans',sans-serif"
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return head + svg.replace("<svg", f'<svg xmlns="http://www.w3.org/2000/svg" style="{style}"', 1) + "\n"


def _ends(rows: Sequence[Row], value: str) -> tuple[list[float], list[float]]:
    """Low and high ends of intervals; the value itself where there is none."""
    low, high = (
        [row[f"{value}_{end}"] if row[f"{value}_{end}"] is not None else row[value] for row in rows]
        for end in ("low", "high")
    )
    return low, high


def _distinct(rows: Sequence[Row], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))
