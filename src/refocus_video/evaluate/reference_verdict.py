"""Whether a reference model can teach: limits, and what is said in plain words. Pure.

Limits are ours. What they guard against was seen in training: a model that is sure of itself on partial evidence makes it pay to
show no evidence at all, and the policy learns just that (docs/experiments.md).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from refocus_video.evaluate.metrics import ALL
from refocus_video.evaluate.reference_summary import OPEN, find, surely_above

Row = dict[str, Any]

SEES = 0.10
"""Evidence must raise accuracy by at least this (for open-ended questions, the reward, by ``PAYS``)."""
FOLLOWS = 0.3
"""Least correlation of reward and accuracy over questions. Lucky guesses, which no honest reward pays, keep it far below 1."""
PAYS = 0.05
"""Evidence must raise the reward by at least this."""
HIDES = 1 / 3
"""What hiding earns more than a part of the evidence may be at most so much of what all evidence earns more than hiding.

A policy on its way from nothing to all of the evidence passes through the part."""
NOISE = 0.02
"""Smaller differences of rewards are not looked at."""
CALIBRATED = 0.10
"""Largest expected calibration error."""
MODEST = 0.10
"""Without all evidence, confidence may exceed accuracy by at most this."""
FAIR = 0.10
"""Largest total variation between the letters picked and even shares."""
BLIND = 0.10
"""Without any frame, accuracy may exceed chance by at most this."""

CAN, CARE, CANNOT, UNKNOWN = "can teach", "can teach, with care", "should not teach", "cannot be told"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that was looked at."""

    name: str
    passed: bool | None
    """None where it could not be measured."""
    says: str
    limit: float
    needed: bool = False
    """Whether a model cannot teach without it."""


def verdict(summary: Row, reward: str) -> Row:
    """``verdict``, ``items`` and ``advice``.

    Args:
        summary: what :func:`~refocus_video.evaluate.reference_summary.summarise` gives.
        reward: name of the configured reward.
    """
    groups = [name for name in (ALL, OPEN) if find(summary["evidence"], question_type=name)]
    items = [item for group in groups for item in _items(summary, group, reward)]
    hiding = _hiding(summary, "reward")
    items.append(_hiding_item(hiding, reward, bool(summary["payment"])))
    known = [item for item in items if item.passed is not None]
    if not any(item.needed for item in known):
        word = UNKNOWN
    elif any(item.needed and not item.passed for item in known):
        word = CANNOT
    else:
        word = CAN if all(item.passed for item in known) else CARE
    return {
        "verdict": word,
        "items": [asdict(item) for item in items],
        "advice": _advice(items, summary, bool(hiding), reward),
    }


def _items(summary: Row, group: str, reward: str) -> list[Item]:
    of = "" if group == ALL else f", {OPEN}"
    lines = {line["kind"]: line for line in summary["evidence"] if line["question_type"] == group}
    shown: Literal["all", "uniform"] = "all" if "all" in lines else "uniform"
    hidden = "off" if "off" in lines and shown == "all" else "none"
    with_evidence = "all evidence in sight" if shown == "all" else "evenly spaced frames"
    without = "no evidence in sight" if hidden == "off" else "no frames"
    items = []
    earned = _earned(summary, group, "correct", hidden, shown)
    if earned is not None:
        says = (
            f"accuracy is {lines[shown]['correct']:.2f} with {with_evidence} and {lines[hidden]['correct']:.2f} with "
            f"{without}, chance {lines[shown]['chance']:.2f}"
        )
        items.append(Item("sees", surely_above(earned, "gain", SEES), says, SEES, needed=True))
    earned = _earned(summary, group, "reward", hidden, shown)
    if earned is not None:
        says = f"reward {reward} pays {_signed(earned['gain'])} for {with_evidence} against {without}"
        items.append(Item(f"evidence pays{of}", surely_above(earned, "gain", PAYS), says, PAYS, needed=True))
    if group == OPEN:
        return items
    follows = find(summary["correlation"], question_type=group)
    r = None if follows is None else follows.get("questions")
    says = "reward or accuracy is the same for every question" if r is None else f"over questions {_signed(r)}"
    items.append(
        Item(
            "reward follows accuracy",
            None if r is None else r >= FOLLOWS,
            f"correlation of mean reward and accuracy of random subsets: {says}",
            FOLLOWS,
            needed=True,
        )
    )
    measured = next(line for line in summary["calibration"] if line["question_type"] == group)
    ece, over = measured["ece"], measured["blind_overconfidence"]
    bold = surely_above(measured, "blind_overconfidence", MODEST)
    items.append(Item("calibrated", ece <= CALIBRATED, f"expected calibration error {ece:.2f}", CALIBRATED))
    sure = "sure of itself without the evidence" if bold else "modest without the evidence"
    says = f"{sure}: confidence minus accuracy is {_signed(over)} where evidence is hidden"
    items.append(Item("modest", not bold, says, MODEST))
    items.append(_letters_item(summary, group))
    none = lines["none"]
    says = f"with no frame at all it answers {none['correct']:.0%} right, chance {none['chance']:.0%}"
    items.append(Item("questions need the video", not surely_above(none, "above_chance", BLIND), says, BLIND))
    return items


