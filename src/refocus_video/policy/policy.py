"""The selection policy: index a video once, ask it questions, score picks (METHOD §3).

::

    features = policy.encode(frames)                    frozen tower, no gradient
    index    = policy.index(features[None])             keys, values and state of the video: once per video
    asked    = policy.ask(index, [question], rows)      a few tokens per question
    picks    = pick_frames(policy, index, asked, ...)   pick.py, no gradient
    scores   = policy.log_probs(index, asked, picks)    teacher forced, with gradient

Where we differ from the released code:

1. Frames come before the question and the backbone is causal, so keys, values and state depend on the video alone: they
   are computed once per video and shared by all its questions. The released code recomputes them for every question.
2. A group of subsets shares the question's state (ssd.py); nothing is copied per subset.
3. Sampling and scoring use the same masked logits (:meth:`FramePolicy.pick_logits`). Log-probs of the loss come from
   :meth:`FramePolicy.log_probs` alone.
4. ``<|startofframe|>`` is a parameter of its own instead of a row of the token embedding.

Legend: B videos, Q questions, G subsets per question (group), F candidate frames, K picks, P tokens per frame,
L tokens, C feature channels, D width, N any number of queries per question.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from refocus_video.config import PolicyConfig
from refocus_video.policy.checkpoint import load_folder, load_weights, save_folder
from refocus_video.policy.mamba2 import Backbone, Block, Branches, State
from refocus_video.policy.prompt import Tokenizer, question_text, token_ids
from refocus_video.policy.vision import Vision
from refocus_video.types import Question

TOKENS_PER_SEGMENT = 4096
"""Most tokens of a video that are run at once when the caller states no segment; memory grows with it."""


@dataclass(frozen=True, slots=True)
class VideoIndex:
    """All that the policy keeps of B videos; no question has been asked yet."""

    keys: Tensor
    """What queries are compared with, (B, F, D)."""
    values: Tensor
    """What is fed back once a frame is picked, (B, F, D)."""
    valid: Tensor
    """Which candidates exist, (B, F) bool: videos with fewer frames are padded on the right."""
    state: State
    """Of the backbone after the last frame, B rows."""

    def detach(self) -> "VideoIndex":
        """The same numbers without their gradient history."""
        return VideoIndex(self.keys.detach(), self.values.detach(), self.valid, self.state.detach())


@dataclass(frozen=True, slots=True)
class Asked:
    """Q questions put to indexed videos."""

    state: State
    """Of the backbone after the question, Q rows."""
    rows: Tensor
    """Which video of the index each question is about, (Q,) int64."""


@dataclass(frozen=True, slots=True)
class PickScores:
    """What the policy thinks of given picks."""

    log_probs: Tensor
    """Of each pick given the ones before it, (Q, G, K) float32; the sum over K is that of the subset."""
    entropy: Tensor
    """Of the distribution over the remaining frames at each pick, (Q, G, K) in nats."""


class FramePolicy(nn.Module):
    """π: the distribution over which frames to show for a question."""

    def __init__(self, config: PolicyConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.vision = Vision(config)
        self.backbone = Backbone(config)
        width = config.d_model
        self.key_head = nn.Linear(width, width, bias=False)
        self.query_head = nn.Linear(width, width, bias=False)
        self.value_head = nn.Linear(width, width)
        self.logit_scale = nn.Parameter(torch.empty(()))
        self.start_of_frame = nn.Parameter(torch.empty(width))
        self.reset_heads()

    @torch.no_grad()
    def reset_heads(self) -> None:
        """Initialise what is learned by reinforcement alone: nearly uniform picks at first."""
        for head in (self.key_head, self.query_head, self.value_head):
            nn.init.orthogonal_(head.weight, gain=0.1)
        nn.init.zeros_(self.value_head.bias)
        nn.init.normal_(self.start_of_frame, std=0.02)
        nn.init.constant_(self.logit_scale, math.log(math.e - 1))  # softplus gives 1

    @torch.no_grad()
    def restart(self) -> None:
        """Prepare a pretrained backbone for reinforcement learning: new heads, last layer and final norm."""
        self.reset_heads()
        fresh = Block(self.config).to(self.device)
        self.backbone.layers[-1].load_state_dict(fresh.state_dict())
        nn.init.ones_(self.backbone.norm_f.weight)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.logit_scale.device

    @torch.no_grad()
    def encode(self, frames: npt.NDArray[np.uint8] | Tensor, batch_size: int = 32) -> Tensor:
        """Visual features of frames, which can be kept and indexed any number of times.

        Args:
            frames: (F, H, W, 3) uint8 RGB at the tower's own size, else a VideoError.
            batch_size: frames that go through the tower at once.

        Returns:
            (F, P, C) in the weights' type, on the policy's device.
        """
        pictures = torch.as_tensor(frames)
        parts = [self.vision(part.to(self.device)) for part in torch.split(pictures, batch_size)]
        return torch.cat(parts)

    def index(self, features: Tensor, num_frames: Tensor | None = None, segment: int | None = None) -> VideoIndex:
        """Run the backbone over videos, segment by segment with a carried state; differentiable.

        With gradient and more than one segment, each segment is recomputed in the backward pass.

        Args:
            features: (B, F, P, C) from :meth:`encode`, padded on the right where a video has fewer frames.
            num_frames: real frames of each video, (B,) int64; None when all have F.
            segment: frames that are run at once; memory grows with it, the result does not depend on it.
        """
        videos, frames, tokens = features.shape[:3]
        segment = segment or max(1, TOKENS_PER_SEGMENT // tokens)
        features = features.to(self.device, self.start_of_frame.dtype)
        if num_frames is not None:
            num_frames = num_frames.to(self.device)
        state = self._prefix_state().expand(videos)
        tails = []
        for start in range(0, frames, segment):
            part = features[:, start : start + segment]  # (B, S, P, C)
            lengths = None if num_frames is None else (num_frames - start).clamp(0, part.shape[1]) * tokens
            if frames > segment and torch.is_grad_enabled():
                tail, state = checkpoint(self._run_frames, part, state, lengths, use_reentrant=False)
            else:
                tail, state = self._run_frames(part, state, lengths)
            tails.append(tail)
        hidden = torch.cat(tails, 1)  # (B, F, D)
        real = frames if num_frames is None else num_frames[:, None]
        valid = (torch.arange(frames, device=self.device) < real).expand(videos, frames)
        return VideoIndex(self.key_head(hidden), self.value_head(hidden), valid, state)

    def ask(self, index: VideoIndex, questions: Sequence[Question], rows: Tensor) -> Asked:
        """Put questions to indexed videos; several questions may share a video.

        Args:
            index: of the videos.
            questions: Q questions.
            rows: the video of each question, (Q,) int64.
        """
        assert len(questions) == len(rows), "one row per question"
        rows = rows.to(self.device)
        config = self.config
        texts = [question_text(q, config.prompt_suffix, config.options_in_prompt) for q in questions]
        tokens = [self._tokens(text) for text in texts]
        counts = [len(ids) for ids in tokens]
        longest = max(counts)
        padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids in tokens], device=self.device)  # (Q, L)
        lengths = torch.tensor(counts, device=self.device) if min(counts) < longest else None
        _, state = self.backbone(self.backbone.embedding(padded), index.state.select(rows), lengths)
        return Asked(state, rows)

    def queries(self, asked: Asked, inputs: Tensor, past: Branches | None = None) -> tuple[Tensor, Branches]:
        """Continue the branches of each question: embeddings (Q, G, L, D) -> queries (Q, G, L, D) and their memory."""
        hidden, past = self.backbone.branch(inputs, asked.state, past)
        return self.query_head(hidden), past

    def pick_logits(
        self, queries: Tensor, keys: Tensor, taken: Tensor, valid: Tensor, temperature: float = 1.0
    ) -> Tensor:
        """Logits over the candidates in float32, −∞ where a frame is taken or does not exist.

        Args:
            queries: (Q, N, D).
            keys: of each question's video, (Q, F, D).
            taken: frames picked before, (Q, N, F) bool.
            valid: frames that exist, (Q, F) bool.
            temperature: above 1 flattens the distribution.

        Returns:
            (Q, N, F).
        """
        wide = torch.promote_types(queries.dtype, torch.float32)
        scale = F.softplus(self.logit_scale.to(wide)) / temperature
        if self.config.attention_scaling:
            scale = scale / math.sqrt(queries.shape[-1])
        logits = (queries.to(wide) * scale) @ keys.to(wide).mT  # (Q, N, F)
        return logits.masked_fill(taken | ~valid[:, None], -torch.inf)

    def log_probs(self, index: VideoIndex, asked: Asked, picks: Tensor, temperature: float = 1.0) -> PickScores:
        """Log-probs of given picks in one parallel, teacher-forced pass, with gradient.

        Args:
            index: of the videos.
            asked: the questions.
            picks: candidate positions in picking order, (Q, G, K) int64. A repeated pick has log-prob −∞.
            temperature: the one that the picks were sampled at.
        """
        questions, group, budget = picks.shape
        num_frames = index.keys.shape[1]
        values = index.values.flatten(0, 1)  # (B·F, D)
        earlier = asked.rows[:, None, None] * num_frames + picks[..., :-1]  # (Q, G, K-1)
        fed = values.index_select(0, earlier.flatten()).view(questions, group, budget - 1, values.shape[-1])
        start = self.start_of_frame.expand(questions, group, 1, -1)
        queries, _ = self.queries(asked, torch.cat([start, fed], 2))  # (Q, G, K, D)

        taken = picked_before(picks, num_frames)  # (Q, G, K, F)
        keys, valid = index.keys.index_select(0, asked.rows), index.valid.index_select(0, asked.rows)
        logits = self.pick_logits(queries.flatten(1, 2), keys, taken.flatten(1, 2), valid, temperature)
        log_p = logits.log_softmax(-1).view(questions, group, budget, num_frames)  # (Q, G, K, F)
        chosen = log_p.gather(-1, picks[..., None]).squeeze(-1)  # (Q, G, K)
        # A masked frame has probability 0 and contributes nothing; 0 · −∞ would be NaN.
        entropy = -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0)).sum(-1)
        return PickScores(chosen, entropy)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, model.safetensors and the tokenizer's files."""
        save_folder(Path(folder), self.config, self.state_dict(), self.tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        tokenizer: Tokenizer | None = None,
    ) -> Self:
        """Load a policy from a local folder or from the Hugging Face Hub, in our format or the released one.

        Args:
            name: a folder, or a hub id such as ``owner/name``.
            device: where the weights go.
            dtype: of the weights.
            tokenizer: used instead of the one in the folder.

        Raises:
            CheckpointError: when files are missing or weights do not fit.
        """
        config, weights, tokenizer = load_folder(name, tokenizer)
        with torch.device("meta"):  # spends nothing on random weights that are replaced at once
            policy = cls(config, tokenizer)
        load_weights(policy, weights, str(name))
        policy.vision.number_positions()
        return policy.to(device, dtype).eval()

    def _tokens(self, text: str) -> list[int]:
        return token_ids(self.tokenizer, text, self.config.vocab_size)

    def _prefix_state(self) -> State:
        """The state after the prompt's prefix, one row."""
        state = self.backbone.initial_state(1)
        ids = self._tokens(self.config.prompt_prefix)
        if ids:
            prefix = torch.tensor([ids], device=self.device)
            _, state = self.backbone(self.backbone.embedding(prefix), state)
        return state

    def _run_frames(self, features: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """Hidden states of the frames' last tokens (B, S, D), and the state after a segment of S frames."""
        tokens = features.shape[2]
        embedded = self.vision.projector(features.flatten(1, 2))  # (B, S·P, D)
        hidden, state = self.backbone(embedded, state, lengths)
        return hidden[:, tokens - 1 :: tokens], state


def picked_before(picks: Tensor, num_frames: int) -> Tensor:
    """Which frames are taken before each pick: (Q, G, K) -> (Q, G, K, F) bool."""
    steps = torch.arange(picks.shape[-1], device=picks.device)  # (K,)
    first = picks.new_full((*picks.shape[:-1], num_frames), len(steps))  # (Q, G, F): when each frame is picked
    first = first.scatter_reduce(-1, picks, steps.expand_as(picks), "amin")
    return first[..., None, :] < steps[:, None]
