"""What a selector is, and how its picks become a :class:`Selection`.

A selector first *opens* a video, which may be costly and is done once, and then picks for any questions and budgets.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from refocus_video.errors import BudgetError
from refocus_video.types import Candidates, FloatArray, IntArray, Question, Selection, Timeline


@dataclass(frozen=True, slots=True)
class Pick:
    """The frames picked for one question."""

    positions: IntArray
    """Candidate positions in picking order, (K,), distinct."""
    probabilities: FloatArray | None = None
    """Of each pick at the moment it was made, (K,)."""
    distributions: FloatArray | None = None
    """Probability of every candidate at each pick, (K, F), where an explanation was asked for."""

    def __post_init__(self) -> None:
        if len(set(self.positions.tolist())) != len(self.positions):
            raise BudgetError(f"a selector must not pick a frame twice, found {self.positions.tolist()}")


class OpenVideo(Protocol):
    """A video that a selector has looked at."""

    def pick(self, questions: Sequence[Question], budget: int) -> list[Pick]:
        """Pick ``budget`` frames for each question.

        Raises:
            BudgetError: unless 1 <= budget <= number of candidates.
        """
        ...


class Selector(Protocol):
    """A way of choosing frames."""

    @property
    def name(self) -> str:
        """How it is called in results."""
        ...

    def open(self, candidates: Candidates | Timeline) -> OpenVideo:
        """Look at a video once; of a :class:`Timeline` a selector reads the pictures that it needs, at the size that it needs.

        Raises:
            VideoError: if they cannot be read.
        """
        ...


def to_selection(pick: Pick, candidates: Candidates | Timeline, question: Question, selector: str) -> Selection:
    """Put picks into temporal order, with frame indices and times."""
    order = np.argsort(pick.positions)
    positions = pick.positions[order]
    return Selection(
        video=candidates.video,
        question=question,
        selector=selector,
        positions=positions,
        frame_indices=candidates.frame_indices[positions],
        times=candidates.times[positions],
        order=order,
        probabilities=None if pick.probabilities is None else pick.probabilities[order],
    )


def question_rng(seed: int, video: str, question: Question, budget: int) -> np.random.Generator:
    """Random numbers that depend on what is asked and not on when: a question alone or in a batch gets the same."""
    text = "\n".join((question.text, *question.options))
    name = video.replace("\\", "/").rsplit("/", 1)[-1]
    return np.random.default_rng([seed, budget, zlib.crc32(name.encode()), zlib.crc32(text.encode())])
