"""Reinforcement learning of the policy from a frozen reference model's scores (METHOD §5).

One step, from top to bottom of :meth:`Trainer.step`: draw videos and questions, index the videos, ask the questions, pick groups of
subsets, score them, compare inside each group, score the picks again with gradient, take an optimiser step.

Where we differ from the paper:

1. The entropy coefficient can be steered towards a target entropy (docs/experiments.md says when that matters).
2. Advantages can be scaled by a running average of the spread (see ``advantage.py``).
3. With one optimiser step per batch the rollout uses the states of the very pass that carries the gradient: no second prefix.
4. Where all videos of a step do not fit on the device at once, their gradients are accumulated
   (``per_device_train_batch_size``): the rollouts then need a pass without gradient of their own.
5. Groups without spread are counted and masked; the paper does not say what it does.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from refocus_video.config import ReferenceConfig, Stage, TrainConfig
from refocus_video.data.evidence import by_video, evidence_recall, random_recall
from refocus_video.data.examples import fingerprint
from refocus_video.errors import DataError
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.records import Asked, VideoIndex, stacked
from refocus_video.reference.base import ReferenceModel
from refocus_video.train.advantage import group_advantages, group_std, live_groups
from refocus_video.train.curriculum import check_stages, draw_budget, linear, stage_at, steer_entropy_coef
from refocus_video.train.features import FeatureStore
from refocus_video.train.loop import Loop
from refocus_video.train.loss import policy_gradient_loss
from refocus_video.train.monitor import Monitor, distinct_share
from refocus_video.train.rollout import Batch, Rollout, collect, shuffled
from refocus_video.train.schedule import (
    questions_of_video,
    step_rng,
    torch_generator,
    videos_of_step,
)
from refocus_video.types import Example


@dataclass(slots=True)
class Lot:
    """The questions of a step whose gradient is computed at once."""

    batch: Batch
    picks: Tensor
    """(Q, G, K)."""
    advantages: Tensor
    """(Q, G)."""
    live: Tensor
    """(Q,) bool."""
    share: float
    """Of the step's questions in this process."""
    old: Tensor | None = None
    """Log-probs of the picks (Q, G, K) before the step's first update, once they are known."""
    numbers: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """What they add to the loss, the entropy and the share of clipped picks."""


def cut(parts: Sequence[Batch], picks: Tensor, advantages: Tensor, live: Tensor) -> list[Lot]:
    """What belongs to each part of a batch."""
    total, first, lots = len(picks), 0, []
    for part in parts:
        mine = slice(first, first := first + len(part.examples))
        lots.append(Lot(part, picks[mine], advantages[mine], live[mine], share=len(part.examples) / total))
    return lots


