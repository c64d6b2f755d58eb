"""Rewards from option scores (METHOD §4). Pure: tensors in, tensors out.

Dimensions: G subsets of a question · O answer options · C sets of control frames.
"""

import torch
from torch import Tensor


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


def gain(scores: Tensor, answer: int, control: Tensor) -> Tensor:
    """Score of the answer minus the best one it has with control frames: (G, O), (C, O) -> (G,), float32."""
    return scores.float()[..., answer] - control.float()[..., answer].amax()


def likelihood_reward(scores: Tensor, answer: int, control: Tensor) -> Tensor:
    """For questions without options: the margin's form with control frames in place of the other options, tanh(gain / 2).

    Scores are mean log-probabilities of the answer's tokens (METHOD §4), so the reward says how much likelier the subset makes the
    right answer than the best control frames do, in [−1, 1] for answers of any length: (G, O), (C, O) -> (G,).
    """
    return torch.tanh(gain(scores, answer, control) / 2)
