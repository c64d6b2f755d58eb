"""Selectors made of another one, for questions about the whole video: part uniform, a coverage floor, a gate to uniform.

Chosen frames are worse than uniform ones where a question is about everything, and no better in short videos. None of
these rules is published as such; the gate for short videos is that of the released ReFoCUS code, which takes uniform
frames (U1; here U2) of videos with at most 128 candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from refocus_video.errors import ConfigError, check_budget
from refocus_video.selectors.base import OpenVideo, Pick, Selector
from refocus_video.selectors.ranking import cleaned, spread_between
from refocus_video.selectors.scored import OpenScorer, Scorer
from refocus_video.selectors.uniform import uniform_u2
from refocus_video.types import Candidates, FloatArray, IntArray, Question, Timeline


def covered(picks: IntArray, num_candidates: int, stretches: int) -> IntArray:
    """Exchange picks so that each of so many equal stretches of the video holds one, (K,).

    The middle of every empty stretch takes the place of a pick of the fullest one, of the pick there that has the
    nearest neighbour.

    Args:
        picks: distinct positions, (K,).
        num_candidates: F.
        stretches: at most K of them count.
    """
    stretches = min(stretches, len(picks))
    edges = -(-np.arange(stretches + 1) * num_candidates // stretches)
    picks = picks.copy()
    for empty in np.setdiff1d(np.arange(stretches), np.searchsorted(edges, picks, side="right") - 1):
        where = np.searchsorted(edges, picks, side="right") - 1
        fullest = np.flatnonzero(where == np.bincount(where, minlength=stretches).argmax())
        apart = np.abs(picks[fullest][:, None] - picks[None]) + np.where(
            fullest[:, None] == np.arange(len(picks)), 2**40, 0
        )
        picks[fullest[apart.min(1).argmin()]] = (edges[empty] + edges[empty + 1]) // 2
    return picks


def stands_out(scores: FloatArray) -> float:
    """How far the best score lies above the median; 0 where relevance says nothing."""
    scores = cleaned(scores)
    return float(scores.max() - np.median(scores))


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """A share of the budget is uniform, the rest is another selector's."""

    selector: Selector
    uniform_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    name: str = ""
    """Empty: made of the other's name."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or f"mixed({self.selector.name})")

    def open(self, candidates: Candidates | Timeline) -> "OpenMixed":
        """Let the other selector look at the video."""
        return OpenMixed(self, len(candidates), self.selector.open(candidates))


@dataclass(frozen=True, slots=True)
class OpenMixed:
    """A video that the other selector has looked at."""

    mixed: Mixed
    num_candidates: int
    opened: OpenVideo

    def pick(self, questions: Sequence[Question], budget: int) -> list[Pick]:
        """The other's picks first; then uniform frames, beside its picks where those are in the way."""
        check_budget(budget, self.num_candidates)
        even = int(self.mixed.uniform_share * budget)
        if even == budget:
            return [Pick(uniform_u2(self.num_candidates, budget)) for _ in questions]
        chosen = (pick.positions for pick in self.opened.pick(questions, budget - even))
        return [Pick(np.concatenate([picks, spread_between(picks, even, self.num_candidates)])) for picks in chosen]


@dataclass(frozen=True, kw_only=True)
class Covered:
    """Another selector's frames, with at least one in each of some equal stretches of the video."""

    selector: Selector
    stretches: Annotated[int, Field(ge=1)] = 4
    name: str = ""
    """Empty: made of the other's name."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or f"covered({self.selector.name})")

    def open(self, candidates: Candidates | Timeline) -> "OpenCovered":
        """Let the other selector look at the video."""
        return OpenCovered(self, len(candidates), self.selector.open(candidates))


@dataclass(frozen=True, slots=True)
class OpenCovered:
    """A video that the other selector has looked at."""

    covered: Covered
    num_candidates: int
    opened: OpenVideo

    def pick(self, questions: Sequence[Question], budget: int) -> list[Pick]:
        """The other's picks, some of them exchanged."""
        found = self.opened.pick(questions, budget)
        return [Pick(covered(pick.positions, self.num_candidates, self.covered.stretches)) for pick in found]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Uniform frames where choosing cannot help, another selector's elsewhere."""

    selector: Selector
    max_uniform: Annotated[int, Field(ge=0)] = 128
    """Videos with at most so many candidates get uniform frames."""
    max_uniform_s: Annotated[float, Field(ge=0)] = 0.0
    """So do videos of at most so many seconds."""
    flat: Annotated[float, Field(ge=0)] = 0.0
    """So do questions for which no score lies farther above the median than this; 0 looks at no scores."""
    scorer: Scorer | None = None
    name: str = ""
    """Empty: made of the other's name."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or f"gate({self.selector.name})")
        if self.flat > 0 and self.scorer is None:
            raise ConfigError(f"a gate at flat relevance ({self.flat:g}) needs scores; name an image–text model")

    def open(self, candidates: Candidates | Timeline) -> "OpenGate":
        """Let the other selector look at the video, unless it is short."""
        lasting = float(candidates.times[-1] - candidates.times[0])
        if len(candidates) <= self.max_uniform or lasting <= self.max_uniform_s:
            return OpenGate(self, len(candidates), None, None)
        scorer = self.scorer.open(candidates) if self.scorer is not None and self.flat > 0 else None
        return OpenGate(self, len(candidates), self.selector.open(candidates), scorer)


@dataclass(frozen=True, slots=True)
class OpenGate:
    """A video with what decides."""

    gate: Gate
    num_candidates: int
    opened: OpenVideo | None
    scorer: OpenScorer | None

    def is_open(self, question: Question) -> bool:
        """Whether the other selector is asked."""
        if self.opened is None:
            return False
        return self.scorer is None or stands_out(self.scorer.see(question).scores) > self.gate.flat

    def pick(self, questions: Sequence[Question], budget: int) -> list[Pick]:
        """Each question by itself."""
        check_budget(budget, self.num_candidates)
        even = Pick(uniform_u2(self.num_candidates, budget))
        asked = [question for question in questions if self.is_open(question)]
        chosen = iter(self.opened.pick(asked, budget) if self.opened is not None and asked else ())
        return [next(chosen) if question in asked else even for question in questions]
