"""The mathematics of training: advantages, loss, curriculum, filter, evidence, schedule, warning signs."""

import itertools
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from refocus_video.config import Stage, TrainConfig
from refocus_video.data.evidence import by_video, evidence_recall, random_recall
from refocus_video.errors import BudgetError
from refocus_video.train.advantage import group_advantages, group_std, live_groups
from refocus_video.train.curriculum import draw_budget, linear, stage_at, steer_entropy_coef
from refocus_video.train.filter import margin_variance, probe_pools, probe_subsets, segment_of
from refocus_video.train.loss import policy_gradient_loss
from refocus_video.train.monitor import Monitor, distinct_share
from refocus_video.train.rollout import shuffled
from refocus_video.train.schedule import (
    learning_rate_factor,
    questions_of_video,
    step_rng,
    torch_generator,
    videos_of_step,
)
from refocus_video.types import Example, Question, Span

# ------------------------------------------------------------------ advantages


def _rewards() -> Tensor:
    return torch.randn(5, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("scale", [None, 1.0, 0.3, torch.tensor(0.3)])
def test_advantages_of_a_group_sum_to_zero(scale: Any) -> None:
    torch.testing.assert_close(group_advantages(_rewards(), scale).sum(-1), torch.zeros(5, dtype=torch.float64))


def test_advantages_are_standard_scores_inside_the_group() -> None:
    rewards = _rewards()
    found = group_advantages(rewards)
    expected = (rewards - rewards.mean(1, keepdim=True)) / rewards.std(1, correction=0, keepdim=True)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    # Adding to a group, or stretching it, changes nothing; the paper's scale forgets how much was at stake.
    torch.testing.assert_close(group_advantages(rewards * 7 + 3), found, rtol=1e-3, atol=1e-3)


def test_a_common_scale_keeps_how_much_is_at_stake_in_each_group() -> None:
    rewards = _rewards() * torch.tensor([1.0, 0.1, 1.0, 1.0, 1.0])[:, None]
    found = group_advantages(rewards, 0.5)
    torch.testing.assert_close(found, (rewards - rewards.mean(1, keepdim=True)) / 0.5, rtol=1e-3, atol=1e-9)
    assert found[1].abs().max() < 0.2 * found[0].abs().max()


def test_a_group_without_spread_gives_zero_and_not_nan() -> None:
    rewards = torch.full((2, 16), 0.7)
    assert group_advantages(rewards).abs().max() < 1e-2
    assert torch.isfinite(group_advantages(rewards, 0.0)).all()
    assert live_groups(rewards, 1e-3).tolist() == [False, False]


def test_live_groups_are_those_with_more_spread_than_the_threshold() -> None:
    rewards = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, -1.0, 1.0, -1.0], [0.01, -0.01, 0.01, -0.01]])
    torch.testing.assert_close(group_std(rewards), torch.tensor([0.0, 1.0, 0.01]))
    assert live_groups(rewards, 0.005).tolist() == [False, True, True]
    assert live_groups(rewards, 0.05).tolist() == [False, True, False]
    assert live_groups(rewards, 0.0).tolist() == [False, True, True]


# ------------------------------------------------------------------ loss

Q, G, K, F = 2, 3, 2, 5


def _logits() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(Q, G, K, F, dtype=torch.float64)


