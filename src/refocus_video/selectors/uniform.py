"""Frames at equal distances: the middle of each of K equal stretches of the candidates."""

from collections.abc import Sequence
from dataclasses import dataclass

from refocus_video.selectors.base import Pick
from refocus_video.types import Candidates, Question
from refocus_video.video.sampling import uniform_positions


@dataclass(frozen=True, slots=True)
class Uniform:
    """The same frames for every question."""

    name: str = "uniform"

    def open(self, candidates: Candidates) -> "_Open":
        """Only the number of candidates matters."""
        return _Open(len(candidates))


@dataclass(frozen=True, slots=True)
class _Open:
    num_candidates: int

    def pick(self, questions: Sequence[Question], budget: int) -> list[Pick]:
        return [Pick(uniform_positions(self.num_candidates, budget)) for _ in questions]
