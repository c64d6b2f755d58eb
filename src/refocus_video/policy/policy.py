"""The selection policy: index a video once, ask it questions, score picks (METHOD §3).

::

    features = policy.encode(frames)                    frozen tower, no gradient
    index    = policy.index(features[None])             keys, values and state of the video: once per video
    index    = policy.extend(index, more[None])         the same with the frames that follow: memory stays constant
    asked    = policy.ask(index, [question], rows)      a few tokens per question
    picks    = pick_frames(policy, index, asked, ...)   pick.py, no gradient
    scores   = policy.log_probs(index, asked, picks)    teacher forced, with gradient

Where we differ from the released code:

1. Frames come before the question and the backbone is causal, so keys, values and state depend on the video alone: they
   are computed once per video and shared by all its questions. The released code recomputes them for every question.
2. A group of subsets shares the question's state (ssd.py); nothing is copied per subset.
3. Sampling and scoring use the same masked logits (:meth:`PolicyHeads.pick_logits`). Log-probs of the loss come from
   :meth:`FramePolicy.log_probs` alone.
4. ``<|startofframe|>`` is a parameter of its own instead of a row of the token embedding.
5. A "block" policy masks the picks of its own subset only. The published loop also leaves the masks of a group's earlier
   subsets in place, and lets a frame be picked twice unless it is told otherwise; neither is meant here.
6. A "block" policy may be asked for fewer picks than it has inputs: the first ones are used, which by causality do not
   depend on the others.

Legend: B videos, Q questions, G subsets per question (group), F candidate frames, K picks, P tokens per frame,
L tokens, C feature channels, D width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from refocus_video.config import PolicyConfig, VisionConfig
from refocus_video.device import default_dtype, resolve
from refocus_video.errors import CheckpointError
from refocus_video.policy.checkpoint import load_folder, save_folder, save_released_folder
from refocus_video.policy.files import load_weights
from refocus_video.policy.heads import PolicyHeads, check_queries
from refocus_video.policy.mamba2 import Backbone, Block, Branches, State, run_cell
from refocus_video.policy.prompt import Tokenizer, question_text, token_ids
from refocus_video.policy.records import Asked, PickScores, VideoIndex, joined, picked_before
from refocus_video.policy.released import Released
from refocus_video.policy.vision import Vision
from refocus_video.types import Question


class FramePolicy(PolicyHeads):
    """π: the distribution over which frames to show for a question."""

    def __init__(self, config: PolicyConfig, tokenizer: Tokenizer) -> None:
        super().__init__(config)
        self.tokenizer = tokenizer
        self.vision = Vision(config)
        self.backbone = Backbone(config)
        self.released: Released | None = None
        """What a released checkpoint held beyond the policy, such as weights that are not used; else None."""
        self._origin: tuple[str, list[tuple[int, int]]] | None = None
        self.add_heads()

    @torch.no_grad()
    def restart(self) -> None:
        """Prepare a pretrained backbone for reinforcement learning: new heads, last layer and final norm."""
        self.reset_heads()
        fresh = Block(self.config).to(self.device)
        self.backbone.layers[-1].load_state_dict(fresh.state_dict())
        nn.init.ones_(self.backbone.norm_f.weight)

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
        return self.continue_index(self._prefix_state().expand(len(features)), features, num_frames, segment)

    def start_index(self, videos: int = 1) -> VideoIndex:
        """The index of videos of which no frame has been seen yet."""
        state = self._prefix_state().expand(videos)
        keys = self.logit_scale.new_zeros(videos, 0, self.config.d_model)
        valid = torch.zeros(videos, 0, dtype=torch.bool, device=self.device)
        return VideoIndex(keys, self._values(keys), valid, state)

    def extend(
        self, index: VideoIndex, features: Tensor, num_frames: Tensor | None = None, segment: int | None = None
    ) -> VideoIndex:
        """The index of the same videos with further frames: the same as indexing all of them at once.

        Args:
            index: of the frames so far, or :meth:`start_index`.
            features: of the frames that follow, (B, F', P, C); otherwise as :meth:`index`.
            num_frames: real frames among them, (B,) int64; None when all are.
            segment: frames that are run at once.
        """
        return joined([index, self.continue_index(index.state, features, num_frames, segment)])

    def continue_index(
        self, state: State, features: Tensor, num_frames: Tensor | None = None, segment: int | None = None
    ) -> VideoIndex:
        """The index of the following frames alone, from the state before them; :func:`joined` puts such parts together."""
        hidden, state = self.hidden_states(features, num_frames, segment, state)
        videos, frames = features.shape[:2]
        real = frames if num_frames is None else num_frames.to(self.device)[:, None]
        valid = (torch.arange(frames, device=self.device) < real).expand(videos, frames)
        return VideoIndex(self.key_head(hidden), self._values(hidden), valid, state)

    def hidden_states(
        self,
        features: Tensor,
        num_frames: Tensor | None = None,
        segment: int | None = None,
        state: State | None = None,
    ) -> tuple[Tensor, State]:
        """Hidden states at the frames' last tokens (B, F, D), and the state after them; as :meth:`index`.

        ``state`` is the one before the first of the frames; None where nothing but the prompt's prefix comes before.
        """
        frames, tokens = features.shape[1:3]
        segment = segment or self.frames_per_segment
        features = features.to(self.device, self.logit_scale.dtype)
        if num_frames is not None:
            num_frames = num_frames.to(self.device)
        if state is None:
            state = self._prefix_state().expand(len(features))
        recompute = frames > segment and torch.is_grad_enabled()
        tails = []
        for start in range(0, frames, segment):
            part = features[:, start : start + segment]  # (B, S, P, C)
            lengths = None if num_frames is None else (num_frames - start).clamp(0, part.shape[1]) * tokens
            tail, state = self._run_frames(part, state, lengths, recompute)
            tails.append(tail)
        return torch.cat(tails, 1), state

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

    def block_queries(self, asked: Asked, budget: int) -> Tensor:
        """The queries of all picks at once, of a "block" policy: (Q, 1, K, D), shared by every subset of a question.

        Raises:
            BudgetError: when the policy has fewer than ``budget`` inputs.
        """
        check_queries(budget, self.config.query_frames)
        inputs = self.value_embedding[:budget].expand(len(asked.rows), 1, -1, -1)  # (Q, 1, K, D)
        return self.queries(asked, inputs)[0]

    def log_probs(self, index: VideoIndex, asked: Asked, picks: Tensor, temperature: float = 1.0) -> PickScores:
        """Log-probs of given picks in one parallel, teacher-forced pass, with gradient.

        Args:
            index: of the videos.
            asked: the questions.
            picks: candidate positions in picking order, (Q, G, K) int64. A repeated pick has log-prob −∞.
            temperature: the one that the picks were sampled at.
        """
        log_p = self.log_distributions(index, asked, picks, temperature)  # (Q, G, K, F)
        chosen = log_p.gather(-1, picks[..., None]).squeeze(-1)  # (Q, G, K)
        # A masked frame has probability 0 and contributes nothing; 0 · −∞ would be NaN.
        entropy = -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0)).sum(-1)
        return PickScores(chosen, entropy)

    def log_distributions(self, index: VideoIndex, asked: Asked, picks: Tensor, temperature: float = 1.0) -> Tensor:
        """Log-probs of every candidate at each of given picks, (Q, G, K, F); as in :meth:`log_probs`."""
        questions, group, budget = picks.shape
        num_frames = index.keys.shape[1]
        if self.in_block:
            queries = self.block_queries(asked, budget).expand(-1, group, -1, -1)  # (Q, G, K, D)
        else:
            queries, _ = self.queries(asked, self._inputs(index, asked, picks[..., :-1]))  # (Q, G, K, D)
        taken = picked_before(picks, num_frames)  # (Q, G, K, F)
        keys, valid = index.keys.index_select(0, asked.rows), index.valid.index_select(0, asked.rows)
        logits = self.pick_logits(queries.flatten(1, 2), keys, taken.flatten(1, 2), valid, temperature)
        return logits.log_softmax(-1).view(questions, group, budget, num_frames)

    def rank_scores(self, index: VideoIndex, asked: Asked, picks: Tensor) -> Tensor:
        """How good whole subsets are by the rank head, from the hidden state after the last pick, with gradient.

        Args:
            index: of the videos.
            asked: the questions.
            picks: candidate positions in picking order, (Q, G, K) int64.

        Returns:
            (Q, G); only the order inside a question means something.

        Raises:
            CheckpointError: when the policy has no rank head, or feeds no pick back.
        """
        if not self.config.use_rank_head or self.in_block:
            found = "picks in block" if self.in_block else "has no rank head"
            raise CheckpointError(f"rank scores need an autoregressive policy with use_rank_head; this one {found}")
        hidden, _ = self.backbone.branch(self._inputs(index, asked, picks), asked.state)  # (Q, G, 1 + K, D)
        scores: Tensor = self.rank_head(hidden[:, :, -1]).squeeze(-1)
        return scores

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, model.safetensors and the tokenizer's files."""
        save_folder(Path(folder), self.config, self.state_dict(), self.tokenizer)

    def save_released(self, folder: str | Path) -> None:
        """Write a folder in the format of the published selectors (released.py).

        A policy that was loaded from such a folder gives back the same keys, unused weights and settings.

        Raises:
            CheckpointError: when that format cannot express the policy.
        """
        save_released_folder(Path(folder), self.config, self.state_dict(), self.tokenizer, self.released)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | Literal["auto"] = torch.float32,
        tokenizer: Tokenizer | None = None,
        *,
        vision: VisionConfig | None = None,
        vision_tower: str | Path | None = None,
    ) -> Self:
        """Load a policy from a local folder or from the Hugging Face Hub, in our format or the released one.

        Args:
            name: a folder, or a hub id such as ``owner/name``.
            device: where the weights go; "auto" for a GPU if there is one, as :func:`refocus_video.device.resolve`.
            dtype: of the weights; "auto" for bfloat16 on a GPU where they are stored so, float32 otherwise.
            tokenizer: used instead of the one in the folder.
            vision: sizes of the vision tower of a released checkpoint, where its name does not tell them.
            vision_tower: folder or hub id of that tower, instead of the one that the checkpoint names.

        Raises:
            CheckpointError: when files are missing or weights do not fit.
            ConfigError: when there is no such device.
        """
        device = resolve(device)
        loaded = load_folder(name, tokenizer, vision, vision_tower)
        with torch.device("meta"):  # spends nothing on random weights that are replaced at once
            policy = cls(loaded.config, loaded.tokenizer)
        load_weights(policy, loaded.weights, str(name))
        policy.released = loaded.released
        if dtype == "auto":
            dtype = default_dtype(device, policy.backbone.embedding.weight.dtype)
        policy.vision.number_positions()
        policy = policy.to(device, dtype).eval()
        if (
            loaded.stamp is not None and not torch.is_inference_mode_enabled()
        ):  # such tensors do not count their changes
            policy._origin = f"{loaded.stamp} as {dtype}", policy._weights_seen()
        return policy

    @property
    def origin(self) -> str | None:
        """Names exactly the files that the weights come from; None if that is not known, or a weight has changed since."""
        return self._origin[0] if self._origin is not None and self._origin[1] == self._weights_seen() else None

    def _weights_seen(self) -> list[tuple[int, int]]:
        """Where each weight lies and how often it was changed in place."""
        return [(weight.data_ptr(), weight._version) for weight in self.state_dict(keep_vars=True).values()]

    @property
    def unused_weights(self) -> tuple[str, ...]:
        """Names of the tensors in a released checkpoint that the policy does not run."""
        return () if self.released is None else tuple(sorted(self.released.unused))

    def _inputs(self, index: VideoIndex, asked: Asked, picks: Tensor) -> Tensor:
        """The start token, then what is fed back for given picks: (Q, G, K) -> (Q, G, 1 + K, D)."""
        questions, group, budget = picks.shape
        values = index.values.flatten(0, 1)  # (B·F, D)
        rows = asked.rows[:, None, None] * index.keys.shape[1] + picks  # (Q, G, K)
        fed = values.index_select(0, rows.flatten()).view(questions, group, budget, values.shape[-1])
        return torch.cat([self.start_of_frame.expand(questions, group, 1, -1), fed], 2)

    def _tokens(self, text: str) -> list[int]:
        return token_ids(self.tokenizer, text, self.config.vocab_size)

    def prefix_ids(self) -> list[int]:
        """The tokens before the frames."""
        return self._tokens(self.config.prompt_prefix)

    @property
    def frames_per_segment(self) -> int:
        """Frames that are run at once when the caller does not say."""
        return max(1, self.backbone.compute.segment_tokens // self.config.tokens_per_frame)

    def _prefix_state(self) -> State:
        """The state after the prompt's prefix, one row."""
        state = self.backbone.initial_state(1)
        ids = self.prefix_ids()
        if ids:
            prefix = torch.tensor([ids], device=self.device)
            _, state = self.backbone(self.backbone.embedding(prefix), state)
        return state

    def _run_frames(
        self, features: Tensor, state: State, lengths: Tensor | None, recompute: bool
    ) -> tuple[Tensor, State]:
        """Hidden states of the frames' last tokens (B, S, D), and the state after a segment of S frames."""
        tokens = features.shape[2]
        embedded = run_cell(self.vision.projector, features.flatten(1, 2), recompute=recompute)  # (B, S·P, D)
        residual, state = self.backbone.run(embedded, state, lengths, recompute=recompute)
        # A copy, because the norm would keep the residual of all tokens alive for the sake of the last ones.
        return self.backbone.norm_f(residual[:, tokens - 1 :: tokens].contiguous()), state
