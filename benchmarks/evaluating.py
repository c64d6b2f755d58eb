"""What evaluating costs beside the model and the videos: milliseconds a question, with frames picked before and a fake model.

Opening and decoding the videos are reported apart; they are copies of one small clip. The whole is what `refocus eval --selections`
does, the page included.

    python benchmarks/evaluating.py [--questions 5000] [--videos 500] [--budget 32] [--selectors 1]
"""

import argparse
import cProfile
import pstats
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from machine import keep
from refocus_video.config import SamplingConfig
from refocus_video.data.examples import read_examples, write_examples
from refocus_video.data.haystack.generate import write_mp4
from refocus_video.data.selections import Chosen, read_selections, write_selections
from refocus_video.evaluate.answer import Answering
from refocus_video.evaluate.choose import Choosing
from refocus_video.evaluate.metrics import summarise
from refocus_video.evaluate.overview import survey, write_overview
from refocus_video.evaluate.run import evaluate
from refocus_video.evaluate.runs import load_runs
from refocus_video.evaluate.stages import read_stages
from refocus_video.files import write_json
from refocus_video.reference.base import ScoreRequest
from refocus_video.types import ByteArray, Example, Question, Span

TARGET_MS = 5.0
FRAMES, SIZE, FPS = 64, 48, 4
VIDEOS, MODEL = ("opening", "decoding"), ("encoding", "answering")
"""Stages that are not ours: the work on video files and that of the model."""


class Fake:
    """Answers at random, at once."""

    image_size = (32, 32)

    def encode(self, frames: ByteArray) -> Tensor:
        """One number a frame."""
        return torch.zeros(len(frames), 1)

    def score(self, requests: Sequence[ScoreRequest]) -> list[Tensor]:
        """Random scores."""
        return [torch.rand(len(request.subsets), len(request.question.options)) for request in requests]


def make(folder: Path, videos: int, questions: int, selectors: int, budget: int) -> None:
    """Copies of a clip, questions about them, and a selection file."""
    rng = np.random.default_rng(0)
    first = folder / "000000.mp4"
    write_mp4(first, rng.integers(0, 255, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8), FPS)
    paths = [first, *(folder / f"{number:06d}.mp4" for number in range(1, videos))]
    for path in paths[1:]:
        shutil.copy(first, path)
    examples = [
        Example(
            f"q{n}",
            str(paths[n % videos]),
            Question(f"What is shown in scene {n}?", ("a dog", "a cat", "a horse", "a bird")),
            answer=n % 4,
            evidence=(Span(1.0, 2.0),),
            question_type=f"type {n % 12}",
            metadata={"duration": ("short", "medium", "long")[n % 3]},
        )
        for n in range(questions)
    ]
    write_examples(folder / "questions.jsonl", examples)
    rows = (
        Chosen(
            id=example.id,
            video=example.video,
            question=example.question.text,
            selector=("uniform", "policy", "aks", "bolt", "mdp3")[selector % 5] + "+" * (selector // 5),
            budget=budget,
            frame_indices=(picks := np.sort(rng.choice(FRAMES, budget, replace=False)).tolist()),
            times=[pick / FPS for pick in picks],
            positions=picks,
            candidates=FRAMES,
            pool="p",
            seconds=0.01,
        )
        for selector in range(selectors)
        for example in examples
    )
    write_selections(folder / "selections.jsonl", {}, rows)


@contextmanager
def timed(found: dict[str, float], name: str) -> Iterator[None]:
    """Note seconds."""
    begun = time.perf_counter()
    yield
    found[name] = time.perf_counter() - begun


def evaluated(folder: Path, output: Path) -> dict[str, float]:
    """Seconds of each part of one evaluation."""
    found: dict[str, float] = {}
    with timed(found, "whole"):
        with timed(found, "reading questions"):
            examples = read_examples(folder / "questions.jsonl")
        with timed(found, "reading selections"):
            given = read_selections(folder / "selections.jsonl").rows
        plan = Choosing((), (given[0].budget,), SamplingConfig(), ideals=())
        with timed(found, "answering, with videos and model"):
            rows = evaluate(examples, [Answering(Fake(), "fake", "made-up")], plan, output, {}, given=given)
        with timed(found, "intervals"):
            lines = summarise(rows)
            write_json(output / "results.json", {"rows": lines})
        with timed(found, "page"):
            write_overview(survey(load_runs([output])), output)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--questions", type=int, default=5000)
    parser.add_argument("--videos", type=int, default=500)
    parser.add_argument("--budget", type=int, default=32)
    parser.add_argument("--selectors", type=int, default=1)
    parser.add_argument("--profile", action="store_true", help="print where the time goes, and keep nothing")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, output = Path(name), Path(name) / "out"
        make(folder, asked.videos, asked.questions, asked.selectors, asked.budget)
        if asked.profile:
            with cProfile.Profile() as profile:
                evaluated(folder, output)
            pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
            return
        found = evaluated(folder, output)
        stages = {row["stage"]: row["seconds"] for row in read_stages(output)}
        size = (output / "rows.jsonl").stat().st_size / asked.questions / asked.selectors
    apart = {name: stages[name] for name in (*VIDEOS, *MODEL)}
    own = found["whole"] - sum(apart.values())
    each = 1e3 / asked.questions
    keep(
        "evaluating" if asked.selectors == 1 else f"evaluating-{asked.selectors}",
        {
            "settings": {key: value for key, value in vars(asked).items() if key != "profile"},
            "target_ms": TARGET_MS,
            "own_ms_per_question": round(own * each, 3),
            "own_ms_per_answer": round(own * each / asked.selectors, 3),
            "within_target": own * each / asked.selectors <= TARGET_MS,
            "of_which_ms": {name: round(s * each, 3) for name, s in found.items() if name != "whole"},
            "of_which_stages_ms": {name: round(s * each, 3) for name, s in stages.items() if name not in apart},
            "apart_ms": {name: round(s * each, 3) for name, s in apart.items()},
            "bytes_per_row": round(size),
        },
    )


if __name__ == "__main__":
    main()
