"""Options of picking as users meet them: from Python, and on the command line."""

import json
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from refocus_video.cli.main import app
from refocus_video.errors import BudgetError, CheckpointError, ConfigError, DataError, RefocusError
from refocus_video.policy.pick import pick_frames
from refocus_video.policy.policy import FramePolicy
from refocus_video.selectors.base import question_rng
from refocus_video.selectors.learned import FrameSelector, IndexedVideo, Learned, OpenLearned
from refocus_video.selectors.picking import Options, Picking, questions_at_once
from refocus_video.types import Question, Timeline
from tiny_policy import tiny_features, tiny_policy
from video_clips import write_clip

QUESTION = Question("what is shown")
TIMES = np.array([0, 0.5, 0.8, 1.5, 1.6, 2.5, 4, 4.5, 6])


def indexed(**options: Any) -> IndexedVideo:
    policy = tiny_policy(**options)
    timeline = Timeline("talk.mp4", np.arange(9), TIMES)
    index = policy.index(tiny_features(policy, videos=1)).detach()
    return IndexedVideo(timeline, OpenLearned(Learned(policy), "talk.mp4", index, TIMES))


def sampled(video: IndexedVideo, count: int, seed: int = 0, temperature: float = 1.0) -> Any:
    """What the strategies that choose among several subsets draw."""
    policy, index = video.indexed.selector.policy, video.indexed.index
    asked = policy.ask(index, [QUESTION], torch.tensor([0]))
    generator = torch.Generator().manual_seed(int(question_rng(seed, "talk.mp4", QUESTION, 4).integers(2**62)))
    return pick_frames(policy, index, asked, 4, count, temperature=temperature, generator=generator)


def test_best_of_takes_the_most_probable_of_its_samples() -> None:
    video = indexed()
    found = video.select(QUESTION, 4, strategy="best-of", samples=12, temperature=2.0, seed=5)
    drawn = sampled(video, 12, 5, 2.0)
    best = drawn.log_probs.sum(-1)[0].argmax()
    assert found.positions.tolist() == sorted(drawn.picks[0, best].tolist())
    assert found.probabilities is not None
    assert np.log(found.probabilities).sum() == pytest.approx(float(drawn.log_probs.sum(-1).max()), abs=1e-5)


def test_the_rank_head_chooses_among_samples() -> None:
    video = indexed(use_rank_head=True)
    found = video.select(QUESTION, 4, strategy="best-of-rank", samples=12)
    drawn = sampled(video, 12)
    policy, index = video.indexed.selector.policy, video.indexed.index
    asked = policy.ask(index, [QUESTION], torch.tensor([0]))
    best = policy.rank_scores(index, asked, drawn.picks)[0].argmax()
    assert found.positions.tolist() == sorted(drawn.picks[0, best].tolist())
    with pytest.raises(CheckpointError, match="has no rank head"):
        indexed().select(QUESTION, 4, strategy="best-of-rank")


def test_marginal_takes_the_frames_that_most_samples_hold_with_their_shares() -> None:
    video = indexed()
    found = video.select(QUESTION, 4, strategy="marginal")
    counts = sampled(video, 64).picks.flatten().bincount(minlength=9).tolist()
    expected = sorted(range(9), key=lambda f: (-counts[f], f))[:4]
    assert found.positions.tolist() == sorted(expected)
    assert found.probabilities is not None
    assert found.probabilities.tolist() == pytest.approx([counts[f] / 64 for f in sorted(expected)])


@pytest.mark.parametrize("strategy", ["greedy", "sample", "best-of", "marginal"])
def test_every_strategy_keeps_the_gap_and_repeats_with_its_seed(strategy: Any) -> None:
    video = indexed()
    first = video.select(QUESTION, 4, strategy=strategy, min_gap=1.4, seed=2)
    assert (np.diff(first.times) >= 1.4).all()
    assert len(first) == 4
    assert video.select(QUESTION, 4, strategy=strategy, min_gap=1.4, seed=2).positions.tolist() == (
        first.positions.tolist()
    )
    with pytest.raises(BudgetError, match=r"asked for 5 frames at least 1.4 s apart, but the video gives 4"):
        video.select(QUESTION, 5, strategy=strategy, min_gap=1.4)


