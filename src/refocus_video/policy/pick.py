"""Sampling subsets of frames from the policy, one pick at a time (METHOD §3).

A step gives every branch of every question its next pick: there is no loop over rows, and a group shares the state of
its question. Nothing here carries gradient; scores for a loss come from ``FramePolicy.log_probs``.

Legend: Q questions, G subsets per question (group), F candidate frames, K picks, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from refocus_video.errors import check_budget
from refocus_video.policy.policy import Asked, FramePolicy, VideoIndex


@dataclass(frozen=True, slots=True)
class Picks:
    """Subsets chosen by the policy."""

    picks: Tensor
    """Candidate positions in picking order, (Q, G, K) int64; no frame twice in a subset."""
    log_probs: Tensor
    """Of each pick at the moment it was made, (Q, G, K)."""
    distributions: Tensor | None = None
    """Probability of every candidate at each pick, (Q, G, K, F), when asked for."""


@torch.no_grad()
def pick_frames(
    policy: FramePolicy,
    index: VideoIndex,
    asked: Asked,
    budget: int,
    group_size: int = 1,
    *,
    temperature: float = 1.0,
    greedy: bool = False,
    generator: torch.Generator | None = None,
    keep_distributions: bool = False,
) -> Picks:
    """Pick ``budget`` frames for every question, ``group_size`` times.

    Args:
        policy: the policy that indexed the videos.
        index: of the videos.
        asked: the questions.
        budget: frames to pick (K).
        group_size: independent subsets per question (G).
        temperature: of the distribution at each pick.
        greedy: take the most probable frame instead of sampling.
        generator: source of randomness, on the policy's device.
        keep_distributions: return the whole distribution at each pick.

    Raises:
        BudgetError: when a video has fewer frames than the budget, or a "block" policy fewer inputs.
    """
    keys, valid = index.keys.index_select(0, asked.rows), index.valid.index_select(0, asked.rows)
    check_budget(budget, int(valid.sum(-1).min()))
    questions, num_frames, width = keys.shape
    values = index.values.flatten(0, 1)  # (B·F, D)
    offsets = asked.rows[:, None] * num_frames  # (Q, 1)
    taken = torch.zeros(questions, group_size, num_frames, dtype=torch.bool, device=keys.device)

    # The first token is the same for all branches: it is run once per question. In block, so are all of them.
    if policy.in_block:
        queries = policy.block_queries(asked, budget)
    else:
        queries, past = policy.queries(asked, policy.start_of_frame.expand(questions, 1, 1, width))
        past = tuple(layer.expand(group_size) for layer in past)
    queries = queries.expand(-1, group_size, -1, -1)  # (Q, G, 1, D), in block (Q, G, K, D)
    picks, scores, distributions = [], [], []
    while True:
        logits = policy.pick_logits(queries[:, :, 0], keys, taken, valid, temperature)
        log_p = logits.log_softmax(-1)  # (Q, G, F)
        pick = log_p.argmax(-1) if greedy else _sample(log_p, generator)  # (Q, G)
        picks.append(pick)
        scores.append(log_p.gather(-1, pick[..., None]).squeeze(-1))
        if keep_distributions:
            distributions.append(log_p.exp())
        if len(picks) == budget:
            break
        taken = taken.scatter(-1, pick[..., None], True)
        if policy.in_block:
            queries = queries[:, :, 1:]
            continue
        fed = values.index_select(0, (offsets + pick).flatten()).view(questions, group_size, 1, width)
        queries, past = policy.queries(asked, fed, past)
    return Picks(
        torch.stack(picks, -1),
        torch.stack(scores, -1),
        torch.stack(distributions, 2) if keep_distributions else None,
    )


def _sample(log_p: Tensor, generator: torch.Generator | None) -> Tensor:
    """One draw per row by the Gumbel trick: (..., F) -> (...). A frame of probability 0 is never drawn."""
    noise = torch.empty_like(log_p).exponential_(generator=generator)
    return (log_p - noise.log()).argmax(-1)
