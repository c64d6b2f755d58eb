"""Options of picking: forced picks, a minimum gap, the best of several subsets, the most visited frames."""

from collections import Counter
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from refocus_video.errors import BudgetError, CheckpointError
from refocus_video.policy.apart import apart
from refocus_video.policy.pick import Picks, pick_frames
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.records import Asked, VideoIndex
from refocus_video.policy.subsets import best_of, most_visited, visits
from tiny_policy import QUESTIONS, tiny_features, tiny_policy

ROWS = torch.tensor([1, 0, 0, 1])
FRAMES = torch.tensor([9, 7])
TIMES = torch.tensor([[0, 0.1, 0.3, 1, 1.2, 2, 2.2, 3.5, 3.6], [0, 1, 2, 3, 4, 5, 6, 0, 0]], dtype=torch.float64)
GAPS = [0.05, 0.2, 0.9, 1.0]
BLOCK = {"frame_generation_method": "block", "query_frames": 7}


def opened(policy: FramePolicy) -> tuple[VideoIndex, Asked]:
    index = policy.index(tiny_features(policy), FRAMES)
    return index, policy.ask(index, QUESTIONS, ROWS)


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fits(frames: tuple[int, ...], times: Tensor, gap: float) -> bool:
    return all(
        float(b) - float(a) >= gap - 1e-6 for a, b in zip(times[list(frames)], times[list(frames)][1:], strict=False)
    )


# ------------------------------------------------------------------ forced picks


@pytest.mark.parametrize("options", [{}, BLOCK], ids=["autoregressive", "block"])
@pytest.mark.parametrize("given", [0, 1, 3, 5])
def test_forced_picks_come_first_and_are_scored_like_any_others(options: dict[str, Any], given: int) -> None:
    policy = tiny_policy(**options)
    index, asked = opened(policy)
    forced = torch.rand(4, 6, 7, generator=seeded(1)).argsort(-1)[..., :given]
    picked = pick_frames(policy, index, asked, 5, 6, generator=seeded(), forced=forced, temperature=0.7)
    assert torch.equal(picked.picks[..., :given], forced)
    assert (picked.picks.sort(-1).values.diff() > 0).all()
    expected = policy.log_probs(index, asked, picked.picks, 0.7).log_probs
    torch.testing.assert_close(picked.log_probs, expected, rtol=0, atol=2e-5)


def test_what_greedy_picks_can_be_forced_without_a_change() -> None:
    policy = tiny_policy()
    index, asked = opened(policy)
    greedy = pick_frames(policy, index, asked, 5, greedy=True)
    again = pick_frames(policy, index, asked, 5, greedy=True, forced=greedy.picks[..., :2])
    assert torch.equal(again.picks, greedy.picks)
    other = pick_frames(policy, index, asked, 5, greedy=True, forced=(greedy.picks[..., :1] + 1) % 7)
    assert not torch.equal(other.picks, greedy.picks)


@pytest.mark.parametrize(
    ("forced", "said"),
    [
        ([2, 2], r"pick candidate 2 as number 2, but it does not exist, is picked already"),
        ([9], "pick candidate 9, but they are numbered 0 to 8"),
        ([-1], "pick candidate -1, but"),
        ([8], "pick candidate 8 as number 1, but it does not exist"),
        ([0, 1, 2, 3], "asked for 3 frames, of which 4 are given"),
    ],
)
def test_impossible_forced_picks_are_refused(forced: list[int], said: str) -> None:
    policy = tiny_policy()
    index, asked = opened(policy)
    with pytest.raises(BudgetError, match=said) as caught:
        pick_frames(policy, index, asked, 3, 2, forced=torch.tensor(forced).expand(4, 2, -1))
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------ a minimum gap


@pytest.mark.parametrize("gap", GAPS)
def test_the_longest_choice_is_that_of_brute_force(gap: float) -> None:
    for seed in range(20):
        times = torch.rand(1, 8, generator=seeded(seed), dtype=torch.float64).mul(30).floor().div(10).sort().values
        open_ = torch.rand(1, 1, 8, generator=seeded(seed)) < 0.7
        found = apart(times, torch.ones(1, 8, dtype=torch.bool), gap).longest(open_)[0, 0]
        frames = open_[0, 0].nonzero().flatten().tolist()
        choices = [c for n in range(9) for c in combinations(frames, n) if fits(c, times[0], gap)]
        assert found.tolist() == [max((len(c) for c in choices if f in c), default=0) for f in range(8)]


