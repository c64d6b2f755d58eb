"""Curves of training and evaluation, and how each selector is drawn.

Lines keep one colour per selector everywhere: the palette of Okabe and Ito, which stays distinct for colour-blind readers,
with a marker and a dash of its own for each as well.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refocus_video.evaluate.figure import BLUE, INK, LEGEND, MUTED, dress, new_figure, percent_axis, to_svg
from refocus_video.types import FloatArray

Row = Mapping[str, Any]

_MOST_RAW = 400  # single steps drawn per line; more would only add bytes


@dataclass(frozen=True, slots=True)
class Style:
    """How a selector is named and drawn, everywhere."""

    label: str
    meaning: str
    colour: str
    marker: str = "o"
    dash: str = "-"
    """One of ``-``, ``--``, ``-.`` and ``:``."""


STYLES: dict[str, Style] = {
    "policy": Style("policy", "the trained policy, most probable frames", BLUE),
    "policy-sampled": Style("policy, sampled", "the trained policy, frames drawn at random from it", "#56B4E9", "D"),
    "uniform": Style("uniform", "evenly spaced frames, whatever is asked", "#8A8A8A", "s"),
    "random": Style("random", "frames drawn at random", "#C9A227", "v", ":"),
    "query-blind": Style("query-blind", "control: one frame of each event, whatever is asked", "#CC79A7", "^", "--"),
    "wrong-question": Style("wrong question", "control: the policy is asked something else", "#D55E00", "X", "--"),
    "oracle": Style("oracle", "control: knows where the evidence is", "#009E73", "P", "-."),
}
_OTHERS = (
    ("#AA4499", "d", "-"), ("#8C8C2A", "<", "--"), ("#2A9D8F", ">", "-"), ("#E07A5F", "p", "-."),
    ("#7A6FD0", "h", "-"), ("#5C9E31", "*", "--"), ("#C2577B", "8", ":"), ("#6B93C4", "H", "-."),
    ("#9C6B4A", "d", "--"), ("#D98C2B", ">", "-"), ("#3F8F5F", "<", ":"), ("#B07CC6", "p", "--"),
    ("#A23B3B", "h", "-."), ("#1F7A8C", "*", "-"), ("#D46AB0", "H", "--"), ("#7D8F00", "8", "-"),
)  # fmt: skip
"""For selectors without a style of their own: colour, marker and dash, no two alike."""
_TYPES = (BLUE, "#D55E00", "#009E73", "#CC79A7")


def style_of(selector: str, others: Sequence[str] = ()) -> Style:
    """The style of a selector; one that is not in :data:`STYLES` takes the next free look, by its place among ``others``."""
    if selector in STYLES:
        return STYLES[selector]
    unknown = [name for name in dict.fromkeys(others) if name not in STYLES]
    place = unknown.index(selector) if selector in unknown else 0
    return Style(selector, "", *_OTHERS[place % len(_OTHERS)])


def running_mean(values: FloatArray, window: int) -> FloatArray:
    """Centred mean over ``window`` neighbours, (N,) -> (N,); fewer at both ends."""
    total = np.concatenate(([0.0], np.cumsum(values)))
    places, half = np.arange(len(values)), window // 2
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return np.asarray((total[high] - total[low]) / (high - low), dtype=np.float64)


def training_curves(history: Sequence[Row], entropy_target: Sequence[float] | None = None) -> str:
    """Reward, accuracy, evidence recall, entropy, distinct subsets and dead groups against the step.

    Args:
        history: one row of numbers for each step; a key that no row has leaves its panel out.
        entropy_target: in nats, one for each row of ``history``.

    Returns:
        An ``<svg>`` element; an empty text if there is nothing to draw.
    """
    keys = list(dict.fromkeys(key for row in history for key in row))
    panels = [
        ("Reward", ["reward"]),
        ("Accuracy of sampled subsets", [k for k in keys if k.startswith("accuracy/")] or ["accuracy"]),
        ("Evidence recall", [k for k in keys if k.startswith("recall/")] or ["recall"]),
        ("Entropy per pick (nats)", ["entropy"]),
        ("Distinct subsets in a group", ["distinct_subsets"]),
        ("Groups without reward spread", ["frac_reward_zero_std"]),
    ]
    panels = [(title, [k for k in names if k in keys]) for title, names in panels]
    panels = [(title, names) for title, names in panels if names]
    if not panels:
        return ""
    window = max(5, len(history) // 25) | 1
    stride = -(-len(history) // _MOST_RAW)
    figure = new_figure(235 * -(-len(panels) // 3) + 20)
    columns = min(3, len(panels))
    for number, (title, names) in enumerate(panels, 1):
        axes = figure.add_subplot(-(-len(panels) // columns), columns, number)
        dress(axes, title)
        for place, name in enumerate(names):
            colour = _TYPES[place % len(_TYPES)]
            _raw_and_mean(axes, history, name, colour, window, stride)
        if names == ["entropy"] and entropy_target is not None:
            axes.plot([r["step"] for r in history], entropy_target, "--", color=INK, linewidth=1.2, label="target")
            axes.legend(**LEGEND)
        if len(names) > 1:
            axes.legend(**LEGEND)
        if not names[0].startswith(("entropy", "reward")):
            percent_axis(axes)
    every = "single steps" if stride == 1 else f"one step in {stride}"
    figure.supxlabel(f"training step     (faint: {every}; line: mean over {window} steps)", fontsize=12, color=MUTED)
    return to_svg(figure, "training")


def _raw_and_mean(axes: Any, history: Sequence[Row], name: str, colour: str, window: int, stride: int) -> None:
    # A step without questions of a type has no number for it: each line runs over its own steps.
    points = [(row["step"], row[name]) for row in history if row.get(name) is not None]
    steps, values = np.array(points, dtype=np.float64).T
    axes.plot(steps[::stride], values[::stride], color=colour, alpha=0.22, linewidth=0.8)
    axes.plot(steps, running_mean(values, window), color=colour, linewidth=2, label=name.partition("/")[2] or name)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a panel: what :func:`curves` draws."""

    style: Style
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    """Of an interval around every point; none is drawn if empty."""
    high: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes."""

    title: str
    lines: Sequence[Line]
    level: float | None = None
    """Drawn as a dotted line called guessing."""


def budget_curves(lines: Sequence[Row], guessing: float | None = None) -> str:
    """Accuracy and evidence recall against the budget, a column for each question type, with interval bands.

    Args:
        lines: what :func:`refocus_video.evaluate.metrics.summarise` gives.
        guessing: accuracy of blind guessing, drawn as a line.

    Returns:
        An ``<svg>`` element; an empty text if there are no lines.
    """
    kinds = list(dict.fromkeys(line["question_type"] for line in lines))
    names = [n for n in ("accuracy", "recall") if any(line[n] is not None for line in lines)]
    panels = [budget_panel(lines, name, kind, guessing) for name in names for kind in kinds]
    return curves(
        panels,
        columns=len(kinds),
        name="budgets",
        along="frames given to the answering model     (bands: 95 % interval)",
        ticks=sorted({line["budget"] for line in lines}),
        limits=(-0.02, 1.03),
    )


def budget_panel(
    lines: Sequence[Row],
    name: str,
    kind: str,
    guessing: float | None = None,
    banded: Collection[str] | None = None,
    title: str = "",
) -> Panel:
    """Accuracy or recall of every selector against the budget.

    Args:
        lines: as for :func:`budget_curves`.
        name: ``accuracy`` or ``recall``.
        kind: question type.
        guessing: drawn with accuracy only.
        banded: the selectors drawn with their interval; None for all.
        title: in place of one made of ``name`` and ``kind``.
    """
    own = [line for line in lines if line["question_type"] == kind and line[name] is not None]
    selectors = list(dict.fromkeys(line["selector"] for line in lines))
    drawn = []
    for place, selector in enumerate(selectors):
        points = [line for line in own if line["selector"] == selector]
        # Intervals of one budget only would hide each other.
        shift = 0.04 * (place - (len(selectors) - 1) / 2) if len({line["budget"] for line in lines}) == 1 else 0.0
        ends = [
            [line[f"{name}_{end}"] if line[f"{name}_{end}"] is not None else line[name] for line in points]
            for end in (("low", "high") if banded is None or selector in banded else ())
        ]
        x, y = [line["budget"] * 2**shift for line in points], [line[name] for line in points]
        if points:
            drawn.append(Line(style_of(selector, selectors), x, y, *ends))
    what = "Accuracy" if name == "accuracy" else "Evidence recall"
    return Panel(
        title or f"{what}, {'all questions' if kind == 'all' else kind}",
        drawn,
        guessing if name == "accuracy" else None,
    )


def curves(
    panels: Sequence[Panel],
    *,
    columns: int,
    name: str,
    along: str,
    ticks: Sequence[int] = (),
    limits: tuple[float, float] | None = None,
    legend: bool = True,
    height: int = 290,
    shared: bool = True,
) -> str:
    """Panels of lines over one horizontal axis.

    Args:
        panels: in reading order.
        columns: panels in a row.
        name: of the figure, without spaces.
        along: what the horizontal axis is.
        ticks: of a logarithmic horizontal axis; an even one if empty.
        limits: of the vertical axis, in shares of 1; what the lines need if None.
        legend: whether one is drawn on top.
        height: of a row in pixels.
        shared: whether the panels of a row have one vertical axis.

    Returns:
        An ``<svg>`` element; an empty text if there are no panels.
    """
    if not panels:
        return ""
    rows = -(-len(panels) // columns)
    figure = new_figure(height * rows + 40)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey="row" if shared else "none").ravel()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for panel, axes in zip(panels, grid, strict=False):
        dress(axes, panel.title)
        for line in panel.lines:
            _line(axes, line)
        if panel.level is not None:
            axes.axhline(panel.level, color=MUTED, linestyle=(0, (1, 2)), linewidth=1.2, label="guessing")
        if ticks:
            axes.set_xscale("log", base=2)
            axes.set_xticks(list(ticks), [str(tick) for tick in ticks])
            axes.minorticks_off()
        axes.tick_params(labelbottom=True)
        if limits is not None:
            axes.set_ylim(*limits)
    for axes in grid[: len(panels)]:
        percent_axis(axes)
    if legend:
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 8), **LEGEND)
    figure.supxlabel(along, fontsize=12, color=MUTED)
    return to_svg(figure, name)


def _line(axes: Any, line: Line) -> None:
    style = line.style
    top, width = (3, 2.8) if style.label == "policy" else (2, 1.8)
    look = {"color": style.colour, "zorder": top}
    axes.plot(line.x, line.y, style.dash, marker=style.marker, markersize=5, linewidth=width, label=style.label, **look)
    if len(line.x) == 1:
        axes.vlines(line.x, line.low or line.y, line.high or line.y, linewidth=1.5, **look)
    elif line.low:
        axes.fill_between(line.x, line.low, line.high, color=style.colour, alpha=0.13, linewidth=0)
