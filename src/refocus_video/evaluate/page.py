"""What all pages have in common: one style, and small pieces of HTML that need no script and load nothing."""

import json
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from itertools import count
from string import Template
from typing import Any

import yaml

from refocus_video.evaluate.figure import css_colour
from refocus_video.evaluate.plots import Style, style_of

_DASHES = {"-": "none", "--": "5 3", "-.": "6 2.5 1.5 2.5", ":": "1.5 2.5"}


def fill(template: str, **parts: str) -> str:
    """A page from its template; every part is HTML already."""
    room = files("refocus_video.evaluate")
    page = Template(room.joinpath(template).read_text(encoding="utf-8"))
    return page.substitute(style=room.joinpath("page.css").read_text(encoding="utf-8").strip(), **parts)


def own_ids(page: str) -> str:
    """The same page with the ids inside each plot made its own: two plots drawn alike would share theirs."""
    numbers = count()

    def renamed(plot: re.Match[str]) -> str:
        prefix = f"plot{next(numbers)}-"
        return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", plot[0])

    return re.sub(r'<svg[^>]*class="plot".*?</svg>', renamed, page, flags=re.DOTALL)


def frames(number: int) -> str:
    """``1 frame``, ``8 frames``."""
    return f"{number} frame{'s' * (number != 1)}"


def details(name: str, body: str) -> str:
    """HTML that is folded away until asked for; nothing for an empty one."""
    return f"<details><summary>{escape(name)}</summary>{body}</details>" if body else ""


def settings_details(name: str, values: Any) -> str:
    """Settings as YAML, folded away."""
    if not values:
        return ""
    plain = json.loads(json.dumps(values, default=str))  # tuples and paths have no place in YAML
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)
    return details(name, f"<pre>{escape(text)}</pre>")


def table(head: str, body: str, kind: str = "") -> str:
    """A table that scrolls sideways where the page is too narrow for it; ``head`` and ``body`` are rows."""
    of_kind = f" class={kind}" if kind else ""
    return f"<div class=scroll><table{of_kind}><thead>{head}</thead><tbody>{body}</tbody></table></div>"


def name_cell(selector: str, selectors: Sequence[str], meaning: bool = True) -> str:
    """The first cell of a selector's row: its colour, its name, what it does."""
    style = style_of(selector, selectors)
    small = f"<small>{escape(style.meaning)}</small>" if meaning and style.meaning else ""
    return f"<td class=name><i style='background:{css_colour(style.colour)}'></i>{escape(style.label)}{small}</td>"


def legend(selectors: Sequence[str]) -> str:
    """How each selector is drawn, as a list that wraps."""
    items = "".join(
        f"<li>{swatch(style)}{escape(style.label)}</li>" for style in (style_of(n, selectors) for n in selectors)
    )
    return f"<ul class=legend>{items}</ul>"


def swatch(style: Style) -> str:
    """A piece of a selector's line, with its marker."""
    from matplotlib.markers import MarkerStyle

    marker = MarkerStyle(style.marker)
    outline: Any = marker.get_path().transformed(marker.get_transform()).to_polygons()[0]
    points = " ".join(f"{17 + 8 * x:.1f},{7 - 8 * y:.1f}" for x, y in outline)
    colour = css_colour(style.colour)
    return (
        f"<svg width='34' height='14' aria-hidden='true'><path d='M1 7H33' style='stroke:{colour};stroke-width:2;"
        f"stroke-dasharray:{_DASHES[style.dash]}'/><polygon points='{points}' style='fill:{colour}'/></svg>"
    )


def spark(counts: Sequence[float], colour: str, said: str) -> str:
    """A histogram as wide as the cell it stands in; ``said`` is what a screen reader says."""
    most = max(counts, default=0) or 1
    bars = "".join(f"M{i} 20V{20 - 20 * n / most:.1f}h1V20Z" for i, n in enumerate(counts) if n)
    return (
        f"<svg class=spark viewBox='0 0 {len(counts)} 20' preserveAspectRatio='none' role='img' "
        f"aria-label='{escape(said)}'><path d='{bars}' style='fill:{css_colour(colour)}'/></svg>"
    )


def heat_map(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    highest: float = 1.0,
) -> str:
    """A table whose cells are the darker the higher their value; None leaves a cell empty.

    Args:
        title: above it.
        rows: a name for each row.
        columns: a name for each column.
        values: one sequence a row.
        highest: the value of the darkest cell; the lightest is 0.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr><th class=name>{escape(name)}</th>{''.join(_heat(value, highest) for value in line)}</tr>"
        for name, line in zip(rows, values, strict=True)
    )
    return (
        f"<figure class=heat><figcaption>{escape(title)}</figcaption>"
        f"{table(f'<tr><th class=name></th>{head}</tr>', body)}</figure>"
    )


def _heat(value: float | None, highest: float) -> str:
    if value is None:
        return "<td>–</td>"
    share = min(max(value / highest, 0.0), 1.0) if highest else 0.0
    return f"<td style='--heat:{100 * share:.0f}%'>{value:.2f}</td>"
