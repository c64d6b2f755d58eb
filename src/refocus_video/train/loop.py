"""What every training of a policy shares: the loop, its checkpoints, the optimiser, and how an interrupted run goes on."""

import signal
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from refocus_video.config import LoopConfig
from refocus_video.errors import ConfigError, RefocusWarning
from refocus_video.files import write_jsonl
from refocus_video.policy.policy import FramePolicy
from refocus_video.train.schedule import learning_rate_factor
from refocus_video.train.snapshot import (
    METRICS,
    load_snapshot,
    newest_whole,
    read_history,
    read_state,
    save_snapshot,
)

OnStep = Callable[[dict[str, Any], list[str]], None]
"""Called after every step with its numbers and the warnings that are new."""


FREE = frozenset({"save_steps"})
"""Settings that a resumed run may have otherwise."""


class Loop(ABC):
    """Trains a policy in place, step by step; a subclass says what a step is."""

    def __init__(
        self, policy: FramePolicy, settings: LoopConfig, output: Path, accelerator: Accelerator | None = None
    ) -> None:
        """Prepare; nothing is run.

        Args:
            policy: its vision tower stays frozen.
            settings: of the loop.
            output: folder of checkpoints and metrics.
            accelerator: processes and devices; by default one process where the policy is.

        Raises:
            ConfigError: if the videos of a step cannot be shared evenly among the processes.
        """
        self.accelerator = accelerator or Accelerator(cpu=policy.device.type == "cpu")
        self.policy = policy.to(self.accelerator.device)
        self.settings, self.output = settings, output
        self.trained = [p for n, p in policy.named_parameters() if not n.startswith("vision.tower")]
        groups = _decay_groups(policy, settings.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95))
        self.next_step = 0
        self.history: list[dict[str, Any]] = []
        self.run_settings: dict[str, Any] = {}
        """What else of the configuration a resumed run must have in common, as JSON holds it."""
        if settings.videos_per_step % self.accelerator.num_processes:
            raise ConfigError(
                f"videos_per_step {settings.videos_per_step} must be a multiple of the "
                f"{self.accelerator.num_processes} processes"
            )

    @abstractmethod
    def step(self) -> tuple[dict[str, Any], list[str]]:
        """One step; returns its numbers and the warnings that are new."""

    @abstractmethod
    def shared(self) -> dict[str, Any]:
        """Everything that a resumed run must have in common with the one it goes on from."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps besides weights and optimiser."""
        return {}

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` gave."""

    def run(self, on_step: OnStep = lambda *_: None) -> list[dict[str, Any]]:
        """Train from where the state is to ``max_steps``; returns the numbers of every step.

        Ctrl-C ends the run after the step in progress, with a checkpoint; running again goes on from there.
        """
        stop, stopping = _StopRequest(), False
        try:
            while self.next_step < self.settings.max_steps and not (stopping := self._agreed(bool(stop))):
                numbers, warnings = self.step()
                self.history.append(numbers)
                on_step(numbers, warnings)
                if self.next_step % self.settings.save_steps == 0:
                    self.save()
        finally:
            stop.restore()
        self.save()
        if stopping:
            raise KeyboardInterrupt
        return self.history

    def _agreed(self, stop: bool) -> bool:
        """Whether any process was asked to stop: all leave the loop after the same step, or the others would wait for ever."""
        if self.accelerator.num_processes == 1:
            return stop
        asked = torch.tensor(float(stop), device=self.policy.device)
        return bool(self.accelerator.reduce(asked, reduction="sum") > 0)

    def autocast(self) -> AbstractContextManager[object]:
        """Where forward passes run: in bfloat16 products, if the settings say so."""
        return torch.autocast(self.policy.device.type, torch.bfloat16) if self.settings.bf16 else nullcontext()

    def update(self, losses: Iterable[Tensor], step: int) -> float:
        """Backward passes, gradients averaged over processes, one optimiser step; returns the gradient's norm before clipping.

        The losses are parts of a sum. Each is asked for after the backward pass of the one before: one graph is alive at a time.
        """
        settings = self.settings
        factor = learning_rate_factor(step, settings.max_steps, settings.warmup_steps, settings.decay_from)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        for loss in losses:
            if not torch.isfinite(loss):
                raise ConfigError(f"the loss became {loss.item()} at step {step + 1}; lower learning_rate")
            self.accelerator.backward(loss)
        if self.accelerator.num_processes > 1:
            for parameter in self.trained:
                parameter.grad = self.accelerator.reduce(
                    parameter.grad if parameter.grad is not None else torch.zeros_like(parameter), reduction="mean"
                )
        norm = torch.nn.utils.clip_grad_norm_(self.trained, settings.max_grad_norm)
        if not torch.isfinite(norm):
            raise ConfigError(f"the gradient became {norm.item()} at step {step + 1}; lower learning_rate")
        self.optimizer.step()
        return float(norm)

    # ---------------------------------------------------------------- saving and resuming

    def save(self) -> None:
        """Write a checkpoint and the metrics so far; only the main process writes."""
        if not self.accelerator.is_main_process:
            return
        state = {**self.state(), "config": self.shared(), "run": self.run_settings}
        save_snapshot(self.output, self.next_step, self.policy, self.optimizer, state, self.history)
        write_jsonl(self.output / METRICS, self.history)

    def resume(self) -> bool:
        """Go on from the newest whole checkpoint in the output folder; False if there is none.

        A newer one that is damaged is named by a warning. ``save_steps`` may differ, and ``max_steps`` may be more.

        Raises:
            ConfigError: if that run had other settings.
            CheckpointError: if no checkpoint is whole.
        """
        snapshot, problems = newest_whole(self.output)
        if snapshot is None:
            return False
        state = read_state(snapshot)
        found, asked = _flat(state["config"]) | _flat(state["run"]), _flat(self.shared()) | _flat(self.run_settings)
        longer = found.get("max_steps", 0) < asked["max_steps"]
        free = FREE | ({"max_steps"} if longer else set())
        different = sorted(key for key in asked.keys() | found.keys() if found.get(key) != asked.get(key))
        if different := [key for key in different if key not in free]:
            raise ConfigError(
                f"{self.output} holds a run with other settings ({', '.join(different)}); use another --output or the same settings"
            )
        for problem in problems if self.accelerator.is_main_process else []:
            warnings.warn(f"{problem}; going on from {snapshot.name}", RefocusWarning, stacklevel=2)
        if longer and self.accelerator.is_main_process:
            warnings.warn(
                f"max_steps was {found['max_steps']} and is {asked['max_steps']}: from step {state['step'] + 1} the learning "
                "rate and all that goes by the share of steps done are those of the longer run",
                RefocusWarning,
                stacklevel=2,
            )
        load_snapshot(snapshot, self.policy, self.optimizer)
        self.next_step = state["step"]
        self.restore(state)
        self.history = read_history(snapshot)
        return True


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


class _StopRequest:
    """Turns the first Ctrl-C (or SIGTERM) into a flag that is read between steps; a second one interrupts at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self.restore()

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self.asked


def _decay_groups(policy: FramePolicy, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices only: never for norms, biases, or the recurrence's A, D and dt."""
    named = [(n, p) for n, p in policy.named_parameters() if not n.startswith("vision.tower")]
    matrices = [p for n, p in named if p.ndim >= 2]
    others = [p for n, p in named if p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