@pytest.mark.parametrize("options", [{}, BLOCK], ids=["autoregressive", "block"])
@pytest.mark.parametrize(("gap", "budget"), [(0.05, 7), (0.2, 6), (0.9, 4), (1.0, 4), (1.9, 2)])
def test_picks_lie_the_gap_apart_and_are_as_many_as_asked(options: dict[str, Any], gap: float, budget: int) -> None:
    policy = tiny_policy(**options)
    index, asked = opened(policy)
    picked = pick_frames(
        policy, index, asked, budget, 40, generator=seeded(), times=TIMES, min_gap=gap, keep_distributions=True
    )
    assert picked.picks.shape == (4, 40, budget)
    times = TIMES[ROWS].gather(1, picked.picks.flatten(1)).view(4, 40, budget).sort(-1).values
    assert (times.diff() >= gap - 1e-6).all()
    assert (picked.picks < FRAMES[ROWS][:, None, None]).all()
    assert picked.distributions is not None
    torch.testing.assert_close(picked.distributions.sum(-1), torch.ones(4, 40, budget))


def test_a_gap_changes_nothing_but_the_mask() -> None:
    policy = tiny_policy()
    index, asked = opened(policy)
    gapped = pick_frames(
        policy, index, asked, 3, 20, generator=seeded(), times=TIMES, min_gap=1, keep_distributions=True
    )
    free = policy.log_distributions(index, asked, gapped.picks).exp()
    assert gapped.distributions is not None
    masked = free * (gapped.distributions > 0)
    torch.testing.assert_close(gapped.distributions, masked / masked.sum(-1, keepdim=True), rtol=0, atol=2e-5)
    assert ((free > 0) & (gapped.distributions == 0)).any()
    chosen = gapped.distributions.gather(-1, gapped.picks[..., None]).squeeze(-1)
    torch.testing.assert_close(gapped.log_probs.exp(), chosen)


def test_a_gap_that_masks_nothing_gives_the_plain_picks() -> None:
    policy = tiny_policy()
    index, asked = opened(policy)
    plain = pick_frames(policy, index, asked, 5, 10, generator=seeded())
    gapped = pick_frames(policy, index, asked, 5, 10, generator=seeded(), times=TIMES, min_gap=0.01)
    assert torch.equal(gapped.picks, plain.picks)
    assert torch.equal(gapped.log_probs, plain.log_probs)
    scored = policy.log_probs(index, asked, gapped.picks).log_probs
    torch.testing.assert_close(gapped.log_probs, scored, rtol=0, atol=2e-5)


def test_the_only_choice_is_found() -> None:
    policy = tiny_policy()
    index, asked = opened(policy)
    times = torch.arange(9, dtype=torch.float64).expand(2, 9)
    picks = pick_frames(policy, index, asked, 3, 30, generator=seeded(), times=times, min_gap=3).picks
    assert (picks[ROWS == 1].sort(-1).values == torch.tensor([0, 3, 6])).all(), "seven frames leave one choice"
    with pytest.raises(
        BudgetError, match=r"asked for 4 frames at least 3 s apart, but the video gives 3; choose"
    ) as caught:
        pick_frames(policy, index, asked, 4, times=times, min_gap=3)
    assert "\n" not in str(caught.value)
    forced = torch.ones(4, 1, 1, dtype=torch.long)
    with pytest.raises(BudgetError, match=r"candidate 1 as number 1, .* leaves too few"):
        pick_frames(policy, index, asked, 3, times=times, min_gap=3, forced=forced)


# ------------------------------------------------------------------ one of several subsets


def test_the_best_subset_has_the_largest_log_prob() -> None:
    policy = tiny_policy()
    index, asked = opened(policy)
    sampled = pick_frames(policy, index, asked, 4, 16, generator=seeded(), keep_distributions=True)
    best = best_of(sampled)
    assert best.picks.shape == (4, 1, 4)
    totals = sampled.log_probs.sum(-1)
    torch.testing.assert_close(best.log_probs.sum(-1)[:, 0], totals.amax(-1))
    assert len(set(totals.argmax(-1).tolist())) > 1, "the test needs questions with different best subsets"
    scores = policy.log_probs(index, asked, best.picks)
    torch.testing.assert_close(best.log_probs, scores.log_probs, rtol=0, atol=2e-5)
    assert best.distributions is not None
    torch.testing.assert_close(best.distributions.gather(-1, best.picks[..., None])[..., 0], best.log_probs.exp())


