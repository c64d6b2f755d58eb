"""Controls: choices no selector could make, because they look at the evidence. For evaluation only.

- *query-blind*: one frame from each of K events of the video, whatever is asked: what a detector of "something happens" would
  reach. It needs the list of all events (``metadata["events"]``, which the haystack gives).
- *oracle*: a frame from every evidence span, the rest drawn at random: what perfect selection would reach with this answering
  model.
- *wrong question*: the policy's picks for another question of the same video; if they do as well, the question is not used.
"""

from collections.abc import Sequence

import numpy as np

from refocus_video.selectors.base import OpenVideo, Pick
from refocus_video.types import Example, IntArray, Span, Timeline


def inside(times: Sequence[float], span: Span) -> IntArray:
    """Positions of the candidates that lie in a span."""
    return np.flatnonzero([span.contains(float(t)) for t in times])


def fill(chosen: list[int], num_candidates: int, budget: int, rng: np.random.Generator) -> IntArray:
    """``budget`` distinct positions that begin with ``chosen``; the rest is random."""
    first = list(dict.fromkeys(chosen))[:budget]
    others = np.setdiff1d(np.arange(num_candidates), first)
    return np.array([*first, *rng.choice(others, budget - len(first), replace=False)], dtype=np.int64)


def one_frame_of_each(spans: Sequence[Span], candidates: Timeline, budget: int, rng: np.random.Generator) -> Pick:
    """A random candidate from each span, in the given order; spans without a candidate are passed over."""
    pools = [inside(candidates.times.tolist(), span) for span in spans]
    chosen = [int(rng.choice(pool)) for pool in pools if len(pool)]
    return Pick(fill(chosen, len(candidates), budget, rng))


def oracle(example: Example, candidates: Timeline, budget: int, rng: np.random.Generator) -> Pick | None:
    """Frames of the evidence first; None when no evidence is known."""
    if not example.evidence:
        return None
    return one_frame_of_each(example.evidence, candidates, budget, rng)


def query_blind(example: Example, candidates: Timeline, budget: int, rng: np.random.Generator) -> Pick | None:
    """Frames of random events; None when the events are not known."""
    events = example.metadata.get("events")
    if not events:
        return None
    spans = [Span(event["start_s"], event["end_s"]) for event in events]
    return one_frame_of_each([spans[i] for i in rng.permutation(len(spans))], candidates, budget, rng)


def other_question(example: Example, siblings: Sequence[Example]) -> Example | None:
    """Another example of the same video whose evidence overlaps none of this one's; None when there is none."""
    if not example.evidence:
        return None
    return next((e for e in siblings if e.evidence and not _overlap(e.evidence, example.evidence)), None)


def _overlap(some: Sequence[Span], others: Sequence[Span]) -> bool:
    return any(a.start_s <= b.end_s and b.start_s <= a.end_s for a in some for b in others)


def applies(control: str, example: Example, siblings: Sequence[Example]) -> bool:
    """Whether a control can be run on a question, whatever its video looks like; a selector always can."""
    if control == "oracle":
        return bool(example.evidence)
    if control == "query-blind":
        return bool(example.metadata.get("events"))
    return control != "wrong-question" or other_question(example, siblings) is not None


def wrong_question(examples: Sequence[Example], opened: OpenVideo, budget: int) -> list[Pick | None]:
    """The selector's picks when each question is replaced by another one of the video."""
    others = [other_question(example, examples) for example in examples]
    picks = iter(opened.pick([other.question for other in others if other], budget))
    return [next(picks) if other else None for other in others]
