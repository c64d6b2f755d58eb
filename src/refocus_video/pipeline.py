"""The commands' work, from files to files: train and warm start (``filter_run`` and ``evaluation`` have theirs).

Every function reads a question file, writes a folder, saves the resolved configuration beside the results, and counts what could
not be used.
"""

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object

from refocus_video.assets import locate
from refocus_video.config import RunConfig
from refocus_video.data.evidence import by_video
from refocus_video.data.examples import read_examples
from refocus_video.device import resolve
from refocus_video.errors import ConfigError, DataError
from refocus_video.files import write_json
from refocus_video.selectors.relevance import Relevance
from refocus_video.train.curriculum import check_stages
from refocus_video.train.features import FeatureStore, features_folder, policy_viewer
from refocus_video.train.loop import Loop
from refocus_video.train.setup import load_reference, new_policy, usage_of, with_policy
from refocus_video.train.trainer import Trainer
from refocus_video.train.views import ViewStore, look
from refocus_video.train.warmstart import WarmStart, teacher_viewer
from refocus_video.types import Example, Progress

NO_FILE = "no video file at"
"""How the reader begins to say that a video is not there."""


def train_policy(
    questions: Path,
    output: Path,
    config: RunConfig,
    progress: Progress,
    *,
    store: FeatureStore | None = None,
    features: Path | None = None,
) -> dict[str, Any]:
    """Train a policy; write checkpoints, ``metrics.jsonl``, ``train.json`` and the finished policy in ``output/policy``.

    ``store`` brings the models that are loaded already; else ``features`` is where features lie, see :func:`feature_store`.
    """
    examples = read_examples(questions)
    accelerator = new_accelerator(output, config.compute.device)
    check_stages(config.train.stages, {example.question_type for example in examples})
    store = store or feature_store(config, features, accelerator.device)
    largest = max(budget for stage in config.train.stages for budget in stage.budgets)
    failures = build(store.views, examples, progress, accelerator, enough=lambda frames: frames >= largest)
    usable = [example for example in examples if example.video not in failures]
    trainer = Trainer(store.policy, store.reference, store, usable, config.train, config.reference, output, accelerator)
    trainer.run_settings = lasting(with_policy(config, store.policy))
    trainer.resume()
    if accelerator.is_main_process:
        write_json(output / "config.json", with_policy(config, store.policy).model_dump(mode="json"))
    history = _run(
        trainer, "training", progress, lambda numbers: f"K={numbers['budget']} reward {numbers['reward']:.2f}"
    )
    numbers = {
        "policy": str(output / "policy"),
        "asked": len(examples),
        "examples": len(usable),
        "failures": failures,
        "warnings": list(trainer.monitor.given.values()),
        "usage": usage_of(store.reference),
        "last": history[-1],
    }
    if accelerator.is_main_process:
        store.policy.save_pretrained(output / "policy")
        write_json(output / "train.json", numbers)
    return numbers


def warm_start(
    questions: Path, output: Path, config: RunConfig, progress: Progress, *, features: Path | None = None
) -> dict[str, Any]:
    """Teach a policy the picks of an image–text model; write checkpoints, ``metrics.jsonl``, ``warm_start.json`` and the policy.

    ``features`` is the folder where features lie; None for the one that all runs share.
    """
    examples = read_examples(questions)
    accelerator = new_accelerator(output, config.compute.device)
    source = locate(config.warm.teacher or config.start.tower, "relevance")
    teacher = Relevance.from_pretrained(source, device=accelerator.device)
    policy = new_policy(config).to(accelerator.device)
    folder = features or features_folder()
    seen = ViewStore(folder, config.sampling, policy_viewer(policy))
    liked = ViewStore(folder, config.sampling, teacher_viewer(teacher, seen.viewer.image_size))
    failures = build((seen, liked), examples, progress, accelerator, enough=lambda frames: frames >= config.warm.budget)
    usable = [example for example in examples if example.video not in failures]
    trainer = WarmStart(policy, teacher, seen, liked, usable, config.warm, output, accelerator)
    trainer.run_settings = lasting(with_policy(config, policy))
    trainer.resume()
    if accelerator.is_main_process:
        write_json(output / "config.json", with_policy(config, policy).model_dump(mode="json"))
    history = _run(trainer, "warm start", progress, lambda numbers: f"divergence {numbers['loss']:.2f}")
    numbers = {
        "policy": str(output / "policy"),
        "asked": len(examples),
        "examples": len(usable),
        "failures": failures,
        "cut_questions": len(teacher.cut),
        "held_out_videos": len(trainer.held_out),
        "before": trainer.before,
        "after": trainer.agreement(),
        "last": history[-1],
    }
    if accelerator.is_main_process:
        policy.save_pretrained(output / "policy")
        write_json(output / "warm_start.json", numbers)
    return numbers


