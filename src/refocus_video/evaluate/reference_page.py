"""One self-contained page about a reference model: the verdict, plots, and the tables behind them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from refocus_video.evaluate.figure import BLUE, INK, LEGEND, MUTED, dress, new_figure, to_svg
from refocus_video.evaluate.filmstrip import short_name
from refocus_video.evaluate.metrics import ALL
from refocus_video.evaluate.page import details, fill, settings_details, table
from refocus_video.evaluate.reference_check import KINDS
from refocus_video.evaluate.reference_summary import find
from refocus_video.files import write_text

Row = Mapping[str, Any]

NOTES = (
    "Intervals are 95 % bootstrap intervals over videos. Each subset counts as one answer; an answer is right if the right option "
    "is the likeliest, and a tie is not right.",
    "Frames of a span are any candidates inside it; where a subset needs more frames than the evidence has, the rest lies outside.",
    "Kinds that depend on evidence are drawn only for questions whose every span holds a candidate frame.",
    "The calibration error counts distances, so it is above 0 by chance as well, the more the fewer answers there are.",
    "Limits are ours, not the paper's. A model can pass and still be a poor teacher for other videos than these.",
)
_MARKS = {True: "<span class=good>yes</span>", False: "<b class=bad>no</b>", None: "–"}


def write_page(path: Path, results: Row) -> None:
    """Write the page of a check from what is in ``check.json``."""
    page = fill(
        "reference.html",
        title="Can this reference model teach?",
        scope=escape(f"{results['model']}: {results['measured']} questions about {results['videos']} videos"),
        lead=f"<p><b>{escape(results['verdict'].capitalize())}.</b> {' '.join(_sentence(a) for a in results['advice'])}</p>",
        items=_rows(
            ("", "passed", "found", "limit"),
            [
                (escape(i["name"]), _MARKS[i["passed"]], escape(i["says"]), f"{i['limit']:.2g}")
                for i in results["items"]
            ],
            texts=(2,),
        ),
        plots=draw(results),
        evidence=_by_type(results["evidence"], _evidence),
        correlation=_correlation(results["correlation"]),
        payment=_by_type(results["payment"], _payment),
        failures=_failures(results),
        notes="".join(f"<li>{escape(note)}</li>" for note in NOTES),
        settings=settings_details("Resolved settings", results["settings"]),
    )
    write_text(path, page)


def draw(results: Row) -> str:
    """Calibration curve, accuracy and confidence by kind of frames, letter histogram, as one ``<svg>``; empty without options."""
    measured = find(results["calibration"], question_type=ALL)
    if measured is None:
        return ""
    figure = new_figure(340)
    left, middle, right = figure.subplots(1, 3)
    dress(left, "Calibration")
    left.plot([0, 1], [0, 1], "--", color=MUTED, linewidth=1)
    bins = measured["bins"]
    sizes = [20 + 200 * row["n"] / measured["n"] for row in bins]
    x, y = [row["confidence"] for row in bins], [row["accuracy"] for row in bins]
    left.plot(x, y, "-", color=BLUE, linewidth=1.6)
    left.scatter(x, y, s=sizes, color=BLUE, zorder=3)
    left.set(xlim=(0, 1.03), ylim=(-0.02, 1.03))
    left.set_xlabel("confidence", fontsize=11, color=MUTED)
    left.set_ylabel("right answers", fontsize=11, color=MUTED)
    _kinds(middle, [line for line in results["evidence"] if line["question_type"] == ALL])
    dress(right, "Letters picked")
    _letters(right, [line for line in results["letters"] if line["question_type"] == ALL])
    return to_svg(figure, "calibration")


def _kinds(axes: Any, lines: Sequence[Row]) -> None:
    dress(axes, "By what is shown")
    places = np.arange(len(lines))
    for shift, name, colour, label in (
        (-0.2, "correct", BLUE, "right answers"),
        (0.2, "confidence", "#8A8A8A", "confidence"),
    ):
        axes.bar(places + shift, [line[name] for line in lines], width=0.38, color=colour, label=label)
    axes.axhline(lines[0]["chance"], color=MUTED, linestyle=(0, (1, 2)), linewidth=1.2)
    axes.set_xticks(places, [line["kind"] for line in lines])
    axes.set_ylim(0, 1.2)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.legend(**(LEGEND | {"fontsize": 10, "ncols": 2}), loc="upper left")


def _letters(axes: Any, lines: Sequence[Row]) -> None:
    if not lines:
        axes.text(0.5, 0.5, "options have no letters", ha="center", transform=axes.transAxes, color=MUTED)
        return
    letters = list(lines[0]["expected"])
    places = np.arange(len(letters))
    for shift, line, colour in zip((-0.2, 0.2), lines, ("#8A8A8A", BLUE), strict=False):
        axes.bar(places + shift, [line["picked"][letter] for letter in letters], width=0.38, color=colour,
                 label="no frames" if line["kind"] == "none" else line["kind"])  # fmt: skip
    fair = list(lines[0]["expected"].values())
    axes.hlines(fair, places - 0.42, places + 0.42, color=INK, linestyle=(0, (2, 2)), linewidth=1.2)
    axes.set_xticks(places, letters)
    axes.set_ylim(0, 1.25 * max(*fair, *(share for line in lines for share in line["picked"].values())))
    axes.legend(**(LEGEND | {"fontsize": 10, "ncols": 2}), loc="upper left")


def _sentence(text: str) -> str:
    return escape(text[0].upper() + text[1:] + ".")


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]], texts: Sequence[int] = ()) -> str:
    def kind(place: int) -> str:
        return " class=name" if place == 0 else " class=text" if place in texts else ""

    first = "".join(f"<th{kind(i)}>{escape(name)}</th>" for i, name in enumerate(head))
    body = "".join(
        "<tr>" + "".join(f"<td{kind(i)}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows
    )
    return table(f"<tr>{first}</tr>", body)


def _by_type(lines: Sequence[Row], show: Callable[[Sequence[Row]], str]) -> str:
    """The table of the first group, the others folded away."""
    groups: dict[str, list[Row]] = {}
    for line in lines:
        groups.setdefault(line["question_type"], []).append(line)
    tables = [(name, show(own)) for name, own in groups.items()]
    if not tables:
        return "<p>Nothing could be measured.</p>"
    return tables[0][1] + "".join(details(f"The same for {name}", html) for name, html in tables[1:])


def _evidence(lines: Sequence[Row]) -> str:
    head = ("shown", "questions", "accuracy", "chance", "confidence", "p(answer)", "calibration error", "reward",
            "margin reward")  # fmt: skip
    return _rows(
        head,
        [
            (
                f"{line['kind']}<small>{escape(KINDS[line['kind']])}</small>",
                str(line["questions"]),
                *(_cell(line, name) for name in ("correct", "chance", "confidence", "probability", "ece")),
                _cell(line, "reward"),
                _cell(line, "margin"),
            )
            for line in lines
        ],
    )


def _correlation(lines: Sequence[Row]) -> str:
    head = ("questions", "n", "reward and accuracy, over questions", "the same among a question's subsets",
            "reward and evidence seen, among a question's subsets")  # fmt: skip
    names = ("questions", "subsets", "evidence")
    return _rows(
        head,
        [(escape(line["question_type"]), str(line["n"]), *(_cell(line, name) for name in names)) for line in lines],
    )


def _payment(lines: Sequence[Row]) -> str:
    return _rows(
        ("reward", "n", "hidden", "shown", "hiding pays", "all evidence pays"),
        [
            (
                escape(line["reward"]),
                str(line["n"]),
                line["hidden"],
                line["shown"],
                _cell(line, "difference"),
                _cell(line, "gain"),
            )
            for line in lines
        ],
    )


def _cell(line: Row, name: str) -> str:
    value = line.get(name)
    if value is None:
        return "–"
    low, high = line.get(f"{name}_low"), line.get(f"{name}_high")
    ends = "" if low is None or high is None else f"<small>{low:.2f} to {high:.2f}</small>"
    return f"{value:.2f}{ends}"


def _failures(results: Row) -> str:
    failures = results["failures"] | results["unscored"]
    if not failures:
        return "<p>No question failed.</p>"
    lost = results["asked"] - results["measured"]
    return f"<p class=bad>{lost} of {results['asked']} questions could not be measured and are left out.</p>" + _rows(
        ("video or question", "reason"),
        [(escape(short_name(name)), escape(reason)) for name, reason in failures.items()],
        texts=(1,),
    )