@pytest.mark.parametrize("strategy", ["greedy", "sample", "best-of", "marginal"])
def test_questions_get_the_same_alone_and_together(strategy: Any) -> None:
    video = indexed().indexed
    learned = Learned(video.selector.policy, Picking(strategy, seed=1, min_gap=0.6))
    opened = OpenLearned(learned, video.video, video.index, video.times)
    questions = [QUESTION, Question("which card is red"), Question("the end")]
    together = opened.pick(questions, 3)
    alone = [opened.pick([question], 3)[0] for question in questions]
    assert [p.positions.tolist() for p in together] == [p.positions.tolist() for p in alone]


def test_the_temperature_alone_means_what_it_did() -> None:
    assert Picking().resolved == "greedy"
    assert Picking(temperature=0.5).resolved == "sample"
    video = indexed()
    plain = video.select(QUESTION, 4, temperature=1.0, seed=3)
    assert video.select(QUESTION, 4, strategy="sample", seed=3).positions.tolist() == plain.positions.tolist()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strategy": "best"}, "unknown strategy 'best'; known ones: greedy, sample, best-of, best-of-rank, marginal"),
        ({"strategy": "greedy", "temperature": 1.0}, "strategy greedy draws nothing, found temperature 1.0"),
        ({"samples": 4}, "strategy greedy takes no number of samples, found 4"),
        ({"strategy": "sample", "samples": 4}, "strategy sample takes no number of samples"),
        ({"strategy": "best-of", "samples": 0}, "samples must be at least 1, found 0"),
        ({"min_gap": -1.0}, "must be 0 seconds or more, found -1.0"),
        ({"min_gap": float("nan")}, "must be 0 seconds or more, found nan"),
        ({"temperature": float("nan")}, "temperature must be above 0, found nan"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Picking(**options)
    assert "\n" not in str(caught.value)


def test_the_command_takes_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_policy().save_pretrained("policy")
    write_clip(tmp_path / "clip.mp4", list(range(0, 3000, 100)))
    base = ["select", "clip.mp4", "what is shown", "--policy", "policy", "--no-cache", "-k", "3", "--json"]

    def selected(*options: str) -> Any:
        result = CliRunner().invoke(app, [*base, *options])
        assert result.exit_code == 0, result
        return json.loads(result.stdout)

    library = FrameSelector.from_pretrained("policy").open("clip.mp4")
    for strategy in ("greedy", "sample", "best-of", "marginal"):
        several = ("--samples", "8") if strategy in {"best-of", "marginal"} else ()
        found = selected("--strategy", strategy, "--seed", "4", "--min-gap", "0.75", *several)
        assert found["strategy"] == strategy
        assert min(np.diff(found["times"])) >= 0.75
        same = library.select(
            "what is shown", 3, strategy=strategy, seed=4, min_gap=0.75, samples=8 if several else None
        )
        assert found["positions"] == same.positions.tolist()
    assert selected()["strategy"] == "greedy"
    plain = selected("--force", "7", "--force", "2")
    told = selected("--force", "7", "--force", "2", "--explain", "--sheet", "talk.frames.jpg")
    assert told["positions"] == plain["positions"]
    assert told["steps"] == library.explain("what is shown", 3, forced=[7, 2]).to_json()["steps"]
    assert [step["pick"]["position"] for step in told["steps"]][:2] == [7, 2]
    assert told["map"] == "talk.picks.jpg"
    assert (tmp_path / "talk.picks.jpg").stat().st_size > 1000
    shown = CliRunner().invoke(app, [*base[:-1], "--explain"])
    assert "What the policy thought at each pick" in shown.stdout
    for wrong, said in (
        ("--samples 3", "takes no number"),
        ("--min-gap 5", "5 s apart"),
        ("--strategy x", "known"),
        ("--force 99", "numbered 0 to"),
    ):
        result = CliRunner().invoke(app, [*base, *wrong.split()])
        assert isinstance(result.exception, RefocusError)
        assert said in str(result.exception)


# ------------------------------------------------------------------ several questions, forced picks, explanations


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.7, "seed": 3},
        {"strategy": "best-of", "samples": 6},
        {"strategy": "marginal", "samples": 6, "min_gap": 0.6, "forced": [2]},
    ],
    ids=str,
)
def test_several_questions_are_answered_as_each_alone(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    video = indexed()
    questions: list[str | Question] = [
        QUESTION,
        "which card is red",
        Question("is the end red", ("red", "blue")),
        "the end",
    ]
    alone = [video.select(question, 3, **options) for question in questions]
    calls = []
    ask = FramePolicy.ask

    def watched(policy: FramePolicy, index: Any, asked: Any, rows: Any) -> Any:
        calls.append(len(asked))
        return ask(policy, index, asked, rows)

    monkeypatch.setattr(FramePolicy, "ask", watched)
    together = video.select_many(questions, 3, **options)
    assert calls == [4], "one batch"
    for one, same in zip(alone, together, strict=True):
        assert one.question == same.question
        assert one.positions.tolist() == same.positions.tolist()
        assert one.order.tolist() == same.order.tolist()
        assert one.probabilities is not None and same.probabilities is not None
        np.testing.assert_allclose(one.probabilities, same.probabilities, atol=2e-5)
    monkeypatch.setattr("refocus_video.selectors.picking.MEMORY_BYTES", 1)
    assert [s.positions.tolist() for s in video.select_many(questions, 3, **options)] == [
        s.positions.tolist() for s in alone
    ]
    assert calls[1:] == [1, 1, 1, 1], "no more than memory allows"
    assert video.select_many([], 3) == []
    with pytest.raises(DataError, match="takes a list of questions, found the text 'what'"):
        video.select_many("what", 3)


def test_fewer_questions_are_answered_together_where_each_remembers_more() -> None:
    config = tiny_policy().config
    real = config.model_copy(update={"d_model": 2048, "n_layer": 48, "d_state": 128})
    greedy, several = Picking(), Picking("best-of")
    assert questions_at_once(config, greedy, 8) > 1000
    assert 1 < questions_at_once(real, greedy, 32) < 20
    assert questions_at_once(real, several, 32) == 1


@pytest.mark.parametrize("strategy", ["greedy", "sample", "best-of", "marginal"])
@pytest.mark.parametrize("options", [{}, {"frame_generation_method": "block", "query_frames": 7}], ids=str)
def test_forced_picks_are_in_every_selection(strategy: Any, options: Any) -> None:
    video = indexed(**options)
    found = video.select(QUESTION, 4, strategy=strategy, forced=[7, 2], seed=1)
    assert {2, 7} <= set(found.positions.tolist())
    if strategy != "marginal":
        assert [found.positions[found.order == rank].item() for rank in (0, 1)] == [7, 2]
    whole = video.select(QUESTION, 2, strategy=strategy, forced=(7, 2))
    assert whole.positions.tolist() == [2, 7]
    for forced, said in (([9], "numbered 0 to 8"), ([1, 1], "picked already"), ([0, 1, 2, 3, 4], "5 are given")):
        with pytest.raises(BudgetError, match=said):
            video.select(QUESTION, 4, strategy=strategy, forced=forced)
    with pytest.raises(BudgetError, match="leaves too few"):
        video.select(QUESTION, 4, strategy=strategy, forced=[5], min_gap=1.6)


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.5, "min_gap": 0.6}, {"strategy": "marginal"}, {"strategy": "best-of", "forced": [3]}],
    ids=str,
)
def test_an_explanation_holds_what_the_policy_thought(options: Any) -> None:
    video = indexed()
    policy, index = video.indexed.selector.policy, video.indexed.index
    plain = video.select(QUESTION, 4, **options)
    explained = video.explain(QUESTION, 4, **options)
    assert explained.selection.positions.tolist() == plain.positions.tolist()
    assert explained.selection.probabilities is not None
    assert plain.probabilities is not None
    assert explained.selection.probabilities.tolist() == plain.probabilities.tolist()
    p = explained.distributions
    assert p.shape == (4, 9)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    for k in range(4):
        assert not p[k, explained.picks[:k]].any(), "what is picked has probability 0"
    asked = policy.ask(index, [QUESTION], torch.tensor([0]))
    picks = torch.from_numpy(explained.picks)[None, None]
    temperature = options.get("temperature", 1.0)
    if "min_gap" not in options:
        with torch.no_grad():
            scores = policy.log_probs(index, asked, picks, temperature)
        np.testing.assert_allclose(explained.probabilities, scores.log_probs.exp()[0, 0], atol=2e-5)
        np.testing.assert_allclose(explained.entropies, scores.entropy[0, 0], atol=2e-5)
    else:
        near = np.abs(TIMES - TIMES[explained.picks[0]]) < 0.6 - 1e-6
        assert not p[1, near].any()


