"""The policy's small parts on top of the backbone: projections with a norm, and the positive scale of the pick logits.

METHOD §3, "head options". None of the norms has a weight of its own; they are computed in at least float32.

Legend: D width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refocus_video.config import HeadNorm

EPS = 1e-6


class Head(nn.Linear):
    """A linear projection whose output may be normalised."""

    def __init__(self, width: int, norm: HeadNorm, bias: bool = False) -> None:
        super().__init__(width, width, bias)
        self.norm: HeadNorm = norm

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return normalised(super().forward(x), self.norm)


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
