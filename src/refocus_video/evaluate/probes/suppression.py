"""Evidence suppression: segments of a video are blurred, those that the policy selects most often or random ones.

If selected segments hold the evidence, accuracy falls faster without them (METHOD §7: k of 32 segments). What the paper leaves
open is settled like this: a segment counts as often as sampled subsets pick a frame of it; ties are broken at random. The
model sees evenly spaced frames of the whole video, those of blurred segments blurred; the policy does not pick again.

Legend: S segments · M frames shown · G sampled subsets · F candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from refocus_video.errors import BudgetError, ConfigError
from refocus_video.evaluate.answer import verdicts
from refocus_video.evaluate.metrics import mean_line, paired_bootstrap
from refocus_video.evaluate.probes.base import Looked, Row, by_point, none_if_nan
from refocus_video.types import ByteArray, Example, IntArray
from refocus_video.video.sampling import uniform_positions

TOP, RANDOM = "top", "random"


@dataclass(frozen=True, slots=True)
class Suppression:
    """Blurs k segments for every k."""

    segments: int = 32
    blurred: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 32)
    """Every k."""
    frames: int = 32
    """Shown to the model (M)."""
    budget: int = 8
    """Frames of each sampled subset."""
    samples: int = 64
    """Subsets by which segments are ranked (G)."""
    draws: int = 4
    """Random orders that are averaged."""

    def __post_init__(self) -> None:
        if min(self.segments, self.frames, self.budget, self.samples, self.draws) < 1:
            raise ConfigError("segments, frames, budget, samples and draws must be at least 1")
        if not self.blurred or min(self.blurred) < 0 or max(self.blurred) > self.segments:
            raise ConfigError(
                f"numbers of blurred segments lie between 0 and {self.segments}, found {list(self.blurred)}"
            )

    kind = "suppression"

    def points(self, example: Example) -> list[Row]:
        """Wrong, for both orders and every k."""
        return [{"arm": arm, "k": k, "accuracy": 0.0} for arm in (TOP, RANDOM) for k in self.blurred]

    def measure(self, looked: Looked, examples: Sequence[Example]) -> list[list[Row]]:
        """The share of right answers; of the random orders their mean."""
        total = len(looked.candidates)
        if total < max(self.segments, self.frames):
            raise BudgetError(
                f"{looked.candidates.video} has {total} candidate frames, too few for {self.segments} segments "
                f"and {self.frames} frames shown"
            )
        picks = looked.pick(examples, self.budget, self.samples, greedy=False).picks.cpu().numpy()  # (Q, G, K)
        shown = uniform_positions(total, self.frames)  # (M,)
        clear = looked.candidates.frames[shown]
        # A clear and a blurred picture of each frame: a subset takes one of the two, in temporal order.
        both = np.stack((clear, blurred(clear)), axis=1).reshape(-1, *clear.shape[1:])  # (2M, H, W, 3)
        where = segment_of(shown, total, self.segments)
        asked = []
        for example, sampled in zip(examples, picks, strict=True):
            rng = looked.rng(example, self.budget)
            counts = np.bincount(segment_of(sampled.ravel(), total, self.segments), minlength=self.segments)
            orders = [most_selected(counts, rng), *(rng.permutation(self.segments) for _ in range(self.draws))]
            subsets = [versions(where, order[:k]) for order in orders for k in self.blurred]
            asked.append((example, np.stack(subsets)))
        times = looked.candidates.times[shown].repeat(2)
        found = verdicts(
            asked, looked.subject.answering.model.encode(both), times, looked.duration_s, looked.subject.answering
        )
        return [self._rows(said) for said in found]

    def _rows(self, said: Sequence[Row]) -> list[Row]:
        right = np.array([row["correct"] for row in said], dtype=np.float64).reshape(1 + self.draws, len(self.blurred))
        arms = ((TOP, right[0]), (RANDOM, right[1:].mean(0)))
        return [
            {"arm": arm, "k": k, "accuracy": float(value)}
            for arm, values in arms
            for k, value in zip(self.blurred, values, strict=True)
        ]

    def summarise(self, rows: Sequence[Row], seed: int) -> list[Row]:
        """Accuracy for both orders and every k; and by how much random blurring leaves more of it (``gap``)."""
        groups = by_point(rows, "arm", "k")
        lines = []
        for (arm, k), group in groups.items():
            videos = [row["video"] for row in group]
            line: Row = {"arm": arm, "k": k, "n": len(group), "failed": sum(row["error"] is not None for row in group)}
            line |= mean_line("accuracy", [row["accuracy"] for row in group], videos, seed=seed)
            gap, low, high = paired_bootstrap(
                [row["accuracy"] for row in groups[RANDOM, k]],
                [row["accuracy"] for row in groups[TOP, k]],
                videos,
                seed=seed,
            )
            lines.append(line | {"gap": gap, "gap_low": none_if_nan(low), "gap_high": none_if_nan(high)})
        return lines


def segment_of(positions: IntArray, total: int, segments: int) -> IntArray:
    """Which of equally long segments candidates lie in: (N,) -> (N,)."""
    return positions * segments // total


def most_selected(counts: npt.NDArray[np.integer], rng: np.random.Generator) -> IntArray:
    """Segments by how often they are selected, the most often first, equals in random order: (S,) -> (S,)."""
    return np.lexsort((rng.random(len(counts)), -counts))


def versions(segment: IntArray, suppressed: IntArray) -> IntArray:
    """Rows of the interleaved pictures (clear, blurred, clear, …) that are shown: (M,), (k,) -> (M,)."""
    return 2 * np.arange(len(segment)) + np.isin(segment, suppressed)


def blurred(pictures: ByteArray) -> ByteArray:
    """Gaussian blur by an eighth of the shorter side, which leaves colours and no shapes: (N, H, W, 3) uint8, the same."""
    from PIL import Image, ImageFilter

    blur = ImageFilter.GaussianBlur(min(pictures.shape[1:3]) / 8)
    return np.stack([np.asarray(Image.fromarray(picture).filter(blur)) for picture in pictures])
