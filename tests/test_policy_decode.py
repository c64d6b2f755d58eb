"""How picking runs the policy: keys made ready for many queries, single subsets and groups, steps in fixed buffers."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from refocus_video.policy.capture import CapturedStep
from refocus_video.policy.decode import Memory, advance
from refocus_video.policy.heads import Lookup, masked_logits
from refocus_video.policy.pick import Picks, pick_frames
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.records import Asked, VideoIndex
from tiny_policy import QUESTIONS, tiny_features, tiny_policy

ROWS = torch.tensor([1, 0, 0, 1])
FRAMES = torch.tensor([9, 7])
MANY = 1000
OPTIONS: list[dict[str, Any]] = [
    {},
    {"logit_scale_type": "vector", "logit_scale_fn": "exp"},
    {"attention_scaling": True},
    {"score_head_norm": "l2"},
    {"score_head_norm": "rmsnorm", "logit_scale_type": "vector"},
]


def opened(policy: FramePolicy) -> tuple[VideoIndex, Asked]:
    index = policy.index(tiny_features(policy, dtype=policy.logit_scale.dtype), FRAMES)
    return index, policy.ask(index, QUESTIONS, ROWS)


# ------------------------------------------------------------------ keys made ready


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.3])
@torch.no_grad()
def test_ready_keys_give_the_logits_of_the_training_path(options: dict[str, Any], temperature: float) -> None:
    policy = tiny_policy(torch.float64, **options)
    policy.logit_scale.normal_()
    index, _ = opened(policy)
    hidden = torch.randn(4, 5, 16, dtype=torch.float64)
    keys, valid = index.keys[ROWS], index.valid[ROWS]
    taken = torch.rand(4, 5, 9) < 0.3
    expected = policy.pick_logits(policy.query_head(hidden), keys, taken, valid, temperature)
    for uses in (0, MANY):
        lookup = policy.lookup(index.keys, uses, temperature)
        found = masked_logits(lookup.queries(hidden), lookup.keys[ROWS], taken, valid)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_query_head_is_folded_where_that_is_exact_and_less_work(options: dict[str, Any]) -> None:
    policy = tiny_policy(**options)
    keys = torch.randn(2, 9, 16)
    can = "score_head_norm" not in options
    assert [policy.lookup(keys, uses).head is None for uses in (0, 18, 19)] == [False, False, can]
    half = policy.to(torch.bfloat16)
    assert half.lookup(keys.bfloat16(), MANY).head is not None, "the training path rounds the query"
    assert half.lookup(keys.bfloat16(), MANY).keys.dtype == torch.float32


@pytest.mark.parametrize("group", [1, 3])
def test_picks_are_scored_alike_whether_folded_or_not(group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy(torch.float64)
    index, asked = opened(policy)
    heads = []

    def picked(uses: int) -> Picks:
        def lookup(keys: Tensor, _: int, temperature: float) -> Lookup:
            heads.append(FramePolicy.lookup(policy, keys, uses, temperature))
            return heads[-1]

        monkeypatch.setattr(policy, "lookup", lookup)
        seeded = torch.Generator().manual_seed(2)
        return pick_frames(policy, index, asked, 6, group, greedy=group == 1, generator=seeded)

    plain, folded = picked(0), picked(MANY)
    assert [lookup.head is None for lookup in heads] == [False, True]
    assert torch.equal(plain.picks, folded.picks)
    torch.testing.assert_close(plain.log_probs, folded.log_probs, rtol=0, atol=1e-10)


# ------------------------------------------------------------------ single subsets and groups


def test_a_single_subset_gets_what_it_gets_in_a_group() -> None:
    policy = tiny_policy(torch.float64)
    index, asked = opened(policy)
    group = pick_frames(policy, index, asked, 6, 3, generator=torch.Generator().manual_seed(2), keep_distributions=True)
    for g in range(3):
        forced = group.picks[:, g : g + 1]
        alone = pick_frames(policy, index, asked, 6, forced=forced, keep_distributions=True)
        torch.testing.assert_close(alone.log_probs, group.log_probs[:, g : g + 1], rtol=0, atol=1e-10)
        assert alone.distributions is not None and group.distributions is not None
        torch.testing.assert_close(alone.distributions[:, 0], group.distributions[:, g], rtol=0, atol=1e-10)


@pytest.mark.parametrize("group", [1, 6])
def test_with_a_generator_each_a_question_gets_the_same_alone_and_in_a_batch(group: int) -> None:
    policy = tiny_policy(torch.float64)
    index, asked = opened(policy)
    own = [torch.Generator().manual_seed(seed) for seed in range(4)]
    together = pick_frames(policy, index, asked, 5, group, generator=own)
    for q in range(4):
        one = policy.ask(index, QUESTIONS[q : q + 1], ROWS[q : q + 1])
        alone = pick_frames(policy, index, one, 5, group, generator=torch.Generator().manual_seed(q))
        assert torch.equal(alone.picks[0], together.picks[q])
        torch.testing.assert_close(alone.log_probs[0], together.log_probs[q], rtol=0, atol=1e-10)


# ------------------------------------------------------------------ steps in fixed buffers


def test_steps_in_fixed_buffers_are_the_plain_ones() -> None:
    policy = tiny_policy()
    index, asked = opened(policy)
    step = CapturedStep(policy.backbone)
    for budget in (6, 3):
        plain = pick_frames(policy, index, asked, budget, greedy=True)
        found = pick_frames(policy, index, asked, budget, greedy=True, step=step)
        assert torch.equal(found.picks, plain.picks)
        assert torch.equal(found.log_probs, plain.log_probs)
    single = policy.ask(index, QUESTIONS[:1], ROWS[:1])  # another number of questions
    plain = pick_frames(policy, index, single, 4, greedy=True)
    assert torch.equal(pick_frames(policy, index, single, 4, greedy=True, step=step).log_probs, plain.log_probs)


def test_buffers_stay_where_they_are_and_leave_the_question_alone() -> None:
    policy = tiny_policy()
    _, asked = opened(policy)
    before = [layer.ssm.clone() for layer in asked.state.layers]
    step, inputs = CapturedStep(policy.backbone), torch.randn(4, 1, 16)
    _, first = step(inputs, Memory(asked.state))
    addresses = [layer.ssm.data_ptr() for layer in first.state.layers]
    _, second = step(inputs, first)
    assert [layer.ssm.data_ptr() for layer in second.state.layers] == addresses
    assert all(torch.equal(a, layer.ssm) for a, layer in zip(before, asked.state.layers, strict=True))


def test_two_decodings_at_once_do_not_disturb_each_other() -> None:
    policy = tiny_policy()
    _, asked = opened(policy)
    step, plain = CapturedStep(policy.backbone), partial(advance, policy.backbone)
    inputs = torch.randn(2, 5, 4, 1, 16)
    with torch.no_grad():
        expected = []
        for own in inputs:
            memory, hidden = Memory(asked.state), []
            for token in own:
                out, memory = plain(token, memory)
                hidden.append(out)
            expected.append(torch.stack(hidden))
        memories = [Memory(asked.state), Memory(asked.state)]
        for t in range(5):
            for i in range(2):
                out, memories[i] = step(inputs[i, t], memories[i])
                assert torch.equal(out, expected[i][t])


def test_weights_may_change_in_place_or_move() -> None:
    policy = tiny_policy()
    index, asked = opened(policy)
    step = CapturedStep(policy.backbone)
    pick_frames(policy, index, asked, 3, greedy=True, step=step)
    for change in (
        lambda: policy.get_parameter("backbone.layers.0.mixer.D").data.mul_(3),
        lambda: policy.to(torch.float64),
    ):
        change()
        index, asked = opened(policy)
        plain = pick_frames(policy, index, asked, 3, greedy=True)
        found = pick_frames(policy, index, asked, 3, greedy=True, step=step)
        assert torch.equal(found.log_probs, plain.log_probs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@torch.no_grad()
def test_a_replayed_graph_gives_the_plain_steps() -> None:
    policy = tiny_policy().to("cuda")
    index = policy.index(tiny_features(policy), FRAMES)
    asked = policy.ask(index, QUESTIONS, ROWS)
    step = CapturedStep(policy.backbone)
    for _ in range(2):
        plain = pick_frames(policy, index, asked, 6, greedy=True)
        found = pick_frames(policy, index, asked, 6, greedy=True, step=step)
        assert torch.equal(found.picks, plain.picks)
        torch.testing.assert_close(found.log_probs, plain.log_probs, rtol=0, atol=1e-5)