def _earned(summary: Row, group: str, reward: str, hidden: str, shown: str) -> Row | None:
    """What showing earns more than hiding, with the low end of its interval."""
    line = find(summary["payment"], question_type=group, reward=reward, hidden=hidden, shown=shown)
    if line is None:
        return None
    high = line["difference_high"]
    return {"gain": -line["difference"], "gain_low": None if high is None else -high}


def _letters_item(summary: Row, group: str) -> Item:
    lines = [line for line in summary["letters"] if line["question_type"] == group]
    if not lines:
        return Item("letters", None, "options have no letters in this answer mode, so none can be preferred", FAIR)
    worst = max(lines, key=lambda line: float(line["variation"]))
    leaning = worst["variation"] > FAIR and surely_above(worst, "excess", 0.0)
    where = "no frames" if worst["kind"] == "none" else "evenly spaced frames"
    says = (
        f"with {where} it picks {worst['favourite']} {worst['picked'][worst['favourite']]:.0%} of the time where "
        f"{worst['expected'][worst['favourite']]:.0%} is fair; total variation {worst['variation']:.2f}, "
        f"accuracy by letter differs by {worst['spread']:.2f}"
    )
    return Item("letters", not leaning, says, FAIR)


def _hiding(summary: Row, reward: str) -> list[Row]:
    """Where a reward pays for hiding, the dearest first."""
    found = [
        line
        for line in summary["payment"]
        if line["reward"] == reward
        and surely_above(line, "difference", NOISE)
        and line["difference"] > HIDES * max(0.0, line["gain"])
    ]
    return sorted(found, key=lambda line: -float(line["difference"]))


def _hiding_item(hiding: Sequence[Row], reward: str, measured: bool) -> Item:
    if not measured:
        return Item("hiding does not pay", None, "nothing to compare", HIDES, needed=True)
    if not hiding:
        says = f"hiding evidence earns no more of reward {reward} than showing it, or little in comparison"
        return Item("hiding does not pay", True, says, HIDES, needed=True)
    worst = hiding[0]
    words = {"none": "no frames", "off": "frames without evidence", "part": "part of the evidence",
             "all": "all evidence", "uniform": "evenly spaced frames"}  # fmt: skip
    whose = "" if worst["question_type"] == ALL else f" on {worst['question_type']} questions"
    says = (
        f"reward {reward} pays for hiding frames: {words[worst['hidden']]} earn {worst['difference']:.2f} more than "
        f"{words[worst['shown']]}{whose}, where all of it earns {_signed(worst['gain'])}"
    )
    return Item("hiding does not pay", False, says, HIDES, needed=True)


def _advice(items: Sequence[Item], summary: Row, hides: bool, reward: str) -> list[str]:
    """What to do about it, one sentence each."""
    failed = {item.name for item in items if item.passed is False}
    advice = []
    if hides:
        safe = [name for name in ("probability", "margin") if name != reward and not _hiding(summary, name)]
        advice.append(
            f"use reference.reward={safe[0]}: it does not pay for hiding here"
            if safe
            else "neither margin nor probability is safe with this model: use another one, or another answer_mode"
        )
    if {"sees", "reward follows accuracy"} & failed or any(name.startswith("evidence pays") for name in failed):
        advice.append("show it more frames (--frames) or larger ones, or use another model")
    if {"calibrated", "modest"} & failed and not hides:
        advice.append("prefer reference.reward=probability, which punishes confident errors less than the margin")
    if "letters" in failed:
        advice.append("use reference.rotation=average, or cycle, so that the letter it likes is not learned")
    if "questions need the video" in failed:
        advice.append("leave out the questions that need no video: `refocus filter`")
    return advice


def _signed(value: float) -> str:
    return f"{value:+.2f}"
