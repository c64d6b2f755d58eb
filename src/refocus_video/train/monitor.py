"""Early signs that training goes wrong (METHOD §8), as numbers and plain sentences. Pure.

Dimensions: Q questions · G subsets of each · K picks · F candidate frames.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


def distinct_share(picks: Tensor) -> float:
    """Distinct subsets over all subsets, counted inside each group: (Q, G, K) -> 0..1; 1/G when a group always agrees."""
    ordered = picks.sort(dim=-1).values
    return sum(len(torch.unique(group, dim=0)) for group in ordered) / (picks.shape[0] * picks.shape[1])


@dataclass
class Monitor:
    """Running averages over training, and the warnings they give rise to. Each warning is given once."""

    decay: float = 0.9
    recall: dict[str, float] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)
    entropy: float | None = None
    steps: int = 0
    given: dict[str, str] = field(default_factory=dict)

    def update(
        self,
        rows: Sequence[tuple[str, float | None, float | None]],
        entropy: float,
        distinct: float,
        stuck: float,
        accuracy: float,
    ) -> list[str]:
        """Take in one step; returns the warnings that are new.

        Args:
            rows: (question type, recall, recall of random picks) of each question.
            entropy: mean per pick, in nats.
            distinct: :func:`distinct_share`.
            stuck: share of groups without spread whose subsets are mostly answered wrong.
            accuracy: share of the subsets from which the reference model answers right.
        """
        self.steps += 1
        sums: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for kind, recall, chance in rows:
            if recall is not None and chance is not None:
                sums[kind].append((recall, chance))
        for kind, pairs in sums.items():
            count = len(pairs)
            self._blend(self.recall, kind, sum(p[0] for p in pairs) / count)
            self._blend(self.chance, kind, sum(p[1] for p in pairs) / count)
        self.entropy = entropy if self.entropy is None else self.decay * self.entropy + (1 - self.decay) * entropy
        return self._warnings(distinct, stuck, accuracy)

    def _blend(self, table: dict[str, float], key: str, value: float) -> None:
        table[key] = self.decay * table[key] + (1 - self.decay) * value if key in table else value

    def _warnings(self, distinct: float, stuck: float, accuracy: float) -> list[str]:
        if self.steps < 20:
            return []
        signs = {
            f"recall:{kind}": f"evidence recall of {kind!r} questions ({recall:.2f}) is below that of random picks "
            f"({self.chance[kind]:.2f}): the policy may be avoiding evidence; check the reference model on partial evidence"
            for kind, recall in self.recall.items()
            if recall < 0.9 * self.chance[kind]
        }
        if distinct < 0.1 and accuracy < 0.9:
            signs["distinct"] = (
                f"only {distinct:.0%} of the subsets differ: exploration has collapsed; raise the entropy"
            )
        if self.entropy is not None and self.entropy < 0.1 and accuracy < 0.9:
            signs["entropy"] = (
                f"entropy is {self.entropy:.2f} nats before the answers are right: raise the entropy target"
            )
        if stuck > 0.8:
            signs["stuck"] = (
                f"{stuck:.0%} of the groups have no reward spread and wrong answers: raise the filter's threshold"
            )
        new = {key: text for key, text in signs.items() if key not in self.given}
        self.given |= new
        return list(new.values())