class Trainer(Loop):
    """Trains a policy in place."""

    def __init__(
        self,
        policy: FramePolicy,
        reference: ReferenceModel,
        store: FeatureStore,
        examples: Sequence[Example],
        config: TrainConfig,
        scoring: ReferenceConfig,
        output: Path,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Prepare; nothing is run.

        Args:
            policy: its vision tower stays frozen.
            reference: scores the subsets.
            store: built for the videos of ``examples``.
            examples: the training questions.
            config: of the training.
            scoring: how scores become rewards.
            output: folder of checkpoints and metrics.
            accelerator: processes and devices; by default one process where the policy is.

        Raises:
            DataError: if there is nothing to train on, or a stage has no question of its types.
        """
        super().__init__(policy, config, output, accelerator)
        self.reference, self.store, self.config, self.scoring = reference, store, config, scoring
        self.groups = by_video(examples)
        self.entropy_coef = config.entropy_coef
        self.reward_spread: float | None = None
        self.monitor = Monitor()
        self._check(examples)

    def _check(self, examples: Sequence[Example]) -> None:
        with self.autocast():  # one that was asked for and cannot run is refused before the first step
            self.policy.backbone.backend(gradient=True)
        if not examples:
            raise DataError("no training examples are left; check the question file, the videos and the filter")
        types = {example.question_type for example in examples}
        check_stages(self.config.stages, types)

    # ---------------------------------------------------------------- the loop

    def step(self) -> tuple[dict[str, Any], list[str]]:
        """One batch of rollouts and the optimiser steps on it."""
        begun = time.perf_counter()
        config, step = self.config, self.next_step
        rng = step_rng(config.seed, step)  # the same in every process
        stage = stage_at(step / config.max_steps, config.stages)
        budget = draw_budget(stage, rng)
        batch = self.draw_batch(step, stage)
        generator = torch_generator(step_rng(config.seed, step, 1 + self.accelerator.process_index), self.policy.device)

        parts = batch.split(config.per_device_train_batch_size)
        seen = self.forward(batch) if len(parts) == 1 else self.forward_in_parts(batch, parts)
        rollout = collect(
            self.policy,
            *seen,
            self.reference,
            batch,
            budget=budget,
            group_size=config.num_generations,
            temperature=config.temperature,
            scoring=self.scoring,
            generator=generator,
        )
        rewards = rollout.rewards.to(self.policy.device)
        live = live_groups(rewards, config.gate)
        advantages = group_advantages(rewards, self.advantage_scale(rewards, live))

        lots = cut(parts, rollout.picks, advantages, live)
        for iteration in range(config.num_iterations):
            graph = seen if iteration == 0 and len(lots) == 1 else None
            grad_norm = self.update((self.loss(lot, graph) for lot in lots), step)
        loss, entropy, clip_fraction = (sum(lot.numbers[i] for lot in lots) for i in range(3))
        target = self.entropy_target(step, len(seen[0]))
        if target is not None:
            self.steer_entropy(entropy, target)
        self.next_step = step + 1
        numbers = {
            "step": step + 1,
            "budget": budget,
            "loss": loss,
            "entropy": entropy,
            **({} if target is None else {"entropy_target": target}),
            "entropy_coef": self.entropy_coef,
            "clip_fraction": clip_fraction,
            "grad_norm": grad_norm,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **self.rollout_numbers(batch, rollout, live),
            "seconds": time.perf_counter() - begun,
        }
        warnings = self.watch(batch, rollout, numbers, budget)
        return numbers, warnings

    def draw_batch(self, step: int, stage: Stage) -> Batch:
        """The videos and questions of a step that fall to this process."""
        config, rank = self.config, self.accelerator.process_index
        names = [
            name
            for name, group in self.groups.items()
            if not stage.question_types or any(e.question_type in stage.question_types for e in group)
        ]
        chosen = videos_of_step(names, step, config.videos_per_step, config.seed)
        examples: list[Example] = []
        rows: list[int] = []
        mine = list(enumerate(chosen))[rank :: self.accelerator.num_processes]
        for row, (place, name) in enumerate(mine):
            rng = step_rng(config.seed, step, 1000 + place)
            for example in questions_of_video(self.groups[name], config.questions_per_video, stage.question_types, rng):
                examples.append(shuffled(example, rng) if self.scoring.rotation == "shuffle" else example)
                rows.append(row)
        return Batch(tuple(examples), tuple(self.store[name] for _, name in mine), torch.tensor(rows))

    def forward(self, batch: Batch) -> tuple[VideoIndex, Asked]:
        """Index the videos and ask the questions, with gradient."""
        with self.autocast():
            index = self.index(batch)
            return index, self.policy.ask(index, batch.questions, batch.rows)

    @torch.no_grad()
    def forward_in_parts(self, batch: Batch, parts: Sequence[Batch]) -> tuple[VideoIndex, Asked]:
        """The same without gradient, a part of the videos at a time."""
        with self.autocast():
            index = stacked([self.index(part) for part in parts])
            return index, self.policy.ask(index, batch.questions, batch.rows)

    def index(self, batch: Batch) -> VideoIndex:
        """The index of a batch's videos."""
        features, lengths = batch.features()
        return self.policy.index(features, None if int(lengths.min()) == features.shape[1] else lengths)

    def loss(self, lot: "Lot", graph: tuple[VideoIndex, Asked] | None = None) -> Tensor:
        """What a lot adds to the loss of the step; ``graph`` is what :meth:`forward` gave for it, if that was run already."""
        index, asked = graph or self.forward(lot.batch)
        with self.autocast():
            scores = self.policy.log_probs(index, asked, lot.picks, self.config.temperature)
        if lot.old is None:
            lot.old = scores.log_probs.detach()
        result = policy_gradient_loss(
            scores.log_probs,
            lot.old,
            lot.advantages,
            scores.entropy,
            entropy_coef=self.entropy_coef,
            epsilon=self.config.epsilon,
            live=lot.live,
            share=lot.share,
        )
        lot.numbers = float(result.loss.detach()), float(result.entropy), float(result.clip_fraction)
        return result.loss

    # ---------------------------------------------------------------- scales

    def advantage_scale(self, rewards: Tensor, live: Tensor) -> Tensor | float | None:
        """What centred rewards are divided by; None for each group's own spread.

        The running average counts live groups alone: once most questions are solved, the dead ones would pull it to zero and blow
        up the advantages of the others.
        """
        if self.config.scale_rewards != "running":
            return None if self.config.scale_rewards == "group" else 1.0
        sums = torch.stack((group_std(rewards)[live].sum(), live.sum().to(rewards.dtype)))
        total, count = self.accelerator.reduce(sums, reduction="sum").tolist()
        if count:
            spread = total / count
            self.reward_spread = spread if self.reward_spread is None else 0.95 * self.reward_spread + 0.05 * spread
        return self.reward_spread if self.reward_spread is not None else 1.0

    def entropy_target(self, step: int, num_candidates: int) -> float | None:
        """Entropy per pick that this step should have, in nats; None when β is fixed."""
        config = self.config
        if config.entropy_target is None:
            return None
        share = linear(step / config.max_steps, *config.entropy_target, until=config.entropy_target_until)
        return share * float(np.log(num_candidates))

    def steer_entropy(self, entropy: float, target: float) -> None:
        """Move β so that the entropy comes nearer to its target."""
        config = self.config
        low, high = config.entropy_coef_range
        mean = float(self.accelerator.reduce(torch.tensor(entropy, device=self.policy.device), reduction="mean"))
        self.entropy_coef = steer_entropy_coef(
            self.entropy_coef, mean, target, rate=config.entropy_rate, low=low, high=high
        )

    # ---------------------------------------------------------------- what is reported

    def rollout_numbers(self, batch: Batch, rollout: Rollout, live: Tensor) -> dict[str, float]:
        """Averages over the batch; names are explained in docs/metrics.md."""
        correct = rollout.correct.mean(-1)
        numbers = {
            "reward": float(rollout.rewards.mean()),
            "reward_std": float(group_std(rollout.rewards).mean()),
            "frac_reward_zero_std": float((~live).float().mean()),
            "frac_stuck": float((~live & (correct.to(live.device) < 0.5)).float().mean()),
            "distinct_subsets": distinct_share(rollout.picks),
            "accuracy": float(correct.mean()),
            "margin": float(rollout.margins.mean()),
            "probability": float(rollout.probabilities.mean()),
        }
        for kind in sorted({example.question_type for example in batch.examples}):
            of_kind = torch.tensor([example.question_type == kind for example in batch.examples])
            numbers[f"accuracy/{kind or 'untyped'}"] = float(correct[of_kind].mean())
        return numbers

    def watch(self, batch: Batch, rollout: Rollout, numbers: dict[str, Any], budget: int) -> list[str]:
        """Recall of each question against chance, added to ``numbers`` by type; returns new warnings."""
        rows = []
        for row, example, picks in zip(batch.rows.tolist(), batch.examples, rollout.picks, strict=True):
            times = batch.videos[row].times
            recalls = [evidence_recall(example, times[group].tolist()) for group in picks.cpu()]
            known = [r for r in recalls if r is not None]
            recall = sum(known) / len(known) if known else None
            rows.append((example.question_type, recall, random_recall(example, times.tolist(), budget)))
        for kind in sorted({kind for kind, recall, _ in rows if recall is not None}):
            values = [recall for k, recall, _ in rows if k == kind and recall is not None]
            numbers[f"recall/{kind or 'untyped'}"] = sum(values) / len(values)
        return self.monitor.update(
            rows,
            entropy=numbers["entropy"],
            distinct=numbers["distinct_subsets"],
            stuck=numbers["frac_stuck"],
            accuracy=numbers["accuracy"],
        )

    # ---------------------------------------------------------------- saving and resuming

    def state(self) -> dict[str, Any]:
        """Entropy coefficient, scale of the advantages, and what the monitor has seen."""
        return {
            "entropy_coef": self.entropy_coef,
            "reward_spread": self.reward_spread,
            "monitor": vars(self.monitor),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        self.entropy_coef, self.reward_spread = state["entropy_coef"], state["reward_spread"]
        self.monitor = Monitor(**state["monitor"])

    def shared(self) -> dict[str, Any]:
        """The settings, and the examples by their fingerprint."""
        examples = fingerprint(example for group in self.groups.values() for example in group)
        return {
            **self.config.model_dump(mode="json"),
            "reference": self.scoring.model_dump(mode="json"),
            "examples": examples,
        }
