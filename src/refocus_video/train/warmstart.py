"""Similarity warm start: before any reward, the policy learns to pick what an image–text model finds similar to the question.

One step: draw videos and questions, let the teacher pick subsets, and draw the policy's distribution at every pick of them to the
teacher's (distillation.py). Neither the answer nor a reference model is needed. The paper has no such step; a peer reports
that it is worth more than what reinforcement adds (RL-FrameSel, CVPR 2026).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from refocus_video.config import WarmStartConfig
from refocus_video.data.evidence import by_video
from refocus_video.data.examples import fingerprint
from refocus_video.errors import DataError
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.records import Asked, VideoIndex
from refocus_video.selectors.relevance import BATCH, Relevance
from refocus_video.train.distillation import distillation_loss, draw_subsets, spearman, teacher_logits, top_overlap
from refocus_video.train.loop import Loop, OnStep
from refocus_video.train.schedule import questions_of_video, step_rng, torch_generator, videos_of_step
from refocus_video.train.views import Viewer, ViewStore
from refocus_video.types import ByteArray, Example


@dataclass(frozen=True, slots=True)
class Lesson:
    """Questions, their videos as the policy has indexed them, and what the teacher thinks."""

    index: VideoIndex
    asked: Asked
    logits: Tensor
    """Of the teacher, (Q, F), −∞ where a video has fewer frames."""


class WarmStart(Loop):
    """Distils an image–text model into a policy."""

    def __init__(
        self,
        policy: FramePolicy,
        teacher: Relevance,
        seen: ViewStore,
        liked: ViewStore,
        examples: Sequence[Example],
        config: WarmStartConfig,
        output: Path,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Prepare; nothing is run.

        Args:
            policy: its vision tower stays frozen.
            teacher: reads the questions.
            seen: the policy's view of the videos of ``examples``.
            liked: the teacher's, from :func:`teacher_viewer`.
            examples: the questions; their answers are not looked at.
            config: of the warm start.
            output: folder of checkpoints and metrics.
            accelerator: processes and devices; by default one process where the policy is.

        Raises:
            DataError: if there is no question.
        """
        super().__init__(policy, config, output, accelerator)
        if not examples:
            raise DataError("no questions are left; check the question file and the videos")
        self.teacher, self.seen, self.liked, self.config = teacher, seen, liked, config
        self.groups = by_video(examples)
        self.held_out, self.practised = held_out_videos(list(self.groups), config.held_out, config.seed)
        self.before: dict[str, float] = {}
        """The agreement before the first step, once there was one."""

    def run(self, on_step: OnStep = lambda *_: None) -> list[dict[str, Any]]:
        """Measure the agreement before the first step, and train."""
        self.before = self.before or self.agreement()
        return super().run(on_step)

    def step(self) -> tuple[dict[str, Any], list[str]]:
        """One batch of questions and the optimiser step on it."""
        config, step, rank = self.config, self.next_step, self.accelerator.process_index
        chosen = videos_of_step(self.practised, step, config.videos_per_step, config.seed)
        mine = list(enumerate(chosen))[rank :: self.accelerator.num_processes]
        examples = [
            questions_of_video(
                self.groups[name], config.questions_per_video, {}, step_rng(config.seed, step, 1000 + place)
            )
            for place, name in mine
        ]
        lesson = self.lesson([name for _, name in mine], examples)
        generator = torch_generator(step_rng(config.seed, step, 1 + rank), self.policy.device)
        picks = draw_subsets(lesson.logits, config.budget, config.num_generations, generator)
        with self.autocast():
            log_probs = self.policy.log_distributions(lesson.index, lesson.asked, picks)
        loss = distillation_loss(log_probs, lesson.logits, picks)
        grad_norm = self.update([loss], step)
        self.next_step = step + 1
        numbers = {
            "step": step + 1,
            "loss": float(loss.detach()),
            "top_overlap": float(top_overlap(log_probs[:, 0, 0].detach(), lesson.logits, config.budget).mean()),
            "grad_norm": grad_norm,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        return numbers, []

    def lesson(self, videos: Sequence[str], examples: Sequence[Sequence[Example]]) -> Lesson:
        """Index videos and ask their questions, with gradient; and the teacher's logits for them."""
        parts = [self.seen.read(video)[0].float() for video in videos]
        lengths = torch.tensor([len(part) for part in parts])
        features = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
        questions = [example.question for group in examples for example in group]
        rows = torch.tensor([row for row, group in enumerate(examples) for _ in group])
        texts = torch.from_numpy(np.stack([self.teacher.embed_text(question.text) for question in questions]))  # (Q, E)
        logits = texts.new_full((len(questions), features.shape[1]), -torch.inf)
        for row, video in enumerate(videos):
            images = self.liked.read(video)[0].float()
            logits[rows == row, : len(images)] = teacher_logits(images, texts[rows == row], self.config.temperature)
        with self.autocast():
            index = self.policy.index(features, None if int(lengths.min()) == features.shape[1] else lengths)
            asked = self.policy.ask(index, questions, rows)
        return Lesson(index, asked, logits.to(self.policy.device))

    @torch.no_grad()
    def agreement(self) -> dict[str, float]:
        """How far the first pick's distribution agrees with the teacher's on held-out videos, mean over their questions.

        The rank correlation over all frames, the share of the teacher's ``budget`` best frames among the policy's, and the
        divergence in nats. Where no video is held out, on all.
        """
        budget, rows = self.config.budget, []
        for video in self.held_out or self.practised:
            lesson = self.lesson([video], [self.groups[video]])
            first = torch.zeros(len(lesson.logits), 1, 1, dtype=torch.long, device=lesson.logits.device)
            log_probs = self.policy.log_distributions(
                lesson.index, lesson.asked, first
            )  # one pick: which one does not matter
            scores = log_probs[:, 0, 0]
            for i in range(len(scores)):
                rows.append(
                    {
                        "spearman": float(spearman(scores[i : i + 1], lesson.logits[i : i + 1])),
                        "top_overlap": float(top_overlap(scores[i : i + 1], lesson.logits[i : i + 1], budget)),
                        "divergence": float(
                            distillation_loss(log_probs[i : i + 1], lesson.logits[i : i + 1], first[:1])
                        ),
                    }
                )
        return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}

    def state(self) -> dict[str, Any]:
        """The agreement before the first step."""
        return {"before": self.before}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        self.before = state["before"]

    def shared(self) -> dict[str, Any]:
        """The settings, the examples by their fingerprint, and the teacher by its view."""
        examples = fingerprint(example for group in self.groups.values() for example in group)
        return {**self.config.model_dump(mode="json"), "examples": examples, "teacher_view": self.liked.viewer.key}


def teacher_viewer(teacher: Relevance, image_size: tuple[int, int]) -> Viewer:
    """What an image–text model keeps of frames: one direction each. It is shown the policy's own, so that none is decoded twice."""

    def encode(frames: ByteArray) -> Tensor:
        groups = (frames[first : first + BATCH] for first in range(0, len(frames), BATCH))
        return torch.from_numpy(np.concatenate([teacher.embed_frames(group) for group in groups]))

    return Viewer(image_size, json.dumps(["teacher", teacher.identity]), encode)


def held_out_videos(videos: Sequence[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """Videos to measure on and videos to train on, a share of them drawn at random; the latter are never none."""
    count = min(round(share * len(videos)), len(videos) - 1)
    order = np.random.default_rng([seed, 3]).permutation(len(videos))
    held = {videos[i] for i in order[:count]}
    return [video for video in videos if video in held], [video for video in videos if video not in held]
