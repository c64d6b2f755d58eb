"""Rollouts: the policy picks groups of subsets, the reference model scores them (METHOD §4, §5).

Dimensions: B videos · Q questions · G subsets of each · K picks · F candidates · O options.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from refocus_video.policy.pick import pick_frames
from refocus_video.policy.policy import Asked, FramePolicy, VideoIndex
from refocus_video.reference.base import ReferenceModel, ScoreRequest
from refocus_video.reference.margin import margin, reward
from refocus_video.train.features import VideoFeatures
from refocus_video.types import Example, Question


@dataclass(frozen=True, slots=True)
class Batch:
    """The questions of one step and the videos they are about."""

    examples: tuple[Example, ...]
    """Q examples."""
    videos: tuple[VideoFeatures, ...]
    """B videos."""
    rows: Tensor
    """The video of each example, (Q,) int64."""

    def features(self) -> tuple[Tensor, Tensor]:
        """The policy's features padded to the longest video, (B, F, P, C), and how many frames each has, (B,)."""
        lengths = torch.tensor([len(video) for video in self.videos])
        parts = [video.policy.float() for video in self.videos]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True), lengths


@dataclass(frozen=True, slots=True)
class Rollout:
    """What was picked for a batch and how good it was."""

    picks: Tensor
    """(Q, G, K) in picking order."""
    log_probs: Tensor
    """Of each pick when it was made, (Q, G, K)."""
    rewards: Tensor
    """(Q, G) float32."""
    margins: Tensor
    """(Q, G): score of the answer minus the best other option's."""
    probabilities: Tensor
    """(Q, G): of the answer among the options."""


def shuffled(example: Example, rng: np.random.Generator) -> Example:
    """The same example with its options in another order, so that no letter can be learned."""
    order = rng.permutation(len(example.question.options))
    options = tuple(example.question.options[i] for i in order)
    answer = int(np.flatnonzero(order == example.answer)[0])
    return replace(example, question=Question(example.question.text, options), answer=answer)


def collect(
    policy: FramePolicy,
    index: VideoIndex,
    asked: Asked,
    reference: ReferenceModel,
    batch: Batch,
    *,
    budget: int,
    group_size: int,
    temperature: float,
    reward_name: str,
    generator: torch.Generator,
) -> Rollout:
    """Sample a group of subsets for every question and score them. No gradient."""
    picks = pick_frames(
        policy, index, asked, budget, group_size=group_size, temperature=temperature, generator=generator
    )
    scores = score_subsets(reference, batch, picks.picks)
    answers = [example.answer for example in batch.examples]
    return Rollout(
        picks=picks.picks,
        log_probs=picks.log_probs,
        rewards=torch.stack([reward(reward_name, s, a) for s, a in zip(scores, answers, strict=True)]),
        margins=torch.stack([margin(s, a) for s, a in zip(scores, answers, strict=True)]),
        probabilities=torch.stack([reward("probability", s, a) for s, a in zip(scores, answers, strict=True)]),
    )


def score_subsets(reference: ReferenceModel, batch: Batch, picks: Tensor) -> Sequence[Tensor]:
    """Option scores of picked subsets, shown in temporal order: (Q, G, K) -> Q tensors (G, O)."""
    subsets = picks.sort(dim=-1).values.cpu()
    videos = [batch.videos[int(row)] for row in batch.rows]
    return reference.score(
        [
            ScoreRequest(video.reference, video.times, example.question, subset)
            for video, example, subset in zip(videos, batch.examples, subsets, strict=True)
        ]
    )
