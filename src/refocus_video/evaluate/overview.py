"""One self-contained page about any number of evaluations: question files × models × selectors × budgets.

A section is there only if there is something to show in it. The page loads nothing from anywhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import log
from pathlib import Path
from typing import Any

from refocus_video.errors import DataError
from refocus_video.evaluate.export import Table, comma_separated, latex, markdown, tables
from refocus_video.evaluate.filmstrip import short_name
from refocus_video.evaluate.looks import looks
from refocus_video.evaluate.metrics import ALL, BASELINE
from refocus_video.evaluate.page import (
    details,
    fill,
    frames,
    heat_map,
    legend,
    name_cell,
    own_ids,
    settings_details,
    spark,
    table,
)
from refocus_video.evaluate.plots import budget_panel, curves, style_of
from refocus_video.evaluate.probe_plots import FIGURES
from refocus_video.evaluate.report import guessing, main_budget
from refocus_video.evaluate.runs import LENGTH, Runs, compare
from refocus_video.evaluate.sections import (
    budget_table,
    causes,
    failure_table,
    group_name,
    group_table,
    stage_table,
    summary_table,
    time_table,
)
from refocus_video.files import write_json, write_text

Row = dict[str, Any]

MOST_BANDS = 5
"""Selectors whose intervals are drawn at once; of more, only those of the policy and the baseline."""
PROBES = {
    "needle": "Needle in a haystack",
    "suppression": "Evidence suppressed",
    "prefix_noise": "Random frames among the picks",
    "influence": "Influence of single frames",
}
"""Titles of what is measured beside accuracy."""
ABREAST = 4
"""Needle maps of so many selectors stand side by side."""
NOTES = (
    "Accuracy is over all questions; one without an answer counts as wrong. Intervals are 95 % bootstrap intervals over videos: "
    "the questions of one video are drawn together, since they share its frames.",
    "Gain is the difference in accuracy to the baseline on the same questions, in percentage points. It is coloured, or marked *, "
    "where its interval leaves out 0. p is that of the exact McNemar test, which takes questions as independent. Neither is "
    "corrected for the number of selectors compared.",
    "The oracle, query-blind and wrong question are controls: they know where things happen, or are asked something else, and none "
    "of them is ever in bold.",
)


@dataclass(frozen=True, slots=True)
class Overview:
    """What a report is made of: numbers first, all in plain types."""

    runs: Runs
    baseline: str
    lines: list[Row]
    """Of :func:`~refocus_video.evaluate.runs.compare`."""
    looks: dict[str, Row]
    """Where selectors look, by question file: see :func:`~refocus_video.evaluate.looks.looks`."""

    @property
    def budget(self) -> int:
        """The one told first."""
        return main_budget(self.lines)

    def to_json(self) -> dict[str, Any]:
        """What ``results.json`` of a report holds."""
        return {
            "baseline": self.baseline,
            "rows": self.lines,
            "failures": [
                {"dataset": dataset, "model": model, "cause": why, "answers": count}
                for (dataset, model, why), count in causes(self.runs.rows).items()
            ],
            "looks": self.looks,
            "stages": list(self.runs.stages),
            "probes": list(self.runs.probes),
            "runs": self.runs.settings,
        }


def survey(runs: Runs, baseline: str | None = None) -> Overview:
    """Compute what a report shows.

    Args:
        runs: to be put side by side.
        baseline: what gains are over; None for uniform where it was run.

    Raises:
        DataError: if nobody of that name was run, or answered fewer questions than those compared with it.
    """
    if baseline is not None and baseline not in runs.selectors:
        raise DataError(f"no rows of the baseline {baseline!r}; the runs hold {', '.join(runs.selectors) or 'none'}")
    chosen = baseline or BASELINE
    lines = compare(runs, chosen)
    return Overview(runs, chosen, lines, looks(runs.rows, main_budget(lines)) if lines else {})


def write_overview(
    overview: Overview, folder: Path, title: str = "Ways of picking frames", progress: Callable[[], None] = lambda: None
) -> Path:
    """Write ``folder/report.html`` and return its path; ``progress`` is called once for each question file and model."""
    parts = tables(overview.lines)
    whole = [part for part in parts if part.group == ALL]
    anchors = [f"cell-{place}" for place in range(len(whole))]
    text = fill(
        "overview.html",
        title=escape(title),
        scope=_scope(overview.runs),
        summary=_summary(overview, whole, anchors),
        cells="".join(_cell(overview, parts, of, anchor, progress) for of, anchor in zip(whole, anchors, strict=True)),
        looks=_section("Where they look", "".join(_looks(name, of, overview) for name, of in overview.looks.items())),
        times=_section("How long it takes", _times(overview.runs)),
        probes="".join(_section(title, _probe(overview.runs, kind)) for kind, title in PROBES.items()),
        failures=_section("Failures", failure_table(overview.runs.rows) if overview.runs.rows else ""),
        notes="".join(f"<li>{escape(note)}</li>" for note in NOTES),
        settings="".join(settings_details(name, described) for name, described in overview.runs.settings.items()),
    )
    path = folder / "report.html"
    write_text(path, own_ids(text))
    return path


def write_tables(overview: Overview, folder: Path) -> None:
    """Write ``tables.md``, ``tables.tex``, ``results.csv`` and ``results.json``."""
    write_text(folder / "tables.md", markdown(overview.lines))
    write_text(folder / "tables.tex", latex(overview.lines))
    write_text(folder / "results.csv", comma_separated(overview.lines))
    write_json(folder / "results.json", overview.to_json())


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _scope(runs: Runs) -> str:
    if not runs.rows:
        return "measurements without an evaluation"
    parts = [
        _many(len({row["dataset"] for row in runs.rows}), "question file"),
        _many(len({row["model"] for row in runs.rows}), "model"),
        _many(len(runs.selectors), "way", "s of picking"),
        _many(len({row["budget"] for row in runs.rows}), "budget"),
        _many(len({(row["dataset"], row["id"]) for row in runs.rows}), "question"),
        _many(len({row["video"] for row in runs.rows}), "video"),
        _many(len(runs.rows), "answer"),
    ]
    return " · ".join(parts)


def _many(count: int, thing: str, ending: str = "s") -> str:
    ending = ending if count != 1 else ending.removeprefix("s")
    return f"{count:,} {thing}{ending}".replace(",", "\u202f")


def _summary(overview: Overview, whole: Sequence[Table], anchors: Sequence[str]) -> str:
    if not whole:
        return ""
    said = f"With {frames(overview.budget)}"
    if overview.baseline in overview.runs.selectors:
        said += f"; gain over {escape(overview.baseline)} in percentage points"
    said = f"<p class=caption>{said}.</p>"
    return summary_table(whole, overview.baseline, overview.budget, anchors) + said


def _cell(overview: Overview, parts: Sequence[Table], of: Table, anchor: str, progress: Callable[[], None]) -> str:
    groups = [part for part in parts if (part.dataset, part.model) == (of.dataset, of.model) and part.group != ALL]
    body = budget_table(of, overview.baseline) + _curves(overview, of, groups) + _groups(groups, of.budgets, overview)
    progress()
    return (
        f"<section id={anchor}><h2>{escape(of.dataset)} <small>{escape(of.model)} · {_many(of.count, 'question')}</small></h2>"
        f"{body}</section>"
    )


def _groups(groups: Sequence[Table], budgets: Sequence[int], overview: Overview) -> str:
    if not groups:
        return ""
    # A question file may lack the budget that is told first elsewhere.
    first = overview.budget if overview.budget in budgets else budgets[len(budgets) // 2]
    others = "".join(f"<h4>{frames(b)}</h4>{group_table(groups, b, overview.baseline)}" for b in budgets if b != first)
    kinds = {group.group.startswith(LENGTH) for group in groups}
    by = " and ".join(
        name for name, is_there in (("type", False in kinds), ("length of video", True in kinds)) if is_there
    )
    title = f"<h3>By {by}, with {frames(first)}</h3>"
    return title + group_table(groups, first, overview.baseline) + details("The other budgets", others)


def _curves(overview: Overview, of: Table, groups: Sequence[Table]) -> str:
    lines = [line for line in overview.lines if (line["dataset"], line["model"]) == (of.dataset, of.model)]
    names = list(of.cells)
    guess = guessing(overview.runs.cells[of.dataset, of.model])
    banded = names if len(names) <= MOST_BANDS else [n for n in names if n in ("policy", overview.baseline)]
    kinds = ["accuracy", *(["recall"] if any(line["recall"] is not None for line in lines) else [])]
    whole = curves(
        [budget_panel(lines, kind, ALL, guess, banded) for kind in kinds],
        columns=len(kinds),
        name="budgets",
        along="frames given to the answering model",
        ticks=of.budgets,
        legend=False,
        height=380,
        shared=False,
    )
    shown = [group.group for group in groups]
    panels = [budget_panel(lines, "accuracy", group, guess, (), group_name(group)) for group in shown]
    by_group = curves(
        panels,
        columns=3,
        name="groups",
        along="frames given to the answering model",
        ticks=of.budgets,
        legend=False,
        height=250,
        shared=True,
    )
    bands = "all" if banded == names else " and ".join(banded) or "none"
    return (
        f"<h3>More or fewer frames</h3>{legend(names)}<div class=scroll>{whole}</div>"
        f"<p class=caption>Bands: 95&nbsp;% intervals ({escape(bands)}). Dotted: blind guessing.</p>"
        + details("The same by type and length", f"<div class=scroll>{by_group}</div>" if by_group else "")
    )


def _looks(dataset: str, found: Row, overview: Overview) -> str:
    names = found["selectors"]
    several = len(overview.looks) > 1
    head = (
        "<tr><th class=name>frames picked by</th><th class=wide><span class=ends><span>beginning</span><span>end of the video"
        "</span></span></th><th>first quarter</th><th>middle half</th><th>last quarter</th></tr>"
    )
    body = ""
    for name, own, quarters in zip(names, found["spread"], found["quarters"], strict=True):
        if any(own):
            parts = (quarters[0], quarters[1] + quarters[2], quarters[3])
            shares = "".join(f"<td>{100 * part:.0f}&nbsp;%</td>" for part in parts)
            bars = spark(own, style_of(name, overview.runs.selectors).colour, "histogram of the picks over the video")
            body += f"<tr>{name_cell(name, overview.runs.selectors, False)}<td class=wide>{bars}</td>{shares}</tr>"
    numbers = [str(place + 1) for place in range(len(names))]
    rows = [f"{number} {style_of(name).label}" for number, name in zip(numbers, names, strict=True)]
    maps = ""
    if len(names) > 1:
        maps = heat_map("Overlap: mean Jaccard index of the frames", rows, numbers, found["overlap"])
        maps += heat_map(
            "Jensen–Shannon divergence of where they look, in nats", rows, numbers, found["divergence"], highest=log(2)
        )
    title = f"<h3>{escape(dataset)}</h3>" if several else ""
    lost = (
        f" {found['unplaced']} choices from a pool of unknown size are in the overlap alone."
        if found["unplaced"]
        else ""
    )
    return (
        f"{title}{table(head, body) if body else ''}<div class=maps>{maps}</div>"
        f"<p class=caption>With {frames(found['budget'])}.{lost}</p>"
    )


def _probe(runs: Runs, kind: str) -> str:
    """The figures of every file of one kind; that of the needle by a few selectors at a time."""
    found = [probe for probe in runs.probes if probe.get("kind") == kind]
    body = ""
    for probe in found:
        rows = probe["rows"]
        selectors = list(dict.fromkeys(row.get("selector") for row in rows))
        parts = (
            [selectors[i : i + ABREAST] for i in range(0, len(selectors), ABREAST)] if kind == "needle" else [selectors]
        )
        figures = [FIGURES[kind]([row for row in rows if row.get("selector") in part]) for part in parts]
        title = f"<h3>{escape(short_name(probe['folder']))}</h3>" if len(found) > 1 else ""
        body += title + "".join(f"<div class=scroll>{figure}</div>" for figure in figures if figure)
    return body


def _times(runs: Runs) -> str:
    models = list(dict.fromkeys(row["model"] for row in runs.rows))
    body = ""
    for model in models:
        title = f"<h3>{escape(model)}</h3>" if len(models) > 1 else ""
        found = time_table([row for row in runs.rows if row["model"] == model])
        body += title + found if found else ""
    if body:
        body += (
            "<p class=caption>Over all budgets, on a logarithmic scale. What is done once for a video is shared out among its "
            "questions and budgets; decoding for the answering model is not in it.</p>"
        )
    stages = stage_table(runs.stages)
    return body + (f"<h3>Stages</h3>{stages}" if stages else "")
