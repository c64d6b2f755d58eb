"""What the rows of a reference check amount to, for all questions and for each type: tables of numbers, intervals over videos.

Rows are those of ``reference_check.py``; every draw counts as one answer, and whole videos are drawn for the intervals.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from refocus_video.evaluate.calibration import calibration_error, correlation, letter_bias, reliability, within
from refocus_video.evaluate.metrics import ALL, bootstrap_interval, with_ends
from refocus_video.evaluate.reference_check import KINDS, TURNED

Row = dict[str, Any]

OPEN = "open-ended"
"""The group of all questions without options."""
REWARDS = ("reward", "margin", "probability")
"""The configured reward, and the two that every check compares."""
HIDDEN = ("none", "off")
SHOWN = ("part", "all", "uniform")


def summarise(rows: Sequence[Row], letters: bool) -> Row:
    """All numbers of a check.

    Args:
        rows: of the check; those with an ``error`` are left out here.
        letters: whether the model reads the options by letter.

    Returns:
        ``evidence``: a line for each group of questions and kind of subset; ``calibration`` and ``correlation``: a line a group;
        ``payment``: what hiding earns more than showing, in each reward and (``correct``) in accuracy; ``letters``.
    """
    groups = grouped([row for row in rows if "cells" in row])
    lettered = {name: own for name, own in groups.items() if own[0]["options"]}
    return {
        "evidence": [
            {"question_type": name} | line
            for name, own in groups.items()
            for kind in KINDS
            for line in _evidence(own, kind)
        ],
        "calibration": [{"question_type": name} | _calibration(own) for name, own in lettered.items()],
        "correlation": [{"question_type": name} | _correlation(own) for name, own in groups.items()],
        "payment": [{"question_type": name} | line for name, own in groups.items() for line in _payment(own)],
        "letters": [
            {"question_type": name, "kind": kind} | _letters(own, kind)
            for name, own in lettered.items()
            for kind in TURNED
            if letters
        ],
    }


def grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of all questions with options, of all without, and of each type where there are several types."""
    with_options, without = [r for r in rows if r["options"]], [r for r in rows if not r["options"]]
    groups = {ALL: with_options, OPEN: without}
    for kind in (with_options, without):
        types = dict.fromkeys(row["question_type"] for row in kind)
        if len(types) > 1:
            suffix = f" ({OPEN})" if kind is without and with_options else ""
            groups |= {f"{t or 'untyped'}{suffix}": [r for r in kind if r["question_type"] == t] for t in types}
    return {name: own for name, own in groups.items() if own}


def _cells(rows: Sequence[Row], *kinds: str) -> tuple[list[Row], list[str], list[str]]:
    """Cells of some kinds, and the video and the question of each."""
    found = [(c, row["video"], row["id"]) for row in rows for c in row["cells"] if not kinds or c["kind"] in kinds]
    cells, videos, questions = ([part[i] for part in found] for i in range(3))
    return cells, videos, questions


def _evidence(rows: Sequence[Row], kind: str) -> list[Row]:
    cells, videos, questions = _cells(rows, kind)
    if not cells:
        return []
    line: Row = {"kind": kind, "questions": len(set(questions)), "n": len(cells)}
    measures = (*REWARDS, *(("correct", "confidence") if rows[0]["options"] else ()))
    for name in measures:
        values = [float(cell[name]) for cell in cells]
        line |= with_ends(name, float(np.mean(values)), bootstrap_interval(values, videos))
    if rows[0]["options"]:
        asked = {row["id"]: row["options"] for row in rows}
        line["chance"] = float(np.mean([1 / asked[question] for question in questions]))
        sure, right = [c["confidence"] for c in cells], [c["correct"] for c in cells]
        line |= calibration_error(sure, right, videos)
        over = np.array(sure) - np.array(right)
        line |= with_ends("overconfidence", float(over.mean()), bootstrap_interval(over, videos))
        lucky = np.array(right) - np.array([1 / asked[question] for question in questions])
        line |= with_ends("above_chance", float(lucky.mean()), bootstrap_interval(lucky, videos))
    return [line]


