"""How one subset is chosen from what the policy thinks: the options of a selection, and what they do.

Legend: B videos, Q questions, G sampled subsets per question, F candidate frames, K picks.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from refocus_video.errors import ConfigError
from refocus_video.policy.pick import Picks, pick_frames
from refocus_video.policy.policy import Asked, FramePolicy, VideoIndex
from refocus_video.policy.subsets import best_of, most_visited

Strategy = Literal["greedy", "sample", "best-of", "best-of-rank", "marginal"]
"""The most probable frame each time; one drawn; of several drawn subsets the most probable one, the one that the rank head
likes best, or the frames that most of them hold."""

OF_SEVERAL = ("best-of", "best-of-rank", "marginal")
SAMPLES = 64
"""Subsets that are drawn when their number is not stated, as in the published evaluation."""


@dataclass(frozen=True, slots=True)
class Picking:
    """How to choose the frames of a subset."""

    strategy: Strategy | None = None
    """None: greedy without a temperature, else sample."""
    temperature: float | None = None
    """Of the sampling; 1 where it is left out."""
    samples: int | None = None
    """Subsets drawn by a strategy that chooses among several; :data:`SAMPLES` where it is left out."""
    min_gap: float = 0.0
    """Seconds that picks lie apart at least."""

    def __post_init__(self) -> None:
        if self.strategy is not None and self.strategy not in get_args(Strategy):
            raise ConfigError(f"unknown strategy {self.strategy!r}; known ones: {', '.join(get_args(Strategy))}")
        if self.temperature is not None and not 0 < self.temperature < float("inf"):
            raise ConfigError(f"temperature must be above 0, found {self.temperature}; leave it out to pick greedily")
        if self.temperature is not None and self.greedy:
            raise ConfigError(f"strategy greedy draws nothing, found temperature {self.temperature}; leave one out")
        if self.samples is not None and self.resolved not in OF_SEVERAL:
            raise ConfigError(
                f"strategy {self.resolved} takes no number of samples, found {self.samples}; "
                f"leave it out, or choose {', '.join(OF_SEVERAL)}"
            )
        if self.samples is not None and self.samples < 1:
            raise ConfigError(f"samples must be at least 1, found {self.samples}")
        if not 0 <= self.min_gap < float("inf"):
            raise ConfigError(f"the gap between picks must be 0 seconds or more, found {self.min_gap}")

    @property
    def resolved(self) -> Strategy:
        """The strategy that is meant."""
        return self.strategy or ("greedy" if self.temperature is None else "sample")

    @property
    def greedy(self) -> bool:
        """Whether no random numbers are needed."""
        return self.resolved == "greedy"


@torch.no_grad()
def choose(
    policy: FramePolicy,
    index: VideoIndex,
    asked: Asked,
    budget: int,
    picking: Picking,
    *,
    times: Tensor,
    generator: torch.Generator | None = None,
) -> Picks:
    """One subset for every question.

    Args:
        policy: the policy that indexed the videos.
        index: of the videos.
        asked: the questions.
        budget: frames to pick (K).
        picking: how.
        times: of the candidates in seconds, (B, F) float64.
        generator: source of randomness, on the policy's device.

    Returns:
        (Q, 1, K). "marginal" gives the share of the subsets that hold a frame in place of the probability of its pick.

    Raises:
        BudgetError: when so many frames cannot be picked.
        CheckpointError: for "best-of-rank" with a policy that has no rank head.
    """
    strategy, several = picking.resolved, picking.resolved in OF_SEVERAL
    sampled = pick_frames(
        policy,
        index,
        asked,
        budget,
        (picking.samples or SAMPLES) if several else 1,
        temperature=picking.temperature or 1.0,
        greedy=picking.greedy,
        generator=generator,
        times=times,
        min_gap=picking.min_gap,
    )
    if strategy == "best-of":
        return best_of(sampled)
    if strategy == "best-of-rank":
        return best_of(sampled, policy.rank_scores(index, asked, sampled.picks))
    if strategy == "marginal":
        return most_visited(index, asked, sampled.picks, times=times, min_gap=picking.min_gap)
    return sampled
