"""What the filter leaves behind for people: counts, and the histogram of the variances as a picture."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from refocus_video.files import replacing
from refocus_video.types import BoolArray, Example, FloatArray

BINS = 20
"""Of the histogram, over 0..1: no variance of numbers from −1 to 1 is larger."""


@dataclass(slots=True)
class Counts:
    """Questions asked, measured and kept; filled one by one."""

    asked: Counter[str] = field(default_factory=Counter)
    """By question type."""
    kept: Counter[str] = field(default_factory=Counter)
    """By question type."""
    letters_before: Counter[str] = field(default_factory=Counter)
    """The answer's letter, of the measured questions."""
    letters_after: Counter[str] = field(default_factory=Counter)
    """The same of those kept."""
    measured: Counter[str] = field(default_factory=Counter)
    """By question type; questions with options and without."""

    def add(self, example: Example, measured: bool, kept: bool) -> None:
        """Count a question."""
        self.asked[example.question_type] += 1
        self.measured[example.question_type] += measured
        self.kept[example.question_type] += kept
        if example.question.options:
            letter = chr(ord("A") + example.answer)
            self.letters_before[letter] += measured
            self.letters_after[letter] += kept

    def to_json(self) -> dict[str, Any]:
        """Totals first."""
        return {
            "asked": self.asked.total(),
            "measured": self.measured.total(),
            "kept": self.kept.total(),
            "kept_by_type": {kind: count for kind, count in self.kept.items() if count},
            "asked_by_type": dict(self.asked),
            "measured_by_type": {kind: count for kind, count in self.measured.items() if count},
            "letters_before": _shown(self.letters_before),
            "letters_after": _shown(self.letters_after),
        }


def _shown(letters: Counter[str]) -> dict[str, int]:
    return {letter: count for letter, count in sorted(letters.items()) if count}


def histogram(variances: FloatArray) -> dict[str, Any]:
    """Counts and edges; NaN, which stands for what was not measured, is left out."""
    counts, edges = np.histogram(variances[~np.isnan(variances)], bins=BINS, range=(0.0, 1.0))
    return {"counts": counts.tolist(), "edges": [round(float(edge), 3) for edge in edges]}


def draw_histogram(path: Path, variances: FloatArray, chosen: BoolArray, limit: float) -> None:
    """Write the histogram of N variances as a PNG, with those chosen in front and the limit above which they are."""
    from matplotlib.figure import Figure

    measured, kept = histogram(variances), histogram(variances[chosen])
    edges = measured["edges"]
    middle = [(left + right) / 2 for left, right in pairwise(edges)]
    figure = Figure(figsize=(6.4, 3.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for counts, colour, label in ((measured["counts"], "#BBBBBB", "measured"), (kept["counts"], "#0072B2", "kept")):
        axes.bar(middle, counts, width=0.92 / BINS, color=colour, label=f"{label}: {sum(counts):,}")
    axes.axvline(limit, color="#D55E00", linewidth=1.2, label=f"limit: {limit:g}")
    axes.set(xlabel="variance of the margins of 16 probes", ylabel="questions", xlim=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
