"""FramePolicy: what is shared, streamed, padded or sampled gives the same numbers as the plain way."""

import dataclasses

import pytest
import torch
from torch import Tensor

from refocus_video.errors import BudgetError, CheckpointError, DataError, VideoError
from refocus_video.policy.mamba2 import State
from refocus_video.policy.pick import pick_frames
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.records import picked_before
from refocus_video.types import Question
from tiny_policy import QUESTIONS, tiny_features, tiny_policy

DOUBLE = torch.float64
ROWS = torch.tensor([1, 0, 0, 1])
CHECKED = [
    "vision.projector.0.weight",
    "backbone.embedding.weight",
    "backbone.layers.0.norm.weight",
    *(f"backbone.layers.0.mixer.{name}" for name in ("in_proj.weight", "conv1d.weight", "conv1d.bias")),
    *(f"backbone.layers.1.mixer.{name}" for name in ("A_log", "dt_bias", "D", "norm.weight", "out_proj.weight")),
    "key_head.weight",
    "query_head.weight",
    "value_head.weight",
    "value_head.bias",
    "logit_scale",
    "start_of_frame",
]


def state_tensors(state: State) -> list[Tensor]:
    return [part for layer in state.layers for part in (layer.conv, layer.ssm)]


def assert_same_state(left: State, right: State, atol: float = 1e-10) -> None:
    for a, b in zip(state_tensors(left), state_tensors(right), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


def test_encode_gives_pooled_merged_features_of_the_frozen_tower() -> None:
    policy = tiny_policy()
    frames = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    features = policy.encode(frames, batch_size=2)
    assert features.shape == (5, 4, 8)
    assert not features.requires_grad
    torch.testing.assert_close(features, policy.encode(frames.numpy()), rtol=0, atol=1e-6)
    assert not any(weight.requires_grad for weight in policy.vision.tower.parameters())
    assert not policy.train().vision.tower.training


def test_encode_refuses_other_sizes() -> None:
    with pytest.raises(VideoError, match=r"\(N, 32, 32, 3\) uint8, found \(1, 32, 48, 3\) uint8"):
        tiny_policy().encode(torch.zeros(1, 32, 48, 3, dtype=torch.uint8))


@pytest.mark.parametrize("segment", [1, 2, 4, 9])
@pytest.mark.parametrize("gradient", [False, True])
def test_streamed_index_equals_whole(segment: int, gradient: bool) -> None:
    policy = tiny_policy(DOUBLE)
    features, num_frames = tiny_features(policy, dtype=DOUBLE), torch.tensor([9, 6])
    with torch.set_grad_enabled(gradient):
        whole = policy.index(features, num_frames)
        pieces = policy.index(features, num_frames, segment)
    torch.testing.assert_close(pieces.keys[whole.valid], whole.keys[whole.valid], rtol=0, atol=1e-10)
    torch.testing.assert_close(pieces.values[whole.valid], whole.values[whole.valid], rtol=0, atol=1e-10)
    assert_same_state(pieces.state, whole.state)
    if gradient:
        named = dict(policy.named_parameters())
        weights = [named["vision.projector.0.weight"], named["backbone.layers.0.mixer.A_log"]]
        expected = torch.autograd.grad(whole.keys[whole.valid].square().sum(), weights)
        found = torch.autograd.grad(pieces.keys[whole.valid].square().sum(), weights)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)


def test_padded_videos_and_questions_equal_unpadded_ones() -> None:
    policy = tiny_policy(DOUBLE)
    features, num_frames = tiny_features(policy, videos=3, dtype=DOUBLE), torch.tensor([9, 4, 7])
    rows = torch.tensor([1, 2, 0, 1])
    index = policy.index(features, num_frames, segment=3)
    asked = policy.ask(index, QUESTIONS, rows)
    picks = torch.tensor([[[0, 3, 1], [2, 1, 0]]]).expand(4, -1, -1)
    scores = policy.log_probs(index, asked, picks)
    for i, (question, row) in enumerate(zip(QUESTIONS, rows.tolist(), strict=True)):
        frames = int(num_frames[row])
        alone = policy.index(features[row : row + 1, :frames])
        torch.testing.assert_close(index.keys[row, :frames], alone.keys[0], rtol=0, atol=1e-10)
        assert_same_state(index.state.select(torch.tensor([row])), alone.state)
        alone_asked = policy.ask(alone, [question], torch.tensor([0]))
        assert_same_state(asked.state.select(torch.tensor([i])), alone_asked.state)
        expected = policy.log_probs(alone, alone_asked, picks[i : i + 1])
        torch.testing.assert_close(scores.log_probs[i], expected.log_probs[0], rtol=0, atol=1e-10)
        torch.testing.assert_close(scores.entropy[i], expected.entropy[0], rtol=0, atol=1e-10)


