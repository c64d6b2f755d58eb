"""The needle test: what is hidden where, who finds it, and that a cut run goes on."""

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from refocus_video.cli.main import main
from refocus_video.data.haystack.generate import write_mp4
from refocus_video.errors import BudgetError, ConfigError, DataError, VideoError
from refocus_video.evaluate import needle as needle_test
from refocus_video.evaluate.answer import Answering
from refocus_video.evaluate.needle import Hiding, cells, hide, load_film, needle_recall, run_needle
from refocus_video.evaluate.needles import Needle, card_needles, places, read_needles
from refocus_video.evaluate.probe_plots import heat_map, standalone
from refocus_video.reference.base import ScoreRequest
from refocus_video.selectors.base import Pick, Selector
from refocus_video.selectors.learned import Learned
from refocus_video.selectors.uniform import Uniform
from refocus_video.types import ByteArray, Candidates, Question, Timeline
from refocus_video.video.pixels import scaled
from tiny_policy import tiny_policy

Row = dict[str, Any]
QUESTION = Question("Which picture is bright?", ("this one", "none"))
HIDING = Hiding(lengths=(16, 40), depths=(0, 50, 100), budgets=(1, 4))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 dark pictures of 60×80, each a little brighter than the one before."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    pictures = np.full((50, 60, 80, 3), 20, np.uint8) + np.arange(50, dtype=np.uint8)[:, None, None, None]
    write_mp4(path, pictures, 10)
    return path


def bright(name: str = "bright", frames: int = 1, answer: int | None = 0) -> Needle:
    return Needle(name, QUESTION, np.full((frames, 20, 20, 3), 250, np.uint8), answer)


@dataclass(frozen=True)
class Brightest:
    """Picks the brightest pictures, whatever is asked; breaks down at one length if told so."""

    name: str = "brightest"
    fails_at: int = 0

    def open(self, candidates: Candidates | Timeline) -> "Brightest._Open":
        assert isinstance(candidates, Candidates), "a needle is in no file"
        if len(candidates) == self.fails_at:
            raise VideoError("broken on purpose")
        return Brightest._Open(np.argsort(-candidates.frames.mean((1, 2, 3)), kind="stable"))

    @dataclass(frozen=True)
    class _Open:
        order: Any

        def pick(self, questions: Sequence[Question], budget: int) -> list[Pick]:
            return [Pick(self.order[:budget]) for _ in questions]


class Eye:
    """A model that takes the first option if it sees anything bright."""

    image_size = (8, 8)

    def encode(self, frames: ByteArray) -> Tensor:
        return torch.from_numpy(frames.mean((1, 2, 3)))[:, None]

    def score(self, requests: Sequence[ScoreRequest]) -> list[Tensor]:
        found = []
        for request in requests:
            assert isinstance(request.features, Tensor)
            brightest = request.features[request.subsets].amax((1, 2))
            found.append(torch.stack((brightest - 150, 150 - brightest), dim=-1).float())
        return found


# ------------------------------------------------------------------ hiding


def test_a_needle_changes_its_own_pictures_and_no_others(film: Path) -> None:
    whole, card = bright(frames=2), card_needles(4)[0]
    before = load_film(film, 20).candidates
    kept = before.frames.copy()
    after = hide(before, [whole, card], np.array([5, 12]))
    assert np.array_equal(before.frames, kept), "the film is used again for the next cell"
    assert np.flatnonzero((after.frames != kept).any((1, 2, 3))).tolist() == [5, 6, 12]
    assert (after.frames[5:7] == 250).all()
    assert np.array_equal(after.times, before.times) and np.array_equal(after.frame_indices, before.frame_indices)
    height, width = kept.shape[1:3]
    rows, columns = np.nonzero((after.frames[12] != kept[12]).any(-1))
    top, left, tall, wide = card.box
    assert rows.min() >= top * height and rows.max() < (top + tall) * height
    assert columns.min() >= left * width and columns.max() < (left + wide) * width
    assert len(rows) > 0.9 * tall * wide * height * width


def test_candidates_are_spread_over_the_whole_film(film: Path) -> None:
    loaded = load_film(film, 20)
    indices = loaded.candidates.frame_indices
    assert (indices[0], indices[-1], len(indices)) == (0, 49, 20)
    assert loaded.duration_s == pytest.approx(5.0)
    with pytest.raises(BudgetError, match=r"51 candidates.*50 frames"):
        load_film(film, 51)


