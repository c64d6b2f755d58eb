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
from refocus_video.data.selections import Chosen, check_frames, check_indices
from refocus_video.errors import OF_ONE_VIDEO, DataError, QuestionError
from refocus_video.evaluate.journal import Journal
from refocus_video.evaluate.stages import Stages
from refocus_video.evaluate.text import Similarity, exact_match, token_f1, wups
from refocus_video.reference.base import FrameFeatures, ScoreRequest
from refocus_video.reference.letters import parse_letter
from refocus_video.reference.margin import margin
from refocus_video.types import Example, FloatArray, IntArray
from refocus_video.video.reader import VideoReader

Row = dict[str, Any]
Judge = Callable[[str, Sequence[str], str], bool]
"""(question, accepted answers, answer) -> whether it is right."""

LENGTHS = ((60.0, "up to 1 min"), (600.0, "1 to 10 min"), (3600.0, "10 min to 1 h"))
"""Classes of videos by their seconds, for data sets that give a number."""
LENGTH_CLASSES = (*(name for _, name in LENGTHS), "over 1 h")
"""Their names, the shortest first."""


@dataclass(frozen=True, slots=True)
class Answering:
    """Who answers."""

    model: Any
    """A :class:`~refocus_video.reference.base.ReferenceModel`; for answers in words an ``AnsweringModel``."""
    name: str
    """How it is called in results."""
    dataset: str = ""
    """How the questions are called in results."""
    in_words: bool = False
    """Whether options are answered by a written letter instead of the likeliest one; questions without options always are."""
    max_new_tokens: int = 32
    """Longest written answer."""
    judge: Judge | None = None
    """Says whether a written answer to a question without options is right; None compares the words."""
    similarity: Similarity | None = None
    """Of words, for WUPS; None leaves it out."""


def answer(
    chosen: Sequence[Chosen],
    examples: Sequence[Example],
    answering: Answering,
    path: Path,
    progress: Callable[[], None] = lambda: None,
    stages: Stages | None = None,
) -> list[Row]:
    """Append a row for every choice to ``path``, video by video, and return the rows of this model.

    ``stages`` notes time and memory.

    Raises:
        DataError: if a choice is for a question that is not among the examples.
    """
    stages = stages or Stages()
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
            rows = answer_in(video, group, known, answering, stages)
            with stages.of("writing"):
                journal.append(rows)
        progress()
    return [row for row in journal.rows if row["model"] == answering.name]


def answer_in(
    video: str, chosen: Sequence[Chosen], examples: Mapping[str, Example], answering: Answering, stages: Stages
) -> list[Row]:
    """The rows of one video, in the order of the choices."""
    try:
        answers, reasons, seconds = _answers(video, chosen, examples, answering, stages)
    except OF_ONE_VIDEO as error:
        answers, reasons, seconds = {}, dict.fromkeys(range(len(chosen)), str(error)), 0.0
    rows = []
    for place, row in enumerate(chosen):
        said = answers.get(place) or {"error": row.error or reasons[place], "seconds": None}
        rows.append(_unanswered(examples[row.id], row, answering) | {"seconds": round(seconds, 6)} | said)
    return rows


def _answers(
    video: str, chosen: Sequence[Chosen], examples: Mapping[str, Example], answering: Answering, stages: Stages
) -> tuple[dict[int, Row], dict[int, str], float]:
    """What is answered and why not, by place among the choices; and the seconds that each answer took."""
    reasons: dict[int, str] = {}
    with stages.of("opening"):
        reader = VideoReader(video)
    with reader:
        for place, row in enumerate(chosen):
            try:
                check_frames(row, reader.info.num_frames)
                check_indices(row)
            except DataError as error:
                reasons[place] = str(error)
        usable = [place for place, row in enumerate(chosen) if row.frame_indices and place not in reasons]
        if not usable:
            return {}, reasons, 0.0
        shown = np.unique(np.concatenate([chosen[place].frame_indices for place in usable]))
        with stages.of("decoding"):
            pictures = reader.read(shown, answering.model.image_size)
        times, duration = reader.times[shown], reader.info.duration_s
    begun = time.perf_counter()
    with stages.of("encoding", answering.name):
        features = answering.model.encode(pictures)
    groups = _groups([(place, chosen[place]) for place in usable])
    requests = []
    for (identity, _), places in groups:
        subsets = np.stack([np.searchsorted(shown, chosen[place].frame_indices) for place in places])
        requests.append(_request(examples[identity], subsets, features, times, duration))
    with stages.of("answering", answering.name):
        replies = _replies_apart(requests, answering)
    found: dict[int, Row] = {}
    with stages.of("judging"):
        for ((identity, _), places), of_request in zip(groups, replies, strict=True):
            example = examples[identity]
            if isinstance(of_request, QuestionError):
                reasons |= dict.fromkeys(places, str(of_request))
                continue
            for place, reply in zip(places, of_request, strict=True):
                seen = times[np.searchsorted(shown, chosen[place].frame_indices)]
                said = {"recall": evidence_recall(example, seen.tolist())} | _verdict(reply, example, answering)
                found[place] = _shown(chosen[place], seen) | said
    return found, reasons, (time.perf_counter() - begun) / len(usable)