def _calibration(rows: Sequence[Row]) -> Row:
    """Over everything that was shown, and over what shows no or some of the evidence alone."""
    cells, videos, _ = _cells(rows)
    sure, right = [c["confidence"] for c in cells], [c["correct"] for c in cells]
    line = {"n": len(cells), **calibration_error(sure, right, videos), "bins": reliability(sure, right)}
    blind, where, _ = _cells(rows, *HIDDEN, "part")
    over = [c["confidence"] - c["correct"] for c in blind]
    return line | {"blind_n": len(blind)} | with_ends(
        "blind_overconfidence", float(np.mean(over)), bootstrap_interval(over, where)
    )  # fmt: skip


def _correlation(rows: Sequence[Row]) -> Row:
    """Over random subsets: question by question (METHOD §8.4), and among the subsets of a question, which is what training sees."""
    cells, videos, questions = _cells(rows, "random")
    rewards = [c["reward"] for c in cells]
    line: Row = {"n": len(set(questions))}
    if rows[0]["options"]:
        right = [float(c["correct"]) for c in cells]
        means = _by_question(rows, lambda c: c["reward"]), _by_question(rows, lambda c: float(c["correct"]))
        line |= _named("questions", correlation(*means, [row["video"] for row in rows]))
        line |= _named("subsets", correlation(within(rewards, questions), within(right, questions), videos))
    known = [i for i, cell in enumerate(cells) if cell["recall"] is not None]
    if known:
        own = [questions[i] for i in known]
        seen = within([cells[i]["recall"] for i in known], own)
        paid = within([rewards[i] for i in known], own)
        line |= _named("evidence", correlation(seen, paid, [videos[i] for i in known]))
    return line


def _by_question(rows: Sequence[Row], measure: Callable[[Row], float]) -> list[float]:
    return [float(np.mean([measure(c) for c in row["cells"] if c["kind"] == "random"])) for row in rows]


def _named(name: str, measured: Row) -> Row:
    return {f"{name}{key.removeprefix('r')}": value for key, value in measured.items()}


def _payment(rows: Sequence[Row]) -> list[Row]:
    """How much more a reward pays for hiding than for showing (``difference``), question by question; negative is as it should be.

    ``gain`` is what all evidence (even spacing where none is known) earns more than hiding, for comparison.
    """
    lines = []
    for reward in (*REWARDS, *(("correct",) if rows[0]["options"] else ())):
        means: dict[str, dict[str, float]] = defaultdict(dict)
        for row in rows:
            for kind in (*HIDDEN, *SHOWN):
                own = [c[reward] for c in row["cells"] if c["kind"] == kind]
                if own:
                    means[kind][row["id"]] = float(np.mean(own))
        video_of = {row["id"]: row["video"] for row in rows}
        for hidden in HIDDEN:
            for shown in SHOWN:
                both = [id for id in means[hidden] if id in means[shown]]
                # What even spacing shows is not known where evidence is, and not needed.
                if not both or (shown == "uniform" and means["all"]):
                    continue
                apart = [means[hidden][id] - means[shown][id] for id in both]
                full = means["all"] or means["uniform"]
                gain = float(np.mean([full[id] - means[hidden][id] for id in both if id in full]))
                ends = bootstrap_interval(apart, [video_of[id] for id in both])
                line = {"reward": reward, "hidden": hidden, "shown": shown, "n": len(both), "gain": gain}
                lines.append(line | with_ends("difference", float(np.mean(apart)), ends))
    return lines


def _letters(rows: Sequence[Row], kind: str) -> Row:
    cells, videos, questions = _cells(rows, kind)
    asked = {row["id"]: row["options"] for row in rows}
    options = [asked[question] for question in questions]
    return letter_bias([c["letter"] for c in cells], [c["right"] for c in cells], options, videos)


def find(lines: Sequence[Row], **wanted: str) -> Row | None:
    """The first line that has these values, if there is one."""
    return next((line for line in lines if all(line.get(key) == value for key, value in wanted.items())), None)


def surely_above(line: Row, name: str, limit: float) -> bool:
    """Whether a number is above a limit, and its interval above zero; without an interval the number alone decides."""
    low = line.get(f"{name}_low")
    value = line[name]
    return value is not None and not math.isnan(value) and value > limit and (low is None or low > 0)
