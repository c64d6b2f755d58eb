"""The clipped policy loss with an entropy bonus (METHOD §5). Pure.

Dimensions: Q questions · G subsets of each · K picks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """The loss and what it was made of; everything but ``loss`` is detached."""

    loss: Tensor
    entropy: Tensor
    clip_fraction: Tensor


def policy_gradient_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    entropy: Tensor,
    *,
    entropy_coef: float,
    epsilon: float,
    live: Tensor | None = None,
    share: float = 1.0,
) -> PolicyLoss:
    """Clipped surrogate per pick, averaged over picks, subsets and questions, minus the entropy bonus.

    Args:
        log_probs: of each pick under the policy being trained, (Q, G, K), with gradient.
        old_log_probs: under the policy that sampled, (Q, G, K).
        advantages: (Q, G).
        entropy: of each pick's distribution, (Q, G, K), with gradient.
        entropy_coef: β.
        epsilon: the ratio is clipped to 1 ± epsilon.
        live: groups that count towards the surrogate, (Q,) bool; all by default. The denominator stays Q, so that a batch with
            few live groups takes a smaller step. The entropy bonus counts every group.
        share: of a step's questions that these are. All numbers are multiplied by it, so that those of a step's parts add up to
            those of the whole.
    """
    ratio = (log_probs - old_log_probs).exp()
    weights = advantages[..., None] if live is None else (advantages * live[:, None])[..., None]
    surrogate = torch.minimum(ratio * weights, ratio.clamp(1 - epsilon, 1 + epsilon) * weights)
    mean_entropy = entropy.mean()
    return PolicyLoss(
        loss=share * (-surrogate.mean() - entropy_coef * mean_entropy),
        entropy=share * mean_entropy.detach(),
        clip_fraction=share * ((ratio - 1).abs() > epsilon).float().mean().detach(),
    )