def verdicts(
    asked: Sequence[tuple[Example, IntArray]],
    features: FrameFeatures,
    times: FloatArray,
    duration_s: float,
    answering: Answering,
) -> list[list[Row]]:
    """What a model makes of pictures that are not frames of a file as they are: blurred ones, or ones with something put in.

    Args:
        asked: questions with subsets of the pictures, (G, K) int64, increasing along K.
        features: of the pictures, (F, ...), from the model's ``encode``.
        times: of the pictures in seconds, (F,).
        duration_s: of the video.
        answering: who answers.

    Returns:
        A row of what was ``predicted``, whether it is ``correct`` and, for scored options, the ``margin``: for every subset.
    """
    requests = [_request(example, subsets, features, times, duration_s) for example, subsets in asked]
    return [
        [_verdict(reply, example, answering) for reply in replies]
        for (example, _), replies in zip(asked, _replies(requests, answering), strict=True)
    ]


def _request(
    example: Example, subsets: IntArray, features: FrameFeatures, times: FloatArray, duration_s: float
) -> ScoreRequest:
    return ScoreRequest(
        features,
        torch.from_numpy(times),
        example.question,
        torch.from_numpy(subsets),
        texts=None if example.question.options else (),
        duration_s=duration_s,
    )


def _groups(chosen: Sequence[tuple[int, Chosen]]) -> list[tuple[tuple[str, int], list[int]]]:
    """Places of the choices of one question that have equally many frames: what one request holds."""
    groups: dict[tuple[str, int], list[int]] = {}
    for place, row in chosen:
        groups.setdefault((row.id, len(row.frame_indices)), []).append(place)
    return list(groups.items())


Replies = Sequence[Tensor | str]
"""To the subsets of one request: scores of the options, (O,) each, or texts."""


def _replies_apart(requests: Sequence[ScoreRequest], answering: Answering) -> list[Replies | QuestionError]:
    """The replies to all requests, in one call where that goes well: a question that cannot be put costs no other one."""
    try:
        return list(_replies(requests, answering))
    except QuestionError:
        return [_alone(request, answering) for request in requests]


def _alone(request: ScoreRequest, answering: Answering) -> Replies | QuestionError:
    try:
        (found,) = _replies([request], answering)
        return found
    except QuestionError as error:
        return error


def _replies(requests: Sequence[ScoreRequest], answering: Answering) -> Iterator[Replies]:
    """What the model says to every subset of every request: scores of the options, (O,), or a text."""
    written = [answering.in_words or not request.question.options for request in requests]
    scored = [r for r, words in zip(requests, written, strict=True) if not words]
    asked = [r for r, words in zip(requests, written, strict=True) if words]
    scores = iter(answering.model.score(scored) if scored else ())
    texts = iter(answering.model.generate(asked, answering.max_new_tokens) if asked else ())
    for words in written:
        yield next(texts) if words else list(next(scores))


def _shown(row: Chosen, times: FloatArray) -> Row:
    return {
        "positions": row.positions,
        "frame_indices": row.frame_indices,
        "times": [round(t, 6) for t in times.tolist()],
    }


def _verdict(reply: Tensor | str, example: Example, answering: Answering) -> Row:
    return _by_score(reply, example) if isinstance(reply, Tensor) else _by_words(reply, example, answering)


def _by_score(scores: Tensor, example: Example) -> Row:
    """The likeliest option; a tie with the answer is not a win."""
    right = float(margin(scores, example.answer))
    return {"predicted": int(scores.argmax()), "correct": right > 0, "margin": round(right, 6)}


def _by_words(text: str, example: Example, answering: Answering) -> Row:
    """The option that a text names, where there are options: none, and it is wrong and counted as unparsable."""
    if example.question.options:
        predicted = parse_letter(text, len(example.question.options))
        return {
            "text": text,
            "predicted": predicted,
            "correct": predicted == example.answer,
            "unparsable": predicted is None,
        }
    exact, f1 = exact_match(text, example.accepted), token_f1(text, example.accepted)
    judged = None if answering.judge is None else answering.judge(example.question.text, example.accepted, text)
    alike = None if answering.similarity is None else round(wups(text, example.accepted, answering.similarity), 6)
    return {
        "text": text,
        "exact": exact,
        "f1": round(f1, 6),
        "wups": alike,
        "correct": exact == 1 if judged is None else judged,
    }


def length_class(example: Example) -> str:
    """How long the video is, in the data set's own word (Video-MME: short, medium, long) or by its seconds; empty if unknown."""
    found = example.metadata.get("duration_group", example.metadata.get("duration"))
    if isinstance(found, str):
        return found
    if not isinstance(found, int | float):
        return ""
    return next((name for limit, name in LENGTHS if found <= limit), LENGTH_CLASSES[-1])


def _unanswered(example: Example, row: Chosen, answering: Answering) -> Row:
    """A row before anything is known of it: wrong."""
    return {
        "id": example.id,
        "video": example.video,
        "question": example.question.text,
        "options": list(example.question.options),
        "answer": example.answer,
        "accepted": list(example.accepted),
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
        "text": None,
        "exact": 0.0 if example.accepted else None,
        "f1": 0.0 if example.accepted else None,
        "wups": 0.0 if example.accepted and answering.similarity is not None else None,
        "unparsable": False,
        "candidates": row.candidates,
        "pool": row.pool,
        "choosing_seconds": row.seconds,
        "error": None,
    }
