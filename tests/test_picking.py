"""Options of picking as users meet them: from Python, and on the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from refocus_video.cli.main import app
from refocus_video.errors import BudgetError, CheckpointError, ConfigError, RefocusError
from refocus_video.policy.pick import pick_frames
from refocus_video.selectors.base import question_rng
from refocus_video.selectors.learned import FrameSelector, IndexedVideo, Learned, OpenLearned
from refocus_video.selectors.picking import Picking
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
    learned = Learned(video.selector.policy, None, 1, strategy=strategy, min_gap=0.6)
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
    for wrong, said in (("--samples 3", "takes no number"), ("--min-gap 5", "5 s apart"), ("--strategy x", "known")):
        result = CliRunner().invoke(app, [*base, *wrong.split()])
        assert isinstance(result.exception, RefocusError)
        assert said in str(result.exception)
