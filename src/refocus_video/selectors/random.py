"""K frames drawn at random without repetition, by a seed."""

from collections.abc import Sequence
from dataclasses import dataclass

from refocus_video.errors import check_budget
from refocus_video.selectors.base import Pick, question_rng
from refocus_video.types import Candidates, Question, Timeline


@dataclass(frozen=True, slots=True)
class Random:
    """Frames drawn at random: others for every question, the same for the same seed."""

    seed: int = 0
    name: str = "random"

    def open(self, candidates: Candidates | Timeline) -> "_Open":
        """Only the number of candidates and the name of the video matter."""
        return _Open(candidates.video, len(candidates), self.seed)


@dataclass(frozen=True, slots=True)
class _Open:
    video: str
    num_candidates: int
    seed: int

    def pick(self, questions: Sequence[Question], budget: int) -> list[Pick]:
        check_budget(budget, self.num_candidates)
        return [
            Pick(question_rng(self.seed, self.video, q, budget).choice(self.num_candidates, budget, replace=False))
            for q in questions
        ]
