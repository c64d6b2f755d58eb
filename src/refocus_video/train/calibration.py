"""How sure the tiny reference model is when it sees all, a part, or none of the evidence.

A model that is sure of itself on partial evidence teaches a policy to avoid evidence; one that is not can be trusted with the
paper's own reward (docs/experiments.md).

Dimensions: N questions · M frames shown · O options.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refocus_video.data.haystack.world import HOPS, Probe, ask, needed_events
from refocus_video.reference.base import ScoreRequest
from refocus_video.reference.huggingface import HuggingFaceReference
from refocus_video.reference.margin import accuracy_reward, margin_reward, probability_reward
from refocus_video.train.corpus import Corpus
from refocus_video.types import IntArray

ONE_HOP_EVIDENCE = ("none, blank frames", "none, other cards", "all, blank frames", "all, other cards")
TWO_HOP_EVIDENCE = (
    *ONE_HOP_EVIDENCE,
    "first card, blank frames",
    "first card, other cards",
    "second card, blank frames",
    "second card, other cards",
)


def calibration(
    reference: HuggingFaceReference, corpus: Corpus, features: Tensor, *, questions: int
) -> list[dict[str, Any]]:
    """One row for each answer mode, kind of question, number of frames and sort of evidence."""
    rows = []
    mode = reference.answer_mode
    for reference.answer_mode in ("words", "letters"):
        for kind, frames in ((kind, frames) for kind in HOPS for frames in (2, 4, 8)):
            for evidence in TWO_HOP_EVIDENCE if kind == "linked-shape" else ONE_HOP_EVIDENCE:
                rng = np.random.default_rng([0, frames])
                rows.append(
                    {"answer_mode": reference.answer_mode, "kind": kind, "frames": frames, "evidence": evidence}
                    | _measure(reference, corpus, features, kind, frames, evidence, questions, rng)
                )
    reference.answer_mode = mode
    return rows


def _measure(
    reference: HuggingFaceReference,
    corpus: Corpus,
    features: Tensor,
    kind: str,
    frames: int,
    evidence: str,
    questions: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    requests, answers = [], []
    times = torch.zeros(features.shape[1], dtype=torch.float64)
    for v in rng.integers(len(corpus.worlds), size=questions).tolist():
        world = corpus.worlds[v]
        probe = Probe(kind, int(rng.integers(len(world.events))))
        subset = evidence_subset(corpus.shown[v], needed_events(world, probe), evidence, frames, rng)
        question, answer = ask(world, probe, rng)
        requests.append(ScoreRequest(features[v], times, question, torch.from_numpy(subset)[None]))
        answers.append(answer)
    scores = reference.score(requests)
    pairs = list(zip(scores, answers, strict=True))
    return {
        "n": questions,
        "accuracy": float(np.mean([float(accuracy_reward(s, a)[0] > 0) for s, a in pairs])),
        "probability": float(np.mean([float(probability_reward(s, a)[0]) for s, a in pairs])),
        "margin_reward": float(np.mean([float(margin_reward(s, a)[0]) for s, a in pairs])),
    }


def evidence_subset(
    shown: IntArray, needed: Sequence[int], evidence: str, frames: int, rng: np.random.Generator
) -> IntArray:
    """Positions (M,) of a subset with the given sort of evidence, in temporal order."""
    part, filler = evidence.split(", ")
    seen = {"none": [], "all": list(needed), "first card": [needed[0]], "second card": [needed[-1]]}[part]
    others = [e for e in range(int(shown.max()) + 1) if e not in needed and (shown == e).any()]
    extra = [others[i] for i in rng.permutation(len(others))] if filler == "other cards" else []
    chosen = [int(rng.choice(np.flatnonzero(shown == e))) for e in [*seen, *extra]][:frames]
    blank = rng.permutation(np.flatnonzero(shown < 0))
    return np.sort([*chosen, *blank[: frames - len(chosen)]])
