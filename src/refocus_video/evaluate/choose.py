"""First stage of an evaluation: selectors and controls choose frames, and a selection file says which.

Every question has one row for every selector and budget, known before anything is run, also when its video cannot be read: then the
row says why. Rows are appended video by video, so an interrupted run goes on where it stopped.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from refocus_video.config import SamplingConfig
from refocus_video.data.evidence import by_video
from refocus_video.data.selections import FORMAT, Chosen, chosen_row, empty_row
from refocus_video.errors import OF_ONE_VIDEO, at_most
from refocus_video.evaluate import controls
from refocus_video.evaluate.journal import Journal
from refocus_video.evaluate.stages import Stages
from refocus_video.selectors.base import Pick, Selector, question_rng, to_selection
from refocus_video.types import Example, Timeline
from refocus_video.video.candidates import candidate_timeline
from refocus_video.video.reader import VideoReader

Key = tuple[str, str, int]
"""What is chosen once: question, selector, budget."""


@dataclass(frozen=True, slots=True)
class Choosing:
    """Who chooses, how many frames, from which candidates."""

    selectors: tuple[Selector, ...]
    budgets: tuple[int, ...]
    sampling: SamplingConfig
    wrong_question_of: str | None = "policy"
    """The selector to which the wrong question is put; no such control if it is not among ``selectors``."""
    ideals: tuple[str, ...] = ("query-blind", "oracle")
    """Controls that know where things happen."""
    seed: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Selectors and controls, in the order of the table."""
        own = tuple(selector.name for selector in self.selectors)
        wrong = ("wrong-question",) if self.wrong_question_of in own else ()
        return (*own, *wrong, *self.ideals)

    @property
    def manifest(self) -> dict[str, Any]:
        """What the selection file says of itself."""
        return {"format": FORMAT, "selectors": list(self.names), "sampling": self.sampling.model_dump(mode="json")}

    def keys(self, examples: Sequence[Example]) -> Iterator[Key]:
        """Every row that the questions of one video will have. A control that does not apply to a question has none."""
        for budget in self.budgets:
            for name in self.names:
                for example in examples:
                    if controls.applies(name, example, examples):
                        yield example.id, name, budget


def choose(
    examples: Sequence[Example],
    plan: Choosing,
    path: Path,
    progress: Callable[[], None] = lambda: None,
    stages: Stages | None = None,
    about: Mapping[str, Any] | None = None,
) -> list[Chosen]:
    """Write the selection file ``path`` and return its rows.

    ``stages`` notes time and memory; ``about`` is added to what the file says of itself.
    """
    stages = stages or Stages()
    journal = Journal(path, {"manifest": plan.manifest | dict(about or {})})
    groups = by_video(examples)
    finished = journal.keep_finished(
        {video: set(plan.keys(group)) for video, group in groups.items()},
        unit=lambda row: row["video"],
        key=lambda row: (row["id"], row["selector"], row["budget"]),
    )
    for video, group in groups.items():
        if video not in finished:
            rows = choose_in(video, group, plan, stages)
            with stages.of("writing"):
                journal.append(row.model_dump(mode="json", exclude_none=True) for row in rows)
        progress()
    return [Chosen.model_validate(row) for row in journal.rows]


def choose_in(video: str, examples: Sequence[Example], plan: Choosing, stages: Stages | None = None) -> list[Chosen]:
    """Every row of one video."""
    stages = stages or Stages()
    chosen: dict[Key, Chosen] = {}
    reason = ""
    try:
        with stages.of("opening"), VideoReader(video) as reader:
            candidates = candidate_timeline(reader, plan.sampling)
        # A video with fewer candidates than a budget gives all of them.
        given = {budget: at_most(budget, len(candidates)) for budget in plan.budgets}
        picks = {
            (example.id, name, budget): (to_selection(pick, candidates, example.question, name), seconds)
            for example, name, budget, pick, seconds in _picks(
                examples, candidates, replace(plan, budgets=tuple(dict.fromkeys(given.values()))), stages
            )
        }
        for id, name, budget in plan.keys(examples):
            found = picks.get((id, name, given[budget]))
            if found is not None:
                chosen[id, name, budget] = chosen_row(found[0], id, budget, candidates, found[1])
    except OF_ONE_VIDEO as error:
        chosen, reason = {}, str(error)
    texts = {example.id: example.question.text for example in examples}
    return [
        chosen.get((id, name, budget)) or empty_row(id, video, texts[id], name, budget, reason)
        for id, name, budget in plan.keys(examples)
    ]


def _picks(
    examples: Sequence[Example], candidates: Timeline, plan: Choosing, stages: Stages
) -> Iterator[tuple[Example, str, int, Pick, float]]:
    """Everything that is picked from one video, each with the seconds that it took; looking at the video is shared out."""
    questions = [example.question for example in examples]
    shares = len(questions) * len(plan.budgets)
    for selector in plan.selectors:
        begun = time.perf_counter()
        with stages.of("looking", selector.name):
            opened = selector.open(candidates)
        opening = (time.perf_counter() - begun) / max(1, shares)
        for budget in plan.budgets:
            begun = time.perf_counter()
            with stages.of("picking", selector.name):
                picks = opened.pick(questions, budget)
            seconds = opening + (time.perf_counter() - begun) / len(questions)
            for example, pick in zip(examples, picks, strict=True):
                yield example, selector.name, budget, pick, seconds
            if selector.name == plan.wrong_question_of:
                for example, other in zip(examples, controls.wrong_question(examples, opened, budget), strict=True):
                    if other is not None:
                        yield example, "wrong-question", budget, other, seconds
    for budget in plan.budgets:
        for example in examples:
            rng = question_rng(plan.seed, candidates.video, example.question, budget)
            for name, control in (("query-blind", controls.query_blind), ("oracle", controls.oracle)):
                ideal = control(example, candidates, budget, rng)
                if ideal is not None and name in plan.ideals:
                    yield example, name, budget, ideal, 0.0
