"""Group-relative advantages (METHOD §5; GRPO, arXiv 2402.03300). Pure.

Where we differ from the paper:

1. Besides dividing by each group's own standard deviation (``group``), rewards can be divided by a running average over all
   groups (``running``). A group whose rewards hardly differ then stays small instead of being blown up to full size, and the
   entropy coefficient means the same for every reference model (docs/experiments.md).
2. Groups with no spread are masked out by :func:`live_groups`, never divided by nearly nothing.

Dimensions: Q questions · G subsets of each.
"""

import torch
from torch import Tensor

EPSILON = 1e-4


def group_std(rewards: Tensor) -> Tensor:
    """Spread of the rewards inside each group, (Q, G) -> (Q,), divided by G as in the paper."""
    return rewards.std(dim=-1, correction=0)


def live_groups(rewards: Tensor, threshold: float) -> Tensor:
    """Which groups carry signal: spread above ``threshold``, (Q, G) -> (Q,) bool."""
    return group_std(rewards) > threshold


def group_advantages(rewards: Tensor, scale: Tensor | float | None = None) -> Tensor:
    """Rewards minus their group's mean, over a scale.

    Args:
        rewards: (Q, G).
        scale: what to divide by; None takes each group's own standard deviation (the paper).

    Returns:
        (Q, G); each row sums to 0.
    """
    centred = rewards - rewards.mean(dim=-1, keepdim=True)
    divisor = (
        group_std(rewards)[:, None]
        if scale is None
        else torch.as_tensor(scale, dtype=rewards.dtype, device=rewards.device)
    )
    return centred / (divisor + EPSILON)