def test_subsets_can_be_ranked_by_the_rank_head() -> None:
    policy = tiny_policy(use_rank_head=True)
    index, asked = opened(policy)
    sampled = pick_frames(policy, index, asked, 4, 16, generator=seeded())
    scores = policy.rank_scores(index, asked, sampled.picks).detach()
    best = best_of(sampled, scores)
    for q, row in enumerate(scores.argmax(-1).tolist()):
        assert torch.equal(best.picks[q, 0], sampled.picks[q, row])
    with pytest.raises(CheckpointError, match="has no rank head"):
        tiny_policy().rank_scores(index, asked, sampled.picks)


def test_the_earlier_of_equal_subsets_is_the_best() -> None:
    sampled = Picks(torch.arange(6).view(1, 3, 2), torch.tensor([[[-2.0, -1], [-1, -1], [-1, -1]]]))
    assert best_of(sampled).picks.tolist() == [[[2, 3]]]


def test_the_most_visited_frames_are_those_of_counting() -> None:
    policy = tiny_policy()
    index, asked = opened(policy)
    picks = pick_frames(policy, index, asked, 3, 25, generator=seeded()).picks
    found = most_visited(index, asked, picks)
    for q in range(4):
        counts = Counter(picks[q].flatten().tolist())
        assert visits(picks, 9)[q].tolist() == [counts[f] for f in range(9)]
        expected = sorted(range(9), key=lambda f: (-counts[f], f))[:3]
        assert found.picks[q, 0].tolist() == expected
        torch.testing.assert_close(found.log_probs[q, 0].exp(), torch.tensor([counts[f] / 25 for f in expected]))


def test_the_earlier_of_equally_visited_frames_is_taken() -> None:
    policy = tiny_policy()
    index, asked = opened(policy)
    picks = torch.tensor([[6, 1], [5, 6], [2, 4]]).expand(4, 3, 2)
    assert most_visited(index, asked, picks).picks[:, 0].tolist() == [[6, 1]] * 4


def test_the_most_visited_frames_keep_the_gap() -> None:
    policy = tiny_policy()
    index, asked = opened(policy)
    times = torch.arange(9, dtype=torch.float64).expand(2, 9)
    picks = torch.tensor([[2, 3], [3, 2], [3, 4], [2, 3]]).expand(4, 4, 2)
    assert most_visited(index, asked, picks).picks[:, 0].tolist() == [[3, 2]] * 4
    found = most_visited(index, asked, picks, times=times, min_gap=2)
    assert found.picks[:, 0].tolist() == [[3, 0]] * 4, "the first of those that no subset holds"
    assert found.log_probs[:, 0].exp().tolist() == [[1, 0]] * 4


# ------------------------------------------------------------------ batches and seeds


@pytest.mark.parametrize("gap", [0.0, 0.9])
def test_questions_of_a_batch_get_what_they_get_alone(gap: float) -> None:
    policy = tiny_policy(torch.float64)
    index = policy.index(tiny_features(policy, dtype=torch.float64), FRAMES)
    asked = policy.ask(index, QUESTIONS, ROWS)
    forced = torch.tensor([[0], [3]]).expand(4, 2, 1)
    together = pick_frames(policy, index, asked, 4, 2, greedy=True, forced=forced, times=TIMES, min_gap=gap)
    sampled = pick_frames(policy, index, asked, 4, 8, generator=seeded())
    visited = most_visited(index, asked, sampled.picks, times=TIMES, min_gap=gap)
    for q in range(4):
        one = policy.ask(index, QUESTIONS[q : q + 1], ROWS[q : q + 1])
        alone = pick_frames(policy, index, one, 4, 2, greedy=True, forced=forced[:1], times=TIMES, min_gap=gap)
        assert torch.equal(alone.picks[0], together.picks[q])
        torch.testing.assert_close(alone.log_probs[0], together.log_probs[q], rtol=0, atol=1e-10)
        rows = sampled.picks[q : q + 1]
        assert torch.equal(most_visited(index, one, rows, times=TIMES, min_gap=gap).picks[0], visited.picks[q])
        own = best_of(Picks(rows, sampled.log_probs[q : q + 1]))
        assert torch.equal(own.picks[0], best_of(sampled).picks[q])


def test_seeds_repeat_with_every_option() -> None:
    policy = tiny_policy()
    index, asked = opened(policy)
    forced = torch.zeros(4, 9, 1, dtype=torch.long)
    first, second, other = (
        pick_frames(policy, index, asked, 3, 9, generator=seeded(s), forced=forced, times=TIMES, min_gap=0.9).picks
        for s in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