def test_questions_of_one_batch_equal_questions_asked_one_by_one() -> None:
    policy = tiny_policy(DOUBLE)
    index = policy.index(tiny_features(policy, dtype=DOUBLE))
    picks = torch.randperm(9)[:4].expand(4, 1, 4)
    together = policy.log_probs(index, policy.ask(index, QUESTIONS, ROWS), picks).log_probs
    for i, question in enumerate(QUESTIONS):
        asked = policy.ask(index, [question], ROWS[i : i + 1])
        alone = policy.log_probs(index, asked, picks[:1]).log_probs
        torch.testing.assert_close(together[i], alone[0], rtol=0, atol=1e-10)
    assert together.std(0).min() > 1e-4, "different questions must give different log-probs"


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("attention_scaling", [False, True])
def test_sampler_and_scorer_agree(temperature: float, attention_scaling: bool) -> None:
    policy = tiny_policy(attention_scaling=attention_scaling)
    index = policy.index(tiny_features(policy), torch.tensor([9, 7]))
    asked = policy.ask(index, QUESTIONS, ROWS)
    generator = torch.Generator().manual_seed(3)
    picked = pick_frames(
        policy, index, asked, 7, 5, temperature=temperature, generator=generator, keep_distributions=True
    )
    scores = policy.log_probs(index, asked, picked.picks, temperature)
    torch.testing.assert_close(scores.log_probs, picked.log_probs, rtol=0, atol=2e-5)
    assert picked.distributions is not None
    assert picked.distributions.shape == (4, 5, 7, 9)
    torch.testing.assert_close(picked.distributions.sum(-1), torch.ones(4, 5, 7))
    entropy = torch.special.entr(picked.distributions).sum(-1)
    torch.testing.assert_close(scores.entropy, entropy, rtol=0, atol=2e-5)
    assert (entropy[..., :-1] > 0.01).any(), "the test needs distributions that are not degenerate"


def test_picks_never_repeat_and_exist() -> None:
    policy = tiny_policy()
    index = policy.index(tiny_features(policy), torch.tensor([9, 7]))
    asked = policy.ask(index, QUESTIONS, ROWS)
    picks = pick_frames(policy, index, asked, budget=7, group_size=50).picks
    assert picks.shape == (4, 50, 7)
    assert (picks.sort(-1).values.diff() > 0).all()
    assert (picks < torch.tensor([7, 9, 9, 7])[:, None, None]).all()


def test_sampling_follows_the_distribution() -> None:
    policy = tiny_policy()
    index = policy.index(tiny_features(policy, videos=1))
    asked = policy.ask(index, QUESTIONS[:1], torch.tensor([0]))
    generator = torch.Generator().manual_seed(5)
    picked = pick_frames(policy, index, asked, 1, 20000, generator=generator, keep_distributions=True)
    assert picked.distributions is not None
    frequency = picked.picks.flatten().bincount(minlength=9) / 20000
    torch.testing.assert_close(frequency, picked.distributions[0, 0, 0], rtol=0, atol=0.015)


