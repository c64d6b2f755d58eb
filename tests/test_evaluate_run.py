"""Choosing: every question counts in every row of the table, controls do what they promise, a cut run goes on."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refocus_video.config import SamplingConfig
from refocus_video.data.examples import read_examples
from refocus_video.data.haystack.generate import write_mp4
from refocus_video.data.selections import Chosen
from refocus_video.errors import (
    BudgetError,
    ConfigError,
    DataError,
    QuestionError,
    ReferenceModelError,
    RefocusWarning,
)
from refocus_video.evaluate import controls
from refocus_video.evaluate.answer import Answering, answer
from refocus_video.evaluate.choose import Choosing
from refocus_video.evaluate.judge import ModelJudge
from refocus_video.evaluate.run import evaluate, units
from refocus_video.evaluation import Spec, folder_identity, load_selectors
from refocus_video.reference.base import ScoreRequest
from refocus_video.reference.huggingface import HuggingFaceReference
from refocus_video.selectors.base import OpenVideo, Pick, to_selection
from refocus_video.selectors.learned import FrameSelector, Learned
from refocus_video.selectors.picking import Picking
from refocus_video.selectors.random import Random
from refocus_video.selectors.stream import index_frames
from refocus_video.selectors.uniform import Uniform
from refocus_video.train.tiny_reference import TinyReferenceConfig, new_reference
from refocus_video.types import Candidates, Example, Question, Span
from refocus_video.video.candidates import candidate_timeline, load_candidates
from refocus_video.video.reader import VideoReader
from tiny_policy import tiny_policy

SAMPLING = SamplingConfig(fps=4.0, max_frames=64)
Row = dict[str, Any]


@pytest.fixture(scope="module")
def reference() -> HuggingFaceReference:
    made = new_reference(TinyReferenceConfig(width=32, layers=2))
    made.answer_mode = "words"
    return made


@pytest.fixture(scope="module")
def examples(haystack: Path) -> list[Example]:
    return read_examples(haystack / "validation.jsonl")


@pytest.fixture(scope="module")
def plan() -> Choosing:
    policy = tiny_policy()
    return Choosing((Uniform(), Random(3), Learned(policy)), (2, 5), SAMPLING)


@pytest.fixture(scope="module")
def rows(
    examples: list[Example],
    reference: HuggingFaceReference,
    plan: Choosing,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Row]:
    return evaluate(examples, [Answering(reference, "tiny")], plan, tmp_path_factory.mktemp("whole"), {"a": 1})


def _timeless(row: Row) -> Row:
    return {k: v for k, v in row.items() if not k.endswith("seconds")}


def _lines(folder: Path) -> list[Row]:
    """Everything in the file but how long it took."""
    lines = (folder / "rows.jsonl").read_text(encoding="utf-8").split("\n")
    return [_timeless(json.loads(line)) for line in lines if line]


def _count(rows: Sequence[Row]) -> dict[tuple[str, int], int]:
    counts: dict[tuple[str, int], int] = {}
    for row in rows:
        key = (row["selector"], row["budget"])
        counts[key] = counts.get(key, 0) + 1
    return counts


# ------------------------------------------------------------------ what a row says


def test_every_question_has_a_row_for_every_selector_and_budget(
    rows: list[Row], examples: list[Example], plan: Choosing
) -> None:
    assert plan.names == ("uniform", "random", "policy", "wrong-question", "query-blind", "oracle")
    assert _count(rows) == {(name, budget): len(examples) for name in plan.names for budget in plan.budgets}


def test_a_row_agrees_with_the_reference_model_asked_directly(
    rows: list[Row], examples: list[Example], reference: HuggingFaceReference
) -> None:
    known = {e.id: e for e in examples}
    candidates = {v: load_candidates(v, (32, 32), SAMPLING) for v in {e.video for e in examples}}
    features = {v: reference.encode(c.frames) for v, c in candidates.items()}
    right = 0
    for row in rows:
        example, pool = known[row["id"]], candidates[row["video"]]
        positions = torch.tensor([row["positions"]])
        request = ScoreRequest(
            features[row["video"]],
            torch.from_numpy(pool.times),
            Question(row["question"], tuple(row["options"])),
            positions,
        )
        (scores,) = reference.score([request])
        others = [float(s) for i, s in enumerate(scores[0]) if i != example.answer]
        assert row["margin"] == pytest.approx(float(scores[0][example.answer]) - max(others), abs=1e-4)
        if abs(row["margin"]) > 1e-3:
            assert row["correct"] == (row["predicted"] == row["answer"]) == (row["margin"] > 0)
        assert row["frame_indices"] == pool.frame_indices[row["positions"]].tolist()
        assert row["times"] == pytest.approx(pool.times[row["positions"]].tolist(), abs=1e-6)
        hit = [any(s.start_s <= t <= s.end_s for t in row["times"]) for s in example.evidence]
        assert row["recall"] == pytest.approx(sum(hit) / len(hit))
        assert len(row["positions"]) == row["budget"]
        assert row["error"] is None
        right += row["correct"]
    assert 0 < right < len(rows)


def test_controls_do_what_they_promise(rows: list[Row], examples: list[Example]) -> None:
    known = {e.id: e for e in examples}
    by_key = {(r["id"], r["selector"], r["budget"]): r for r in rows}
    for row in rows:
        example = known[row["id"]]
        if row["selector"] == "oracle":
            assert row["recall"] == 1
        if row["selector"] == "query-blind":
            events = [Span(e["start_s"], e["end_s"]) for e in example.metadata["events"]]
            seen = [[event.contains(t) for t in row["times"]].count(True) for event in events]
            assert seen.count(1) == row["budget"]  # K different events, one frame of each
        if row["selector"] == "wrong-question":
            others = [e for e in examples if e.video == example.video and not set(e.evidence) & set(example.evidence)]
            asked = [by_key[e.id, "policy", row["budget"]]["positions"] for e in others]
            assert row["positions"] in asked


# ------------------------------------------------------------------ controls


def _pool(count: int = 20, video: str = "v.mp4") -> Candidates:
    return Candidates(
        video, np.zeros((count, 2, 2, 3), np.uint8), np.arange(count) * 3, np.arange(count, dtype=np.float64) / 2
    )


def _example(identity: str, *spans: tuple[float, float], **metadata: Any) -> Example:
    question = Question(f"{identity}?", ("x", "y"))
    return Example(identity, "v.mp4", question, 0, tuple(Span(*s) for s in spans), metadata=metadata)


def test_the_oracle_takes_evidence_first_and_passes_over_spans_without_a_candidate() -> None:
    example = _example("a", (1.0, 1.5), (2.1, 2.2), (8.0, 9.5))  # no candidate lies at 2.1 to 2.2 s
    for seed in range(30):
        for budget in (1, 2, 5, 20):
            pick = controls.oracle(example, _pool().timeline, budget, np.random.default_rng(seed))
            assert pick is not None
            positions = pick.positions.tolist()
            assert len(positions) == budget
            assert positions[0] in (2, 3)
            if budget > 1:
                assert positions[1] in (16, 17, 18, 19)
    assert controls.oracle(_example("a"), _pool().timeline, 2, np.random.default_rng(0)) is None


def test_the_oracle_fills_up_at_random() -> None:
    example = _example("a", (1.0, 1.0))
    fillers = {
        int(p)
        for seed in range(200)
        for p in controls.oracle(example, _pool().timeline, 3, np.random.default_rng(seed)).positions[1:]  # type: ignore[union-attr]
    }
    assert fillers == set(range(20)) - {2}


def test_query_blind_ignores_which_event_is_asked_for() -> None:
    events = [{"start_s": float(i), "end_s": i + 0.5} for i in range(8)]
    hits = np.zeros(8)
    for seed in range(400):
        pick = controls.query_blind(
            _example("a", (3.0, 3.5), events=events), _pool().timeline, 2, np.random.default_rng(seed)
        )
        assert pick is not None
        hits[pick.positions // 2] += 1
    assert hits.sum() == 800
    assert hits.min() > 60
    assert hits.max() < 145
    assert controls.query_blind(_example("a", (3.0, 3.5)), _pool().timeline, 2, np.random.default_rng(0)) is None


def test_the_other_question_shares_no_evidence() -> None:
    first, same, touching, far = (
        _example("first", (1.0, 2.0)),
        _example("same", (1.0, 2.0)),
        _example("touching", (1.9, 4.0)),
        _example("far", (5.0, 6.0), (3.0, 3.5)),
    )
    unknown = _example("unknown")
    assert controls.other_question(first, [first, same, touching, unknown, far]) is far
    assert controls.other_question(first, [first, same, touching, unknown]) is None
    assert controls.other_question(touching, [first, far, unknown]) is None
    assert controls.other_question(unknown, [first, far]) is None  # who knows what it needs


def test_the_wrong_question_is_asked_of_the_same_video() -> None:
    class Telltale:
        def pick(self, questions: Sequence[Question], budget: int) -> list[Pick]:
            return [Pick(np.array([{"a?": 1, "b?": 2}[q.text]])) for q in questions]

    group = [_example("a", (1.0, 2.0)), _example("b", (5.0, 6.0)), _example("c")]
    picks = controls.wrong_question(group, Telltale(), 1)
    assert [None if p is None else p.positions.tolist() for p in picks] == [[2], [1], None]


# ------------------------------------------------------------------ videos that fail


def test_a_bad_video_counts_as_wrong_in_every_row_it_would_have_had(
    examples: list[Example], reference: HuggingFaceReference, plan: Choosing, rows: list[Row], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    bad = [replace(e, id=f"bad-{e.id}", video=str(broken)) for e in examples if e.video == examples[0].video]
    unknown = replace(bad[0], id="bad-unknown", evidence=(), metadata={})
    good = [replace(e, id=f"good-{e.id}") for e in (*examples[: len(bad)], replace(examples[0], id="unknown"))]
    good[-1] = replace(good[-1], evidence=(), metadata={})
    found = evaluate([*bad, unknown, *good], [Answering(reference, "tiny")], plan, tmp_path / "out", {})
    failed = [row for row in found if row["id"].startswith("bad")]
    fine = [row for row in found if row["id"].startswith("good")]
    assert _count(failed) == _count(fine)  # the denominators do not depend on whether a file can be read
    assert _count(failed)["oracle", 2] == _count(failed)["uniform", 2] - 1
    for row in failed:
        assert "broken.mp4" in row["error"]
        assert row["correct"] is False
        assert row["predicted"] is None
        assert row["positions"] == []
        assert row["recall"] == (None if row["id"] == "bad-unknown" else 0.0)
    assert all(row["error"] is None for row in fine)


def test_a_video_with_fewer_candidates_than_the_budget_gives_all_of_them(
    reference: HuggingFaceReference, plan: Choosing, tmp_path: Path
) -> None:
    video = tmp_path / "short.mp4"
    write_mp4(video, np.random.default_rng(0).integers(0, 256, (8, 96, 96, 3), dtype=np.uint8), fps=8)
    example = Example("s", str(video), Question("Which shape is on the red card?", ("cross", "ring")), 0, (Span(0, 1),))
    rows = evaluate(
        [example], [Answering(reference, "tiny")], plan, tmp_path / "out", {}
    )  # 1 second: 4 candidates; budgets 2 and 5
    assert {row["selector"] for row in rows} >= {"uniform", "random", "policy", "oracle"}
    assert all(row["error"] is None for row in rows)
    assert {row["budget"]: sorted(row["positions"]) for row in rows if row["budget"] == 5} == {5: [0, 1, 2, 3]}
    assert {len(row["positions"]) for row in rows if row["budget"] == 2} == {2}


# ------------------------------------------------------------------ choices made elsewhere


class Watching:
    """A reference model that notes what it is shown."""

    image_size = (32, 32)

    def __init__(self) -> None:
        self.encoded = 0
        self.times: list[list[float]] = []

    def encode(self, frames: Any) -> torch.Tensor:
        self.encoded += len(frames)
        return torch.zeros(len(frames), 1)

    def score(self, requests: Sequence[ScoreRequest]) -> list[torch.Tensor]:
        self.times += [request.times[subset].tolist() for request in requests for subset in request.subsets]
        return [torch.eye(len(r.question.options))[[0] * len(r.subsets)] for r in requests]


def _elsewhere(example: Example, frames: list[int], **more: Any) -> Chosen:
    given: dict[str, Any] = {"selector": "theirs", "budget": 2, "times": [float(i) for i in range(len(frames))]} | more
    return Chosen(id=example.id, video="their/name.mp4", question="", frame_indices=frames, **given)


def test_a_model_sees_each_frame_once_with_the_times_of_the_video(examples: list[Example], tmp_path: Path) -> None:
    first, model = examples[0], Watching()
    chosen = [
        _elsewhere(first, [3, 40]),
        _elsewhere(first, [3, 40], selector="same"),
        _elsewhere(first, [40], budget=1),
    ]
    rows = answer(chosen, examples, Answering(model, "watching"), tmp_path / "rows.jsonl")
    with VideoReader(first.video) as reader:
        true = reader.times[[3, 40]].tolist()
    assert model.encoded == 2
    assert model.times == [true, true, true[1:]]
    assert [row["times"] for row in rows] == [pytest.approx(t, abs=1e-6) for t in model.times]
    assert [row["correct"] for row in rows] == [first.answer == 0] * 3


def test_choices_that_cannot_be_shown_count_as_wrong(examples: list[Example], tmp_path: Path) -> None:
    gone = replace(examples[1], id="gone", video=str(tmp_path / "gone.mp4"))
    chosen = [
        _elsewhere(examples[0], [3, 10**6]),
        _elsewhere(examples[0], [], selector="empty", error="their selector gave up"),
        _elsewhere(examples[0], [], selector="times", times=[1.5, 2.5]),
        _elsewhere(gone, [1, 2]),
    ]
    rows = answer(chosen, [*examples, gone], Answering(Watching(), "watching"), tmp_path / "rows.jsonl")
    reasons = ["names frame 1000000", "their selector gave up", "times and no frame indices", "gone.mp4"]
    assert all(reason in row["error"] for reason, row in zip(reasons, rows, strict=True))
    assert not any(row["correct"] for row in rows)


def test_choices_for_other_questions_are_refused(examples: list[Example], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 selections are for other questions, such as 'nobody'"):
        chosen = [_elsewhere(replace(examples[0], id="nobody"), [1, 2])]
        answer(chosen, examples, Answering(Watching(), "watching"), tmp_path / "rows.jsonl")


def test_a_model_that_fails_ends_the_run_which_can_be_gone_on_with(
    examples: list[Example], reference: HuggingFaceReference, plan: Choosing, tmp_path: Path
) -> None:
    class Failing(Watching):
        def score(self, requests: Sequence[ScoreRequest]) -> list[torch.Tensor]:
            if self.times:  # of the first video
                raise ReferenceModelError("the server is gone")
            return super().score(requests)

    with pytest.raises(ReferenceModelError, match="gone"):
        evaluate(examples, [Answering(Failing(), "m")], plan, tmp_path, {})
    kept = (tmp_path / "rows.jsonl").read_bytes()
    assert kept.count(b"\n") == sum(1 for _ in plan.keys([e for e in examples if e.video == examples[0].video]))
    rows = evaluate(examples, [Answering(Watching(), "m")], plan, tmp_path, {})
    assert (tmp_path / "rows.jsonl").read_bytes().startswith(kept)
    assert not any(row["error"] for row in rows)


def test_a_question_that_cannot_be_put_costs_no_other(examples: list[Example], tmp_path: Path) -> None:
    class Picky(Watching):
        def score(self, requests: Sequence[ScoreRequest]) -> list[torch.Tensor]:
            if any(request.question == examples[1].question for request in requests):
                raise QuestionError("cannot tell these options apart")
            return super().score(requests)

    assert examples[0].video == examples[1].video
    chosen = [_elsewhere(examples[0], [3, 40]), _elsewhere(examples[1], [3, 40])]
    rows = answer(chosen, examples, Answering(Picky(), "picky"), tmp_path / "rows.jsonl")
    assert [row["error"] for row in rows] == [None, "cannot tell these options apart"]
    assert rows[1]["correct"] is False


# ------------------------------------------------------------------ answers in words


class Writing(Watching):
    """A model that writes what it is told to."""

    def __init__(self, *texts: str) -> None:
        super().__init__()
        self.texts = list(texts)
        self.asked: list[Question] = []

    def generate(self, requests: Sequence[ScoreRequest], max_new_tokens: int) -> list[list[str]]:
        self.asked += [request.question for request in requests]
        return [[self.texts.pop(0) for _ in request.subsets] for request in requests]


def test_a_written_letter_is_read_strictly(examples: list[Example], tmp_path: Path) -> None:
    group = [e for e in examples if e.video == examples[0].video][:3]
    right = chr(ord("A") + group[0].answer)
    wrong = chr(ord("A") + (group[1].answer + 1) % len(group[1].question.options))
    model = Writing(f"({right})", f"The answer is {wrong}.", "It is a card.")
    chosen = [_elsewhere(example, [3, 40]) for example in group]
    rows = answer(chosen, group, Answering(model, "writing", in_words=True), tmp_path / "rows.jsonl")
    assert [row["correct"] for row in rows] == [True, False, False]
    assert [row["unparsable"] for row in rows] == [False, False, True]
    assert [row["predicted"] is None for row in rows] == [False, False, True]
    assert rows[2]["text"] == "It is a card."


def test_questions_without_options_are_answered_in_words_and_judged(examples: list[Example], tmp_path: Path) -> None:
    lettered = examples[0]
    opened = replace(
        lettered, id="open", question=Question("What is shown?"), accepted=("a red ring", "ring"), answer=0
    )
    chosen = [_elsewhere(opened, [3, 40]), _elsewhere(lettered, [3, 40]), _elsewhere(opened, [7], budget=1)]
    model = Writing("The red ring.", "red hoop")
    rows = answer(chosen, [opened, lettered], Answering(model, "writing"), tmp_path / "rows.jsonl")
    assert [row["exact"] for row in rows] == [1, None, 0]
    assert [row["f1"] for row in rows] == [1, None, 0.5]
    assert [row["correct"] for row in rows] == [True, lettered.answer == 0, False]
    assert model.asked == [opened.question] * 2

    says = ModelJudge(Writing("Yes.", "Hm"))
    judged = Answering(Writing("red hoop", "blue"), "judged", judge=says, similarity=lambda a, b: float(a == b))
    rows = answer(chosen, [opened, lettered], judged, tmp_path / "rows.jsonl")
    assert [row["correct"] for row in rows] == [True, lettered.answer == 0, False]
    assert (says.asked, says.unclear) == (2, 1)
    assert [row["wups"] for row in rows] == [0, None, 0]


# ------------------------------------------------------------------ resuming


def _cut_in_a_line(text: bytes) -> bytes:
    return text[: len(text) * 3 // 4]


def _cut_inside_a_character(text: bytes) -> bytes:
    place = text.rindex("é".encode())
    return text[: place + 1]


def _cut_before_the_last_row(text: bytes) -> bytes:
    return text[: text.rindex(b"\n", 0, -1) + 1]


def _cut_at_once(text: bytes) -> bytes:
    return text[:7]


def _not_cut(text: bytes) -> bytes:
    return text


@pytest.mark.parametrize("file", ["selections.jsonl", "rows.jsonl"])
@pytest.mark.parametrize(
    "cut", [_cut_in_a_line, _cut_inside_a_character, _cut_before_the_last_row, _cut_at_once, _not_cut]
)
def test_a_run_cut_anywhere_ends_in_the_same_file(
    examples: list[Example],
    reference: HuggingFaceReference,
    plan: Choosing,
    tmp_path: Path,
    cut: Callable[[bytes], bytes],
    file: str,
) -> None:
    named = [replace(e, id=f"é\u2028{e.id}") for e in examples]  # in a file, a line separator must not end a line
    whole = evaluate(named, [Answering(reference, "tiny")], plan, tmp_path, {"seed": 0})
    expected = _lines(tmp_path)
    path = tmp_path / file
    path.write_bytes(cut(path.read_bytes()))
    again = evaluate(named, [Answering(reference, "tiny")], plan, tmp_path, {"seed": 0})
    assert _lines(tmp_path) == expected
    assert [_timeless(row) for row in again] == [_timeless(row) for row in whole]


@pytest.mark.parametrize("file", ["selections.jsonl", "rows.jsonl"])
def test_damaged_rows_are_named_and_worked_out_again(
    examples: list[Example], reference: HuggingFaceReference, plan: Choosing, tmp_path: Path, file: str
) -> None:
    evaluate(examples, [Answering(reference, "tiny")], plan, tmp_path, {"seed": 0})
    expected = sorted(json.dumps(line, sort_keys=True) for line in _lines(tmp_path))
    path = tmp_path / file
    lines = path.read_bytes().split(b"\n")
    lines[2] = bytes(len(lines[2]))
    path.write_bytes(b"\n".join(lines))
    (tmp_path / "stages.json").write_text('[{"stage": ')
    with pytest.warns(RefocusWarning) as told:
        evaluate(examples, [Answering(reference, "tiny")], plan, tmp_path, {"seed": 0})
    said = sorted(str(one.message) for one in told if one.category is RefocusWarning)
    assert said[0] == f"{path}: line 3 damaged; what was there is worked out again"
    assert said[1] == f"{tmp_path / 'stages.json'} is damaged; times and memory are counted anew"
    assert sorted(json.dumps(line, sort_keys=True) for line in _lines(tmp_path)) == expected


def test_what_says_of_what_the_rows_are_is_named_when_it_is_damaged(
    examples: list[Example], reference: HuggingFaceReference, plan: Choosing, tmp_path: Path
) -> None:
    few = examples[:1]
    evaluate(few, [Answering(reference, "tiny")], plan, tmp_path, {})
    described = (tmp_path / "evaluation.json").read_text()
    (tmp_path / "evaluation.json").write_text(described[:-20])
    with pytest.raises(ConfigError, match=rf"evaluation.json is damaged.*remove {tmp_path}, or choose another"):
        evaluate(few, [Answering(reference, "tiny")], plan, tmp_path, {})
    (tmp_path / "evaluation.json").write_text(described)
    path = tmp_path / "selections.jsonl"
    path.write_bytes(b"\0" + path.read_bytes())
    with pytest.raises(ConfigError, match=rf"line 1 is damaged.*\(rm '{path}'\) and run again"):
        evaluate(few, [Answering(reference, "tiny")], plan, tmp_path, {})


def test_finished_videos_are_not_run_again(
    examples: list[Example], reference: HuggingFaceReference, plan: Choosing, tmp_path: Path
) -> None:
    evaluate(examples, [Answering(reference, "tiny")], plan, tmp_path, {})
    text = (tmp_path / "rows.jsonl").read_bytes()
    told: list[int] = []
    evaluate(examples, [Answering(reference, "tiny")], plan, tmp_path, {}, lambda: told.append(1))
    assert (tmp_path / "rows.jsonl").read_bytes() == text  # down to the seconds
    assert len(told) == units(examples, models=1) == 2 * len({e.video for e in examples})


@pytest.mark.parametrize("change", ["settings", "budgets", "selectors"])
def test_results_of_other_settings_are_not_mixed(
    examples: list[Example], reference: HuggingFaceReference, plan: Choosing, tmp_path: Path, change: str
) -> None:
    one = examples[:1]
    evaluate(one, [Answering(reference, "tiny")], plan, tmp_path, {"seed": 0})
    before = (tmp_path / "rows.jsonl").read_bytes()
    settings = {"seed": 1 if change == "settings" else 0}
    other = {"budgets": replace(plan, budgets=(2,)), "selectors": replace(plan, selectors=(Uniform(),))}
    with pytest.raises(ConfigError, match="other settings"):
        evaluate(one, [Answering(reference, "tiny")], other.get(change, plan), tmp_path, settings)
    assert (tmp_path / "rows.jsonl").read_bytes() == before


# ------------------------------------------------------------------ selectors

ASKED = [Question("what is shown", ("red", "blue")), Question("what is shown", ("blue", "red")), Question("which card")]


def _picks(opened: OpenVideo, questions: Sequence[Question], budget: int) -> list[list[int]]:
    return [pick.positions.tolist() for pick in opened.pick(questions, budget)]


def _learned(temperature: float | None, seed: int = 0) -> Learned:
    return Learned(tiny_policy(), Picking(temperature=temperature, seed=seed))


@pytest.fixture(scope="module")
def candidates(examples: list[Example]) -> Candidates:
    return load_candidates(examples[0].video, (32, 32), SAMPLING)


@pytest.mark.parametrize("make", [Random, lambda seed: _learned(1.0, seed)], ids=["random", "sampled"])
def test_sampled_picks_depend_on_seed_video_question_and_budget_alone(
    make: Callable[[int], Any], candidates: Candidates
) -> None:
    opened = make(0).open(candidates)
    together = _picks(opened, ASKED, 4)
    assert [_picks(make(0).open(candidates), [q], 4)[0] for q in ASKED] == together  # not on what is asked with it
    assert _picks(opened, ASKED[::-1], 4) == together[::-1]
    assert len({tuple(p) for p in together}) == 3
    assert all(len(set(p)) == 4 for p in together)
    elsewhere = replace(candidates, video="/another/disk/" + Path(candidates.video).name)
    assert _picks(make(0).open(elsewhere), ASKED, 4) == together
    others = [
        _picks(make(1).open(candidates), ASKED, 4),
        _picks(make(0).open(replace(candidates, video="other.mp4")), ASKED, 4),
        [p[:4] for p in _picks(opened, ASKED, 5)],
    ]
    assert all(other != together for other in others)


def test_random_picks_are_spread_evenly() -> None:
    opened = Random(0).open(_pool(10))
    picks = opened.pick([Question(f"question {i}") for i in range(2000)], 3)
    shares = np.bincount(np.concatenate([p.positions for p in picks]), minlength=10) / 2000
    assert np.abs(shares - 0.3).max() < 0.05


def test_uniform_takes_the_middles_whatever_is_asked() -> None:
    opened = Uniform().open(_pool(64))
    assert _picks(opened, ASKED, 4) == [[8, 24, 40, 56]] * 3
    assert _picks(opened, ASKED[:1], 64) == [list(range(64))]


@pytest.mark.parametrize("selector", [Uniform(), Random(), _learned(None), _learned(0.7)], ids=lambda s: s.name)
def test_every_selector_keeps_to_the_budget(selector: Any, candidates: Candidates) -> None:
    opened = selector.open(candidates)
    for budget in (1, 7, 64):
        for pick in opened.pick(ASKED, budget):
            selection = to_selection(pick, candidates, ASKED[0], selector.name)
            assert len(selection) == budget
            assert sorted(selection.order.tolist()) == list(range(budget))
            assert selection.positions[np.argsort(selection.order)].tolist() == pick.positions.tolist()
            assert selection.times.tolist() == candidates.times[selection.positions].tolist()
            if pick.probabilities is not None and selection.probabilities is not None:
                assert selection.probabilities[np.argsort(selection.order)].tolist() == pick.probabilities.tolist()
                assert ((pick.probabilities > 0) & (pick.probabilities <= 1)).all()
    for budget in (0, 65):
        with pytest.raises(BudgetError, match="from 1 to 64"):
            opened.pick(ASKED, budget)
    assert opened.pick([], 3) == []


def test_the_front_door_gives_what_the_selector_picks(examples: list[Example], candidates: Candidates) -> None:
    selector = FrameSelector(tiny_policy(), sampling=SAMPLING)
    question = examples[0].question
    greedy = selector.select(examples[0].video, question, frames=5)
    (expected,) = _learned(None).open(candidates).pick([question], 5)
    assert greedy.positions.tolist() == sorted(expected.positions.tolist())
    assert greedy.times.tolist() == candidates.times[greedy.positions].tolist()
    indexed = selector.open(examples[0].video)
    assert repr(indexed) == f"IndexedVideo({examples[0].video!r}, 64 candidates, 0.00–{candidates.times[-1]:.2f} s)"
    assert indexed.select(question, 5).to_json() == greedy.to_json()
    sampled = [indexed.select(question, 5, temperature=1.0, seed=s).positions.tolist() for s in (0, 0, 1, 2)]
    assert sampled[0] == sampled[1]
    assert len({tuple(p) for p in sampled}) > 1
    with pytest.raises(BudgetError, match="from 1 to 64"):
        indexed.select(question, 0)
    for temperature in (0.0, -1.0):
        with pytest.raises(ConfigError, match="temperature must be above 0"):
            indexed.select(question, 5, temperature=temperature)


def test_a_models_folder_is_known_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = folder_identity(str(tmp_path))
    assert folder_identity(str(tmp_path)) == first
    (tmp_path / "model.safetensors").write_bytes(b"retrained")
    assert folder_identity(str(tmp_path)) != first
    assert folder_identity("org/model") == "org/model"


def test_selectors_of_one_policy_index_a_video_once(
    examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_policy().save_pretrained(tmp_path / "policy")
    policy = {"policy": str(tmp_path / "policy")}
    specs = [
        Spec("policy", policy),
        Spec("policy", policy | {"name": "again"}),
        Spec("mixed", policy | {"selector": "policy"}),
    ]
    selectors, _ = load_selectors(specs, "cpu")
    alone, _ = load_selectors(specs[:1], "cpu")
    read: list[str] = []

    def watched(*given: Any) -> Any:
        read.append("video")
        return index_frames(*given)

    monkeypatch.setattr("refocus_video.selectors.learned.index_frames", watched)
    videos = list(dict.fromkeys(example.video for example in examples))[:2]
    for video in videos:
        with VideoReader(video) as reader:
            timeline = candidate_timeline(reader, SAMPLING)
        picks = [_picks(selector.open(timeline), ASKED, 3) for selector in selectors]
        assert picks[0] == picks[1] == _picks(alone[0].open(timeline), ASKED, 3)
    assert len(read) == 2 * len(videos)  # once for the three, once for the one alone