def test_a_needle_lies_at_its_depth() -> None:
    rng = np.random.default_rng(0)
    exact = [places(100, depth, [3], 0, 0.0, rng)[0] for depth in (0, 25, 50, 100)]
    assert exact == [0, 24, 48, 97]
    near = np.array([places(1000, 50, [1], 0, 5.0, rng)[0] for _ in range(400)])
    assert 449 <= near.min() < 465 and 535 < near.max() <= 550
    early = [places(1000, 0, [1], 0, 5.0, rng)[0] for _ in range(400)]
    assert 0 <= min(early) < 10 and max(early) <= 50, "not before the beginning"
    late = [places(1000, 100, [2], 0, 5.0, rng)[0] for _ in range(400)]
    assert min(late) > 940 and 990 < max(late) <= 998, "not behind the end"


def test_the_depths_together_cover_the_film_evenly() -> None:
    """So that even spacing finds a needle as often as its share of the frames says."""
    hiding, rng = Hiding(), np.random.default_rng(0)
    assert (
        hiding.reach == 12.5 and replace(hiding, spread=3.0).reach == 3.0 and replace(hiding, depths=(50,)).reach == 0
    )
    # The first and the last depth have half the room, so they count half.
    weights = {0: 500, 25: 1000, 50: 1000, 75: 1000, 100: 500}
    starts = [places(64, depth, [1], 0, hiding.reach, rng)[0] for depth, count in weights.items() for _ in range(count)]
    hit = np.isin(starts, Uniform().positions(np.arange(64.0), 8)).mean()
    assert hit == pytest.approx(8 / 64, abs=0.02)


def test_lures_touch_neither_the_needle_nor_each_other() -> None:
    for seed in range(60):
        starts = places(24, 50, [2, 3, 1, 2], 0, 5.0, np.random.default_rng(seed))
        taken = sorted(zip(starts.tolist(), (2, 3, 1, 2), strict=True))
        assert all(start + size < after for (start, size), (after, _) in pairwise(taken))
        assert taken[0][0] >= 0 and sum(taken[-1]) <= 24
    with pytest.raises(BudgetError, match="do not fit"):
        places(6, 50, [2, 2, 2, 2], 0, 0.0, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("picked", "start", "size", "share"),
    [([3, 7], 7, 1, 1.0), ([3, 7], 4, 3, 0.0), ([3, 7], 6, 4, 0.5), ([3, 4, 9], 3, 2, 1.0)],
)
def test_recall_is_the_share_of_what_could_be_found(picked: list[int], start: int, size: int, share: float) -> None:
    assert needle_recall(np.array(picked), start, size) == share


def test_cards_are_asked_about_by_what_is_on_them() -> None:
    cards = card_needles(10, frames=2, seed=3)
    assert len({one.id for one in cards}) == len({one.digest for one in cards}) == 10
    for one in cards:
        assert one.id.removeprefix("card-") in one.question.text
        assert one.pictures.shape[0] == 2 and len(one.question.options) == 4 and one.answer is not None
    right = [one.question.options[one.answer or 0] for one in cards]
    assert len(set(right)) == 10, "every shape is on one card"
    assert {one.answer for one in cards} == {0, 1, 2, 3}
    with pytest.raises(DataError, match="4 to 10"):
        card_needles(11)


# ------------------------------------------------------------------ reading needles


def test_needles_are_read_from_pictures_clips_folders_and_lines(tmp_path: Path, film: Path) -> None:
    Image.new("RGB", (30, 20), (255, 0, 0)).save(tmp_path / "red.png")
    (red,) = read_needles(tmp_path / "red.png", QUESTION, 1, frames=3)
    assert (red.id, red.answer, red.pictures.shape) == ("red", 1, (3, 20, 30, 3))
    (clip,) = read_needles(film, QUESTION, None, frames=5)
    assert clip.pictures.shape == (5, 60, 80, 3) and (np.diff(clip.pictures.mean((1, 2, 3))) > 5).all()
    Image.new("RGB", (30, 20), (0, 0, 255)).save(tmp_path / "blue.png")
    assert [one.id for one in read_needles(tmp_path, QUESTION, 0)] == ["blue", "red"]
    line: Row = {"needle": "red.png", "question": "Which colour?", "options": ["red", "blue"], "answer": 0}
    (tmp_path / "needles.jsonl").write_text(json.dumps(line) + "\n\n" + json.dumps({"id": "b"} | line) + "\n", "utf-8")
    assert [one.id for one in read_needles(tmp_path, None, None)] == ["red", "b"]
    for wrong, said in (
        (line | {"answer": 2}, "line 1: the answer must be the position of one of 2 options"),
        (line | {"colour": 1}, "field 'colour': unknown"),
        ({"needle": "red.png"}, "field 'question'"),
        ([1], "not a JSON object"),
    ):
        (tmp_path / "needles.jsonl").write_text(json.dumps(wrong), "utf-8")
        with pytest.raises(DataError, match=said):
            read_needles(tmp_path, None, None)


