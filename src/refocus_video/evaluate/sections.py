"""The tables of an overview: accuracy by selector and budget, by group, failures by cause, time and memory. HTML."""

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby
from typing import Any

import numpy as np

from refocus_video.evaluate.export import CONTROLS, Table, clear
from refocus_video.evaluate.filmstrip import short_name
from refocus_video.evaluate.page import frames, name_cell, spark, table
from refocus_video.evaluate.plots import style_of
from refocus_video.evaluate.runs import LENGTH
from refocus_video.evaluate.tables import NBSP, ends, percent, points
from refocus_video.types import FloatArray

Row = dict[str, Any]

MOST_CAUSES = 25
"""Rows of the table of failures; further ones are counted."""
UNPARSABLE = "the reply names none of the options"
TIME_BINS = 32


def group_name(group: str) -> str:
    """``all questions``, a question type, or a length of video."""
    if group == "all":
        return "all questions"
    return f"{group.removeprefix(LENGTH)} videos" if group.startswith(LENGTH) else group


def chance(p: float | None) -> str:
    """A p-value to two digits, or a dash."""
    if p is None:
        return "–"
    return f"p{NBSP}<{NBSP}0.001" if p < 0.001 else f"p{NBSP}={NBSP}{p:.2g}"


def summary_table(found: Sequence[Table], baseline: str, budget: int, anchors: Sequence[str]) -> str:
    """One row a question file and model: the baseline and the best selector with one budget; controls are left out.

    Args:
        found: tables of all questions.
        baseline: what gains are over.
        budget: of all rows; a table without it has none.
        anchors: where on the page each table is told in full.
    """
    gains = any(baseline in of_cell.cells for of_cell in found)
    body = ""
    for of_cell, anchor in zip(found, anchors, strict=True):
        if budget not in of_cell.budgets:
            continue
        column = of_cell.budgets.index(budget)
        lines = [row[column] for name, row in of_cell.cells.items() if name not in CONTROLS]
        best = max(filter(None, lines), key=lambda line: float(line["accuracy"]), default=None)
        if best is None:
            continue
        base = of_cell.cells.get(baseline, (None,) * len(of_cell.budgets))[column]
        names = list(of_cell.cells)
        body += (
            f"<tr><td class=name><a href='#{anchor}'>{escape(of_cell.dataset)}</a><small class=flush>{escape(of_cell.model)}"
            f"</small></td><td>{of_cell.count}</td>{_accuracy(base) if gains else ''}{name_cell(best['selector'], names, False)}"
            f"{_accuracy(best)}{_gain(best) if gains else ''}</tr>"
        )
    if not body:
        return ""
    head = (
        "<tr><th class=name>question file and model</th><th>questions</th>"
        + (f"<th>{escape(baseline)}</th>" if gains else "")
        + "<th class=name>best</th><th>accuracy</th>"
        + ("<th>gain</th></tr>" if gains else "</tr>")
    )
    return table(head, body, "summary")


def budget_table(of_cell: Table, baseline: str) -> str:
    """Every selector with every budget: accuracy, gain over the baseline and how sure it is; the best in bold."""
    gains = any(line and line["accuracy_gain"] is not None for row in of_cell.cells.values() for line in row)
    top = "".join(f"<th colspan={1 + gains} class=group>{frames(b)}</th>" for b in of_cell.budgets)
    under = ("<th class=first>accuracy</th>" + "<th>gain</th>" * gains) * len(of_cell.budgets)
    body = ""
    for name, row in of_cell.cells.items():
        cells = "".join(
            _accuracy(line, of_cell.best(i), first=True) + (_gain(line) if gains else "") for i, line in enumerate(row)
        )
        counted = [line for line in row if line is not None]
        body += (
            f"<tr{_kind(name, baseline)}>{name_cell(name, list(of_cell.cells), False)}{_counts(counted)}{cells}</tr>"
        )
    head = f"<tr><th rowspan=2 class=name>frames picked by</th><th rowspan=2>answers</th>{top}</tr><tr>{under}</tr>"
    return table(head, body, "results")


