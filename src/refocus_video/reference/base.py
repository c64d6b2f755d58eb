"""What a reference model must be able to do: look at frames once, then score any subsets of them for any question."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from refocus_video.errors import ReferenceModelError
from refocus_video.reference.frames import FrameCache
from refocus_video.types import ByteArray, Question

FrameFeatures = Tensor | FrameCache
"""What a reference model sees of a video's F candidate frames, (F, ...): rows can be picked by position."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Subsets of one video's candidate frames, to be scored for one question.

    Dimensions: F candidate frames · G subsets · K frames in each.
    """

    features: FrameFeatures
    """What :meth:`ReferenceModel.encode` returned for the candidates, (F, ...), or a cache that encodes what is needed."""
    times: Tensor
    """Presentation time of each candidate in seconds, (F,)."""
    question: Question
    subsets: Tensor
    """Positions in temporal order, (G, K) int64, increasing along K."""
    texts: tuple[str, ...] | None = None
    """Answers to score instead of the options, each by the mean log-probability of its tokens: for questions without options.
    None of them, ``()``, for a request that is only to be answered in words."""
    duration_s: float | None = None
    """Length of the video in seconds, which some models are told; the time of the last candidate if None."""

    def __post_init__(self) -> None:
        if not all(text.strip() for text in self.texts or ()):
            raise ReferenceModelError(f"texts to score must not be empty, found {list(self.texts or ())}")
        if not self.question.options and self.texts is None:
            raise ReferenceModelError(
                f"question {self.question.text!r} has no options, and this reward compares options; give at least 2"
            )
        if self.subsets.ndim != 2 or (self.subsets.diff(dim=-1) <= 0).any():
            raise ReferenceModelError("subsets must be (G, K) positions in strictly increasing order")


class ReferenceModel(Protocol):
    """A frozen LMM."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels at which it wants its frames."""
        ...

    def encode(self, frames: ByteArray) -> Tensor:
        """Look at frames (F, H, W, 3) uint8 once; the result (F, ...) is opaque but can be indexed by position."""
        ...

    def score(self, requests: Sequence[ScoreRequest]) -> list[Tensor]:
        """Score of every option, or of every one of ``texts``, for every subset: one (G, O) float32 tensor a request."""
        ...


class AnsweringModel(ReferenceModel, Protocol):
    """A frozen LMM that also answers in its own words."""

    def generate(self, requests: Sequence[ScoreRequest], max_new_tokens: int) -> list[list[str]]:
        """The most probable answer, token by token, to every subset: one text a row of ``subsets``, one list a request."""
        ...


def whole(features: FrameFeatures) -> Tensor:
    """The features of all F frames, (F, ...); what a cache has not encoded yet is encoded."""
    return features if isinstance(features, Tensor) else features[torch.arange(len(features))]


def unique_subsets(subsets: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows of (G, K) and the row each came from: (U, K), (G,). A policy that has learned repeats itself."""
    if not subsets.shape[1]:  # no frames at all: all rows are the same
        return subsets[:1], torch.zeros(len(subsets), dtype=torch.long)
    distinct, inverse = torch.unique(subsets, dim=0, return_inverse=True)
    return distinct, inverse
