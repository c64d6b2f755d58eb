"""Examples by video, and how much of their evidence some frames hold. Pure."""

import math
from collections import defaultdict
from collections.abc import Sequence

from refocus_video.types import Example


def by_video(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """Examples grouped by their video, in order of first appearance."""
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.video].append(example)
    return dict(groups)


def evidence_recall(example: Example, times: Sequence[float]) -> float | None:
    """Share of the evidence spans that hold at least one of the times; None when no evidence is known."""
    if not example.evidence:
        return None
    return sum(any(span.contains(t) for t in times) for span in example.evidence) / len(example.evidence)


def random_recall(example: Example, times: Sequence[float], budget: int) -> float | None:
    """What :func:`evidence_recall` is on average for ``budget`` of the candidate ``times`` drawn at random, exactly."""
    if not example.evidence:
        return None
    total = len(times)
    hits = [sum(span.contains(t) for t in times) for span in example.evidence]
    missed = [math.comb(total - inside, budget) / math.comb(total, budget) for inside in hits]
    return 1 - sum(missed) / len(missed)
