"""The words and tables of a report: the headline in three sentences, its four numbers, accuracy by selector. HTML."""

from collections.abc import Sequence
from html import escape
from typing import Any

from refocus_video.evaluate.figure import css_colour
from refocus_video.evaluate.metrics import ALL, Table, accuracy_gain
from refocus_video.evaluate.plots import style_of

Row = dict[str, Any]

NBSP = "\u00a0"
"""Keeps a number and its percent sign on one line."""


def percent(value: float | None) -> str:
    """``78.3 %``, or a dash."""
    return "–" if value is None else f"{100 * value:.1f}{NBSP}%"


def points(value: float | None, decimals: int = 1) -> str:
    """A difference of shares in percentage points with its sign: ``+37.1``, or a dash."""
    return "–" if value is None else f"{100 * value:+.{decimals}f}".replace("-", "\u2212")


def ends(low: float | None, high: float | None, signed: bool = False) -> str:
    """Both ends of an interval of shares, in percent or, signed, in percentage points; empty where they are not known."""
    if low is None or high is None:
        return ""
    if signed:  # "to", since a dash would look like a minus
        return f"{points(low, 0)} to {points(high, 0)}"
    return f"{100 * low:.0f}–{100 * high:.0f}"


def find(lines: Sequence[Row], selector: str, budget: int, question_type: str = ALL) -> Row | None:
    """The line of one selector, budget and question type, if there is one."""
    key = (selector, budget, question_type)
    return next((x for x in lines if (x["selector"], x["budget"], x["question_type"]) == key), None)


def headline(lines: Sequence[Row], table: Table, budget: int) -> str:
    """What happened, in up to three sentences for a newcomer; a claim is made only where its interval allows it."""
    policy, uniform = find(lines, "policy", budget), find(lines, "uniform", budget)
    if policy is None or uniform is None:
        return "<p>There are no rows of both the policy and uniform sampling, so there is nothing to compare.</p>"
    oracle = find(lines, "oracle", budget)
    frames = "1 frame" if budget == 1 else f"{budget} frames"
    first = (
        f"Shown only <b>{frames}</b> of each video, the answering model gets <b>{percent(policy['accuracy'])}</b> of "
        f"{policy['n']} questions right when the trained policy picks the frames, "
        f"against <b>{percent(uniform['accuracy'])}</b> with evenly spaced frames"
    )
    if oracle:
        first += f" and <b>{percent(oracle['accuracy'])}</b> with frames known to hold the evidence (the oracle)"
    sentences = [first + ".", _gain_sentence(policy, uniform, oracle)]
    control = accuracy_gain(table, "policy", "wrong-question", budget) if _comparable(table, budget) else None
    wrong = find(lines, "wrong-question", budget)
    if wrong:
        sentences.append(_control_sentence(wrong, control))
    return f"<p>{' '.join(sentences)}</p>"


def _comparable(table: Table, budget: int) -> bool:
    # The control leaves out a question whose video holds no other one to ask.
    return table.get(("policy", budget), {}).keys() <= table.get(("wrong-question", budget), {}).keys()


def _gain_sentence(policy: Row, uniform: Row, oracle: Row | None) -> str:
    gain, low, high = (policy[f"accuracy_gain{end}"] for end in ("", "_low", "_high"))
    interval = "" if low is None or high is None else f" (95{NBSP}% interval {ends(low, high, signed=True)})"
    if low is None or (low <= 0 <= high):
        return f"The difference of {points(gain)} points{interval} does not tell the two apart."
    if gain < 0:
        return f"The policy is <b>worse</b> by {points(abs(gain))[1:]} points{interval}."
    room = (oracle["accuracy"] - uniform["accuracy"]) if oracle else 0.0
    share = f", {100 * gain / room:.0f}{NBSP}% of the way from even spacing to the oracle" if room > 0 else ""
    return f"That is a gain of <b>{points(gain)} points</b>{interval}{share}."


def _control_sentence(wrong: Row, control: tuple[float, float, float] | None) -> str:
    said = f"Picked for a different question about the same video, the frames give <b>{percent(wrong['accuracy'])}</b>"
    if control is None:
        return f"{said} on the {wrong['n']} questions that have such a partner."
    if control[1] > 0:
        return f"{said}: the policy does read the question."
    return f"{said}, not clearly less: this run does not show that the policy reads the question."


def tiles(lines: Sequence[Row], budget: int) -> str:
    """The four headline numbers: policy, uniform, oracle, wrong question."""
    parts = []
    for name in ("policy", "uniform", "oracle", "wrong-question"):
        line, style = find(lines, name, budget), style_of(name)
        if line is None:
            continue
        recall = "" if line["recall"] is None else f"<br>sees {percent(line['recall'])} of the evidence"
        interval = ends(line["accuracy_low"], line["accuracy_high"])
        said = f"95 % interval {interval}" if interval else "accuracy"
        parts.append(
            f"<div class=tile style='--colour:{css_colour(style.colour)}'><h2>{escape(style.label)}</h2>"
            f"<b>{percent(line['accuracy'])}</b><p>{said}{recall}</p></div>"
        )
    return f"<div class=tiles>{''.join(parts)}</div>"


def accuracy_table(lines: Sequence[Row], budget: int) -> str:
    """Accuracy, evidence recall and gain of every selector with one budget, a group of columns per question type."""
    own = [line for line in lines if line["budget"] == budget]
    kinds = list(dict.fromkeys(line["question_type"] for line in own))
    selectors = list(dict.fromkeys(line["selector"] for line in own))
    head = "".join(f"<th colspan=3 class=group>{escape('all questions' if k == ALL else k)}</th>" for k in kinds)
    names = "<th class=first>accuracy</th><th>recall</th><th>gain</th>" * len(kinds)
    body = "".join(_table_row(own, selector, selectors, kinds, budget) for selector in selectors)
    return (
        "<div class=scroll><table><thead>"
        f"<tr><th rowspan=2 class=name>frames picked by</th>{head}<th rowspan=2>questions</th>"
        f"</tr><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _table_row(own: Sequence[Row], selector: str, selectors: Sequence[str], kinds: Sequence[str], budget: int) -> str:
    style = style_of(selector, selectors)
    meaning = f"<small>{escape(style.meaning)}</small>" if style.meaning else ""
    cells = [f"<td class=name><i style='background:{css_colour(style.colour)}'></i>{escape(style.label)}{meaning}</td>"]
    for kind in kinds:
        line = find(own, selector, budget, kind)
        if line is None:
            cells.append("<td class=first>–</td><td>–</td><td>–</td>")
            continue
        for name, shape in (("accuracy", percent), ("recall", percent), ("accuracy_gain", points)):
            value, low, high = (line[f"{name}{end}"] for end in ("", "_low", "_high"))
            small = f"<small>{ends(low, high, signed=name == 'accuracy_gain')}</small>"
            cells.append(f"<td{' class=first' if name == 'accuracy' else ''}>{shape(value)}{small}</td>")
    whole = find(own, selector, budget)
    n, failed = (whole["n"], whole["failed"]) if whole else ("–", 0)
    lost = f"<small class=bad>{failed} failed</small>" if failed else ""
    cells.append(f"<td class=first>{n}{lost}</td>")
    return f"<tr{' class=ours' if selector == 'policy' else ''}>{''.join(cells)}</tr>"
