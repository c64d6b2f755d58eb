"""Rewards: the stable form is the paper's formula, and stays in bounds where the formula would overflow."""

import math

import pytest
import torch

from refocus_video.reference.margin import (
    accuracy_reward,
    gain,
    likelihood_reward,
    margin,
    margin_reward,
    probability_reward,
)

SCORES = torch.tensor([[2.0, 0.5, -1.0], [0.5, 2.0, 3.0], [1.0, 1.0, 0.0]])


@pytest.mark.parametrize("answer", [0, 1, 2, 3])
def test_margin_reward_is_the_papers_formula(answer: int) -> None:
    logits = torch.randn(200, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    p = logits.softmax(-1)
    best_other = p[:, [o for o in range(4) if o != answer]].amax(-1)
    expected = (p[:, answer] - best_other) / (p[:, answer] + best_other)
    torch.testing.assert_close(margin_reward(logits, answer).double(), expected, atol=2e-6, rtol=0)


def test_margin_is_against_the_best_other_option() -> None:
    assert margin(SCORES, 0).tolist() == [1.5, -2.5, 0.0]
    assert margin(SCORES, 2).tolist() == [-3.0, 1.0, -1.0]
    assert margin(SCORES[0], 1).shape == ()


def test_rewards_ignore_what_is_added_to_all_options() -> None:
    for reward in (margin_reward, probability_reward, accuracy_reward):
        torch.testing.assert_close(reward(SCORES + 7, 1), reward(SCORES, 1))


@pytest.mark.parametrize("scale", [1e3, 1e30, 3e38])
def test_extreme_scores_give_the_bounds_and_never_nan(scale: float) -> None:
    scores = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]) * scale
    assert margin_reward(scores, 0).tolist() == [1.0, -1.0, 0.0]
    assert probability_reward(scores, 0).tolist() == [1.0, 0.0, 0.5]
    assert accuracy_reward(scores, 0).tolist() == [1.0, -1.0, -1.0]


def test_half_precision_scores_are_compared_in_float32() -> None:
    scores = torch.tensor([60.0, 60.25], dtype=torch.bfloat16)
    assert margin_reward(scores, 1).dtype == torch.float32
    assert margin_reward(scores, 1).item() == pytest.approx(math.tanh(0.125), abs=1e-6)


def test_probability_is_that_among_the_options() -> None:
    uniform = torch.zeros(5, 4)
    assert probability_reward(uniform, 2).tolist() == [0.25] * 5
    assert probability_reward(torch.tensor([0.0, math.log(3.0)]), 1).item() == pytest.approx(0.75)
    total = sum(probability_reward(SCORES, answer) for answer in range(3))
    torch.testing.assert_close(total, torch.ones(3))


def test_a_tie_is_not_a_right_answer() -> None:
    assert accuracy_reward(SCORES, 0).tolist() == [1.0, -1.0, -1.0]
    assert accuracy_reward(SCORES, 1).tolist() == [-1.0, -1.0, -1.0]


def test_likelihood_is_the_margin_against_the_best_control_frames() -> None:
    scores, control = torch.tensor([[-0.5], [-2.0], [-1.0]]), torch.tensor([[-3.0], [-1.0]])
    assert gain(scores, 0, control).tolist() == [0.5, -1.0, 0.0]
    as_options = torch.cat([scores, torch.full_like(scores, -1.0)], dim=-1)
    torch.testing.assert_close(likelihood_reward(scores, 0, control), margin_reward(as_options, 0))
    assert likelihood_reward(scores * 1e30, 0, control).tolist() == [-1.0, -1.0, -1.0]