def test_an_explanation_as_json_names_the_runners_up() -> None:
    explained = indexed().explain(QUESTION, 3)
    found = json.loads(json.dumps(explained.to_json(count=4)))
    assert found["positions"] == explained.selection.positions.tolist()
    assert [step["pick"]["position"] for step in found["steps"]] == explained.picks.tolist()
    for k, step in enumerate(found["steps"]):
        assert step["top"][0] == step["pick"], "greedy takes the first"
        chances = [candidate["probability"] for candidate in step["top"]]
        assert chances == sorted(chances, reverse=True)
        assert len(chances) == 4
        assert step["entropy"] == pytest.approx(explained.entropies[k], abs=1e-6)
        for candidate in step["top"]:
            assert candidate["time"] == TIMES[candidate["position"]]
            assert candidate["probability"] == pytest.approx(
                explained.distributions[k, candidate["position"]], abs=1e-6
            )
    last = indexed().explain(QUESTION, 9).to_json()["steps"][-1]
    assert (last["entropy"], last["top"]) == (0, [last["pick"]]), "one candidate is left, and none of probability 0"


def test_picks_close_to_random_ones_are_told_in_words() -> None:
    even, sure = np.full(9, 1 / 9), np.eye(9)[4]
    left = np.where(np.arange(9) == 2, 0, 1 / 8)  # flat over the eight that are left
    plain = indexed().explain(QUESTION, 2)

    def explained(*rows: Any) -> Any:
        return replace(plain, picks=np.array([2, 4][: len(rows)]), distributions=np.array(rows))

    assert explained(even, left).near_flat.tolist() == [True, True]
    assert explained(even, sure).near_flat.tolist() == [True, False]
    assert explained(even, sure).remark == (
        "1 of 2 picks are close to random: at pick 1 the policy had an entropy of 2.20 of at most 2.20 nats"
    )
    assert explained(sure, sure).remark == ""
    assert explained(even, sure).to_json()["steps"][0]["entropy_at_most"] == pytest.approx(np.log(9), abs=1e-6)


def test_options_are_those_of_picking() -> None:
    assert set(Options.__annotations__) == {field.name for field in fields(Picking)}
    with pytest.raises(ConfigError, match=r"whole numbers; found \[1.5\]"):
        Picking(forced=[1.5])  # type: ignore[list-item]


def test_an_unknown_option_is_told_before_the_video_is_opened() -> None:
    said = r"select, select_many and explain have no option 'frame'; they take frames, temperature, .*forced$"
    video, selector = indexed(), FrameSelector(tiny_policy())
    for ask in (video.select, video.explain, partial(selector.select, "missing.mp4")):
        with pytest.raises(ConfigError, match=said):
            ask(QUESTION, frame=1)  # type: ignore[call-arg]
    for ask_many in (video.select_many, partial(selector.select_many, "missing.mp4")):
        with pytest.raises(ConfigError, match=said):
            ask_many([QUESTION], frame=1)  # type: ignore[call-arg]
