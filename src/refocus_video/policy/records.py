"""What the policy hands out: indexed videos, questions put to them, scores of picks.

Legend: B videos, Q questions, G subsets per question (group), F candidate frames, K picks, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from refocus_video.policy.mamba2 import State


@dataclass(frozen=True, slots=True)
class VideoIndex:
    """All that the policy keeps of B videos; no question has been asked yet."""

    keys: Tensor
    """What queries are compared with, (B, F, D)."""
    values: Tensor
    """What is fed back once a frame is picked, (B, F, D); (B, F, 0) when nothing is ("block")."""
    valid: Tensor
    """Which candidates exist, (B, F) bool: videos with fewer frames are padded on the right."""
    state: State
    """Of the backbone after the last frame, B rows."""

    def __len__(self) -> int:
        return self.keys.shape[1]

    def detach(self) -> "VideoIndex":
        """The same numbers without their gradient history."""
        return VideoIndex(self.keys.detach(), self.values.detach(), self.valid, self.state.detach())


def joined(parts: Sequence[VideoIndex]) -> VideoIndex:
    """One index of stretches of the same videos that were indexed one after the other, each from the state before it."""
    keys, values, valid = ([getattr(part, name) for part in parts] for name in ("keys", "values", "valid"))
    return VideoIndex(torch.cat(keys, 1), torch.cat(values, 1), torch.cat(valid, 1), parts[-1].state)


def stacked(parts: Sequence[VideoIndex]) -> VideoIndex:
    """One index of the videos of several, one after the other, padded to the longest video."""
    frames = max(len(part) for part in parts)
    keys, values, valid = (
        torch.cat([_padded(getattr(part, name), frames) for part in parts]) for name in ("keys", "values", "valid")
    )
    return VideoIndex(keys, values, valid, State.stacked([part.state for part in parts]))


@dataclass(frozen=True, slots=True)
class Asked:
    """Q questions put to indexed videos."""

    state: State
    """Of the backbone after the question, Q rows."""
    rows: Tensor
    """Which video of the index each question is about, (Q,) int64."""


@dataclass(frozen=True, slots=True)
class PickScores:
    """What the policy thinks of given picks."""

    log_probs: Tensor
    """Of each pick given the ones before it, (Q, G, K) float32; the sum over K is that of the subset."""
    entropy: Tensor
    """Of the distribution over the remaining frames at each pick, (Q, G, K) in nats."""


def picked_before(picks: Tensor, num_frames: int) -> Tensor:
    """Which frames are taken before each pick: (Q, G, K) -> (Q, G, K, F) bool."""
    steps = torch.arange(picks.shape[-1], device=picks.device)  # (K,)
    first = picks.new_full((*picks.shape[:-1], num_frames), len(steps))  # (Q, G, F): when each frame is picked
    first = first.scatter_reduce(-1, picks, steps.expand_as(picks), "amin")
    return first[..., None, :] < steps[:, None]


def _padded(table: Tensor, frames: int) -> Tensor:
    """(B, F, ...) -> (B, frames, ...), filled with zeros."""
    return torch.cat([table, table.new_zeros(len(table), frames - table.shape[1], *table.shape[2:])], 1)
