"""One subset out of many sampled ones: the best of them, or the frames that most of them hold.

Legend: B videos, Q questions, G sampled subsets per question, F candidate frames, K picks.
"""

import torch
from torch import Tensor

from refocus_video.policy.pick import Picks, allowed
from refocus_video.policy.records import Asked, VideoIndex


def best_of(sampled: Picks, scores: Tensor | None = None) -> Picks:
    """The best subset of each question, the earlier one of equals.

    Args:
        sampled: G subsets of each question.
        scores: how good each one is, (Q, G), such as ``FramePolicy.rank_scores``; their log-probs if left out, of the
            distribution that they were sampled from.

    Returns:
        One subset a question, (Q, 1, K).
    """
    scores = sampled.log_probs.sum(-1) if scores is None else scores
    best = _first_largest(scores)  # (Q,)
    rows = torch.arange(len(best), device=best.device)
    chosen = sampled.distributions
    return Picks(
        sampled.picks[rows, best][:, None],
        sampled.log_probs[rows, best][:, None],
        None if chosen is None else chosen[rows, best][:, None],
    )


def most_visited(
    index: VideoIndex, asked: Asked, picks: Tensor, *, times: Tensor | None = None, min_gap: float = 0.0
) -> Picks:
    """The K frames that most of the sampled subsets hold, whichever came in which place, the most visited first.

    The earlier one of equally visited frames is taken. A gap is kept here too: the most visited frame is taken that
    lies far enough from those taken before and leaves room for the rest, even one that no subset holds.

    Args:
        index: of the videos.
        asked: the questions.
        picks: sampled subsets, (Q, G, K) int64.
        times: as in ``pick_frames``.
        min_gap: as in ``pick_frames``.

    Returns:
        One subset a question, (Q, 1, K). In place of log-probs it has the logarithm of the share of subsets that hold
        each frame.

    Raises:
        BudgetError: as ``pick_frames``.
    """
    group, budget = picks.shape[1:]
    rules = allowed(index, asked, budget, times, min_gap)
    counts = visits(picks, len(index))[:, None]  # (Q, 1, F)
    taken = rules.nothing_taken(1)  # (Q, 1, F)
    chosen: list[Tensor] = []
    while True:
        closed = rules.closed(taken, budget - len(chosen)) | ~rules.valid[:, None]
        chosen.append(_first_largest(counts.masked_fill(closed, -1)))  # (Q, 1)
        if len(chosen) == budget:
            break
        taken = rules.take(taken, chosen[-1])
    frames = torch.stack(chosen, -1)  # (Q, 1, K)
    return Picks(frames, (counts.gather(-1, frames) / group).log())


def visits(picks: Tensor, num_frames: int) -> Tensor:
    """How many of a question's subsets hold each frame: (Q, G, K) -> (Q, F) int64."""
    flat = picks.flatten(1)  # (Q, G·K)
    return torch.zeros(len(flat), num_frames, dtype=torch.long, device=flat.device).scatter_add(
        1, flat, torch.ones_like(flat)
    )


def _first_largest(x: Tensor) -> Tensor:
    """Position of the largest number, the first of equals, which argmax does not promise: (..., N) -> (...)."""
    positions = torch.arange(x.shape[-1], device=x.device)
    return torch.where(x == x.amax(-1, keepdim=True), positions, x.shape[-1]).amin(-1)