def lasting(config: RunConfig) -> dict[str, Any]:
    """What a resumed training must have in common with the one it goes on from, besides its own section.

    Not where and how it computes, nor the sections of other commands; the seed of a fresh policy is that of its training.
    """
    return config.model_dump(mode="json", include={"sampling", "policy", "start"})


def _run(trainer: Loop, title: str, progress: Progress, note: Callable[[dict[str, Any]], str]) -> list[dict[str, Any]]:
    """Run a training to its end, with a bar and the trackers of its accelerator."""
    accelerator = trainer.accelerator
    accelerator.init_trackers("tensorboard")
    with progress(title, trainer.settings.max_steps) as advance:
        for _ in range(trainer.next_step):
            advance()

        def on_step(numbers: dict[str, Any], new: list[str]) -> None:
            accelerator.log({k: v for k, v in numbers.items() if k != "step"}, step=numbers["step"])
            advance(note="  ".join([note(numbers), *new]))

        history = trainer.run(on_step)
    accelerator.end_training()
    return history


def feature_store(config: RunConfig, folder: Path | None = None, device: torch.device | None = None) -> FeatureStore:
    """Policy and reference model of a configuration, on the device that it asks for or a given one, and a store of what they see.

    It lies in ``folder``, or where all runs share it: what one command has looked at, no other looks at again.
    """
    device = device or resolve(config.compute.device)
    reference = load_reference(config.reference, str(device))
    policy = new_policy(config).to(device)
    return FeatureStore(folder or features_folder(), config, policy, reference)


def build(
    views: Sequence[ViewStore],
    examples: list[Example],
    progress: Progress,
    accelerator: Accelerator | None = None,
    *,
    enough: Callable[[int], bool] = lambda frames: True,
) -> dict[str, str]:
    """Look at every video once with every model, each process at its share; returns those that cannot be used, with reasons.

    ``enough`` says whether a number of candidate frames will do for the budgets to come: a video that is too short is told before
    the work begins, not in the middle of it.

    Raises:
        DataError: if none can be read.
    """
    videos = list(by_video(examples))
    rank, processes = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    mine = videos[rank::processes]
    with progress("looking at videos", len(mine)) as advance:
        failures = look(views, mine, advance, enough)
    if processes > 1:
        failures = dict(gather_object(list(failures.items())))
    if len(failures) == len(videos):
        raise none_usable(failures)
    return {video: failures[video] for video in videos if video in failures}


def none_usable(failures: dict[str, str]) -> DataError:
    """The error of a run that is left with no video at all."""
    first = next(iter(failures.values()))
    beside = "; a relative path in a question file counts from that file's folder" if first.startswith(NO_FILE) else ""
    return DataError(f"none of the {len(failures)} videos can be used; the first: {first}{beside}")


def new_accelerator(output: Path, device: str = "auto", *, patience: timedelta | None = None) -> Accelerator:
    """Processes as launched, each on its device; TensorBoard logs where it is installed.

    Args:
        output: the folder of the run.
        device: as :func:`refocus_video.device.resolve` reads it.
        patience: how long a process waits for the others; the library's own limit if left out.

    Raises:
        ConfigError: if the device is not there or not what the launcher gives, or if the launcher started several processes that
            do not find each other.
    """
    from importlib.util import find_spec

    logs = "tensorboard" if find_spec("tensorboard") else None
    waiting = [InitProcessGroupKwargs(timeout=patience)] if patience is not None else []
    wanted = resolve(device)
    # Without a GPU, accelerate takes no notice of torchrun unless it is told that the processor is meant.
    accelerator = Accelerator(
        cpu=wanted.type == "cpu",
        log_with=logs,
        project_dir=str(output),
        kwargs_handlers=waiting,
    )
    given = accelerator.device
    if given.type != wanted.type or wanted.index not in (None, given.index):
        raise ConfigError(
            f"asked for device {device!r}, but the launcher gives {given}; leave the number out and choose GPUs with "
            "CUDA_VISIBLE_DEVICES"
        )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise ConfigError(
            f"{launched} processes were launched, but accelerate joins {accelerator.num_processes}; start them with torchrun"
        )
    return accelerator