def group_table(groups: Sequence[Table], budget: int, baseline: str) -> str:
    """Every selector on every group of questions with one budget, types before lengths; empty if no group has it."""
    held = [(g, g.budgets.index(budget)) for g in groups if budget in g.budgets]
    if not held:
        return ""
    names = list(dict.fromkeys(name for g, _ in held for name in g.cells))
    lengths = [g.group for g, _ in held if g.group.startswith(LENGTH)]
    top = ""
    for g, _ in held:
        first = " first" if g.group in lengths[:1] else ""
        top += f"<th class='wrap{first}'>{escape(group_name(g.group))}<small>n = {g.count}</small></th>"
    body = ""
    for name in names:
        cells = "".join(
            _with_gain(g.cells[name][column] if name in g.cells else None, g.best(column), g.group in lengths[:1])
            for g, column in held
        )
        body += f"<tr{_kind(name, baseline)}>{name_cell(name, names, False)}{cells}</tr>"
    return table(f"<tr><th class=name>frames picked by</th>{top}</tr>", body, "groups")


def _kind(selector: str, baseline: str) -> str:
    kinds = ["control"] * (selector in CONTROLS) + ["baseline"] * (selector == baseline)
    return f" class={kinds[0]}" if kinds else ""


def _accuracy(line: Row | None, best: float | None = None, first: bool = False) -> str:
    of_first = " class=first" if first else ""
    if line is None:
        return f"<td{of_first}>–</td>"
    interval = ends(line["accuracy_low"], line["accuracy_high"])
    return f"<td{of_first}>{_marked(line, best)}<small>{interval}</small></td>"


def _with_gain(line: Row | None, best: float | None, first: bool) -> str:
    of_first = " class=first" if first else ""
    if line is None:
        return f"<td{of_first}>–</td>"
    gain = "" if line["accuracy_gain"] is None else points(line["accuracy_gain"]) + "*" * clear(line)
    return f"<td{of_first}>{_marked(line, best)}<small>{gain}</small></td>"


def _marked(line: Row, best: float | None) -> str:
    shown = percent(line["accuracy"])
    return f"<b>{shown}</b>" if line["accuracy"] == best and line["selector"] not in CONTROLS else shown


def _gain(line: Row | None) -> str:
    if line is None or line["accuracy_gain"] is None:
        return "<td>–</td>"
    sure = ("good" if line["accuracy_gain"] > 0 else "bad") if clear(line) else "unsure"
    interval = ends(line["accuracy_gain_low"], line["accuracy_gain_high"], signed=True)
    return (
        f"<td><span class={sure}>{points(line['accuracy_gain'])}</span><small>{interval}</small>"
        f"<small>{chance(line['p_value'])}</small></td>"
    )


def _counts(lines: Sequence[Row]) -> str:
    total = sum(line["n"] for line in lines)
    lost = "".join(
        f"<small class=bad>{sum(line[name] for line in lines)} {name}</small>"
        for name in ("failed", "unparsable")
        if any(line[name] for line in lines)
    )
    return f"<td>{total}{lost}</td>"


def causes(rows: Iterable[Row]) -> Counter[tuple[str, str, str]]:
    """How many answers were lost, by question file, model and cause, the most frequent first."""
    found: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        why = row["error"] or (UNPARSABLE if row.get("unparsable") else "")
        if why:
            why = why.replace(row["video"], "the video").replace(short_name(row["video"]), "the video")
            found[row["dataset"], row["model"], why] += 1
    return Counter(dict(found.most_common()))


def failure_table(rows: Sequence[Row]) -> str:
    """Every cause of a lost answer with how many it cost."""
    found = causes(rows)
    if not found:
        return "<p>No question failed, and every reply named an option.</p>"
    body = "".join(
        f"<tr><td class=name>{escape(dataset)}<small class=flush>{escape(model)}</small></td>"
        f"<td class=text>{escape(why)}</td><td>{count}</td></tr>"
        for (dataset, model, why), count in found.most_common(MOST_CAUSES)
    )
    rest = len(found) - MOST_CAUSES
    more = f"<p class=caption>{rest} rarer causes are left out.</p>" if rest > 0 else ""
    return (
        f"<p class=bad>{sum(found.values())} of {len(rows)} answers were lost. They count as wrong in every number above.</p>"
        + table("<tr><th class=name>question file and model</th><th class=text>cause</th><th>answers</th></tr>", body)
        + more
    )


