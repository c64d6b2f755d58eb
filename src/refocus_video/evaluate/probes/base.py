"""What the probes have in common: every video is looked at once by the policy and by the model, one row each is written, and
questions that cannot be asked are counted.

Legend: Q questions of a video · F candidate frames · K frames picked.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from refocus_video.config import SamplingConfig
from refocus_video.data.evidence import by_video, evidence_recall
from refocus_video.errors import OF_ONE_VIDEO, RefocusError
from refocus_video.evaluate.answer import Answering, verdicts
from refocus_video.evaluate.journal import begin
from refocus_video.evaluate.probe_plots import FIGURES, standalone
from refocus_video.files import write_json, write_text
from refocus_video.policy.pick import Picks, pick_frames
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.records import VideoIndex
from refocus_video.reference.frames import FrameCache
from refocus_video.selectors.base import question_rng
from refocus_video.selectors.learned import Learned
from refocus_video.types import Candidates, Example, IntArray
from refocus_video.video.candidates import candidate_timeline
from refocus_video.video.reader import VideoReader

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Subject:
    """Who picks and who answers."""

    policy: FramePolicy
    answering: Answering
    sampling: SamplingConfig
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Looked:
    """A video at which policy and model have looked."""

    subject: Subject
    candidates: Candidates
    """At the size of the model's pictures."""
    index: VideoIndex
    duration_s: float

    def rng(self, example: Example, budget: int) -> np.random.Generator:
        """Random numbers of one question."""
        return question_rng(self.subject.seed, self.candidates.video, example.question, budget)

    @torch.no_grad()
    def pick(
        self,
        examples: Sequence[Example],
        budget: int,
        group: int = 1,
        *,
        greedy: bool = True,
        forced: IntArray | None = None,
    ) -> Picks:
        """What the policy picks for questions, (Q, G, K) in picking order; ``forced`` (Q, G, m) are picked first.

        Raises:
            BudgetError: if there are too few candidates.
        """
        policy = self.subject.policy
        asked = policy.ask(self.index, [e.question for e in examples], torch.zeros(len(examples), dtype=torch.long))
        seeds = [int(self.rng(example, budget).integers(2**62)) for example in examples]
        return pick_frames(
            policy,
            self.index,
            asked,
            budget,
            group,
            greedy=greedy,
            generator=[torch.Generator(policy.device).manual_seed(seed) for seed in seeds],
            forced=None if forced is None else torch.from_numpy(forced).to(policy.device),
        )

    def answers(self, asked: Sequence[tuple[Example, Sequence[IntArray]]]) -> list[list[Row]]:
        """What the model answers to subsets (K,) of the candidates, in any order and of any sizes, with their evidence recall.

        Only frames in a subset are encoded.
        """
        features = FrameCache(self.subject.answering.model.encode, self.candidates.frames)
        requests, places = [], []
        for number, (example, subsets) in enumerate(asked):
            for size in sorted({len(subset) for subset in subsets}):
                where = [place for place, subset in enumerate(subsets) if len(subset) == size]
                requests.append((example, np.stack([np.sort(subsets[place]) for place in where])))
                places.append((number, where))
        rows: list[list[Row]] = [[{} for _ in subsets] for _, subsets in asked]
        times = self.candidates.times
        found = verdicts(requests, features, times, self.duration_s, self.subject.answering)
        for (number, where), (example, subsets_of), said in zip(places, requests, found, strict=True):
            for place, subset, row in zip(where, subsets_of, said, strict=True):
                rows[number][place] = row | {"recall": evidence_recall(example, times[subset].tolist())}
        return rows


class Probe(Protocol):
    """Something that is done to the frames, and measured."""

    @property
    def kind(self) -> str:
        """Names its files."""
        ...

    def points(self, example: Example) -> list[Row]:
        """What is measured of a question, known before anything is run: one row each, as if it had failed."""
        ...

    def measure(self, looked: Looked, examples: Sequence[Example]) -> list[list[Row]]:
        """The same rows with what was found, for every question of a video."""
        ...

    def summarise(self, rows: Sequence[Row], seed: int) -> list[Row]:
        """The lines of the result, with intervals over videos."""
        ...


def look(video: str, subject: Subject) -> Looked:
    """Let policy and model look at a video.

    Raises:
        VideoError: if it cannot be read.
    """
    with VideoReader(video) as reader:
        timeline = candidate_timeline(reader, subject.sampling)
        pictures = reader.read(timeline.frame_indices, subject.answering.model.image_size)
        candidates = Candidates(video, pictures, timeline.frame_indices, timeline.times)
        index = Learned(subject.policy).open(timeline).index
        return Looked(subject, candidates, index, reader.info.duration_s)


def run_probe(
    probe: Probe,
    examples: Sequence[Example],
    subject: Subject,
    output: Path,
    settings: Mapping[str, Any],
    progress: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Probe every question that is not yet in ``output``; write ``KIND.json`` and ``KIND.svg`` there and return the former.

    ``KIND.jsonl`` grows video by video; ``progress`` is called once a video.

    Raises:
        ConfigError: if ``output`` holds results of other settings.
        RefocusError: if no video at all could be used.
    """
    kind, groups = probe.kind, by_video(examples)
    journal = begin(output / f"{kind}.jsonl", {"kind": kind, "settings": dict(settings)})
    finished = journal.keep_finished(
        {video: {_key(row) for example in group for row in _blank(probe, example)} for video, group in groups.items()},
        unit=lambda row: row["video"],
        key=_key,
    )
    failed: RefocusError | None = None
    for video, group in groups.items():
        if video not in finished:
            rows, error = _rows(probe, video, group, subject)
            failed = failed or error
            journal.append(rows)
        progress()
    if failed is not None and all(row["error"] for row in journal.rows):
        journal.path.unlink()  # or running again would not look at the videos again
        raise failed
    reasons = {row["video"]: row["error"] for row in journal.rows if row["error"]}
    results: dict[str, Any] = {
        "kind": kind,
        "settings": dict(settings),
        "rows": probe.summarise(journal.rows, subject.seed),
        "failures": [
            {"video": video, "reason": reason, "questions": len(groups[video])} for video, reason in reasons.items()
        ],
    }
    write_json(output / f"{kind}.json", results)
    write_text(output / f"{kind}.svg", standalone(FIGURES[kind](results["rows"])))
    return results


def _blank(probe: Probe, example: Example) -> list[Row]:
    about = {"id": example.id, "video": example.video}
    return [about | row | {"error": None} for row in probe.points(example)]


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("id", "arm", "k", "m", "rank"))


def _rows(
    probe: Probe, video: str, group: Sequence[Example], subject: Subject
) -> tuple[list[Row], RefocusError | None]:
    blank = [_blank(probe, example) for example in group]
    try:
        found = probe.measure(look(video, subject), group)
    except OF_ONE_VIDEO as error:
        return [row | {"error": str(error)} for rows in blank for row in rows], error
    pairs = zip(blank, found, strict=True)
    return [row | more for rows, measured in pairs for row, more in zip(rows, measured, strict=True)], None


def by_point(rows: Sequence[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows that agree in some fields, in order of first appearance."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def none_if_nan(value: float) -> float | None:
    """An end of an interval, None where there is none."""
    return None if math.isnan(value) else value


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """The mean of what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