def _scored(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probs of fixed picks and the entropies, (Q, G, K) each."""
    picks = torch.arange(Q * G * K).view(Q, G, K) % F
    log_p = logits.log_softmax(-1)
    return log_p.gather(-1, picks[..., None]).squeeze(-1), -(log_p.exp() * log_p).sum(-1)


def _loss(logits: Tensor, advantages: Tensor, old: Tensor | None = None, **kwargs: Any) -> Any:
    log_probs, entropy = _scored(logits)
    old = log_probs.detach() if old is None else old
    settings: dict[str, Any] = {"entropy_coef": 0.0, "epsilon": 0.2} | kwargs
    return policy_gradient_loss(log_probs, old, advantages, entropy, **settings)


ADVANTAGES = torch.tensor([[1.0, -2.0, 1.0], [0.5, 0.0, -0.5]], dtype=torch.float64)


def test_at_ratio_one_the_gradient_is_that_of_reinforce() -> None:
    logits = _logits().requires_grad_()
    (found,) = torch.autograd.grad(_loss(logits, ADVANTAGES).loss, logits)
    picks = torch.arange(Q * G * K).view(Q, G, K) % F
    # d/dlogits of −A·log softmax[pick], by hand: −A·(onehot − p).
    onehot = torch.nn.functional.one_hot(picks, F).double()
    expected = -ADVANTAGES[..., None, None] * (onehot - logits.detach().softmax(-1)) / (Q * G * K)
    torch.testing.assert_close(found, expected)


def test_a_step_against_the_gradient_makes_good_picks_likelier() -> None:
    logits = _logits().requires_grad_()
    (gradient,) = torch.autograd.grad(_loss(logits, ADVANTAGES).loss, logits)
    change = _scored(logits.detach() - 0.1 * gradient)[0] - _scored(logits.detach())[0]
    assert (change[ADVANTAGES > 0] > 0).all()
    assert (change[ADVANTAGES < 0] < 0).all()
    assert (change[ADVANTAGES == 0] == 0).all()


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [(1.3, 1.0, False), (0.7, -1.0, False), (1.3, -1.0, True), (0.7, 1.0, True), (1.1, 1.0, True), (0.9, -1.0, True)],
)
def test_outside_the_clip_a_pick_is_only_ever_pulled_back(ratio: float, advantage: float, moves: bool) -> None:
    logits = _logits().requires_grad_()
    log_probs, _ = _scored(logits)
    advantages = torch.full((Q, G), advantage, dtype=torch.float64)
    result = _loss(logits, advantages, log_probs.detach() - math.log(ratio))
    (gradient,) = torch.autograd.grad(result.loss, logits)
    assert bool((gradient != 0).any()) is moves
    assert float(result.clip_fraction) == (1.0 if abs(ratio - 1) > 0.2 else 0.0)
    inside = min(max(ratio, 0.8), 1.2)
    assert float(result.loss.detach()) == pytest.approx(-min(ratio * advantage, inside * advantage))


def test_a_masked_group_moves_nothing_and_keeps_the_denominator() -> None:
    logits = _logits().requires_grad_()
    (whole,) = torch.autograd.grad(_loss(logits, ADVANTAGES).loss, logits)
    (masked,) = torch.autograd.grad(_loss(logits, ADVANTAGES, live=torch.tensor([True, False])).loss, logits)
    assert (masked[1] == 0).all()
    torch.testing.assert_close(masked[0], whole[0])  # not doubled because half of the groups are gone


def test_the_entropy_bonus_flattens_every_group_also_a_masked_one() -> None:
    logits = _logits().requires_grad_()
    dead = torch.zeros(Q, dtype=torch.bool)
    result = _loss(logits, ADVANTAGES, entropy_coef=0.1, live=dead)
    (gradient,) = torch.autograd.grad(result.loss, logits)
    before, after = _scored(logits.detach())[1], _scored(logits.detach() - 0.1 * gradient)[1]
    assert (after > before).all()
    assert float(result.entropy) == pytest.approx(float(before.mean()))
    assert float(result.loss.detach()) == pytest.approx(-0.1 * float(before.mean()))


# ------------------------------------------------------------------ curriculum

STAGES = TrainConfig().stages


def test_the_papers_curriculum_raises_the_budget_in_quarters() -> None:
    budgets = [stage_at(step / 900, STAGES).budgets for step in (0, 224, 225, 449, 450, 674, 675, 899)]
    assert budgets == [(4,), (4,), (8,), (8,), (16,), (16,), (32,), (32,)]
    assert stage_at(1.0, STAGES).budgets == (32,)


def test_a_budget_is_drawn_as_often_as_it_is_listed() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_budget(Stage(until=1, budgets=(2, 4, 4)), rng) for _ in range(3000)]
    assert set(drawn) == {2, 4}
    assert drawn.count(4) / 3000 == pytest.approx(2 / 3, abs=0.03)


def test_linear_runs_from_start_to_end_and_stays() -> None:
    assert [linear(done, 0.8, 0.2, 0.5) for done in (0, 0.25, 0.5, 1)] == pytest.approx([0.8, 0.5, 0.2, 0.2])


def test_steering_raises_the_coefficient_while_entropy_is_too_low() -> None:
    limits: dict[str, Any] = {"rate": 0.5, "low": 0.01, "high": 1.0}
    assert steer_entropy_coef(0.1, 2.0, 3.0, **limits) == pytest.approx(0.1 * math.exp(0.5))
    assert steer_entropy_coef(0.1, 3.0, 2.0, **limits) == pytest.approx(0.1 * math.exp(-0.5))
    assert steer_entropy_coef(0.1, 2.0, 2.0, **limits) == pytest.approx(0.1)
    assert steer_entropy_coef(0.9, 0.0, 9.0, **limits) == 1.0
    assert steer_entropy_coef(0.02, 9.0, 0.0, **limits) == 0.01


# ------------------------------------------------------------------ filter


@pytest.mark.parametrize("frames", [8, 9, 64, 100, 512])
def test_probe_windows_are_two_neighbouring_eighths_on_a_circle(frames: int) -> None:
    pools = probe_pools(frames)
    windows, complements = [set(p.tolist()) for p in pools[:8]], [set(p.tolist()) for p in pools[8:]]
    segments = [set(np.flatnonzero(segment_of(frames) == i).tolist()) for i in range(8)]
    assert max(map(len, segments)) - min(map(len, segments)) <= 1
    for i in range(8):
        assert windows[i] == segments[i] | segments[(i + 1) % 8]
        assert windows[i] & windows[(i + 1) % 8] == segments[(i + 1) % 8]
        assert windows[i].isdisjoint(complements[i])
        assert windows[i] | complements[i] == set(range(frames))
    assert {0, frames - 1} <= windows[7]  # W_8 joins the end and the start
    assert {0, frames - 1}.isdisjoint(complements[7])


@pytest.mark.parametrize(("frames", "budget"), [(64, 4), (64, 16), (9, 2), (8, 1)])
def test_probes_are_drawn_inside_their_windows_in_temporal_order(frames: int, budget: int) -> None:
    subsets = probe_subsets(frames, budget, np.random.default_rng(0))
    assert subsets.shape == (16, budget)
    assert (np.diff(subsets, axis=1) > 0).all()
    for subset, pool in zip(subsets, probe_pools(frames), strict=True):
        assert np.isin(subset, pool).all()
    again = probe_subsets(frames, budget, np.random.default_rng(0))
    assert (subsets == again).all()


@pytest.mark.parametrize(("frames", "budget", "most"), [(64, 17, 16), (16, 0, 4), (9, 3, 2), (4, 2, 1), (3, 1, 0)])
def test_probes_that_do_not_fit_their_window_are_refused(frames: int, budget: int, most: int) -> None:
    with pytest.raises(BudgetError, match=f"of {budget} frames, .* {frames} candidates holds {most}"):
        probe_subsets(frames, budget, np.random.default_rng(0))


def test_margin_variance_is_that_of_the_sixteen_probes() -> None:
    assert margin_variance(torch.tensor([1.0] * 8 + [-1.0] * 8)) == pytest.approx(1.0)
    assert margin_variance(torch.tensor([5.0] + [0.0] * 15)) == pytest.approx(25 / 16 - 25 / 256)
    assert margin_variance(torch.full((16,), 3.0)) == 0.0


# ------------------------------------------------------------------ evidence


def _example(*spans: tuple[float, float], **changes: Any) -> Example:
    values: dict[str, Any] = {
        "id": "a",
        "video": "v",
        "question": Question("?", ("w", "x", "y", "z")),
        "answer": 2,
        "evidence": tuple(Span(*span) for span in spans),
    }
    return Example(**values | changes)


def test_recall_is_the_share_of_spans_that_were_hit() -> None:
    example = _example((1.0, 2.0), (5.0, 5.0), (4.0, 6.0))
    assert evidence_recall(example, [0.5, 3.0]) == 0
    assert evidence_recall(example, [2.0]) == pytest.approx(1 / 3)  # ends are included
    assert evidence_recall(example, [5.0, 5.0]) == pytest.approx(2 / 3)
    assert evidence_recall(example, [1.0, 5.0, 9.0]) == 1
    assert evidence_recall(_example(), [1.0]) is None


@pytest.mark.parametrize("budget", [1, 2, 3, 6])
@pytest.mark.parametrize(
    "spans", [((1.0, 2.0),), ((0.0, 0.4), (3.0, 9.0)), ((1.0, 2.0), (2.0, 3.0), (7.0, 8.0)), ((0.0, 9.0),)]
)
def test_random_recall_is_the_mean_over_all_subsets(spans: tuple[tuple[float, float], ...], budget: int) -> None:
    times = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    example = _example(*spans)
    recalls = [evidence_recall(example, subset) or 0.0 for subset in itertools.combinations(times, budget)]
    assert random_recall(example, times, budget) == pytest.approx(sum(recalls) / len(recalls))
    assert random_recall(_example(), times, budget) is None


def test_examples_are_grouped_by_video_in_order_of_appearance() -> None:
    examples = [_example(id=str(i), video=video) for i, video in enumerate("bab")]
    assert {k: [e.id for e in v] for k, v in by_video(examples).items()} == {"b": ["0", "2"], "a": ["1"]}
    assert list(by_video(examples)) == ["b", "a"]


# ------------------------------------------------------------------ schedule


@pytest.mark.parametrize(("count", "per_step"), [(6, 2), (7, 3), (5, 8), (1, 2)])
def test_every_epoch_visits_every_video_once(count: int, per_step: int) -> None:
    videos = [f"v{i}" for i in range(count)]
    steps = 12 * count
    drawn = [name for step in range(steps) for name in videos_of_step(videos, step, per_step, seed=3)]
    assert len(drawn) == steps * per_step
    epochs = [tuple(drawn[i : i + count]) for i in range(0, len(drawn) - count + 1, count)]
    assert all(sorted(epoch) == videos for epoch in epochs)
    if count > 4:
        assert len(set(epochs)) > len(epochs) // 2  # in a new order each time


def test_a_step_depends_on_the_seed_and_its_number_alone() -> None:
    videos = [f"v{i}" for i in range(10)]
    one = [videos_of_step(videos, step, 4, seed=0) for step in (7, 2, 7)]
    assert one[0] == one[2] == videos_of_step(list(videos), 7, 4, 0)
    assert one[0] != one[1]
    assert one[0] != videos_of_step(videos, 7, 4, seed=1)
    draws = {tuple(step_rng(*key).integers(0, 1000, 4)) for key in [(0, 0), (0, 1), (1, 0), (0, 0, 1)]}
    assert len(draws) == 4
    assert (step_rng(0, 5).integers(0, 1000, 4) == step_rng(0, 5).integers(0, 1000, 4)).all()
    first, second = (torch.rand(3, generator=torch_generator(step_rng(0, 5), torch.device("cpu"))) for _ in "ab")
    assert torch.equal(first, second)


def test_questions_are_drawn_without_repetition_and_by_type() -> None:
    examples = [_example(id=str(i), question_type="one" if i % 2 else "two") for i in range(6)]
    rng = np.random.default_rng(0)
    assert {e.question_type for e in questions_of_video(examples, 9, {"one": 1.0}, rng)} == {"one"}
    for _ in range(10):
        drawn = [e.id for e in questions_of_video(examples, 4, {}, rng)]
        assert len(set(drawn)) == 4
    seen = {questions_of_video(examples, 1, {}, rng)[0].id for _ in range(100)}
    assert len(seen) == 6
    firsts = [questions_of_video(examples, 1, {"one": 1.0, "two": 9.0}, rng)[0].question_type for _ in range(300)]
    assert firsts.count("two") == pytest.approx(270, abs=30)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    factors = [learning_rate_factor(step, 100, 10, 0.6) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert factors[10:61] == pytest.approx([1.0] * 51)
    assert (np.diff(factors[60:]) < 0).all()
    assert np.diff(factors[61:], 2) == pytest.approx(np.zeros(37))
    assert learning_rate_factor(100, 100, 10, 0.6) == pytest.approx(0.05)
    assert learning_rate_factor(0, 100, 0, 0.6) == 1.0


def test_shuffling_the_options_keeps_the_right_answer() -> None:
    example = _example((0.0, 1.0), question_type="one", metadata={"kind": "k"})
    rng = np.random.default_rng(0)
    places = []
    for _ in range(200):
        other = shuffled(example, rng)
        assert other.question.options[other.answer] == "y"
        assert sorted(other.question.options) == ["w", "x", "y", "z"]
        same = (other.id, other.video, other.question.text, other.evidence, other.question_type, other.metadata)
        assert same == ("a", "v", "?", example.evidence, "one", {"kind": "k"})
        places.append(other.answer)
    assert min(places.count(place) for place in range(4)) > 25


# ------------------------------------------------------------------ warning signs


def test_distinct_share_counts_subsets_and_not_orders() -> None:
    same = torch.tensor([[[0, 1], [1, 0], [0, 1], [1, 0]]])
    different = torch.tensor([[[0, 1], [0, 2], [0, 3], [1, 2]]])
    assert distinct_share(same) == 0.25
    assert distinct_share(different) == 1.0
    assert distinct_share(torch.cat([same, different])) == 0.625
    assert distinct_share(torch.cat([same, same])) == 0.25  # two questions may well share a subset


HEALTHY: dict[str, Any] = {
    "rows": [("one", 0.5, 0.3), ("", None, None)],
    "entropy": 2.0,
    "distinct": 0.9,
    "stuck": 0.2,
    "accuracy": 0.4,
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": [("one", 0.2, 0.3)]}, "evidence recall of 'one' questions .* below that of random"),
        ({"distinct": 0.07}, "7% of the subsets differ"),
        ({"entropy": 0.05}, "entropy is 0.05 nats"),
        ({"stuck": 0.85}, "85% of the groups have no reward spread"),
    ],
)
def test_each_bad_sign_is_told_once(change: dict[str, Any], said: str) -> None:
    monitor = Monitor()
    told = [monitor.update(**HEALTHY | change) for _ in range(40)]
    assert sum(map(len, told)) == 1
    assert re.search(said, next(t for t in told if t)[0])
    assert not any(told[:19])  # not before there is something to judge by
    resumed = Monitor(**vars(monitor))
    assert not resumed.update(**HEALTHY | change)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"rows": [("one", 0.29, 0.3)]},
        {"rows": []},
        {"entropy": 0.05, "distinct": 0.07, "accuracy": 0.95},  # settled because it is done
    ],
)
def test_a_healthy_run_gives_no_warning(change: dict[str, Any]) -> None:
    monitor = Monitor()
    assert not any(monitor.update(**HEALTHY | change) for _ in range(60))


def test_recall_of_each_type_is_judged_against_its_own_chance() -> None:
    monitor = Monitor()
    rows = [("one", 0.9, 0.3), ("one", 0.7, 0.3), ("two", 0.1, 0.4)]
    told = [warning for _ in range(30) for warning in monitor.update(**HEALTHY | {"rows": rows})]
    assert len(told) == 1
    assert "'two'" in told[0]
    assert monitor.recall == pytest.approx({"one": 0.8, "two": 0.1})
    assert monitor.chance == pytest.approx({"one": 0.3, "two": 0.4})
