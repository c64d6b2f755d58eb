"""Sampling subsets of frames from the policy, one pick at a time (METHOD §3).

A step gives every subset of every question its next pick: there is no loop over rows. What subsets remember between two
picks is decode.py's business. Nothing here carries gradient; scores for a loss come from ``FramePolicy.log_probs``.

Every question may have its own source of randomness. It then gets the same picks alone as among others.

A minimum gap changes the distribution: at each pick, candidates are masked that lie too close to an earlier one, or after
which the budget could not be reached any more. The log-probs are those of the distribution so masked; ``log_probs``,
which knows no gap, gives the same only where the gap masks nothing.

Legend: B videos, Q questions, G subsets per question (group), F candidate frames, K picks, m forced picks, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from refocus_video.errors import BudgetError, check_budget
from refocus_video.policy.apart import Apart, apart
from refocus_video.policy.decode import Memory, Step, advance
from refocus_video.policy.heads import masked_logits
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.records import Asked, VideoIndex


@dataclass(frozen=True, slots=True)
class Picks:
    """Subsets chosen by the policy."""

    picks: Tensor
    """Candidate positions in picking order, (Q, G, K) int64; no frame twice in a subset."""
    log_probs: Tensor
    """Of each pick at the moment it was made, (Q, G, K)."""
    distributions: Tensor | None = None
    """Probability of every candidate at each pick, (Q, G, K, F), when asked for."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Which candidates may be picked next."""

    valid: Tensor
    """Which candidates exist, (Q, F) bool."""
    gap: Apart | None
    """Which candidates are too close to each other; None when any two may be picked."""

    def nothing_taken(self, group_size: int) -> Tensor:
        """Before the first pick, (Q, G, F) bool."""
        return torch.zeros_like(self.valid)[:, None].repeat(1, group_size, 1)

    def take(self, taken: Tensor, pick: Tensor) -> Tensor:
        """Which candidates are picked or too close after a further pick (Q, G): (Q, G, F) -> (Q, G, F)."""
        if self.gap is None:
            return taken.scatter(-1, pick[..., None], True)
        return taken | self.gap.near(pick)

    def closed(self, taken: Tensor, left: int) -> Tensor:
        """What must not be picked when ``left`` picks, the next one included, are to be made: (Q, G, F) bool."""
        if self.gap is None:
            return taken
        return self.gap.longest(~taken & self.valid[:, None]) < left