@pytest.mark.parametrize(
    ("source", "asked", "error", "said"),
    [
        ("film.mp4", None, DataError, "give one with --question"),
        ("film.mp4", QUESTION, DataError, "50 frames, asked for 60"),
        ("gone.png", QUESTION, VideoError, "no video file"),
    ],
)
def test_a_needle_that_cannot_be_used_is_named(
    film: Path, source: str, asked: Question | None, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        read_needles(film.with_name(source), asked, None, frames=60)


# ------------------------------------------------------------------ the test itself


def test_who_looks_finds_and_who_does_not_finds_by_chance(film: Path, tmp_path: Path) -> None:
    needles = [bright(str(i)) for i in range(4)]
    results = run_needle(
        film, needles, [Brightest(), Uniform()], HIDING, tmp_path, {}, answering=Answering(Eye(), "eye")
    )
    assert results == json.loads((tmp_path / "needle.json").read_text("utf-8"))
    rows = results["rows"]
    assert len(rows) == 2 * 2 * 2 * 3 and all(row["n"] == 4 and row["failed"] == 0 for row in rows)
    looked = [row for row in rows if row["selector"] == "brightest"]
    assert all(row["recall"] == row["accuracy"] == 1.0 for row in looked)
    chance = [row["recall"] for row in rows if row["selector"] == "uniform" and row["length"] == 40]
    assert 0.0 <= np.mean(chance) < 0.4
    for line in (tmp_path / "needle.jsonl").read_text("utf-8").splitlines()[1:]:
        row = json.loads(line)
        assert row["correct"] == (row["start"] in row["positions"]) == bool(row["recall"])
    svg = (tmp_path / "needle.svg").read_text("utf-8")
    assert svg.startswith("<?xml") and "brightest, 4 frames" in svg
    assert (tmp_path / "needle-accuracy.svg").is_file()


def test_a_cut_run_goes_on_and_decodes_only_what_it_needs(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[int] = []

    def counting(path: Path, length: int) -> Any:
        loaded.append(length)
        return load_film(path, length)

    monkeypatch.setattr(needle_test, "load_film", counting)
    needles = [bright("a"), bright("b")]
    selectors: list[Selector] = [Brightest(), Uniform()]
    whole = run_needle(film, needles, selectors, HIDING, tmp_path, {"a": 1})
    assert loaded == [16, 40], "once a length"
    journal = tmp_path / "needle.jsonl"
    text = journal.read_text("utf-8")
    journal.write_text(text[: int(len(text) * 0.8)], "utf-8")
    calls: list[int] = []
    again = run_needle(film, needles, selectors, HIDING, tmp_path, {"a": 1}, progress=lambda: calls.append(1))
    assert again == whole and loaded == [16, 40, 40]
    assert len(calls) == len(cells(needles, HIDING)) == 12
    with pytest.raises(ConfigError, match="other settings"):
        run_needle(film, needles, selectors, HIDING, tmp_path, {"a": 2})


def test_a_selector_that_fails_has_found_nothing_and_is_counted(film: Path, tmp_path: Path) -> None:
    selectors: list[Selector] = [Brightest(fails_at=40), Uniform()]
    results = run_needle(film, [bright()], selectors, HIDING, tmp_path, {}, answering=Answering(Eye(), "eye"))
    failed = [row for row in results["rows"] if row["failed"]]
    assert {(row["selector"], row["length"]) for row in failed} == {("brightest", 40)}
    assert all(row["recall"] == row["accuracy"] == 0.0 for row in failed) and len(failed) == 6
    assert results["failures"] == [{"reason": "broken on purpose", "rows": 6}]


def test_a_needle_without_an_answer_is_only_looked_for(film: Path, tmp_path: Path) -> None:
    results = run_needle(
        film, [bright(answer=None)], [Brightest()], HIDING, tmp_path, {}, answering=Answering(Eye(), "eye")
    )
    assert all(row["accuracy"] is None and row["recall"] == 1.0 for row in results["rows"])
    assert not (tmp_path / "needle-accuracy.svg").exists()


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"budgets": (1, 20)}, BudgetError, "smallest number of candidates \\(16\\)"),
        ({"depths": (0, 110)}, ConfigError, "0 to 100"),
        ({"lengths": ()}, ConfigError, "lengths must be different"),
        ({"spread": -1.0}, ConfigError, "spread"),
    ],
)
def test_an_impossible_test_is_refused(change: Row, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        replace(HIDING, **change)


def test_lures_need_further_needles(film: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 lures need"):
        run_needle(film, [bright()], [Uniform()], replace(HIDING, lures=1), tmp_path, {})


def test_the_policy_takes_pictures_of_any_size(film: Path) -> None:
    selector, pool = Learned(tiny_policy()), load_film(film, 12).candidates
    small = replace(pool, frames=scaled(pool.frames, (32, 32)))
    one, other = (selector.open(frames).pick([QUESTION], 4)[0].positions for frames in (pool, small))
    assert one.tolist() == other.tolist()


def test_a_heat_map_shows_every_known_cell() -> None:
    rows = [
        {"selector": "uniform", "budget": 1, "length": length, "depth": depth, "recall": 0.37, "accuracy": None}
        for length in (64, 128)
        for depth in (0, 100)
    ]
    figure = heat_map(rows)
    assert figure.count(">.37<") == 4 and ">64<" in figure and ">100 %<" in figure
    assert heat_map(rows, "accuracy") == heat_map([]) == ""
    assert standalone(figure).count('xmlns="http://www.w3.org/2000/svg"') == 1


# ------------------------------------------------------------------ the command


def refocus(*arguments: str | Path) -> tuple[int, str, str]:
    out, err, code = StringIO(), StringIO(), 0
    argv = ["refocus", *map(str, arguments)]
    with patch.object(sys, "argv", argv), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, out.getvalue(), err.getvalue()


def test_the_command_runs_without_any_file_but_the_film(film: Path, tmp_path: Path) -> None:
    how = ("--lengths", "16,32", "--depths", "0,100", "--budgets", "2", "--cards", "4", "--output", tmp_path)
    code, out, err = refocus("needle", film, *how, "--model", "haystack-tiny,answer_mode=words", "--json")
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert {row["selector"] for row in rows} == {"uniform", "policy"} and len(rows) == 2 * 4
    found = {name: np.mean([r["recall"] for r in rows if r["selector"] == name]) for name in ("uniform", "policy")}
    assert found["policy"] > 0.8 > found["uniform"], "the bundled policy finds cards over other pictures too"
    code, out, err = refocus("needle", film, *how, "--model", "haystack-tiny,answer_mode=words")
    assert code == 0 and "recall of the needle / accuracy" in out and "heat map:" in err
    code, out, err = refocus("needle", film, *how)
    assert code == 2 and out == "" and "other settings" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--lengths", "16,x"), "--lengths takes whole numbers"),
        (("--question", "What?"), "name one with --needle"),
        (("--lengths", "60"), "asked for 60 candidates; give --lengths of at most 50"),
        (("--needle", "{film}", "--question", "What?", "--answer", "0"), "position of one of 0 options"),
        (("--cards", "2"), "4 to 10"),
    ],
)
def test_bad_input_is_one_line(film: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    given = [text.format(film=film) for text in arguments]
    code, out, err = refocus("needle", film, "--selector", "uniform", "--output", tmp_path, *given)
    assert code == 2 and out == "" and said in err and "Traceback" not in err


def test_a_film_too_short_for_a_later_length_is_told_before_the_first_needle(film: Path, tmp_path: Path) -> None:
    given = ("--selector", "uniform", "--output", tmp_path, "--lengths", "16,60,70", "--budgets", "1")
    code, _, err = refocus("needle", film, *given)
    assert code == 2
    assert "has 50 frames, asked for 60, 70 candidates; give --lengths of at most 50" in err
    assert not (tmp_path / "needle.jsonl").exists()
