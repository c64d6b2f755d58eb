"""Rewards from option scores (METHOD §4). Pure: tensors in, tensors out.

Dimensions: G subsets of a question · O answer options.
"""

import torch
from torch import Tensor

from refocus_video.errors import ConfigError


def margin(scores: Tensor, answer: int) -> Tensor:
    """Score of the answer minus the best other score: (..., O) -> (...), float32."""
    scores = scores.float()
    others = torch.cat((scores[..., :answer], scores[..., answer + 1 :]), dim=-1)
    return scores[..., answer] - others.amax(dim=-1)


def margin_reward(scores: Tensor, answer: int) -> Tensor:
    """The paper's reward, [p(y*) − p(ỹ)] / [p(y*) + p(ỹ)] in its stable form tanh(margin / 2): (..., O) -> (...)."""
    return torch.tanh(margin(scores, answer) / 2)


def probability_reward(scores: Tensor, answer: int) -> Tensor:
    """Probability of the answer among the options: (..., O) -> (...).

    Differs from the paper. A calibrated model that knows nothing gives 1/O whatever noise its logits carry, while the margin
    against the *best* other option is negative on average, which pays a policy for showing nothing (docs/experiments.md).
    """
    return torch.softmax(scores.float(), dim=-1)[..., answer]


def accuracy_reward(scores: Tensor, answer: int) -> Tensor:
    """+1 where the answer has the best score, −1 elsewhere: (..., O) -> (...). A tie with another option is not a win."""
    return torch.where(margin(scores, answer) > 0, 1.0, -1.0)


REWARDS = {"margin": margin_reward, "probability": probability_reward, "accuracy": accuracy_reward}


def reward(name: str, scores: Tensor, answer: int) -> Tensor:
    """The reward called ``name``: (..., O) -> (...).

    Raises:
        ConfigError: if there is no such reward.
    """
    if name not in REWARDS:
        raise ConfigError(f"no reward called {name!r}; known ones: {', '.join(REWARDS)}")
    return REWARDS[name](scores, answer)