def test_greedy_takes_the_most_probable_and_seeds_repeat() -> None:
    policy = tiny_policy()
    index = policy.index(tiny_features(policy))
    asked = policy.ask(index, QUESTIONS, ROWS)
    greedy = pick_frames(policy, index, asked, 4, greedy=True, keep_distributions=True)
    assert greedy.distributions is not None
    assert torch.equal(greedy.picks, greedy.distributions.argmax(-1))
    first, second = (
        pick_frames(policy, index, asked, 4, 6, generator=torch.Generator().manual_seed(7)).picks for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("budget", [0, 8])
def test_impossible_budgets_are_refused(budget: int) -> None:
    policy = tiny_policy()
    index = policy.index(tiny_features(policy), torch.tensor([9, 7]))
    asked = policy.ask(index, QUESTIONS, ROWS)
    with pytest.raises(BudgetError, match=f"asked for {budget} frames, but the video gives 7"):
        pick_frames(policy, index, asked, budget)


def test_too_many_options_are_refused() -> None:
    policy = tiny_policy()
    index = policy.index(tiny_features(policy))
    question = Question("which", tuple(str(i) for i in range(27)))
    with pytest.raises(DataError, match="found 27"):
        policy.ask(index, [question], torch.tensor([0]))


def test_a_tokenizer_with_more_words_than_the_model_is_refused() -> None:
    policy = tiny_policy(vocab_size=5)
    with pytest.raises(CheckpointError, match=r"gives token \d+, but vocab_size is 5"):
        policy.index(tiny_features(policy))


def test_picked_before_marks_earlier_picks_only() -> None:
    taken = picked_before(torch.tensor([[[2, 0, 3]]]), 4)
    assert taken.tolist() == [[[[False, False, False, False], [False, False, True, False], [True, False, True, False]]]]


def test_a_single_pick_is_scored() -> None:
    policy = tiny_policy()
    index = policy.index(tiny_features(policy))
    asked = policy.ask(index, QUESTIONS, ROWS)
    picked = pick_frames(policy, index, asked, 1, 3)
    scores = policy.log_probs(index, asked, picked.picks)
    torch.testing.assert_close(scores.log_probs, picked.log_probs)


def test_a_repeated_pick_has_no_probability() -> None:
    policy = tiny_policy()
    index = policy.index(tiny_features(policy, videos=1))
    asked = policy.ask(index, QUESTIONS[:1], torch.tensor([0]))
    scores = policy.log_probs(index, asked, torch.tensor([[[3, 3, 1]]]))
    assert scores.log_probs.isinf().tolist() == [[[False, True, False]]]


def test_detached_index_gives_the_same_numbers_without_history() -> None:
    policy = tiny_policy()
    index = policy.index(tiny_features(policy))
    detached = index.detach()
    assert index.keys.requires_grad and not detached.keys.requires_grad
    assert not any(part.requires_grad for part in state_tensors(detached.state))
    assert torch.equal(index.keys, detached.keys)


def test_using_an_index_leaves_it_as_it_was() -> None:
    policy = tiny_policy()
    index = policy.index(tiny_features(policy)).detach()
    before = [part.clone() for part in (index.keys, index.values, *state_tensors(index.state))]
    asked = policy.ask(index, QUESTIONS, ROWS)
    asked_before = [part.clone() for part in state_tensors(asked.state)]
    pick_frames(policy, index, asked, 5, 3)
    for a, b in zip(before, (index.keys, index.values, *state_tensors(index.state)), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(asked_before, state_tensors(asked.state), strict=True):
        assert torch.equal(a, b)


def loss(policy: FramePolicy, features: Tensor, picks: Tensor) -> Tensor:
    index = policy.index(features, torch.tensor([9, 6]), segment=4)
    scores = policy.log_probs(index, policy.ask(index, QUESTIONS, ROWS), picks)
    weights = torch.linspace(-1, 1, scores.log_probs.numel(), dtype=DOUBLE).view_as(scores.log_probs)
    return (weights * scores.log_probs).sum() + 0.3 * scores.entropy.sum()


def test_gradient_equals_finite_differences() -> None:
    policy = tiny_policy(DOUBLE)
    features = tiny_features(policy, dtype=DOUBLE)
    picks = torch.stack([torch.randperm(6, generator=torch.Generator().manual_seed(i))[:4] for i in range(8)])
    picks = picks.view(4, 2, 4)
    loss(policy, features, picks).backward()  # type: ignore[no-untyped-call]
    weights = dict(policy.named_parameters())
    for name in CHECKED:
        weight, gradient = weights[name], weights[name].grad
        assert gradient is not None, name
        direction = torch.randn_like(weight)
        losses = []
        for sign in (1, -2):  # one step ahead, then one step behind
            with torch.no_grad():
                weight.add_(direction, alpha=sign * 1e-6)
                losses.append(loss(policy, features, picks))
        with torch.no_grad():
            weight.add_(direction, alpha=1e-6)
        slope = (losses[0] - losses[1]) / 2e-6
        expected = (gradient * direction).sum()
        assert expected.abs() > 1e-9, f"no gradient reaches {name}"
        assert torch.isclose(slope, expected, rtol=1e-5, atol=1e-6), f"{name}: {slope} instead of {expected}"


def test_every_trained_weight_gets_gradient_and_the_tower_none() -> None:
    policy = tiny_policy(DOUBLE)
    picks = torch.tensor([[[0, 3, 1], [2, 1, 0]]]).expand(4, -1, -1)
    loss(policy, tiny_features(policy, dtype=DOUBLE), picks).backward()  # type: ignore[no-untyped-call]
    for name, weight in policy.named_parameters():
        assert (weight.grad is None) == name.startswith("vision.tower."), name
        assert weight.grad is None or weight.grad.isfinite().all(), name


def test_initial_heads_follow_the_method() -> None:
    torch.manual_seed(0)
    policy = tiny_policy()
    policy.restart()
    for head in (policy.key_head, policy.query_head, policy.value_head):
        torch.testing.assert_close(head.weight @ head.weight.mT, 0.01 * torch.eye(16))
    assert policy.value_head.bias.abs().max() == 0
    torch.testing.assert_close(torch.nn.functional.softplus(policy.logit_scale.detach()), torch.tensor(1.0))
    assert policy.start_of_frame.abs().max() < 0.1


def test_records_are_frozen() -> None:
    policy = tiny_policy()
    index = policy.index(tiny_features(policy))
    with pytest.raises(dataclasses.FrozenInstanceError):
        index.keys = index.values  # type: ignore[misc]
