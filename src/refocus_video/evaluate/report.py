"""One self-contained HTML page about a training run and its evaluation: numbers first, then pictures, then the small print.

The page loads nothing from anywhere: curves are inline SVG and frames are stored in it.
"""

import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from refocus_video.errors import DataError, VideoError
from refocus_video.evaluate.filmstrip import choose_cases, filmstrip_case, same_video_case, short_name
from refocus_video.evaluate.metrics import Table, is_correct, tabulate
from refocus_video.evaluate.page import details, fill, frames, settings_details
from refocus_video.evaluate.plots import budget_curves, training_curves
from refocus_video.evaluate.tables import accuracy_table, headline, tiles
from refocus_video.files import write_text
from refocus_video.video.reader import VideoReader

__all__ = ["HAYSTACK_NOTES", "build_filmstrips", "filmstrip_case", "main_budget", "same_video_case", "write_report"]

Row = dict[str, Any]

HAYSTACK_KINDS = frozenset({"color-to-shape", "shape-to-color", "linked-shape"})
HAYSTACK_NOTES = (
    "The videos are synthetic: cards with a colour and a shape flash up for a moment on a moving background, and each "
    "question is about one of them. They show whether the method works, not how it does on filmed videos.",
    "Two-hop is the hard type: the border of one card names the colour of another, so two moments must both be among the "
    "picked frames, and the question names only the first.",
    "The answering model is small and was trained on such cards. It is frozen here, the same for every selector, and it is "
    "also the model whose answers gave the rewards in training.",
)
GENERAL_NOTES = (
    "Intervals are 95 % bootstrap intervals over videos: the questions of one video are drawn together, since they share its "
    "frames. They cover the choice of videos, not that of the training seed.",
    "Gain is the difference in accuracy to uniform on the same questions, in percentage points. Recall is the share of "
    "evidence spans that hold at least one picked frame. A question that failed counts as wrong.",
    "The oracle, query-blind and wrong question are controls. The first two know where things happen and could not be used "
    "on a new video.",
)


