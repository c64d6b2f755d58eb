"""A minimum time between picks: which candidates are too close, and which would leave too few for the rest.

Candidates lie on a line, so the most picks that fit are found by always going on to the nearest candidate that is far
enough. :meth:`Apart.longest` does that from all candidates at once, in a few rounds that double the distance.

Legend: B videos, Q questions, G subsets per question (group), F candidate frames.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

TOLERANCE_S = 1e-6
"""Times nearer to the gap than this count as it: times of frames are not exact in binary."""


@dataclass(frozen=True, slots=True)
class Apart:
    """Which candidates of each question's video are too close to each other."""

    before: Tensor
    """How many candidates lie far enough before each one, (Q, F) int64; they are the first ones."""
    after: Tensor
    """Position of the first candidate far enough after each one, (Q, F) int64; F when there is none."""

    def to(self, device: torch.device) -> "Apart":
        """The same on another device."""
        return Apart(self.before.to(device), self.after.to(device))

    def near(self, pick: Tensor) -> Tensor:
        """The candidates too close to a pick, itself among them: (Q, G) -> (Q, G, F) bool."""
        positions = torch.arange(self.after.shape[1], device=pick.device)  # (F,)
        first, end = (part.gather(1, pick)[..., None] for part in (self.before, self.after))  # (Q, G, 1)
        return (positions >= first) & (positions < end)

    def longest(self, open_: Tensor) -> Tensor:
        """The most picks that can be made together with each open candidate, that one included.

        Args:
            open_: candidates that may still be picked, (Q, G, F) bool.

        Returns:
            (Q, G, F) int64; 0 where a candidate is not open.
        """
        count = open_.shape[-1]
        onwards = _chain(self.after, open_)
        backwards = _chain(count - self.before.flip(-1), open_.flip(-1)).flip(-1)
        return (onwards + backwards - 1) * open_


def apart(times: Tensor, valid: Tensor, min_gap: float) -> Apart:
    """What is too close to what.

    Args:
        times: of the candidates in seconds, (Q, F) float64, non-decreasing where they exist.
        valid: which candidates exist, (Q, F) bool.
        min_gap: seconds that two picks must lie apart, above 0.
    """
    times = times.masked_fill(~valid, torch.inf).contiguous()
    after = torch.searchsorted(times, times + (min_gap - TOLERANCE_S))  # (Q, F)
    positions = torch.arange(times.shape[1], device=times.device).expand_as(after).contiguous()
    after = torch.maximum(after, positions + 1)  # a candidate is too close to itself, whatever the gap
    return Apart(torch.searchsorted(after, positions, right=True), after)


def _chain(after: Tensor, open_: Tensor) -> Tensor:
    """Picks on the way from each candidate to the last one, always taking the next that is open and far enough.

    Args:
        after: first candidate far enough, (Q, F) int64.
        open_: (Q, G, F) bool.

    Returns:
        (Q, G, F), the start included.
    """
    count = open_.shape[-1]
    positions = torch.arange(count, device=open_.device)
    next_open = torch.where(open_, positions, count).flip(-1).cummin(-1).values.flip(-1)  # (Q, G, F): at or after
    next_open = torch.nn.functional.pad(next_open, (0, 1), value=count)  # (Q, G, F + 1): nothing comes after the end
    jump = next_open.gather(-1, after[:, None].expand_as(open_))  # (Q, G, F)
    jump = torch.nn.functional.pad(jump, (0, 1), value=count)
    steps = torch.ones_like(jump)
    steps[..., count] = 0
    for _ in range(count.bit_length()):  # steps of 1, 2, 4, ... picks
        steps, jump = steps + steps.gather(-1, jump), jump.gather(-1, jump)
    return steps[..., :count]
