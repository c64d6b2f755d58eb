"""The commands' work, from files to files: filter, train, evaluate. Used by the command line and by the demo.

Every function reads a question file, writes a folder, saves the resolved configuration beside the results, and counts what could
not be used.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from refocus_video.assets import locate
from refocus_video.config import RunConfig
from refocus_video.data.evidence import by_video
from refocus_video.data.examples import read_examples, write_examples
from refocus_video.errors import ConfigError, DataError
from refocus_video.evaluate.metrics import summarise
from refocus_video.evaluate.report import build_filmstrips, write_report
from refocus_video.evaluate.run import Evaluation, evaluate
from refocus_video.files import write_json
from refocus_video.policy.policy import FramePolicy
from refocus_video.selectors.learned import Learned
from refocus_video.selectors.random import Random
from refocus_video.selectors.uniform import Uniform
from refocus_video.train.features import FeatureStore
from refocus_video.train.filtering import measure, summary
from refocus_video.train.setup import load_reference, new_policy
from refocus_video.train.trainer import Trainer
from refocus_video.types import Example

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]
"""(title, total) -> a context whose value advances a progress bar by one."""


def filter_questions(
    questions: Path, output: Path, config: RunConfig, progress: Progress, *, store: FeatureStore | None = None
) -> dict[str, Any]:
    """Measure the reward variance of every question; write ``kept.jsonl``, ``variances.jsonl`` and ``filter.json``."""
    examples = read_examples(questions)
    write_json(output / "config.json", config.model_dump(mode="json"))
    store = store or feature_store(config, output)
    failures = build(store, examples, progress)
    readable = [example for example in examples if example.video not in failures]
    with progress("reward variance", len(by_video(readable))) as advance:
        variances = measure(readable, store, store.reference, config.filter, output / "variances.jsonl", advance)
    kept = [example for example in readable if variances[example.id] > config.filter.threshold]
    write_examples(output / "kept.jsonl", kept)
    numbers = summary(examples, variances, config.filter.threshold, failures) | {"output": str(output / "kept.jsonl")}
    write_json(output / "filter.json", numbers)
    return numbers


def train_policy(
    questions: Path, output: Path, config: RunConfig, progress: Progress, *, store: FeatureStore | None = None
) -> dict[str, Any]:
    """Train a policy; write checkpoints, ``metrics.jsonl``, ``train.json`` and the finished policy in ``output/policy``."""
    examples = read_examples(questions)
    accelerator = _accelerator(output)
    store = store or feature_store(config, output, str(accelerator.device))
    failures = build(store, examples, progress)
    usable = [example for example in examples if example.video not in failures]
    trainer = Trainer(store.policy, store.reference, store, usable, config.train, config.reference, output, accelerator)
    trainer.resume()
    if accelerator.is_main_process:
        write_json(output / "config.json", config.model_dump(mode="json"))
    with progress("training", config.train.max_steps) as advance:
        for _ in range(trainer.next_step):
            advance()

        def on_step(numbers: dict[str, Any], new: list[str]) -> None:
            accelerator.log({k: v for k, v in numbers.items() if k != "step"}, step=numbers["step"])
            advance(note="  ".join([f"K={numbers['budget']} reward {numbers['reward']:.2f}", *new]))

        history = trainer.run(on_step)
    accelerator.end_training()
    if accelerator.is_main_process:
        store.policy.save_pretrained(output / "policy")
    numbers = {
        "policy": str(output / "policy"),
        "examples": len(usable),
        "failures": failures,
        "warnings": list(trainer.monitor.given.values()),
        "last": history[-1],
    }
    write_json(output / "train.json", numbers)
    return numbers


def evaluate_policy(
    questions: Path,
    policy: str,
    output: Path,
    config: RunConfig,
    budgets: tuple[int, ...],
    progress: Progress,
    *,
    history: list[dict[str, Any]] | None = None,
    warnings: list[str] | None = None,
    timings: dict[str, float] | None = None,
    title: str = "Frame selection on held-out videos",
) -> dict[str, Any]:
    """Run selectors and controls; write ``rows.jsonl``, ``results.json`` and ``report.html``."""
    if not budgets or min(budgets) < 1:
        raise ConfigError(f"budgets must be whole numbers of at least 1, found {list(budgets)}")
    examples = read_examples(questions)
    reference = load_reference(config.reference)
    learned = FramePolicy.from_pretrained(locate(policy, "policy"))
    side = learned.config.vision.image_size
    plan = Evaluation(
        selectors=(
            Uniform(),
            Random(config.train.seed),
            Learned(learned),
            Learned(learned, temperature=1.0, seed=config.train.seed, name="policy-sampled"),
        ),
        budgets=budgets,
        image_size=(side, side),
        sampling=config.sampling,
        seed=config.train.seed,
    )
    settings = {"policy": policy, "questions": str(questions), **config.model_dump(mode="json")}
    begun = time.perf_counter()
    with progress("evaluating", len(by_video(examples))) as advance:
        rows = evaluate(examples, reference, plan, output, settings, advance)
    seconds = round(time.perf_counter() - begun, 1)
    reasons = {row["video"]: row["error"] for row in rows if row["error"]}
    results = {
        "rows": summarise(rows),
        "settings": settings,
        "timings": {**(timings or {}), "evaluation": seconds},
        "failures": [
            {"video": video, "reason": reason, "questions": sum(e.video == video for e in examples)}
            for video, reason in reasons.items()
        ],
    }
    write_json(output / "results.json", results)
    write_report(
        output,
        title=title,
        results=results,
        rows=rows,
        history=history or [],
        warnings=warnings or [],
        filmstrips=build_filmstrips(rows),
        settings=settings,
    )
    return results


def feature_store(config: RunConfig, output: Path, device: str = "cpu") -> FeatureStore:
    """Policy and reference model of a configuration, and a store of what they see in ``output/features``."""
    reference = load_reference(config.reference, device)
    return FeatureStore(output / "features", config, new_policy(config).to(torch.device(device)), reference)


def build(store: FeatureStore, examples: list[Example], progress: Progress) -> dict[str, str]:
    """Look at every video once; returns the unreadable ones with their reasons.

    Raises:
        DataError: if none can be read.
    """
    videos = list(by_video(examples))
    with progress("looking at videos", len(videos)) as advance:
        failures = store.build(videos, advance)
    if len(failures) == len(videos):
        first = next(iter(failures.values()))
        raise DataError(f"none of the {len(videos)} videos can be used; the first: {first}")
    return failures


def _accelerator(output: Path) -> Accelerator:
    """Processes and devices as launched; TensorBoard logs where it is installed."""
    from importlib.util import find_spec

    logs = "tensorboard" if find_spec("tensorboard") else None
    accelerator = Accelerator(log_with=logs, project_dir=str(output))
    accelerator.init_trackers("tensorboard")
    return accelerator
