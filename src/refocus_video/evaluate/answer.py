"""Second stage of an evaluation: a model answers from frames that were chosen before, by us or by others.

Every row of the selection file gives one row of answers: a choice without frames, a video that cannot be read and a frame that the
video does not have count as wrong and say why. The model is shown the frames with the times stored in the video, whatever the
selection file says, and sees each distinct frame and each distinct subset of a video once.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refocus_video.data.evidence import evidence_recall
from refocus_video.data.selections import Chosen, check_frames
from refocus_video.errors import DataError, RefocusError
from refocus_video.evaluate.journal import Journal
from refocus_video.reference.base import ReferenceModel, ScoreRequest
from refocus_video.reference.margin import margin
from refocus_video.types import Example, FloatArray, IntArray
from refocus_video.video.reader import VideoReader

Row = dict[str, Any]

LENGTHS = ((60.0, "up to 1 min"), (600.0, "1 to 10 min"), (3600.0, "10 min to 1 h"))
"""Classes of videos by their seconds, for data sets that give a number."""


@dataclass(frozen=True, slots=True)
class Answering:
    """Who answers."""

    model: ReferenceModel
    name: str
    """How it is called in results."""
    dataset: str = ""
    """How the questions are called in results."""


def answer(
    chosen: Sequence[Chosen],
    examples: Sequence[Example],
    answering: Answering,
    path: Path,
    progress: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Append a row for every choice to ``path``, video by video, and return the rows of this model.

    Raises:
        DataError: if a choice is for a question that is not among the examples.
    """
    known = {example.id: example for example in examples}
    strangers = [row.id for row in chosen if row.id not in known]
    if strangers:
        raise DataError(
            f"{len(strangers)} selections are for other questions, such as {strangers[0]!r}; give their question file"
        )
    groups: dict[str, list[Chosen]] = {}
    for row in chosen:
        groups.setdefault(known[row.id].video, []).append(row)
    journal = Journal(path)
    finished = journal.keep_finished(
        {(answering.name, video): {(r.id, r.selector, r.budget) for r in group} for video, group in groups.items()},
        unit=lambda row: (row["model"], row["video"]),
        key=lambda row: (row["id"], row["selector"], row["budget"]),
    )
    for video, group in groups.items():
        if (answering.name, video) not in finished:
            journal.append(answer_in(video, group, known, answering))
        progress()
    return [row for row in journal.rows if row["model"] == answering.name]


def answer_in(
    video: str, chosen: Sequence[Chosen], examples: Mapping[str, Example], answering: Answering
) -> Iterator[Row]:
    """The rows of one video, in the order of the choices."""
    try:
        answers, reasons, seconds = _answers(video, chosen, examples, answering.model)
    except RefocusError as error:
        answers, reasons, seconds = {}, dict.fromkeys(range(len(chosen)), str(error)), 0.0
    for place, row in enumerate(chosen):
        example = examples[row.id]
        found = _unanswered(example, row, answering)
        if place in answers:
            yield found | answers[place] | {"seconds": round(seconds, 5)}
        else:
            yield found | {"error": row.error or reasons[place]}


def _answers(
    video: str, chosen: Sequence[Chosen], examples: Mapping[str, Example], model: ReferenceModel
) -> tuple[dict[int, Row], dict[int, str], float]:
    """What is answered and why not, by place among the choices; and the seconds that each answer took."""
    reasons: dict[int, str] = {}
    with VideoReader(video) as reader:
        for place, row in enumerate(chosen):
            try:
                check_frames(row, reader.info.num_frames)
            except DataError as error:
                reasons[place] = str(error)
        usable = [place for place, row in enumerate(chosen) if row.frame_indices and place not in reasons]
        if not usable:
            return {}, reasons, 0.0
        shown = np.unique(np.concatenate([chosen[place].frame_indices for place in usable]))
        pictures, times = reader.read(shown, model.image_size), reader.times[shown]
    begun = time.perf_counter()
    features = model.encode(pictures)
    requests, places = _requests([(place, chosen[place]) for place in usable], examples, shown, features, times)
    scores = model.score(requests)
    seconds = (time.perf_counter() - begun) / len(usable)
    answers = {}
    for group, table in zip(places, scores, strict=True):
        for place, of_subset in zip(group, table, strict=True):
            row = chosen[place]
            answers[place] = _answered(
                examples[row.id], row, of_subset, times[np.searchsorted(shown, row.frame_indices)]
            )
    return answers, reasons, seconds


def _requests(
    chosen: Sequence[tuple[int, Chosen]],
    examples: Mapping[str, Example],
    shown: IntArray,
    features: Tensor,
    times: FloatArray,
) -> tuple[list[ScoreRequest], list[list[int]]]:
    """One request for the choices of one question that have equally many frames; and the places of its rows."""
    groups: dict[tuple[str, int], list[tuple[int, Chosen]]] = {}
    for place, row in chosen:
        groups.setdefault((row.id, len(row.frame_indices)), []).append((place, row))
    requests = [
        ScoreRequest(
            features,
            torch.from_numpy(times),
            examples[identity].question,
            torch.from_numpy(np.stack([np.searchsorted(shown, row.frame_indices) for _, row in group])),
        )
        for (identity, _), group in groups.items()
    ]
    return requests, [[place for place, _ in group] for group in groups.values()]


def _answered(example: Example, row: Chosen, scores: Tensor, times: FloatArray) -> Row:
    right = float(margin(scores, example.answer))
    return {
        "positions": row.positions,
        "frame_indices": row.frame_indices,
        "times": [round(t, 6) for t in times.tolist()],
        "predicted": int(scores.argmax()),
        "correct": right > 0,
        "recall": evidence_recall(example, times.tolist()),
        "margin": round(right, 6),
    }


def length_class(example: Example) -> str:
    """How long the video is, in the data set's own word (Video-MME: short, medium, long) or by its seconds; empty if unknown."""
    found = example.metadata.get("duration_group", example.metadata.get("duration"))
    if isinstance(found, str):
        return found
    if not isinstance(found, int | float):
        return ""
    return next((name for limit, name in LENGTHS if found <= limit), "over 1 h")


def _unanswered(example: Example, row: Chosen, answering: Answering) -> Row:
    """A row before anything is known of it: wrong."""
    return {
        "id": example.id,
        "video": example.video,
        "question": example.question.text,
        "options": list(example.question.options),
        "answer": example.answer,
        "question_type": example.question_type,
        "kind": str(example.metadata.get("kind", "")),
        "evidence": [[span.start_s, span.end_s] for span in example.evidence],
        "length": length_class(example),
        "dataset": answering.dataset,
        "model": answering.name,
        "selector": row.selector,
        "budget": row.budget,
        "positions": [],
        "frame_indices": [],
        "times": [],
        "predicted": None,
        "correct": False,
        "recall": 0.0 if example.evidence else None,
        "margin": None,
        "choosing_seconds": row.seconds,
        "error": None,
    }
