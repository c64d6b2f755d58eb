"""Leave-one-frame-out influence: how much the margin of the right answer loses without each picked frame.

The margin is that of the rewards (METHOD §4): the answer's score minus the best other one. A frame's influence is the margin
with all K frames minus the margin without it, in nats.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refocus_video.errors import ConfigError, check_budget
from refocus_video.evaluate.metrics import mean_line
from refocus_video.evaluate.probes.base import Looked, Row
from refocus_video.types import Example

ALL, INSIDE, OUTSIDE = "all", "in evidence", "outside evidence"


@dataclass(frozen=True, slots=True)
class Influence:
    """Leaves out each of K frames in turn."""

    budget: int = 8
    """Frames picked (K), at least 2."""

    def __post_init__(self) -> None:
        if self.budget < 2:
            raise ConfigError(f"leaving one frame out needs a budget of at least 2, found {self.budget}")

    kind = "influence"

    def points(self, example: Example) -> list[Row]:
        """Not known, for every rank; 1 was picked first."""
        unknown: Row = {"influence": None, "flipped": None, "in_evidence": None}
        return [{"rank": rank + 1} | unknown for rank in range(self.budget)]

    def measure(self, looked: Looked, examples: Sequence[Example]) -> list[list[Row]]:
        """The loss of margin, whether a right answer turns wrong, and whether the frame shows evidence."""
        check_budget(self.budget, len(looked.candidates))
        picks = looked.pick(examples, self.budget).picks[:, 0].cpu().numpy()  # (Q, K)
        asked = [
            (example, [row, *(np.delete(row, rank) for rank in range(self.budget))])
            for example, row in zip(examples, picks, strict=True)
        ]
        found = looked.answers(asked)
        rows = []
        for example, chosen, (whole, *without) in zip(examples, picks, found, strict=True):
            times = looked.candidates.times[chosen].tolist()
            rows.append(
                [
                    {
                        "rank": rank + 1,
                        "influence": round(whole["margin"] - left["margin"], 6),
                        "flipped": whole["correct"] and not left["correct"],
                        "in_evidence": any(span.contains(times[rank]) for span in example.evidence)
                        if example.evidence
                        else None,
                    }
                    for rank, left in enumerate(without)
                ]
            )
        return rows

    def summarise(self, rows: Sequence[Row], seed: int) -> list[Row]:
        """Means by rank, over all frames and over those inside and outside the evidence.

        A failed row has no influence and is left out of the means; ``failed`` counts them.
        """
        lines = []
        for name, kept in ((ALL, None), (INSIDE, True), (OUTSIDE, False)):
            for rank in (*range(1, self.budget + 1), None):
                group = [row for row in rows if rank in (None, row["rank"]) and kept in (None, row["in_evidence"])]
                known = [row for row in group if row["error"] is None]
                if not group or (kept is not None and not known):
                    continue
                line: Row = {"group": name, "rank": rank, "n": len(group), "failed": len(group) - len(known)}
                videos = [row["video"] for row in known]
                line |= mean_line("influence", [row["influence"] for row in known], videos, seed=seed)
                lines.append(line | {"flipped": float(np.mean([row["flipped"] for row in known])) if known else None})
        return lines
