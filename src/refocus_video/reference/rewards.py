"""Rewards by name: ours, those of installed packages, and any function by its import path.

A reward is a pure function ``(scores, answer) -> rewards``: scores (G, O) of a question's options for G subsets, the position of
the right one, rewards (G,). One that names a third parameter ``control`` also gets the scores (C, O) of the control frames, which
are then scored too (``reference.control``). For a question without options, O is 1: the likeliest of the accepted answers.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from refocus_video.errors import ConfigError
from refocus_video.registry import Registry

REWARDS = Registry(
    "rewards",
    {
        "margin": "refocus_video.reference.margin:margin_reward",
        "probability": "refocus_video.reference.margin:probability_reward",
        "accuracy": "refocus_video.reference.margin:accuracy_reward",
        "likelihood": "refocus_video.reference.margin:likelihood_reward",
    },
)

Combine = Literal["mean", "min"]
"""How the rewards of several reference models become one."""


@dataclass(frozen=True, slots=True)
class Reward:
    """A reward that was found by its name."""

    name: str
    function: Callable[..., Any]
    wants_control: bool
    """Whether it looks at the scores of control frames."""

    def __call__(self, scores: Tensor, answer: int, control: Tensor) -> Tensor:
        """Rewards (G,) float32 from scores (G, O) and those of control frames (C, O).

        Raises:
            ConfigError: if it is anything else than G finite numbers.
        """
        extra = {"control": control} if self.wants_control else {}
        rewards = self.function(scores, answer, **extra)
        if not isinstance(rewards, Tensor):
            found = type(rewards).__name__
        elif rewards.shape != scores.shape[:1]:
            found = f"shape {tuple(rewards.shape)}"
        elif not rewards.isfinite().all():
            found = f"{rewards.tolist()} from scores {scores.tolist()}"[:200]
        else:
            return rewards.float()
        raise ConfigError(
            f"reward {self.name!r} must give one finite number for each of {len(scores)} subsets, found {found}"
        )


@cache
def load_reward(name: str) -> Reward:
    """The reward called ``name``.

    Raises:
        ConfigError: if there is none, or it cannot be called with scores and answer.
    """
    function = REWARDS.load(name)
    try:
        wanted = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        wanted = []
    if len(wanted) < 2:
        raise ConfigError(f"reward {name!r} must be a function (scores, answer) or (scores, answer, control)")
    return Reward(name, function, "control" in wanted)


def combine(rewards: Sequence[Tensor], how: Combine) -> Tensor:
    """One reward from those of M reference models: M × (G,) -> (G,). ``min`` pays for what convinces all of them."""
    stacked = torch.stack(tuple(rewards))
    return stacked.mean(0) if how == "mean" else stacked.amin(0)
