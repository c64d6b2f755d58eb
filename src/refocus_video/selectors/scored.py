"""Selectors that look at how relevant each candidate frame is to the question, whoever says so.

Each of them is a pure function over arrays, and a class beside it with its settings; what is relevant comes from a
:class:`Scorer`: an image–text model (``relevance.py``), subtitles, or both.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field

from refocus_video.errors import check_budget
from refocus_video.selectors.base import Pick, question_rng
from refocus_video.types import Candidates, FloatArray, IntArray, Question, Timeline

Features = npt.NDArray[np.float32]
"""What an encoder makes of pictures or texts."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of F candidates when one question is asked."""

    scores: FloatArray
    """Relevance to the question, (F,): for an image–text model the cosine."""
    features: Features
    """Of each frame, length 1, (F, D)."""
    query: Features
    """Of the question, length 1, (D,)."""
    times: FloatArray
    """Of the candidates in seconds, (F,)."""
    scale: float = 1.0
    """What the scorer multiplies cosines with to get logits."""


class OpenScorer(Protocol):
    """A video whose frames were looked at."""

    def see(self, question: Question) -> Seen:
        """How relevant its frames are to a question."""
        ...


class Scorer(Protocol):
    """Says how relevant frames are."""

    def open(self, candidates: Candidates | Timeline) -> OpenScorer:
        """Look at a video once."""
        ...


@dataclass(frozen=True, kw_only=True)
class Scored(ABC):
    """A selector that chooses by relevance."""

    scorer: Scorer
    name: str
    seed: Annotated[int, Field(ge=0)] = 0
    """Of what is drawn; most selectors draw nothing."""

    @abstractmethod
    def choose(self, seen: Seen, budget: int, rng: np.random.Generator) -> IntArray:
        """Positions in temporal order, (min(K, F),)."""

    def open(self, candidates: Candidates | Timeline) -> "OpenScored":
        """Let the scorer look at the video."""
        return OpenScored(self, candidates.video, candidates.times, self.scorer.open(candidates))


@dataclass(frozen=True, slots=True)
class OpenScored:
    """A video that the scorer has looked at."""

    selector: Scored
    video: str
    times: FloatArray
    scorer: OpenScorer

    def pick(self, questions: Sequence[Question], budget: int) -> list[Pick]:
        """Each question by itself; what is drawn depends on seed, video, question and budget alone."""
        check_budget(budget, len(self.times))
        rngs = [question_rng(self.selector.seed, self.video, question, budget) for question in questions]
        return [
            Pick(self.selector.choose(self.scorer.see(question), budget, rng))
            for question, rng in zip(questions, rngs, strict=True)
        ]
