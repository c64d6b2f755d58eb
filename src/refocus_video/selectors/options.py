"""The options of a selection: what may be asked, checked without torch, so that a wrong one is told at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, Self, TypedDict, get_args

from refocus_video.errors import ConfigError

Strategy = Literal["greedy", "sample", "best-of", "best-of-rank", "marginal"]
"""The most probable frame each time; one drawn; of several drawn subsets the most probable one, the one that the rank head
likes best, or the frames that most of them hold."""

OF_SEVERAL = ("best-of", "best-of-rank", "marginal")
SAMPLES = 64
"""Subsets that are drawn when their number is not stated, as in the published evaluation."""


class Options(TypedDict, total=False):
    """The options of a selection as keyword arguments; what they mean stands at :class:`Picking`."""

    temperature: float | None
    seed: int
    strategy: Strategy | None
    samples: int | None
    min_gap: float
    forced: Sequence[int]


@dataclass(frozen=True, slots=True)
class Picking:
    """How to choose the frames of a subset."""

    strategy: Strategy | None = None
    """None: greedy without a temperature, else sample."""
    temperature: float | None = None
    """Of the sampling; 1 where it is left out."""
    samples: int | None = None
    """Subsets drawn by a strategy that chooses among several; :data:`SAMPLES` where it is left out."""
    min_gap: float = 0.0
    """Seconds that picks lie apart at least."""
    seed: int = 0
    """Of the sampling; what a question gets does not depend on the questions beside it."""
    forced: Sequence[int] = ()
    """Candidate positions that are picked first, in this order; the policy goes on from there."""

    def __post_init__(self) -> None:
        if self.strategy is not None and self.strategy not in get_args(Strategy):
            raise ConfigError(f"unknown strategy {self.strategy!r}; known ones: {', '.join(get_args(Strategy))}")
        if self.temperature is not None and not 0 < self.temperature < float("inf"):
            raise ConfigError(f"temperature must be above 0, found {self.temperature}; leave it out to pick greedily")
        if self.temperature is not None and self.greedy:
            raise ConfigError(f"strategy greedy draws nothing, found temperature {self.temperature}; leave one out")
        if self.samples is not None and self.resolved not in OF_SEVERAL:
            raise ConfigError(
                f"strategy {self.resolved} takes no number of samples, found {self.samples}; "
                f"leave it out, or choose {', '.join(OF_SEVERAL)}"
            )
        if self.samples is not None and self.samples < 1:
            raise ConfigError(f"samples must be at least 1, found {self.samples}")
        if not 0 <= self.min_gap < float("inf"):
            raise ConfigError(f"the gap between picks must be 0 seconds or more, found {self.min_gap}")

        if not all(isinstance(position, Integral) for position in self.forced):
            raise ConfigError(f"forced picks are positions of candidates, whole numbers; found {list(self.forced)}")

    @classmethod
    def of(cls, options: Options) -> Self:
        """The options that a caller gave by name.

        Raises:
            ConfigError: if there is no such option, or one holds what it must not.
        """
        unknown = ", ".join(repr(name) for name in options if name not in Options.__annotations__)
        if unknown:
            known = ", ".join(("frames", *Options.__annotations__))
            raise ConfigError(f"select, select_many and explain have no option {unknown}; they take {known}")
        return cls(**options)

    @property
    def resolved(self) -> Strategy:
        """The strategy that is meant."""
        return self.strategy or ("greedy" if self.temperature is None else "sample")

    @property
    def greedy(self) -> bool:
        """Whether no random numbers are needed."""
        return self.resolved == "greedy"

    @property
    def group_size(self) -> int:
        """Subsets that are picked for a question, of which one is kept."""
        return (self.samples or SAMPLES) if self.resolved in OF_SEVERAL else 1
