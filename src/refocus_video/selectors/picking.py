"""How one subset is chosen from what the policy thinks: the options of a selection, and what they do.

Legend: B videos, Q questions, G sampled subsets per question, F candidate frames, K picks.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from refocus_video.config import PolicyConfig
from refocus_video.policy.decode import Step
from refocus_video.policy.pick import Picks, pick_frames
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.records import Asked, VideoIndex
from refocus_video.policy.subsets import best_of, most_visited
from refocus_video.selectors.options import Options, Picking, Strategy

__all__ = ["Options", "Picking", "Strategy", "choose", "questions_at_once"]

MEMORY_BYTES = 2 << 30
"""About what the questions that are answered together may remember; one question is answered whatever it takes."""


def questions_at_once(config: PolicyConfig, picking: Picking, budget: int) -> int:
    """How many questions may be answered together, by what each remembers: its states, and the picks of its subsets."""
    tokens = (
        3 * config.d_state + picking.group_size * budget
    )  # a state is worth d_state tokens; three are alive at most
    return max(1, MEMORY_BYTES // (4 * config.n_layer * config.expand * config.d_model * tokens))


@torch.no_grad()
def choose(
    policy: FramePolicy,
    index: VideoIndex,
    asked: Asked,
    budget: int,
    picking: Picking,
    *,
    times: Tensor,
    generators: Sequence[torch.Generator] | None = None,
    explain: bool = False,
    step: Step | None = None,
) -> Picks:
    """One subset for every question.

    Args:
        policy: the policy that indexed the videos.
        index: of the videos.
        asked: the questions.
        budget: frames to pick (K).
        picking: how; its seed is the caller's business.
        times: of the candidates in seconds, (B, F) float64.
        generators: source of randomness of each question, on any device.
        explain: return the distributions too: what the policy thought at each pick, given the picks before it.
        step: as in ``pick_frames``.

    Returns:
        (Q, 1, K). "marginal" gives the share of the subsets that hold a frame in place of the probability of its pick.

    Raises:
        BudgetError: when so many frames, or the forced ones, cannot be picked.
        CheckpointError: for "best-of-rank" with a policy that has no rank head.
    """
    questions, group = len(asked.rows), picking.group_size
    first = torch.tensor([int(position) for position in picking.forced], dtype=torch.long, device=policy.device)  # (m,)
    run = partial(
        pick_frames,
        policy,
        index,
        asked,
        budget,
        temperature=picking.temperature or 1.0,
        times=times,
        min_gap=picking.min_gap,
        step=step,
    )
    chosen = run(group, greedy=picking.greedy, generator=generators, forced=first.expand(questions, group, -1))
    if picking.resolved == "best-of":
        chosen = best_of(chosen)
    elif picking.resolved == "best-of-rank":
        chosen = best_of(chosen, policy.rank_scores(index, asked, chosen.picks))
    elif picking.resolved == "marginal":
        chosen = most_visited(index, asked, chosen.picks, times=times, min_gap=picking.min_gap)
    if explain:  # by forcing what was chosen: the same way for every strategy
        chosen = replace(chosen, distributions=run(forced=chosen.picks, keep_distributions=True).distributions)
    return chosen