def main_budget(rows: Sequence[Mapping[str, Any]]) -> int:
    """The budget that a report puts first: the middle one, the larger of two.

    Raises:
        DataError: there are no rows.
    """
    budgets = sorted({row["budget"] for row in rows})
    if not budgets:
        raise DataError("a report needs the rows of an evaluation, found none; run the evaluation first")
    return int(budgets[len(budgets) // 2])


def build_filmstrips(rows: Sequence[Row], budget: int | None = None) -> list[str]:
    """Example questions as HTML, chosen by fixed rules; see :func:`~.filmstrip.choose_cases`.

    Args:
        rows: of ``rows.jsonl``, with ``evidence``.
        budget: frames per question; None for :func:`main_budget`.

    Returns:
        A count of wins and losses, then one element for each case. A video that can no longer be read gives the reason.
    """
    if not rows:
        return []
    chosen, table = budget or main_budget(rows), tabulate(rows)
    parts = [_wins_and_losses(table, chosen)]
    for case in choose_cases(table, chosen):
        build = filmstrip_case if case.first["id"] == case.second["id"] else same_video_case
        try:
            with VideoReader(case.first["video"]) as reader:
                parts.append(build(case.first, case.second, reader, case.why))
        except VideoError as error:
            parts.append(
                f"<article class=case><h3>{escape(case.why)}</h3><p class=bad>The frames cannot be shown: "
                f"{escape(str(error))}</p></article>"
            )
    return parts


def _wins_and_losses(table: Table, budget: int) -> str:
    policy, uniform = table.get(("policy", budget), {}), table.get(("uniform", budget), {})
    both = [(is_correct(policy[key]), is_correct(uniform[key])) for key in policy if key in uniform]
    if not both:
        return "<p>There are no questions answered with frames of both the policy and uniform.</p>"
    lost = "" if any(not mine for mine, _ in both) else " The policy has no failure to show."
    return (
        f"<p>With {frames(budget)}, of {len(both)} questions: both right {both.count((True, True))}, "
        f"only the policy {both.count((True, False))}, only uniform {both.count((False, True))}, neither "
        f"{both.count((False, False))}. The cases below are chosen by fixed rules, not by eye.{lost} "
        "On each bar green marks the evidence and a tick a picked frame.</p>"
    )


def write_report(
    folder: str | os.PathLike[str],
    *,
    title: str,
    results: Mapping[str, Any],
    rows: Sequence[Row],
    history: Sequence[Row],
    warnings: Sequence[str],
    filmstrips: Sequence[str],
    settings: Mapping[str, Any],
    budget: int | None = None,
    notes: Sequence[str] | None = None,
) -> Path:
    """Write ``folder/report.html``.

    Args:
        folder: made if missing.
        title: of the page.
        results: the content of ``results.json``: ``rows``, and where known ``timings`` and ``failures``.
        rows: of ``rows.jsonl``.
        history: of the training's ``metrics.jsonl``; empty for a report without training.
        warnings: that training gave.
        filmstrips: HTML elements, such as those of :func:`build_filmstrips`.
        settings: the resolved configuration.
        budget: to put first; None for :func:`main_budget`.
        notes: what a reader must know of the data; None for those of the haystack where its questions are asked.

    Returns:
        The path of the page.

    Raises:
        DataError: there are no results, or rows that contradict each other.
    """
    lines = list(results["rows"])
    chosen, table = budget or main_budget(lines), tabulate(rows)
    if notes is None:
        notes = HAYSTACK_NOTES if {row["kind"] for row in rows} <= HAYSTACK_KINDS else ()
    text = fill(
        "report.html",
        title=escape(title),
        scope=_scope(rows),
        headline=headline(lines, table, chosen),
        tiles=tiles(lines, chosen),
        budget=frames(chosen),
        table=accuracy_table(lines, chosen),
        other_tables=_other_tables(lines, chosen),
        budget_curves=budget_curves(lines, guessing(rows)),
        training=_training(history, settings),
        filmstrips="".join(filmstrips) or "<p>None were made.</p>",
        problems=_warnings(warnings) + _unparsable(rows) + _failures(results.get("failures"), rows),
        notes="".join(f"<li>{escape(note)}</li>" for note in (*notes, *GENERAL_NOTES)),
        settings=settings_details("Resolved settings", settings) + settings_details("Timings", results.get("timings")),
    )
    path = Path(folder) / "report.html"
    write_text(path, text)
    return path


def _scope(rows: Sequence[Row]) -> str:
    videos, questions = len({row["video"] for row in rows}), len({row["id"] for row in rows})
    return f"{questions} questions about {videos} videos, {len(rows)} answers"


def guessing(rows: Sequence[Row]) -> float | None:
    options = {row["id"]: len(row["options"]) for row in rows if row["options"]}
    return sum(1 / n for n in options.values()) / len(options) if options else None


def _other_tables(lines: Sequence[Row], chosen: int) -> str:
    others = sorted({line["budget"] for line in lines} - {chosen})
    return "".join(details(f"The same with {frames(b)}", accuracy_table(lines, b)) for b in others)


def _training(history: Sequence[Row], settings: Mapping[str, Any]) -> str:
    curves = training_curves(history, entropy_targets(history, settings))
    if not curves:
        return "<p>No training is recorded for this report.</p>"
    return (
        f"<div class=scroll>{curves}</div>"
        "<p class=caption>Each step draws its number of frames anew and may add harder questions, so single steps jump. "
        "A group is the set of frame subsets sampled for one question; without a spread of rewards it teaches nothing.</p>"
    )


def entropy_targets(history: Sequence[Row], settings: Mapping[str, Any]) -> list[float] | None:
    """The entropy target in nats at each step: as logged, else from the settings for the full number of candidates."""
    if history and all(row.get("entropy_target") is not None for row in history):
        return [float(row["entropy_target"]) for row in history]
    train, frames = settings.get("train") or {}, (settings.get("sampling") or {}).get("max_frames")
    if not history or not frames or not train.get("entropy_target"):
        return None
    start, end = train["entropy_target"]
    until = train["entropy_target_until"] * train["max_steps"]
    done = [min(1.0, row["step"] / until) for row in history]
    return [(start + (end - start) * share) * math.log(frames) for share in done]


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return "<p>Training gave no warnings.</p>"
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f"<p>Training gave {len(warnings)} warning{'s' * (len(warnings) > 1)}:</p><ul>{items}</ul>"


def _unparsable(rows: Sequence[Row]) -> str:
    lost = sum(bool(row.get("unparsable")) for row in rows)
    counted = f"Replies that name none of the options: {lost} of {len(rows)}. They count as wrong."
    return f"<p class=bad>{counted}</p>" if lost else ""


def _failures(failures: Sequence[Mapping[str, Any]] | None, rows: Sequence[Row]) -> str:
    failed = {row["id"]: row for row in rows if row["error"]}
    if failures is None:
        found: dict[tuple[str, str], int] = {}
        for row in failed.values():
            found[row["video"], row["error"]] = found.get((row["video"], row["error"]), 0) + 1
        failures = [{"video": v, "reason": r, "questions": n} for (v, r), n in found.items()]
    if not failures and not failed:
        return "<p>No question failed.</p>"
    body = "".join(
        f"<tr><td class=name>{escape(short_name(f['video']))}</td>"
        f"<td class=text>{escape(f['reason'].replace(f['video'], short_name(f['video'])))}</td>"
        f"<td>{f['questions']}</td></tr>"
        for f in failures
    )
    return (
        f"<p class=bad>Questions that failed: {len(failed)}, from {len(failures)} video{'s' * (len(failures) != 1)}. "
        "They count as wrong.</p><div class=scroll><table><thead>"
        "<tr><th class=name>video</th><th class=text>reason</th>"
        f"<th>questions</th></tr></thead><tbody>{body}</tbody></table></div>"
    )
