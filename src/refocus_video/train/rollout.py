"""Rollouts: the policy picks groups of subsets, the reference model scores them (METHOD §4, §5).

Dimensions: B videos · Q questions · G subsets of each · K picks · F candidates.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from refocus_video.config import ReferenceConfig
from refocus_video.policy.pick import pick_frames
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.records import Asked, VideoIndex
from refocus_video.reference.base import ReferenceModel
from refocus_video.scoring import Trial, judge
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
    """The video of each example, (Q,) int64, in ascending order."""

    @property
    def questions(self) -> list[Question]:
        """What a policy is asked."""
        return [example.question for example in self.examples]

    def features(self) -> tuple[Tensor, Tensor]:
        """The policy's features padded to the longest video, (B, F, P, C), and how many frames each has, (B,)."""
        lengths = torch.tensor([len(video) for video in self.videos])
        parts = [video.policy.float() for video in self.videos]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True), lengths

    def split(self, videos: int | None) -> list["Batch"]:
        """The same questions in the same order, as batches of at most so many videos; None for all in one."""
        size = videos or len(self.videos)
        parts = []
        for first in range(0, len(self.videos), size):
            mine = ((self.rows >= first) & (self.rows < first + size)).nonzero().flatten()
            examples = tuple(self.examples[row] for row in mine.tolist())
            parts.append(Batch(examples, self.videos[first : first + size], self.rows[mine] - first))
        return parts


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
    """(Q, G); these three are explained at :class:`refocus_video.scoring.Judgement`."""
    probabilities: Tensor
    """(Q, G)."""
    correct: Tensor
    """(Q, G), from 0 to 1."""


def shuffled(example: Example, rng: np.random.Generator) -> Example:
    """The same example with its options, if it has any, in another order, so that no letter can be learned."""
    if not example.question.options:
        return example
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
    scoring: ReferenceConfig,
    generator: torch.Generator,
) -> Rollout:
    """Sample a group of subsets for every question and score them. No gradient."""
    picks = pick_frames(
        policy, index, asked, budget, group_size=group_size, temperature=temperature, generator=generator
    )
    judged = judge(reference, trials(batch, picks.picks), scoring)
    return Rollout(
        picks=picks.picks,
        log_probs=picks.log_probs,
        rewards=torch.stack([one.rewards for one in judged]),
        margins=torch.stack([one.margins for one in judged]),
        probabilities=torch.stack([one.probabilities for one in judged]),
        correct=torch.stack([one.correct for one in judged]),
    )


def trials(batch: Batch, picks: Tensor) -> list[Trial]:
    """Picked subsets (Q, G, K) as they are judged: shown in temporal order."""
    subsets = picks.sort(dim=-1).values.cpu()
    videos = [batch.videos[int(row)] for row in batch.rows]
    return [
        Trial(video.reference, video.times, example, subset)
        for video, example, subset in zip(videos, batch.examples, subsets, strict=True)
    ]
