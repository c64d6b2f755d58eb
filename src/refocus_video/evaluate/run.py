"""Runs selectors and controls over a question file, one video at a time: rows of what was picked and answered.

Every question gives one row for every selector and budget, also when its video cannot be read: then the row says why and counts as
wrong. Rows are appended video by video, so an interrupted run goes on where it stopped.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from refocus_video.config import SamplingConfig
from refocus_video.data.evidence import by_video, evidence_recall
from refocus_video.errors import ConfigError, RefocusError
from refocus_video.evaluate import controls
from refocus_video.files import write_json
from refocus_video.reference.base import ReferenceModel, ScoreRequest
from refocus_video.reference.margin import margin
from refocus_video.selectors.base import Pick, Selector, question_rng, to_selection
from refocus_video.types import Candidates, Example
from refocus_video.video.candidates import load_candidates


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What to run."""

    selectors: tuple[Selector, ...]
    budgets: tuple[int, ...]
    image_size: tuple[int, int]
    """At which the selectors look at frames."""
    sampling: SamplingConfig
    wrong_question_of: str = "policy"
    """The selector to which the wrong question is put; no control if it is not among ``selectors``."""
    seed: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Selectors and controls, in the order of the table."""
        own = tuple(selector.name for selector in self.selectors)
        wrong = ("wrong-question",) if self.wrong_question_of in own else ()
        return (*own, *wrong, "query-blind", "oracle")


def evaluate(
    examples: Sequence[Example],
    reference: ReferenceModel,
    plan: Evaluation,
    output: Path,
    settings: dict[str, Any],
    progress: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Write ``output/rows.jsonl`` and return its rows.

    Raises:
        ConfigError: if ``output`` holds rows of other settings.
    """
    path, described = output / "rows.jsonl", output / "evaluation.json"
    described_now = json.loads(json.dumps({"settings": settings, "names": plan.names, "budgets": plan.budgets}))
    if path.exists() and (not described.exists() or json.loads(described.read_text("utf-8")) != described_now):
        raise ConfigError(f"{output} holds results of other settings; choose another folder or remove it")
    write_json(described, described_now)
    rows = _read_whole_rows(path)
    done = {row["video"] for row in rows}
    for video, group in by_video(examples).items():
        if video not in done:
            new = list(_video_rows(video, group, reference, plan))
            _append(path, new)
            rows += new
        progress()
    return rows


def _video_rows(
    video: str, examples: list[Example], reference: ReferenceModel, plan: Evaluation
) -> Iterator[dict[str, Any]]:
    begun = time.perf_counter()
    try:
        candidates = load_candidates(video, plan.image_size, plan.sampling)
        shown = (
            candidates
            if reference.image_size == plan.image_size
            else load_candidates(video, reference.image_size, plan.sampling)
        )
        # A video that is too short for one budget still counts for the smaller ones.
        fitting = replace(plan, budgets=tuple(b for b in plan.budgets if b <= len(candidates)))
        chosen = list(_picks(examples, candidates, fitting))
        rows = _answered(chosen, candidates, shown, reference) if chosen else []
    except RefocusError as error:
        yield from _failed(examples, plan, plan.budgets, str(error))
        return
    seconds = (time.perf_counter() - begun) / max(1, len(rows))
    for row in rows:
        yield row | {"seconds": round(seconds, 5)}
    too_large = [budget for budget in plan.budgets if budget > len(candidates)]
    yield from _failed(examples, plan, too_large, f"the video gives only {len(candidates)} candidate frames")


def _failed(examples: list[Example], plan: Evaluation, budgets: Sequence[int], reason: str) -> Iterator[dict[str, Any]]:
    """The same rows as if it had worked, all wrong."""
    for budget in budgets:
        for name in plan.names:
            for example in examples:
                if controls.applies(name, example, examples):
                    yield _row(example, name, budget) | {"error": reason}


Choice = tuple[Example, str, int, Pick]


def _picks(examples: list[Example], candidates: Candidates, plan: Evaluation) -> Iterator[Choice]:
    """Everything that is picked from one video. A control that does not apply to a question is left out."""
    questions = [example.question for example in examples]
    for selector in plan.selectors:
        opened = selector.open(candidates)
        for budget in plan.budgets:
            for example, pick in zip(examples, opened.pick(questions, budget), strict=True):
                yield example, selector.name, budget, pick
            if selector.name == plan.wrong_question_of:
                for example, other in zip(examples, controls.wrong_question(examples, opened, budget), strict=True):
                    if other is not None:
                        yield example, "wrong-question", budget, other
    for budget in plan.budgets:
        for example in examples:
            rng = question_rng(plan.seed, candidates.video, example.question, budget)
            for name, control in (("query-blind", controls.query_blind), ("oracle", controls.oracle)):
                ideal = control(example, candidates, budget, rng)
                if ideal is not None:
                    yield example, name, budget, ideal


def _answered(
    chosen: list[Choice], candidates: Candidates, shown: Candidates, reference: ReferenceModel
) -> list[dict[str, Any]]:
    """Let the answering model answer from each choice."""
    features, times = reference.encode(shown.frames), torch.from_numpy(shown.times)
    selections = [to_selection(pick, candidates, example.question, name) for example, name, _, pick in chosen]
    requests = [
        ScoreRequest(features, times, example.question, torch.from_numpy(selection.positions)[None])
        for (example, *_), selection in zip(chosen, selections, strict=True)
    ]
    rows = []
    for (example, name, budget, _), selection, scores in zip(
        chosen, selections, reference.score(requests), strict=True
    ):
        right = float(margin(scores, example.answer)[0])
        rows.append(
            _row(example, name, budget)
            | {
                "positions": selection.positions.tolist(),
                "frame_indices": selection.frame_indices.tolist(),
                "times": [round(t, 6) for t in selection.times.tolist()],
                "predicted": int(scores[0].argmax()),
                "correct": right > 0,
                "recall": evidence_recall(example, selection.times.tolist()),
                "margin": round(right, 6),
            }
        )
    return rows


def _row(example: Example, selector: str, budget: int) -> dict[str, Any]:
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
        "selector": selector,
        "budget": budget,
        "positions": [],
        "frame_indices": [],
        "times": [],
        "predicted": None,
        "correct": False,
        "recall": 0.0 if example.evidence else None,
        "margin": None,
        "error": None,
    }


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    """All rows of one video in one write that reaches the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [*rows, {"end_of_video": True}]))
        stream.flush()
        os.fsync(stream.fileno())


def _read_whole_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of the videos that were finished; what a killed run left of an unfinished one is cut off the file."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    marker = '{"end_of_video": true}\n'
    whole = text[: text.rfind(marker) + len(marker)] if marker in text else ""
    if whole != text:
        with path.open("r+", encoding="utf-8") as stream:
            stream.truncate(len(whole.encode("utf-8")))
    rows = [json.loads(line) for line in whole.split("\n") if line]
    return [row for row in rows if "end_of_video" not in row]
