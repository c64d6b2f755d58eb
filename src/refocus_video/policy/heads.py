"""The policy's parts on top of the backbone: what turns hidden states into keys, values, queries and pick logits.

METHOD §3, "head options". None of the norms has a weight of its own; they are computed in at least float32.

Scoring given picks and sampling new ones end in the same :func:`masked_logits`. Sampling first makes the keys ready
(:meth:`PolicyHeads.lookup`), since a video's keys meet many queries: the scale is multiplied in once, and the query
head too where that is less work, k · (W h) = (k W) · h.

Legend: B videos, Q questions, F candidate frames, D width, N any number of queries per question.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refocus_video.config import HeadNorm, PolicyConfig
from refocus_video.device import full_precision, in_full_precision
from refocus_video.errors import BudgetError

EPS = 1e-6


class Head(nn.Linear):
    """A linear projection whose output may be normalised."""

    def __init__(self, width: int, norm: HeadNorm, bias: bool = False) -> None:
        super().__init__(width, width, bias)
        self.norm: HeadNorm = norm

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return normalised(super().forward(x), self.norm)


@dataclass(frozen=True, slots=True)
class Lookup:
    """A video's keys, ready to be compared with many queries."""

    keys: Tensor
    """(B, F, D), at least float32; they hold all that turns a product into a logit."""
    head: Head | None
    """What makes queries of hidden states; None where the keys hold it too."""

    def queries(self, hidden: Tensor) -> Tensor:
        """What the keys are compared with, from hidden states: (..., D) -> (..., D)."""
        return hidden if self.head is None else self.head(hidden)


class PolicyHeads(nn.Module):
    """All of a policy that comes after the backbone: learned by reinforcement alone, with every released option."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config

    def add_heads(self) -> None:
        """Make the heads; the weights of a policy come in the order of the computation, so these come last."""
        config, width = self.config, self.config.d_model
        self.key_head = Head(width, config.score_head_norm)
        self.query_head = Head(width, config.score_head_norm)
        if self.in_block:
            self.value_embedding = nn.Parameter(torch.empty(config.query_frames, width))
        else:
            self.value_head = Head(width, config.value_head_norm, bias=True)
            if config.value_head_norm != "none":
                self.value_head_scale = nn.Parameter(torch.empty(width))
            self.start_of_frame = nn.Parameter(torch.empty(width))
        self.logit_scale = nn.Parameter(torch.empty(width if config.logit_scale_type == "vector" else ()))
        if config.use_rank_head:
            self.rank_head = nn.Linear(width, 1, bias=False)
        self.reset_heads()

    @torch.no_grad()
    def reset_heads(self) -> None:
        """Initialise what is learned by reinforcement alone: nearly uniform picks at first."""
        for head in (self.key_head, self.query_head):
            nn.init.orthogonal_(head.weight, gain=0.1)
        if self.in_block:
            nn.init.normal_(self.value_embedding, std=0.02)
        else:
            nn.init.orthogonal_(self.value_head.weight, gain=0.1)
            nn.init.zeros_(self.value_head.bias)
            if self.config.value_head_norm != "none":
                nn.init.constant_(self.value_head_scale, self.config.value_head_scale)
            nn.init.normal_(self.start_of_frame, std=0.02)
        nn.init.constant_(self.logit_scale, raw_for_one(self.config.logit_scale_fn))
        if self.config.use_rank_head:
            nn.init.normal_(self.rank_head.weight, std=0.01)

    @property
    def in_block(self) -> bool:
        """Whether all picks are asked for at once, instead of feeding each one back before the next."""
        return self.config.frame_generation_method == "block"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.logit_scale.device

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
        return masked_logits(queries.to(wide) * self._scale(wide, temperature), keys, taken, valid)

    def lookup(self, keys: Tensor, uses: int, temperature: float = 1.0) -> Lookup:
        """Make keys ready for picking; ``masked_logits`` with them gives the numbers of :meth:`pick_logits`.

        The query head is folded into the keys where

        1. there are more queries than keys: one row of either costs D² products. At the released sizes that is rare and
           small, D² being a third of a percent of what the backbone costs per pick;
        2. queries are not normalised: the norm of W h needs W h itself;
        3. weights are not in half precision, where W h is rounded before it meets a key, and would not be any more.

        Args:
            keys: of the videos, (B, F, D).
            uses: how many queries will be compared with keys of these videos, all together.
            temperature: above 1 flattens the distribution.
        """
        wide = torch.promote_types(keys.dtype, torch.float32)
        ready = keys.to(wide) * self._scale(wide, temperature)
        if uses <= keys.shape[0] * keys.shape[1] or self.query_head.norm != "none" or keys.dtype != wide:
            return Lookup(ready, self.query_head)
        with full_precision(keys.device):
            return Lookup(ready @ self.query_head.weight, None)

    def _scale(self, dtype: torch.dtype, temperature: float) -> Tensor:
        """What the product of a query and a key is multiplied by, () or (D,)."""
        scale = positive(self.logit_scale.to(dtype), self.config.logit_scale_fn) / temperature
        return scale / math.sqrt(self.config.d_model) if self.config.attention_scaling else scale

    def _values(self, hidden: Tensor) -> Tensor:
        """What is fed back for frames: (B, F, D) -> (B, F, D), or (B, F, 0) in block."""
        if self.in_block:
            return hidden.new_zeros((*hidden.shape[:-1], 0))  # a slice would keep all of hidden alive
        values: Tensor = self.value_head(hidden)
        return values if self.config.value_head_norm == "none" else values * self.value_head_scale


@in_full_precision
def masked_logits(queries: Tensor, keys: Tensor, taken: Tensor, valid: Tensor) -> Tensor:
    """Products of queries and keys in at least float32, −∞ where a frame is taken or does not exist.

    Args:
        queries: (Q, N, D).
        keys: of each question's video, (Q, F, D).
        taken: (Q, N, F) bool.
        valid: (Q, F) bool.

    Returns:
        (Q, N, F).
    """
    wide = torch.promote_types(queries.dtype, torch.float32)
    logits = queries.to(wide) @ keys.to(wide).mT
    return logits.masked_fill(taken | ~valid[:, None], -torch.inf)


def check_queries(budget: int, query_frames: int) -> None:
    """Raise :class:`BudgetError` when a "block" policy has not enough inputs for a budget."""
    if budget > query_frames:
        raise BudgetError(
            f"asked for {budget} frames, but this policy picks in block with {query_frames} inputs; "
            f"choose a number from 1 to {query_frames}"
        )


def normalised(x: Tensor, norm: HeadNorm) -> Tensor:
    """Vectors of length 1 ("l2") or of root mean square 1 ("rmsnorm"), or as they are: (..., D) -> (..., D)."""
    if norm == "none":
        return x
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if norm == "l2":
        return F.normalize(wide, dim=-1, eps=EPS).to(x.dtype)
    return F.rms_norm(wide, wide.shape[-1:], eps=EPS).to(x.dtype)


def positive(raw: Tensor, function: str) -> Tensor:
    """The scale that a learned number stands for: "softplus" or "exp", element by element."""
    return raw.exp() if function == "exp" else F.softplus(raw)


def raw_for_one(function: str) -> float:
    """The learned number whose scale is 1."""
    return 0.0 if function == "exp" else math.log(math.e - 1)
