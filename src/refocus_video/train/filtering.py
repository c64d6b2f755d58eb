"""Runs the reward-variance filter over a question file (METHOD §6): what is kept, what is not, and why.

Appends one row a question to ``variances.jsonl`` as it goes, so an interrupted run goes on where it stopped.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from refocus_video.config import FilterConfig
from refocus_video.data.evidence import by_video
from refocus_video.reference.base import ReferenceModel, ScoreRequest
from refocus_video.reference.margin import margin_reward
from refocus_video.selectors.base import question_rng
from refocus_video.train.features import FeatureStore
from refocus_video.train.filter import margin_variance, probe_subsets
from refocus_video.types import Example


def measure(
    examples: Sequence[Example],
    store: FeatureStore,
    reference: ReferenceModel,
    config: FilterConfig,
    path: Path,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Variance of the squashed margins of the 16 probes of every example, by id; kept in ``path``.

    The margins are those of the paper's reward, in [−1, 1]; τ refers to their variance.
    """
    variances = _read(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        for video, group in by_video(examples).items():
            todo = [example for example in group if example.id not in variances]
            if todo:
                rows = _measure_video(video, todo, store, reference, config)
                variances |= rows
                stream.write("".join(json.dumps({"id": i, "variance": v}) + "\n" for i, v in rows.items()))
                stream.flush()
                os.fsync(stream.fileno())
            progress()
    return {example.id: variances[example.id] for example in examples}


def _measure_video(
    video: str, examples: list[Example], store: FeatureStore, reference: ReferenceModel, config: FilterConfig
) -> dict[str, float]:
    seen = store[video]
    requests = [
        ScoreRequest(
            seen.reference,
            seen.times,
            example.question,
            torch.from_numpy(
                probe_subsets(
                    len(seen), config.budget, question_rng(config.seed, video, example.question, config.budget)
                )
            ),
        )
        for example in examples
    ]
    scores = reference.score(requests)
    return {e.id: margin_variance(margin_reward(s, e.answer)) for e, s in zip(examples, scores, strict=True)}


def summary(
    examples: Sequence[Example], variances: dict[str, float], threshold: float, failures: dict[str, str]
) -> dict[str, Any]:
    """Numbers about what the filter does: histogram, kept by question type and by answer letter, bad videos."""
    measured = [example for example in examples if example.id in variances]
    kept = [example for example in measured if variances[example.id] > threshold]
    values = np.array([variances[example.id] for example in measured])
    counts, edges = np.histogram(values, bins=20, range=(0.0, 1.0))
    return {
        "threshold": threshold,
        "asked": len(examples),
        "measured": len(measured),
        "kept": len(kept),
        "unreadable": len(examples) - len(measured),
        "failures": failures,
        "kept_by_type": dict(Counter(example.question_type for example in kept)),
        "asked_by_type": dict(Counter(example.question_type for example in examples)),
        "letters_before": dict(sorted(Counter(chr(65 + example.answer) for example in measured).items())),
        "letters_after": dict(sorted(Counter(chr(65 + example.answer) for example in kept).items())),
        "histogram": {"counts": counts.tolist(), "edges": [round(float(edge), 3) for edge in edges]},
    }


def _read(path: Path) -> dict[str, float]:
    """Rows written before; a last line that a kill cut short is cut off the file."""
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        with path.open("r+", encoding="utf-8") as stream:
            stream.truncate(len(whole.encode("utf-8")))
    rows = [json.loads(line) for line in whole.splitlines()]
    return {row["id"]: float(row["variance"]) for row in rows}
