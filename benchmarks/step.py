"""Time of one step of reinforcement learning, and where it goes.

One step is what ``refocus train --config haystack`` does 1000 times: 8 videos × 3 questions × groups of 16 subsets. The steps are
the trainer's own; its parts are timed where they are called. Policy and data are as new, the reference model is the bundled one.

    python benchmarks/step.py [--budgets 1 2 4] [--steps 10] [--seed 0]
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from machine import keep
from refocus_video.config import RunConfig, named_config
from refocus_video.data.examples import read_examples
from refocus_video.data.haystack.generate import generate
from refocus_video.pipeline import feature_store
from refocus_video.train import rollout
from refocus_video.train.features import FeatureStore
from refocus_video.train.trainer import Trainer
from refocus_video.types import Example

TARGET_S = 0.5
WARM_UP = 2
VIDEOS = 16
PICK = "pick_frames"


class Clock:
    """Seconds spent in chosen calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its time added to ``label``."""

        def call(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[label] += time.perf_counter() - begun

        return call


def watched(trainer: Trainer) -> Clock:
    """A clock in every part of a trainer's step."""
    clock = Clock()
    for owner, name, label in (
        (trainer, "forward", "index and ask"),
        (rollout, PICK, "pick"),
        (trainer.reference, "score", "score"),
        (trainer.policy, "log_probs", "log_probs and backward"),
        (trainer.accelerator, "backward", "log_probs and backward"),
        (trainer.optimizer, "step", "optimiser"),
    ):
        setattr(owner, name, clock.timed(label, getattr(owner, name)))
    return clock


def measure(store: FeatureStore, examples: list[Example], config: RunConfig, steps: int) -> dict[str, Any]:
    """Median seconds of a step and of its parts, over ``steps`` steps."""
    pick_frames = getattr(rollout, PICK)
    with tempfile.TemporaryDirectory() as output:
        trainer = Trainer(store.policy, store.reference, store, examples, config.train, config.reference, Path(output))
        clock, totals, parts = watched(trainer), [], defaultdict(list)
        for number in range(WARM_UP + steps):
            clock.seconds.clear()
            begun = time.perf_counter()
            trainer.step()
            if number >= WARM_UP:
                totals.append(time.perf_counter() - begun)
                for label, seconds in {**clock.seconds, "rest": totals[-1] - sum(clock.seconds.values())}.items():
                    parts[label].append(seconds)
    setattr(rollout, PICK, pick_frames)
    return {
        "budget": config.train.stages[0].budgets[0],
        "step_s": round(statistics.median(totals), 4),
        "fastest_s": round(min(totals), 4),
        "within_target": statistics.median(totals) <= TARGET_S,
        "parts_s": {label: round(statistics.median(seconds), 4) for label, seconds in parts.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--budgets", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = generate(Path(folder) / "data", {"train": VIDEOS}, seed=given.seed)["train"]
        examples = read_examples(path)
        for budget in given.budgets:
            stages = f"train.stages=[{{until: 1.0, budgets: [{budget}]}}]"
            config = RunConfig.load(named_config("haystack"), (f"train.seed={given.seed}", stages))
            store = feature_store(config, Path(folder))
            store.build(dict.fromkeys(example.video for example in examples))
            rows.append(measure(store, examples, config, given.steps))
    keep("step", {"settings": vars(given), "target_s": TARGET_S, "rows": rows})


if __name__ == "__main__":
    main()
