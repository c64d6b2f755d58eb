"""Shows a reference model no, some and all of the evidence, and notes what it makes of it: the rows of `refocus reference check`.

Every question is asked with several kinds of subsets of one video's candidates (:data:`KINDS`), and where options have letters with
the options in several orders. Rows are appended video by video, so an interrupted run goes on where it stopped; what failed is
tried again.

Dimensions: F candidate frames · K frames in a subset · G subsets · S evidence spans · O options.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refocus_video.config import ReferenceConfig, SamplingConfig
from refocus_video.data.evidence import by_video, evidence_recall
from refocus_video.errors import ReferenceModelError, VideoError
from refocus_video.evaluate.journal import Journal
from refocus_video.reference.base import ReferenceModel
from refocus_video.reference.frames import FrameCache
from refocus_video.reference.letters import rotated
from refocus_video.scoring import Judgement, Trial, judge_apart
from refocus_video.selectors.base import question_rng
from refocus_video.types import BoolArray, Example, FloatArray, IntArray
from refocus_video.video.candidates import load_candidates
from refocus_video.video.sampling import uniform_positions

Row = dict[str, Any]

KINDS = {
    "none": "no frame at all",
    "uniform": "evenly spaced frames",
    "random": "frames drawn at random",
    "off": "frames outside all evidence",
    "part": "all evidence but one span of it",
    "all": "frames of every evidence span",
}
"""What is shown. The last three need evidence, ``part`` two spans of it."""
TURNED = ("none", "uniform")
"""The kinds that are shown under every order of the options; of the others every subset has one, in turn."""
DIGITS = 6


@dataclass(frozen=True, slots=True)
class Checking:
    """What is shown to whom."""

    reference: ReferenceModel
    config: ReferenceConfig
    """Its rewards; the rotation of options is the check's own."""
    sampling: SamplingConfig
    frames: int = 8
    """K."""
    subsets: int = 8
    """Random subsets of each question."""
    draws: int = 2
    """Subsets of each kind that depends on the evidence."""
    seed: int = 0

    @property
    def letters(self) -> bool:
        """Whether any of the models reads the options by letter; otherwise their order does not matter."""
        return any(model.answer_mode == "letters" for model in (self.config, *self.config.ensemble))


def check(
    examples: Sequence[Example], checking: Checking, path: Path, progress: Callable[[], None] = lambda: None
) -> list[Row]:
    """Append a row for every question to ``path``, video by video, and return the rows.

    Raises:
        ReferenceModelError: if the very first questions cannot be scored, none of them: then it is not they that are wrong.
    """
    journal = Journal(path)
    groups = by_video(examples)
    finished = journal.keep_finished(
        {video: {example.id for example in group} for video, group in groups.items()},
        unit=lambda row: row["video"],
        key=lambda row: None if "error" in row else row["id"],
    )
    scored = bool(finished)
    for video, group in groups.items():
        if video not in finished:
            rows, error = _rows(video, group, checking)
            if error is not None and not scored:
                raise error
            scored = scored or any("cells" in row for row in rows)
            journal.append(rows)
        progress()
    order = {example.id: place for place, example in enumerate(examples)}
    return sorted(journal.rows, key=lambda row: order[row["id"]])


def _rows(video: str, examples: Sequence[Example], checking: Checking) -> tuple[list[Row], ReferenceModelError | None]:
    """The rows of one video; and the first error if the model could score none of its questions."""
    try:
        candidates = load_candidates(video, checking.reference.image_size, checking.sampling)
        if len(candidates) < checking.frames:
            raise VideoError(f"{video} gives {len(candidates)} candidate frames, too few to show {checking.frames}")
    except VideoError as error:
        return [_about(example) | {"error": str(error)} for example in examples], None
    features = FrameCache(checking.reference.encode, candidates.frames)
    times = torch.from_numpy(candidates.times)
    asked = [list(_shows(example, candidates.times, checking)) for example in examples]
    trials = [[_trial(example, show, features, times, checking) for show in shows]
              for example, shows in zip(examples, asked, strict=True)]  # fmt: skip
    config = checking.config.model_copy(update={"rotation": "none"})
    judged = judge_apart(checking.reference, trials, config)
    rows = [
        _about(example)
        | (
            {"error": str(found)}
            if isinstance(found, ReferenceModelError)
            else {"cells": [c for s, j in zip(shows, found, strict=True) for c in _cells(example, s, j, times)]}
        )
        for example, shows, found in zip(examples, asked, judged, strict=True)
    ]
    errors = [found for found in judged if isinstance(found, ReferenceModelError)]
    return rows, errors[0] if len(errors) == len(examples) else None