def allowed(index: VideoIndex, asked: Asked, budget: int, times: Tensor | None = None, min_gap: float = 0.0) -> Allowed:
    """The rules of picking; arguments and errors are those of :func:`pick_frames`."""
    valid = index.valid.index_select(0, asked.rows)  # (Q, F)
    check_budget(budget, int(valid.sum(-1).min()))
    if min_gap <= 0:
        return Allowed(valid, None)
    assert times is not None, "a gap in seconds needs the times of the candidates"
    # Times are float64, which a Mac's GPU does not have: only what they come to is moved.
    gap = apart(times.cpu()[asked.rows.cpu()], valid.cpu(), min_gap).to(valid.device)
    most = int(gap.longest(valid[:, None]).amax((1, 2)).min())
    if most < budget:
        raise BudgetError(
            f"asked for {budget} frames at least {min_gap:g} s apart, but the video gives {most}; "
            "choose fewer frames or a smaller gap"
        )
    return Allowed(valid, gap)


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
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    keep_distributions: bool = False,
    forced: Tensor | None = None,
    times: Tensor | None = None,
    min_gap: float = 0.0,
    step: Step | None = None,
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
        generator: source of randomness, or one for each question. Its numbers are made where it lives: on the processor they
            are the same whatever the device.
        keep_distributions: return the whole distribution at each pick.
        forced: the first picks of every subset instead of chosen ones, (Q, G, m) int64; their log-probs are the policy's.
        times: of the candidates in seconds, (B, F) float64; needed for a gap.
        min_gap: seconds that picks lie apart at least; 0 for any.
        step: how the backbone is run for single subsets; groups take :func:`~refocus_video.policy.decode.advance`.

    Raises:
        BudgetError: when a video has fewer frames than the budget, or fewer that lie the gap apart, or a "block" policy
            fewer inputs; when a forced pick does not exist, comes twice, or rules the budget out.
    """
    rules = allowed(index, asked, budget, times, min_gap)
    questions, num_frames = rules.valid.shape
    first = () if forced is None else _steps(forced, (questions, group_size), num_frames, budget)
    if step is None or group_size > 1:
        step = partial(advance, policy.backbone)
    values = index.values.flatten(0, 1)  # (B·F, D)
    offsets = asked.rows[:, None] * num_frames  # (Q, 1)
    taken = rules.nothing_taken(group_size)  # (Q, G, F)

    # The first token is the same for all subsets: it is run once per question. In block, so are all of them.
    if policy.in_block:
        lookup = policy.lookup(index.keys, 0, temperature)
        waiting = policy.block_queries(asked, budget).unbind(2)  # K times (Q, 1, D)
        queries = waiting[0]
    else:
        lookup = policy.lookup(index.keys, questions * (1 + group_size * (budget - 1)), temperature)
        start = policy.start_of_frame.expand(questions, 1, -1)
        hidden, memory = step(start, Memory(asked.state))  # (Q, 1, D)
        queries = lookup.queries(hidden)
    keys = lookup.keys.index_select(0, asked.rows)  # (Q, F, D)
    picks: list[Tensor] = []
    scores, distributions = [], []
    while True:
        closed = rules.closed(taken, budget - len(picks))  # (Q, G, F)
        logits = masked_logits(queries.expand(-1, group_size, -1), keys, closed, rules.valid)  # (Q, G, F)
        log_p = logits.log_softmax(-1)
        if len(picks) < len(first):
            pick = _checked(first[len(picks)], closed | ~rules.valid[:, None], len(picks))  # (Q, G)
        else:
            pick = log_p.argmax(-1) if greedy else _sample(log_p, generator)  # (Q, G)
        picks.append(pick)
        scores.append(log_p.gather(-1, pick[..., None]).squeeze(-1))
        if keep_distributions:
            distributions.append(log_p.exp())
        if len(picks) == budget:
            break
        taken = rules.take(taken, pick)
        if policy.in_block:
            queries = waiting[len(picks)]
            continue
        fed = values.index_select(0, (offsets + pick).flatten()).view(questions, group_size, -1)
        hidden, memory = step(fed, memory)  # (Q, G, D)
        queries = lookup.queries(hidden)
    return Picks(
        torch.stack(picks, -1),
        torch.stack(scores, -1),
        torch.stack(distributions, 2) if keep_distributions else None,
    )


def _sample(log_p: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
    """One draw per row by the Gumbel trick: (Q, G, F) -> (Q, G). A frame of probability 0 is never drawn."""
    if isinstance(generator, Sequence):
        noise = torch.stack([_noise(part, own) for part, own in zip(log_p, generator, strict=True)])
    else:
        noise = _noise(log_p, generator)
    return (log_p - noise.to(log_p.device).log()).argmax(-1)


def _noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Exponential numbers in the shape of a tensor, made where the generator lives."""
    device = like.device if generator is None else generator.device
    return torch.empty(like.shape, dtype=like.dtype, device=device).exponential_(generator=generator)


def _steps(forced: Tensor, rows: tuple[int, int], num_frames: int, budget: int) -> tuple[Tensor, ...]:
    """The forced picks of each step: (Q, G, m) -> m tensors (Q, G)."""
    assert forced.shape[:2] == rows, f"forced picks must be {(*rows, 'm')}, found {tuple(forced.shape)}"
    if forced.shape[-1] > budget:
        raise BudgetError(f"asked for {budget} frames, of which {forced.shape[-1]} are given; give at most {budget}")
    wrong = forced[(forced < 0) | (forced >= num_frames)]
    if len(wrong):
        raise BudgetError(f"asked to pick candidate {int(wrong[0])}, but they are numbered 0 to {num_frames - 1}")
    return forced.unbind(-1)


def _checked(pick: Tensor, closed: Tensor, step: int) -> Tensor:
    """The same forced picks (Q, G), once none of them is closed (Q, G, F)."""
    wrong = closed.gather(-1, pick[..., None]).squeeze(-1)  # (Q, G)
    if wrong.any():
        raise BudgetError(
            f"asked to pick candidate {int(pick[wrong][0])} as number {step + 1}, but it does not exist, is picked "
            "already, or leaves too few frames that lie far enough apart; give another one"
        )
    return pick
