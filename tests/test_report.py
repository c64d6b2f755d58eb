"""The report: what it claims, what it shows, and that it is one whole page that loads nothing."""

import math
import random
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refocus_video.errors import DataError, VideoError
from refocus_video.evaluate.filmstrip import choose_cases
from refocus_video.evaluate.metrics import summarise, tabulate
from refocus_video.evaluate.plots import STYLES, budget_curves, running_mean, training_curves
from refocus_video.evaluate.report import (
    build_filmstrips,
    entropy_targets,
    filmstrip_case,
    main_budget,
    same_video_case,
    write_report,
)
from refocus_video.evaluate.tables import accuracy_table, headline
from refocus_video.video.reader import VideoReader
from video_clips import write_clip

EVIL = "<script>alert('&\"')</script>"
VOID = {"meta", "img", "br", "rect"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 8 seconds, 4 frames a second."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", [250 * k for k in range(32)])


def row(number: int, selector: str, *, correct: bool, positions: list[int], **more: Any) -> dict[str, Any]:
    """A row as the evaluation writes it; evidence is second 2 to 2.5 of the clip for even questions, else 5 to 6."""
    evidence = [[2.0, 2.5]] if number % 2 == 0 else [[5.0, 5.5], [5.75, 6.0]]
    times = [0.25 * p for p in positions]
    seen = sum(any(a <= t <= b for t in times) for a, b in evidence)
    return {
        "id": f"q{number}",
        "video": f"v{number // 2}.mp4",
        "question": f"What is shown in scene {number}?",
        "options": ["a dot", "a bar", "a ring"],
        "answer": 0,
        "question_type": "one-hop" if number % 2 == 0 else "two-hop",
        "kind": "color-to-shape",
        "evidence": evidence,
        "selector": selector,
        "budget": len(positions),
        "positions": positions,
        "frame_indices": positions,
        "times": times,
        "predicted": 0 if correct else 1,
        "correct": correct,
        "recall": seen / len(evidence),
        "margin": 0.5,
        "error": None,
    } | more


def make_rows(video: str, questions: int = 12) -> list[dict[str, Any]]:
    """The policy is right except on the last two questions; uniform on every third; all of them at two budgets."""
    rows = []
    for number in range(questions):
        found = [9, 12] if number % 2 == 0 else [21, 23]
        for budget in (1, 2):
            for selector, picks, correct in (
                ("uniform", [4, 20], number % 3 == 0),
                ("policy", found, number < questions - 2),
                ("wrong-question", [1, 30], number % 3 == 0),
                ("oracle", found, True),
            ):
                name = video if number < 4 else f"{video}.{number // 2}"  # only two clips exist
                rows.append(row(number, selector, correct=correct, positions=picks[:budget], video=name))
    return rows


class Checker(HTMLParser):
    """Follows the tags of a page and notes what it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "data")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def history(steps: int) -> list[dict[str, Any]]:
    """Metrics of a training in which two-hop questions come in half-way."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        numbers = {name: float(rng.random()) for name in ("reward", "entropy", "distinct_subsets", "recall/one-hop")}
        late = {"recall/two-hop": float(rng.random())} if step > steps / 2 else {}
        rows.append({"step": step, "budget": 2, "frac_reward_zero_std": 0.0, **numbers, **late})
    return rows


def make_report(folder: Path, rows: list[dict[str, Any]], **more: Any) -> str:
    """Write a report with plain defaults and return its text."""
    given: dict[str, Any] = {
        "title": "A run",
        "results": {"rows": summarise(rows), "timings": {"seconds": 3.0}},
        "rows": rows,
        "history": history(30),
        "warnings": [],
        "filmstrips": [],
        "settings": {"train": {"stages": (1, 2), "folder": Path("data")}},
    }
    return write_report(folder, **(given | more)).read_text(encoding="utf-8")