def _about(example: Example) -> Row:
    return {
        "id": example.id,
        "video": example.video,
        "question_type": example.question_type,
        "options": len(example.question.options),
        "spans": len(example.evidence),
    }


@dataclass(frozen=True, slots=True)
class _Show:
    """Subsets of one kind under one order of the options."""

    kind: str
    by: int
    subsets: IntArray
    """(G, K)."""


def _shows(example: Example, times: FloatArray, checking: Checking) -> Iterator[_Show]:
    rng = question_rng(checking.seed, example.video, example.question, checking.frames)
    orders = max(1, len(example.question.options)) if checking.letters else 1
    for kind, subsets in drawn(example, times, checking, rng).items():
        for by in range(orders):
            own = subsets if kind in TURNED else subsets[by::orders]
            if len(own):
                yield _Show(kind, by, own)


def drawn(example: Example, times: FloatArray, checking: Checking, rng: np.random.Generator) -> dict[str, IntArray]:
    """Subsets (G, K) of every kind that there is for a question, each row in temporal order."""
    candidates, budget = len(times), checking.frames
    found = {
        "none": np.empty((1, 0), dtype=np.int64),
        "uniform": uniform_positions(candidates, budget)[None],
        "random": np.stack([np.sort(rng.choice(candidates, budget, replace=False)) for _ in range(checking.subsets)]),
    }
    inside = np.array([[span.contains(t) for t in times] for span in example.evidence], dtype=np.bool_)
    # A span between two candidates cannot be shown; what is left of the others would pass for all there is.
    if not len(inside) or not inside.any(1).all() or len(inside) > budget:
        return found
    kinds: dict[str, Callable[[], IntArray | None]] = {
        "off": lambda: _outside(inside, budget, rng),
        "part": lambda: _partly(inside, budget, rng),
        "all": lambda: _filled(inside, np.ones(candidates, dtype=np.bool_), budget, rng),
    }
    for kind, draw in kinds.items():
        rows = [row for row in (draw() for _ in range(checking.draws)) if row is not None]
        if rows:
            found[kind] = np.stack(rows)
    return found


def _outside(inside: BoolArray, budget: int, rng: np.random.Generator) -> IntArray | None:
    pool = np.flatnonzero(~inside.any(0))
    return np.sort(rng.choice(pool, budget, replace=False)) if len(pool) >= budget else None


def _partly(inside: BoolArray, budget: int, rng: np.random.Generator) -> IntArray | None:
    """Frames of every span but one, and none of that."""
    if len(inside) < 2:
        return None
    hidden = int(rng.integers(len(inside)))
    allowed = ~inside[hidden]
    rest = np.delete(inside, hidden, axis=0) & allowed
    return _filled(rest, allowed, budget, rng) if rest.any(1).all() and allowed.sum() >= budget else None


def _filled(inside: BoolArray, allowed: BoolArray, budget: int, rng: np.random.Generator) -> IntArray:
    """One frame of each span (S, F), then further ones of any span, then others that are allowed (F,)."""
    first = list(dict.fromkeys(int(rng.choice(np.flatnonzero(span))) for span in inside))
    more = rng.permutation(np.flatnonzero(inside.any(0))).tolist()
    others = rng.permutation(np.flatnonzero(allowed & ~inside.any(0))).tolist()
    return np.sort(np.array(list(dict.fromkeys([*first, *more, *others]))[:budget], dtype=np.int64))


def _trial(example: Example, show: _Show, features: FrameCache, times: Tensor, checking: Checking) -> Trial:
    turned = example
    if example.question.options:
        answer = (example.answer - show.by) % len(example.question.options)
        turned = Example(example.id, example.video, rotated(example.question, show.by), answer)
    return Trial(features, times, turned, torch.from_numpy(show.subsets), control_frames=checking.frames)


def _cells(example: Example, show: _Show, judged: Judgement, times: Tensor) -> Iterator[Row]:
    """What is noted of each subset; ``letter`` and ``right`` are places among the options as shown."""
    options = len(example.question.options)
    for i, subset in enumerate(show.subsets):
        cell: Row = {
            "kind": show.kind,
            "recall": evidence_recall(example, times[torch.from_numpy(subset)].tolist()),
            "reward": round(float(judged.rewards[i]), DIGITS),
            "margin": round(float(torch.tanh(judged.margins[i] / 2)), DIGITS),
            "probability": round(float(judged.probabilities[i]), DIGITS),
        }
        if options:
            letter = int(judged.chances[i].argmax())
            right = (example.answer - show.by) % options
            cell |= {
                "letter": letter,
                "right": right,
                "correct": letter == right and float(judged.margins[i]) > 0,
                "confidence": round(float(judged.chances[i].max()), DIGITS),
            }
        yield cell
