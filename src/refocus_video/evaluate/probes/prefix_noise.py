"""Prefix noise: the first m picks are forced to be random frames, and the policy goes on from there (METHOD §7).

Beside it the control that tells noise from a smaller budget: the policy's first K − m frames, picked undisturbed, and m random
frames after them. What the first loses against the second is what the noise did to the policy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refocus_video.errors import ConfigError, check_budget
from refocus_video.evaluate.metrics import mean_line
from refocus_video.evaluate.probes.base import Looked, Row, by_point, mean_or_none
from refocus_video.types import Example, IntArray

FIRST, LAST = "first", "last"


@dataclass(frozen=True, slots=True)
class PrefixNoise:
    """Forces m random picks for every m."""

    budget: int = 8
    """Frames shown (K)."""
    forced: tuple[int, ...] = ()
    """Every m; 0 to K if empty."""
    draws: int = 4
    """Random prefixes that are averaged."""

    def __post_init__(self) -> None:
        if self.budget < 1 or self.draws < 1:
            raise ConfigError("budget and draws must be at least 1")
        if not all(0 <= m <= self.budget for m in self.forced):
            raise ConfigError(f"numbers of forced frames lie between 0 and {self.budget}, found {list(self.forced)}")

    kind = "prefix_noise"

    @property
    def steps(self) -> tuple[int, ...]:
        """Every m."""
        return self.forced or tuple(range(self.budget + 1))

    def points(self, example: Example) -> list[Row]:
        """Wrong, for both orders and every m."""
        recall = 0.0 if example.evidence else None
        return [{"arm": arm, "m": m, "accuracy": 0.0, "recall": recall} for arm in (FIRST, LAST) for m in self.steps]

    def measure(self, looked: Looked, examples: Sequence[Example]) -> list[list[Row]]:
        """The mean over the random prefixes; a longer prefix begins with the shorter one."""
        total, budget = len(looked.candidates), self.budget
        check_budget(budget, total)
        noise = np.stack(
            [
                np.stack([rng.permutation(total) for _ in range(self.draws)])
                for rng in (looked.rng(example, budget) for example in examples)
            ]
        )  # (Q, draws, F)
        own = looked.pick(examples, budget).picks[:, 0].cpu().numpy()  # (Q, K)
        subsets: list[list[IntArray]] = [[] for _ in examples]
        for m in self.steps:
            chosen = looked.pick(examples, budget, self.draws, forced=noise[..., :m]).picks.cpu().numpy()
            for of_question, rows in zip(subsets, chosen, strict=True):
                of_question += list(rows)
        for m in self.steps:
            for of_question, picks, rows in zip(subsets, own, noise, strict=True):
                kept = picks[: budget - m]
                of_question += [np.concatenate((kept, row[~np.isin(row, kept)][:m])) for row in rows]
        found = looked.answers(list(zip(examples, subsets, strict=True)))
        return [self._rows(said) for said in found]

    def _rows(self, said: Sequence[Row]) -> list[Row]:
        points = [(arm, m) for arm in (FIRST, LAST) for m in self.steps]
        groups = [said[place * self.draws : (place + 1) * self.draws] for place in range(len(points))]
        return [
            {
                "arm": arm,
                "m": m,
                "accuracy": float(np.mean([row["correct"] for row in group])),
                "recall": mean_or_none([row["recall"] for row in group]),
            }
            for (arm, m), group in zip(points, groups, strict=True)
        ]

    def summarise(self, rows: Sequence[Row], seed: int) -> list[Row]:
        """Accuracy and evidence recall for both orders and every m."""
        lines = []
        for (arm, m), group in by_point(rows, "arm", "m").items():
            videos = [row["video"] for row in group]
            line: Row = {"arm": arm, "m": m, "n": len(group), "failed": sum(row["error"] is not None for row in group)}
            line |= mean_line("accuracy", [row["accuracy"] for row in group], videos, seed=seed)
            known = [row for row in group if row["recall"] is not None]
            line |= mean_line("recall", [row["recall"] for row in known], [row["video"] for row in known], seed=seed)
            lines.append(line)
        return lines