def time_table(rows: Sequence[Row]) -> str:
    """How long each selector and the model that answers from its frames took for a question, as histograms."""
    names = list(dict.fromkeys(row["selector"] for row in rows))
    stages = ("choosing_seconds", "seconds")
    taken = {
        name: [np.array([row[stage] for row in rows if row["selector"] == name and row.get(stage)]) for stage in stages]
        for name in names
    }
    taken = {name: both for name, both in taken.items() if any(len(part) for part in both)}
    if not taken:
        return ""
    edges = [time_edges([both[i] for both in taken.values()]) for i in range(2)]
    body = "".join(
        f"<tr>{name_cell(name, names, False)}"
        f"{''.join(_times(part, edges[i], style_of(name, names).colour) for i, part in enumerate(both))}</tr>"
        for name, both in taken.items()
    )
    scales = "".join(
        f"<th class='wide first'><span class=ends><span>{duration(e[0])}</span><span>{duration(e[-1])}</span></span></th>"
        "<th>median</th><th>95 % below</th>"
        for e in edges
    )
    head = (
        "<tr><th rowspan=2 class=name>frames picked by</th><th colspan=3 class=group>picking, per question</th>"
        f"<th colspan=3 class=group>answering, per question</th></tr><tr>{scales}</tr>"
    )
    return table(head, body)


def time_edges(parts: Sequence[FloatArray]) -> FloatArray:
    """Edges of the bins that all histograms of one column share, even in the logarithm, (TIME_BINS + 1,)."""
    values = np.concatenate(parts) if parts else np.zeros(0)
    low, high = (float(values.min()), float(values.max())) if len(values) else (1e-3, 1.0)
    return np.asarray(np.geomspace(low / 1.05, high * 1.05, TIME_BINS + 1), dtype=np.float64)


def _times(seconds: FloatArray, edges: FloatArray, colour: str) -> str:
    if not len(seconds):
        return "<td class=first></td><td>–</td><td>–</td>"
    middle, late = float(np.median(seconds)), float(np.quantile(seconds, 0.95))
    bars = spark(np.histogram(seconds, edges)[0].tolist(), colour, f"histogram, median {duration(middle)}")
    return f"<td class='wide first'>{bars}</td><td>{duration(middle)}</td><td>{duration(late)}</td>"


def duration(seconds: float) -> str:
    """A time in the unit that suits it: ``12 µs``, ``3.4 ms``, ``2.0 s``, ``5 min``."""
    for limit, scale, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s"), (7200.0, 1 / 60, "min")):
        if seconds < limit:
            value = seconds * scale
            return f"{value:.{1 if value < 10 else 0}f}{NBSP}{unit}"
    return f"{seconds / 3600:.1f}{NBSP}h"


def stage_table(stages: Sequence[Row]) -> str:
    """What each stage took in all runs together, the longest first within its place in the run."""
    if not stages:
        return ""
    order = list(dict.fromkeys(row["stage"] for row in stages))
    ranked = sorted(stages, key=lambda row: (order.index(row["stage"]), row["who"]))
    added = []
    for (stage, who), group in groupby(ranked, key=lambda row: (row["stage"], row["who"])):
        parts = list(group)
        added.append((stage, who, *(sum(r[name] for r in parts) for name in ("calls", "seconds")),
                      *(max(r[name] for r in parts) for name in ("rise_mb", "device_rise_mb"))))  # fmt: skip
    total = sum(row[3] for row in added) or 1.0
    body = "".join(
        f"<tr><td class=name>{escape(stage)}<small class=flush>{escape(who)}</small></td><td>{calls}</td>"
        f"<td>{duration(seconds)}</td><td>{duration(seconds / max(1, calls))}</td><td>{percent(seconds / total)}</td>"
        f"<td>{_megabytes(rise)}</td><td>{_megabytes(device)}</td></tr>"
        for stage, who, calls, seconds, rise, device in added
    )
    head = (
        "<tr><th class=name>stage</th><th>calls</th><th>time</th><th>per call</th><th>share</th>"
        "<th>raised memory by</th><th>on the device</th></tr>"
    )
    return table(head, body)


def _megabytes(value: float) -> str:
    return f"{value:.0f}{NBSP}MB" if value >= 1 else "–"
