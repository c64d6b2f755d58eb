"""What the policy thought while it picked: the distribution over all candidates at each pick.

Legend: F candidate frames, K picks.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refocus_video.types import FloatArray, IntArray, Selection, Timeline

NEAR_FLAT = 0.9
"""Share of the frames that came into question above which a distribution as spread out says next to nothing."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A selection, and the distributions behind it."""

    selection: Selection
    timeline: Timeline
    """The F candidates."""
    picks: IntArray
    """Candidate positions in picking order, (K,)."""
    distributions: FloatArray
    """Probability of every candidate at each pick given the picks before it, (K, F); 0 for what could not be picked."""

    @property
    def probabilities(self) -> FloatArray:
        """Of each pick, (K,)."""
        return np.take_along_axis(self.distributions, self.picks[:, None], 1)[:, 0]

    @property
    def entropies(self) -> FloatArray:
        """Of each pick's distribution in nats, (K,): 0 where only one frame came into question, ln F where any did."""
        p = self.distributions
        terms = p * np.log(p, out=np.zeros_like(p), where=p > 0)  # (K, F)
        return np.asarray(-terms.sum(axis=1), dtype=np.float64)

    @property
    def largest_entropies(self) -> FloatArray:
        """What the entropy of each pick could be at most, (K,): ln of the number of frames that came into question."""
        return np.asarray(np.log(np.maximum(1, (self.distributions > 0).sum(axis=1))), dtype=np.float64)

    @property
    def near_flat(self) -> NDArray[np.bool_]:
        """Whether each pick was close to one drawn at random, (K,): exp(entropy) is :data:`NEAR_FLAT` of the frames or more."""
        even = np.exp(self.entropies - self.largest_entropies) >= NEAR_FLAT
        return np.asarray(even & (self.largest_entropies > 0))

    @property
    def remark(self) -> str:
        """A sentence on the picks that are close to random ones; empty where none is."""
        flat = np.flatnonzero(self.near_flat)
        if not len(flat):
            return ""
        first = flat[0]
        return (
            f"{len(flat)} of {len(self.picks)} picks are close to random: at pick {first + 1} the policy had an entropy of "
            f"{self.entropies[first]:.2f} of at most {self.largest_entropies[first]:.2f} nats"
        )

    def top(self, pick: int, count: int = 5) -> list[dict[str, Any]]:
        """The most probable candidates at a pick (0 is the first), at most ``count`` of them, none of probability 0."""
        row = self.distributions[pick]
        best = np.argsort(-row, kind="stable")[:count]
        return [self._candidate(int(f), row[f]) for f in best if row[f] > 0]

    def to_json(self, count: int = 5) -> dict[str, Any]:
        """The selection, and for each pick its probability, the entropy and the ``count`` most probable candidates."""
        steps = [
            {
                "pick": self._candidate(int(self.picks[k]), self.probabilities[k]),
                "entropy": round(float(entropy), 6),
                "entropy_at_most": round(float(self.largest_entropies[k]), 6),
                "top": self.top(k, count),
            }
            for k, entropy in enumerate(self.entropies)
        ]
        return {**self.selection.to_json(), "steps": steps, "remark": self.remark}

    def _candidate(self, position: int, probability: float) -> dict[str, Any]:
        return {
            "position": position,
            "frame_index": int(self.timeline.frame_indices[position]),
            "time": round(float(self.timeline.times[position]), 6),
            "probability": round(float(probability), 6),
        }
