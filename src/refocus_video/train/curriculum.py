"""Which budget K a training step practises, and how much entropy it should have (METHOD §5). Pure.

The paper raises K 4 → 8 → 16 → 32. A stage may also hold several budgets: one is drawn for each step, which keeps the first picks
of a list useful when the list is cut short.
"""

from collections.abc import Collection, Sequence

import numpy as np

from refocus_video.config import Stage
from refocus_video.errors import DataError


def stage_at(done: float, stages: Sequence[Stage]) -> Stage:
    """The stage in force when a share ``done`` (0..1) of training is over."""
    return next((stage for stage in stages if done < stage.until), stages[-1])


def check_stages(stages: Sequence[Stage], types: Collection[str]) -> None:
    """Raise :class:`DataError` if a stage practises question types that are not among those of the questions."""
    missing = sorted({kind for stage in stages for kind in stage.question_types} - set(types))
    if missing:
        have = ", ".join(repr(kind) for kind in sorted(types) if kind) or "none"
        raise DataError(
            f"train.stages asks for the question types {', '.join(map(repr, missing))}, but the question_type of the questions is "
            f"{have}; name types that are there, or none: --set 'train.stages=[{{until: 1.0, budgets: [2]}}]'"
        )


def draw_budget(stage: Stage, rng: np.random.Generator) -> int:
    """A budget of this stage."""
    return int(rng.choice(stage.budgets))


def linear(done: float, start: float, end: float, until: float = 1.0) -> float:
    """From ``start`` to ``end`` over the share ``until`` of training, then constant."""
    return start + (end - start) * min(1.0, done / until)


def steer_entropy_coef(coef: float, entropy: float, target: float, *, rate: float, low: float, high: float) -> float:
    """Raise β while the entropy is below its target and lower it while above: β·exp(rate·(target − entropy)), clamped."""
    return float(min(high, max(low, coef * np.exp(rate * (target - entropy)))))