def test_the_page_is_whole_and_loads_nothing(tmp_path: Path, clip: Path) -> None:
    rows = make_rows(str(clip))
    text = make_report(tmp_path / "new", rows, filmstrips=build_filmstrips(rows, 2))
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    assert "script" not in checker.tags and "link" not in checker.tags
    assert checker.loads and all(place.startswith(("data:image/jpeg;base64,", "#")) for place in checker.loads)
    assert "://" not in text and "@import" not in text and not re.search(r"url\((?!#)", text)
    ids = re.findall(r'\sid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert "max_steps" not in text and "stages:" in text and "folder: data" in text


def test_replies_without_an_option_are_counted_where_there_are_any(tmp_path: Path, clip: Path) -> None:
    rows = make_rows(str(clip))
    assert "none of the options" not in make_report(tmp_path / "read", rows)
    rows[0] |= {"unparsable": True}
    assert f"Replies that name none of the options: 1 of {len(rows)}." in make_report(tmp_path / "unread", rows)


def test_everything_from_outside_is_escaped(tmp_path: Path, clip: Path) -> None:
    more = {"question": EVIL, "options": [EVIL, "a bar"], "question_type": EVIL, "video": str(clip)}
    rows = [row(n, s, correct=s == "policy", positions=[n], **more) for n in (1, 2, 3) for s in ("policy", "uniform")]
    rows += [row(4, s, correct=False, positions=[9], error=EVIL, video=EVIL) for s in ("policy", "uniform", EVIL)]
    text = make_report(
        tmp_path,
        rows,
        title=EVIL,
        filmstrips=build_filmstrips(rows),
        warnings=[EVIL],
        settings={EVIL: EVIL},
        notes=[EVIL],
    )
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 10


def test_the_headline_gives_the_numbers_of_the_first_budget(clip: Path) -> None:
    rows = make_rows(str(clip))
    text = headline(summarise(rows), tabulate(rows), main_budget(rows)).replace("\u00a0", " ")
    assert "<b>2 frames</b>" in text and "<b>83.3 %</b> of 12 questions" in text
    assert "<b>33.3 %</b> with evenly spaced" in text and "<b>100.0 %</b> with frames known" in text
    assert "gain of <b>+50.0 points</b>" in text and "75 % of the way" in text
    assert "the policy does read the question" in text


@pytest.mark.parametrize(
    ("policy", "claim"),
    [(lambda n: n % 2 == 0, "does not tell the two apart"), (lambda n: False, "<b>worse</b> by 50.0 points")],
)
def test_the_headline_claims_no_more_than_the_interval_allows(policy: Any, claim: str) -> None:
    rows = [row(n, "uniform", correct=n % 4 < 2, positions=[n % 9]) for n in range(40)]
    rows += [row(n, s, correct=policy(n), positions=[n % 9]) for n in range(40) for s in ("policy", "wrong-question")]
    text = headline(summarise(rows), tabulate(rows), 1)
    assert claim in text and "does not show that the policy reads" in text


def test_a_report_without_policy_or_training_still_says_so(tmp_path: Path) -> None:
    rows = [row(n, "uniform", correct=True, positions=[n], question_type="", kind="film") for n in range(3)]
    text = make_report(tmp_path, rows, history=[])
    assert "nothing to compare" in text and "No training is recorded" in text and "synthetic" not in text
    with pytest.raises(DataError, match="run the evaluation first"):
        make_report(tmp_path, [])


def test_failures_and_warnings_are_counted(tmp_path: Path, clip: Path) -> None:
    rows = make_rows(str(clip))
    rows = [r | ({"error": f"{r['video']} is cut off", "predicted": None} if r["id"] > "q7" else {}) for r in rows]
    text = make_report(tmp_path, rows, warnings=["first sign", "second sign"])
    assert "Questions that failed: 2, from 1 video." in text  # q8 and q9
    assert "2 warnings" in text and "second sign" in text
    assert f"{clip.parent.name}/clip.mp4.4 is cut off" in text and str(clip.parent) not in text
    assert "class=bad>2 failed</small></td>" in accuracy_table(summarise(rows), 2)


def test_cases_do_not_depend_on_the_order_of_rows(clip: Path) -> None:
    rows = make_rows(str(clip))
    cases = choose_cases(tabulate(rows), 2)
    shuffled = random.Random(1).sample(rows, len(rows))
    assert choose_cases(tabulate(shuffled), 2) == cases
    assert [case.why.split(",")[0] for case in cases] == [
        "The policy is right",
        "The policy is right",
        "One video",
        "Where the policy fails",
    ]
    failure = cases[-1]
    assert not failure.first["correct"] and failure.first["selector"] == "policy"
    pair = cases[2]
    assert pair.first["video"] == pair.second["video"] and pair.first["positions"] != pair.second["positions"]


def test_a_policy_without_failures_is_said_to_have_none(clip: Path) -> None:
    rows = [row(n, s, correct=s == "policy", positions=[9], video=str(clip)) for n in (0, 2) for s in STYLES]
    parts = build_filmstrips(rows)
    assert "has no failure to show" in parts[0]
    assert not any("Where the policy fails" in part for part in parts[1:])


def test_only_frames_with_evidence_are_outlined(clip: Path) -> None:
    policy = row(1, "policy", correct=True, positions=[3, 21, 23], video=str(clip))
    uniform = row(1, "uniform", correct=False, positions=[4, 12, 20], video=str(clip))
    with VideoReader(clip) as reader:
        text = filmstrip_case(policy, uniform, reader, "Why")
        pair = same_video_case(policy, row(0, "policy", correct=True, positions=[9], video=str(clip)), reader)
        with pytest.raises(VideoError, match="asked for"):
            filmstrip_case(policy | {"frame_indices": [99]}, uniform, reader)
    assert re.findall(r"alt='frame at ([\d.]+) s'", text) == ["0.75", "5.25", "5.75", "1.00", "3.00", "5.00"]
    assert re.findall(r"frame hit'><img [^>]*alt='frame at ([\d.]+) s'", text) == ["5.25", "5.75", "5.00"]
    assert "evidence 1" in text and "evidence 2" in text
    assert "✓ answered “a dot”" in text and "✗ answered “a bar”" in text
    assert pair.count("class=question") == 2 and "one-hop" in pair and "two-hop" in pair


def test_a_video_that_is_gone_is_named(tmp_path: Path) -> None:
    rows = make_rows(str(tmp_path / "gone.mp4"))
    assert sum("cannot be shown" in part for part in build_filmstrips(rows, 1)) == 4


def test_plots_are_well_formed_small_and_the_same_twice() -> None:
    text = training_curves(history(2000), [1.0] * 2000)
    ET.fromstring(text)
    assert len(text) < 400_000
    assert text == training_curves(history(2000), [1.0] * 2000)
    for word in (
        "Reward",
        "one-hop",
        "two-hop",
        "target",
        "Distinct subsets",
        "without reward spread",
        "one step in 5",
    ):
        assert word in text
    assert "Accuracy" not in text  # no row has it


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_short_history_is_drawn(steps: int) -> None:
    assert training_curves(history(steps)).startswith("<svg") == (steps > 0)


@pytest.mark.parametrize("budgets", [(2,), (1, 2)])
def test_budget_curves_draw_every_selector(budgets: tuple[int, ...]) -> None:
    rows = [r for r in make_rows("v") if r["budget"] in budgets]
    text = budget_curves(summarise(rows), guessing=1 / 3)
    ET.fromstring(text)
    for label in ("policy", "uniform", "wrong question", "oracle", "guessing", "Evidence recall, two-hop"):
        assert f">{label}<" in text
    assert "Evidence recall" not in budget_curves(summarise([r | {"recall": None} for r in rows]))
    assert budget_curves([]) == ""


def test_every_selector_has_its_own_look() -> None:
    assert len({style.colour for style in STYLES.values()}) == len(STYLES)
    assert len({style.marker for style in STYLES.values()}) == len(STYLES)


def test_running_mean_is_that_of_the_neighbours() -> None:
    values = np.random.default_rng(0).random(20)
    expected = [values[max(0, k - 2) : k + 3].mean() for k in range(20)]
    np.testing.assert_allclose(running_mean(values, 5), expected)


def test_entropy_target_is_as_logged_or_from_the_settings() -> None:
    rows = [{"step": 1}, {"step": 50}, {"step": 100}]
    train = {"entropy_target": [0.8, 0.2], "entropy_target_until": 0.5, "max_steps": 100}
    targets = entropy_targets(rows, {"train": train, "sampling": {"max_frames": 64}})
    assert targets == pytest.approx([(0.8 - 0.6 * share) * math.log(64) for share in (0.02, 1.0, 1.0)])
    assert entropy_targets([r | {"entropy_target": 2.0} for r in rows], {}) == [2.0, 2.0, 2.0]
    assert entropy_targets(rows, {"train": train | {"entropy_target": None}}) is None


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ([1, 2], "the policy picks the same frames"),
        ([2, 3], "1 of the frames that the policy picks is the same"),
        ([3, 4], "the policy picks different frames"),
    ],
)
def test_what_is_said_of_two_questions_is_what_the_rows_hold(other: list[int], said: str) -> None:
    rows = [
        row(number, selector, correct=True, positions=positions, video="v.mp4", evidence=[[number, number + 1]])
        for number, positions in ((0, [1, 2]), (1, other))
        for selector in ("policy", "uniform")
    ]
    (case,) = [case for case in choose_cases(tabulate(rows), 2) if case.first["id"] != case.second["id"]]
    assert case.why == f"One video, two questions: {said}"
