"""``refocus demo``: the whole job from nothing, at a size that two CPU cores carry in minutes.

The path is the one of the commands ``haystack generate``, ``filter``, ``train`` and ``eval`` with ``configs/haystack.yaml``; the
reference model is the tiny one that comes with the package.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from refocus_video.config import RunConfig, named_config
from refocus_video.data.examples import read_examples
from refocus_video.data.haystack.generate import generate
from refocus_video.evaluation import Comparison, Story, default_selectors, run_comparison
from refocus_video.filter_run import filter_questions
from refocus_video.pipeline import build, feature_store, train_policy
from refocus_video.train.snapshot import read_history
from refocus_video.types import Progress

SIZES = {"train": 500, "test": 120}
BUDGETS = (1, 2, 4, 8)
MAIN_BUDGET = 2
"""Where even a perfect detector of "something happens" is far from enough: 2 frames for 8 to 10 events."""


def demo_config(seed: int, overrides: tuple[str, ...] = ()) -> RunConfig:
    """The settings of the demo: ``configs/haystack.yaml`` with a seed."""
    return RunConfig.load(named_config("haystack"), (f"train.seed={seed}", f"filter.seed={seed}", *overrides))


def run_demo(output: Path, seed: int, overrides: tuple[str, ...], progress: Progress) -> dict[str, Any]:
    """Make videos, filter questions, train a policy from reward alone, evaluate it; returns what ``results.json`` holds.

    Running it again in the same folder repeats nothing that is finished.
    """
    torch.set_num_threads(1)  # tiny matrices: a second thread only waits for the first
    config = demo_config(seed, overrides)
    timings: dict[str, float] = {}
    with timed(timings, "videos"), progress("writing videos", sum(SIZES.values())) as advance:
        paths = generate(output / "data", SIZES, seed=seed, progress=advance)
    with timed(timings, "looking"):
        store = feature_store(config, output / "features")
        build(store.views, read_examples(paths["train"]), progress)
    with timed(timings, "filter"):
        filter_questions(paths["train"], output / "filter", config, progress, store=store)
    with timed(timings, "training"):
        trained = train_policy(output / "filter" / "kept.jsonl", output / "train", config, progress, store=store)
    comparison = Comparison(default_selectors(trained["policy"], config.train.seed), (config.reference,), BUDGETS)
    story = Story(
        title="refocus demo",
        history=read_history(output / "train"),
        warnings=trained["warnings"],
        timings=timings,
        main_budget=MAIN_BUDGET,
    )
    return run_comparison([paths["test"]], comparison, output, config, progress, story)["test"]


@contextmanager
def timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    """Note how many seconds a stage takes."""
    begun = time.perf_counter()
    yield
    timings[stage] = round(time.perf_counter() - begun, 1)
